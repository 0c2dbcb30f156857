//! One consume queue in memory: its numbering and its newest entries.
//!
//! Owns the entries that are not in the queue's files yet, and the last few that are. One mutex
//! around all of it, held for moments. Never touches a file (`queues.rs` does) and never decides
//! what may be read: callers pass the readable end of the log. An idle queue costs about 150
//! bytes. Java: `ConsumeQueue`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use parking_lot::Mutex;

use crate::api::{Entry, Wait};
use crate::batch_queue::{BatchEntry, Batches};
use crate::scan::MIN_RECORD;
use crate::store::Store;

/// Size field of an entry that only fills a place (Java: pre-blank).
pub(crate) const BLANK_SIZE: i32 = i32::MAX;

/// Offsets that are further away are damage: no CRC covers them.
pub(crate) const MAX_OFFSET: i64 = 1 << 50;
/// No log reaches further.
const MAX_PLACE: i64 = 1 << 60;
/// Entries that recovery fills in at most.
const MAX_GAP: i64 = 16 << 20;
/// Entries that it fills in wherever the log begins.
const MIN_GAP: i64 = 1 << 16;

impl Entry {
    /// An entry that fills a place below the minimum offset.
    pub(crate) const BLANK: Entry = Entry { physical_offset: 0, size: BLANK_SIZE, tags_code: 0 };

    /// Whether it only fills a place.
    pub(crate) fn is_blank(&self) -> bool {
        self.size == BLANK_SIZE
    }

    /// Physical offset behind its record; 0 for a blank, so that it hides nothing.
    pub(crate) fn end(&self) -> i64 {
        if self.is_blank() { 0 } else { self.physical_offset + i64::from(self.size) }
    }

    /// Appends Java's 20 bytes.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.physical_offset.to_be_bytes());
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend_from_slice(&self.tags_code.to_be_bytes());
    }

    /// Reads Java's 20 bytes. `None`: no entry stands here.
    pub(crate) fn decode(raw: &[u8; 20]) -> Option<Entry> {
        let (mut phy, mut size, mut tags) = ([0; 8], [0; 4], [0; 8]);
        phy.copy_from_slice(&raw[..8]);
        size.copy_from_slice(&raw[8..12]);
        tags.copy_from_slice(&raw[12..]);
        let entry = Entry {
            physical_offset: i64::from_be_bytes(phy),
            size: i32::from_be_bytes(size),
            tags_code: i64::from_be_bytes(tags),
        };
        ((0..=MAX_PLACE).contains(&entry.physical_offset) && entry.size > 0).then_some(entry)
    }
}

/// One queue of a topic. Handles stay valid for as long as the topic is not deleted.
#[derive(Debug)]
pub struct Queue {
    topic: Arc<str>,
    id: i32,
    /// Names the queue in tables of open files; never reused.
    pub(crate) uid: u64,
    /// Java hash of `topic#`, which every index key begins with.
    pub(crate) key_hash: i32,
    /// Its entries are those of a batch queue; never changes.
    is_batch: bool,
    /// Its messages are not found by key; see [`Store::set_indexed`].
    pub(crate) unindexed: AtomicBool,
    pub(crate) state: Mutex<State>,
}

/// What changes of a queue. The entries are `[next - tail.len(), next)` here and everything below
/// in files; those at or above `flushed` are only here. Entries are counted in slots: those of an
/// ordinary queue are its offsets, those of a batch queue are not.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// Smallest offset with a message.
    pub(crate) min: i64,
    /// Offset of the next message.
    pub(crate) next: i64,
    /// The newest entries.
    pub(crate) tail: VecDeque<Entry>,
    /// Entries below are in files.
    pub(crate) flushed: i64,
    /// Byte offset in the name of the first file; `None` without files.
    pub(crate) first_file: Option<i64>,
    /// `next` when the queue was put into the list of queues to look after.
    pub(crate) listed_at: i64,
    /// It is in that list.
    pub(crate) listed: bool,
    /// Removed with its topic.
    pub(crate) deleted: bool,
    /// The newest entries of a batch queue, whose `tail` is empty.
    pub(crate) batches: Option<Box<Batches>>,
}

impl State {
    /// A batch queue without entries.
    pub(crate) fn batch() -> State {
        State { batches: Some(Box::default()), ..State::default() }
    }

    /// Slot of the first entry in memory.
    pub(crate) fn tail_base(&self) -> i64 {
        match &self.batches {
            None => self.next - self.tail.len() as i64,
            Some(batches) => batches.tail_base(),
        }
    }

    /// Adds the newest entry of an ordinary queue.
    fn push(&mut self, entry: Entry) {
        self.tail.push_back(entry);
        self.next += 1;
    }

    /// Adds the newest entry, which stands for `count` messages: 1 but in a batch queue.
    pub(crate) fn add(&mut self, entry: Entry, timestamp_ms: i64, count: i16) {
        match &mut self.batches {
            None => self.push(entry),
            Some(batches) => {
                batches.push(BatchEntry { entry, timestamp_ms, base: self.next, count });
                self.next += i64::from(count);
            }
        }
    }

    /// Puts a batch where its record says it belongs; for recovery. Returns whether it was new.
    pub(crate) fn put_batch(&mut self, batch: BatchEntry) -> bool {
        let Some(batches) = &mut self.batches else { return false };
        if batch.base < self.next || batch.base > MAX_OFFSET {
            return false;
        }
        if batches.next == 0 {
            // The queue's former files are gone; its numbering goes on.
            (self.min, self.flushed) = (batch.base, batch.base);
        }
        batches.push(batch);
        self.next = batch.end();
        true
    }

    /// Puts an entry where its record says it belongs; for recovery. Returns whether it was new.
    pub(crate) fn put_at(&mut self, offset: i64, entry: Entry) -> bool {
        if offset < self.next {
            return false;
        }
        if self.next == 0 && self.first_file.is_none() && offset <= MAX_OFFSET {
            // The queue's former files are gone; its numbering goes on.
            (self.min, self.next, self.flushed) = (offset, offset, offset);
        }
        // Every message in the gap had a record in front of this one's.
        if offset - self.next > (entry.physical_offset / MIN_RECORD).clamp(MIN_GAP, MAX_GAP) {
            return false;
        }
        // A misaligned entry would shift every later offset, so a gap is filled.
        while self.next < offset {
            self.push(Entry::BLANK);
        }
        self.push(entry);
        true
    }

    /// The queue offset behind the last entry whose record ends at or below `readable`.
    pub(crate) fn readable_end(&self, readable: i64) -> i64 {
        match (&self.batches, self.tail.back()) {
            (Some(batches), _) => batches.readable_end(readable, self.next),
            (None, Some(last)) if last.end() > readable => {
                self.tail_base() + self.tail.partition_point(|e| e.end() <= readable) as i64
            }
            _ => self.next,
        }
    }

    /// Slot of the next entry.
    pub(crate) fn next_slot(&self) -> i64 {
        self.batches.as_ref().map_or(self.next, |batches| batches.next)
    }

    /// Slots below are in files.
    pub(crate) fn flushed_slot(&self) -> i64 {
        self.batches.as_ref().map_or(self.flushed, |batches| batches.flushed)
    }

    /// Behind the last slot whose record ends at or below `readable`.
    pub(crate) fn readable_slot(&self, readable: i64) -> i64 {
        match &self.batches {
            None => self.readable_end(readable),
            Some(batches) => batches.readable_slot(readable),
        }
    }

    /// Appends the bytes of slots that are in memory.
    pub(crate) fn encode(&self, from: i64, until: i64, out: &mut Vec<u8>) {
        if let Some(batches) = &self.batches {
            return batches.encode(from, until, out);
        }
        let skip = (from - self.tail_base()) as usize;
        self.tail.range(skip..skip + (until - from) as usize).for_each(|entry| entry.encode(out));
    }

    /// Notes that slots below `slot` are in files.
    pub(crate) fn set_flushed(&mut self, slot: i64) {
        self.flushed = match &mut self.batches {
            None => slot,
            Some(batches) => batches.set_flushed(slot, self.next),
        };
    }

    /// Copies entries from `from` on, when that one is in memory, and returns how many.
    pub(crate) fn copy(&self, from: i64, out: &mut [Entry]) -> Option<usize> {
        let skip = usize::try_from(from - self.tail_base()).ok()?;
        let found = self.tail.len().saturating_sub(skip).min(out.len());
        for (slot, entry) in out.iter_mut().zip(self.tail.range(skip.min(self.tail.len())..)) {
            *slot = *entry;
        }
        Some(found)
    }

    /// Forgets the oldest entries that are in files, down to `keep` in memory.
    pub(crate) fn evict(&mut self, keep: usize) {
        if let Some(batches) = &mut self.batches {
            return batches.evict(keep);
        }
        let flushed = (self.flushed - self.tail_base()).max(0) as usize;
        let drop = flushed.min(self.tail.len().saturating_sub(keep));
        self.tail.drain(..drop);
        if self.tail.is_empty() {
            self.tail = VecDeque::new();
        }
    }
}

impl Queue {
    pub(crate) fn new(topic: Arc<str>, id: i32, uid: u64, state: State) -> Queue {
        let key_hash = wire::text::hash_onto(wire::text::java_hash(&topic), "#");
        let is_batch = state.batches.is_some();
        let unindexed = AtomicBool::new(false);
        Queue { topic, id, uid, key_hash, is_batch, unindexed, state: Mutex::new(state) }
    }

    /// Whether a record of the queue may hold several messages. Java: `CQType.BatchCQ`.
    pub fn is_batch(&self) -> bool {
        self.is_batch
    }

    /// Topic of the queue.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Its number in the topic.
    pub fn id(&self) -> i32 {
        self.id
    }

    /// Smallest queue offset that still has a message; equal to the next offset when none has.
    pub fn min_offset(&self) -> i64 {
        self.state.lock().min
    }

    /// Queue offset that the next append gets; counts records that nobody may read yet.
    pub fn next_offset(&self) -> i64 {
        self.state.lock().next
    }

    /// Behind the largest queue offset that may be read. Java: `getMaxOffsetInQueue`.
    pub fn max_offset(&self, store: &Store) -> i64 {
        let readable = store.watermarks().readable;
        self.state.lock().readable_end(readable)
    }

    /// Whether the topic was deleted under this handle; look the queue up again.
    pub fn is_deleted(&self) -> bool {
        self.state.lock().deleted
    }

    /// The entry at a queue offset, without its record. On [`crate::SCHEDULE_TOPIC`] the
    /// `tags_code` is the due time. `None` below the minimum, at or above the maximum, or after a
    /// read error. In a batch queue it is the entry of the record that holds the offset. May read
    /// a file.
    pub fn entry(&self, store: &Store, offset: i64) -> Option<Entry> {
        if offset < self.min_offset() || offset >= self.max_offset(store) {
            return None;
        }
        if self.is_batch {
            let mut one = [BatchEntry::default()];
            let found = store.queues().batches(self, offset, &mut one, Wait::MayBlock);
            return (found.ok()?? == 1 && one[0].base <= offset).then_some(one[0].entry);
        }
        let mut one = [Entry::default()];
        let found = store.queues().entries(self, offset, &mut one, Wait::MayBlock);
        (found.ok()?? == 1 && !one[0].is_blank()).then_some(one[0])
    }

    /// Copies entries from an offset on, as many as are next to each other in memory or one file;
    /// at most 128. 0 at a hole, at the end, after a read error, and for a batch queue. May read a
    /// file.
    pub fn entries(&self, store: &Store, from: i64, out: &mut [Entry]) -> usize {
        let left = usize::try_from(self.max_offset(store) - from).unwrap_or(0);
        let len = out.len().min(left);
        if self.is_batch || from < self.min_offset() || len == 0 {
            return 0;
        }
        let found = store.queues().entries(self, from, &mut out[..len], Wait::MayBlock);
        found.ok().flatten().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: i64) -> Entry {
        Entry { physical_offset: n * 100, size: 100, tags_code: n }
    }

    #[test]
    fn entries_are_javas_twenty_bytes() {
        let mut raw = Vec::new();
        Entry { physical_offset: 258, size: 3, tags_code: -1 }.encode(&mut raw);
        assert_eq!(raw[..12], [0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 3]);
        assert_eq!(raw[12..], [255; 8]);
        let raw: [u8; 20] = raw.try_into().unwrap();
        assert_eq!(Entry::decode(&raw).unwrap().tags_code, -1);
        assert_eq!(Entry::decode(&[0; 20]), None);
        assert_eq!(Entry::decode(&[255; 20]), None);
        assert_eq!(Entry::BLANK.end(), 0);
    }

    #[test]
    fn an_idle_queue_is_small() {
        assert!(size_of::<Queue>() <= 160, "{}", size_of::<Queue>());
    }

    #[test]
    fn a_gap_is_filled_and_a_lost_beginning_is_not() {
        let mut state = State::default();
        assert!(state.put_at(7, entry(7)));
        assert_eq!((state.min, state.next, state.tail.len()), (7, 8, 1));
        assert!(!state.put_at(7, entry(7)));
        assert!(state.put_at(10, entry(10)));
        assert_eq!((state.min, state.next), (7, 11));
        assert!(state.tail[1].is_blank() && state.tail[2].is_blank());
        assert!(!state.put_at(i64::MAX, entry(11)) && !state.put_at(-1, entry(11)));
        assert!(!State::default().put_at(i64::MAX, entry(11)));
    }

    #[test]
    fn what_is_readable_ends_with_the_log() {
        let mut state = State::default();
        (0..10).for_each(|n| state.push(entry(n)));
        for (readable, end) in [(0, 0), (99, 0), (100, 1), (555, 5), (1000, 10), (5000, 10)] {
            assert_eq!(state.readable_end(readable), end);
        }
        state.flushed = 8;
        state.evict(4);
        assert_eq!((state.tail_base(), state.tail.len()), (6, 4));
        state.evict(0);
        assert_eq!((state.tail_base(), state.tail.len()), (8, 2));
        assert_eq!(state.readable_end(100), 8);
        let mut out = [Entry::default(); 8];
        assert_eq!(state.copy(7, &mut out), None);
        assert_eq!((state.copy(9, &mut out), out[0]), (Some(1), entry(9)));
        assert_eq!(state.copy(10, &mut out), Some(0));
    }
}
