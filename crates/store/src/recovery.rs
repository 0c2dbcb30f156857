//! Making a consistent store of whatever is found in a directory.
//!
//! Runs once, before anything else can see the store; takes locks only because the parts have
//! them. Order: log files, checkpoint, index, queues up to an offset that is certain (`cut`), then
//! the log from there on record by record into queues and index, then the end is cut clean.
//!
//! Never gives up after a number of files (Java: the 10 newest), never throws valid files away
//! (they are moved to `cut-<offset>/`), and below the checkpoint one bad record does not cost the
//! records behind it. Java: `DefaultMessageStore.recover`, `CommitLog.recoverAbnormally`.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::clock::{Clock, Stopwatch};
use wire::record::{TRANSACTION_COMMIT, TRANSACTION_MASK};

use crate::api::{Entry, FlushMode, OpenError, StoreConfig, Wait};
use crate::batch_queue::BatchEntry;
use crate::checkpoint::{Checkpoint, Taken};
use crate::commit_log::{CommitLog, LastRecord};
use crate::deleted::DeletedTopics;
use crate::disk::Disk;
use crate::dispatch;
use crate::foreign::refuse_rocksdb;
use crate::gaps::Gaps;
use crate::index::Index;
use crate::index_file::Shape;
use crate::lock_file;
use crate::queue::Queue;
use crate::queue_files::{Layout, Loaded, sub_dirs};
use crate::queues::Queues;
use crate::scan::{Scanner, Step};

/// Queues and index are written after this many scanned bytes, so that memory stays bounded.
const SETTLE_BYTES: i64 = 64 << 20;
/// Sources of delivered messages that are remembered; those of the last turns are what counts.
const MAX_DELIVERED: usize = 1 << 20;
/// Topics from which on several threads load them.
const MANY_TOPICS: usize = 256;
/// Margin for stores whose checkpoint has only times (Java before 5.5).
const MARGIN_MS: i64 = 3000;

/// The parts of a store, consistent with each other.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) log: CommitLog,
    pub(crate) queues: Queues,
    pub(crate) index: Option<Index>,
    pub(crate) deleted: DeletedTopics,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) delivered: Vec<i64>,
}

struct Recovery<'a> {
    config: &'a StoreConfig,
    now_ms: i64,
    log: CommitLog,
    queues: Queues,
    index: Option<Index>,
    deleted: DeletedTopics,
    checkpoint: Checkpoint,
    crashed: bool,
    /// The newest entry on disk of all queues but the batch ones.
    newest: Option<Entry>,
    /// Loaded queues whose minimum may be below the log.
    to_raise: Vec<Arc<Queue>>,
    /// Loaded queues whose files may have something behind the last entry.
    to_clear: Vec<Arc<Queue>>,
    records: u64,
    /// Files of queues were not what they should be, and are gone.
    odd_queues: bool,
    /// See [`crate::Store::delivered_before_start`].
    delivered: VecDeque<i64>,
}

/// Recovers the store of `config`, whose lock the caller holds.
pub(crate) fn recover(config: &StoreConfig, clock: &Clock) -> Result<Recovered, OpenError> {
    let watch = Stopwatch::start();
    let root = &config.root;
    let disk = &config.disk;
    refuse_rocksdb(disk, root)?;
    let log = CommitLog::open(
        disk,
        &config.commit_log_dir,
        config.commit_log_file_size,
        config.ring_bytes,
        config.flush == FlushMode::Sync,
    )?;
    let crashed = lock_file::was_aborted(disk, root);
    let checkpoint = Checkpoint::load(disk, &root.join("checkpoint"));
    let layouts = Layout::both(config)?;
    let mut recovery = Recovery {
        config,
        now_ms: clock.now_ms(),
        log,
        queues: Queues::new(disk.clone(), root.clone(), layouts),
        index: None,
        deleted: DeletedTopics::load(disk, root)?,
        checkpoint,
        crashed,
        newest: None,
        to_raise: Vec::new(),
        to_clear: Vec::new(),
        records: 0,
        odd_queues: false,
        delivered: VecDeque::new(),
    };
    let cut = recovery.load_queues_up_to_certain()?;
    let mut index_from = None;
    if config.index {
        let shape = Shape { slots: config.max_index_slots, entries: config.max_index_entries };
        let (index, from) = Index::open(disk, root.join("index"), shape, recovery.crashed)?;
        index_from = from;
        recovery.index = Some(index);
    }
    let io = OpenError::io(root);
    let from = cut.min(index_from.unwrap_or(i64::MAX)).max(recovery.log.min());
    let (end, last) = recovery.scan(from, index_from).map_err(io)?;
    recovery.finish(from, end, last).map_err(OpenError::io(root))?;
    tracing::info!(
        crashed,
        from,
        end,
        records = recovery.records,
        ms = watch.elapsed().as_millis() as u64,
        "store recovered"
    );
    let Recovery { log, queues, index, deleted, checkpoint, delivered, .. } = recovery;
    Ok(Recovered { log, queues, index, deleted, checkpoint, delivered: delivered.into() })
}

impl Recovery<'_> {
    /// Loads the queues with all entries that are certainly right, and returns the offset from
    /// which on entries must be made from the log.
    fn load_queues_up_to_certain(&mut self) -> Result<i64, OpenError> {
        let cut = self.load_ordinary_and_batch()?;
        // Batch queues that somebody removed are rebuilt too; the ordinary ones do not show it.
        let lost = self.config.batch_topics.iter().any(|topic| self.queues.lacks_batch_dir(topic));
        if !lost {
            return Ok(cut);
        }
        self.distrust_queues()?;
        Ok(self.log.min())
    }

    fn load_ordinary_and_batch(&mut self) -> Result<i64, OpenError> {
        let log_min = self.log.min();
        if self.config.rebuild {
            return self.rebuild_queues();
        }
        if !self.crashed && self.goes_on().map_err(OpenError::io(&self.config.root))? {
            tracing::warn!("there is more than a clean stop left; taken for a crash");
            self.crashed = true;
        }
        if !self.crashed {
            self.load_queues(i64::MAX)?;
            if self.odd_queues {
                return self.rebuild_queues();
            }
            let Some(newest) = self.newest else { return Ok(log_min) };
            if newest.physical_offset < log_min {
                return Ok(log_min);
            }
            let good = self.queues_agree(newest).map_err(OpenError::io(&self.config.root))?;
            if good && self.all_taken(|taken| taken.through) {
                return Ok(newest.physical_offset);
            }
            tracing::warn!("stopped cleanly, but queues and log differ");
            return self.rebuild_queues();
        }
        let cut = self.crash_start().map_err(OpenError::io(&self.config.root))?;
        self.load_queues(cut)?;
        // Somebody removed the queues, which asks for all of them to be rebuilt.
        let removed = self.newest.is_none() && cut > log_min;
        let whole = cut != self.checkpoint.logics_offset || self.all_taken(|taken| taken.before);
        if removed || self.odd_queues || !whole { self.rebuild_queues() } else { Ok(cut) }
    }

    /// Whether records follow the one that was the last when the store said so.
    fn goes_on(&self) -> io::Result<bool> {
        let mut scanner = Scanner::new(&self.log);
        let Step::Record(last) = scanner.step(self.checkpoint.logics_offset)? else {
            return Ok(false);
        };
        let mut next = self.checkpoint.logics_offset + last.total_len() as i64;
        if let Step::Blank(start) = scanner.step(next)? {
            next = start;
        }
        Ok(self.checkpoint.exact && matches!(scanner.step(next)?, Step::Record(_)))
    }

    /// Whether the files of the queues hold as many offsets as the checkpoint says, if it does.
    fn all_taken(&self, wanted: impl Fn(Taken) -> i64) -> bool {
        let Some(wanted) = self.checkpoint.taken.map(wanted).filter(|taken| *taken >= 0) else {
            return true;
        };
        let found = self.queues.taken();
        if found != wanted {
            tracing::warn!(found, wanted, "queue offsets are missing or too many");
        }
        found == wanted
    }

    /// Forgets what the queues' files say; all of it is made again from the log.
    fn rebuild_queues(&mut self) -> Result<i64, OpenError> {
        let log_min = self.log.min();
        tracing::warn!(from = log_min, "rebuilding all queues from the log");
        self.distrust_queues()?;
        self.load_queues(log_min)?;
        Ok(log_min)
    }

    /// Says on the disk that the queues' files prove nothing, before any of them goes: a kill in
    /// the middle of a rebuild must be followed by another one.
    fn distrust_queues(&mut self) -> Result<(), OpenError> {
        let (disk, root) = (&self.config.disk, &self.config.root);
        self.crashed = true;
        let kept = Checkpoint {
            master_flushed: self.checkpoint.master_flushed,
            confirm: self.checkpoint.confirm,
            on_disk: self.checkpoint.on_disk.max(self.checkpoint.logics_offset),
            ..Checkpoint::default()
        };
        if self.checkpoint != kept {
            self.checkpoint = kept;
            lock_file::set_abort(disk, root).map_err(OpenError::io(root))?;
            let path = root.join("checkpoint");
            self.checkpoint.save(disk, &path).map_err(OpenError::io(&path))?;
        }
        Ok(())
    }

    /// Whether the newest entry's record is there, and, when another program wrote the store
    /// last, whether the last entry of every queue belongs to it.
    fn queues_agree(&self, newest: Entry) -> io::Result<bool> {
        let mut scanner = Scanner::new(&self.log);
        if !matches!(scanner.step(newest.physical_offset)?, Step::Record(_)) {
            return Ok(false);
        }
        if self.checkpoint.exact {
            return Ok(true);
        }
        let mut head = Vec::new();
        for queue in self.queues.all() {
            let next = queue.next_offset();
            if next == 0 {
                continue;
            }
            let Some((offset, last)) = self.last_entry(&queue, next - 1)? else { continue };
            if last.physical_offset < self.log.min() {
                continue;
            }
            head.clear();
            let at = last.physical_offset;
            self.log.read_file(at, 36, Wait::MayBlock, &mut head);
            if head.get(28..36) != Some(&at.to_be_bytes())
                || head.get(20..28) != Some(&offset.to_be_bytes())
            {
                tracing::warn!(topic = queue.topic(), queue = queue.id(), "last entry is stale");
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The entry that stands for the last message of a queue, with the offset in its record.
    fn last_entry(&self, queue: &Queue, offset: i64) -> io::Result<Option<(i64, Entry)>> {
        if queue.is_batch() {
            let mut last = [BatchEntry::default()];
            let found = self.queues.batches(queue, offset, &mut last, Wait::MayBlock)?;
            return Ok((found == Some(1)).then_some((last[0].base, last[0].entry)));
        }
        let mut last = [Entry::BLANK];
        self.queues.entries(queue, offset, &mut last, Wait::MayBlock)?;
        Ok((!last[0].is_blank()).then_some((offset, last[0])))
    }

    /// Where the log may hold records after a crash that the queues on disk do not know.
    fn crash_start(&self) -> io::Result<i64> {
        let log_min = self.log.min();
        let mut scanner = Scanner::new(&self.log);
        let offset = self.checkpoint.logics_offset;
        if self.checkpoint.exact
            && offset > log_min
            && matches!(scanner.step(offset)?, Step::Record(_))
        {
            return Ok(offset);
        }
        let before_ms = self.checkpoint.physic_ms.min(self.checkpoint.logics_ms) - MARGIN_MS;
        for segment in self.log.segments().iter().rev() {
            if let Step::Record(first) = scanner.step(segment.start)? {
                let certain = if offset > 0 {
                    segment.start <= offset
                } else {
                    first.store_timestamp() <= before_ms
                };
                if certain {
                    return Ok(segment.start);
                }
            }
        }
        Ok(log_min)
    }

    fn load_queues(&mut self, cut: i64) -> Result<(), OpenError> {
        self.newest = None;
        self.to_raise.clear();
        self.to_clear.clear();
        self.queues.forget_all();
        for kind in 0..self.queues.layouts().len() {
            let (disk, layout) = (&self.config.disk, &self.queues.layouts()[kind]);
            let topics = sub_dirs(disk, &layout.dir).map_err(OpenError::io(&layout.dir))?;
            let threads = std::thread::available_parallelism().map_or(1, usize::from).min(4);
            let share = topics.len().div_ceil(threads).max(MANY_TOPICS);
            let load = |topics: &[(String, PathBuf)]| load_topics(disk, layout, topics, cut);
            let parts: Vec<_> = if topics.len() <= share {
                vec![load(&topics)]
            } else {
                std::thread::scope(|scope| {
                    let parts: Vec<_> =
                        topics.chunks(share).map(|part| scope.spawn(|| load(part))).collect();
                    let gone = |_| Err(OpenError::io(&layout.dir)(io::Error::other("a panic")));
                    parts.into_iter().map(|part| part.join().unwrap_or_else(gone)).collect()
                })
            };
            for part in parts {
                part?.into_iter().try_for_each(|loaded| self.take(kind, loaded))?;
            }
        }
        Ok(())
    }

    /// Takes a loaded queue into the table, unless its topic was deleted or its files are odd.
    fn take(&mut self, kind: usize, (topic, id, path, loaded): InFiles) -> Result<(), OpenError> {
        let disk = &self.config.disk;
        let Loaded { state, first, last, begins_with_first, is_clean } = match loaded {
            // A power cut between the making of a file and its length, or damage.
            Err(OpenError::Layout { path: odd, reason }) => {
                tracing::warn!(file = %odd.display(), reason, "a queue that cannot be, removed");
                self.odd_queues = true;
                self.distrust_queues()?;
                return remove_queue(disk, &path);
            }
            loaded => loaded?,
        };
        let deleted = self.deleted.offset(&topic);
        if first.is_some_and(|entry| entry.physical_offset < deleted) {
            // The process died between the deletion of the topic and that of its files. Or a Java
            // broker, which does not know of the deletion, has recovered the queue and added to it.
            if last.is_some_and(|entry| entry.physical_offset >= deleted) {
                self.odd_queues = true;
                self.distrust_queues()?;
            }
            return remove_queue(disk, &path);
        }
        // Batch queues alone do not show that the others are there.
        let is_batch = self.queues.layouts()[kind].is_batch();
        if let Some(last) = last.filter(|last| !is_batch && !last.is_blank())
            && self.newest.is_none_or(|newest| newest.physical_offset < last.physical_offset)
        {
            self.newest = Some(last);
        }
        let queue = self.queues.insert(&topic, id, state);
        let log_min = self.log.min();
        let is_live = first.is_some_and(|entry| entry.physical_offset >= log_min) && last.is_some();
        if !(begins_with_first && is_live) {
            self.to_raise.push(Arc::clone(&queue));
        }
        if !is_clean {
            self.to_clear.push(queue);
        }
        Ok(())
    }

    /// Walks the log from `from` and returns its end and its last record.
    fn scan(&mut self, from: i64, index_from: Option<i64>) -> io::Result<(i64, LastRecord)> {
        // The scanner borrows the log, the dispatch the rest.
        let log = &self.log;
        // Below, records were on disk; a bad one there is damage, not the end.
        let newest = self.newest.filter(|_| !self.crashed);
        let known = self.checkpoint.logics_offset.max(self.checkpoint.on_disk);
        let trusted = newest.map_or(0, |e| e.physical_offset).max(known);
        let trusted = if self.config.rebuild { i64::MAX } else { trusted };
        let mut scanner = Scanner::new(log);
        let mut last = LastRecord::default();
        let (mut at, mut settled) = (from, from);
        let mut marker = None;
        let mut gaps = Gaps::default();
        let end = loop {
            match scanner.step(at)? {
                Step::Record(record) => {
                    let timestamp_ms = record.store_timestamp();
                    last = LastRecord { start: at, timestamp_ms, ..LastRecord::default() };
                    at += record.total_len() as i64;
                    self.records += 1;
                    if record.prepared_offset() > 0
                        || record.sys_flag() & TRANSACTION_MASK == TRANSACTION_COMMIT
                    {
                        if self.delivered.len() == MAX_DELIVERED {
                            self.delivered.pop_front();
                        }
                        self.delivered.push_back(record.prepared_offset());
                    }
                    dispatch::to_queue(
                        self.config,
                        (&self.queues, &mut gaps),
                        &self.deleted,
                        &record,
                        self.now_ms,
                    );
                    if let Some(index) = &self.index
                        && index_from.is_some_and(|from| record.physical_offset() >= from)
                    {
                        dispatch::to_index(index, &record);
                    }
                    marker = None;
                }
                Step::Blank(next) => {
                    marker = Some(at);
                    at = next;
                }
                // The marker of a file with no file behind it is written anew.
                Step::NoFile => break marker.unwrap_or(at),
                Step::Bad if at < trusted => {
                    let next = scanner.resume(at)?;
                    tracing::error!(at, ?next, "bad bytes inside of the commit log, skipped");
                    match next {
                        Some(next) => at = next,
                        None => break at,
                    }
                }
                Step::Bad => break at,
            }
            if at - settled >= SETTLE_BYTES {
                settled = at;
                self.queues.flush_due(self.now_ms, i64::MAX, true)?;
                if let Some(index) = &self.index {
                    index.apply(i64::MAX)?;
                }
            }
        };
        gaps.settle(&self.queues, self.now_ms);
        Ok((end, last))
    }

    /// Cuts everything behind the end off and sets all positions.
    fn finish(&mut self, from: i64, end: i64, last: LastRecord) -> io::Result<()> {
        let disk = &self.config.disk;
        // The last one first: what a power cut leaves of them must have no gap.
        for segment in self.log.detach_from(end + 1).into_iter().rev() {
            let mut head = [0; 8];
            segment.file.read_at(&mut head, 0, Wait::MayBlock)?;
            if head == [0; 8] {
                disk.remove_file(&segment.path)?;
                continue;
            }
            let aside = self.config.root.join(format!("cut-{end}"));
            disk.create_dirs_durably(&aside)?;
            let name = segment.path.file_name().unwrap_or_default();
            tracing::warn!(file = %segment.path.display(), end, "file behind the end kept aside");
            disk.rename(&segment.path, &aside.join(name))?;
        }
        if let Some(segment) = self.log.segment_at(end) {
            let at = (end - segment.start) as u64;
            let mut head = [0; 8];
            segment.file.read_at(&mut head, at, Wait::MayBlock)?;
            if self.crashed || head != [0; 8] {
                // All of it: records of an older generation must not come back when the new ones
                // happen to end at one of their borders.
                segment.file.zero(at, self.log.file_size() as u64)?;
            }
        }
        self.log.sync_files(from, end)?;
        self.deleted.clamp(end)?;
        let taken = Taken { before: -1, through: self.queues.taken() };
        self.log.start_at(end, LastRecord { taken, ..last });
        for queue in self.to_clear.iter().filter(|_| self.crashed) {
            self.queues.clear_stale(queue)?;
        }
        for queue in &self.to_raise {
            self.queues.raise_min(queue, self.log.min())?;
        }
        if let Some(index) = &self.index {
            index.cut(end)?;
            index.apply(end)?;
        }
        Ok(())
    }
}

/// Removes the files of a queue for good.
fn remove_queue(disk: &Disk, dir: &Path) -> Result<(), OpenError> {
    let above = dir.parent().unwrap_or(dir);
    let removed = disk.remove_dir_all(dir).and_then(|()| disk.sync_dir(above));
    removed.map_err(OpenError::io(dir))
}

/// Topic and number of a queue, its directory, and what its files say.
type InFiles = (String, i32, PathBuf, Result<Loaded, OpenError>);

/// The queues of these topics that have files.
fn load_topics(
    disk: &Disk,
    layout: &Layout,
    topics: &[(String, PathBuf)],
    cut: i64,
) -> Result<Vec<InFiles>, OpenError> {
    let mut queues = Vec::new();
    for (topic, topic_dir) in topics {
        for (id, path) in sub_dirs(disk, topic_dir).map_err(OpenError::io(topic_dir))? {
            let Ok(id) = id.parse::<i32>() else { continue };
            if let Some(loaded) = layout.load(disk, &path, cut).transpose() {
                queues.push((topic.clone(), id, path, loaded));
            }
        }
    }
    Ok(queues)
}
