//! 200051, 200151, 200053, 200056: what consumers say of popped messages. Java:
//! `AckMessageProcessor`, `ChangeInvisibleTimeProcessor`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use net::{Call, Handled, Refusal, Reply};
use wire::codes::response;
use wire::json::Value;
use wire::requests::{AckMessage, ChangeInvisibleTime, ChangeInvisibleTimeAnswer};

use crate::handlers::client::json_body;
use crate::handlers::pop::illegal_queue;
use crate::pop::OrderAck;
use crate::pop::in_flight::{Single, Times};
use crate::pop::take::{ORDER_REVIVE_QUEUE, retry_topic};
use crate::reply;
use crate::state::Broker;
use crate::topics::TopicQueue;
use crate::turn::Turn;

/// Bits of one entry of a batch that are looked at.
const MAX_BITS: usize = 65_536;

/// What counts of a receipt. Java: `ExtraInfoUtil`.
struct Receipt {
    pop_ms: i64,
    revive_queue: i32,
}

impl Receipt {
    fn parse(text: &str) -> Result<Receipt, Refusal> {
        let mut words = text.split(' ').skip(1);
        let pop_ms = words.next().and_then(|word| word.parse().ok());
        let invisible_ms = words.next().and_then(|word| word.parse::<i64>().ok());
        let revive_queue = words.next().and_then(|word| word.parse().ok());
        match (pop_ms, invisible_ms, revive_queue) {
            (Some(pop_ms), Some(_), Some(revive_queue)) => Ok(Receipt { pop_ms, revive_queue }),
            _ => {
                let text = format!("the field extraInfo is not a receipt of a pop: {text:?}");
                Err(Refusal::new(response::SYSTEM_ERROR, text))
            }
        }
    }

    fn is_order(&self) -> bool {
        self.revive_queue == ORDER_REVIVE_QUEUE
    }
}

/// The queue that a request names, with its offsets.
fn queue_of(
    broker: &Broker,
    name: &str,
    queue_id: i32,
    call: &Call<'_>,
) -> Result<(Arc<TopicQueue>, i64, i64), Refusal> {
    let topic = broker.topics.get(name).ok_or_else(|| {
        let text =
            format!("topic[{name}] not exist, apply first please! {}", reply::SEE_APPLY_TOPIC);
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    let legal = (0..topic.config.read_queue_nums).contains(&queue_id);
    let queue = usize::try_from(queue_id).ok().and_then(|id| topic.queues.get(id));
    let queue = queue.filter(|_| legal).ok_or_else(|| {
        Refusal::new(response::MESSAGE_ILLEGAL, illegal_queue(&topic, queue_id, call))
    })?;
    let max = queue.queue.max_offset(&broker.store);
    Ok((Arc::clone(queue), queue.queue.min_offset(), max))
}

/// 200051: a message is done with. A late or repeated word is a success that changes nothing.
pub fn ack(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: AckMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let (topic, queue_id, offset) = (request.topic, request.queue_id, request.offset);
    let (_, min, max) = queue_of(&broker, topic, queue_id, call)?;
    if !(min..=max).contains(&offset) {
        let text = format!(
            "offset is illegal, key:{topic}@{queue_id}, commit:{offset}, store:{min}~{max}"
        );
        return Err(Refusal::new(response::NO_MESSAGE, text));
    }
    let receipt = Receipt::parse(request.extra_info)?;
    ack_one(turn, call, request.consumer_group, topic, queue_id, offset, &receipt)?;
    Ok(Reply::Ok)
}

fn ack_one(
    turn: &mut Turn,
    call: &Call<'_>,
    group: &str,
    topic: &str,
    queue_id: i32,
    offset: i64,
    receipt: &Receipt,
) -> Result<(), Refusal> {
    let broker = Arc::clone(&turn.broker);
    let Some(state) = broker.pops.existing(group, topic) else { return Ok(()) };
    broker.stats.acks.add(1);
    if !receipt.is_order() {
        broker.pops.ack(&state, queue_id, offset, receipt.pop_ms);
        return Ok(());
    }
    match broker.pops.ack_in_order(&state, queue_id, offset, receipt.pop_ms, turn.now_ms) {
        OrderAck::Free => turn.wake_pops(&state),
        OrderAck::Held => {}
        OrderAck::Unknown { next } => {
            let text = format!(
                "offset is illegal, key:{topic}@{group}@{queue_id}, old:{next}, commit:{offset}, \
                 next:-1, /{}",
                call.peer.remote
            );
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, text));
        }
    }
    Ok(())
}

/// 200151: many messages are done with. Entries that name nothing are passed over.
pub fn batch_ack(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let nothing = Refusal { code: response::NO_MESSAGE, remark: None };
    if call.body.is_empty() {
        return Err(nothing);
    }
    let body = json_body(call)?;
    let acks = body.get("acks").map_or(&[][..], Value::items);
    if acks.is_empty() {
        return Err(nothing);
    }
    for entry in acks {
        batch_entry(turn, call, entry)?;
    }
    Ok(Reply::Ok)
}

fn batch_entry(turn: &mut Turn, call: &Call<'_>, entry: &Value) -> Result<(), Refusal> {
    let member = |short: &str, long: &str| entry.get(short).or_else(|| entry.get(long));
    let text = |short, long| member(short, long).and_then(Value::text).unwrap_or_default();
    let number = |short, long| member(short, long).and_then(Value::int).unwrap_or(0);
    let (group, origin) = (text("c", "consumerGroup"), text("t", "topic"));
    let topic = match text("r", "retry").as_str() {
        "1" => retry_topic(&origin, &group, false),
        "2" => retry_topic(&origin, &group, true),
        _ => origin,
    };
    let queue_id = number("q", "queueId") as i32;
    let receipt = Receipt {
        pop_ms: number("pt", "popTime"),
        revive_queue: number("rq", "reviveQueueId") as i32,
    };
    let Ok((_, min, max)) = queue_of(&turn.broker, &topic, queue_id, call) else { return Ok(()) };
    let start = number("so", "startOffset");
    let bits = STANDARD.decode(text("b", "bitSet")).unwrap_or_default();
    for index in 0..(bits.len() * 8).min(MAX_BITS) {
        let offset = start.saturating_add(index as i64);
        if bits[index / 8] & (1 << (index % 8)) != 0 && (min..=max).contains(&offset) {
            ack_one(turn, call, &group, &topic, queue_id, offset, &receipt)?;
        }
    }
    Ok(())
}

/// 200053: a message becomes visible again at another time; the answer is its new receipt.
pub fn change_invisible(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ChangeInvisibleTime<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let (group, topic, queue_id) = (request.consumer_group, request.topic, request.queue_id);
    let (_, min, max) = queue_of(&broker, topic, queue_id, call)?;
    if !(min..max).contains(&request.offset) {
        return Err(Refusal { code: response::NO_MESSAGE, remark: Some(reply::NOT_SET.into()) });
    }
    let receipt = Receipt::parse(request.extra_info)?;
    let now_ms = turn.now_ms;
    let due_ms = now_ms.saturating_add(request.invisible_time.max(0));
    let mut answer = ChangeInvisibleTimeAnswer {
        pop_time: now_ms,
        invisible_time: request.invisible_time,
        revive_qid: receipt.revive_queue,
    };
    if let Some(state) = broker.pops.existing(group, topic) {
        if receipt.is_order() {
            answer.pop_time = receipt.pop_ms;
            answer.invisible_time = due_ms - receipt.pop_ms;
            broker.pops.change_in_order(&state, queue_id, request.offset, receipt.pop_ms, due_ms);
        } else {
            let times = Times { pop_ms: now_ms, due_ms };
            let single = Single { times, suspended: request.suspend };
            let changed =
                broker.pops.change(&state, queue_id, request.offset, receipt.pop_ms, single);
            answer.pop_time = changed.unwrap_or(now_ms);
        }
    }
    call.answer(response::SUCCESS, Some(reply::NOT_SET), &answer, |_| {})
}

/// 200056: moves the records of Java's other way to keep pops; there are none here.
pub fn rollback(_: &mut Turn, _: &mut Call<'_>) -> Handled {
    Ok(Reply::Ok)
}
