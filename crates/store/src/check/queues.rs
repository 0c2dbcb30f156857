//! Every entry of every queue against its record, and every record against its entry.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::Path;

use foldhash::fast::RandomState;
use wire::properties::Known;
use wire::record::{INNER_BATCH, Record};

use super::span::Files;
use super::{Cure, Ground, Part, log, texts};
use crate::api::{Entry, OpenError, SCHEDULE_TOPIC, TIMER_TOPIC};
use crate::batch_queue::{BatchEntry, UNIT as BATCH_UNIT};
use crate::disk::Disk;
use crate::dispatch;
use crate::files;
use crate::light::{LIGHT_PREFIX, allows_light, light_names};
use crate::queue_files::{UNIT, sub_dirs};

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
    /// Its records, and the place of the first.
    records: u64,
    oldest: i64,
    /// Records in front of the first file.
    early: u64,
}

impl Queue {
    fn count(&mut self, at: i64) {
        if self.records == 0 {
            self.oldest = at;
        }
        self.records += 1;
    }

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
            queue.count(entry.physical_offset);
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
        queue.count(wanted.physical_offset);
        if queue.files.is_empty() {
            return Ok(());
        }
        if offset >= 0 && offset < queue.first {
            queue.early += 1;
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
                let named = topics.contains_key(&topic);
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
        let news = self.ground.is_news(queue.oldest);
        let cure = if news { Cure::NextStart } else { Cure::Repair };
        let what = format!("{topic} {id}: no file, but {} records in the log", queue.records);
        self.part.find(&path, cure, what);
    }

    fn entries(&mut self, name: &str, queue: &mut Queue, log: &(i64, i64)) -> io::Result<()> {
        let disk = &self.ground.config.disk;
        if queue.early > 0 {
            let early = queue.early;
            let note = format!("{name}: {early} records in front of its first file, not shown");
            self.part.notes.push(note);
        }
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
        let topic = name.rsplit_once(' ').map_or(name, |(topic, _)| topic);
        let deleted = self.ground.deleted.get(topic).copied().unwrap_or(0);
        let (mut live, mut holes) = (false, 0);
        for slot in first..end {
            let entry = queue.files.entry(disk, slot)?;
            let marked = queue.is_marked(slot);
            match entry {
                Some(entry) if !marked && odd.contains(&entry.physical_offset) => {}
                Some(entry) if !marked && entry.physical_offset >= log.0 => {
                    let at = entry.physical_offset;
                    // Not in the log yet, or of a topic that was being deleted.
                    let news = !self.ground.clean && (at >= log.1 || at < deleted);
                    let cure = if news { Cure::NextStart } else { Cure::Repair };
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
        let (mut next, mut begin) = (None, 0);
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
                if next.is_none() && first > 0 {
                    begin = batch.base;
                }
                next = Some(batch.end());
            }
        }
        let early = missing.values().filter(|batch| batch.base < begin).count();
        if early > 0 {
            let note = format!("{name}: {early} records in front of its first file, not shown");
            self.part.notes.push(note);
        }
        for (at, batch) in missing.into_iter().filter(|(_, batch)| batch.base >= begin) {
            let cure = if self.ground.is_news(at) { Cure::NextStart } else { Cure::Repair };
            let what = format!("{name}: no entry for offset {}, record at {at}", batch.base);
            self.part.find(&queue.files.dir, cure, what);
        }
        Ok(())
    }
}
