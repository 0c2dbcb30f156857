//! Client registration: 34, 35, 38, 46, and the locks 41, 42; 40 to those concerned.
//! Java: `ClientManageProcessor`, `ConsumerManageProcessor`, `AdminBrokerProcessor`.

use std::sync::Arc;

use net::{Call, Handled, Peer, Refusal, Reply};
use wire::body::{
    CONSUME_FROM_WHERE, CONSUME_TYPES, HeartbeatData, LockBatch, MESSAGE_MODELS, Member,
    SubscriptionData, enum_name,
};
use wire::codes::{request as code, response};
use wire::header::{Head, Pairs, write_frame};
use wire::json::{Value, object};
use wire::requests::{ConsumerGroup, UnregisterClient};
use wire::text::RETRY_PREFIX;

use crate::clients::{ClientMember, ConsumerBeat};
use crate::state::Broker;
use crate::turn::Turn;

/// A body that must be a JSON object.
pub fn json_body(call: &Call<'_>) -> Result<Value, Refusal> {
    let refuse = |text: String| Refusal::new(response::SYSTEM_ERROR, text);
    let value = Value::parse_bytes(call.body).map_err(|e| refuse(format!("the body is {e}")))?;
    match value {
        Value::Object(_) => Ok(value),
        _ => Err(refuse("the body is not a JSON object".to_owned())),
    }
}

/// 34: a heartbeat.
pub fn heartbeat(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let value = json_body(call)?;
    // Java fails on a null list and leaves the client unregistered; so the sender learns of it.
    for list in ["producerDataSet", "consumerDataSet"] {
        let null =
            value.pairs().iter().any(|(k, v)| k.as_text() == Some(list) && *v == Value::Null);
        if null {
            let text = format!("the heartbeat member {list} is null");
            return Err(Refusal::new(response::SYSTEM_ERROR, text));
        }
    }
    let beat = HeartbeatData::read(&value).unwrap_or_default();
    let member = ClientMember {
        peer: Arc::clone(call.peer),
        client_id: beat.client_id,
        language: call.header.language,
        version: call.header.version,
        seen_ms: turn.now_ms,
    };
    let mut changed = false;
    for data in beat.consumers {
        let consumer = ConsumerBeat {
            consume_type: enum_name(&data.consume_type, &CONSUME_TYPES),
            message_model: enum_name(&data.message_model, &MESSAGE_MODELS),
            consume_from_where: enum_name(&data.consume_from_where, &CONSUME_FROM_WHERE),
            group: data.group_name,
            subscriptions: (!beat.without_sub).then_some(data.subscriptions),
            fingerprint: beat.fingerprint,
        };
        changed |= beat_consumer(turn, call, consumer, data.unit_mode, &member);
    }
    for data in &beat.producers {
        turn.broker.clients.beat_producer(&data.group_name, member.clone());
    }
    let changed = beat.fingerprint == 0 || changed;
    let fields = [
        ("IS_SUPPORT_HEART_BEAT_V2", "true"),
        ("IS_SUB_CHANGE", if changed { "true" } else { "false" }),
    ];
    call.ok(&Pairs(&fields))
}

/// Registers a consumer; true when the group's last heartbeat had another hash.
fn beat_consumer(
    turn: &Turn,
    call: &mut Call<'_>,
    beat: ConsumerBeat,
    unit_mode: bool,
    member: &ClientMember,
) -> bool {
    let broker = &turn.broker;
    let auto = broker.config().auto_create_subscription_group;
    let Some(config) = broker.groups.get_or_create(&beat.group, auto) else { return false };
    let is_order = |data: &SubscriptionData| {
        broker.topics.get(&data.topic).is_some_and(|topic| topic.config.order)
    };
    let order = beat.subscriptions.iter().flatten().any(is_order);
    let group = beat.group.clone();
    let retry = format!("{RETRY_PREFIX}{group}");
    let sys_flag = if unit_mode { 2 } else { 0 };
    // Not saved: an error was logged, and who gives a message back is told again.
    let _ = broker.system_made_topic(&retry, config.retry_queue_nums, order, sys_flag);
    let changed = broker.clients.beat_consumer(beat, member.clone());
    if changed.double_id {
        tracing::warn!(
            group,
            client_id = member.client_id,
            "two connections have the same client id: each will consume the same half of the queues"
        );
    }
    if config.notify_consumer_ids_changed_enable {
        let frame = notification(&group);
        for peer in &changed.notify {
            // The newcomer itself is told in front of its answer, as the original does.
            if peer.id() == call.peer.id() {
                call.push(&frame);
            } else {
                peer.send(frame.clone());
            }
        }
    }
    changed.fingerprint_differs
}

fn notification(group: &str) -> Vec<u8> {
    let mut frame = Vec::new();
    let head = Head::request(code::NOTIFY_CONSUMER_IDS_CHANGED, 0, true);
    let fields = ConsumerGroup { consumer_group: group, topic: None };
    write_frame(&mut frame, &head, &fields, false, |_| {});
    frame
}

/// 40 to the connections of a group that has changed.
pub fn notify(broker: &Broker, group: &str, peers: &[Arc<Peer>]) {
    let wanted = broker.groups.get(group).is_none_or(|g| g.notify_consumer_ids_changed_enable);
    if wanted && !peers.is_empty() {
        let frame = notification(group);
        peers.iter().for_each(|peer| peer.send(frame.clone()));
    }
}

/// 35: a client leaves a group.
pub fn unregister(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: UnregisterClient<'_> = call.fields()?;
    let not_empty = |name: &&str| !name.is_empty();
    let producer = request.producer_group.filter(not_empty);
    let consumer = request.consumer_group.filter(not_empty);
    let told = turn.broker.clients.unregister(call.peer, producer, consumer);
    if let Some(group) = consumer {
        notify(&turn.broker, group, &told);
    }
    Ok(Reply::Ok)
}

/// 46: whether a subscription would be accepted.
pub fn check_config(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let data = body.get("subscriptionData").and_then(SubscriptionData::read).unwrap_or_default();
    if filter::is_tag_type(&data.expression_type) {
        return Ok(Reply::Ok);
    }
    super::pull::check_property_filter(&turn.broker.config(), &data.expression_type)?;
    let compiled = filter::SqlFilter::parse(&data.sub_string);
    compiled.map_err(|e| Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, e.to_string()))?;
    Ok(Reply::Ok)
}

/// 38: the client ids of a consumer group, one for each connection.
pub fn consumer_list(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ConsumerGroup<'_> = call.fields()?;
    let ids = turn.broker.clients.consumer_ids(request.consumer_group);
    if ids.is_empty() {
        let text = format!("no consumer for this group, {}", request.consumer_group);
        return Err(Refusal::new(response::SYSTEM_ERROR, text));
    }
    let body = object([("consumerIdList", ids)]);
    call.ok_body(body.to_text().as_bytes())
}

/// 41: locks queues for an orderly consumer; the answer lists those it holds now.
pub fn lock(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let request = LockBatch::read(&body).unwrap_or_default();
    let (group, client) = (request.consumer_group.as_str(), request.client_id.as_str());
    let locks = &turn.broker.locks;
    let held = |q: &&wire::body::MessageQueue| {
        locks.lock(group, &q.topic, q.queue_id, client, turn.now_ms)
    };
    let held: Vec<Value> = request.queues.iter().filter(held).map(Member::write).collect();
    let body = object([("lockOKMQSet", held)]);
    call.ok_body(body.to_text().as_bytes())
}

/// 42: gives locks back.
pub fn unlock(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let request = LockBatch::read(&body).unwrap_or_default();
    for queue in &request.queues {
        let (group, client) = (&request.consumer_group, &request.client_id);
        turn.broker.locks.unlock(group, &queue.topic, queue.queue_id, client);
    }
    Ok(Reply::Ok)
}
