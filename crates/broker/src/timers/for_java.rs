//! What a Java broker that opens the store later is left of what waits: see `store::TimerFiles`.

use std::cmp::Reverse;

use store::{Queue, Store, TIMER_DELETE, Wait, WaitingTimer};
use wire::properties;
use wire::record::{self, Scanned};

use super::{GROUP, SMALLEST_TIME, TIMER_TOPIC, Timer, Timers};
use crate::state::Broker;

/// What Java's files have been told in this run.
#[derive(Default)]
pub(super) struct Told {
    /// Nothing settled was unwritten at the time of the last save. The turn that wrote the last of
    /// it may not have been over then; it is by the next save.
    written: bool,
    /// Up to here the log must be on disk before they say anything new: what a Java broker had
    /// delivered is then marked.
    from: Option<i64>,
    /// The oldest record that may wait.
    offset: Option<i64>,
}

impl Timers {
    /// Keeps `timercheck` such that a Java broker finds what waits after a kill.
    pub(super) fn tell_java(&self, broker: &Broker, now_ms: i64) {
        let water = broker.store.watermarks();
        let mut told = self.told.lock();
        let from = match told.from {
            Some(from) => from,
            None if told.written => *told.from.insert(water.appended),
            None => {
                told.written = self.marks.are_written();
                return;
            }
        };
        let offset = broker.offsets.get(GROUP, TIMER_TOPIC, 0).unwrap_or(0);
        if water.flushed < from || told.offset == Some(offset) {
            return;
        }
        match self.files.begin(offset, now_ms) {
            Ok(()) => told.offset = Some(offset),
            Err(error) => {
                tracing::error!(%error, "cannot save config/timercheck for a Java broker")
            }
        }
    }

    /// Leaves what waits where a Java broker looks for it; for an orderly end.
    pub fn leave_to_java(&self, broker: &Broker, now_ms: i64) {
        if !self.marks.are_written() {
            return; // Java's own files still tell what it had delivered
        }
        let mut timers: Vec<Timer> = {
            let state = self.state.lock();
            let timers = state.heap.iter().map(|Reverse(timer)| *timer);
            timers.filter(|timer| state.waiting.contains(timer.offset)).collect()
        };
        timers.sort_unstable_by_key(|timer| timer.offset);
        let queue = &self.marks.source.queue;
        let end = queue.next_offset();
        let for_java = |timer: &Timer| waiting_timer(&broker.store, queue, timer);
        let waiting: Vec<WaitingTimer> = timers.iter().filter_map(for_java).collect();
        let newest = Timer { due_ms: 0, offset: end - 1, physical_offset: 0 };
        let newest = match timers.last() {
            Some(last) if last.offset == newest.offset => None,
            _ => waiting_timer(&broker.store, queue, &newest),
        };
        if let Err(error) = self.files.leave(&waiting, newest, end, now_ms) {
            tracing::error!(%error, "cannot leave timers to a Java broker: one that opens this \
                store would deliver some of them twice");
        }
    }
}

/// A timer as Java's files keep it; `None` when its record is gone.
fn waiting_timer(store: &Store, queue: &Queue, timer: &Timer) -> Option<WaitingTimer> {
    let entry = queue.entry(store, timer.offset)?;
    let recalls = || {
        let mut bytes = Vec::new();
        store.at(entry.physical_offset, Wait::MayBlock, &mut bytes);
        let Ok(Scanned::Record(record)) = record::scan(&bytes) else { return false };
        properties::get(record.properties(), properties::TIMER_DEL_UNIQKEY).is_some()
    };
    Some(WaitingTimer {
        due_ms: timer.due_ms,
        physical_offset: entry.physical_offset,
        size: entry.size,
        recalls: entry.tags_code & TIMER_DELETE != 0
            || entry.tags_code < SMALLEST_TIME && recalls(),
    })
}
