//! Records that would leave a gap in their queue, held back until another one of the queue agrees.
//!
//! No CRC covers the queue, the queue offset and the properties of a record. One flipped bit there,
//! believed, would hide every later record of a queue, because numbers only grow. So recovery puts
//! a record at once only where the queue goes on; any other waits for the record that follows it.
//! Owns what waits; takes one queue's lock for moments.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::api::Entry;
use crate::batch_queue::BatchEntry;
use crate::queue::{Queue, State};
use crate::queues::Queues;

/// Records of one queue that wait at most; then the last one is believed.
const MAX_HELD: usize = 8;

/// An entry and where it belongs by its record.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Item {
    /// Of an ordinary or light queue, with its offset.
    One(i64, Entry),
    /// Of a batch queue.
    Batch(BatchEntry),
}

impl Item {
    fn start(&self) -> i64 {
        match self {
            Item::One(offset, _) => *offset,
            Item::Batch(batch) => batch.base,
        }
    }

    fn end(&self) -> i64 {
        match self {
            Item::One(offset, _) => offset.saturating_add(1),
            Item::Batch(batch) => batch.end(),
        }
    }

    fn put(&self, state: &mut State) -> bool {
        match self {
            Item::One(offset, entry) => state.put_at(*offset, *entry),
            Item::Batch(batch) => state.put_batch(*batch),
        }
    }

    fn place(&self) -> i64 {
        match self {
            Item::One(_, entry) => entry.physical_offset,
            Item::Batch(batch) => batch.entry.physical_offset,
        }
    }
}

/// See the module. Java believes every number.
#[derive(Debug, Default)]
pub(crate) struct Gaps {
    held: HashMap<u64, (Arc<Queue>, Vec<Item>), RandomState>,
}

impl Gaps {
    /// Puts an entry into its queue, or holds it back. What the queue has already is left out.
    pub(crate) fn put(&mut self, queues: &Queues, queue: &Arc<Queue>, item: Item, now_ms: i64) {
        let state = &mut *queue.state.lock();
        if item.start() < state.next {
            return;
        }
        let mut waiting = match self.held.remove(&queue.uid) {
            Some((_, waiting)) => waiting,
            None => Vec::new(),
        };
        let follows = waiting.iter().position(|other| other.end() == item.start());
        if item.start() != state.next && follows.is_none() {
            waiting.push(item);
            if waiting.len() < MAX_HELD {
                self.held.insert(queue.uid, (Arc::clone(queue), waiting));
                return;
            }
            believe(queue, state, &waiting);
        } else {
            if let Some(at) = follows {
                believe(queue, state, &waiting[..=at]);
            }
            item.put(state);
            // One that was too early because the record in front of it came from elsewhere.
            for other in &waiting {
                if other.start() == state.next {
                    other.put(state);
                }
            }
        }
        queues.list(queue, state, now_ms);
    }

    /// Puts what still waits at the end of the log.
    pub(crate) fn settle(&mut self, queues: &Queues, now_ms: i64) {
        for (queue, waiting) in std::mem::take(&mut self.held).into_values() {
            let state = &mut *queue.state.lock();
            believe(&queue, state, &waiting);
            queues.list(&queue, state, now_ms);
        }
    }
}

/// Puts the last one and those in front of it whose numbers are smaller.
fn believe(queue: &Queue, state: &mut State, waiting: &[Item]) {
    let mut smallest = i64::MAX;
    let mut believed: Vec<&Item> = Vec::new();
    for item in waiting.iter().rev() {
        if item.end() <= smallest {
            smallest = item.start();
            believed.push(item);
        }
    }
    for item in believed.into_iter().rev() {
        if !item.put(state) {
            let (topic, at) = (queue.topic(), item.place());
            tracing::error!(topic, at, offset = item.start(), "impossible queue offset, not shown");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoreConfig;
    use crate::queue_files::Layout;

    fn offsets(numbers: &[i64]) -> (i64, i64, Vec<bool>) {
        let config = StoreConfig::new("/nowhere");
        let layouts = Layout::both(&config).unwrap();
        let queues = Queues::new(config.disk.clone(), config.root.clone(), layouts);
        let queue = queues.find_or_create("T", 0, false);
        let mut gaps = Gaps::default();
        for (at, number) in numbers.iter().enumerate() {
            let physical_offset = (1 << 30) + at as i64 * 100;
            let entry = Entry { physical_offset, size: 100, tags_code: 0 };
            gaps.put(&queues, &queue, Item::One(*number, entry), 0);
        }
        gaps.settle(&queues, 0);
        let state = queue.state.lock();
        (state.min, state.next, state.tail.iter().map(|entry| !entry.is_blank()).collect())
    }

    #[test]
    fn one_wrong_number_hides_nothing_else() {
        assert_eq!(offsets(&[0, 1, 900, 3, 4]), (0, 5, vec![true, true, false, true, true]));
        assert_eq!(offsets(&[900, 1, 2]), (1, 3, vec![true, true]));
        assert_eq!(offsets(&[0, 0, 1]), (0, 2, vec![true, true]));
        assert_eq!(offsets(&[0, 1, 2, 900]).1, 901);
        assert_eq!(offsets(&[0, i64::MAX, 1]), (0, 2, vec![true, true]));
    }

    #[test]
    fn a_lost_record_and_a_lost_beginning_stay_what_they_are() {
        assert_eq!(offsets(&[7, 8, 9]), (7, 10, vec![true; 3]));
        assert_eq!(offsets(&[0, 2, 4, 5]).2, [true, false, true, false, true, true]);
        assert_eq!(offsets(&[0, 2, 3]), (0, 4, vec![true, false, true, true]));
        assert_eq!(offsets(&[5]), (5, 6, vec![true]));
        let odd: Vec<i64> = (0..30).map(|n| n * 2).collect();
        let (min, next, there) = offsets(&odd);
        assert_eq!((min, next, there.iter().filter(|there| **there).count()), (0, 59, 30));
    }
}
