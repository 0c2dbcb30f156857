//! The pop itself: takes messages from one queue or all queues of a topic, and from the group's
//! retry topic of it. Java: `PopMessageProcessor.popMsgFromTopic`, `popMsgFromQueue`.

use std::fmt::Write;
use std::sync::Arc;

use filter::Filter;
use store::{FetchStatus, Wait};
use wire::properties;
use wire::record::{self, Place, Scanned};
use wire::text::RETRY_PREFIX;

use super::entries::Entry;
use super::in_flight::{MAX_BATCH, Times};
use super::order::OrderInfo;
use super::{ORDER_KEY, PopQueue, PopTopic};
use crate::config::BrokerConfig;
use crate::handlers::offset::is_young;
use crate::marks::copy_of;
use crate::reading;
use crate::state::Broker;
use crate::topics::{Topic, TopicQueue};
use crate::turn::Turn;

/// Reads of one queue that may find nothing that is wanted, before others have their turn.
const READS: usize = 16;
/// `reviveQid` of a receipt of an ordered pop. Java: `KeyBuilder.POP_ORDER_REVIVE_QUEUE`.
pub const ORDER_REVIVE_QUEUE: i32 = 999;

/// What a parked pop wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Messages.
    Take,
    /// Only whether there are any.
    Notify,
}

/// Everything that is needed to run a pop, now or later.
pub struct Pop {
    /// Messages, or a word.
    pub kind: Kind,
    /// Consumer group.
    pub group: Arc<str>,
    /// Topic that the client asked for.
    pub topic: Arc<str>,
    /// Queue, or -1 for all.
    pub queue_id: i32,
    /// Most messages, 1 to 32.
    pub max_messages: usize,
    /// How long the messages are invisible, milliseconds.
    pub invisible_ms: i64,
    /// Whether the group wants the messages of a queue in order.
    pub order: bool,
    /// Names an ordered attempt.
    pub attempt: Option<String>,
    /// Whether a new group begins at the oldest message.
    pub from_min: bool,
    /// Which messages.
    pub filter: Arc<Filter>,
}

impl Pop {
    /// `reviveQid` of the answer. It says whether the pop was ordered; nothing else depends on it
    /// here.
    pub fn revive_queue(&self) -> i32 {
        if self.order { ORDER_REVIVE_QUEUE } else { 0 }
    }
}

/// What a pop took.
#[derive(Default)]
pub struct Taken {
    /// Records appended.
    pub messages: usize,
    /// Bytes appended.
    pub bytes: usize,
    /// Time of the pop.
    pub pop_ms: i64,
    /// Messages that are left, as far as it looked.
    pub rest: i64,
    /// Header fields of the answer; see [`wire::requests::PopMessageAnswer`].
    pub start_info: String,
    /// Offsets of the messages.
    pub offset_info: String,
    /// Former deliveries of the messages of an ordered pop.
    pub order_info: String,
    /// A queue whose messages are not in memory, with the offset to read.
    pub cold: Option<(Arc<TopicQueue>, i64)>,
    /// It stopped before it had seen everything.
    pub unfinished: bool,
}

/// Name of the retry topic of a group and topic. Java: `KeyBuilder.buildPopRetryTopic`.
pub fn retry_topic(topic: &str, group: &str, second: bool) -> String {
    let separator = if second { '+' } else { '_' };
    format!("{RETRY_PREFIX}{group}{separator}{topic}")
}

/// How receipts name the kind of a topic.
fn flag_of(topic: &str) -> char {
    match topic.starts_with(RETRY_PREFIX) {
        true if topic.contains('+') => '2',
        true => '1',
        false => '0',
    }
}

/// One run over the queues.
struct Run<'a> {
    pop: &'a Pop,
    broker: &'a Arc<Broker>,
    config: &'a BrokerConfig,
    now_ms: i64,
    taken: Taken,
    out: &'a mut Vec<u8>,
}

/// Takes what there is and appends the records to `out`.
pub fn take(turn: &Turn, broker: &Arc<Broker>, pop: &Pop, out: &mut Vec<u8>) -> Taken {
    let config = broker.config();
    let taken = Taken { pop_ms: turn.now_ms, ..Taken::default() };
    let mut run = Run { pop, broker, config: &config, now_ms: turn.now_ms, taken, out };
    let Some(topic) = broker.topics.get(&pop.topic) else { return run.taken };
    let dice = (broker.pops.dice() % 100) as i32;
    let by_priority = !pop.order && is_by_priority(broker, &topic, &pop.group, dice);
    let probability = if by_priority {
        config.pop_from_retry_probability_for_priority
    } else {
        config.pop_from_retry_probability
    };
    let retry_first = dice < probability;
    if retry_first && !pop.order {
        run.retry(dice);
    }
    if pop.queue_id < 0 {
        run.all_queues(&topic, if by_priority { 0 } else { dice });
    } else {
        run.queue(&topic, pop.queue_id);
    }
    if !retry_first && !pop.order && run.taken.messages < pop.max_messages {
        run.retry(dice);
    }
    run.taken
}

/// Whether this pop follows the priorities of a topic that has them.
fn is_by_priority(broker: &Broker, topic: &Topic, group: &str, dice: i32) -> bool {
    let kind = topic.config.attributes.get("message.type");
    if kind.is_none_or(|kind| kind != "PRIORITY") {
        return false;
    }
    let group = broker.groups.get(group);
    let factor = group.as_ref().and_then(|group| group.attributes.get("priority.factor"));
    dice < factor.and_then(|factor| factor.parse::<i32>().ok()).unwrap_or(100)
}

impl Run<'_> {
    /// Takes from the group's retry topic. With names of the second kind those of the first are
    /// read as well, in turns.
    fn retry(&mut self, dice: i32) {
        let second = self.config.enable_retry_topic_v2;
        let old = second && self.config.retrieve_message_from_pop_retry_topic_v1 && dice % 2 == 0;
        let name = retry_topic(&self.pop.topic, &self.pop.group, second && !old);
        if let Some(topic) = self.broker.topics.get(&name) {
            self.all_queues(&topic, dice);
        }
    }

    fn all_queues(&mut self, topic: &Arc<Topic>, start: i32) {
        let count = topic.config.read_queue_nums;
        for step in 0..count {
            let step = if self.config.priority_order_asc { count - 1 - step } else { step };
            self.queue(topic, (step + start) % count);
        }
    }

    fn queue(&mut self, topic: &Arc<Topic>, queue_id: i32) {
        let stored = usize::try_from(queue_id).ok().and_then(|id| topic.queues.get(id));
        let Some(stored) = stored else { return };
        let state = self.broker.pops.topic(&self.pop.group, &topic.config.topic_name);
        state.with(queue_id, |queue| {
            begin(self.broker, self.config, &state, stored, queue, self.pop.from_min, self.now_ms);
            let held =
                |order: &OrderInfo| order.is_blocked(self.pop.attempt.as_deref(), self.now_ms);
            if self.pop.order && queue.progress.order.as_ref().is_some_and(held) {
                return; // an acknowledgement or its time will wake us; what waits counts not
            }
            if self.has_room(queue) {
                self.read(&state, stored, queue);
            }
            let max = stored.queue.max_offset(&self.broker.store);
            let seen = queue.progress.next;
            let seen = match &queue.progress.order {
                Some(order) if self.pop.order => {
                    seen.max(order.offsets.last().map_or(0, |o| o + 1))
                }
                _ => seen,
            };
            self.taken.rest += (max - seen).max(0);
        });
    }

    /// Whether another message may be taken from a queue.
    fn has_room(&self, queue: &PopQueue) -> bool {
        let threshold = self.config.pop_inflight_message_threshold as usize;
        let too_many = self.config.enable_pop_message_threshold
            && queue.progress.flight.len() > threshold
            || self.broker.pops.in_flight() >= self.config.max_pop_in_flight as usize;
        !too_many
            && self.taken.messages < self.pop.max_messages
            && self.taken.cold.is_none()
            && self.taken.bytes < self.config.max_transfer_bytes_on_message_in_memory as usize
    }

    fn read(&mut self, state: &Arc<PopTopic>, stored: &Arc<TopicQueue>, queue: &mut PopQueue) {
        let pops = &self.broker.pops;
        let queue_id = stored.queue.id();
        for round in 0..=READS {
            if round == READS {
                self.taken.unfinished = true;
                return;
            }
            let from = queue.progress.next;
            let wanted = self.pop.max_messages - self.taken.messages;
            let mut limit = reading::limit(self.config, wanted, Wait::OnlyCached);
            limit.max_bytes = limit.max_bytes.saturating_sub(self.taken.bytes).max(1);
            let start = self.out.len();
            let fetch = reading::fetch(
                self.broker,
                &stored.queue,
                &self.pop.filter,
                from,
                limit,
                Wait::OnlyCached,
                self.out,
            );
            if fetch.cold {
                self.taken.cold = Some((Arc::clone(stored), from));
                return;
            }
            if fetch.status == FetchStatus::Found {
                self.found(state, queue_id, queue, start, fetch.next);
                return;
            }
            if fetch.next == from {
                return;
            }
            queue.progress.next = fetch.next;
            let (next, times) = (fetch.next, Times { pop_ms: 0, due_ms: 0 });
            let nothing = |id| Entry::Popped { id, next, offsets: Vec::new(), times };
            pops.note(state, queue_id, queue, nothing);
            if fetch.next >= fetch.max {
                return;
            }
        }
    }

    /// Notes the records that were appended behind `start`, and says in the answer where they are
    /// from.
    fn found(
        &mut self,
        state: &Arc<PopTopic>,
        queue_id: i32,
        queue: &mut PopQueue,
        start: usize,
        next: i64,
    ) {
        let (pop, pops) = (self.pop, &self.broker.pops);
        let from = queue.progress.next;
        let flag = flag_of(&state.topic);
        let mut offsets = Vec::with_capacity(MAX_BATCH);
        let mut at = start;
        while let Ok(Scanned::Record(record)) = record::scan(&self.out[at..]) {
            offsets.push(record.queue_offset());
            at += record.total_len();
        }
        let times = Times {
            pop_ms: self.now_ms,
            due_ms: self.now_ms.saturating_add(pop.invisible_ms.max(0)),
        };
        self.count(state, offsets.len(), self.out.len() - start);
        if flag != '0' {
            self.rename(start, from, flag);
        }
        self.taken.messages += offsets.len();
        self.taken.bytes += self.out.len() - start;
        write_infos(&mut self.taken, flag, queue_id, from, &offsets);
        if pop.order {
            let attempt = pop.attempt.as_deref();
            let times = (self.now_ms, pop.invisible_ms);
            let order = OrderInfo::popped(queue.progress.order.as_ref(), attempt, &offsets, times);
            order.count_info(flag, queue_id, &mut self.taken.order_info);
            order.blocked_until(self.now_ms).into_iter().for_each(|until| {
                pops.due_at(until, state, queue_id, ORDER_KEY);
            });
            queue.progress.order = Some(order);
            pops.note_all(state, queue_id, queue);
            return;
        }
        queue.progress.next = next;
        queue.progress.flight.popped(&offsets, times);
        pops.in_flight.fetch_add(offsets.len(), std::sync::atomic::Ordering::Relaxed);
        pops.due_at(times.due_ms, state, queue_id, offsets.first().copied().unwrap_or(from));
        pops.note(state, queue_id, queue, |id| Entry::Popped { id, next, offsets, times });
    }

    /// Retried messages get the name of their own topic back, and bring their receipt themselves.
    fn rename(&mut self, start: usize, from: i64, flag: char) {
        let (pop, now_ms) = (self.pop, self.now_ms);
        let records = self.out.split_off(start);
        let mut at = 0;
        while let Ok(Scanned::Record(record)) = record::scan(&records[at..]) {
            at += record.total_len();
            let (queue_id, queue_offset) = (record.queue_id(), record.queue_offset());
            let mut text = record.properties().to_owned();
            if properties::get(&text, properties::POP_CK).is_none() {
                let receipt = format!(
                    "{from} {now_ms} {} {} {flag} {} {queue_id} {queue_offset}",
                    pop.invisible_ms,
                    pop.revive_queue(),
                    self.config.broker_name,
                );
                properties::push(&mut text, properties::POP_CK, &receipt);
            }
            let place = Place {
                queue_offset,
                physical_offset: record.physical_offset(),
                store_timestamp: record.store_timestamp(),
            };
            let renamed = record::NewRecord { topic: &pop.topic, ..copy_of(&record, &text) };
            renamed.encode(place, self.out);
        }
    }

    fn count(&self, state: &PopTopic, messages: usize, bytes: usize) {
        let stats = &self.broker.stats;
        let (messages, bytes) = (messages as u64, bytes as u64);
        stats.gets_found.add(1);
        stats.gets.add(messages);
        stats.user_gets.add(messages, bytes);
        stats.group(&state.group, &state.topic).gets.add(messages, bytes);
    }
}

fn write_infos(taken: &mut Taken, flag: char, queue_id: i32, from: i64, offsets: &[i64]) {
    let separator = if taken.start_info.is_empty() { "" } else { ";" };
    let _ = write!(taken.start_info, "{separator}{flag} {queue_id} {from}");
    let _ = write!(taken.offset_info, "{separator}{flag} {queue_id} ");
    for (index, offset) in offsets.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(taken.offset_info, "{comma}{offset}");
    }
}

/// Finds the offset at which a group begins in a queue, the first time. Java:
/// `PopMessageProcessor.getInitOffset`.
fn begin(
    broker: &Broker,
    config: &BrokerConfig,
    state: &PopTopic,
    stored: &TopicQueue,
    queue: &mut PopQueue,
    from_min: bool,
    now_ms: i64,
) {
    let (group, topic, queue_id) = (&*state.group, &*state.topic, stored.queue.id());
    // What was set by an operator is known here already; see `Pops::offset_was_set`.
    broker.offsets.take_reset(group, topic, queue_id);
    if queue.begun {
        return;
    }
    let committed = broker.offsets.get(group, topic, queue_id).filter(|offset| *offset >= 0);
    let offset = committed.unwrap_or_else(|| {
        let min = stored.queue.min_offset();
        let young = config.init_pop_offset_by_check_msg_in_mem && is_young(broker, stored);
        let offset = match from_min || topic.starts_with(RETRY_PREFIX) {
            true => min,
            false if young => 0,
            false => (stored.queue.max_offset(&broker.store) - 1).max(0),
        };
        broker.offsets.commit(group, topic, queue_id, offset, now_ms);
        offset
    });
    queue.begun = true;
    queue.committed = offset;
    queue.progress.next = offset;
}

/// Messages that a group could take, as far as the queues say without being read; `readable`: now,
/// else as soon as they may be read. Java: `NotificationProcessor.hasMsgFromQueue`.
pub fn available(turn: &Turn, broker: &Arc<Broker>, pop: &Pop, readable: bool) -> i64 {
    let config = broker.config();
    let second = config.enable_retry_topic_v2;
    let mut names = vec![(pop.topic.to_string(), pop.queue_id)];
    names.push((retry_topic(&pop.topic, &pop.group, second), -1));
    if second && config.retrieve_message_from_pop_retry_topic_v1 {
        names.push((retry_topic(&pop.topic, &pop.group, false), -1));
    }
    let mut count = 0;
    for (name, queue_id) in names {
        let Some(topic) = broker.topics.get(&name) else { continue };
        let ids =
            if queue_id < 0 { 0..topic.config.read_queue_nums } else { queue_id..queue_id + 1 };
        for queue in ids.filter_map(|id| topic.queues.get(usize::try_from(id).ok()?)) {
            let max = match readable {
                true => queue.queue.max_offset(&broker.store),
                false => queue.queue.next_offset(),
            };
            count += available_in(turn, broker, pop, queue, max);
        }
    }
    count
}

fn available_in(turn: &Turn, broker: &Broker, pop: &Pop, stored: &TopicQueue, max: i64) -> i64 {
    let (topic, queue_id) = (stored.queue.topic(), stored.queue.id());
    let known = broker.pops.existing(&pop.group, topic).and_then(|state| {
        state.with(queue_id, |queue| {
            let order = queue.progress.order.as_ref().filter(|_| pop.order);
            if order.is_some_and(|o| o.is_blocked(pop.attempt.as_deref(), turn.now_ms)) {
                return Some(i64::MAX);
            }
            queue.begun.then_some(queue.progress.next)
        })
    });
    let next = known.or_else(|| broker.offsets.get(&pop.group, topic, queue_id));
    let next = next.unwrap_or_else(|| stored.queue.min_offset());
    match &*pop.filter {
        Filter::Tag(tags) if (0..64).contains(&(max - next)) => {
            let entries = (next..max).filter_map(|at| stored.queue.entry(&broker.store, at));
            entries.filter(|entry| tags.matches(entry.tags_code)).count() as i64
        }
        _ => max.saturating_sub(next).max(0),
    }
}

/// Appends what a pop would take next to `out`, and takes nothing. Returns how many messages wait.
pub fn peek(
    broker: &Arc<Broker>,
    group: &str,
    name: &str,
    queue_id: i32,
    max_messages: usize,
    out: &mut Vec<u8>,
) -> i64 {
    let config = broker.config();
    let retry = retry_topic(name, group, config.enable_retry_topic_v2);
    let (mut rest, mut left) = (0, max_messages);
    for (name, queue_id) in [(name, queue_id), (&*retry, -1)] {
        let Some(topic) = broker.topics.get(name) else { continue };
        for stored in &topic.queues {
            if queue_id >= 0 && stored.queue.id() != queue_id {
                continue;
            }
            let id = stored.queue.id();
            let next = broker.pops.next_offset(group, name, id);
            let next = next.or_else(|| broker.offsets.get(group, name, id));
            let next = next.unwrap_or(0).max(stored.queue.min_offset());
            rest += (stored.queue.max_offset(&broker.store) - next).max(0);
            if left == 0 {
                continue;
            }
            let limit = reading::limit(&config, left, Wait::MayBlock);
            let (filter, wait) = (Filter::default(), Wait::MayBlock);
            let fetch = reading::fetch(broker, &stored.queue, &filter, next, limit, wait, out);
            left -= fetch.messages.min(left);
        }
    }
    rest
}
