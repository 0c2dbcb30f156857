//! The key index: which records may have a key (Java: `IndexService`, `IndexFile`).
//!
//! Owns `index/`. Two locks: `pending`, taken by appenders for a push, and `files`, held while
//! entries are applied, written or searched. Appending never touches a file. Entries reach the
//! newest file in log order, and only once their record is written. Answers are candidates: only
//! hashes are compared here.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::api::OpenError;
use crate::disk::Disk;
use crate::index_file::{Header, IndexFile, Shape};

/// The background thread is woken when this many entries wait.
const WAKE_AT: usize = 8192;

/// One key of one record.
#[derive(Debug, Clone, Copy)]
struct Key {
    hash: i32,
    physical_offset: i64,
    timestamp_ms: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Index {
    disk: Disk,
    dir: PathBuf,
    shape: Shape,
    pending: Mutex<Vec<Key>>,
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    /// Complete files, oldest first.
    older: Vec<IndexFile>,
    newest: Option<IndexFile>,
    /// The other buffer of `pending`.
    spare: Vec<Key>,
}

/// The index form of a key's hash; `text_hash` is Java's hash of `topic#key`.
pub(crate) fn key_hash(text_hash: i32) -> i32 {
    text_hash.checked_abs().unwrap_or(0)
}

/// The index files in a directory, in order.
pub(crate) fn files_in(disk: &Disk, dir: &Path) -> Result<Vec<PathBuf>, OpenError> {
    let found = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found.map_err(OpenError::io(dir))?,
    };
    let is_index = |name: &str| name.len() == 17 && name.bytes().all(|b| b.is_ascii_digit());
    let named = found.into_iter().filter(|found| !found.is_dir && is_index(&found.name));
    let mut names: Vec<PathBuf> = named.map(|found| dir.join(found.name)).collect();
    names.sort();
    Ok(names)
}

impl Index {
    /// Loads the files in `dir`. After a crash the newest one is rebuilt from its entries.
    /// Also returns from which physical offset on records are missing; `None`: no record is.
    pub(crate) fn open(
        disk: &Disk,
        dir: PathBuf,
        shape: Shape,
        crashed: bool,
    ) -> Result<(Index, Option<i64>), OpenError> {
        let mut older = Vec::new();
        for path in files_in(disk, &dir)? {
            match IndexFile::open(disk, &path, shape) {
                Ok(file) => older.push(file),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "index file left aside");
                }
            }
        }
        let mut newest = older.pop();
        let mut from = if newest.is_none() { Some(0) } else { None };
        if let Some(file) = newest.as_mut().filter(|_| crashed) {
            let header = file.rebuild(i64::MAX, true).map_err(OpenError::io(&dir))?;
            // With its last record taken out, a record at the end offset is missing again.
            from = Some(match header {
                Some(_) => file.resume_at(),
                None => older.last().map_or(0, |previous| previous.header().end_offset),
            });
        }
        let files = Mutex::new(Files { older, newest, spare: Vec::new() });
        Ok((Index { disk: disk.clone(), dir, shape, pending: Mutex::default(), files }, from))
    }

    /// Notes a key of a record; in log order. Returns whether the background thread must be woken.
    pub(crate) fn push(&self, text_hash: i32, physical_offset: i64, timestamp_ms: i64) -> bool {
        let mut pending = self.pending.lock();
        pending.push(Key { hash: key_hash(text_hash), physical_offset, timestamp_ms });
        pending.len() == WAKE_AT
    }

    /// Puts the noted keys of records below `written` into the newest file.
    pub(crate) fn apply(&self, written: i64) -> io::Result<()> {
        self.apply_locked(written, &mut self.files.lock())
    }

    fn apply_locked(&self, written: i64, files: &mut Files) -> io::Result<()> {
        std::mem::swap(&mut *self.pending.lock(), &mut files.spare);
        let ready = files.spare.partition_point(|key| key.physical_offset < written);
        let mut done = 0;
        let mut result = Ok(());
        while done < ready && result.is_ok() {
            let key = files.spare[done];
            result = self.insert(files, key);
            done += usize::from(result.is_ok());
        }
        // What may not be applied yet comes before what was noted meanwhile.
        self.pending.lock().splice(0..0, files.spare.drain(done..));
        files.spare.clear();
        result
    }

    fn insert(&self, files: &mut Files, key: Key) -> io::Result<()> {
        if files.newest.as_ref().is_none_or(IndexFile::is_full) {
            if let Some(mut full) = files.newest.take() {
                full.sync()?;
                full.release();
                files.older.push(full);
            }
            let previous = files.older.last();
            let after = previous.and_then(|file| file.path().file_name()?.to_str()?.parse().ok());
            let name = time_name(key.timestamp_ms).max(after.map_or(0, |name: i64| name + 1));
            self.disk.create_dir_all(&self.dir)?;
            let path = self.dir.join(format!("{name:017}"));
            let header = previous.map_or_else(Header::default, |file| file.header().successor());
            files.newest = Some(IndexFile::create(&self.disk, &path, self.shape, header)?);
        }
        let newest = files.newest.as_mut().ok_or_else(|| io::Error::other("no index file"))?;
        newest.insert(key.hash, key.physical_offset, key.timestamp_ms)
    }

    /// Physical offsets of records that may have the key, stored between `begin_ms` and `end_ms`,
    /// newest first, each once.
    pub(crate) fn query(
        &self,
        hash: i32,
        max: usize,
        (begin_ms, end_ms): (i64, i64),
        written: i64,
    ) -> io::Result<Vec<i64>> {
        let files = &mut *self.files.lock();
        self.apply_locked(written, files)?;
        let mut found = Vec::new();
        for file in files.newest.iter_mut().chain(files.older.iter_mut().rev()) {
            file.search(hash, max, (begin_ms, end_ms), &mut found)?;
            if found.len() >= max || file.header().begin_ms < begin_ms {
                break;
            }
        }
        Ok(found)
    }

    /// Applies everything and brings it to the disk. Returns the store time at which the last
    /// complete file ended, or with `close` the newest one; 0 when there is none.
    pub(crate) fn sync(&self, written: i64, close: bool) -> io::Result<i64> {
        let files = &mut *self.files.lock();
        self.apply_locked(written, files)?;
        if let Some(newest) = &mut files.newest {
            newest.sync()?;
        }
        let last = if close { files.newest.as_ref() } else { None };
        Ok(last.or(files.older.last()).map_or(0, |file| file.header().end_ms))
    }

    /// Takes out entries of records at or above `end`, which are not in the log.
    pub(crate) fn cut(&self, end: i64) -> io::Result<()> {
        let files = &mut *self.files.lock();
        while let Some(newest) = &mut files.newest
            && newest.header().count > 1
            && newest.header().end_offset >= end
        {
            if newest.rebuild(end, false)?.is_none() {
                self.disk.remove_file(newest.path())?;
                files.newest = files.older.pop();
            }
        }
        Ok(())
    }

    /// Deletes the files whose records are all below `log_min`, never the newest.
    pub(crate) fn remove_below(&self, log_min: i64) -> io::Result<()> {
        let files = &mut *self.files.lock();
        while files.older.first().is_some_and(|file| file.header().end_offset < log_min) {
            self.disk.remove_file(files.older.remove(0).path())?;
        }
        Ok(())
    }
}

/// `yyyyMMddHHmmssSSS` of an epoch time in UTC, as a number. Java uses local time; only the order
/// matters.
fn time_name(epoch_ms: i64) -> i64 {
    let (days, ms) = (epoch_ms.div_euclid(86_400_000), epoch_ms.rem_euclid(86_400_000));
    // Days to a civil date, with years that begin in March so that the leap day is the last.
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let (hour, minute, second) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1000 % 60);
    [(month, 2), (day, 2), (hour, 2), (minute, 2), (second, 2), (ms % 1000, 3)]
        .iter()
        .fold(year, |name, &(value, digits)| name * 10_i64.pow(digits) + value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    const SHAPE: Shape = Shape { slots: 7, entries: 20 };

    fn count_in(dir: &Path) -> usize {
        std::fs::read_dir(dir).unwrap().count()
    }

    #[test]
    fn names_are_utc_times() {
        assert_eq!(time_name(0), 19_700_101_000_000_000);
        assert_eq!(time_name(1_709_210_096_789), 20_240_229_123_456_789);
        assert_eq!(time_name(1_795_575_879_867), 20_261_125_030_439_867);
    }

    #[test]
    fn keys_are_found_over_files_restarts_crashes_and_cuts() {
        let dir = TempDir::new("index");
        let open = |crashed| {
            Index::open(&Disk::default(), dir.path().join("index"), SHAPE, crashed).unwrap()
        };
        let (index, from) = open(false);
        assert_eq!(from, Some(0));
        // 50 records of two keys: one of its own, and one of ten shared ones.
        for n in 0..50_i64 {
            index.push(n as i32 + 1000, n * 100, 5000 + n * 1000);
            index.push((n % 10) as i32, n * 100, 5000 + n * 1000);
        }
        let all = (0, i64::MAX);
        assert_eq!(index.query(1049, 9, all, 4900).unwrap(), [] as [i64; 0]);
        assert_eq!(index.query(1049, 9, all, 5000).unwrap(), [4900]);
        assert_eq!(index.query(3, 3, all, 5000).unwrap(), [4300, 3300, 2300]);
        assert_eq!(index.query(3, 9, (18_000, 40_000), 5000).unwrap(), [3300, 2300, 1300]);
        assert_eq!(count_in(&dir.path().join("index")), 6);
        index.sync(5000, true).unwrap();
        let (index, from) = open(false);
        assert_eq!(from, None);
        assert_eq!(index.query(3, 9, all, 5000).unwrap(), [4300, 3300, 2300, 1300, 300]);
        // A crash: the last record comes again.
        let (index, from) = open(true);
        assert_eq!(from, Some(4900));
        assert_eq!(index.query(1049, 9, all, 5000).unwrap(), [] as [i64; 0]);
        assert_eq!(index.query(1048, 9, all, 5000).unwrap(), [4800]);
        index.push(1049, 4900, 54_000);
        assert_eq!(index.query(1049, 9, all, 5000).unwrap(), [4900]);
        index.cut(3000).unwrap();
        assert_eq!(index.query(3, 9, all, 5000).unwrap(), [2300, 1300, 300]);
        index.remove_below(2000).unwrap();
        assert_eq!(index.query(3, 9, all, 5000).unwrap()[0], 2300);
        assert!(count_in(&dir.path().join("index")) <= 3);
    }
}
