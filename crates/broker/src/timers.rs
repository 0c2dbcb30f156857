//! Messages for any time: they wait in `rmq_sys_wheel_timer` until they are due.
//! Java: `TimerMessageStore`.
//!
//! What waits is known in memory: a heap by due time, and one bit for each record of the queue
//! from the first waiting one on. The consume queue's tag code of such a record is its due time,
//! so a start reads 20 bytes per message and no record. There is no wheel, no timer log and no
//! rounding to seconds; delivery is exact to a turn of the loop.
//!
//! A message that waits longer than the log is kept would lose its record, so it is written again
//! in time (Java: roll). The same keeps the queue's span short when few messages wait for long
//! among many that do not.

mod for_java;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use net::Refusal;
use parking_lot::Mutex;
use store::{
    At, Entry, Store, TIMER_DELETE, TIMER_TOPIC, TimerCheck, TimerFiles, Wait, timer_due_ms,
};
use wire::codes::response;
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Record, Scanned};

use crate::config::BrokerConfig;
use crate::marks::{Marks, Names, copy_of};
use crate::offsets::Offsets;
use crate::pop::java::{REVIVE_PREFIX, Word};
use crate::put;
use crate::state::Broker;
use crate::timer_metrics::TimerMetrics;
use crate::topics::Topics;
use crate::turn::Turn;

/// Marks of delivered messages. Ours: the original keeps this state in files of its own.
pub const DONE_TOPIC: &str = "rmq_sys_apogee_timer_done";
/// Group of the progress.
const GROUP: &str = "CID_RMQ_SYS_APOGEE_TIMER";

/// Deliveries of one turn, so that a flood of due messages does not hold up the loop.
const PER_TURN: usize = 512;
/// Pause before a refused delivery is tried again.
const RETRY_MS: i64 = 100;
/// Pause while records are fetched from disk.
const WARM_MS: i64 = 5;
/// How often the oldest waiting messages are looked at for writing them again.
const ROLL_CHECK_MS: i64 = 1000;
/// Age at which a waiting message is written again. Java: `timerRollWindowSlot`.
const ROLL_AFTER_MS: i64 = 2 * 24 * 3_600_000;
/// Records from the first waiting to the last one, below which nothing is written again for room.
const ROOMY: i64 = 4 << 20;
/// Tag codes below this are hashes: the record was written by a Java broker.
const SMALLEST_TIME: i64 = 1 << 36;

/// One waiting message; ordered by due time, then by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    due_ms: i64,
    offset: i64,
    physical_offset: i64,
}

/// One bit for each record of the queue from the first waiting one on.
#[derive(Default)]
struct Waiting {
    /// Offset of the first bit, a multiple of 64.
    base: i64,
    words: VecDeque<u64>,
    count: usize,
}

impl Waiting {
    fn bit(&self, offset: i64) -> Option<(usize, u64)> {
        let at = usize::try_from(offset - self.base).ok()?;
        (at / 64 < self.words.len()).then_some((at / 64, 1 << (at % 64)))
    }

    fn contains(&self, offset: i64) -> bool {
        self.bit(offset).is_some_and(|(word, bit)| self.words[word] & bit != 0)
    }

    fn insert(&mut self, offset: i64) {
        let base = offset & !63;
        if self.words.is_empty() {
            self.base = base;
        }
        while base < self.base {
            self.words.push_front(0);
            self.base -= 64;
        }
        while base >= self.base + 64 * self.words.len() as i64 {
            self.words.push_back(0);
        }
        if let Some((word, bit)) = self.bit(offset) {
            self.count += usize::from(self.words[word] & bit == 0);
            self.words[word] |= bit;
        }
    }

    fn remove(&mut self, offset: i64) {
        if let Some((word, bit)) = self.bit(offset) {
            self.count -= usize::from(self.words[word] & bit != 0);
            self.words[word] &= !bit;
        }
        while self.words.front() == Some(&0) {
            self.words.pop_front();
            self.base += 64;
        }
    }

    fn first(&self) -> Option<i64> {
        let word = self.words.iter().position(|word| *word != 0)?;
        Some(self.base + 64 * word as i64 + i64::from(self.words[word].trailing_zeros()))
    }

    /// Records from the first waiting one to the last known.
    fn span(&self) -> i64 {
        64 * self.words.len() as i64
    }
}

#[derive(Default)]
struct State {
    heap: BinaryHeap<Reverse<Timer>>,
    waiting: Waiting,
    /// Recalled messages: when they would be due, by unique id.
    recalled: HashMap<String, i64>,
    /// Nothing is delivered before this time: a record is being fetched, or the store refuses.
    not_before_ms: i64,
    roll_check_ms: i64,
}

/// The timers of a broker.
pub struct Timers {
    /// How many messages of each topic wait.
    pub metrics: TimerMetrics,
    marks: Marks,
    state: Mutex<State>,
    next_due: AtomicI64,
    /// Pops of a Java broker that waited here.
    java_pops: Mutex<Vec<Word>>,
    files: TimerFiles,
    told: Mutex<for_java::Told>,
}

/// When a message is due, as its properties ask for it. `None`: at once.
///
/// # Errors
///
/// Java's codes and texts: 13 for what is no number or too far away, 1 when timers are off.
pub fn wanted_ms(
    config: &BrokerConfig,
    known: &Known<'_>,
    text: &str,
    now_ms: i64,
) -> Result<Option<i64>, Refusal> {
    if !config.timer_wheel_enable {
        let text = "accurate timer message is not enabled, timerWheelEnable is false";
        return Err(Refusal::new(response::SYSTEM_ERROR, text));
    }
    let max_ms = config.timer_max_delay_sec.saturating_mul(1000);
    let illegal = || {
        let text = format!(
            "timer message illegal, the delay time should not be bigger than the max delay \
             {max_ms}ms; or if set del msg, the delay time should be bigger than the current time"
        );
        Refusal::new(response::MESSAGE_ILLEGAL, text)
    };
    let number = |name: &str| properties::get(text, name).map(str::parse::<i64>);
    let due = number(properties::TIMER_DELAY_SEC)
        .map(|sec| sec.map(|sec| now_ms.saturating_add(sec.saturating_mul(1000))))
        .or_else(|| {
            number(properties::TIMER_DELAY_MS).map(|ms| ms.map(|ms| now_ms.saturating_add(ms)))
        })
        .or_else(|| number(properties::TIMER_DELIVER_MS));
    let Some(Ok(due_ms)) = due else { return Err(illegal()) };
    match due_ms.saturating_sub(now_ms) {
        ..=0 if known.timer_delete => Err(illegal()),
        ..=0 => Ok(None),
        delay if delay > max_ms => Err(illegal()),
        _ => Ok(Some(due_ms)),
    }
}

/// What `TIMER_OUT_MS` says of a due time. The original rounds it down to whole seconds and
/// delivers a second later; ours is one millisecond below, and never a whole second, so that the
/// two can be told apart.
fn out_ms(due_ms: i64) -> i64 {
    let out_ms = due_ms - 1;
    if out_ms % 1000 == 0 { due_ms } else { out_ms }
}

/// Stores a message until it is due. Returns what its recall handle says, too.
pub fn put_timer(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    new: NewRecord<'_>,
    due_ms: i64,
) -> Result<(store::Appended, i64), Refusal> {
    if broker.timers.count() >= config.max_pending_timers as usize {
        let text = format!(
            "timer message is under flow control, max num limit is {} (maxPendingTimers)",
            config.max_pending_timers
        );
        return Err(Refusal::new(response::SYSTEM_ERROR, text));
    }
    let out_ms = out_ms(due_ms);
    let hidden = [properties::REAL_TOPIC, properties::REAL_QID];
    let mut text = properties::without(new.properties, &hidden);
    properties::push(&mut text, properties::TIMER_OUT_MS, &out_ms.to_string());
    properties::push(&mut text, properties::REAL_TOPIC, new.topic);
    properties::push(&mut text, properties::REAL_QID, &new.queue_id.to_string());
    let waiting = NewRecord { topic: TIMER_TOPIC, queue_id: 0, properties: &text, ..new };
    let known = Known::scan(&text);
    let timers = &broker.timers;
    let appended = put::append(turn, broker, config, &timers.marks.source, &waiting, &known)?;
    if let Some(id) = properties::get(&text, properties::TIMER_DEL_UNIQKEY) {
        timers.state.lock().recalled.insert(id.to_owned(), timer_due_ms(out_ms));
    } else {
        timers.metrics.add(new.topic, 1, turn.now_ms);
    }
    timers.added(appended.place.queue_offset, appended.place.physical_offset, timer_due_ms(out_ms));
    Ok((appended, out_ms + 1))
}

impl Timers {
    /// Finds what waits: the records behind the progress that no mark names and whose copy was
    /// not delivered right before the end of the last run.
    pub fn load(config_dir: &Path, topics: &Topics, store: &Store, offsets: &Offsets) -> Timers {
        let names = Names { source: TIMER_TOPIC, marks: DONE_TOPIC, group: GROUP };
        let mut done = Waiting::default();
        let (marks, start) =
            Marks::load(names, topics, store, offsets, |offset| done.insert(offset));
        let mut delivered = store.delivered_before_start().to_vec();
        delivered.sort_unstable();
        // A store that a Java broker has left: what its wheel had passed is delivered.
        let files = TimerFiles::new(store.disk(), config_dir.parent().unwrap_or(config_dir));
        let left = files.check().filter(|check| !check.own);
        let timers = Timers {
            metrics: TimerMetrics::load(config_dir.join("timermetrics")),
            marks,
            state: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            java_pops: Mutex::default(),
            files,
            told: Mutex::default(),
        };
        let mut java = HashMap::new();
        let mut block = [Entry::default(); 128];
        let queue = &timers.marks.source.queue;
        let mut offset = start.max(queue.min_offset());
        while offset < queue.next_offset() {
            let found = queue.entries(store, offset, &mut block);
            for entry in &block[..found] {
                if !done.contains(offset) {
                    if delivered.binary_search(&entry.physical_offset).is_ok() {
                        timers.marks.settle(offset); // its mark was lost by a kill
                    } else {
                        timers.found(store, offset, *entry, left, &mut java);
                    }
                }
                offset += 1;
            }
            if found == 0 {
                offset += 1; // a hole
            }
        }
        let count = timers.count();
        if count > 0 {
            tracing::info!(count, "messages wait for their time");
        }
        timers
    }

    /// Takes one record of the queue in, at start. `left` is what a Java broker said in the end.
    fn found(
        &self,
        store: &Store,
        offset: i64,
        entry: Entry,
        left: Option<TimerCheck>,
        java: &mut HashMap<(String, i64), i64>,
    ) {
        let mut due_ms = entry.tags_code;
        let of_java = left.is_some() || entry.tags_code < SMALLEST_TIME;
        if entry.tags_code & TIMER_DELETE != 0 || of_java {
            let mut bytes = Vec::new();
            store.at(entry.physical_offset, Wait::MayBlock, &mut bytes);
            let Ok(Scanned::Record(record)) = record::scan(&bytes) else { return };
            let text = record.properties();
            let out = properties::get(text, properties::TIMER_OUT_MS).and_then(|t| t.parse().ok());
            let Some(out_ms) = out else { return };
            due_ms = timer_due_ms(out_ms);
            if left.is_some_and(|left| left.passed(offset, out_ms)) {
                return self.marks.settle(offset);
            }
            let real = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
            if real.starts_with(REVIVE_PREFIX) {
                // Java lets its pops wait here; ours are elsewhere.
                self.java_pops.lock().extend(Word::of(&record));
                return self.marks.settle(offset);
            }
            let id = properties::get(text, properties::UNIQ_KEY).unwrap_or_default();
            // A message that Java has rolled is there twice; the newer one counts.
            if of_java
                && properties::get(text, properties::TIMER_DEL_UNIQKEY).is_none()
                && let Some(old) = java.insert((id.to_owned(), out_ms), offset)
            {
                self.state.lock().waiting.remove(old);
                self.marks.settle(old);
            }
            if let Some(id) = properties::get(text, properties::TIMER_DEL_UNIQKEY) {
                self.state.lock().recalled.insert(id.to_owned(), due_ms);
            }
        }
        self.added(offset, entry.physical_offset, due_ms);
    }

    fn added(&self, offset: i64, physical_offset: i64, due_ms: i64) {
        let mut state = self.state.lock();
        state.waiting.insert(offset);
        state.heap.push(Reverse(Timer { due_ms, offset, physical_offset }));
        self.next_due.fetch_min(due_ms.min(state.roll_check_ms), Ordering::AcqRel);
    }

    /// Pops of a Java broker that were found at start.
    pub fn take_java_pops(&self) -> Vec<Word> {
        std::mem::take(&mut *self.java_pops.lock())
    }

    /// How many messages wait.
    pub fn count(&self) -> usize {
        self.state.lock().waiting.count
    }

    /// When something is to be done next, if anything waits.
    pub fn next_due_ms(&self) -> Option<i64> {
        let due = self.next_due.load(Ordering::Acquire);
        (due < i64::MAX).then_some(due)
    }

    /// Saves the progress up to what is on disk.
    pub fn save(&self, broker: &Broker, now_ms: i64) {
        let (first, count) = {
            let state = self.state.lock();
            (state.waiting.first(), state.waiting.count)
        };
        self.marks.save_progress(broker, first, now_ms);
        self.metrics.save(count);
        self.tell_java(broker, now_ms);
    }

    /// Behind the last record of the queue that messages wait in.
    pub fn end(&self) -> i64 {
        self.marks.source.queue.next_offset()
    }

    fn update_next_due(&self, state: &State) {
        let due = state.heap.peek().map_or(i64::MAX, |Reverse(timer)| timer.due_ms);
        let due = due.max(state.not_before_ms);
        let roll = if state.waiting.count > 0 { state.roll_check_ms } else { i64::MAX };
        self.next_due.store(due.min(roll), Ordering::Release);
    }
}

/// Delivers what is due and writes again what waits too long. Called at the end of every turn,
/// before its commit.
pub fn deliver_due(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    let timers = &broker.timers;
    if timers.next_due.load(Ordering::Acquire) <= turn.now_ms
        && let Some(mut state) = timers.state.try_lock()
    {
        if state.not_before_ms <= turn.now_ms {
            deliver(turn, &broker, &mut state);
        }
        if state.roll_check_ms <= turn.now_ms {
            roll(turn, &broker, &mut state);
        }
        timers.update_next_due(&state);
    }
    timers.marks.write(turn);
}

enum Step {
    Done,
    Later(i64),
}

fn deliver(turn: &mut Turn, broker: &Arc<Broker>, state: &mut State) {
    let mut delivered = 0;
    while delivered < PER_TURN
        && let Some(Reverse(timer)) = state.heap.peek().copied()
        && timer.due_ms <= turn.now_ms
    {
        if state.waiting.contains(timer.offset) {
            let step = with_record(turn, broker, timer, state, deliver_one);
            if let Step::Later(ms) = step {
                state.not_before_ms = ms;
                return;
            }
            state.waiting.remove(timer.offset);
            broker.timers.marks.settle(timer.offset);
            delivered += 1;
        }
        state.heap.pop();
    }
}

/// Reads the record of a timer and does something with it, now or when it is in memory.
fn with_record(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    timer: Timer,
    state: &mut State,
    act: fn(&mut Turn, &Arc<Broker>, &mut State, Timer, &Record<'_>) -> Step,
) -> Step {
    if timer.physical_offset >= broker.store.watermarks().readable {
        return Step::Later(turn.now_ms + 1);
    }
    let mut bytes = std::mem::take(&mut turn.records);
    bytes.clear();
    let step = match broker.store.at(timer.physical_offset, Wait::OnlyCached, &mut bytes) {
        At::Found => match record::scan(&bytes) {
            Ok(Scanned::Record(record)) => act(turn, broker, state, timer, &record),
            _ => Step::Done,
        },
        At::Cold => {
            warm(broker, state, timer);
            Step::Later(turn.now_ms + WARM_MS)
        }
        At::Missing => {
            tracing::error!(offset = timer.offset, "a waiting message is gone from the log");
            Step::Done
        }
    };
    turn.records = bytes;
    step
}

/// Brings this record and some that are due soon into memory. The front of a heap's list holds
/// its earliest members, so a short look at it is enough.
fn warm(broker: &Arc<Broker>, state: &State, timer: Timer) {
    let soon = timer.due_ms + 1000;
    let others = state.heap.iter().map(|Reverse(timer)| timer).take(PER_TURN);
    let others = others.filter(|other| other.due_ms <= soon);
    let mut wanted: Vec<i64> = others.map(|other| other.physical_offset).collect();
    wanted.push(timer.physical_offset);
    wanted.sort_unstable();
    broker.readers.warm(&broker.store, wanted);
}

/// Puts a due message under its real topic, unless it was recalled.
fn deliver_one(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    state: &mut State,
    timer: Timer,
    record: &Record<'_>,
) -> Step {
    let text = record.properties();
    if let Some(id) = properties::get(text, properties::TIMER_DEL_UNIQKEY) {
        if state.recalled.get(id) == Some(&timer.due_ms) {
            state.recalled.remove(id);
        }
        return Step::Done;
    }
    let topic = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
    let metrics = &broker.timers.metrics;
    if is_recalled(state, timer, text) {
        metrics.add(topic, -1, turn.now_ms);
        return Step::Done;
    }
    let id = properties::get(text, properties::REAL_QID).and_then(|id| id.parse::<i32>().ok());
    let Some((id, queue)) = id.and_then(|id| Some((id, broker.topics.queue(topic, id)?))) else {
        tracing::warn!(topic, id, "the target of a timer message does not exist any more");
        metrics.add(topic, -1, turn.now_ms);
        return Step::Done;
    };
    let mut kept = properties::without(text, &[properties::REAL_TOPIC, properties::REAL_QID]);
    properties::push(&mut kept, properties::TIMER_DEQUEUE_MS, &turn.now_ms.to_string());
    let new = NewRecord {
        topic,
        queue_id: id,
        prepared_offset: record.physical_offset(),
        ..copy_of(record, &kept)
    };
    let known = Known::scan(&kept);
    match put::append(turn, broker, &broker.config(), &queue, &new, &known) {
        Ok(_) => {
            metrics.add(topic, -1, turn.now_ms);
            Step::Done
        }
        Err(refused) => {
            tracing::warn!(?refused, topic, "a timer message is not delivered yet");
            Step::Later(turn.now_ms + RETRY_MS)
        }
    }
}

fn is_recalled(state: &State, timer: Timer, text: &str) -> bool {
    if state.recalled.is_empty() {
        return false;
    }
    let Some(id) = properties::get(text, properties::UNIQ_KEY) else { return false };
    let topic = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
    // Java's second form of the key; see `appendTopicForTimerDeleteKey`.
    [id, &format!("{topic}+{id}")].iter().any(|key| state.recalled.get(*key) == Some(&timer.due_ms))
}

/// Writes the oldest waiting messages again when they get too old or hold up too long a span.
fn roll(turn: &mut Turn, broker: &Arc<Broker>, state: &mut State) {
    state.roll_check_ms = turn.now_ms + ROLL_CHECK_MS;
    for _ in 0..PER_TURN {
        let queue = &broker.timers.marks.source.queue;
        let Some(offset) = state.waiting.first() else { return };
        if offset >= queue.max_offset(&broker.store) {
            return; // just written, not readable before the commit
        }
        let Some(entry) = queue.entry(&broker.store, offset) else {
            state.waiting.remove(offset);
            broker.timers.marks.settle(offset);
            continue;
        };
        let timer = Timer {
            due_ms: entry.tags_code & !TIMER_DELETE,
            offset,
            physical_offset: entry.physical_offset,
        };
        if let Step::Later(ms) = with_record(turn, broker, timer, state, roll_one) {
            state.roll_check_ms = ms;
            return;
        }
        state.waiting.remove(offset);
        broker.timers.marks.settle(offset);
    }
    state.roll_check_ms = turn.now_ms; // more may be to do
}

fn roll_one(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    state: &mut State,
    mut timer: Timer,
    record: &Record<'_>,
) -> Step {
    let config = broker.config();
    let kept_ms = match config.file_reserved_time {
        ..0 => i64::MAX,
        hours => i64::from(hours) * 3_600_000,
    };
    let old = turn.now_ms - record.store_timestamp() >= ROLL_AFTER_MS.min(kept_ms / 2);
    let span = state.waiting.span();
    if !old && (span < ROOMY || state.waiting.count as i64 * 8 > span) {
        return Step::Later(turn.now_ms + ROLL_CHECK_MS);
    }
    let text = record.properties();
    let number = |name| properties::get(text, name).and_then(|n| n.parse::<i64>().ok());
    let Some(out_ms) = number(properties::TIMER_OUT_MS) else { return Step::Done };
    timer.due_ms = timer_due_ms(out_ms);
    if is_recalled(state, timer, text) {
        return Step::Done;
    }
    let times = number(properties::TIMER_ROLL_TIMES).unwrap_or(0) + 1;
    let mut kept = properties::without(text, &[properties::TIMER_ROLL_TIMES]);
    properties::push(&mut kept, properties::TIMER_ROLL_TIMES, &times.to_string());
    let new = NewRecord {
        topic: TIMER_TOPIC,
        queue_id: 0,
        prepared_offset: record.physical_offset(),
        ..copy_of(record, &kept)
    };
    let known = Known::scan(&kept);
    match put::append(turn, broker, &config, &broker.timers.marks.source, &new, &known) {
        Ok(appended) => {
            let (offset, physical_offset) =
                (appended.place.queue_offset, appended.place.physical_offset);
            state.waiting.insert(offset);
            state.heap.push(Reverse(Timer { due_ms: timer.due_ms, offset, physical_offset }));
            Step::Done
        }
        Err(refused) => {
            tracing::warn!(?refused, "a waiting message is not written again yet");
            Step::Later(turn.now_ms + RETRY_MS)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn waiting_bits_are_a_set() {
        let (mut waiting, mut model) = (Waiting::default(), BTreeSet::new());
        let mut random = 1_u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
            let offset = 1000 + (random >> 33) as i64 % 700;
            if random >> 20 & 1 == 0 {
                waiting.insert(offset);
                model.insert(offset);
            } else {
                waiting.remove(offset);
                model.remove(&offset);
            }
            assert_eq!(waiting.first(), model.first().copied());
            assert_eq!(waiting.count, model.len());
            assert_eq!(waiting.contains(offset), model.contains(&offset));
        }
    }

    #[test]
    fn due_times_survive_their_property() {
        for due_ms in 1_795_000_000_000..1_795_000_003_000 {
            let read = timer_due_ms(out_ms(due_ms));
            assert!(read == due_ms || read == due_ms + 1 && due_ms % 1000 == 1, "{due_ms} {read}");
        }
        // What Java has rounded down to a whole second comes when that second is over.
        assert_eq!(timer_due_ms(1_795_000_005_000), 1_795_000_006_000);
    }
}
