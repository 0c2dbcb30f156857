//! All consume queues: the table of them, their files, and the list of those to look after.
//!
//! Owns `consumequeue/` and `batchconsumequeue/` on disk. Locks: `table` for look-ups, one queue's
//! state for moments, `listed` inside of that, `handles` for moments, and `flushing` for as long as
//! queues are written, by one thread at a time. Never scans all queues to find work, never writes
//! an entry whose record is above the end it is given, and keeps at most 64 files open. Looking up
//! batches is in `batch_reading.rs`, what follows the log's start and recovery in
//! `queue_upkeep.rs`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::api::{Entry, Wait};
use crate::disk::{Disk, File};
use crate::handles::{FileKey, Handles};
use crate::queue::{Queue, State};
use crate::queue_files::{Layout, UNIT, ignore_absent};

/// Entries read from a file at once.
pub(crate) const BLOCK: usize = 128;
/// A queue is written when it has this many new entries (4 KiB) …
const FULL: i64 = 205;
/// … or when the oldest of them is this old.
const DUE_MS: i64 = 5000;
/// Newest entries that a busy queue keeps in memory.
const KEEP: usize = 512;
/// Fewer appends than this in [`DUE_MS`] make a queue an idle one, which keeps nothing.
const BUSY: i64 = 64;
/// More files than this are not synced one by one, but with the whole file system.
const SYNC_FILES: usize = 64;

type Table = HashMap<Arc<str>, Vec<Arc<Queue>>, RandomState>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) disk: Disk,
    root: PathBuf,
    /// Of ordinary queues and of batch queues.
    layouts: [Layout; 2],
    table: RwLock<Table>,
    listed: Mutex<Listed>,
    pub(crate) handles: Mutex<Handles>,
    flushing: Mutex<Flushing>,
    next_uid: AtomicU64,
}

#[derive(Debug, Default)]
struct Listed {
    /// Queues with new entries, and when they are due; in order of time.
    due: VecDeque<(i64, Arc<Queue>)>,
    /// Queues that reached [`FULL`].
    full: Vec<Arc<Queue>>,
}

#[derive(Debug, Default)]
struct Flushing {
    bytes: Vec<u8>,
    /// The other buffer of the full queues.
    full: Vec<Arc<Queue>>,
    /// Files and directories written since the last sync; complete while at most [`SYNC_FILES`].
    touched: BTreeMap<FileKey, PathBuf>,
    new_dirs: Vec<PathBuf>,
    too_many: bool,
}

impl Queues {
    /// No queue at all; the files are under `root`.
    pub(crate) fn new(disk: Disk, root: PathBuf, layouts: [Layout; 2]) -> Queues {
        Queues {
            disk,
            root,
            layouts,
            table: RwLock::default(),
            listed: Mutex::default(),
            handles: Mutex::default(),
            flushing: Mutex::default(),
            next_uid: AtomicU64::new(0),
        }
    }

    /// Forgets all queues; for recovery, which loads them once more.
    pub(crate) fn forget_all(&mut self) {
        self.table.get_mut().clear();
        *self.listed.get_mut() = Listed::default();
        *self.handles.get_mut() = Handles::default();
    }

    pub(crate) fn layouts(&self) -> &[Layout; 2] {
        &self.layouts
    }

    /// The layout of a queue's files.
    pub(crate) fn layout(&self, queue: &Queue) -> &Layout {
        &self.layouts[usize::from(queue.is_batch())]
    }

    pub(crate) fn find(&self, topic: &str, id: i32) -> Option<Arc<Queue>> {
        let table = self.table.read();
        let queues = table.get(topic)?;
        queues.binary_search_by_key(&id, |queue| queue.id()).ok().map(|at| Arc::clone(&queues[at]))
    }

    /// The queue; a new one is a batch queue if so wanted, a present one stays what it is.
    pub(crate) fn find_or_create(&self, topic: &str, id: i32, batch: bool) -> Arc<Queue> {
        self.find(topic, id).unwrap_or_else(|| {
            let state = if batch { State::batch() } else { State::default() };
            self.insert(topic, id, state)
        })
    }

    /// Makes the directory that the batch queues of a topic have, also before their first entry.
    pub(crate) fn make_batch_dir(&self, topic: &str) -> io::Result<()> {
        self.disk.create_dir_all(&self.layouts[1].dir.join(topic))
    }

    /// Whether a topic with batch queues has lost their directory, or never had one.
    pub(crate) fn lacks_batch_dir(&self, topic: &str) -> bool {
        !self.disk.exists(&self.layouts[1].dir.join(topic))
    }

    /// Adds a queue; the present one wins when there is one.
    pub(crate) fn insert(&self, topic: &str, id: i32, state: State) -> Arc<Queue> {
        let mut table = self.table.write();
        let topic = match table.get_key_value(topic) {
            Some((topic, _)) => Arc::clone(topic),
            None => Arc::from(topic),
        };
        let queues = table.entry(Arc::clone(&topic)).or_default();
        match queues.binary_search_by_key(&id, |queue| queue.id()) {
            Ok(at) => Arc::clone(&queues[at]),
            Err(at) => {
                let uid = self.next_uid.fetch_add(1, Ordering::Relaxed);
                let queue = Arc::new(Queue::new(topic, id, uid, state));
                queues.insert(at, Arc::clone(&queue));
                queue
            }
        }
    }

    /// Every queue; a snapshot, in order, so that a test does the same again.
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        let mut all: Vec<_> = self.table.read().values().flatten().cloned().collect();
        all.sort_unstable_by(|one, other| {
            (one.topic(), one.id()).cmp(&(other.topic(), other.id()))
        });
        all
    }

    /// The queues of a topic, by id.
    pub(crate) fn of_topic(&self, topic: &str) -> Vec<Arc<Queue>> {
        self.table.read().get(topic).cloned().unwrap_or_default()
    }

    /// Topics and queue ids, sorted.
    pub(crate) fn topics(&self) -> Vec<(String, Vec<i32>)> {
        let table = self.table.read();
        let mut topics: Vec<_> = table
            .iter()
            .map(|(topic, queues)| (topic.to_string(), queues.iter().map(|q| q.id()).collect()))
            .collect();
        topics.sort();
        topics
    }

    /// Removes a topic's queues and files. `forget` runs after no flush can happen and before the
    /// files go; it calls [`Queues::forget_topic`].
    pub(crate) fn remove_topic(
        &self,
        topic: &str,
        forget: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<()> {
        let _flushing = self.flushing.lock();
        forget()?;
        for layout in &self.layouts {
            let dir = layout.dir.join(topic);
            if self.disk.exists(&dir) {
                self.disk.remove_dir_all(&dir)?;
                // Once its deletion is forgotten, nothing of the topic may come back.
                self.disk.sync_dir(&layout.dir)?;
            }
        }
        Ok(())
    }

    /// Takes a topic out of the table, marks its queues, and returns how many offsets they had
    /// given away.
    pub(crate) fn forget_topic(&self, topic: &str) -> i64 {
        let gone = self.table.write().remove(topic).unwrap_or_default();
        let mut taken = 0;
        for queue in &gone {
            let mut state = queue.state.lock();
            state.deleted = true;
            taken += state.next;
        }
        self.handles.lock().forget(|(uid, _)| gone.iter().any(|queue| queue.uid == *uid));
        taken
    }

    /// Offsets that all queues have given away.
    pub(crate) fn taken(&self) -> i64 {
        self.all().iter().map(|queue| queue.state.lock().next).fold(0, i64::wrapping_add)
    }

    /// Notes that `queue` has new entries; called under its lock. Returns whether the background
    /// thread must be woken.
    pub(crate) fn list(&self, queue: &Arc<Queue>, state: &mut State, now_ms: i64) -> bool {
        let is_full = state.next_slot() - state.flushed_slot() == FULL;
        if state.listed && !is_full {
            return false;
        }
        let mut listed = self.listed.lock();
        let mut wake = false;
        if !state.listed {
            state.listed = true;
            state.listed_at = state.next - 1;
            wake |= listed.due.is_empty();
            listed.due.push_back((now_ms + DUE_MS, Arc::clone(queue)));
        }
        if is_full {
            wake |= listed.full.is_empty();
            listed.full.push(Arc::clone(queue));
        }
        wake
    }

    /// Milliseconds until [`Queues::flush_due`] has something to do; `None`: nothing is listed.
    pub(crate) fn next_due_in(&self, now_ms: i64) -> Option<i64> {
        let listed = self.listed.lock();
        if !listed.full.is_empty() {
            return Some(0);
        }
        listed.due.front().map(|(due, _)| (due - now_ms).clamp(0, DUE_MS))
    }

    /// Writes the queues that are full or due. With `all` every listed one is due.
    pub(crate) fn flush_due(&self, now_ms: i64, readable: i64, all: bool) -> io::Result<()> {
        let mut flushing = self.flushing.lock();
        let mut full = std::mem::take(&mut flushing.full);
        // Two buffers in turn, so that appenders find one that has its size.
        std::mem::swap(&mut full, &mut self.listed.lock().full);
        for queue in full.drain(..) {
            self.flush_queue(&queue, readable, &mut flushing)?;
            queue.state.lock().evict(KEEP);
        }
        flushing.full = full;
        let rounds = self.listed.lock().due.len();
        for _ in 0..rounds {
            let Some((due, queue)) = self.listed.lock().due.pop_front() else { break };
            // A due time far ahead means that the clock was set back.
            if !all && due > now_ms && due <= now_ms + DUE_MS {
                self.listed.lock().due.push_front((due, queue));
                break;
            }
            let result = self.flush_queue(&queue, readable, &mut flushing);
            let mut state = queue.state.lock();
            let busy = state.next - state.listed_at >= BUSY;
            state.evict(if busy { KEEP } else { 0 });
            if (state.flushed < state.next || busy) && !state.deleted {
                state.listed_at = state.next;
                self.listed.lock().due.push_back((now_ms + DUE_MS, Arc::clone(&queue)));
            } else {
                state.listed = false;
            }
            result?;
        }
        Ok(())
    }

    /// Writes the entries of one queue whose records end at or below `readable`.
    fn flush_queue(&self, queue: &Queue, readable: i64, flushing: &mut Flushing) -> io::Result<()> {
        let layout = self.layout(queue);
        let per_file = layout.per_file();
        loop {
            flushing.bytes.clear();
            let (from, until, is_first) = {
                let state = queue.state.lock();
                let from = state.flushed_slot();
                let until = state.readable_slot(readable).min(from - from % per_file + per_file);
                if state.deleted || until <= from {
                    return Ok(());
                }
                state.encode(from, until, &mut flushing.bytes);
                (from, until, state.first_file.is_none())
            };
            let position = from * layout.unit;
            let start = layout.file_of(from);
            let file = self.create_file(queue, start, flushing)?;
            if is_first && position > start {
                // Java's pre-blank: the first file of a queue that does not begin at 0.
                let mut blank = Vec::new();
                Entry::BLANK.encode(&mut blank);
                file.write_all_at(&blank.repeat((from % per_file) as usize), 0)?;
            }
            file.write_all_at(&flushing.bytes, (position - start) as u64)?;
            let mut state = queue.state.lock();
            state.set_flushed(until);
            state.first_file.get_or_insert(start);
        }
    }

    /// The open file of a queue that begins at byte `start`. `None`: it does not exist.
    pub(crate) fn file(&self, queue: &Queue, start: i64) -> io::Result<Option<Arc<File>>> {
        let key = (queue.uid, start);
        if let Some(file) = self.handles.lock().get(key) {
            return Ok(Some(file));
        }
        match self.disk.open(&self.layout(queue).path(queue, start)) {
            Ok(file) => Ok(Some(self.handles.lock().put(key, file))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn create_file(
        &self,
        queue: &Queue,
        start: i64,
        flushing: &mut Flushing,
    ) -> io::Result<Arc<File>> {
        let key = (queue.uid, start);
        let layout = self.layout(queue);
        let path = || layout.path(queue, start);
        let file = match self.file(queue, start)? {
            Some(file) => file,
            None => {
                let dir = layout.queue_dir(queue);
                self.disk.create_dir_all(&dir)?;
                let file = self.disk.create_sized(&path(), layout.file_size as u64)?;
                let topic_dir = layout.dir.join(queue.topic());
                flushing.new_dirs.extend([layout.dir.clone(), topic_dir, dir]);
                self.handles.lock().put(key, file)
            }
        };
        if !flushing.touched.contains_key(&key) {
            if flushing.touched.len() < SYNC_FILES {
                flushing.touched.insert(key, path());
            } else {
                flushing.too_many = true;
            }
        }
        Ok(file)
    }

    /// Brings everything that was written to the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        let flushing = &mut *self.flushing.lock();
        if flushing.too_many || flushing.new_dirs.len() > 3 * SYNC_FILES {
            self.disk.sync_everything(&self.root)?;
        } else {
            for path in flushing.touched.values() {
                // A deleted topic takes its files with it.
                ignore_absent(self.disk.open(path).and_then(|file| file.sync_data()))?;
            }
            flushing.new_dirs.sort();
            flushing.new_dirs.dedup();
            for dir in &flushing.new_dirs {
                ignore_absent(self.disk.sync_dir(dir))?;
            }
        }
        flushing.touched.clear();
        flushing.new_dirs.clear();
        flushing.too_many = false;
        Ok(())
    }

    /// Copies up to `out.len()` (at most [`BLOCK`]) entries from `from` on, from memory or one
    /// file. `None`: not in memory, and waiting was not allowed.
    pub(crate) fn entries(
        &self,
        queue: &Queue,
        from: i64,
        out: &mut [Entry],
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        let base = {
            let state = queue.state.lock();
            if let Some(found) = state.copy(from, out) {
                return Ok(Some(found));
            }
            state.tail_base()
        };
        let wanted = (out.len().min(BLOCK) as i64).min(base - from);
        let mut raw = [0; BLOCK * UNIT as usize];
        let found = self.slots(queue, from, &mut raw[..(wanted * UNIT) as usize], wait)?;
        for (slot, raw) in out.iter_mut().zip(raw.as_chunks::<{ UNIT as usize }>().0) {
            *slot = Entry::decode(raw).unwrap_or(Entry::BLANK);
        }
        Ok(found)
    }

    /// Reads whole entries from slot `from` on, as many as `raw` and the file of the slot hold,
    /// and returns how many; 0 without a file. `None`: not in memory, and waiting was not allowed.
    pub(crate) fn slots(
        &self,
        queue: &Queue,
        from: i64,
        raw: &mut [u8],
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        let layout = self.layout(queue);
        let in_file = from % layout.per_file();
        let wanted = (raw.len() as i64 / layout.unit).min(layout.per_file() - in_file);
        let Some(file) = self.file(queue, layout.file_of(from))? else { return Ok(Some(0)) };
        let raw = &mut raw[..(wanted * layout.unit) as usize];
        let hot = file.read_at(raw, (in_file * layout.unit) as u64, wait)?;
        Ok(hot.then_some(wanted as usize))
    }

    /// First offset of an ordinary queue's file after the one that holds `offset`.
    pub(crate) fn next_file(&self, offset: i64) -> i64 {
        let per_file = self.layouts[0].per_file();
        offset - offset % per_file + per_file
    }
}
