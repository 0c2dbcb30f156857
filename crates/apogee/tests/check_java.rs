//! `apogee store check-java` on stores of the original and on made-up bad ones.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wire::json::Value;

struct Store(PathBuf);

impl Store {
    /// A golden store's copy.
    fn golden(name: &str, test: &str) -> Store {
        let dir = std::env::temp_dir().join(format!("apogee-check-{test}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/store");
        let archive = golden.join(name).join("store.tar.gz");
        let done = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&dir).status();
        assert!(done.unwrap().success());
        Store(dir)
    }

    fn root(&self) -> PathBuf {
        self.0.join("store")
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        let path = self.root().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    /// Exit code and what was said.
    fn check(&self) -> (i32, Value) {
        let before = listing(&self.root());
        let output = Command::new(env!("CARGO_BIN_EXE_apogee"))
            .args(["store", "check-java", "--json"])
            .arg(self.root())
            .output()
            .unwrap();
        assert_eq!(before, listing(&self.root()), "nothing is changed");
        let said = Value::parse_bytes(&output.stdout).unwrap();
        assert_eq!(said.get("verdict").and_then(Value::int), output.status.code().map(i64::from));
        (output.status.code().unwrap(), said)
    }

    fn refused(&self) -> String {
        let (code, said) = self.check();
        assert_eq!(code, 2);
        said.get("refused").unwrap().items()[0].text().unwrap()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Names, lengths and times of all files.
fn listing(dir: &Path) -> Vec<(PathBuf, u64, std::time::SystemTime)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let meta = entry.metadata().unwrap();
        if meta.is_dir() {
            all.extend(listing(&entry.path()));
        }
        all.push((entry.path(), meta.len(), meta.modified().unwrap()));
    }
    all.sort();
    all
}

fn count(said: &Value, name: &str) -> i64 {
    let counts = said.get("takenOver").unwrap().pairs();
    let found = counts.iter().find(|(key, _)| key.text().unwrap().starts_with(name));
    found.unwrap_or_else(|| panic!("no {name}")).1.int().unwrap()
}

fn manifest(name: &str) -> Value {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/store");
    Value::parse_bytes(&fs::read(golden.join(name).join("manifest.json")).unwrap()).unwrap()
}

#[test]
fn a_clean_store_is_fine_and_counted_as_its_manifest_says() {
    let (code, said) = Store::golden("clean-5.5.0", "clean").check();
    let text = |name: &str| said.get(name).and_then(Value::text).unwrap();
    assert_eq!((code, text("writtenBy").as_str()), (0, "Java 5.5 or later"));
    assert_eq!(said.get("clean").and_then(Value::truth), Some(true));
    let manifest = manifest("clean-5.5.0");
    let pending = |name: &str| manifest.get("pending").and_then(|p| p.get(name)).unwrap().clone();
    let listed = |name: &str| pending(name).items().len() as i64;
    let (timers, recalled) = (listed("timerMessages"), listed("timersRecalled"));
    assert_eq!(count(&said, "messages that wait for a time"), timers + recalled);
    assert_eq!(count(&said, "recalls"), recalled);
    let levels = pending("delayLevelMessages");
    let levels: usize = levels.pairs().iter().map(|(_, messages)| messages.items().len()).sum();
    assert_eq!(count(&said, "messages that wait in delay"), levels as i64);
    assert_eq!(count(&said, "open transactions"), listed("halfMessages"));
    let log = manifest.get("runtime").unwrap().get("commitLogMaxOffset").unwrap();
    assert_eq!(count(&said, "bytes"), log.text().unwrap().parse::<i64>().unwrap());
    let settings: Vec<String> =
        said.get("settings").unwrap().items().iter().filter_map(Value::text).collect();
    assert_eq!(settings, ["mappedFileSizeCommitLog=65536", "mappedFileSizeConsumeQueue=400"]);
}

#[test]
fn pops_in_flight_are_counted() {
    let (code, said) = Store::golden("pop-5.5.0", "pops").check();
    assert_eq!((code, count(&said, "messages that wait for a time")), (0, 0));
    assert!(count(&said, "check points") > 0);
}

#[test]
fn a_killed_store_has_a_warning() {
    let (code, said) = Store::golden("killed-5.5.0", "killed").check();
    assert_eq!((code, said.get("clean").and_then(Value::truth)), (1, Some(false)));
}

#[test]
fn the_empty_rocksdb_is_fine_and_every_other_one_is_refused() {
    let store = Store::golden("clean-5.5.0", "rocks");
    assert!(store.root().join("rocksdbstore/CURRENT").exists());
    for name in ["config/topics", "config/metadata", "consumequeue", "consumequeue_rocksdb"] {
        let current = format!("{name}/CURRENT");
        store.put(&current, b"MANIFEST-000001\n");
        let reason = store.refused();
        assert!(reason.contains(name) && reason.contains("aside"), "{reason}");
        fs::remove_file(store.root().join(current)).unwrap();
    }
    store.put("rocksdbstore/000009.sst", b"1");
    assert!(store.refused().contains("timerRocksDBEnable"));
}

#[test]
fn bad_logs_and_files_are_refused_with_what_to_do() {
    let store = Store::golden("clean-5.5.0", "bad");
    let log = store.root().join("commitlog").join(format!("{:020}", 65_536));
    let kept = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    assert!(store.refused().contains("are missing"));
    fs::write(&log, &kept[..1000]).unwrap();
    assert!(store.refused().contains("has 1000 bytes"));
    fs::write(&log, &kept).unwrap();
    store.put("config/topics.json", b"{broken");
    store.put("config/topics.json.bak", b"{broken");
    assert!(store.refused().contains("topics.json"));
    fs::rename(store.root().join("config/topics.json.bak"), store.root().join("t")).unwrap();
    fs::remove_file(store.root().join("config/topics.json")).unwrap();
    fs::remove_dir_all(store.root().join("consumequeue")).unwrap();
    let (code, said) = store.check();
    assert_eq!((code, said.get("warnings").unwrap().items().len()), (1, 2));
    fs::remove_dir_all(store.root().join("commitlog")).unwrap();
    assert!(store.refused().contains("no log files"));
}

#[test]
fn a_store_in_use_is_refused() {
    let store = Store::golden("clean-5.5.0", "in-use");
    let mut config = ::store::StoreConfig::new(store.root());
    config.commit_log_file_size = 65_536;
    config.consume_queue_file_size = 400;
    let clock = base::clock::Clock::manual(1_795_600_000_000);
    let open = ::store::Store::open(config, clock).unwrap();
    // Only the verdict: an open store changes its files.
    let output = Command::new(env!("CARGO_BIN_EXE_apogee"))
        .args(["store", "check-java"])
        .arg(store.root())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    open.abandon();
    assert_eq!(output.status.code(), Some(2));
    assert!(text.contains(&format!("process {} has the store open", std::process::id())), "{text}");
}
