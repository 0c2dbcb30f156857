//! What operators look at: 202, 203, 204, 300, 321, 328, 343, 345.
//! Java: `AdminBrokerProcessor`.

use std::collections::BTreeSet;

use net::{Call, Handled, Refusal};
use wire::body::{Member, MessageQueue};
use wire::codes::response;
use wire::json::{Value, object};
use wire::requests::{ConsumerGroup, ProducerGroup, QueryConsumeQueue, TopicGroup, TopicHeader};

use crate::clients::ClientMember;
use crate::handlers::offset::store_time;
use crate::turn::Turn;

fn connections(members: impl Iterator<Item = ClientMember>) -> Value {
    Value::Array(members.map(|member| member.connection().write()).collect())
}

/// 202: offsets and last times of the queues of a topic.
pub fn topic_stats(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicHeader<'_> = call.fields()?;
    let broker = &turn.broker;
    let topic = broker.topics.get(request.topic).ok_or_else(|| {
        let text = format!("topic[{}] not exist", request.topic);
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    let name = &broker.config().broker_name;
    let queues = topic.config.read_queue_nums.max(topic.config.write_queue_nums).max(0) as usize;
    let table = topic.queues.iter().take(queues).enumerate().map(|(id, queue)| {
        let (min, max) = (queue.queue.min_offset(), queue.queue.max_offset(&broker.store));
        let last = if max > min { store_time(broker, queue, max - 1).unwrap_or(0) } else { 0 };
        let stats = object([("lastUpdateTimestamp", last), ("maxOffset", max), ("minOffset", min)]);
        (MessageQueue::key(request.topic, name, id as i32), stats)
    });
    let tps = topic.puts.tps(turn.now_ms);
    let body = object([("offsetTable", object(table)), ("topicPutTps", Value::from(tps))]);
    call.ok_body(body.to_text().as_bytes())
}

/// 203: the members of a consumer group and what they subscribe to.
pub fn consumer_connections(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ConsumerGroup<'_> = call.fields()?;
    let name = request.consumer_group;
    let group = turn.broker.clients.consumer_group(name).ok_or_else(|| {
        let text = format!("the consumer group[{name}] not online");
        Refusal::new(response::CONSUMER_NOT_ONLINE, text)
    })?;
    let subscriptions = group.subscriptions.iter().map(|(t, s)| (t.as_str(), s.data.write()));
    let body = object([
        ("connectionSet", connections(group.members.into_values())),
        ("consumeFromWhere", Value::from(group.consume_from_where)),
        ("consumeType", Value::from(group.consume_type)),
        ("messageModel", Value::from(group.message_model)),
        ("subscriptionTable", object(subscriptions)),
    ]);
    call.ok_body(body.to_text().as_bytes())
}

/// 204: the members of a producer group.
pub fn producer_connections(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ProducerGroup<'_> = call.fields()?;
    let name = request.producer_group;
    let members = turn.broker.clients.producer_group(name).ok_or_else(|| {
        let text = format!("the producer group[{name}] not exist");
        Refusal::new(response::SYSTEM_ERROR, text)
    })?;
    let body = object([("connectionSet", connections(members.into_iter()))]);
    call.ok_body(body.to_text().as_bytes())
}

/// 328: all producers by group.
pub fn all_producers(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let groups = turn.broker.clients.producers();
    let shown = |member: &ClientMember| {
        let connection = member.connection();
        object([
            ("clientId", Value::from(connection.client_id)),
            ("language", Value::from(connection.language)),
            ("lastUpdateTimestamp", Value::from(member.seen_ms)),
            ("remoteIP", Value::from(format!("/{}", member.peer.remote))), // as Java's sockets
            ("version", Value::from(connection.version)),
        ])
    };
    let data = groups.iter().map(|(group, members)| {
        (group.as_str(), Value::Array(members.iter().map(shown).collect()))
    });
    let body = object([("data", object(data))]);
    call.ok_body(body.to_text().as_bytes())
}

/// 300: the groups that consume a topic, online or with offsets. Tools' own groups are left out:
/// they read without consuming (field case B58).
pub fn groups_of_topic(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicGroup<'_> = call.fields()?;
    let topic = request.topic.unwrap_or_default();
    let mut groups: BTreeSet<String> = turn.broker.clients.subscribers(topic).into_iter().collect();
    groups.extend(turn.broker.offsets.groups_of(topic));
    groups.retain(|group| !crate::groups::is_system(group));
    let body = object([("groupList", groups.into_iter().collect::<Vec<_>>())]);
    call.ok_body(body.to_text().as_bytes())
}

/// 343: the topics that a group consumes.
pub fn topics_of_group(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicGroup<'_> = call.fields()?;
    let topics = turn.broker.offsets.topics_of(request.group.unwrap_or_default());
    let body = object([("topicList", topics)]);
    call.ok_body(body.to_text().as_bytes())
}

/// 345: the subscription of a group to a topic.
pub fn subscription_of_group(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: TopicGroup<'_> = call.fields()?;
    let (group, topic) = (request.group.unwrap_or_default(), request.topic.unwrap_or_default());
    let found = turn.broker.clients.subscription(group, topic).and_then(|(found, _)| found);
    let body = object([
        ("group", Value::from(group)),
        ("subscriptionData", found.map_or(Value::Null, |s| s.data.write())),
        ("topic", Value::from(topic)),
    ]);
    call.ok_body(body.to_text().as_bytes())
}

/// 321: entries of a queue as they are stored.
pub fn consume_queue(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueryConsumeQueue<'_> = call.fields()?;
    let broker = &turn.broker;
    let (topic, id) = (request.topic, request.queue_id);
    let queue = broker.topics.queue(topic, id).ok_or_else(|| {
        Refusal::new(response::SYSTEM_ERROR, format!("{id}@{topic} is not exist!"))
    })?;
    let (min, max) = (queue.queue.min_offset(), queue.queue.max_offset(&broker.store));
    let group = request.consumer_group.unwrap_or_default();
    let subscription = broker.clients.subscription(group, topic).and_then(|(found, _)| found);
    let count = i64::from(request.count.clamp(0, 1000));
    let entries = request.index.max(min)..request.index.saturating_add(count).min(max);
    let entries =
        entries.filter_map(|offset| queue.queue.entry(&broker.store, offset)).map(|entry| {
            let filter = subscription.as_ref().and_then(|s| s.filter.as_ref().ok());
            let wanted = filter.is_none_or(|filter| filter.matches_entry(entry.tags_code));
            object([
                ("eval", Value::from(wanted)),
                ("physicOffset", Value::from(entry.physical_offset)),
                ("physicSize", Value::from(i64::from(entry.size))),
                ("tagsCode", Value::from(entry.tags_code)),
            ])
        });
    let offline = format!("{group}@{topic} is not online!");
    let body = object([
        (
            "filterData",
            Value::from((subscription.is_none() && !group.is_empty()).then_some(offline)),
        ),
        ("maxQueueIndex", Value::from(max)),
        ("minQueueIndex", Value::from(min)),
        ("queueData", Value::Array(entries.collect())),
        ("subscriptionData", subscription.as_ref().map_or(Value::Null, |s| s.data.write())),
    ]);
    let text = body.to_text();
    call.answer(response::SUCCESS, Some(crate::reply::NOT_SET), &wire::header::NoFields, |out| {
        out.extend_from_slice(text.as_bytes());
    })
}
