//! The key index: chains, and every entry against the keys of its record.

use std::io;
use std::path::PathBuf;

use wire::properties::Known;
use wire::record::{Record, TRANSACTION_MASK, TRANSACTION_ROLLBACK};
use wire::text::{hash_onto, java_hash};

use super::{Cure, Ground, Part};
use crate::api::OpenError;
use crate::commit_log::CommitLog;
use crate::dispatch;
use crate::index::{files_in, key_hash};
use crate::index_file::{IndexFile, Shape};
use crate::scan::{Scanner, Step};

/// See the module.
pub(super) struct Check {
    part: Part,
    files: Vec<(PathBuf, IndexFile)>,
    /// Places between which every key must be there.
    span: Option<(i64, i64)>,
    keys: u64,
    killed: bool,
}

impl Check {
    pub(super) fn new(ground: &Ground) -> Result<Check, OpenError> {
        let config = &ground.config;
        let dir = config.root.join("index");
        let shape = Shape { slots: config.max_index_slots, entries: config.max_index_entries };
        let mut part = Part::new("index", "entries");
        let mut files: Vec<(PathBuf, IndexFile)> = Vec::new();
        for path in files_in(&config.disk, &dir)? {
            match IndexFile::open(&config.disk, &path, shape) {
                Ok(file) => files.push((path, file)),
                Err(error) => part
                    .notes
                    .push(format!("{}: {error}; a broker leaves the file aside", path.display())),
            }
        }
        let begin = files.first().map(|(_, file)| file.header().begin_offset);
        let end = files.last().map(|(_, file)| file.header().end_offset);
        let span = if part.notes.is_empty() { begin.zip(end) } else { None };
        Ok(Check { part, files, span, keys: 0, killed: !ground.clean })
    }

    /// Counts the keys that must be in the index.
    pub(super) fn count(&mut self, record: &Record<'_>) {
        let at = record.physical_offset();
        if self.span.is_some_and(|(begin, end)| begin < at && at < end) {
            self.keys += keys_of(record).len() as u64;
        }
    }

    /// Looks at every entry.
    pub(super) fn finish(mut self, log: &CommitLog, end: i64) -> io::Result<Part> {
        let mut scanner = Scanner::new(log);
        let (mut inside, mut known) = (0, (-1, Vec::new()));
        let newest = self.files.len().saturating_sub(1);
        for (number, (path, file)) in self.files.iter_mut().enumerate() {
            // A start after a kill makes the newest file's links anew from its entries.
            let cure = if self.killed && number == newest { Cure::NextStart } else { Cure::Repair };
            let mut bad = 0;
            let mut first = None;
            let links = file.each(&mut |number, hash, at| {
                if at < log.min() {
                    return Ok(());
                }
                if known.0 != at {
                    let keys = match scanner.step(at.min(end))? {
                        Step::Record(record) if at < end => keys_of(&record),
                        _ => Vec::new(),
                    };
                    known = (at, keys);
                }
                if known.1.contains(&hash) {
                    self.part.good += 1;
                    inside += u64::from(self.span.is_some_and(|(b, e)| b < at && at < e));
                } else {
                    bad += 1;
                    first.get_or_insert((number, at));
                }
                Ok(())
            })?;
            if let Some((number, at)) = first {
                let what = format!("{bad} entries without a record, first {number}, for {at}");
                self.part.find(path, Cure::Repair, what);
            }
            if links > 0 {
                self.part.find(path, cure, format!("{links} links lead elsewhere"));
            }
        }
        let intact = !self.part.is_damaged();
        if let Some((path, _)) = self.files.first().filter(|_| intact && inside < self.keys) {
            let what = format!("{} keys of records are not in the index", self.keys - inside);
            self.part.find(path, Cure::Repair, what);
        }
        Ok(self.part)
    }
}

fn keys_of(record: &Record<'_>) -> Vec<i32> {
    let mut keys = Vec::new();
    if record.sys_flag() & TRANSACTION_MASK != TRANSACTION_ROLLBACK {
        let start = hash_onto(java_hash(record.topic()), "#");
        let known = Known::scan(record.properties());
        dispatch::each_key(&known, start, |hash| keys.push(key_hash(hash)));
    }
    keys
}
