//! Pop: the broker owns the progress of every message. What a group has popped is invisible to it
//! until it is acknowledged or its time is over; then a copy goes to the group's retry topic of
//! that topic, or to its dead letters. Java: `PopMessageProcessor`, `PopReviveService`,
//! `PopConsumerService`.
//!
//! The state is in memory, by group and topic, and every change is a few bytes in a journal that
//! is written once a turn, before the answers ([`store::Journal`]). Losing the end of the journal
//! hands out again what was in flight, and loses nothing: a pop and the move of the next offset
//! are one entry. The committed offset of the group is the first message that is not settled, so
//! that whoever goes on without the journal misses nothing either.

mod book;
pub mod entries;
pub mod expire;
pub mod in_flight;
pub mod java;
pub mod order;
pub mod serve;
pub mod take;
pub mod waiting;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use filter::Filter;
use parking_lot::{Mutex, RwLock};
use wire::text::RETRY_PREFIX;

use self::book::Book;
use self::entries::{Entry, Progress};
use self::in_flight::{Single, Times};
use self::order::Acked;
use self::waiting::PopWaiters;

/// Key of an entry in the list of due times that frees an ordered queue.
const ORDER_KEY: i64 = -1;

/// What a group has popped of one queue.
pub struct PopQueue {
    /// How far it is; the journal says the same.
    pub progress: Progress,
    /// Whether the offset to begin at is known.
    pub begun: bool,
    /// Where in the journal it is written, if `generation` is the current one.
    id: u64,
    generation: u64,
    /// The offset that was last committed for it.
    committed: i64,
    /// The offset to commit has changed.
    dirty: bool,
}

/// The pop state of a group on one stored topic.
pub struct PopTopic {
    /// Consumer group.
    pub group: Arc<str>,
    /// Topic, as stored: retry topics have a state of their own.
    pub topic: Arc<str>,
    queues: Mutex<Vec<PopQueue>>,
    /// Topic or group were deleted.
    gone: AtomicBool,
    /// In the list of those with offsets to commit.
    listed: AtomicBool,
    filter: Mutex<Option<NamedFilter>>,
}

/// A filter with the type and text of its expression.
type NamedFilter = (String, String, Arc<Filter>);

impl PopTopic {
    fn new(group: &str, topic: &str) -> PopTopic {
        PopTopic {
            group: Arc::from(group),
            topic: Arc::from(topic),
            queues: Mutex::default(),
            gone: AtomicBool::new(false),
            listed: AtomicBool::new(false),
            filter: Mutex::default(),
        }
    }

    /// Calls `act` with the state of a queue that exists already.
    pub fn with_known<R>(&self, queue_id: i32, act: impl FnOnce(&mut PopQueue) -> R) -> Option<R> {
        let mut queues = self.queues.lock();
        queues.get_mut(usize::try_from(queue_id).ok()?).map(act)
    }

    /// Calls `act` with the state of a queue of the topic; made when missing.
    pub fn with<R>(&self, queue_id: i32, act: impl FnOnce(&mut PopQueue) -> R) -> R {
        let mut queues = self.queues.lock();
        let index = usize::try_from(queue_id).unwrap_or(0);
        while queues.len() <= index {
            queues.push(PopQueue::new(Progress::default(), false));
        }
        act(&mut queues[index])
    }

    /// The topic that clients know: the origin of a retry topic.
    pub fn origin(&self) -> &str {
        let retry = self.topic.strip_prefix(RETRY_PREFIX);
        let retry = retry.and_then(|name| name.strip_prefix(&*self.group));
        retry.and_then(|name| name.get(1..)).unwrap_or(&self.topic)
    }

    /// The filter of an expression; the last one is remembered.
    pub fn filter<E>(
        &self,
        kind: &str,
        text: &str,
        parse: impl FnOnce() -> Result<Filter, E>,
    ) -> Result<Arc<Filter>, E> {
        let mut last = self.filter.lock();
        if let Some((_, _, filter)) = last.as_ref().filter(|(k, t, _)| k == kind && t == text) {
            return Ok(Arc::clone(filter));
        }
        let filter = Arc::new(parse()?);
        *last = Some((kind.to_owned(), text.to_owned(), Arc::clone(&filter)));
        Ok(filter)
    }
}

impl PopQueue {
    fn new(progress: Progress, begun: bool) -> PopQueue {
        PopQueue { progress, begun, id: 0, generation: 0, committed: -1, dirty: false }
    }

    /// Goes on at an offset that somebody else has set: forward nothing is forgotten that is in
    /// flight; back, everything from there on is handed out anew.
    fn move_to(&mut self, offset: i64) {
        if offset < self.progress.first_open() {
            self.progress.flight.truncate(offset);
            self.progress.moved.split_off(&offset);
            self.progress.order = None;
            self.progress.next = offset;
        } else if offset > self.progress.next {
            self.progress.next = offset;
            self.progress.order = None;
        }
        self.committed = offset;
    }
}

/// What the acknowledgement of an ordered group did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderAck {
    /// The queue may be popped again.
    Free,
    /// Nothing to do.
    Held,
    /// The message is not of the batch in hand.
    Unknown {
        /// The first offset that is not acknowledged.
        next: i64,
    },
}

/// A time at which something of a queue is due.
struct DueAt {
    due_ms: i64,
    topic: Arc<PopTopic>,
    queue_id: i32,
    /// See [`in_flight::InFlight::due_at`], or [`ORDER_KEY`].
    key: i64,
}

impl PartialEq for DueAt {
    fn eq(&self, other: &Self) -> bool {
        self.due_ms == other.due_ms
    }
}
impl Eq for DueAt {}
impl PartialOrd for DueAt {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for DueAt {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.due_ms.cmp(&other.due_ms)
    }
}

/// A message whose copy must be on disk before it counts as settled.
struct Moved {
    end: i64,
    topic: Arc<PopTopic>,
    queue_id: i32,
    offset: i64,
}

type Table = HashMap<Box<str>, HashMap<Box<str>, Arc<PopTopic>>>;

/// The pop state of a broker.
pub struct Pops {
    /// group -> stored topic.
    table: RwLock<Table>,
    book: Mutex<Book>,
    due: Mutex<BinaryHeap<Reverse<DueAt>>>,
    next_due: AtomicI64,
    moved: Mutex<VecDeque<Moved>>,
    listed: Mutex<Vec<Arc<PopTopic>>>,
    in_flight: AtomicUsize,
    dice: AtomicU64,
    /// Held by the loop that looks after what is due.
    expiring: Mutex<()>,
    /// Records whose copies were found in the log at start.
    delivered: HashSet<i64>,
    /// Groups whose messages were brought into memory, to be served by a loop.
    warmed: Mutex<Vec<(Arc<PopWaiters>, Arc<str>)>>,
    /// Pops parked now.
    pub parked: Arc<AtomicUsize>,
}

impl Pops {
    /// The state of a group on a stored topic; made when missing.
    pub fn topic(&self, group: &str, topic: &str) -> Arc<PopTopic> {
        if let Some(known) = self.existing(group, topic) {
            return known;
        }
        let mut table = self.table.write();
        let topics = table.entry(group.into()).or_default();
        let new = || Arc::new(PopTopic::new(group, topic));
        Arc::clone(topics.entry(topic.into()).or_insert_with(new))
    }

    /// The state of a group on a stored topic, if it ever popped there.
    pub fn existing(&self, group: &str, topic: &str) -> Option<Arc<PopTopic>> {
        self.table.read().get(group)?.get(topic).cloned()
    }

    /// The next offset that a group pops of a queue. Java: the pull offset of consume stats.
    pub fn next_offset(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let topic = self.existing(group, topic)?;
        topic.with_known(queue_id, |queue| queue.begun.then_some(queue.progress.next)).flatten()
    }

    /// The next offset that a group pops of a queue, and how many messages of it are in flight;
    /// `None` when it never popped there.
    pub fn progress(&self, group: &str, topic: &str, queue_id: i32) -> Option<(i64, i64)> {
        let topic = self.existing(group, topic)?;
        let progress = |queue: &mut PopQueue| {
            let progress = &queue.progress;
            queue.begun.then_some((progress.next, progress.flight.len() as i64))
        };
        topic.with_known(queue_id, progress).flatten()
    }

    /// Messages in flight, over all groups.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// A number without pattern.
    fn dice(&self) -> u64 {
        let step = self.dice.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        let mixed = (step ^ (step >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        (mixed ^ (mixed >> 27)) >> 16
    }

    fn due_at(&self, due_ms: i64, topic: &Arc<PopTopic>, queue_id: i32, key: i64) {
        let at = DueAt { due_ms, topic: Arc::clone(topic), queue_id, key };
        self.due.lock().push(Reverse(at));
        self.next_due.fetch_min(due_ms, Ordering::AcqRel);
    }

    /// When something is to be done next, if anything is in flight.
    pub fn next_due_ms(&self) -> Option<i64> {
        let due = self.next_due.load(Ordering::Acquire);
        (due < i64::MAX).then_some(due)
    }

    /// Settles a message. A stale receipt and a message that is not in flight change nothing.
    pub fn ack(&self, topic: &Arc<PopTopic>, queue_id: i32, offset: i64, pop_ms: i64) -> bool {
        topic.with(queue_id, |queue| {
            let good = queue.progress.flight.pop_ms_of(offset) == Some(pop_ms);
            if good {
                queue.progress.flight.remove(offset);
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
                self.note(topic, queue_id, queue, |id| Entry::Settled { id, offset });
            }
            good
        })
    }

    /// Gives a message another time. Returns the time of its new receipt, or `None` when the
    /// receipt is stale or the message not in flight.
    pub fn change(
        &self,
        topic: &Arc<PopTopic>,
        queue_id: i32,
        offset: i64,
        pop_ms: i64,
        single: Single,
    ) -> Option<i64> {
        topic.with(queue_id, |queue| {
            queue.progress.flight.pop_ms_of(offset).filter(|known| *known == pop_ms)?;
            // The old receipt must not fit any more, however fast it is.
            let pop_ms = single.times.pop_ms.max(pop_ms + 1);
            let times = Times { pop_ms, due_ms: single.times.due_ms };
            let single = Single { times, ..single };
            queue.progress.flight.change(offset, single);
            self.due_at(times.due_ms, topic, queue_id, offset);
            self.note(topic, queue_id, queue, |id| Entry::Changed { id, offset, single });
            Some(pop_ms)
        })
    }

    /// Acknowledges a message of an ordered group.
    pub fn ack_in_order(
        &self,
        topic: &Arc<PopTopic>,
        queue_id: i32,
        offset: i64,
        pop_ms: i64,
        now_ms: i64,
    ) -> OrderAck {
        topic.with(queue_id, |queue| {
            let next = queue.progress.next;
            let Some(order) = queue.progress.order.as_mut().filter(|_| offset >= next) else {
                return OrderAck::Held;
            };
            match order.ack(offset, pop_ms) {
                Acked::Unknown => return OrderAck::Unknown { next },
                Acked::Stale => return OrderAck::Held,
                Acked::Next(next) => queue.progress.next = next,
            }
            let free = order.blocked_until(now_ms).is_none();
            self.note_all(topic, queue_id, queue);
            if free { OrderAck::Free } else { OrderAck::Held }
        })
    }

    /// Gives a message of an ordered group another time, unless the receipt is stale.
    pub fn change_in_order(
        &self,
        topic: &Arc<PopTopic>,
        queue_id: i32,
        offset: i64,
        pop_ms: i64,
        visible_ms: i64,
    ) {
        topic.with(queue_id, |queue| {
            let next = queue.progress.next;
            let Some(order) = queue.progress.order.as_mut().filter(|_| offset >= next) else {
                return;
            };
            if order.change(offset, pop_ms, visible_ms) {
                self.due_at(visible_ms, topic, queue_id, ORDER_KEY);
                self.note_all(topic, queue_id, queue);
            }
        });
    }

    /// An operator or a client without pop has committed an offset.
    pub fn offset_was_set(&self, group: &str, topic: &str, queue_id: i32, offset: i64) {
        let Some(topic) = self.existing(group, topic) else { return };
        topic.with_known(queue_id, |queue| {
            if !queue.begun {
                return;
            }
            let before = queue.progress.flight.len();
            queue.move_to(offset);
            let after = queue.progress.flight.len();
            self.in_flight.fetch_sub(before - after, Ordering::Relaxed);
            self.note_all(&topic, queue_id, queue);
        });
    }

    /// Groups that have popped a stored topic.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        let table = self.table.read();
        let groups = table.iter().filter(|(_, topics)| topics.contains_key(topic));
        groups.map(|(group, _)| group.to_string()).collect()
    }

    /// Forgets a deleted topic.
    pub fn remove_topic(&self, topic: &str) {
        let mut table = self.table.write();
        let gone: Vec<_> = table.values_mut().filter_map(|topics| topics.remove(topic)).collect();
        table.retain(|_, topics| !topics.is_empty());
        drop(table);
        gone.iter().for_each(|topic| self.gone(topic));
    }

    /// Forgets a deleted group.
    pub fn remove_group(&self, group: &str) {
        let topics = self.table.write().remove(group);
        topics.iter().flat_map(HashMap::values).for_each(|topic| self.gone(topic));
    }

    fn gone(&self, topic: &PopTopic) {
        topic.gone.store(true, Ordering::Release);
        let mut queues = topic.queues.lock();
        let book = &mut *self.book.lock();
        for (queue_id, queue) in queues.drain(..).enumerate() {
            self.in_flight.fetch_sub(queue.progress.flight.len(), Ordering::Relaxed);
            let (group, topic) = (&*topic.group, &*topic.topic);
            let entry = Entry::Gone { group, topic, queue_id: queue_id as i32 };
            entry.write(book.journal.block());
        }
    }
}

impl DueAt {
    /// Whether something may still be due then.
    fn is_wanted(&self) -> bool {
        let wanted = self.topic.with_known(self.queue_id, |queue| {
            let progress = &queue.progress;
            match self.key {
                ORDER_KEY => progress.order.as_ref().is_some_and(|o| o.blocked_until(0).is_some()),
                key => !progress.flight.due_at(key, i64::MAX).is_empty(),
            }
        });
        wanted.unwrap_or(false)
    }
}
