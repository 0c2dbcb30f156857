//! How far groups have come, and how operators change it: 208, 222, 303, 308, 314, 317.
//! Java: `AdminBrokerProcessor`, `Broker2Client.resetOffset`.

use std::collections::{BTreeMap, BTreeSet};

use net::{Call, Handled, Refusal, Reply};
use store::Edge;
use wire::body::{Member, MessageQueue};
use wire::codes::{LANGUAGES, request as code, response};
use wire::header::{Head, NoFields, write_frame};
use wire::json::{Value, object};
use wire::requests::{
    CloneOffset, ConsumeStats, CorrectionOffset, OrderOnly, ResetOffset, TopicGroup,
};
use wire::text::RETRY_PREFIX;

use crate::handlers::offset::store_time;
use crate::reply::NOT_SET;
use crate::state::Broker;
use crate::topics::{Topic, TopicQueue};
use crate::turn::Turn;

/// Clients below this cannot be told to reset. Java: `V3_0_7_SNAPSHOT`.
pub const MIN_TOLD_VERSION: i32 = 28;

/// What 208 and 317 say of a group and a topic, or of several topics.
#[derive(Default)]
struct Progress {
    table: Vec<(Value, Value)>,
    tps: f64,
    behind: i64,
    in_flight: i64,
}

impl Progress {
    /// Adds one topic. Java: the loops of `getConsumeStats` and `fetchAllConsumeStatsInBroker`.
    fn add(&mut self, broker: &Broker, group: &str, name: &str, queues: i32, now_ms: i64) {
        let broker_name = broker.config().broker_name.clone();
        let committed = broker.offsets.of_topic(group, name);
        let pulled = broker.offsets.pulled_of_topic(group, name);
        for id in 0..queues {
            let Some(queue) = broker.topics.queue(name, id) else { continue };
            let end = queue.queue.max_offset(&broker.store);
            // Never committed counts as wholly unread.
            let consumed = committed.get(&id).copied().unwrap_or(0).max(0);
            let popped = broker.pops.next_offset(group, name, id).unwrap_or(0);
            let pulled = pulled.get(&id).copied().unwrap_or(0).max(popped).max(consumed);
            // How late the group is: the store time of the last message that it has consumed.
            let last = (consumed > 0).then(|| store_time(broker, &queue, consumed - 1)).flatten();
            let stats = object([
                ("brokerOffset", end),
                ("consumerOffset", consumed),
                ("lastTimestamp", last.unwrap_or(0)),
                ("pullOffset", pulled),
            ]);
            self.table.push((MessageQueue::key(name, &broker_name, id), stats));
            self.behind += end - consumed;
            self.in_flight += pulled - consumed;
        }
        self.tps += broker.stats.group_tps(group, name, now_ms);
    }

    /// Java: `ConsumeStats`.
    fn write(self) -> Value {
        object([("consumeTps", Value::from(self.tps)), ("offsetTable", object(self.table))])
    }
}

/// 208: how far a group is behind.
pub fn consume_stats(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ConsumeStats<'_> = call.fields()?;
    let broker = &turn.broker;
    let group = request.consumer_group;
    let mut progress = Progress::default();
    for name in topics_asked(broker, &request) {
        let Some(topic) = broker.topics.get(&name) else { continue };
        progress.add(broker, group, &name, topic.config.read_queue_nums, turn.now_ms);
    }
    call.ok_body(progress.write().to_text().as_bytes())
}

/// The topics of a 208: a list counts as it is. Else the one asked for, or all that the group has
/// offsets of or subscribes to; without those that an online group does not subscribe to.
fn topics_asked(broker: &Broker, request: &ConsumeStats<'_>) -> BTreeSet<String> {
    let list = request.topic_list.unwrap_or_default().split(';').map(str::trim);
    let list: BTreeSet<String> = list.filter(|t| !t.is_empty()).map(str::to_owned).collect();
    if !list.is_empty() {
        return list;
    }
    let group = request.consumer_group;
    let online = broker.clients.consumer_group(group).map(|online| online.subscriptions);
    let online = online.filter(|subscriptions| !subscriptions.is_empty());
    let mut topics: BTreeSet<String> = match request.topic.filter(|t| !t.trim().is_empty()) {
        Some(topic) => BTreeSet::from([topic.to_owned()]),
        None => {
            // Of the retries there is nothing to tell before the first one.
            let subscribed = online.iter().flat_map(|subscriptions| subscriptions.keys());
            let subscribed = subscribed.filter(|t| !t.starts_with(RETRY_PREFIX)).cloned();
            broker.offsets.topics_of(group).into_iter().chain(subscribed).collect()
        }
    };
    if let Some(subscriptions) = online {
        topics.retain(|topic| subscriptions.contains_key(topic));
    }
    topics
}

/// Whether an online group has turned away from a topic that it has offsets of.
fn turned_away(broker: &Broker, group: &str, topic: &str) -> bool {
    let online = broker.clients.consumer_group(group).map(|online| online.subscriptions);
    online.is_some_and(|online| !online.is_empty() && !online.contains_key(topic))
}

/// 317: how far every group is behind in every topic that it has offsets of.
pub fn broker_consume_stats(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: OrderOnly = call.fields()?;
    let broker = &turn.broker;
    let (mut behind, mut in_flight) = (0, 0);
    let mut list = Vec::new();
    for group in broker.groups.names() {
        let mut topics = Vec::new();
        for name in broker.offsets.topics_of(&group) {
            let Some(topic) = broker.topics.get(&name) else { continue };
            if request.is_order && !topic.config.order || turned_away(broker, &group, &name) {
                continue;
            }
            let mut progress = Progress::default();
            progress.add(broker, &group, &name, topic.config.write_queue_nums, turn.now_ms);
            behind += progress.behind;
            in_flight += progress.in_flight;
            topics.push(progress.write());
        }
        list.push(object([(group.as_str(), Value::Array(topics))]));
    }
    let body = object([
        ("brokerAddr", Value::from(broker.own_host().to_string())),
        ("consumeStatsList", Value::Array(list)),
        ("totalDiff", Value::from(behind)),
        ("totalInflightDiff", Value::from(in_flight)),
    ]);
    call.ok_body(body.to_text().as_bytes())
}

/// 303: the times of a topic's messages and of a group's place among them.
pub fn time_span(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicGroup<'_> = call.fields()?;
    let (name, group) = (request.topic.unwrap_or_default(), request.group.unwrap_or_default());
    let broker = &turn.broker;
    let topic = broker.topics.get(name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{name}] not exist"))
    })?;
    let broker_name = broker.config().broker_name.clone();
    let spans = (0..topic.config.write_queue_nums).filter_map(|id| {
        let queue = broker.topics.queue(name, id)?;
        let committed = broker.offsets.get(group, name, id);
        let mut span = span_of(broker, &queue, committed, turn.now_ms);
        span.push(("messageQueue", MessageQueue::key(name, &broker_name, id)));
        Some(object(span))
    });
    let body = object([("consumeTimeSpanSet", Value::Array(spans.collect()))]);
    call.ok_body(body.to_text().as_bytes())
}

/// Java: `QueueTimeSpan`; -1 where there is no message. Where the original takes the whole age of
/// the epoch for the delay of a group without offset, ours counts from the oldest message.
fn span_of(
    broker: &Broker,
    queue: &TopicQueue,
    committed: Option<i64>,
    now_ms: i64,
) -> Vec<(&'static str, Value)> {
    let (min, max) = (queue.queue.min_offset(), queue.queue.max_offset(&broker.store));
    let time = |offset: i64| store_time(broker, queue, offset).unwrap_or(-1);
    let oldest = time(min);
    let consumed = committed.filter(|offset| *offset > 0);
    let next = committed.unwrap_or(0).max(min);
    let next_ms = if next < max { time(next) } else { -1 };
    vec![
        ("consumeTimeStamp", Value::from(consumed.map_or(oldest, |offset| time(offset - 1)))),
        ("delayTime", Value::from(if next_ms < 0 { 0 } else { now_ms - next_ms })),
        ("maxTimeStamp", Value::from(time(max - 1))),
        ("minTimeStamp", Value::from(oldest)),
    ]
}

/// 308: the smallest offset that any group has of each queue, or the largest number of all where
/// the group to compare with is before it. The original also deletes the offsets of the filtered
/// groups; ours leaves them out.
pub fn correction_offset(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: CorrectionOffset<'_> = call.fields()?;
    let broker = &turn.broker;
    let filtered: Vec<&str> = request.filter_groups.unwrap_or_default().split(',').collect();
    let mut smallest: BTreeMap<i32, i64> = BTreeMap::new();
    for group in broker.offsets.groups_of(request.topic) {
        if filtered.contains(&group.as_str()) {
            continue;
        }
        for (id, offset) in broker.offsets.of_topic(&group, request.topic) {
            let queue = broker.topics.queue(request.topic, id);
            if queue.is_some_and(|queue| offset >= queue.queue.min_offset()) {
                smallest
                    .entry(id)
                    .and_modify(|least| *least = offset.min(*least))
                    .or_insert(offset);
            }
        }
    }
    for (id, offset) in broker.offsets.of_topic(request.compare_group, request.topic) {
        if let Some(least) = smallest.get_mut(&id).filter(|least| **least > offset) {
            *least = i64::MAX;
        }
    }
    let body = object([("correctionOffsets", object(smallest))]);
    call.ok_body(body.to_text().as_bytes())
}

/// 314: gives a group the offsets of another. Without a topic all of them; the original copies
/// nothing then.
pub fn clone_offset(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: CloneOffset<'_> = call.fields()?;
    let broker = &turn.broker;
    let topics = match request.topic.filter(|topic| !topic.trim().is_empty()) {
        Some(topic) => vec![topic.to_owned()],
        None => broker.offsets.topics_of(request.src_group),
    };
    for topic in topics {
        let stays_away = !request.offline && turned_away(broker, request.src_group, &topic);
        if broker.topics.get(&topic).is_some() && !stays_away {
            broker.offsets.copy(request.src_group, request.dest_group, &topic);
            for (id, offset) in broker.offsets.of_topic(request.dest_group, &topic) {
                broker.pops.offset_was_set(request.dest_group, &topic, id, offset);
            }
        }
    }
    Ok(Reply::Ok)
}

/// 222: moves a group to a moment or offset: here, so that the next pull of each queue is told, or
/// with `useServerSideResetOffset` off by telling the clients.
pub fn reset(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ResetOffset<'_> = call.fields()?;
    let here = turn.broker.config().use_server_side_reset_offset;
    let targets =
        if here { reset_here(turn, &request)? } else { reset_in_clients(turn, &request)? };
    let table = object_keys(turn, request.topic, &targets);
    let text = object([("offsetTable", table)]).to_text();
    let remark = (!here).then_some(NOT_SET);
    call.answer(response::SUCCESS, remark, &NoFields, |out| out.extend_from_slice(text.as_bytes()))
}

type Targets = Vec<(i32, i64)>;

/// Targets with queues as keys, the form of all clients but those of C++.
fn object_keys(turn: &Turn, topic: &str, targets: &Targets) -> Value {
    let broker_name = turn.broker.config().broker_name.clone();
    let key = |id| MessageQueue::key(topic, &broker_name, id);
    object(targets.iter().map(|(id, target)| (key(*id), *target)))
}

/// Java: `AdminBrokerProcessor.resetOffsetInner`.
fn reset_here(turn: &Turn, request: &ResetOffset<'_>) -> Result<Targets, Refusal> {
    let broker = &turn.broker;
    let (group, name) = (request.group, request.topic);
    let topic = broker.topics.get(name).ok_or_else(|| {
        Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {name} does not exist"))
    })?;
    if broker.groups.get(group).is_none() {
        let text = format!("Group {group} does not exist");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text));
    }
    let one = request.queue_id.filter(|id| *id >= 0);
    let mut targets = Vec::new();
    for id in one.map_or(0..topic.config.read_queue_nums, |id| id..id + 1) {
        let Some(queue) = broker.topics.queue(name, id) else { continue };
        // As in Java an offset counts together with a queue only.
        let offset = one.and(request.offset).filter(|offset| *offset != -1);
        let target = match offset {
            Some(offset) => in_range(broker, &queue, offset)?,
            None => at_time(broker, &queue, request.timestamp),
        };
        targets.push((id, target));
    }
    if targets.is_empty() {
        return Err(Refusal::new(response::SYSTEM_ERROR, "No queues to reset."));
    }
    for (id, target) in &targets {
        broker.offsets.reset(group, name, *id, *target, turn.now_ms);
        broker.pops.offset_was_set(group, name, *id, *target);
    }
    Ok(targets)
}

/// An offset from the first to one behind the next, as Java allows.
fn in_range(broker: &Broker, queue: &TopicQueue, offset: i64) -> Result<i64, Refusal> {
    let (min, max) = (queue.queue.min_offset(), queue.queue.max_offset(&broker.store));
    if (min..=max + 1).contains(&offset) {
        return Ok(offset);
    }
    let text = format!("Target offset {offset} not in consume queue range [{min}-{max}]");
    Err(Refusal::new(response::SYSTEM_ERROR, text))
}

/// The offset of a moment; a negative time means the end.
fn at_time(broker: &Broker, queue: &TopicQueue, timestamp_ms: i64) -> i64 {
    if timestamp_ms < 0 {
        return queue.queue.max_offset(&broker.store);
    }
    broker.store.offset_by_time(&queue.queue, timestamp_ms, Edge::Lower)
}

/// Java: `Broker2Client.resetOffset`. Unlike there nobody is told when one client is too old, and
/// the form of the body follows the language of each client, not of who asks (field case B35).
fn reset_in_clients(turn: &Turn, request: &ResetOffset<'_>) -> Result<Targets, Refusal> {
    let broker = &turn.broker;
    let (group, name, timestamp) = (request.group, request.topic, request.timestamp);
    let topic = broker.topics.get(name).ok_or_else(|| {
        let text =
            format!("[reset-offset] reset offset failed, no topic in this broker. topic={name}");
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    let targets = client_targets(broker, &topic, request)?;
    let online = broker.clients.consumer_group(group).ok_or_else(|| {
        let text = format!(
            "Consumer not online, so can not reset offset, Group: {group} Topic: {name} \
             Timestamp: {timestamp}"
        );
        Refusal::new(response::CONSUMER_NOT_ONLINE, text)
    })?;
    if let Some(old) = online.members.values().find(|m| m.version < MIN_TOLD_VERSION) {
        return Err(too_old(old.version));
    }
    // An older reset that no pull has taken yet would undo this one.
    broker.offsets.forget_resets(group, name);
    let keyed = object([("offsetTable", object_keys(turn, name, &targets))]).to_text();
    let listed = listed(turn, name, &targets).to_text();
    let fields = ResetOffset {
        topic: name,
        group,
        timestamp,
        is_force: false,
        queue_id: Some(-1),
        offset: None,
    };
    for member in online.members.values() {
        let cpp = LANGUAGES.get(usize::from(member.language)) == Some(&"CPP");
        let body = if cpp { &listed } else { &keyed };
        let mut frame = Vec::new();
        let head = Head::request(code::RESET_CONSUMER_CLIENT_OFFSET, 0, true);
        let put = |out: &mut Vec<u8>| out.extend_from_slice(body.as_bytes());
        write_frame(&mut frame, &head, &fields, false, put);
        member.peer.send(frame);
    }
    Ok(targets)
}

/// Java's answer when a client is too old for 220 or 221.
pub fn too_old(version: i32) -> Refusal {
    let text = format!("the client does not support this feature. version={version}");
    Refusal::new(response::SYSTEM_ERROR, text)
}

/// Where clients are told to go: back always, forward only by force.
fn client_targets(
    broker: &Broker,
    topic: &Topic,
    request: &ResetOffset<'_>,
) -> Result<Targets, Refusal> {
    let mut targets = Vec::new();
    for id in 0..topic.config.write_queue_nums {
        let Some(queue) = broker.topics.queue(request.topic, id) else { continue };
        let stored = broker.offsets.get(request.group, request.topic, id).ok_or_else(|| {
            let text = format!("THe consumer group <{}> not exist", request.group);
            Refusal::new(response::SYSTEM_ERROR, text)
        })?;
        let wanted = at_time(broker, &queue, request.timestamp);
        targets.push((id, if request.is_force { wanted } else { wanted.min(stored) }));
    }
    Ok(targets)
}

/// Targets as clients of C++ read them. Java: `ResetOffsetBodyForC`.
fn listed(turn: &Turn, topic: &str, targets: &Targets) -> Value {
    let broker_name = turn.broker.config().broker_name.clone();
    let items = targets.iter().map(|(id, target)| {
        object([
            ("brokerName", broker_name.write()),
            ("offset", Value::from(*target)),
            ("queueId", Value::from(*id)),
            ("topic", Value::from(topic)),
        ])
    });
    object([("offsetTable", Value::Array(items.collect()))])
}
