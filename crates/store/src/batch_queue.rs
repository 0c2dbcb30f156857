//! Batch consume queues: one entry per record that holds several messages (storage.md 3.9).
//!
//! Reads what Java wrote into `batchconsumequeue/` and completes it after a crash; this store
//! appends no such record itself. Owns nothing and locks nothing: the entries live in the queue.

use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use wire::properties::{self, INNER_BASE, INNER_NUM};
use wire::record::Record;

use crate::api::{Entry, OpenError};
use crate::config_file::sync_dir;
use crate::files;
use crate::queue::State;

const UNIT: usize = 46;
/// Bytes of a file when there is none to take the size from.
const FILE_SIZE: u64 = 13_800_000;

/// One batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchEntry {
    pub(crate) entry: Entry,
    pub(crate) timestamp_ms: i64,
    /// Queue offset of its first message.
    pub(crate) base: i64,
    /// Number of messages.
    pub(crate) count: i16,
}

impl BatchEntry {
    /// Behind its last message.
    pub(crate) fn end(&self) -> i64 {
        self.base + i64::from(self.count)
    }

    /// The entry of an inner batch record. `None`: its properties do not say what it holds.
    pub(crate) fn of(record: &Record<'_>, tags_code: i64) -> Option<BatchEntry> {
        let number = |name| properties::get(record.properties(), name)?.parse::<i64>().ok();
        let entry = Entry {
            physical_offset: record.physical_offset(),
            size: record.total_len() as i32,
            tags_code,
        };
        let count = number(INNER_NUM).and_then(|count| i16::try_from(count).ok())?;
        Some(BatchEntry {
            entry,
            timestamp_ms: record.store_timestamp(),
            base: number(INNER_BASE)?,
            count,
        })
    }

    fn decode(raw: &[u8; UNIT]) -> Option<BatchEntry> {
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&raw[at..at + 8]);
            i64::from_be_bytes(long)
        };
        let mut unit = [0; 20];
        unit.copy_from_slice(&raw[..20]);
        Some(BatchEntry {
            entry: Entry::decode(&unit)?,
            timestamp_ms: long(20),
            base: long(28),
            count: i16::from_be_bytes([raw[36], raw[37]]),
        })
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.entry.encode(out);
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.base.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// The state of a batch queue; `flushed` counts the batches on disk.
pub(crate) fn state_of(batches: Vec<BatchEntry>) -> State {
    State {
        min: batches.first().map_or(0, |batch| batch.base),
        next: batches.last().map_or(0, BatchEntry::end),
        flushed: batches.len() as i64,
        batches: Some(batches),
        ..State::default()
    }
}

/// Reads the batches of one queue directory.
pub(crate) fn load(dir: &Path) -> Result<Vec<BatchEntry>, OpenError> {
    let files = files::list(dir)?.unwrap_or_default();
    files::common_size(&files)?;
    let mut batches = Vec::new();
    for file in files {
        let raw = std::fs::read(&file.path).map_err(OpenError::io(&file.path))?;
        for unit in raw.as_chunks::<UNIT>().0 {
            match BatchEntry::decode(unit) {
                Some(batch) => batches.push(batch),
                None => return Ok(batches),
            }
        }
    }
    Ok(batches)
}

/// Adds the batches from number `saved` on to the files of a queue, durably.
pub(crate) fn save(dir: &Path, batches: &[BatchEntry], saved: usize) -> Result<(), OpenError> {
    std::fs::create_dir_all(dir).map_err(OpenError::io(dir))?;
    let listed = files::list(dir)?.unwrap_or_default();
    let size = files::common_size(&listed)?.unwrap_or(FILE_SIZE);
    let first = listed.first().map_or(0, |file| file.start as u64);
    let per_file = size as usize / UNIT;
    let mut at = saved;
    let write = |at: usize, until: usize| -> io::Result<()> {
        let start = first + (at / per_file) as u64 * size;
        let file = files::create_sized(&dir.join(files::name_of(start as i64)), size)?;
        let mut raw = Vec::new();
        batches[at..until].iter().for_each(|batch| batch.encode(&mut raw));
        let position = (at % per_file * UNIT) as u64;
        file.write_all_at(&raw, position)?;
        files::zero(&file, position + raw.len() as u64, size)?;
        sync_dir(dir)
    };
    while at < batches.len() {
        let until = batches.len().min((at / per_file + 1) * per_file);
        write(at, until).map_err(OpenError::io(dir))?;
        at = until;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn batches_round_trip_over_files() {
        let dir = TempDir::new("batch");
        files::create_sized(&dir.path().join(files::name_of(0)), 3 * UNIT as u64).unwrap();
        let batch = |n: i64| BatchEntry {
            entry: Entry { physical_offset: n * 10, size: 10, tags_code: n },
            timestamp_ms: n,
            base: n * 5,
            count: 5,
        };
        let all: Vec<_> = (0..8).map(batch).collect();
        save(dir.path(), &all[..2], 0).unwrap();
        save(dir.path(), &all, 2).unwrap();
        assert_eq!(load(dir.path()).unwrap(), all);
    }
}
