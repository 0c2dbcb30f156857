//! The commit log: every record, and what stands between records.

use std::collections::HashMap;
use std::io;

use wire::record::Record;

use super::{Cure, Ground, Part, Progress};
use crate::api::{OpenError, StoreConfig};
use crate::commit_log::CommitLog;
use crate::files::{self, Listed};
use crate::queue_files::has_data;
use crate::scan::{Scanner, Step};

/// The length that most of the files have.
pub(super) fn usual_size(listed: &[Listed]) -> Option<u64> {
    let mut counts: HashMap<u64, usize> = HashMap::new();
    for file in listed.iter().filter(|file| file.len > 0) {
        *counts.entry(file.len).or_default() += 1;
    }
    // Of two that are as frequent the longer one: files are cut, not lengthened.
    counts.into_iter().max_by_key(|(len, count)| (*count, *len)).map(|(len, _)| len)
}

/// Opens the log to be read. `None`: its files do not go together, which is noted.
pub(super) fn open(config: &StoreConfig, part: &mut Part) -> Result<Option<CommitLog>, OpenError> {
    let dir = &config.commit_log_dir;
    let mut listed = files::found(&config.disk, dir)?.unwrap_or_default();
    if let Some(empty) = files::pop_empty(&mut listed) {
        part.find(&empty.path, Cure::NextStart, "it is empty".to_owned());
    }
    let size = usual_size(&listed).unwrap_or(config.commit_log_file_size) as i64;
    let mut expected = listed.first().map_or(0, |file| file.start);
    for file in &listed {
        while expected < file.start && expected + size <= file.start {
            let path = dir.join(files::name_of(expected));
            part.find(&path, Cure::Repair, "the file is missing; no broker starts".to_owned());
            expected += size;
        }
        if file.len as i64 != size {
            let what = format!("{} bytes instead of {size}; no broker starts", file.len);
            part.find(&file.path, Cure::Repair, what);
        }
        if file.start % size != 0 {
            let what = format!("no file of {size} bytes begins there; no broker starts");
            part.find(&file.path, Cure::None, what);
        }
        expected = file.start + size;
    }
    if part.is_damaged() {
        return Ok(None);
    }
    CommitLog::of_files(config, listed).map(Some)
}

/// Where the walk ended.
pub(super) struct Walked {
    /// Behind the last good record.
    pub(super) end: i64,
    /// Start of the last good record.
    pub(super) last: i64,
    /// Its store time, epoch milliseconds.
    pub(super) last_ms: i64,
}

/// Reads every record and notes what is none. Bad bytes with good records behind them are damage;
/// without, they are what a kill leaves.
pub(super) fn walk(
    ground: &Ground,
    log: &CommitLog,
    part: &mut Part,
    progress: Progress<'_>,
    each: &mut dyn FnMut(&Record<'_>) -> io::Result<()>,
) -> io::Result<Walked> {
    let mut scanner = Scanner::new(log);
    let total = log.segments().len() as i64 * log.file_size();
    let mut walked = Walked { end: log.min(), last: 0, last_ms: 0 };
    let mut at = log.min();
    loop {
        progress((at - log.min()) as u64, total as u64);
        match scanner.step(at)? {
            Step::Record(record) => {
                part.good += 1;
                (walked.last, walked.last_ms) = (at, record.store_timestamp());
                at += record.total_len() as i64;
                walked.end = at;
                each(&record)?;
            }
            Step::Blank(next) => at = next,
            Step::NoFile => break,
            Step::Bad => match behind(log, &mut scanner, at)? {
                Some(next) => {
                    let path = log.segment_at(at).map_or_else(Default::default, |s| s.path.clone());
                    let what =
                        format!("bytes {at} to {next} are no record; what stood there is lost");
                    // A start after a kill would take it for the end of the log.
                    let cut = ground.is_news(at);
                    part.find(&path, if cut { Cure::Repair } else { Cure::None }, what);
                    at = next;
                }
                None => break,
            },
        }
    }
    tail(ground, log, walked.end, part)?;
    progress(total as u64, total as u64);
    Ok(walked)
}

/// The next good record behind a bad place, if there is any.
fn behind(log: &CommitLog, scanner: &mut Scanner<'_>, at: i64) -> io::Result<Option<i64>> {
    for segment in log.segments() {
        let from = (at - segment.start).max(0);
        if from < log.file_size() && has_data(&segment.file, from, log.file_size())? {
            return scanner.resume(at);
        }
    }
    Ok(None)
}

/// Bytes behind the last record.
fn tail(ground: &Ground, log: &CommitLog, end: i64, part: &mut Part) -> io::Result<()> {
    for segment in log.segments() {
        let from = (end - segment.start).max(0);
        let is_rest = from < log.file_size();
        // The marker that ends a file whose successor is still empty is no rest.
        let marked = matches!(Scanner::new(log).step(end)?, Step::Blank(_));
        if is_rest && !marked && has_data(&segment.file, from, log.file_size())? {
            let at = segment.start + from;
            let what = format!("bytes from {at} on are no record: the end that a kill tore");
            let cure = if ground.clean { Cure::Repair } else { Cure::NextStart };
            part.find(&segment.path, cure, what);
        }
    }
    Ok(())
}
