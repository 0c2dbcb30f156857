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
use std::fs;
use std::io;
use std::path::Path;

use base::clock::{Clock, Stopwatch};
use wire::record::{TRANSACTION_COMMIT, TRANSACTION_MASK};

use crate::api::{Entry, FlushMode, OpenError, StoreConfig, Wait};
use crate::batch_queue;
use crate::checkpoint::Checkpoint;
use crate::commit_log::{CommitLog, LastRecord};
use crate::deleted::DeletedTopics;
use crate::dispatch;
use crate::files::{self, Listed};
use crate::index::Index;
use crate::index_file::Shape;
use crate::lock_file;
use crate::queue::State;
use crate::queues::{self, Queues, UNIT};
use crate::scan::{Scanner, Step};

/// Queues and index are written after this many scanned bytes, so that memory stays bounded.
const SETTLE_BYTES: i64 = 64 << 20;
/// Sources of delivered messages that are remembered; those of the last turns are what counts.
const MAX_DELIVERED: usize = 1 << 20;
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
    queue_file_size: i64,
    index: Option<Index>,
    deleted: DeletedTopics,
    checkpoint: Checkpoint,
    crashed: bool,
    /// The newest entry on disk of all queues but the batch ones.
    newest: Option<Entry>,
    records: u64,
    /// See [`crate::Store::delivered_before_start`].
    delivered: VecDeque<i64>,
}

/// Recovers the store of `config`, whose lock the caller holds.
pub(crate) fn recover(config: &StoreConfig, clock: &Clock) -> Result<Recovered, OpenError> {
    let watch = Stopwatch::start();
    let root = &config.root;
    let log = CommitLog::open(
        &config.commit_log_dir,
        config.commit_log_file_size,
        config.ring_bytes,
        config.flush == FlushMode::Sync,
    )?;
    let crashed = lock_file::was_aborted(root);
    let checkpoint = Checkpoint::load(&root.join("checkpoint"));
    let mut index_from = None;
    let mut index = None;
    if config.index {
        let shape = Shape { slots: config.max_index_slots, entries: config.max_index_entries };
        let (opened, from) = Index::open(root.join("index"), shape, crashed)?;
        index_from = from;
        index = Some(opened);
    }
    let dir = root.join("consumequeue");
    if dir.join("CURRENT").exists() {
        let reason = "a RocksDB consume queue; export it with Java first".into();
        return Err(OpenError::Layout { path: dir, reason });
    }
    let queue_file_size = queue_file_size(&dir, config.consume_queue_file_size)?;
    let mut recovery = Recovery {
        config,
        now_ms: clock.now_ms(),
        log,
        queues: Queues::new(dir, queue_file_size),
        queue_file_size,
        index,
        deleted: DeletedTopics::load(root)?,
        checkpoint,
        crashed,
        newest: None,
        records: 0,
        delivered: VecDeque::new(),
    };
    let cut = recovery.load_queues_up_to_certain()?;
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

/// The size of existing queue files, or the configured one in whole entries.
fn queue_file_size(dir: &Path, configured: u64) -> Result<i64, OpenError> {
    let configured = configured.div_ceil(UNIT as u64) * UNIT as u64;
    for (_, topic) in queues::sub_dirs(dir).map_err(OpenError::io(dir))? {
        for (_, queue) in queues::sub_dirs(&topic).map_err(OpenError::io(&topic))? {
            let files = files::list(&queue)?.unwrap_or_default();
            if let Some(size) = files::common_size(&files)? {
                if size % UNIT as u64 != 0 {
                    let reason = format!("{size} bytes are not whole entries");
                    return Err(OpenError::Layout { path: queue, reason });
                }
                if size != configured {
                    tracing::warn!(size, configured, "queue files keep the size they have");
                }
                return Ok(size as i64);
            }
        }
    }
    Ok(configured as i64)
}

impl Recovery<'_> {
    /// Loads the queues with all entries that are certainly right, and returns the offset from
    /// which on entries must be made from the log.
    fn load_queues_up_to_certain(&mut self) -> Result<i64, OpenError> {
        let log_min = self.log.min();
        if !self.crashed {
            self.load_queues(i64::MAX)?;
            let Some(newest) = self.newest else { return Ok(log_min) };
            if newest.physical_offset < log_min {
                return Ok(log_min);
            }
            let good = self.queues_agree(newest).map_err(OpenError::io(&self.config.root))?;
            if good {
                return Ok(newest.physical_offset);
            }
            tracing::warn!("stopped cleanly, but queues and log differ; rebuilding the queues");
            self.crashed = true;
            self.load_queues(log_min)?;
            return Ok(log_min);
        }
        let cut = self.crash_start().map_err(OpenError::io(&self.config.root))?;
        self.load_queues(cut)?;
        if self.newest.is_none() && cut > log_min {
            // Somebody removed the queues, which asks for all of them to be rebuilt.
            self.load_queues(log_min)?;
            return Ok(log_min);
        }
        Ok(cut)
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
            if next == 0 || queue.state.lock().batches.is_some() {
                continue;
            }
            let mut last = [Entry::BLANK];
            self.queues.entries(&queue, next - 1, &mut last, Wait::MayBlock)?;
            if last[0].is_blank() || last[0].physical_offset < self.log.min() {
                continue;
            }
            head.clear();
            let at = last[0].physical_offset;
            self.log.read_file(at, 36, Wait::MayBlock, &mut head);
            if head.get(28..36) != Some(&at.to_be_bytes())
                || head.get(20..28) != Some(&(next - 1).to_be_bytes())
            {
                tracing::warn!(topic = queue.topic(), queue = queue.id(), "last entry is stale");
                return Ok(false);
            }
        }
        Ok(true)
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
        self.queues = Queues::new(self.config.root.join("consumequeue"), self.queue_file_size);
        for (batch, name) in [(false, "consumequeue"), (true, "batchconsumequeue")] {
            let dir = self.config.root.join(name);
            for (topic, topic_dir) in queues::sub_dirs(&dir).map_err(OpenError::io(&dir))? {
                for (id, path) in queues::sub_dirs(&topic_dir).map_err(OpenError::io(&topic_dir))? {
                    let Ok(id) = id.parse::<i32>() else { continue };
                    self.load_queue(&topic, id, &path, batch, cut)?;
                }
            }
        }
        Ok(())
    }

    fn load_queue(
        &mut self,
        topic: &str,
        id: i32,
        path: &Path,
        batch: bool,
        cut: i64,
    ) -> Result<(), OpenError> {
        let deleted_at = self.deleted.offset(topic);
        let (state, first, last) = if batch {
            let mut batches = batch_queue::load(path)?;
            let first = batches.first().map(|batch| batch.entry);
            batches.retain(|batch| batch.entry.physical_offset < cut);
            let last = batches.last().map(|batch| batch.entry);
            (batch_queue::state_of(batches), first, last)
        } else {
            let files = files::list(path)?.unwrap_or_default();
            match files::common_size(&files)? {
                None => return Ok(()),
                Some(size) if size as i64 != self.queue_file_size => {
                    let reason = format!("files of {size} bytes, not {}", self.queue_file_size);
                    return Err(OpenError::Layout { path: path.to_path_buf(), reason });
                }
                Some(_) => {
                    load_state(&files, self.queue_file_size, cut).map_err(OpenError::io(path))?
                }
            }
        };
        if first.is_some_and(|entry| entry.physical_offset < deleted_at) {
            // The process died between the deletion of the topic and that of its files.
            return fs::remove_dir_all(path).map_err(OpenError::io(path));
        }
        // Batch queues alone do not show that the others are there.
        if let Some(last) = last.filter(|last| !batch && !last.is_blank())
            && self.newest.is_none_or(|newest| newest.physical_offset < last.physical_offset)
        {
            self.newest = Some(last);
        }
        self.queues.insert(topic, id, state);
        Ok(())
    }

    /// Walks the log from `from` and returns its end and its last record.
    fn scan(&mut self, from: i64, index_from: Option<i64>) -> io::Result<(i64, LastRecord)> {
        // The scanner borrows the log, the dispatch the rest.
        let log = &self.log;
        // Below, records were on disk; a bad one there is damage, not the end.
        let newest = self.newest.filter(|_| !self.crashed);
        let trusted = newest.map_or(0, |e| e.physical_offset).max(self.checkpoint.logics_offset);
        let mut scanner = Scanner::new(log);
        let mut last = LastRecord::default();
        let (mut at, mut settled) = (from, from);
        let mut marker = None;
        let end = loop {
            match scanner.step(at)? {
                Step::Record(record) => {
                    last = LastRecord { start: at, timestamp_ms: record.store_timestamp() };
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
                        &self.queues,
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
        Ok((end, last))
    }

    /// Cuts everything behind the end off and sets all positions.
    fn finish(&mut self, from: i64, end: i64, last: LastRecord) -> io::Result<()> {
        for segment in self.log.detach_from(end + 1) {
            let mut head = [0; 8];
            files::read_at(&segment.file, &mut head, 0, Wait::MayBlock)?;
            if head == [0; 8] {
                fs::remove_file(&segment.path)?;
                continue;
            }
            let aside = self.config.root.join(format!("cut-{end}"));
            fs::create_dir_all(&aside)?;
            let name = segment.path.file_name().unwrap_or_default();
            tracing::warn!(file = %segment.path.display(), end, "file behind the end kept aside");
            fs::rename(&segment.path, aside.join(name))?;
        }
        if let Some(segment) = self.log.segment_at(end) {
            let at = (end - segment.start) as u64;
            let mut head = [0; 8];
            files::read_at(&segment.file, &mut head, at, Wait::MayBlock)?;
            if self.crashed || head != [0; 8] {
                // All of it: records of an older generation must not come back when the new ones
                // happen to end at one of their borders.
                files::zero(&segment.file, at, self.log.file_size() as u64)?;
            }
        }
        self.log.sync_files(from, end)?;
        self.deleted.clamp(end)?;
        self.log.start_at(end, last);
        for queue in self.queues.all() {
            if self.crashed {
                self.queues.clear_stale(&queue)?;
            }
            self.queues.raise_min(&queue, self.log.min())?;
        }
        self.save_batches().map_err(io::Error::other)?;
        if let Some(index) = &self.index {
            index.cut(end)?;
            index.apply(end)?;
        }
        Ok(())
    }

    /// Batch queues have no background flush: what the scan added is written at once.
    fn save_batches(&self) -> Result<(), OpenError> {
        for queue in self.queues.all() {
            let mut state = queue.state.lock();
            let saved = state.flushed as usize;
            let Some(batches) = &state.batches else { continue };
            let count = batches.len();
            if self.crashed || count > saved {
                let root = self.config.root.join("batchconsumequeue").join(queue.topic());
                batch_queue::save(&root.join(queue.id().to_string()), batches, saved)?;
                state.flushed = count as i64;
            }
        }
        Ok(())
    }
}

/// Finds the end of the leading entries that are valid and below `cut`; also returns the last of
/// them and the first one of all.
fn load_state(
    listed: &[Listed],
    file_size: i64,
    cut: i64,
) -> io::Result<(State, Option<Entry>, Option<Entry>)> {
    let per_file = file_size / UNIT;
    let first = listed.first().map_or(0, |file| file.start);
    let valid = |file: &fs::File, at: i64| {
        Ok::<_, io::Error>(queues::entry_in(file, at)?.filter(|e| e.physical_offset < cut))
    };
    let (mut next, mut last_entry) = (first / UNIT, None);
    for listed in listed.iter().rev() {
        let file = files::open(&listed.path)?;
        if valid(&file, 0)?.is_some() {
            let (mut low, mut high) = (1, per_file);
            while low < high {
                let middle = low + (high - low) / 2;
                if valid(&file, middle)?.is_some() {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            next = listed.start / UNIT + low;
            last_entry = valid(&file, low - 1)?;
            break;
        }
    }
    // The first real one, certain or not: leading blanks have no record.
    let mut first_entry = None;
    if let Some(listed) = listed.first() {
        let file = files::open(&listed.path)?;
        let mut at = 0;
        while at < per_file && first_entry.is_none() {
            let Some(entry) = queues::entry_in(&file, at)? else { break };
            first_entry = Some(entry).filter(|entry| !entry.is_blank());
            at += 1;
        }
    }
    let state = State {
        min: first / UNIT,
        next,
        flushed: next,
        first_file: Some(first),
        ..State::default()
    };
    Ok((state, first_entry, last_entry))
}
