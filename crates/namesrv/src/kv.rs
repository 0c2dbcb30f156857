//! The KV configuration: namespace, key, value; kept in a file. Java: `KVConfigManager`.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use wire::body::Member;
use wire::json::{Value, object};

type Tables = BTreeMap<String, BTreeMap<String, String>>;

/// Namespace of the queue lists of ordered topics.
pub const ORDER_TOPICS: &str = "ORDER_TOPIC_CONFIG";

/// All KV settings. A change is on disk when it returns.
#[derive(Debug, Default)]
pub struct Kv {
    tables: Tables,
    path: Option<PathBuf>,
}

impl Kv {
    /// Reads the file; a missing one is empty.
    pub fn load(path: PathBuf) -> io::Result<Kv> {
        let tables = match fs::read_to_string(&path) {
            Ok(text) if !text.trim().is_empty() => {
                let file = Value::parse(&text).map_err(|e| {
                    let text = format!("{}: {e}; repair or remove it", path.display());
                    io::Error::new(io::ErrorKind::InvalidData, text)
                })?;
                file.get("configTable").and_then(Tables::read).unwrap_or_default()
            }
            Ok(_) => Tables::new(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Tables::new(),
            Err(error) => return Err(error),
        };
        Ok(Kv { tables, path: Some(path) })
    }

    /// One value.
    pub fn get(&self, namespace: &str, key: &str) -> Option<&str> {
        self.tables.get(namespace)?.get(key).map(String::as_str)
    }

    /// All values of a namespace.
    pub fn table(&self, namespace: &str) -> Option<&BTreeMap<String, String>> {
        self.tables.get(namespace)
    }

    /// Sets a value.
    pub fn put(&mut self, namespace: &str, key: &str, value: &str) -> io::Result<()> {
        let table = self.tables.entry(namespace.to_owned()).or_default();
        table.insert(key.to_owned(), value.to_owned());
        self.save()
    }

    /// Removes a value.
    pub fn delete(&mut self, namespace: &str, key: &str) -> io::Result<()> {
        if let Some(table) = self.tables.get_mut(namespace) {
            table.remove(key);
        }
        self.save()
    }

    fn save(&self) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.map_or_else(|| PathBuf::from("."), PathBuf::from);
        fs::create_dir_all(&dir)?;
        let temporary = path.with_extension("json.tmp");
        let mut file = fs::File::create(&temporary)?;
        let text = object([("configTable", self.tables.write())]).to_file_text();
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        fs::File::open(&dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_a_restart() {
        let dir = std::env::temp_dir().join(format!("apogee-kv-{}", std::process::id()));
        let path = dir.join("kvConfig.json");
        let mut kv = Kv::load(path.clone()).expect("empty");
        kv.put(ORDER_TOPICS, "t", "broker-a:8").expect("saved");
        kv.put("n", "k", "v").expect("saved");
        kv.delete("n", "k").expect("saved");
        let kv = Kv::load(path.clone()).expect("loaded");
        assert_eq!((kv.get(ORDER_TOPICS, "t"), kv.get("n", "k")), (Some("broker-a:8"), None));
        fs::write(&path, "{broken").expect("written");
        assert!(Kv::load(path).is_err());
        fs::remove_dir_all(dir).expect("removed");
    }
}
