//! Every entry of every queue against its record, and every record against its entry.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

use foldhash::fast::RandomState;
use wire::properties::Known;
use wire::record::{INNER_BATCH, Record};

use super::{Cure, Ground, Part, log, texts};
use crate::api::{Entry, OpenError, SCHEDULE_TOPIC, TIMER_TOPIC};
use crate::batch_queue::{BatchEntry, UNIT as BATCH_UNIT};
use crate::disk::Disk;
use crate::dispatch;
use crate::files::{self, Listed};
use crate::light::{LIGHT_PREFIX, allows_light, light_names};
use crate::queue_files::{UNIT, sub_dirs};

/// Bytes of a queue file read at once.
const BLOCK: usize = 4000;
/// Blocks in memory over all queues.
const MAX_BLOCKS: usize = 4096;

/// Records of one queue without their entry that are remembered.
const MAX_WRONG: usize = 100_000;

/// The length that most queue files below a directory have.
pub(super) fn usual_size(disk: &Disk, dir: &Path, unit: u64) -> Result<Option<u64>, OpenError> {
    let mut all = Vec::new();
    for (_, topic) in sub_dirs(disk, dir).map_err(OpenError::io(dir))? {
        for (_, queue) in sub_dirs(disk, &topic).map_err(OpenError::io(&topic))? {
            all.extend(files::found(disk, &queue)?.unwrap_or_default());
        }
    }
    all.retain(|file| file.len % unit == 0);
    Ok(log::usual_size(&all))
}

/// Whether there is any light queue.
pub(super) fn has_light(disk: &Disk, root: &Path) -> Result<bool, OpenError> {
    let dir = root.join("consumequeue");
    let topics = sub_dirs(disk, &dir).map_err(OpenError::io(&dir))?;
    Ok(topics.iter().any(|(topic, _)| topic.starts_with(LIGHT_PREFIX)))
}

/// The files of one queue.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    listed: Vec<Listed>,
    size: i64,
    unit: i64,
    /// The bytes read last, and where they begin.
    block: (i64, Vec<u8>),
}

impl Files {
    pub(super) fn of(disk: &Disk, dir: &Path, unit: i64) -> Result<Files, OpenError> {
        let listed = files::found(disk, dir)?.unwrap_or_default();
        let size = log::usual_size(&listed).unwrap_or(0) as i64;
        Ok(Files { dir: dir.to_path_buf(), listed, size, unit, block: (0, Vec::new()) })
    }

    /// Slots of the first file's begin and the last file's end.
    pub(super) fn span(&self) -> (i64, i64) {
        if self.is_empty() {
            return (0, 0);
        }
        let first = self.listed.first().map_or(0, |file| file.start);
        let last = self.listed.last().map_or(0, |file| file.start + self.size);
        (first / self.unit, last / self.unit)
    }

    /// The bytes of a slot; `None` without them.
    pub(super) fn slot(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<&[u8]>> {
        let unit = self.unit as usize;
        let Some(at) = slot.checked_mul(self.unit).filter(|at| *at >= 0) else { return Ok(None) };
        let inside = |block: &(i64, Vec<u8>)| {
            let skip = usize::try_from(at - block.0).ok()?;
            (skip + unit <= block.1.len()).then_some(skip)
        };
        if inside(&self.block).is_none() {
            let holds = |file: &&Listed| (file.start..file.start + file.len as i64).contains(&at);
            let Some(file) = self.listed.iter().find(holds) else { return Ok(None) };
            let in_file = at - file.start;
            let len = (file.len as i64 - in_file).min(BLOCK as i64 / self.unit * self.unit);
            let mut bytes = vec![0; len as usize];
            disk.open(&file.path)?.read_exact_at(&mut bytes, in_file as u64)?;
            self.block = (at, bytes);
        }
        let found = inside(&self.block);
        Ok(found.map(|skip| &self.block.1[skip..skip + unit]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Place in the log, first queue offset and the one behind of the message in a slot.
    fn message(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<(i64, i64, i64)>> {
        if self.unit == UNIT {
            let entry = self.entry(disk, slot)?;
            return Ok(entry.map(|entry| (entry.physical_offset, slot, slot + 1)));
        }
        let batch = self.batch(disk, slot)?;
        Ok(batch.map(|batch| (batch.entry.physical_offset, batch.base, batch.end())))
    }

    /// First queue offset with a record at or above `log_min`, and the one behind the last.
    pub(super) fn offsets(&mut self, disk: &Disk, log_min: i64) -> io::Result<(i64, i64)> {
        if self.is_empty() {
            return Ok((0, 0));
        }
        let (first, end) = self.span();
        let mut max = None;
        let per_file = self.size / self.unit;
        let mut start = end;
        while max.is_none() && start > first {
            start -= per_file;
            // Entries fill a file from its front.
            let (mut low, mut high) = (start, start + per_file);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.message(disk, middle)?.is_some() {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            max =
                if low > start { self.message(disk, low - 1)?.map(|found| found.2) } else { None };
        }
        let Some(max) = max else { return Ok((first, first)) };
        for slot in first..end {
            match self.message(disk, slot)? {
                Some((at, offset, _)) if at >= log_min => return Ok((offset, max)),
                _ => {}
            }
        }
        Ok((max, max))
    }

    /// Queue offsets and places of up to `max` messages or batches from `offset` on, or from the
    /// first that the log has.
    pub(super) fn places(
        &mut self,
        disk: &Disk,
        (log_min, offset): (i64, Option<i64>),
        max: usize,
    ) -> io::Result<Vec<(i64, Option<i64>)>> {
        let (min, behind) = self.offsets(disk, log_min)?;
        let from = offset.unwrap_or(min);
        let mut places = Vec::new();
        if self.unit == UNIT {
            for slot in (from..behind.max(from.saturating_add(1))).take(max) {
                places.push((slot, self.message(disk, slot)?.map(|found| found.0)));
            }
            return Ok(places);
        }
        let (first, end) = self.span();
        for slot in first..end {
            if let Some((at, base, next)) = self.message(disk, slot)?
                && next > from
                && places.len() < max
            {
                places.push((base, Some(at)));
            }
        }
        Ok(places)
    }

    /// The entry of an ordinary queue's slot.
    pub(super) fn entry(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<Entry>> {
        let raw = self.slot(disk, slot)?.and_then(<[u8]>::first_chunk);
        Ok(raw.and_then(Entry::decode).filter(|entry| !entry.is_blank()))
    }

    fn batch(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<BatchEntry>> {
        let raw = self.slot(disk, slot)?.and_then(<[u8]>::first_chunk::<BATCH_UNIT>);
        Ok(raw.and_then(BatchEntry::decode))
    }

    /// What is odd about the files themselves.
    fn layout(&self) -> Option<String> {
        let mut expected = self.listed.first()?.start;
        for file in &self.listed {
            let name = files::name_of(file.start);
            if file.start != expected {
                return Some(format!("a file is missing in front of {name}"));
            }
            if file.len as i64 != self.size || self.size % self.unit != 0 {
                return Some(format!("{name} has {} bytes, not {}", file.len, self.size));
            }
            expected += self.size;
        }
        None
    }
}

/// One queue in the making of the report.
#[derive(Debug, Default)]
struct Queue {
    files: Files,
    /// One bit for each slot from `first` on: its record was seen.
    seen: Vec<u64>,
    first: i64,
    /// Records whose entry is not what it should be: offset, place, what the entry says.
    wrong: Vec<(i64, i64, String)>,
    /// Largest offset of a record, and how many records were right.
    last: i64,
    good: u64,
    /// Batches by their place.
    batches: BTreeMap<i64, BatchEntry>,
    /// Records of a queue without any file.
    records: u64,
    newest: i64,
}

impl Queue {
    fn mark(&mut self, offset: i64) {
        let (first, end) = self.files.span();
        if !(first..end).contains(&offset) {
            return; // a damaged number may be any
        }
        let bit = (offset - self.first).max(0) as usize;
        if self.seen.len() <= bit / 64 {
            self.seen.resize(bit / 64 + 1, 0);
        }
        self.seen[bit / 64] |= 1 << (bit % 64);
    }

    fn is_marked(&self, offset: i64) -> bool {
        let bit = (offset - self.first).max(0) as usize;
        self.seen.get(bit / 64).is_some_and(|word| word & (1 << (bit % 64)) != 0)
    }
}

/// See the module.
pub(super) struct Check<'a> {
    ground: &'a Ground,
    part: Part,
    queues: HashMap<(String, i32, bool), Queue, RandomState>,
    blocks: usize,
}

impl<'a> Check<'a> {
    pub(super) fn new(ground: &'a Ground) -> Result<Check<'a>, OpenError> {
        let mut check = Check {
            ground,
            part: Part::new("consumequeue", "entries"),
            queues: HashMap::default(),
            blocks: 0,
        };
        let disk = &ground.config.disk;
        for (name, unit) in [("consumequeue", UNIT), ("batchconsumequeue", BATCH_UNIT as i64)] {
            let dir = ground.config.root.join(name);
            for (topic, topic_dir) in sub_dirs(disk, &dir).map_err(OpenError::io(&dir))? {
                let found = sub_dirs(disk, &topic_dir).map_err(OpenError::io(&topic_dir))?;
                for (id, path) in found {
                    let Ok(id) = id.parse() else { continue };
                    let files = Files::of(disk, &path, unit)?;
                    let first = files.span().0;
                    let queue = Queue { files, first, last: -1, ..Queue::default() };
                    check.queues.insert((topic.clone(), id, unit != UNIT), queue);
                }
            }
        }
        Ok(check)
    }

    /// Compares a record with its entries.
    pub(super) fn record(&mut self, record: &Record<'_>) -> io::Result<()> {
        let topic = record.topic();
        let deleted = self.ground.deleted.get(topic).copied().unwrap_or(0);
        if !record.is_visible() || record.physical_offset() < deleted {
            return Ok(());
        }
        let known = Known::scan(record.properties());
        let levels = &self.ground.config.delay_levels_ms;
        let entry = Entry {
            physical_offset: record.physical_offset(),
            size: record.total_len() as i32,
            tags_code: dispatch::tags_code(topic, &known, record.store_timestamp(), levels),
        };
        let batch =
            record.sys_flag() & INNER_BATCH != 0 || self.ground.config.batch_topics.contains(topic);
        if batch {
            let queue = self.queue(topic, record.queue_id(), true);
            queue.records += 1;
            queue.newest = entry.physical_offset;
            if let Some(batch) = BatchEntry::of(record, entry) {
                queue.batches.insert(entry.physical_offset, batch);
            }
        } else {
            self.one(topic, record.queue_id(), record.queue_offset(), entry)?;
        }
        let (Some(names), Some(offsets)) = (known.multi_dispatch, known.multi_offsets) else {
            return Ok(());
        };
        if !self.ground.config.multi_dispatch || !allows_light(topic) {
            return Ok(());
        }
        for (name, offset) in light_names(names).zip(offsets.split(',')) {
            if let (Some(name), Ok(offset)) = (name, offset.parse()) {
                self.one(name, 0, offset, entry)?;
            }
        }
        Ok(())
    }

    fn queue(&mut self, topic: &str, id: i32, batch: bool) -> &mut Queue {
        let new = || Queue { last: -1, ..Queue::default() };
        self.queues.entry((topic.to_owned(), id, batch)).or_insert_with(new)
    }

    fn one(&mut self, topic: &str, id: i32, offset: i64, wanted: Entry) -> io::Result<()> {
        if self.blocks > MAX_BLOCKS {
            self.queues.values_mut().for_each(|queue| queue.files.block = (0, Vec::new()));
            self.blocks = 0;
        }
        let disk = self.ground.config.disk.clone();
        let queue = self.queue(topic, id, false);
        queue.records += 1;
        queue.newest = wanted.physical_offset;
        if queue.files.is_empty() {
            return Ok(());
        }
        let cold = queue.files.block.1.is_empty();
        let found = queue.files.entry(&disk, offset)?;
        queue.last = queue.last.max(offset);
        if queue.wrong.len() >= MAX_WRONG {
            return Ok(()); // it is made anew anyway
        }
        // Due times depend on the levels of the time, and on who wrote them.
        let timed = topic == SCHEDULE_TOPIC || topic == TIMER_TOPIC;
        let at = wanted.physical_offset;
        match found {
            Some(entry) if entry.physical_offset == at => {
                queue.mark(offset);
                let tags = timed || entry.tags_code == wanted.tags_code;
                if entry.size == wanted.size && tags {
                    queue.good += 1;
                } else {
                    queue.wrong.push((offset, at, "has another size or tag code".to_owned()));
                }
            }
            Some(entry) => {
                let what = format!("points to {}", entry.physical_offset);
                queue.wrong.push((offset, at, what));
            }
            None => queue.wrong.push((offset, at, "is missing".to_owned())),
        }
        self.blocks += usize::from(cold);
        Ok(())
    }

    /// The report on the queues, and topics that a Java broker seems to have deleted.
    pub(super) fn finish(mut self, log: &(i64, i64)) -> Result<(Part, Vec<String>), OpenError> {
        let disk = &self.ground.config.disk;
        let topics = texts::topic_table(disk, &self.ground.config.root);
        let mut gone = Vec::new();
        let mut queues: Vec<_> = std::mem::take(&mut self.queues).into_iter().collect();
        queues.sort_by(|one, other| one.0.cmp(&other.0));
        for ((topic, id, batch), mut queue) in queues {
            if queue.files.is_empty() {
                let named = topics.iter().any(|(name, _)| *name == topic);
                if named || topics.is_empty() || topic.starts_with(LIGHT_PREFIX) {
                    self.without_files(&topic, id, batch, &queue);
                } else if queue.records > 0 && !gone.contains(&topic) {
                    gone.push(topic);
                }
                continue;
            }
            let name = format!("{topic} {id}");
            if let Some(what) = queue.files.layout() {
                self.part.find(&queue.files.dir, Cure::Repair, format!("{name}: {what}"));
            }
            let dir = queue.files.dir.clone();
            if batch {
                self.batches(&name, &mut queue, log).map_err(OpenError::io(&dir))?;
            } else {
                self.entries(&name, &mut queue, log).map_err(OpenError::io(&dir))?;
            }
            self.part.good += queue.good;
        }
        if !gone.is_empty() {
            let list = gone.join(", ");
            self.part.notes.push(format!("records of deleted topics are in the log: {list}"));
        }
        Ok((self.part, gone))
    }

    fn without_files(&mut self, topic: &str, id: i32, batch: bool, queue: &Queue) {
        let kind = if batch { "batchconsumequeue" } else { "consumequeue" };
        let path = self.ground.config.root.join(kind).join(topic).join(id.to_string());
        if queue.records == 0 {
            return;
        }
        // All of them newer than the checkpoint: the queue was not written yet.
        let news = self.ground.is_news(queue.newest) && self.ground.checkpoint.logics_offset == 0;
        let cure = if news { Cure::NextStart } else { Cure::Repair };
        let what = format!("{topic} {id}: no file, but {} records in the log", queue.records);
        self.part.find(&path, cure, what);
    }

    fn entries(&mut self, name: &str, queue: &mut Queue, log: &(i64, i64)) -> io::Result<()> {
        let disk = &self.ground.config.disk;
        let mut old = 0;
        let wrong = std::mem::take(&mut queue.wrong);
        let seen: u32 = queue.seen.iter().map(|word| word.count_ones()).sum();
        // Numbers follow each other: one further away is damage of the record, which no CRC tells.
        let furthest = queue.first.saturating_add(i64::from(seen)) + wrong.len() as i64;
        let mut odd = Vec::new();
        for (offset, at, what) in wrong {
            if !(queue.first..=furthest).contains(&offset) {
                odd.push(at);
                let path = self.ground.config.commit_log_dir.clone();
                let what = format!("{name}: the record at {at} says offset {offset}; not shown");
                self.part.find(&path, Cure::None, what);
                continue;
            }
            let other = what.starts_with("points") && queue.is_marked(offset);
            if other {
                old += 1; // the queue began anew after its topic was deleted
                continue;
            }
            queue.mark(offset);
            let news = self.ground.is_news(at);
            let cure = if news { Cure::NextStart } else { Cure::Repair };
            let what = format!("{name}: the entry of offset {offset}, record at {at}, {what}");
            self.part.find(&queue.files.dir, cure, what);
        }
        if old > 0 {
            let note = format!("{name}: {old} records of the topic before it was deleted");
            self.part.notes.push(note);
        }
        let (first, end) = queue.files.span();
        let (mut live, mut holes) = (false, 0);
        for slot in first..end {
            let entry = queue.files.entry(disk, slot)?;
            let marked = queue.is_marked(slot);
            match entry {
                Some(entry) if !marked && odd.contains(&entry.physical_offset) => {}
                Some(entry) if !marked && entry.physical_offset >= log.0 => {
                    let news = !self.ground.clean && entry.physical_offset >= log.1;
                    let cure = if news { Cure::NextStart } else { Cure::Repair };
                    let at = entry.physical_offset;
                    let what =
                        format!("{name}: offset {slot} points to {at}: no record of its own");
                    self.part.find(&queue.files.dir, cure, what);
                }
                None if slot > queue.last => break,
                None if live && !marked => holes += 1,
                _ => live |= marked,
            }
        }
        if holes > 0 {
            self.part.notes.push(format!("{name}: {holes} offsets have no message"));
        }
        Ok(())
    }

    fn batches(&mut self, name: &str, queue: &mut Queue, log: &(i64, i64)) -> io::Result<()> {
        let disk = &self.ground.config.disk;
        let (first, end) = queue.files.span();
        let mut missing = std::mem::take(&mut queue.batches);
        let mut next = None;
        for slot in first..end {
            let Some(batch) = queue.files.batch(disk, slot)? else {
                if queue.files.slot(disk, slot)?.is_none_or(|raw| raw.iter().all(|b| *b == 0)) {
                    break;
                }
                let what = format!("{name}: slot {slot} is no entry");
                self.part.find(&queue.files.dir, Cure::Repair, what);
                continue;
            };
            let at = batch.entry.physical_offset;
            if at < log.0 {
                continue;
            }
            let own = missing.remove(&at).is_some_and(|wanted| wanted == batch);
            if !own || next.is_some_and(|next| batch.base < next) {
                let what = format!("{name}: slot {slot} points to {at}: no record of its own");
                self.part.find(&queue.files.dir, Cure::Repair, what);
            } else {
                queue.good += 1;
                next = Some(batch.end());
            }
        }
        for (at, batch) in missing {
            let cure = if self.ground.is_news(at) { Cure::NextStart } else { Cure::Repair };
            let what = format!("{name}: no entry for offset {}, record at {at}", batch.base);
            self.part.find(&queue.files.dir, cure, what);
        }
        Ok(())
    }
}
