//! What was popped and not acknowledged in time: a copy goes to the retry topic, with one more
//! attempt counted, or to the dead letters when the group's attempts are used up. Java:
//! `PopReviveService.reviveRetry`; the dead letters are ours: the original leaves them to clients
//! that drop the message.
//!
//! The copy names its source, and recovery remembers such names, so that a kill between the copy
//! and the journal delivers nothing twice ([`store::Store::delivered_before_start`]). A message
//! counts as settled once its copy is on disk; until then the journal knows where the copy ends, so
//! that a log that power loss has cut off before there brings the message back.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use net::Refusal;
use store::{At, Wait};
use wire::codes::response;
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Record, Scanned};
use wire::text::{DLQ_PREFIX, RETRY_PREFIX};

use super::entries::Entry;
use super::in_flight::Due;
use super::take::retry_topic;
use super::{DueAt, Moved, ORDER_KEY, PopTopic};
use crate::handlers::send_back::origin_id;
use crate::marks::copy_of;
use crate::put;
use crate::state::Broker;
use crate::topics::{NotSaved, Topic, TopicQueue};
use crate::turn::Turn;

/// Messages of one turn, so that a flood of them does not hold up the loop.
const PER_TURN: usize = 512;
/// Pause before a refused copy is tried again.
const RETRY_MS: i64 = 1000;
/// Pause while a record is fetched from disk.
const WARM_MS: i64 = 5;

/// Copies what is due, and settles what is safe. Called at the end of every turn, before its
/// commit.
pub fn deliver_due(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    settle_moved(&broker);
    if broker.pops.next_due.load(Ordering::Acquire) > turn.now_ms {
        return;
    }
    let Some(_mine) = broker.pops.expiring.try_lock() else { return };
    let mut copies = 0;
    while copies < PER_TURN
        && let Some(at) = next(&broker, turn.now_ms)
    {
        if let Some(later_ms) = expire(turn, &broker, &at, &mut copies) {
            broker.pops.due.lock().push(Reverse(DueAt { due_ms: later_ms, ..at }));
        }
    }
    let due = broker.pops.due.lock();
    let next = due.peek().map_or(i64::MAX, |Reverse(at)| at.due_ms);
    broker.pops.next_due.store(next, Ordering::Release);
}

/// Takes the next thing that is due.
fn next(broker: &Broker, now_ms: i64) -> Option<DueAt> {
    let mut due = broker.pops.due.lock();
    if due.peek()?.0.due_ms > now_ms {
        return None;
    }
    due.pop().map(|Reverse(at)| at)
}

/// Messages whose copies are on disk are done with.
fn settle_moved(broker: &Broker) {
    let pops = &broker.pops;
    if pops.moved.lock().is_empty() {
        return;
    }
    let flushed = broker.store.watermarks().flushed;
    loop {
        let Some(done) = ({
            let mut moved = pops.moved.lock();
            moved.pop_front_if(|front| front.end <= flushed)
        }) else {
            return;
        };
        let (queue_id, offset) = (done.queue_id, done.offset);
        done.topic.with(queue_id, |queue| {
            if queue.progress.moved.remove(&offset).is_some() {
                pops.note(&done.topic, queue_id, queue, |id| Entry::Settled { id, offset });
            }
        });
    }
}

/// Deals with one thing that is due. Returns when to come back, if it is not done.
fn expire(turn: &mut Turn, broker: &Arc<Broker>, at: &DueAt, copies: &mut usize) -> Option<i64> {
    if at.topic.gone.load(Ordering::Acquire) {
        return None;
    }
    if at.key == ORDER_KEY {
        let held = at.topic.with(at.queue_id, |queue| {
            queue.progress.order.as_ref().and_then(|order| order.blocked_until(turn.now_ms))
        });
        if held.is_none() {
            turn.wake_pops(&at.topic);
        }
        return held;
    }
    let due = at.topic.with(at.queue_id, |q| q.progress.flight.due_at(at.key, turn.now_ms));
    if due.is_empty() {
        return None;
    }
    let stored = broker.topics.queue(&at.topic.topic, at.queue_id);
    let alive = stored.filter(|_| broker.groups.get(&at.topic.group).is_some());
    for one in &due {
        // Without its topic or its group a message is nobody's any more.
        let step = alive
            .as_ref()
            .map_or(Step::Done(0), |stored| copy(turn, broker, &at.topic, stored, *one));
        match step {
            Step::Done(end) => settle(broker, at, one.offset, end),
            Step::Cold(physical) => {
                broker.readers.warm(&broker.store, physical);
                return Some(turn.now_ms + WARM_MS);
            }
            Step::Later => return Some(turn.now_ms + RETRY_MS),
        }
        *copies += 1;
    }
    None
}

/// A message is out of flight; it is settled when the log is on disk up to `end`.
fn settle(broker: &Broker, at: &DueAt, offset: i64, end: i64) {
    let pops = &broker.pops;
    let in_flight = at.topic.with(at.queue_id, |queue| {
        let in_flight = queue.progress.flight.remove(offset);
        if in_flight {
            queue.progress.moved.insert(offset, end);
            pops.note(&at.topic, at.queue_id, queue, |id| Entry::Moved { id, offset, end });
        }
        in_flight
    });
    if in_flight {
        pops.in_flight.fetch_sub(1, Ordering::Relaxed);
        let topic = Arc::clone(&at.topic);
        let moved = Moved { end, topic, queue_id: at.queue_id, offset };
        pops.moved.lock().push_back(moved);
    }
}

enum Step {
    /// The copy ends there in the log; 0: there is none to wait for.
    Done(i64),
    /// The records at these offsets are not in memory.
    Cold(Vec<i64>),
    /// The copy was refused.
    Later,
}

fn copy(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    topic: &Arc<PopTopic>,
    stored: &TopicQueue,
    due: Due,
) -> Step {
    let Some(entry) = stored.queue.entry(&broker.store, due.offset) else {
        tracing::warn!(
            topic = &*topic.topic,
            offset = due.offset,
            "a popped message is gone from its queue before it was acknowledged"
        );
        return Step::Done(0);
    };
    if broker.pops.delivered.contains(&entry.physical_offset) {
        return Step::Done(0);
    }
    let mut bytes = std::mem::take(&mut turn.records);
    bytes.clear();
    let step = match broker.store.at(entry.physical_offset, Wait::OnlyCached, &mut bytes) {
        At::Found => match record::scan(&bytes) {
            Ok(Scanned::Record(record)) => copy_record(turn, broker, topic, due, &record),
            _ => Step::Done(0),
        },
        At::Cold => Step::Cold(vec![entry.physical_offset]),
        At::Missing => {
            tracing::error!(
                topic = &*topic.topic,
                offset = due.offset,
                "a popped message is gone from the log before it was acknowledged"
            );
            Step::Done(0)
        }
    };
    turn.records = bytes;
    step
}

fn copy_record(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    topic: &Arc<PopTopic>,
    due: Due,
    record: &Record<'_>,
) -> Step {
    let Ok((target, text)) = target_of(broker, topic, due, record) else { return Step::Later };
    let times = record.reconsume_times() + i32::from(!due.suspended);
    let queue = match target.queues.first() {
        Some(queue) => Arc::clone(queue),
        None => return Step::Later,
    };
    let put = |turn: &mut Turn, text: &str| -> Result<i64, Refusal> {
        let host = broker.own_host();
        let new = NewRecord {
            topic: &target.config.topic_name,
            queue_id: 0,
            born_host: host,
            store_host: host,
            reconsume_times: times,
            prepared_offset: record.physical_offset(),
            ..copy_of(record, text)
        };
        let known = Known::scan(text);
        put::append(turn, broker, &broker.config(), &queue, &new, &known).map(|put| put.end)
    };
    // A message whose properties leave no room for ours comes again without them.
    let appended = put(turn, &text).or_else(|refused| match refused.code {
        response::MESSAGE_ILLEGAL => put(turn, record.properties()),
        _ => Err(refused),
    });
    match appended {
        Ok(end) => {
            turn.retry_arrived(&queue, end, topic);
            Step::Done(end)
        }
        Err(refused) => {
            tracing::warn!(
                ?refused,
                topic = &*topic.topic,
                "a popped message cannot come again yet"
            );
            Step::Later
        }
    }
}

/// Where the copy goes, and its properties.
fn target_of(
    broker: &Arc<Broker>,
    topic: &PopTopic,
    due: Due,
    record: &Record<'_>,
) -> Result<(Arc<Topic>, String), NotSaved> {
    let group = &*topic.group;
    let mut text = record.properties().to_owned();
    let max = broker.groups.get(group).map_or(16, |group| group.retry_max_times);
    if record.reconsume_times() >= max && !due.suspended {
        let name = format!("{DLQ_PREFIX}{group}");
        if properties::get(&text, properties::RETRY_TOPIC).is_none() {
            properties::push(&mut text, properties::RETRY_TOPIC, topic.origin());
        }
        if properties::get(&text, properties::ORIGIN_MESSAGE_ID).is_none() {
            properties::push(&mut text, properties::ORIGIN_MESSAGE_ID, &origin_id(broker, record));
        }
        tracing::info!(
            topic = name,
            origin = topic.origin(),
            times = record.reconsume_times(),
            "message goes to the dead letters"
        );
        return Ok((broker.system_made_topic(&name, 1, false, 0)?, text));
    }
    if record.reconsume_times() == 0 || properties::get(&text, properties::FIRST_POP_TIME).is_none()
    {
        text = properties::without(&text, &[properties::FIRST_POP_TIME]);
        properties::push(&mut text, properties::FIRST_POP_TIME, &due.pop_ms.to_string());
    }
    text = properties::without(&text, &[properties::ORIGIN_GROUP]);
    properties::push(&mut text, properties::ORIGIN_GROUP, group);
    let name = match topic.topic.starts_with(RETRY_PREFIX) {
        true => topic.topic.to_string(),
        false => retry_topic(&topic.topic, group, broker.config().enable_retry_topic_v2),
    };
    let made = broker.topics.get(&name).is_none();
    let target = broker.system_made_topic(&name, 1, false, 0)?;
    if made && broker.offsets.get(group, &name, 0).is_none() {
        broker.offsets.commit(group, &name, 0, 0, broker.clock.now_ms());
    }
    Ok((target, text))
}
