//! The store as callers see it: opening, appending, committing, deleting, closing.
//!
//! Owns the parts and the threads. Locks: `pending` of the log around every append, one queue's
//! state inside of it; see `lib.rs` for the order. Never acknowledges: callers do, after
//! [`Store::commit`] and the watermark they wait for.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use base::clock::Clock;
use parking_lot::Mutex;
use wire::properties::{self, Known, MAX_PROPERTIES};
use wire::record::{
    INNER_BATCH, NewRecord, Place, TRANSACTION_COMMIT, TRANSACTION_MASK, TRANSACTION_ROLLBACK,
};

use crate::api::{AppendRefused, Appended, Entry, OpenError, Poisoned, StoreConfig, Watermarks};
use crate::checkpoint::{Checkpoint, Taken};
use crate::commit_log::{CommitLog, LastRecord, Pending};
use crate::deleted::DeletedTopics;
use crate::disk::Disk;
use crate::dispatch;
use crate::flusher::Flusher;
use crate::index::Index;
use crate::keep::Keeps;
use crate::lock_file::{self, StoreLock};
use crate::maintenance::{self, Signal};
pub use crate::queue::Queue;
use crate::queue::State;
use crate::queues::Queues;
use crate::recovery::{self, Recovered};

/// Longest topic in bytes.
const MAX_TOPIC: usize = 255;
/// Bytes of an `INNER_BASE` property with the largest offset.
const INNER_BASE_ROOM: usize = 31;

/// An open store directory.
pub struct Store {
    pub(crate) config: StoreConfig,
    pub(crate) clock: Clock,
    log: Arc<CommitLog>,
    queues: Queues,
    index: Option<Index>,
    pub(crate) deleted: Mutex<DeletedTopics>,
    pub(crate) keeps: Keeps,
    pub(crate) checkpoint: Mutex<Checkpoint>,
    flusher: Arc<Flusher>,
    pub(crate) background: Arc<Signal>,
    /// The disk is over the warning level.
    pub(crate) disk_full: AtomicBool,
    /// Why, in words.
    pub(crate) full: Mutex<String>,
    /// What retention decided last.
    pub(crate) decision: Mutex<String>,
    closed: AtomicBool,
    threads: Mutex<Vec<JoinHandle<()>>>,
    lock: Mutex<Option<StoreLock>>,
    delivered: Vec<i64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.config.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens or creates the store of `config`, recovers it (logged with milliseconds and number of
    /// records) and starts its threads. Java stores of 4.x and 5.x open as they are.
    pub fn open(config: StoreConfig, clock: Clock) -> Result<Arc<Store>, OpenError> {
        let root = config.root.clone();
        let store = Store::open_stepped(config, clock)?;
        store.start_threads().map_err(OpenError::io(&root))?;
        Ok(store)
    }

    /// [`Store::open`] without threads: nothing happens but what the caller asks for, by
    /// [`Store::flush`] and [`Store::look_after`] too. For tests that want every step at its place.
    pub fn open_stepped(config: StoreConfig, clock: Clock) -> Result<Arc<Store>, OpenError> {
        let root = config.root.clone();
        let disk = config.disk.clone();
        disk.create_dirs_durably(&root).map_err(OpenError::io(&root))?;
        let lock = StoreLock::take(&disk, &root)?;
        let Recovered { log, queues, index, deleted, checkpoint, delivered } =
            recovery::recover(&config, &clock)?;
        lock_file::set_abort(&disk, &root).map_err(OpenError::io(&root))?;
        let store = Arc::new(Store {
            flusher: Arc::new(Flusher::new(config.flush, config.flush_interval_ms)),
            config,
            clock,
            log: Arc::new(log),
            queues,
            index,
            deleted: Mutex::new(deleted),
            keeps: Keeps::default(),
            checkpoint: Mutex::new(checkpoint),
            background: Arc::default(),
            disk_full: AtomicBool::new(false),
            full: Mutex::default(),
            decision: Mutex::default(),
            closed: AtomicBool::new(false),
            threads: Mutex::default(),
            lock: Mutex::new(Some(lock)),
            delivered,
        });
        Ok(store)
    }

    /// Where the files are.
    pub fn disk(&self) -> &Disk {
        &self.config.disk
    }

    /// Brings everything written to the disk, as the flush thread does, and returns up to where.
    pub fn flush(&self) -> Result<i64, Poisoned> {
        self.log.flush()
    }

    fn start_threads(self: &Arc<Store>) -> io::Result<()> {
        let (flusher, log) = (Arc::clone(&self.flusher), Arc::clone(&self.log));
        let flush = std::thread::Builder::new().name("store-flush".into());
        let flush = flush.spawn(move || flusher.run(&*log))?;
        // The thread must not keep a store alive that everybody else has dropped.
        let (signal, store) = (Arc::clone(&self.background), Arc::downgrade(self));
        let work = std::thread::Builder::new().name("store-background".into());
        let work = work.spawn(move || maintenance::run(&signal, &store))?;
        self.threads.lock().extend([flush, work]);
        Ok(())
    }

    /// Physical offsets of messages whose delivered copies (those that carry a
    /// `preparedTransactionOffset`) the recovery came across: everything that was delivered right
    /// before a kill is among them, so that nothing is delivered again for want of its mark.
    pub fn delivered_before_start(&self) -> &[i64] {
        &self.delivered
    }

    /// Whether a Java broker has started on this store since [`Store::claim`]. What Java has no
    /// file for is then older than what Java has.
    pub fn left_by_java(&self) -> bool {
        self.lock.lock().as_ref().is_some_and(StoreLock::of_java)
    }

    /// Says durably that everything which a Java broker left is taken over.
    pub fn claim(&self) -> io::Result<()> {
        self.lock.lock().as_ref().map_or(Ok(()), StoreLock::claim)
    }

    pub(crate) fn log(&self) -> &CommitLog {
        &self.log
    }
    pub(crate) fn queues(&self) -> &Queues {
        &self.queues
    }
    pub(crate) fn index(&self) -> Option<&Index> {
        self.index.as_ref()
    }

    /// The queue, if it ever had a message or was created since the start. Never creates.
    pub fn queue(&self, topic: &str, queue_id: i32) -> Option<Arc<Queue>> {
        self.queues.find(topic, queue_id)
    }

    /// The queue; a new one has no folder on disk until its first entry is flushed. The topic
    /// becomes a directory name: the caller has checked it.
    pub fn queue_or_create(&self, topic: &str, queue_id: i32) -> Arc<Queue> {
        self.queues.find_or_create(topic, queue_id, false)
    }

    /// The same for a topic with `queue.type=BatchCQ`. A queue that exists stays what it is: see
    /// [`Queue::is_batch`]. May make a directory, whose absence tells the next start that
    /// somebody removed the batch queues.
    pub fn batch_queue_or_create(&self, topic: &str, queue_id: i32) -> Arc<Queue> {
        let queue = self.queues.find_or_create(topic, queue_id, true);
        if let Err(error) = self.queues.make_batch_dir(topic) {
            tracing::warn!(topic, %error, "cannot make the directory of batch queues");
        }
        queue
    }

    /// All topics that have queues, with their queue ids; sorted.
    pub fn topics(&self) -> Vec<(String, Vec<i32>)> {
        self.queues.topics()
    }

    /// Gives a record its place and takes it into memory; [`Store::commit`] makes it count.
    /// `record.topic` and `record.queue_id` are those of `queue`, `known` is the scan of its
    /// properties. Prepared and rolled back records get queue offset 0 and no queue entry.
    pub fn append(
        &self,
        queue: &Arc<Queue>,
        record: &NewRecord<'_>,
        known: &Known<'_>,
    ) -> Result<Appended, AppendRefused> {
        self.check(record, false)?;
        let mut pending = self.log.lock_pending();
        let state = &mut *queue.state.lock();
        let (appended, wake) = self.append_one(queue, state, &mut pending, (record, known), 1)?;
        drop(pending);
        self.wake_for(wake, appended.end);
        Ok(appended)
    }

    /// Appends one record that holds `count` messages, its body being a client batch, to a batch
    /// queue: it takes that many queue offsets. `record` has the sysFlag of an inner batch and
    /// `INNER_NUM` among its properties; `INNER_BASE` is put in front of them here, where the
    /// offset is known. Java: `BatchConsumeQueue.assignQueueOffset`.
    pub fn append_inner_batch(
        &self,
        queue: &Arc<Queue>,
        record: &NewRecord<'_>,
        known: &Known<'_>,
        count: i16,
    ) -> Result<Appended, AppendRefused> {
        self.check(record, true)?;
        if !queue.is_batch() || count < 1 {
            return Err(AppendRefused::InnerBatch);
        }
        let mut text = String::with_capacity(record.properties.len() + INNER_BASE_ROOM);
        let mut pending = self.log.lock_pending();
        let state = &mut *queue.state.lock();
        properties::push(&mut text, properties::INNER_BASE, &state.next.to_string());
        text.push_str(record.properties);
        let record = NewRecord { properties: &text, ..*record };
        self.check(&record, true)?;
        let (appended, wake) =
            self.append_one(queue, state, &mut pending, (&record, known), count)?;
        drop(pending);
        self.wake_for(wake, appended.end);
        Ok(appended)
    }

    /// The part of an append under the locks; also tells whether the background thread must wake.
    pub(crate) fn append_one(
        &self,
        queue: &Arc<Queue>,
        state: &mut State,
        pending: &mut Pending,
        (record, known): (&NewRecord<'_>, &Known<'_>),
        count: i16,
    ) -> Result<(Appended, bool), AppendRefused> {
        let now_ms = self.clock.now_ms();
        self.check_state(state.deleted)?;
        let len = record.encoded_len();
        let at = self.place(pending, len, now_ms)?;
        let timestamp_ms = now_ms.max(pending.last.timestamp_ms);
        let one = (record, known, count);
        let (before, next) = (pending.last.taken.through, state.next);
        let place = self.put(queue, state, &mut pending.bytes, one, at, timestamp_ms);
        let taken = Taken { before, through: before + state.next - next };
        let mut wake = self.list(queue, state, now_ms);
        wake |= self.push_keys(queue, record, known, place);
        let end = at + len as i64;
        self.log.publish(pending, end, LastRecord { start: at, timestamp_ms, taken });
        Ok((Appended { place, end, len }, wake))
    }

    fn place(&self, pending: &mut Pending, len: usize, now_ms: i64) -> Result<i64, AppendRefused> {
        let placed = self.log.place(pending, len, now_ms);
        if placed.is_err() && self.log.take_refused() {
            self.background.retain_soon();
        }
        placed
    }

    pub(crate) fn wake_for(&self, wake: bool, end: i64) {
        if wake || self.log.wants_reserve(end) {
            self.background.wake();
        }
    }

    /// Appends the records of one batch, all or none, next to each other in one file. Their
    /// physical offsets replace the content of `physical`; queue offsets count up from that of
    /// the returned first record, and `end` is behind the last one.
    pub fn append_batch(
        &self,
        queue: &Arc<Queue>,
        records: &[(NewRecord<'_>, Known<'_>)],
        physical: &mut Vec<i64>,
    ) -> Result<Appended, AppendRefused> {
        physical.clear();
        let mut total = 0;
        for (record, _) in records {
            total += self.check(record, false)?;
        }
        let mut wake = false;
        let mut first = None;
        let mut pending = self.log.lock_pending();
        let state = &mut *queue.state.lock();
        let now_ms = self.clock.now_ms();
        self.check_state(state.deleted)?;
        let start = self.place(&mut pending, total, now_ms)?;
        let timestamp_ms = now_ms.max(pending.last.timestamp_ms);
        let (mut at, mut last) = (start, start);
        let mut taken = pending.last.taken;
        for (record, known) in records {
            let one = (record, known, 1);
            let next = state.next;
            let place = self.put(queue, state, &mut pending.bytes, one, at, timestamp_ms);
            wake |= self.list(queue, state, now_ms);
            wake |= self.push_keys(queue, record, known, place);
            let before = taken.through;
            taken = Taken { before, through: before + state.next - next };
            physical.push(at);
            last = at;
            let len = record.encoded_len();
            at += len as i64;
            first.get_or_insert((place, len));
        }
        self.log.publish(&mut pending, at, LastRecord { start: last, timestamp_ms, taken });
        drop(pending);
        self.wake_for(wake, at);
        let nothing =
            Place { queue_offset: state.next, physical_offset: at, store_timestamp: now_ms };
        let (place, len) = first.unwrap_or((nothing, 0));
        Ok(Appended { place, end: at, len })
    }

    /// What can be known without a lock; the record's length.
    pub(crate) fn check(
        &self,
        record: &NewRecord<'_>,
        inner: bool,
    ) -> Result<usize, AppendRefused> {
        if self.closed.load(Ordering::Acquire) {
            return Err(AppendRefused::Closed);
        }
        if self.log.is_poisoned() {
            return Err(AppendRefused::Poisoned);
        }
        if self.disk_full.load(Ordering::Relaxed) {
            return Err(AppendRefused::DiskFull);
        }
        for (len, max) in
            [(record.topic.len(), MAX_TOPIC), (record.properties.len(), MAX_PROPERTIES)]
        {
            if len > max {
                return Err(AppendRefused::TooLarge { len, max });
            }
        }
        if (record.sys_flag & INNER_BATCH != 0) != inner {
            return Err(AppendRefused::InnerBatch);
        }
        Ok(record.encoded_len())
    }

    fn check_state(&self, deleted: bool) -> Result<(), AppendRefused> {
        match deleted {
            // Looked at again under the lock, so that nothing comes in behind a close.
            _ if self.closed.load(Ordering::Acquire) => Err(AppendRefused::Closed),
            true => Err(AppendRefused::QueueDeleted),
            false => Ok(()),
        }
    }

    /// Encodes a record at its place and adds its queue entry; nothing can fail any more.
    fn put(
        &self,
        queue: &Queue,
        state: &mut State,
        out: &mut Vec<u8>,
        (record, known, count): (&NewRecord<'_>, &Known<'_>, i16),
        physical_offset: i64,
        store_timestamp: i64,
    ) -> Place {
        debug_assert_eq!((record.topic, record.queue_id), (queue.topic(), queue.id()));
        let transaction = record.sys_flag & TRANSACTION_MASK;
        let visible = transaction == 0 || transaction == TRANSACTION_COMMIT;
        let queue_offset = if visible { state.next } else { 0 };
        let place = Place { queue_offset, physical_offset, store_timestamp };
        let before = out.len();
        record.encode(place, out);
        if visible {
            let size = (out.len() - before) as i32;
            let levels = &self.config.delay_levels_ms;
            let tags_code = dispatch::tags_code(queue.topic(), known, store_timestamp, levels);
            state.add(Entry { physical_offset, size, tags_code }, store_timestamp, count);
        }
        place
    }

    pub(crate) fn list(&self, queue: &Arc<Queue>, state: &mut State, now_ms: i64) -> bool {
        state.next > state.flushed && self.queues.list(queue, state, now_ms)
    }

    fn push_keys(
        &self,
        queue: &Queue,
        record: &NewRecord<'_>,
        known: &Known<'_>,
        place: Place,
    ) -> bool {
        let Some(index) = &self.index else { return false };
        if queue.unindexed.load(Ordering::Relaxed) {
            return false;
        }
        let mut wake = false;
        if record.sys_flag & TRANSACTION_MASK != TRANSACTION_ROLLBACK {
            dispatch::each_key(known, queue.key_hash, |hash| {
                wake |= index.push(hash, place.physical_offset, place.store_timestamp);
            });
        }
        wake
    }

    /// Says whether messages to come of a topic's present queues are found by key. What a start
    /// finds behind the end of the index is put there in any case.
    pub fn set_indexed(&self, topic: &str, indexed: bool) {
        for queue in self.queues.of_topic(topic) {
            queue.unindexed.store(!indexed, Ordering::Relaxed);
        }
    }

    /// Writes everything appended so far and returns the `written` watermark. Every appender
    /// calls it at the end of its turn; concurrent callers share one write.
    pub fn commit(&self) -> Result<i64, Poisoned> {
        let written = self.log.commit()?;
        if written > self.log.flushed() {
            self.flusher.written(&*self.log);
        }
        Ok(written)
    }

    /// The present positions of the log.
    pub fn watermarks(&self) -> Watermarks {
        // From the smallest up, so that the order holds in the snapshot too.
        let min = self.log.min();
        let flushed = self.log.flushed();
        let readable = self.log.readable();
        let written = self.log.written();
        let appended = self.log.appended();
        Watermarks { appended, written, flushed, readable, min }
    }

    /// Whether a write or sync failed; appends and commits are then refused for good, and nothing
    /// that waits for a watermark will get it.
    pub fn is_poisoned(&self) -> bool {
        self.log.is_poisoned()
    }

    /// Sets what the flush thread calls after `flushed` moved or the store was poisoned. It must
    /// return soon and not call the store's close. Only the first call counts.
    pub fn on_flushed(&self, call: Box<dyn Fn() + Send + Sync>) {
        self.flusher.set_on_flushed(call);
    }

    /// Lets those who wait for the disk look again.
    pub(crate) fn tell_flushed(&self) {
        self.flusher.tell();
    }

    /// Removes a topic's queues and their files. Its records stay in the log until they expire,
    /// but never come back, not even after a kill; a queue created later begins at offset 0. Old
    /// handles refuse appends. Waits for files, so it may block.
    pub fn delete_topic(&self, topic: &str) -> io::Result<()> {
        self.queues.remove_topic(topic, || {
            let mut deleted = self.deleted.lock();
            let end = self.log.forget_taken(|| self.queues.forget_topic(topic));
            deleted.add(topic, end)?;
            self.forget_taken()
        })
    }

    /// What the checkpoint says of all queues together is no longer true: a kill right now must not
    /// look like damage.
    fn forget_taken(&self) -> io::Result<()> {
        let mut checkpoint = self.checkpoint.lock();
        if checkpoint.taken.take().is_none() {
            return Ok(());
        }
        checkpoint.save(&self.config.disk, &self.config.root.join("checkpoint"))
    }

    /// Stops cleanly: refuses appends, writes and syncs everything, removes the `abort` mark and
    /// lets go of the lock. After an error the mark stays, so that the next start recovers. A
    /// second call does nothing.
    pub fn close(&self) -> io::Result<()> {
        if self.closed.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        self.stop_threads();
        // What readers hold stays for the next start.
        let _ = (0..1000).any(|_| !self.log.trash.step().unwrap_or(false));
        let result = self
            .settle(true)
            .and_then(|()| lock_file::clear_abort(&self.config.disk, &self.config.root));
        self.lock.lock().take();
        result
    }

    /// Stops the threads and lets go of the lock without writing anything: what a kill leaves
    /// behind. For tests.
    pub fn abandon(&self) {
        self.closed.store(true, Ordering::Release);
        self.stop_threads();
        self.lock.lock().take();
    }

    fn stop_threads(&self) {
        self.flusher.stop();
        self.background.stop();
        for thread in self.threads.lock().drain(..) {
            // The background thread may be the one that drops the last handle.
            if thread.thread().id() != std::thread::current().id() && thread.join().is_err() {
                tracing::error!("a store thread panicked");
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.abandon();
    }
}
