//! How long and how much of a topic is kept, apart from the log's own retention.
//!
//! Owns the wishes and, for topics with a limit of bytes, what their queues hold. A topic is cut
//! logically: the smallest offset of its queues moves, and queue files below it go; the records
//! leave with the log files that they are in. What was cut is worked out again after a start.
//! Called by the background thread; may read files.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::Edge;
use crate::queue::Queue;
use crate::store::Store;

/// Entries read at once.
const BLOCK: usize = 128;

/// What of a topic is kept. Java has the first as topic attribute `reserve.time`, for its tiered
/// store only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Keep {
    /// Milliseconds; what is older goes.
    pub age_ms: Option<i64>,
    /// Bytes of records of all queues together; beyond them the oldest go.
    pub bytes: Option<i64>,
}

/// Bytes of a part of a queue.
#[derive(Debug, Default)]
struct Tally {
    from: i64,
    upto: i64,
    bytes: i64,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Keeps {
    /// Held for moments: whoever changes a topic says what of it is kept.
    wishes: Mutex<HashMap<String, Keep>>,
    /// Of topics with a limit of bytes, by queue. The background thread's own.
    tallies: Mutex<HashMap<String, HashMap<i32, Tally>>>,
}

impl Store {
    /// Says what of a topic is kept; everything for the default. Works soon after the call.
    pub fn set_keep(&self, topic: &str, keep: Keep) {
        let mut wishes = self.keeps.wishes.lock();
        if keep == Keep::default() {
            wishes.remove(topic);
        } else if wishes.insert(topic.to_owned(), keep) != Some(keep) {
            self.background.retain_soon();
        }
    }

    /// Cuts every topic with a wish of its own to what is to be kept.
    pub(crate) fn cut_topics(&self, now_ms: i64) -> io::Result<()> {
        let wishes = self.keeps.wishes.lock().clone();
        let mut tallies = self.keeps.tallies.lock();
        tallies.retain(|topic, _| wishes.get(topic).is_some_and(|keep| keep.bytes.is_some()));
        for (topic, keep) in &wishes {
            let queues = self.queues().of_topic(topic);
            if let Some(age_ms) = keep.age_ms {
                for queue in &queues {
                    self.cut_old(queue, now_ms - age_ms)?;
                }
            }
            if let Some(bytes) = keep.bytes {
                let tallies = tallies.entry(topic.clone()).or_default();
                self.cut_large(&queues, tallies, bytes)?;
            }
        }
        Ok(())
    }

    fn cut_old(&self, queue: &Arc<Queue>, since_ms: i64) -> io::Result<()> {
        let (min, max) = (queue.min_offset(), queue.max_offset(self));
        if min >= max || self.stored_ms(queue, min).is_none_or(|oldest| oldest >= since_ms) {
            return Ok(());
        }
        let first = self.offset_by_time(queue, since_ms, Edge::Lower);
        self.cut_queue(queue, first)
    }

    fn cut_queue(&self, queue: &Arc<Queue>, first: i64) -> io::Result<()> {
        tracing::debug!(topic = queue.topic(), queue = queue.id(), first, "cut to what is kept");
        self.queues().raise_min_to(queue, first)
    }

    /// Forgets the oldest records of a topic until the others are not more than `most` bytes.
    fn cut_large(
        &self,
        queues: &[Arc<Queue>],
        tallies: &mut HashMap<i32, Tally>,
        most: i64,
    ) -> io::Result<()> {
        let mut total = 0;
        let mut blocks = Vec::new();
        for queue in queues {
            let tally = tallies.entry(queue.id()).or_default();
            self.count(queue, tally);
            total += tally.bytes;
            blocks.push(Block { queue: Arc::clone(queue), at: tally.from, entries: Vec::new() });
        }
        let excess = total - most;
        let mut gone = 0;
        while gone < excess {
            for block in &mut blocks {
                block.fill(self);
            }
            let oldest = blocks.iter_mut().filter(|block| !block.entries.is_empty());
            let Some(oldest) = oldest.min_by_key(|block| block.entries[block.entries.len() - 1].1)
            else {
                break;
            };
            // The last one: blocks are reversed.
            let Some((next, _, size)) = oldest.entries.pop() else { break };
            oldest.at = next;
            gone += size;
            if let Some(tally) = tallies.get_mut(&oldest.queue.id()) {
                tally.from = next;
                tally.bytes -= size;
            }
        }
        for block in blocks {
            if block.at > block.queue.min_offset() {
                self.cut_queue(&block.queue, block.at)?;
            }
        }
        Ok(())
    }

    /// Brings a tally up to the present bounds of its queue.
    fn count(&self, queue: &Queue, tally: &mut Tally) {
        let (min, max) = (queue.min_offset(), queue.max_offset(self));
        if tally.upto <= min || tally.upto > max {
            *tally = Tally { from: min, upto: min, bytes: 0 };
        }
        while tally.from < min {
            let Some((next, _, size)) = self.sizes(queue, tally.from).first().copied() else {
                break;
            };
            tally.from = next;
            tally.bytes -= size;
        }
        while tally.upto < max {
            let sizes = self.sizes(queue, tally.upto);
            let Some(last) = sizes.last() else { break };
            tally.upto = last.0;
            tally.bytes += sizes.iter().map(|(_, _, size)| size).sum::<i64>();
        }
    }

    /// Of the records from an offset on: the offset behind, the place in the log, the bytes.
    fn sizes(&self, queue: &Queue, from: i64) -> Vec<(i64, i64, i64)> {
        if queue.is_batch() {
            let batches = self.queues().some_batches(queue, from);
            let one = |batch: &crate::batch_queue::BatchEntry| {
                (batch.end(), batch.entry.physical_offset, i64::from(batch.entry.size))
            };
            return batches.iter().map(one).collect();
        }
        let mut block = [crate::Entry::default(); BLOCK];
        let found = queue.entries(self, from, &mut block);
        let one = |(at, entry): (usize, &crate::Entry)| {
            let size = if entry.is_blank() { 0 } else { i64::from(entry.size) };
            (from + at as i64 + 1, entry.physical_offset, size)
        };
        block[..found].iter().enumerate().map(one).collect()
    }
}

/// The oldest records of a queue that were not looked at, newest first.
struct Block {
    queue: Arc<Queue>,
    at: i64,
    entries: Vec<(i64, i64, i64)>,
}

impl Block {
    fn fill(&mut self, store: &Store) {
        if self.entries.is_empty() {
            self.entries = store.sizes(&self.queue, self.at);
            self.entries.reverse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoreConfig;
    use crate::disk::{Disk, Memory};
    use crate::testing::{send, send_inner};
    use base::clock::Clock;

    fn config(memory: &Memory) -> StoreConfig {
        StoreConfig {
            disk: Disk::memory(memory.clone()),
            consume_queue_file_size: 100,
            batch_queue_file_size: 2 * 46,
            batch_topics: ["B".to_owned()].into(),
            commit_log_file_size: 1 << 20,
            max_index_slots: 10,
            max_index_entries: 10,
            ..StoreConfig::new("/store")
        }
    }

    fn mins(store: &Store, topic: &str) -> Vec<i64> {
        store.queues().of_topic(topic).iter().map(|queue| queue.min_offset()).collect()
    }

    #[test]
    fn old_messages_of_a_topic_go_and_those_of_others_stay() {
        let memory = Memory::default();
        let clock = Clock::manual(1_700_000_000_000);
        let store = Store::open_stepped(config(&memory), clock.clone()).unwrap();
        let batch = store.batch_queue_or_create("B", 0);
        for _ in 0..20 {
            send(&store, "T", 0, b"x").unwrap();
            send(&store, "Other", 0, b"x").unwrap();
            send_inner(&store, &batch, 10, 3);
            clock.advance(1000);
        }
        store.settle(false).unwrap();
        for topic in ["T", "B"] {
            store.set_keep(topic, Keep { age_ms: Some(5500), bytes: None });
        }
        store.cut_topics(clock.now_ms()).unwrap();
        assert_eq!((mins(&store, "T"), mins(&store, "B")), (vec![15], vec![45]));
        assert_eq!(mins(&store, "Other"), [0]);
        let files = |memory: &Memory, topic| {
            let of_topic = |path: &std::path::PathBuf| path.to_string_lossy().contains(topic);
            memory.files().iter().filter(|(path, _)| of_topic(path)).count()
        };
        assert_eq!(
            (files(&memory, "consumequeue/T"), files(&memory, "consumequeue/Other")),
            (1, 4)
        );
        clock.advance(60_000);
        store.cut_topics(clock.now_ms()).unwrap();
        assert_eq!(mins(&store, "T"), [20]);
        // The numbering goes on, and a start works it out again.
        assert_eq!(send(&store, "T", 0, b"y").unwrap().place.queue_offset, 20);
        store.close().unwrap();
        let store = Store::open_stepped(config(&memory), clock.clone()).unwrap();
        store.set_keep("T", Keep { age_ms: Some(5500), bytes: None });
        store.look_after();
        assert_eq!(mins(&store, "T"), [20]);
        store.set_keep("T", Keep::default());
        clock.advance(60_000);
        store.cut_topics(clock.now_ms()).unwrap();
        assert_eq!(mins(&store, "T"), [20]);
    }

    #[test]
    fn a_topic_holds_not_more_than_its_bytes_and_the_oldest_go_first() {
        let memory = Memory::default();
        let store = Store::open_stepped(config(&memory), Clock::manual(0)).unwrap();
        let batch = store.batch_queue_or_create("B", 0);
        let mut size = 0;
        for n in 0..300 {
            // Queue 0 gets the first hundred, then both get theirs in turn.
            let queue = if n < 100 { 0 } else { n % 2 };
            size = send(&store, "T", queue, &[1; 100]).unwrap().len as i64;
            send_inner(&store, &batch, 10, 3);
        }
        let bytes = Some(size * 40 + size / 2);
        store.set_keep("T", Keep { age_ms: None, bytes });
        store.cut_topics(0).unwrap();
        assert_eq!(mins(&store, "T"), [180, 80]);
        // What comes later is counted from where it was.
        for _ in 0..5 {
            send(&store, "T", 1, &[1; 100]).unwrap();
        }
        store.cut_topics(0).unwrap();
        assert_eq!(mins(&store, "T"), [183, 82]);
        store.set_keep("T", Keep { age_ms: None, bytes: Some(0) });
        store.cut_topics(0).unwrap();
        assert_eq!(mins(&store, "T"), [200, 105]);
        store.set_keep("B", Keep { age_ms: None, bytes: Some(1000) });
        store.cut_topics(0).unwrap();
        let min = mins(&store, "B")[0];
        assert!(min % 3 == 0 && (870..900).contains(&min), "{min}");
    }
}
