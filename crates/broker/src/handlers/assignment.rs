//! 400, 401, 402: which queues a client works on, and how. Java: `QueryAssignmentProcessor`.

use std::sync::Arc;

use net::{Call, Handled, Refusal, Reply};
use wire::body::{Member, MessageQueue};
use wire::codes::response;
use wire::header::{Head, NoFields, write_frame};
use wire::json::{Value, object};
use wire::text::RETRY_PREFIX;

use crate::assignment::{Mode, allot, allot_pop, queues_of};
use crate::handlers::client::json_body;
use crate::state::Broker;
use crate::turn::{OVERLOAD, Turn};

/// What a client asks.
struct Question {
    topic: String,
    group: String,
    client_id: String,
    strategy: String,
    broadcasting: bool,
}

/// 400: the queues of a client.
pub fn query(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let text = |name: &str| body.get(name).and_then(String::read).unwrap_or_default();
    let question = Question {
        topic: text("topic"),
        group: text("consumerGroup"),
        client_id: text("clientId"),
        strategy: text("strategyName"),
        broadcasting: text("messageModel") == "BROADCASTING",
    };
    let broker = &turn.broker;
    if let Some(queues) = broker.assignments.queues(&question.topic, turn.now_ms) {
        let answer = answer(broker, &question, Some(queues));
        return call.ok_body(answer.to_text().as_bytes());
    }
    // The name server is asked on a thread that may wait.
    let (shared, peer, opaque) = (Arc::clone(broker), Arc::clone(call.peer), call.header.opaque);
    let submitted = broker.readers.submit(move || {
        let queues = route(&shared, &question.topic);
        let body = answer(&shared, &question, queues).to_text();
        let mut frame = Vec::new();
        let head = Head::response(response::SUCCESS, opaque, None);
        let put = |out: &mut Vec<u8>| out.extend_from_slice(body.as_bytes());
        write_frame(&mut frame, &head, &NoFields, false, put);
        peer.send(frame);
    });
    if submitted { Ok(Reply::Later) } else { Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD)) }
}

/// The queues of a topic on all brokers; those of this one when no name server answers.
fn route(broker: &Broker, topic: &str) -> Option<Vec<MessageQueue>> {
    let route = broker.registrar.route(topic);
    let queues = match route {
        Some(route) => queues_of(topic, &route),
        None => {
            let config = broker.topics.get(topic)?.config.clone();
            let name = broker.config().broker_name.clone();
            let queue = |queue_id| MessageQueue {
                broker_name: name.clone(),
                queue_id,
                topic: topic.to_owned(),
            };
            return Some((0..config.read_queue_nums).map(queue).collect());
        }
    };
    broker.assignments.saw_queues(topic, &queues, broker.clock.now_ms());
    Some(queues)
}

/// The body of the answer; without the list the client keeps what it has.
fn answer(broker: &Broker, question: &Question, queues: Option<Vec<MessageQueue>>) -> Value {
    let mode = mode_of(broker, question);
    let Some(mine) = queues.and_then(|queues| part_of(broker, question, &mode, queues)) else {
        return object::<&str, Value>([]);
    };
    let name = if mode.pop { "POP" } else { "PULL" };
    let assignments = mine
        .iter()
        .map(|queue| object([("messageQueue", queue.write()), ("mode", Value::from(name))]));
    object([("messageQueueAssignments", Value::Array(assignments.collect()))])
}

fn mode_of(broker: &Broker, question: &Question) -> Mode {
    let (topic, group) = (&question.topic, &question.group);
    broker.assignments.mode(topic, group).unwrap_or_else(|| {
        let config = broker.config();
        let pop = config.default_message_request_mode == "POP" && !topic.starts_with(RETRY_PREFIX);
        Mode { pop, share: if pop { config.default_pop_share_queue_num.into() } else { 0 } }
    })
}

fn part_of(
    broker: &Broker,
    question: &Question,
    mode: &Mode,
    queues: Vec<MessageQueue>,
) -> Option<Vec<MessageQueue>> {
    if question.broadcasting || !broker.config().server_load_balancer_enable {
        return Some(queues);
    }
    let mut members = broker.clients.consumer_ids(&question.group);
    if members.is_empty() {
        return None;
    }
    members.sort_unstable();
    members.dedup();
    let Some(index) = members.iter().position(|id| *id == question.client_id) else {
        // Not one of the group: nothing, but for a strategy that does not exist.
        return allot(&question.strategy, 0, 1, &[]);
    };
    let (strategy, count) = (question.strategy.as_str(), members.len());
    if mode.pop {
        return allot_pop(strategy, index, count, &queues, mode.share);
    }
    allot(strategy, index, count, &queues)
}

/// 401: an operator sets how a group consumes a topic.
pub fn set_mode(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = json_body(call)?;
    let text = |name: &str| body.get(name).and_then(String::read).unwrap_or_default();
    let (topic, group) = (text("topic"), text("consumerGroup"));
    let broker = &turn.broker;
    if topic.starts_with(RETRY_PREFIX) {
        let text = "retry topic is not allowed to set mode";
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    if broker.topics.get(&topic).is_none() {
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, format!("topic[{topic}] not exist")));
    }
    let create = broker.config().auto_create_subscription_group;
    if broker.groups.get_or_create(&group, create).is_none() {
        let text = "subscription group does not exist";
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text));
    }
    tracing::info!(peer = ?call.peer, topic, group, mode = text("mode"), "request mode set");
    broker.assignments.set_mode(&topic, &group, body);
    Ok(Reply::Ok)
}

/// 402: all modes that were set.
pub fn all_modes(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let body = turn.broker.assignments.body().to_text();
    call.ok_body(body.as_bytes())
}
