//! Reads a store directory without opening it: nothing is locked, changed or created.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use wire::json::Value;
use wire::properties;
use wire::record::{self, Record, Scanned};

/// Bytes of an entry of a consume queue.
const ENTRY: usize = 20;
/// Longest record that is read; longer is damage.
const MAX_RECORD: usize = 64 << 20;

/// A file of numbered ones: the offset of its first byte, and its bytes.
#[derive(Debug, Clone)]
pub(super) struct Numbered {
    pub(super) start: i64,
    pub(super) len: u64,
    path: PathBuf,
}

/// The files of a directory whose names are offsets, in order; none when there is no directory.
pub(super) fn numbered(dir: &Path) -> io::Result<Vec<Numbered>> {
    let mut files = Vec::new();
    for entry in list(dir)? {
        let meta = entry.metadata()?;
        let start = entry.file_name().to_str().and_then(|name| name.parse::<i64>().ok());
        if let Some(start) = start.filter(|_| meta.is_file()) {
            files.push(Numbered { start, len: meta.len(), path: entry.path() });
        }
    }
    files.sort_by_key(|file| file.start);
    // Java drops an empty last file at its start, and so do we.
    if files.last().is_some_and(|file| file.len == 0) {
        files.pop();
    }
    Ok(files)
}

/// What is in a directory; nothing when it does not exist.
pub(super) fn list(dir: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// A file of `config/` or its backup. `Ok(None)`: neither exists.
pub(super) fn config(root: &Path, name: &str) -> Result<Option<Value>, String> {
    let path = root.join("config").join(name);
    let backup = root.join("config").join(format!("{name}.bak"));
    let mut bad = None;
    for path in [path, backup] {
        let Ok(bytes) = fs::read(&path) else { continue };
        if bytes.trim_ascii().is_empty() {
            continue;
        }
        match Value::parse_bytes(&bytes) {
            Ok(value) => return Ok(Some(value)),
            Err(error) => bad = Some(format!("{}: {error}", path.display())),
        }
    }
    bad.map_or(Ok(None), Err)
}

/// How many members an object of a file has.
pub(super) fn members(file: Option<&Value>, name: &str) -> i64 {
    file.and_then(|file| file.get(name)).map_or(0, |table| table.pairs().len() as i64)
}

/// The commit log.
pub(super) struct Log {
    pub(super) files: Vec<Numbered>,
}

impl Log {
    /// The record at an offset, if there is one.
    pub(super) fn at<T>(&self, offset: i64, then: impl FnOnce(&Record<'_>) -> T) -> Option<T> {
        let file = self.files.iter().rev().find(|file| file.start <= offset)?;
        let open = File::open(&file.path).ok()?;
        let at = (offset - file.start) as u64;
        let mut head = [0; 4];
        open.read_exact_at(&mut head, at).ok()?;
        let len =
            usize::try_from(i32::from_be_bytes(head)).ok().filter(|len| *len <= MAX_RECORD)?;
        let mut bytes = vec![0; len];
        open.read_exact_at(&mut bytes, at).ok()?;
        match record::scan(&bytes) {
            Ok(Scanned::Record(record)) if record.physical_offset() == offset => {
                Some(then(&record))
            }
            _ => None,
        }
    }

    /// The end of the last good record from an offset on.
    pub(super) fn end_from(&self, offset: i64) -> i64 {
        let mut end = offset;
        loop {
            if let Some(len) = self.at(end, |record| record.total_len() as i64) {
                end += len;
                continue;
            }
            // What is left of a file is blank when the next one goes on.
            let next = self.files.iter().find(|file| file.start > end).map(|file| file.start);
            match next.filter(|start| self.at(*start, |_| ()).is_some()) {
                Some(start) => end = start,
                None => return end,
            }
        }
    }
}

/// One entry of a consume queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub(super) offset: i64,
    pub(super) physical: i64,
    pub(super) size: i64,
}

/// Calls `each` with every entry of a queue from an offset on whose record is still in the log.
pub(super) fn entries(
    root: &Path,
    (topic, id): (&str, i32),
    from: i64,
    log_min: i64,
    mut each: impl FnMut(Item),
) -> io::Result<()> {
    let dir = root.join("consumequeue").join(topic).join(id.to_string());
    for file in numbered(&dir)? {
        if file.start + file.len as i64 <= from.saturating_mul(ENTRY as i64) {
            continue;
        }
        let bytes = fs::read(&file.path)?;
        for (index, entry) in bytes.chunks_exact(ENTRY).enumerate() {
            let number = |at: usize, len: usize| {
                entry[at..at + len].iter().fold(0_i64, |n, byte| n << 8 | i64::from(*byte))
            };
            let (physical, size) = (number(0, 8), number(8, 4));
            if size == 0 {
                break;
            }
            let offset = file.start / ENTRY as i64 + index as i64;
            if size != i64::from(i32::MAX) && physical >= log_min && offset >= from {
                each(Item { offset, physical, size });
            }
        }
    }
    Ok(())
}

/// Names of the topics that have queues of a kind, with the ids of these.
pub(super) fn queues(root: &Path, kind: &str) -> io::Result<Vec<(String, Vec<i32>)>> {
    let mut topics = Vec::new();
    for topic in list(&root.join(kind))? {
        if topic.file_type()?.is_dir() {
            let ids = list(&topic.path())?;
            let ids = ids.iter().filter_map(|id| id.file_name().to_str()?.parse().ok());
            topics.push((topic.file_name().to_string_lossy().into_owned(), ids.collect()));
        }
    }
    topics.sort();
    Ok(topics)
}

/// Offsets that marks (`12,13,`) list.
pub(super) fn marked(log: &Log, items: &[Item]) -> BTreeSet<i64> {
    let mut marked = BTreeSet::new();
    for item in items {
        log.at(item.physical, |record| {
            let text = String::from_utf8_lossy(record.body()).into_owned();
            marked.extend(text.split(',').filter_map(|one| one.trim().parse::<i64>().ok()));
        });
    }
    marked
}

/// What a record of the timer queue is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// A message for later.
    Message,
    /// A word that recalls one.
    Recall,
    /// A check point of popped messages.
    Popped,
    /// Something else of pop.
    Acknowledgement,
}

/// When and what waits in a record of the timer queue.
pub(super) fn timer(record: &Record<'_>) -> Option<(i64, Waits)> {
    let text = record.properties();
    let out_ms = properties::get(text, properties::TIMER_OUT_MS)?.parse().ok()?;
    let real = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
    let waits = if real.starts_with("rmq_sys_REVIVE_LOG_") {
        match properties::get(text, properties::TAGS) {
            Some("ck") => Waits::Popped,
            _ => Waits::Acknowledgement,
        }
    } else if properties::get(text, properties::TIMER_DEL_UNIQKEY).is_some() {
        Waits::Recall
    } else {
        Waits::Message
    };
    Some((out_ms, waits))
}
