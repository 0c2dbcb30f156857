//! Which records of an internal queue are settled, told by records of a second queue.
//!
//! Transactions and timers wait in queues of the broker's own and leave them in any order. That a
//! record is settled is written as a mark: a record whose body lists offsets of the first queue
//! (`12,13,`; Java's op messages). All marks of a turn are one record, in the same write as what
//! they settle. Progress in both queues is kept as consumer offsets of a group, as Java does.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use store::{At, Entry, Store, Wait};
use wire::record::{self, NewRecord, Record, Scanned};

use crate::offsets::Offsets;
use crate::put;
use crate::state::Broker;
use crate::topics::{TopicQueue, Topics};
use crate::turn::Turn;

/// Bytes of one mark. Java: `transactionOpMsgMaxSize`.
const MARK_BYTES: usize = 4096;
/// Marks whose newest offsets are remembered together.
const PER_RUN: usize = 256;

/// The names that marks work with.
#[derive(Debug, Clone, Copy)]
pub struct Names {
    /// Topic of the records, in its queue 0.
    pub source: &'static str,
    /// Topic of the marks, in its queue 0.
    pub marks: &'static str,
    /// Group of the progress in both.
    pub group: &'static str,
}

/// Some marks in a row.
struct Run {
    first: i64,
    count: usize,
    /// The newest record that one of them settles.
    newest: i64,
}

/// Progress that counts once the log is on disk up to `end`.
struct Progress {
    source: i64,
    marks: i64,
    end: i64,
}

#[derive(Default)]
struct State {
    /// Settled, but not yet said so in the log.
    settled: Vec<i64>,
    runs: VecDeque<Run>,
    progress: Option<Progress>,
}

/// The marks of one kind of waiting records.
pub struct Marks {
    names: Names,
    /// The queue of the records.
    pub source: Arc<TopicQueue>,
    marks: Arc<TopicQueue>,
    state: Mutex<State>,
}

impl Marks {
    /// Finds the queues and reads the marks that still count; `settled` gets each offset in them.
    /// Returns also the offset from which on records may be open.
    pub fn load(
        names: Names,
        topics: &Topics,
        store: &Store,
        offsets: &Offsets,
        mut settled: impl FnMut(i64),
    ) -> (Marks, i64) {
        let queue = |topic: &str| {
            topics.queue(topic, 0).unwrap_or_else(|| {
                let queue = store.queue_or_create(topic, 0);
                let (waiters, puts, pops) = Default::default();
                Arc::new(TopicQueue { queue, waiters, puts, pops, of_system: true })
            })
        };
        let start = |queue: &TopicQueue| {
            let saved = offsets.get(names.group, queue.queue.topic(), 0).unwrap_or(0);
            saved.clamp(queue.queue.min_offset(), queue.queue.next_offset())
        };
        let (source, marks) = (queue(names.source), queue(names.marks));
        let mut state = State::default();
        each_record(store, &marks, start(&marks), |offset, _, record| {
            let text = String::from_utf8_lossy(record.body());
            let mut newest = -1;
            for one in text.split(',').filter_map(|one| one.trim().parse::<i64>().ok()) {
                newest = newest.max(one);
                settled(one);
            }
            state.noted(offset, newest);
        });
        let from = start(&source);
        (Marks { names, source, marks, state: Mutex::new(state) }, from)
    }

    /// Notes that a record is settled; the mark goes to the log with this turn.
    pub fn settle(&self, offset: i64) {
        self.state.lock().settled.push(offset);
    }

    /// Whether the log says of everything that is settled that it is.
    pub fn are_written(&self) -> bool {
        self.state.lock().settled.is_empty()
    }

    /// Writes the marks of this turn. Called before its commit.
    pub fn write(&self, turn: &mut Turn) {
        let settled = {
            let mut state = self.state.lock();
            if state.settled.is_empty() {
                return;
            }
            std::mem::take(&mut state.settled)
        };
        let mut rest = settled.as_slice();
        while !rest.is_empty() {
            let mut body = String::new();
            let mut count = 0;
            while count < rest.len() && body.len() < MARK_BYTES - 20 {
                body.push_str(&rest[count].to_string());
                body.push(',');
                count += 1;
            }
            if let Err(error) = self.write_one(turn, &body, &rest[..count]) {
                tracing::error!(?error, topic = self.names.marks, "marks cannot be written yet");
                self.state.lock().settled.extend_from_slice(rest);
                return;
            }
            rest = &rest[count..];
        }
    }

    fn write_one(&self, turn: &mut Turn, body: &str, offsets: &[i64]) -> Result<(), net::Refusal> {
        let properties = "WAIT\u{1}true\u{2}TAGS\u{1}d\u{2}";
        let appended = put::append_own(turn, &self.marks, body, properties)?;
        let newest = offsets.iter().max().copied().unwrap_or(-1);
        self.state.lock().noted(appended.place.queue_offset, newest);
        Ok(())
    }

    /// Moves the saved offsets to what the last call found, if the log is on disk so far: a mark
    /// that power loss takes away must not be passed over. `open` is the first open record.
    pub fn save_progress(&self, broker: &Broker, open: Option<i64>, now_ms: i64) {
        let water = broker.store.watermarks();
        let mut state = self.state.lock();
        let open = open.unwrap_or_else(|| self.source.queue.next_offset());
        if let Some(progress) = state.progress.take_if(|progress| progress.end <= water.flushed) {
            let names = self.names;
            let source = (names.source, progress.source.min(open));
            for (topic, offset) in [source, (names.marks, progress.marks)] {
                if broker.offsets.get(names.group, topic, 0).unwrap_or(0) < offset {
                    broker.offsets.commit(names.group, topic, 0, offset, now_ms);
                }
            }
        }
        if state.progress.is_some() || !state.settled.is_empty() {
            return;
        }
        while state.runs.front().is_some_and(|run| run.newest < open) {
            state.runs.pop_front();
        }
        let next = self.marks.queue.next_offset();
        let marks = state.runs.front().map_or(next, |run| run.first);
        state.progress = Some(Progress { source: open, marks, end: water.appended });
    }
}

impl State {
    fn noted(&mut self, mark: i64, newest: i64) {
        match self.runs.back_mut() {
            Some(run) if run.count < PER_RUN => {
                run.count += 1;
                run.newest = run.newest.max(newest);
            }
            _ => self.runs.push_back(Run { first: mark, count: 1, newest }),
        }
    }
}

/// Calls `each` with every readable record of a queue from an offset on.
pub fn each_record(
    store: &Store,
    queue: &TopicQueue,
    start: i64,
    mut each: impl FnMut(i64, Entry, &Record<'_>),
) {
    let mut bytes = Vec::new();
    for offset in start..queue.queue.next_offset() {
        let Some(entry) = queue.queue.entry(store, offset) else { continue };
        bytes.clear();
        if store.at(entry.physical_offset, Wait::MayBlock, &mut bytes) == At::Found
            && let Ok(Scanned::Record(record)) = record::scan(&bytes)
        {
            each(offset, entry, &record);
        }
    }
}

/// The record as a new one with other properties.
pub fn copy_of<'a>(record: &Record<'a>, properties: &'a str) -> NewRecord<'a> {
    NewRecord {
        topic: record.topic(),
        queue_id: record.queue_id(),
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        prepared_offset: record.prepared_offset(),
        body: record.body(),
        body_crc: record.body_crc(),
        properties,
    }
}
