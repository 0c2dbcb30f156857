//! Batch consume queues: one entry per record, and a record may hold several messages.
//!
//! What an entry is, and the newest entries of one queue. Owns nothing on disk and locks nothing:
//! the tail lies in the queue's state, `queues.rs` writes the files in `batchconsumequeue/`.
//! Entries have numbers of their own (slots), because their queue offsets are apart by the size
//! of a batch; a slot times 46 is its place in the files. Java: `BatchConsumeQueue`.

use std::collections::VecDeque;

use wire::properties::{self, INNER_BASE, INNER_NUM};
use wire::record::{self, INNER_BATCH, Record, Scanned};

use crate::api::Entry;
use crate::queue::MAX_OFFSET;

/// Bytes of an entry.
pub(crate) const UNIT: usize = 46;

/// One record of a batch queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BatchEntry {
    pub(crate) entry: Entry,
    pub(crate) timestamp_ms: i64,
    /// Queue offset of its first message.
    pub(crate) base: i64,
    /// Number of messages, at least 1.
    pub(crate) count: i16,
}

/// Queue offset of the first message of a record that may hold several. `None`: it is one message.
pub(crate) fn first_offset(record: &Record<'_>) -> Option<i64> {
    let inner = record.sys_flag() & INNER_BATCH != 0;
    properties::get(record.properties(), INNER_BASE).filter(|_| inner)?.parse().ok()
}

impl BatchEntry {
    /// Behind its last message.
    pub(crate) fn end(&self) -> i64 {
        self.base + i64::from(self.count)
    }

    /// The entry of a record. `None`: an inner batch that does not say what it holds.
    pub(crate) fn of(record: &Record<'_>, entry: Entry) -> Option<BatchEntry> {
        let (base, count) = if record.sys_flag() & INNER_BATCH == 0 {
            (record.queue_offset(), 1)
        } else {
            let count = properties::get(record.properties(), INNER_NUM)?;
            (first_offset(record)?, count.parse().ok()?)
        };
        let batch = BatchEntry { entry, timestamp_ms: record.store_timestamp(), base, count };
        batch.is_possible().then_some(batch)
    }

    /// The same for the bytes of a record.
    pub(crate) fn of_bytes(bytes: &[u8], entry: Entry) -> Option<BatchEntry> {
        let Ok(Scanned::Record(record)) = record::scan(bytes) else { return None };
        BatchEntry::of(&record, entry)
    }

    fn is_possible(&self) -> bool {
        (0..=MAX_OFFSET).contains(&self.base) && self.count > 0
    }

    fn is_before(&self, other: &BatchEntry) -> bool {
        self.end() <= other.base && self.entry.physical_offset < other.entry.physical_offset
    }

    /// Whether the entry may stand between two on either side, as far as there are any: if it is
    /// not in order with two of them, it is damaged; with one, that one may be.
    pub(crate) fn fits(&self, window: &[Option<BatchEntry>]) -> bool {
        let middle = window.len() / 2;
        let odd = window.iter().enumerate().filter(|(place, other)| {
            let Some(other) = other else { return false };
            *place < middle && !other.is_before(self) || *place > middle && !self.is_before(other)
        });
        odd.count() < 2
    }

    /// Reads Java's 46 bytes. `None`: no entry stands here.
    pub(crate) fn decode(raw: &[u8; UNIT]) -> Option<BatchEntry> {
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&raw[at..at + 8]);
            i64::from_be_bytes(long)
        };
        let mut unit = [0; 20];
        unit.copy_from_slice(&raw[..20]);
        let batch = BatchEntry {
            entry: Entry::decode(&unit)?,
            timestamp_ms: long(20),
            base: long(28),
            count: i16::from_be_bytes([raw[36], raw[37]]),
        };
        batch.is_possible().then_some(batch)
    }

    /// Appends Java's 46 bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        self.entry.encode(out);
        out.extend_from_slice(&self.timestamp_ms.to_be_bytes());
        out.extend_from_slice(&self.base.to_be_bytes());
        out.extend_from_slice(&self.count.to_be_bytes());
        // The offset in a compacted log, which such a queue never has; then four reserved bytes.
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    }
}

/// The newest entries of a batch queue: slots `[next - tail.len(), next)`. Everything below is in
/// files, what is at or above `flushed` is only here.
#[derive(Debug, Default)]
pub(crate) struct Batches {
    tail: VecDeque<BatchEntry>,
    /// Slot of the next entry.
    pub(crate) next: i64,
    /// Entries below are in files.
    pub(crate) flushed: i64,
}

impl Batches {
    /// A queue whose entries below `next` are in files.
    pub(crate) fn in_files(next: i64) -> Batches {
        Batches { tail: VecDeque::new(), next, flushed: next }
    }

    /// Slot of the first entry in memory.
    pub(crate) fn tail_base(&self) -> i64 {
        self.next - self.tail.len() as i64
    }

    pub(crate) fn push(&mut self, batch: BatchEntry) {
        self.tail.push_back(batch);
        self.next += 1;
    }

    /// How many entries in memory are in front of the first whose record ends above `readable`.
    fn readable(&self, readable: i64) -> usize {
        match self.tail.back() {
            Some(last) if last.entry.end() > readable => {
                self.tail.partition_point(|batch| batch.entry.end() <= readable)
            }
            _ => self.tail.len(),
        }
    }

    /// Behind the last slot whose record ends at or below `readable`.
    pub(crate) fn readable_slot(&self, readable: i64) -> i64 {
        self.tail_base() + self.readable(readable) as i64
    }

    /// The same as a queue offset; `next` is the offset behind all entries.
    pub(crate) fn readable_end(&self, readable: i64, next: i64) -> i64 {
        self.tail.get(self.readable(readable)).map_or(next, |batch| batch.base)
    }

    /// Appends the bytes of slots that are in memory.
    pub(crate) fn encode(&self, from: i64, until: i64, out: &mut Vec<u8>) {
        let skip = (from - self.tail_base()) as usize;
        self.tail.range(skip..skip + (until - from) as usize).for_each(|batch| batch.encode(out));
    }

    /// Notes that slots below `slot` are in files, and returns the queue offset behind them.
    pub(crate) fn set_flushed(&mut self, slot: i64, next: i64) -> i64 {
        self.flushed = slot;
        let at = (slot - self.tail_base()) as usize;
        self.tail.get(at).map_or(next, |batch| batch.base)
    }

    /// Copies entries from a slot on, when that one is in memory, and returns how many.
    pub(crate) fn copy(&self, from: i64, out: &mut [BatchEntry]) -> Option<usize> {
        let skip = usize::try_from(from - self.tail_base()).ok()?;
        let found = self.tail.len().saturating_sub(skip).min(out.len());
        for (slot, batch) in out.iter_mut().zip(self.tail.range(skip.min(self.tail.len())..)) {
            *slot = *batch;
        }
        Some(found)
    }

    /// The first slot in memory for which `before` is false, when one in front of it is in
    /// memory too: then no older entry needs to be looked at.
    pub(crate) fn search(&self, before: impl Fn(&BatchEntry) -> bool) -> Option<i64> {
        let at = self.tail.partition_point(before);
        (at > 0).then(|| self.tail_base() + at as i64)
    }

    /// Forgets the oldest entries that are in files, down to `keep` in memory.
    pub(crate) fn evict(&mut self, keep: usize) {
        let flushed = (self.flushed - self.tail_base()).max(0) as usize;
        let drop = flushed.min(self.tail.len().saturating_sub(keep));
        self.tail.drain(..drop);
        if self.tail.is_empty() {
            self.tail = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(n: i64) -> BatchEntry {
        let entry = Entry { physical_offset: n * 100, size: 100, tags_code: n };
        BatchEntry { entry, timestamp_ms: n, base: n * 5, count: 5 }
    }

    #[test]
    fn entries_are_javas_forty_six_bytes() {
        let mut raw = Vec::new();
        batch(3).encode(&mut raw);
        let raw: [u8; UNIT] = raw.try_into().unwrap();
        assert_eq!(BatchEntry::decode(&raw), Some(batch(3)));
        assert_eq!(raw[36..], [0, 5, 255, 255, 255, 255, 0, 0, 0, 0]);
        assert_eq!(BatchEntry::decode(&[0; UNIT]), None);
        let mut empty = raw;
        empty[37] = 0;
        assert_eq!(BatchEntry::decode(&empty), None);
    }

    #[test]
    fn the_tail_is_kept_by_slots() {
        let mut batches = Batches::in_files(7);
        (7..17).for_each(|n| batches.push(batch(n)));
        assert_eq!((batches.tail_base(), batches.next), (7, 17));
        for (readable, slot) in [(0, 7), (799, 7), (800, 8), (1650, 16), (5000, 17)] {
            assert_eq!(batches.readable_slot(readable), slot);
            assert_eq!(batches.readable_end(readable, 85), slot * 5);
        }
        assert_eq!(batches.set_flushed(15, 85), 75);
        batches.evict(4);
        assert_eq!(batches.tail_base(), 13);
        batches.evict(0);
        assert_eq!(batches.tail_base(), 15);
        assert_eq!(batches.search(|batch| batch.end() <= 80), Some(16));
        assert_eq!(batches.search(|batch| batch.end() <= 75), None);
        let mut out = [BatchEntry::default(); 8];
        assert_eq!(batches.copy(14, &mut out), None);
        assert_eq!((batches.copy(16, &mut out), out[0]), (Some(1), batch(16)));
        assert_eq!(batches.set_flushed(17, 85), 85);
        batches.evict(0);
        assert_eq!((batches.tail_base(), batches.readable_end(0, 85)), (17, 85));
    }
}
