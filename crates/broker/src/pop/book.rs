//! The pop journal and the state in memory: what is written, when, and how it is read at start.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use parking_lot::{Mutex, RwLock};
use store::{Journal, Store};

use super::entries::{self, Entry, Progress};
use super::in_flight::{Single, Times};
use super::{ORDER_KEY, PopQueue, PopTopic, Pops};
use crate::offsets::Offsets;
use crate::topics::Topics;

/// A generation of the journal may grow by this much and by four times its first size.
const JOURNAL_ROOM: u64 = 16 << 20;
/// A compaction writes blocks of this size.
const COMPACT_BLOCK: usize = 1 << 20;
/// Times of settled messages that may stay in the list of due times.
const DUE_ROOM: usize = 65_536;
/// A message whose copy was lost.
const OVERDUE: Single = Single { times: Times { pop_ms: 0, due_ms: 0 }, suspended: false };

/// The journal with what its owner knows of it.
pub(super) struct Book {
    pub(super) journal: Journal,
    next_id: u64,
    /// Size of the journal when it was last complete.
    base_len: u64,
    /// Older generations are still needed.
    partial: bool,
    synced_len: u64,
}

impl Pops {
    /// Reads the journal and finds out what is in flight. Where a Java broker was here since, it
    /// does not count: messages in flight were not committed, so that one has handed them out
    /// anew, and its own check points are taken over. Errors: the journal cannot be read.
    pub fn load(dir: &Path, topics: &Topics, store: &Store, offsets: &Offsets) -> io::Result<Pops> {
        let mut replay = Replay::default();
        let journal =
            Journal::open(store.disk(), dir, |generation, block| replay.block(generation, block))?;
        let partial = replay.generation > 0;
        let book = Book { journal, next_id: 0, base_len: 0, partial, synced_len: 0 };
        let pops = Pops {
            table: RwLock::default(),
            book: Mutex::new(book),
            due: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            moved: Mutex::default(),
            listed: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            dice: AtomicU64::new(1),
            expiring: Mutex::new(()),
            delivered: store.delivered_before_start().iter().copied().collect(),
            warmed: Mutex::default(),
            parked: Arc::default(),
        };
        if store.left_by_java() && !replay.queues.is_empty() {
            tracing::info!("a Java broker was here: what it knows of popped messages counts");
            replay.queues.clear();
        }
        let log_end = store.watermarks().appended;
        for ((group, topic, queue_id), mut progress) in replay.queues {
            for (offset, end) in std::mem::take(&mut progress.moved) {
                if end > log_end {
                    progress.flight.put_single(offset, OVERDUE);
                }
            }
            pops.restore(&group, &topic, queue_id, progress, topics, offsets);
        }
        // Before the log grows: what it has lost must not seem to be there again later.
        if partial {
            pops.compact()?;
        }
        Ok(pops)
    }

    /// Takes over what the journal says of a queue, cut to what the log still has.
    fn restore(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        mut progress: Progress,
        topics: &Topics,
        offsets: &Offsets,
    ) {
        let Some(stored) = topics.queue(topic, queue_id) else { return };
        // After power loss the log may be shorter than what was popped of it.
        let end = stored.queue.next_offset();
        progress.flight.truncate(end);
        progress.next = progress.next.min(end);
        let committed = offsets.get(group, topic, queue_id).unwrap_or(-1);
        if committed > progress.next {
            progress.next = committed.min(end);
            progress.order = None;
        }
        self.in_flight.fetch_add(progress.flight.len(), Ordering::Relaxed);
        let topic = self.topic(group, topic);
        let order = progress.order.as_ref().and_then(|order| order.blocked_until(0));
        for (key, due_ms) in progress.flight.due_times() {
            self.due_at(due_ms, &topic, queue_id, key);
        }
        order.into_iter().for_each(|ms| self.due_at(ms, &topic, queue_id, ORDER_KEY));
        let new = PopQueue { committed, dirty: true, ..PopQueue::new(progress, true) };
        topic.with(queue_id, |queue| *queue = new);
        self.list(&topic);
    }

    /// Bytes written to the journal since the start.
    pub fn journal_bytes(&self) -> u64 {
        self.book.lock().journal.total()
    }

    /// Writes a change to the journal: the entry, or all about the queue when this generation does
    /// not know it yet.
    pub(super) fn note(
        &self,
        topic: &Arc<PopTopic>,
        queue_id: i32,
        queue: &mut PopQueue,
        entry: impl FnOnce(u64) -> Entry<'static>,
    ) {
        self.note_queue(topic, queue_id, queue, Some(entry));
        queue.dirty = true;
        self.list(topic);
    }

    /// Writes all about the queue.
    pub(super) fn note_all(&self, topic: &Arc<PopTopic>, queue_id: i32, queue: &mut PopQueue) {
        queue.generation = 0;
        self.note_queue(topic, queue_id, queue, None::<fn(u64) -> Entry<'static>>);
        queue.dirty = true;
        self.list(topic);
    }

    fn note_queue(
        &self,
        topic: &PopTopic,
        queue_id: i32,
        queue: &mut PopQueue,
        entry: Option<impl FnOnce(u64) -> Entry<'static>>,
    ) {
        let book = &mut *self.book.lock();
        let generation = book.journal.generation();
        match entry {
            Some(entry) if queue.generation == generation => {
                entry(queue.id).write(book.journal.block());
            }
            _ => {
                (queue.generation, queue.id) = (generation, book.next_id);
                book.next_id += 1;
                let names = (&*topic.group, &*topic.topic, queue_id);
                entries::write_state(book.journal.block(), queue.id, names, &queue.progress);
            }
        }
    }

    pub(super) fn list(&self, topic: &Arc<PopTopic>) {
        if !topic.listed.swap(true, Ordering::AcqRel) {
            self.listed.lock().push(Arc::clone(topic));
        }
    }

    /// Writes what the turn has changed, before its answers go out, and commits the offsets that
    /// moved. A journal that cannot be written costs duplicates after a crash, no message.
    pub fn turn_end(&self, offsets: &Offsets, now_ms: i64) {
        let listed = std::mem::take(&mut *self.listed.lock());
        for topic in listed {
            topic.listed.store(false, Ordering::Release);
            let mut queues = topic.queues.lock();
            for (id, queue) in queues.iter_mut().enumerate().filter(|(_, queue)| queue.dirty) {
                queue.dirty = false;
                let (open, before) = (queue.progress.first_open(), queue.committed);
                let (group, name) = (&topic.group, &topic.topic);
                if offsets.commit_from(group, name, id as i32, (before, open), now_ms) {
                    queue.committed = open;
                }
            }
        }
        let mut book = self.book.lock();
        if let Err(error) = book.journal.write() {
            (book.partial, book.next_id) = (true, 0);
            tracing::error!(%error, "the pop journal cannot be written: after a crash messages \
                that were acknowledged meanwhile would come again; free disk space");
        }
    }

    /// Writes all changes and brings them to disk; for what was just taken over at start.
    pub fn save(&self) -> io::Result<()> {
        let mut book = self.book.lock();
        book.journal.write()?;
        book.journal.current_file().map_or(Ok(()), |file| file.sync_data())
    }

    /// Brings the journal to disk, and writes it anew when it has grown. By the background thread.
    pub fn housekeeping(&self) {
        self.clean_due();
        let (file, len, grown) = {
            let book = self.book.lock();
            let len = book.journal.len();
            let grown = len > JOURNAL_ROOM + 4 * book.base_len;
            (book.journal.current_file().filter(|_| len > book.synced_len), len, grown)
        };
        if let Some(file) = file
            && let Err(error) = file.sync_data()
        {
            tracing::error!(%error, "the pop journal cannot be synced");
        }
        let partial = {
            let mut book = self.book.lock();
            book.synced_len = len.min(book.journal.len());
            if grown {
                let _ = book.journal.write(); // what is lost with it is written anew right now
                book.journal.begin();
                (book.partial, book.next_id, book.synced_len) = (true, 0, 0);
            }
            book.partial
        };
        if partial && let Err(error) = self.compact() {
            tracing::error!(%error, "the pop journal cannot be written anew yet");
        }
    }

    /// Drops the times of what is settled long since.
    fn clean_due(&self) {
        let mut due = self.due.lock();
        if due.len() < 2 * self.in_flight() + DUE_ROOM {
            return;
        }
        let mut all = std::mem::take(&mut *due).into_vec();
        drop(due);
        all.retain(|Reverse(at)| at.is_wanted());
        let mut due = self.due.lock();
        due.extend(all);
        // A loop may have seen the empty list meanwhile.
        let next = due.peek().map_or(i64::MAX, |Reverse(at)| at.due_ms);
        self.next_due.fetch_min(next, Ordering::AcqRel);
    }

    /// Writes every queue that the newest generation does not know, then drops the older ones.
    fn compact(&self) -> io::Result<()> {
        let table = self.table.read();
        let topics: Vec<_> = table.values().flat_map(HashMap::values).cloned().collect();
        drop(table);
        let generation = self.book.lock().journal.generation();
        for topic in topics {
            let mut queues = topic.queues.lock();
            for (id, queue) in queues.iter_mut().enumerate() {
                if queue.begun && queue.generation != generation {
                    let none = None::<fn(u64) -> Entry<'static>>;
                    self.note_queue(&topic, id as i32, queue, none);
                }
            }
            drop(queues);
            let mut book = self.book.lock();
            if book.journal.block().len() > COMPACT_BLOCK {
                book.journal.write()?;
            }
        }
        let mut book = self.book.lock();
        book.journal.write()?;
        let file = book.journal.current_file();
        drop(book);
        file.map_or(Ok(()), |file| file.sync_data())?;
        let mut book = self.book.lock();
        if book.journal.generation() == generation {
            book.journal.drop_older()?;
            (book.partial, book.base_len) = (false, book.journal.len());
        }
        Ok(())
    }
}

/// What the journal says, while it is read.
#[derive(Default)]
struct Replay {
    queues: HashMap<(String, String, i32), Progress>,
    names: HashMap<u64, (String, String, i32)>,
    generation: u64,
}

impl Replay {
    fn block(&mut self, generation: u64, block: &[u8]) {
        if self.generation != generation {
            self.generation = generation;
            self.names.clear();
        }
        entries::read(block, |entry| self.entry(entry));
    }

    fn of(&mut self, id: u64) -> Option<&mut Progress> {
        self.queues.get_mut(self.names.get(&id)?)
    }

    fn entry(&mut self, entry: Entry<'_>) {
        match entry {
            Entry::State { id, group, topic, queue_id, progress } => {
                let names = (group.to_owned(), topic.to_owned(), queue_id);
                self.names.insert(id, names.clone());
                self.queues.insert(names, *progress);
            }
            Entry::Popped { id, next, offsets, times } => {
                let Some(progress) = self.of(id) else { return };
                progress.next = next;
                progress.flight.popped(&offsets, times);
            }
            Entry::Settled { id, offset } => {
                let Some(progress) = self.of(id) else { return };
                progress.moved.remove(&offset);
                progress.flight.remove(offset);
            }
            Entry::Moved { id, offset, end } => {
                let Some(progress) = self.of(id) else { return };
                progress.flight.remove(offset);
                progress.moved.insert(offset, end);
            }
            Entry::Changed { id, offset, single } => {
                let Some(progress) = self.of(id) else { return };
                progress.flight.change(offset, single);
            }
            Entry::Gone { group, topic, queue_id } => {
                self.queues.remove(&(group.to_owned(), topic.to_owned(), queue_id));
            }
        }
    }
}
