//! All consume queues: the table of them, their files, and the list of those to look after.
//!
//! Owns `consumequeue/` on disk. Locks: `table` for look-ups, one queue's state for moments,
//! `listed` inside of that, `handles` for moments, and `flushing` for as long as queues are
//! written, by one thread at a time. Never scans all queues to find work, never writes an entry
//! whose record is above the end it is given, and keeps at most 64 files open.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

use crate::api::{Entry, Wait};
use crate::config_file::sync_dir;
use crate::files;
use crate::handles::{FileKey, Handles};
use crate::queue::{Queue, State};

/// Bytes of an entry.
pub(crate) const UNIT: i64 = 20;
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
    dir: PathBuf,
    file_size: i64,
    table: RwLock<Table>,
    listed: Mutex<Listed>,
    handles: Mutex<Handles>,
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
    touched: HashMap<FileKey, PathBuf, RandomState>,
    new_dirs: Vec<PathBuf>,
    too_many: bool,
}

impl Queues {
    pub(crate) fn new(dir: PathBuf, file_size: i64) -> Queues {
        Queues {
            dir,
            file_size,
            table: RwLock::default(),
            listed: Mutex::default(),
            handles: Mutex::default(),
            flushing: Mutex::default(),
            next_uid: AtomicU64::new(0),
        }
    }

    pub(crate) fn find(&self, topic: &str, id: i32) -> Option<Arc<Queue>> {
        let table = self.table.read();
        let queues = table.get(topic)?;
        queues.binary_search_by_key(&id, |queue| queue.id()).ok().map(|at| Arc::clone(&queues[at]))
    }

    pub(crate) fn find_or_create(&self, topic: &str, id: i32) -> Arc<Queue> {
        self.find(topic, id).unwrap_or_else(|| self.insert(topic, id, State::default()))
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

    /// Every queue; a snapshot.
    pub(crate) fn all(&self) -> Vec<Arc<Queue>> {
        self.table.read().values().flatten().cloned().collect()
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
        match fs::remove_dir_all(self.dir.join(topic)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes a topic out of the table and marks its queues.
    pub(crate) fn forget_topic(&self, topic: &str) {
        let gone = self.table.write().remove(topic).unwrap_or_default();
        for queue in &gone {
            queue.state.lock().deleted = true;
        }
        self.handles.lock().forget(|(uid, _)| gone.iter().any(|queue| queue.uid == *uid));
    }

    /// Notes that `queue` has new entries; called under its lock. Returns whether the background
    /// thread must be woken.
    pub(crate) fn list(&self, queue: &Arc<Queue>, state: &mut State, now_ms: i64) -> bool {
        let is_full = state.next - state.flushed == FULL;
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
        let per_file = self.file_size / UNIT;
        loop {
            flushing.bytes.clear();
            let (from, is_first) = {
                let state = queue.state.lock();
                let from = state.flushed;
                let until = state.readable_end(readable).min(from - from % per_file + per_file);
                if state.deleted || until <= from {
                    return Ok(());
                }
                let skip = (from - state.tail_base()) as usize;
                for entry in state.tail.range(skip..skip + (until - from) as usize) {
                    entry.encode(&mut flushing.bytes);
                }
                (from, state.first_file.is_none())
            };
            let count = flushing.bytes.len() as i64 / UNIT;
            let position = from * UNIT;
            let start = position - position % self.file_size;
            let file = self.create_file(queue, start, flushing)?;
            if is_first && position > start {
                // Java's pre-blank: the first file of a queue that does not begin at 0.
                let mut blank = Vec::new();
                Entry::BLANK.encode(&mut blank);
                file.write_all_at(&blank.repeat((from % per_file) as usize), 0)?;
            }
            file.write_all_at(&flushing.bytes, (position - start) as u64)?;
            let mut state = queue.state.lock();
            state.flushed = from + count;
            state.first_file.get_or_insert(start);
        }
    }

    fn queue_dir(&self, queue: &Queue) -> PathBuf {
        self.dir.join(queue.topic()).join(queue.id().to_string())
    }

    /// The open file of a queue that begins at byte `start`. `None`: it does not exist.
    fn file(&self, queue: &Queue, start: i64) -> io::Result<Option<Arc<File>>> {
        let key = (queue.uid, start);
        if let Some(file) = self.handles.lock().get(key) {
            return Ok(Some(file));
        }
        match files::open(&self.queue_dir(queue).join(files::name_of(start))) {
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
        let path = || self.queue_dir(queue).join(files::name_of(start));
        let file = match self.file(queue, start)? {
            Some(file) => file,
            None => {
                let dir = self.queue_dir(queue);
                fs::create_dir_all(&dir)?;
                let file = files::create_sized(&path(), self.file_size as u64)?;
                flushing.new_dirs.extend([self.dir.clone(), self.dir.join(queue.topic()), dir]);
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
            rustix::fs::syncfs(File::open(&self.dir)?)?;
        } else {
            for path in flushing.touched.values() {
                // A deleted topic takes its files with it.
                ignore_absent(files::open(path).and_then(|file| file.sync_data()))?;
            }
            flushing.new_dirs.sort();
            flushing.new_dirs.dedup();
            for dir in &flushing.new_dirs {
                ignore_absent(sync_dir(dir))?;
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
        let per_file = self.file_size / UNIT;
        let in_file = from % per_file;
        let wanted = (out.len().min(BLOCK) as i64).min(base - from).min(per_file - in_file);
        let Some(file) = self.file(queue, (from - in_file) * UNIT)? else { return Ok(Some(0)) };
        let mut raw = [0; BLOCK * UNIT as usize];
        let raw = &mut raw[..wanted as usize * UNIT as usize];
        if !files::read_at(&file, raw, (in_file * UNIT) as u64, wait)? {
            return Ok(None);
        }
        for (slot, raw) in out.iter_mut().zip(raw.as_chunks::<{ UNIT as usize }>().0) {
            *slot = Entry::decode(raw).unwrap_or(Entry::BLANK);
        }
        Ok(Some(wanted as usize))
    }

    /// First offset of the file after the one that holds `offset`.
    pub(crate) fn next_file(&self, offset: i64) -> i64 {
        let per_file = self.file_size / UNIT;
        offset - offset % per_file + per_file
    }

    /// Makes everything in the files of a queue behind its entries there read as zeros, durably;
    /// for recovery, which has found those bytes to be of no record or of one that is in memory.
    pub(crate) fn clear_stale(&self, queue: &Queue) -> io::Result<()> {
        let (flushed, first) = {
            let state = queue.state.lock();
            (state.flushed, state.first_file)
        };
        let Some(first) = first else { return Ok(()) };
        let position = flushed * UNIT;
        let mut start = position - position % self.file_size;
        let mut from = position - start;
        while let Some(file) = self.file(queue, start)? {
            if from == 0 && (start > first || start == 0) {
                // A whole file: Java fails on a last file without entries. Only the first one may
                // be needed, because its name keeps the numbering.
                if start == first {
                    queue.state.lock().first_file = None;
                }
                self.handles.lock().forget(|key| *key == (queue.uid, start));
                fs::remove_file(self.queue_dir(queue).join(files::name_of(start)))?;
            } else if self.has_data(&file, from)? {
                files::zero(&file, from as u64, self.file_size as u64)?;
            }
            start += self.file_size;
            from = 0;
        }
        Ok(())
    }

    /// Whether a queue file has anything but zeros at or behind `from`, without reading its holes.
    fn has_data(&self, file: &File, from: i64) -> io::Result<bool> {
        let mut at = from as u64;
        let end = self.file_size as u64;
        let mut page = [0; 4096];
        while at < end {
            at = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) if data < end => data,
                Ok(_) | Err(rustix::io::Errno::NXIO) => return Ok(false),
                // File systems that cannot tell have no holes.
                Err(_) => at,
            };
            let len = (end - at).min(page.len() as u64) as usize;
            file.read_exact_at(&mut page[..len], at)?;
            if page[..len].iter().any(|byte| *byte != 0) {
                return Ok(true);
            }
            at += len as u64;
        }
        Ok(false)
    }

    /// The first entry at or after `from` that has a record; reads files.
    fn first_real(&self, queue: &Queue, mut from: i64) -> io::Result<Option<(i64, Entry)>> {
        let mut block = [Entry::default(); BLOCK];
        loop {
            let found = self.entries(queue, from, &mut block, Wait::MayBlock)?.unwrap_or(0);
            if found == 0 {
                return Ok(None);
            }
            if let Some(at) = block[..found].iter().position(|entry| !entry.is_blank()) {
                return Ok(Some((from + at as i64, block[at])));
            }
            from += found as i64;
        }
    }

    /// Raises a queue's minimum to the first entry whose record is at or above `log_min`, and
    /// deletes the leading files that are then below it (never the last one).
    pub(crate) fn raise_min(&self, queue: &Queue, log_min: i64) -> io::Result<()> {
        let (mut low, mut high) = {
            let state = queue.state.lock();
            (state.min, state.next)
        };
        let next = high;
        let live = |at: i64| {
            let first = self.first_real(queue, at)?;
            Ok::<_, io::Error>(first.filter(|(_, entry)| entry.physical_offset >= log_min))
        };
        let mut min = live(low)?;
        if min.is_none() {
            // Blanks answer for the entry behind them, so the order holds.
            while low < high {
                let middle = low + (high - low) / 2;
                if live(middle)?.is_some() {
                    high = middle;
                } else {
                    low = middle + 1;
                }
            }
            min = live(low)?;
        }
        let mut state = queue.state.lock();
        if state.batches.is_some() {
            return Ok(());
        }
        state.min = state.min.max(min.map_or(next, |(at, _)| at));
        let last_file = (state.flushed - 1).max(0) * UNIT / self.file_size * self.file_size;
        let mut gone = Vec::new();
        while let Some(first) = state.first_file
            && first < last_file
            && first + self.file_size <= state.min * UNIT
        {
            gone.push(first);
            state.first_file = Some(first + self.file_size);
        }
        drop(state);
        for start in gone {
            self.handles.lock().forget(|key| *key == (queue.uid, start));
            ignore_absent(fs::remove_file(self.queue_dir(queue).join(files::name_of(start))))?;
        }
        Ok(())
    }
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Reads one entry of a queue file; for loading.
pub(crate) fn entry_in(file: &File, index: i64) -> io::Result<Option<Entry>> {
    let mut raw = [0; UNIT as usize];
    file.read_exact_at(&mut raw, (index * UNIT) as u64)?;
    Ok(Entry::decode(&raw))
}

/// Sub-directories of `dir`, none when it is absent.
pub(crate) fn sub_dirs(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry?;
                if let Ok(name) = entry.file_name().into_string()
                    && entry.file_type()?.is_dir()
                {
                    found.push((name, entry.path()));
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(found)
}
