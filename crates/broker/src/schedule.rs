//! Delay levels: messages wait in `SCHEDULE_TOPIC_XXXX`, one queue a level, each entry's tag hash
//! being its due time. Java: `ScheduleMessageService`.
//!
//! Delivery runs inside the turn of whichever loop is awake when something is due; one of them
//! gets the lock. A refused delivery is tried again at the same offset, never skipped.
//!
//! The progress of each level is in `delayOffset.json`, as in Java, and written every ten seconds.
//! What was delivered since is told by records of a queue of our own, one a turn, in the same write
//! as what was delivered; so nothing is delivered twice after a kill. The file never says more than
//! what is on disk.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use net::Refusal;
use parking_lot::Mutex;
use store::{At, Queue, Store, Wait};
use wire::body::{DataVersion, Member};
use wire::codes::response;
use wire::json::{Value, object};
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Scanned};

use crate::marks::{copy_of, each_record};
use crate::put;
use crate::state::Broker;
use crate::topics::{SCHEDULE_TOPIC, TopicQueue, Topics};
use crate::turn::Turn;

/// Pause before a refused delivery is tried again.
const RETRY_MS: i64 = 100;
/// Pause while a record is fetched from disk.
const WARM_MS: i64 = 5;
/// Deliveries of one turn, so that a flood of due messages does not hold up the loop.
const PER_TURN: usize = 512;
/// How far back a level whose offset is unusable is looked through, before the last save.
const MARGIN_MS: i64 = 60_000;
/// Topic of the records that tell of deliveries.
const DONE_TOPIC: &str = "rmq_sys_apogee_delay_done";
/// Member of the file: where the records begin that are newer than it. Java ignores it.
const DONE_MEMBER: &str = "apogeeDone";

struct Level {
    queue: Arc<Queue>,
    duration_ms: i64,
    offset: i64,
    /// When the entry at `offset` is due; `None` when there is none.
    due_ms: Option<i64>,
}

struct Progress {
    levels: Vec<Level>,
    version: DataVersion,
    dirty: bool,
    /// A text for the file, and up to where the log must be on disk before it counts.
    captured: Option<(String, i64)>,
}

/// The delay levels of a broker.
pub struct Schedule {
    levels_ms: Vec<i64>,
    progress: Mutex<Progress>,
    /// Earliest due time over all levels; `i64::MAX` for none.
    next_due: AtomicI64,
    path: PathBuf,
    /// Where deliveries are told.
    done: Arc<TopicQueue>,
}

impl Schedule {
    /// Reads `delayOffset.json` or its backup and corrects offsets that point outside the queues.
    pub fn load(
        path: PathBuf,
        levels_ms: Vec<i64>,
        topics: &Topics,
        store: &Store,
    ) -> Result<Schedule, store::config_file::LoadError> {
        let file = store::config_file::load(&path, Value::parse)?;
        let part = |name: &str| file.as_ref().and_then(|file| file.get(name));
        let version = part("dataVersion").and_then(DataVersion::read).unwrap_or_default();
        let saved = part("offsetTable").map_or(&[][..], Value::pairs);
        let done = done_queue(store);
        let told_to = part(DONE_MEMBER).and_then(Value::int).unwrap_or(0);
        let told = read_done(store, &done, told_to);
        let offset_of = |level: i64| {
            let saved = saved.iter().find(|(key, _)| key.int() == Some(level));
            let saved = saved.and_then(|(_, offset)| offset.int());
            saved.max(told.get(&level).copied())
        };
        let mut levels = Vec::new();
        for (index, duration_ms) in levels_ms.iter().enumerate() {
            let queue = topics.queue(SCHEDULE_TOPIC, index as i32).map(|q| Arc::clone(&q.queue));
            let queue =
                queue.unwrap_or_else(|| store.queue_or_create(SCHEDULE_TOPIC, index as i32));
            let offset = offset_of(index as i64 + 1).unwrap_or(queue.min_offset());
            let offset = usable_offset(index + 1, store, &queue, offset, version.timestamp);
            let due_ms = queue.entry(store, offset).map(|entry| entry.tags_code);
            levels.push(Level { queue, duration_ms: *duration_ms, offset, due_ms });
        }
        let schedule = Schedule {
            levels_ms,
            progress: Mutex::new(Progress { levels, version, dirty: false, captured: None }),
            next_due: AtomicI64::new(i64::MAX),
            path,
            done,
        };
        schedule.update_next_due(&schedule.progress.lock());
        Ok(schedule)
    }

    /// Duration of each level in milliseconds.
    pub fn levels(&self) -> &[i64] {
        &self.levels_ms
    }

    /// When the next message is due, if any waits.
    pub fn next_due_ms(&self) -> Option<i64> {
        let due = self.next_due.load(Ordering::Acquire);
        (due < i64::MAX).then_some(due)
    }

    /// Notes a message that was just put into the queue of a level.
    pub fn added(&self, queue_id: i32, stored_ms: i64) {
        let mut progress = self.progress.lock();
        let Some(level) = usize::try_from(queue_id).ok().and_then(|id| progress.levels.get_mut(id))
        else {
            return;
        };
        if level.due_ms.is_none() {
            level.due_ms = Some(stored_ms + level.duration_ms);
            self.next_due.fetch_min(stored_ms + level.duration_ms, Ordering::AcqRel);
        }
    }

    fn update_next_due(&self, progress: &Progress) {
        let next = progress.levels.iter().filter_map(|level| level.due_ms).min();
        self.next_due.store(next.unwrap_or(i64::MAX), Ordering::Release);
    }

    /// Progress as a body: next offset of each level.
    pub fn body(&self) -> Value {
        object(self.members(&self.progress.lock()))
    }

    fn members(&self, progress: &Progress) -> Vec<(&'static str, Value)> {
        let offsets = progress.levels.iter().enumerate();
        vec![
            ("dataVersion", progress.version.write()),
            ("offsetTable", object(offsets.map(|(i, level)| (i as i64 + 1, level.offset)))),
        ]
    }

    fn file_text(&self, progress: &Progress) -> String {
        let mut members = self.members(progress);
        members.push((DONE_MEMBER, Value::from(self.done.queue.next_offset())));
        object(members).to_file_text()
    }

    /// Next offset and end of each level, for operators.
    pub fn offsets(&self) -> Vec<(i64, i64)> {
        let progress = self.progress.lock();
        progress.levels.iter().map(|level| (level.offset, level.queue.next_offset())).collect()
    }

    /// Writes what was captured the last time, if it is on disk by now, and captures anew if
    /// anything was delivered.
    pub fn save(&self, store: &Store) {
        let water = store.watermarks();
        let mut progress = self.progress.lock();
        let captured = progress.captured.take_if(|(_, end)| *end <= water.flushed);
        if progress.captured.is_none() && std::mem::take(&mut progress.dirty) {
            progress.captured = Some((self.file_text(&progress), water.appended));
        }
        drop(progress);
        captured.into_iter().for_each(|(text, _)| self.write(&text));
    }

    /// Writes the progress as it is; for the end, when everything is on disk.
    pub fn save_last(&self) {
        let text = self.file_text(&self.progress.lock());
        self.write(&text);
    }

    fn write(&self, text: &str) {
        if let Err(error) = store::config_file::save(&self.path, text) {
            self.progress.lock().dirty = true;
            tracing::error!(path = %self.path.display(), %error, "cannot save the delay levels");
        }
    }
}

fn done_queue(store: &Store) -> Arc<TopicQueue> {
    let queue = store.queue_or_create(DONE_TOPIC, 0);
    let (waiters, puts, pops) = Default::default();
    Arc::new(TopicQueue { queue, waiters, puts, pops, of_system: true })
}

/// The next offset of each level, from the records since the file was written: `level:offset,`.
fn read_done(store: &Store, done: &TopicQueue, from: i64) -> HashMap<i64, i64> {
    let mut told = HashMap::new();
    let start = from.clamp(done.queue.min_offset(), done.queue.next_offset());
    each_record(store, done, start, |_, _, record| {
        let text = String::from_utf8_lossy(record.body());
        for (level, offset) in text.split(',').filter_map(|pair| pair.split_once(':')) {
            if let (Ok(level), Ok(offset)) = (level.parse(), offset.parse()) {
                told.insert(level, offset);
            }
        }
    });
    told
}

/// An offset inside the queue. Below it starts at the beginning; beyond the end it starts at the
/// first message that can not have been delivered before the file was written: twice is allowed,
/// never is not (field case B29).
fn usable_offset(level: usize, store: &Store, queue: &Queue, offset: i64, saved_ms: i64) -> i64 {
    let (min, next) = (queue.min_offset(), queue.next_offset());
    if (min..=next).contains(&offset) {
        return offset;
    }
    let corrected = if offset < min {
        min
    } else {
        let waiting =
            |at: &i64| queue.entry(store, *at).is_some_and(|e| e.tags_code >= saved_ms - MARGIN_MS);
        (min..next).find(waiting).unwrap_or(next)
    };
    tracing::warn!(level, offset, corrected, "delay level offset is outside its queue");
    corrected
}

/// The delay level that a message asks for, cut to the last one; `None` without delay.
pub fn level_of(known: &Known<'_>, levels: &[i64]) -> Result<Option<usize>, Refusal> {
    let Some(text) = known.delay else { return Ok(None) };
    let level: i64 = text.parse().map_err(|_| {
        let text =
            format!("the property DELAY is not a delay level: {text:?}; use 1 to {}", levels.len());
        Refusal::new(response::MESSAGE_ILLEGAL, text)
    })?;
    Ok(usize::try_from(level).ok().filter(|level| *level > 0).map(|level| level.min(levels.len())))
}

/// A message on its way to the delay topic.
pub struct Delayed {
    /// Queue of the level.
    pub queue: Arc<TopicQueue>,
    /// Its id: level - 1.
    pub queue_id: i32,
    /// Properties with the real topic and queue.
    pub properties: String,
}

impl Delayed {
    /// Where a message of `level` waits; `None` if the delay topic is missing.
    pub fn new(
        broker: &Broker,
        level: usize,
        topic: &str,
        queue_id: i32,
        text: &str,
    ) -> Option<Delayed> {
        let level_queue = level as i32 - 1;
        let queue = broker.topics.queue(SCHEDULE_TOPIC, level_queue)?;
        // A level wins over a time.
        let dropped = [
            properties::REAL_TOPIC,
            properties::REAL_QID,
            properties::TIMER_DELAY_SEC,
            properties::TIMER_DELAY_MS,
            properties::TIMER_DELIVER_MS,
        ];
        let mut text = properties::without(text, &dropped);
        properties::push(&mut text, properties::REAL_TOPIC, topic);
        properties::push(&mut text, properties::REAL_QID, &queue_id.to_string());
        Some(Delayed { queue, queue_id: level_queue, properties: text })
    }
}

/// Delivers what is due. Called at the end of every turn.
pub fn deliver_due(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    if broker.schedule.next_due.load(Ordering::Acquire) > turn.now_ms {
        return;
    }
    let Some(mut progress) = broker.schedule.progress.try_lock() else { return };
    let mut delivered = 0;
    let mut told = String::new();
    for (index, level) in progress.levels.iter_mut().enumerate() {
        let before = level.offset;
        while delivered < PER_TURN && level.due_ms.is_some_and(|due| due <= turn.now_ms) {
            level.due_ms = match step(turn, &broker, level) {
                Step::Delivered => {
                    delivered += 1;
                    level.offset += 1;
                    level.queue.entry(&broker.store, level.offset).map(|entry| entry.tags_code)
                }
                Step::Later(due_ms) => Some(due_ms),
                Step::Empty => None,
            };
        }
        if level.offset > before {
            told.push_str(&format!("{}:{},", index + 1, level.offset));
        }
    }
    if delivered > 0 {
        if let Err(refused) = put::append_own(turn, &broker.schedule.done, &told, "") {
            // Harmless but after a kill: then what was delivered is delivered again.
            tracing::warn!(?refused, "deliveries of delay levels cannot be noted");
        }
        progress.dirty = true;
        progress.version.advance(turn.now_ms);
    }
    broker.schedule.update_next_due(&progress);
}

enum Step {
    Delivered,
    Later(i64),
    Empty,
}

fn step(turn: &mut Turn, broker: &Arc<Broker>, level: &Level) -> Step {
    let Some(entry) = level.queue.entry(&broker.store, level.offset) else { return Step::Empty };
    // A due time further away than the level is long comes from a clock that was set back.
    if entry.tags_code > turn.now_ms && entry.tags_code <= turn.now_ms + level.duration_ms {
        return Step::Later(entry.tags_code);
    }
    if entry.physical_offset + i64::from(entry.size) > broker.store.watermarks().readable {
        return Step::Later(turn.now_ms + 1);
    }
    turn.records.clear();
    let mut bytes = std::mem::take(&mut turn.records);
    let step = match broker.store.at(entry.physical_offset, Wait::OnlyCached, &mut bytes) {
        At::Found => deliver(turn, broker, &bytes),
        At::Cold => {
            broker.readers.warm(&broker.store, vec![entry.physical_offset]);
            Step::Later(turn.now_ms + WARM_MS)
        }
        At::Missing => {
            tracing::warn!(
                offset = entry.physical_offset,
                "a delayed message is gone from the log"
            );
            Step::Delivered
        }
    };
    turn.records = bytes;
    step
}

/// Puts a due message under its real topic.
fn deliver(turn: &mut Turn, broker: &Arc<Broker>, bytes: &[u8]) -> Step {
    let Ok(Scanned::Record(record)) = record::scan(bytes) else { return Step::Delivered };
    let text = record.properties();
    let topic = properties::get(text, properties::REAL_TOPIC);
    let queue_id = properties::get(text, properties::REAL_QID).and_then(|id| id.parse().ok());
    let target =
        topic.zip(queue_id).and_then(|(topic, id)| broker.topics.queue(topic, id).zip(Some(id)));
    let (Some(topic), Some((queue, queue_id))) = (topic, target) else {
        tracing::warn!(topic, queue_id, "the target of a delayed message does not exist any more");
        return Step::Delivered;
    };
    let known = Known::scan(text);
    let new = NewRecord { topic, queue_id, ..copy_of(&record, text) };
    match put::append(turn, broker, &broker.config(), &queue, &new, &known) {
        Ok(_) => Step::Delivered,
        Err(refused) => {
            tracing::warn!(?refused, topic, "a delayed message is not delivered yet");
            Step::Later(turn.now_ms + RETRY_MS)
        }
    }
}
