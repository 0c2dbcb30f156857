//! The small files: checkpoint, JSON configurations and their backups, the list of deleted topics.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::Path;

use wire::json::Value;

use super::log::Walked;
use super::{Cure, Ground, Part};
use crate::api::OpenError;
use crate::config_journal;
use crate::deleted;
use crate::disk::Disk;
use crate::queue_files::sub_dirs;

/// Topics with batch queues: those that say so, and those that have a directory.
pub(super) fn batch_topics(disk: &Disk, root: &Path) -> Result<HashSet<String>, OpenError> {
    let dir = root.join("batchconsumequeue");
    let dirs = sub_dirs(disk, &dir).map_err(OpenError::io(&dir))?;
    let mut topics: HashSet<String> = dirs.into_iter().map(|(topic, _)| topic).collect();
    for (name, topic) in topic_table(disk, root) {
        let kind = topic.get("attributes").and_then(|all| all.get("queue.type"));
        if kind.and_then(Value::as_text) == Some("BatchCQ") {
            topics.insert(name);
        }
    }
    Ok(topics)
}

/// The topics of `topics.json` or its backup with the changes since; none when neither can be read.
pub(super) fn topic_table(disk: &Disk, root: &Path) -> BTreeMap<String, Value> {
    let (file, changes) =
        config_journal::look(disk, &root.join("config/topics.json"), Value::parse);
    let changes = changes.iter().filter_map(|change| Value::parse(change).ok());
    let mut table = BTreeMap::new();
    for part in file.into_iter().chain(changes) {
        if let Some(Value::Object(pairs)) = part.get("topicConfigTable") {
            let named =
                pairs.iter().filter_map(|(name, topic)| Some((name.text()?, topic.clone())));
            table.extend(named);
        }
        for name in part.get("removed").map_or(&[][..], Value::items) {
            table.remove(name.as_text().unwrap_or_default());
        }
    }
    table
}

/// Whether a file's text is what it should be; the reason else.
pub(super) fn parses(name: &str, bytes: &[u8]) -> Result<(), String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    if text.trim().is_empty() {
        return Err("the file is empty".to_owned());
    }
    if name.starts_with("apogee-deleted-topics.txt") {
        return deleted::parse(text).map(drop);
    }
    Value::parse(text).map(drop).map_err(|error| error.to_string())
}

/// Names of the files in `config/` that are text: configurations and backups of them.
pub(super) fn config_files(disk: &Disk, root: &Path) -> Result<Vec<String>, OpenError> {
    let dir = root.join("config");
    let found = match disk.list(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found.map_err(OpenError::io(&dir))?,
    };
    let is_text = |name: &str| {
        let name = name.strip_suffix(".bak").unwrap_or(name);
        name.ends_with(".json") || name.ends_with(".txt")
    };
    let files = found.into_iter().filter(|found| !found.is_dir && is_text(&found.name));
    let mut names: Vec<String> = files.map(|found| found.name).collect();
    names.sort();
    Ok(names)
}

/// Reads every configuration and every backup.
pub(super) fn verify(ground: &Ground) -> Result<Part, OpenError> {
    let mut part = Part::new("config", "files");
    let config = &ground.config;
    let (disk, dir) = (&config.disk, config.root.join("config"));
    let names = config_files(disk, &config.root)?;
    for name in &names {
        let path = dir.join(name);
        let bytes = disk.read(&path).map_err(OpenError::io(&path))?;
        let Err(reason) = parses(name, &bytes) else {
            part.good += 1;
            continue;
        };
        let other = match name.strip_suffix(".bak") {
            Some(main) => dir.join(main),
            None => dir.join(format!("{name}.bak")),
        };
        let good = disk.read(&other).is_ok_and(|bytes| parses(name, &bytes).is_ok());
        let (cure, rest) = match (good, name.ends_with(".bak")) {
            (true, true) => (Cure::Repair, "only the backup is bad"),
            (true, false) => (Cure::Repair, "its backup is good"),
            (false, _) => (Cure::None, "there is no good copy: make it by hand from what is left"),
        };
        part.find(&path, cure, format!("{reason}; {rest}"));
    }
    // A file whose only copy is the backup: a kill between two renames, which every start reads.
    for name in names.iter().filter_map(|name| name.strip_suffix(".bak")) {
        if !disk.exists(&dir.join(name)) {
            let what = "the file is gone, its backup is used".to_owned();
            let cure = if ground.clean { Cure::Repair } else { Cure::NextStart };
            part.find(&dir.join(name), cure, what);
        }
    }
    Ok(part)
}

/// The checkpoint against the log.
pub(super) fn checkpoint(ground: &Ground, walked: &Walked) -> Part {
    let mut part = Part::new("checkpoint", "file");
    let path = ground.config.root.join("checkpoint");
    let checkpoint = &ground.checkpoint;
    if !ground.config.disk.exists(&path) {
        if walked.end > 0 {
            let what = "there is none: the next start reads the whole log".to_owned();
            part.find(&path, Cure::NextStart, what);
        }
        return part;
    }
    if checkpoint.logics_offset > walked.end {
        let what = format!(
            "it names a record at {}, but the log ends at {}",
            checkpoint.logics_offset, walked.end
        );
        part.find(&path, Cure::Repair, what);
    } else if ground.clean && checkpoint.exact && checkpoint.logics_offset != walked.last {
        let what = format!(
            "stopped cleanly, but it names a record at {} and the last one is at {}",
            checkpoint.logics_offset, walked.last
        );
        part.find(&path, Cure::Repair, what);
    } else if checkpoint.exact && checkpoint.taken.is_none() {
        part.good = 1;
        part.notes.push("it does not say how many queue offsets were given away".to_owned());
    } else if checkpoint.physic_ms == 0 && checkpoint.logics_ms == 0 && walked.end > 0 {
        part.find(&path, Cure::NextStart, "it says nothing: the next start reads all".to_owned());
    } else {
        part.good = 1;
    }
    if checkpoint.physic_ms > walked.last_ms && walked.last_ms > 0 {
        part.notes.push(format!(
            "its time {} is above that of the last record, {}",
            checkpoint.physic_ms, walked.last_ms
        ));
    }
    part
}
