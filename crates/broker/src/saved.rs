//! What topics and groups share: a change is a small record in a journal, the file follows.
//!
//! Owns nothing. A change is a part of the file with the same names, and `removed` with the names
//! that are gone; see [`ConfigJournal`] for how it gets to the disk.

use std::io;
use std::path::{Path, PathBuf};

use net::Refusal;
use store::config_journal::{ConfigJournal, Export};
use wire::body::{DataVersion, Member};
use wire::codes::response;
use wire::json::{Value, object};

/// A change of topics or groups did not reach the disk, and was not made.
#[derive(Debug, thiserror::Error)]
#[error("cannot save a change of {}: {error}; nothing was changed", path.display())]
pub struct NotSaved {
    path: PathBuf,
    error: String,
}

impl NotSaved {
    fn new(path: &Path, error: &io::Error) -> NotSaved {
        tracing::error!(path = %path.display(), %error, "cannot save a change");
        NotSaved { path: path.to_path_buf(), error: error.to_string() }
    }
}

impl From<NotSaved> for Refusal {
    fn from(error: NotSaved) -> Refusal {
        Refusal::new(response::SYSTEM_ERROR, error.to_string())
    }
}

/// Brings a change to the disk. An error is also in the log.
pub(crate) fn append(journal: &ConfigJournal, change: &Value, now_ms: i64) -> Result<(), NotSaved> {
    journal.append(change.to_strict_text(), now_ms).map_err(|e| NotSaved::new(journal.path(), &e))
}

/// The change that removes a name.
pub(crate) fn removal(version: &DataVersion, name: &str) -> Value {
    let removed = Value::Array(vec![name.into()]);
    object([("dataVersion", version.write()), ("removed", removed)])
}

/// The names that a change removes.
pub(crate) fn removed(change: &Value) -> Vec<String> {
    change.get("removed").and_then(Member::read).unwrap_or_default()
}

/// The changes that a journal has, parsed.
pub(crate) fn changes(journal: &ConfigJournal, texts: &[String]) -> Vec<Value> {
    let parse = |text: &String| {
        let failed = |error| {
            let path = journal.path().display();
            tracing::error!(%path, %error, text, "a change in the journal cannot be read");
        };
        Value::parse(text).map_err(failed).ok()
    };
    texts.iter().filter_map(parse).collect()
}

/// Makes `file` the configuration file. An error is in the log: the journal still has everything.
pub(crate) fn export(journal: &ConfigJournal, export: Export, file: &Value, now_ms: i64) {
    if let Err(error) = journal.export(export, &file.to_file_text(), now_ms) {
        let path = journal.path().display();
        tracing::error!(%path, %error, "cannot save; the changes stay in the journal for now");
    }
}

/// Removes a journal that is not needed any more.
pub(crate) fn remove(journal: &ConfigJournal) {
    if let Err(error) = journal.remove() {
        tracing::warn!(path = %journal.path().display(), %error, "cannot remove the journal");
    }
}
