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
use wire::record::{self, INNER_BATCH, NEED_UNWRAP, NewRecord, Record, Scanned, batch_entries};
use wire::text::{DLQ_PREFIX, RETRY_PREFIX, crc31};

use super::entries::Entry;
use super::in_flight::Due;
use super::take::retry_topic;
use super::{DueAt, Moved, ORDER_KEY, PopTopic};
use crate::handlers::send_back::origin_id;
use crate::marks::copy_of;
use crate::put;
use crate::saved::NotSaved;
use crate::state::Broker;
use crate::topics::{Topic, TopicQueue};
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
    // Without its topic a message is nobody's any more. A group that was deleted has left no state
    // here; one that is only unknown made itself, and a kill took it away before it was saved.
    let stored = broker.topics.queue(&at.topic.topic, at.queue_id);
    for one in &due {
        let step = match &stored {
            Some(stored) => copy(turn, broker, &at.topic, stored, *one),
            None => Step::Done(0),
        };
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
    let max = broker.groups.get(&topic.group).map_or(16, |group| group.retry_max_times);
    let dead = record.reconsume_times() >= max && !due.suspended;
    let Ok(target) = target_of(broker, topic, dead) else { return Step::Later };
    let Some(queue) = target.queues.first().cloned() else { return Step::Later };
    let copy = Copy { target: &target, queue: &queue, topic, due, dead, record };
    let appended = if record.sys_flag() & INNER_BATCH == 0 {
        copy.append(turn, broker, copy_of(record, record.properties()))
    } else {
        copy.append_each(turn, broker)
    };
    match appended {
        Ok(end) => {
            turn.retry_arrived(&queue, end, topic);
            Step::Done(end)
        }
        Err(refused) => {
            let topic = &*topic.topic;
            tracing::warn!(?refused, topic, "a popped message cannot come again yet");
            Step::Later
        }
    }
}

/// The group's dead letters, or its retry topic of this topic.
fn target_of(broker: &Arc<Broker>, topic: &PopTopic, dead: bool) -> Result<Arc<Topic>, NotSaved> {
    let group = &*topic.group;
    if dead {
        return broker.system_made_topic(&format!("{DLQ_PREFIX}{group}"), 1, false, 0);
    }
    let name = match topic.topic.starts_with(RETRY_PREFIX) {
        true => topic.topic.to_string(),
        false => retry_topic(&topic.topic, group, broker.config().enable_retry_topic_v2),
    };
    let made = broker.topics.get(&name).is_none();
    let target = broker.system_made_topic(&name, 1, false, 0)?;
    if made && broker.offsets.get(group, &name, 0).is_none() {
        broker.offsets.commit(group, &name, 0, 0, broker.clock.now_ms());
    }
    Ok(target)
}

/// A message on its way to its retry or to the dead letters.
struct Copy<'a> {
    target: &'a Topic,
    queue: &'a Arc<TopicQueue>,
    topic: &'a PopTopic,
    due: Due,
    dead: bool,
    record: &'a Record<'a>,
}

impl Copy<'_> {
    /// Appends one message; returns where it ends.
    fn append(
        &self,
        turn: &mut Turn,
        broker: &Arc<Broker>,
        message: NewRecord<'_>,
    ) -> Result<i64, Refusal> {
        let host = broker.own_host();
        let put = |turn: &mut Turn, text: &str| {
            let new = NewRecord {
                topic: &self.target.config.topic_name,
                queue_id: 0,
                born_host: host,
                store_host: host,
                reconsume_times: message.reconsume_times + i32::from(!self.due.suspended),
                prepared_offset: self.record.physical_offset(),
                properties: text,
                ..message
            };
            let known = Known::scan(text);
            put::append(turn, broker, &broker.config(), self.queue, &new, &known)
        };
        let text = self.properties(broker, message.properties);
        // A message whose properties leave no room for ours comes again without them.
        let appended = put(turn, &text).or_else(|refused| match refused.code {
            response::MESSAGE_ILLEGAL => put(turn, message.properties),
            _ => Err(refused),
        });
        appended.map(|appended| appended.end)
    }

    /// Appends the messages of an inner batch, since the target holds single ones.
    fn append_each(&self, turn: &mut Turn, broker: &Arc<Broker>) -> Result<i64, Refusal> {
        let mut end = 0;
        for entry in batch_entries(self.record.body()).flatten() {
            let whole = copy_of(self.record, entry.properties);
            let message = NewRecord {
                flag: entry.flag,
                sys_flag: whole.sys_flag & !(INNER_BATCH | NEED_UNWRAP),
                body: entry.body,
                body_crc: crc31(entry.body),
                ..whole
            };
            end = self.append(turn, broker, message)?;
        }
        Ok(end)
    }

    /// What the copy says of its origin.
    fn properties(&self, broker: &Broker, text: &str) -> String {
        let (group, topic) = (&*self.topic.group, self.topic.origin());
        let mut text = text.to_owned();
        if self.dead {
            let times = self.record.reconsume_times();
            tracing::info!(group, topic, times, "message goes to the dead letters");
            if properties::get(&text, properties::RETRY_TOPIC).is_none() {
                properties::push(&mut text, properties::RETRY_TOPIC, topic);
            }
            if properties::get(&text, properties::ORIGIN_MESSAGE_ID).is_none() {
                let id = origin_id(broker, self.record);
                properties::push(&mut text, properties::ORIGIN_MESSAGE_ID, &id);
            }
            return text;
        }
        let first = properties::get(&text, properties::FIRST_POP_TIME).is_none();
        if first || self.record.reconsume_times() == 0 {
            text = properties::without(&text, &[properties::FIRST_POP_TIME]);
            let pop_ms = self.due.pop_ms.to_string();
            properties::push(&mut text, properties::FIRST_POP_TIME, &pop_ms);
        }
        text = properties::without(&text, &[properties::ORIGIN_GROUP]);
        properties::push(&mut text, properties::ORIGIN_GROUP, group);
        text
    }
}
