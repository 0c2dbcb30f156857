//! 36: a consumer gives a message back, to be delivered later or to the dead letters.
//! Java: `AbstractSendMessageProcessor.consumerSendMsgBack`.

use std::sync::Arc;

use net::{Call, Handled, Refusal, Reply};
use store::{At, Wait};
use wire::body::GroupConfig;
use wire::codes::{VERSION_MAX_RECONSUME, perm, response};
use wire::message_id::offset_id;
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Record, Scanned};
use wire::requests::SendMessageBack;
use wire::text::{DLQ_PREFIX, RETRY_PREFIX};

use crate::back_off::{BackOff, back_off};
use crate::marks::copy_of;
use crate::put::put;
use crate::reply;
use crate::state::Broker;
use crate::topics::Topic;
use crate::turn::Turn;

/// Handles a send-back.
pub fn handle(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: SendMessageBack<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let config = broker.config();
    let name = request.group;
    let group = broker.groups.get_or_create(name, config.auto_create_subscription_group);
    let group = group.ok_or_else(|| {
        let text = format!("subscription group not exist, {name} {}", reply::SEE_GROUP);
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text)
    })?;
    if config.broker_permission & perm::WRITE == 0 {
        let text = format!("the broker[{}] sending message is forbidden", broker.shown_ip());
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    if group.retry_queue_nums <= 0 {
        return Ok(Reply::Ok);
    }
    let sys_flag = if request.unit_mode { 2 } else { 0 };
    let name = format!("{RETRY_PREFIX}{}", request.group);
    let retry = broker.system_made_topic(&name, group.retry_queue_nums, false, sys_flag)?;
    if retry.config.perm & perm::WRITE == 0 {
        let text = format!("the topic[{name}] sending message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    let mut bytes = std::mem::take(&mut turn.records);
    bytes.clear();
    // A record that was just consumed is nearly always cached; one that is not is worth the wait.
    let found = broker.store.at(request.offset, Wait::MayBlock, &mut bytes);
    let done = match (found, record::scan(&bytes)) {
        (At::Found, Ok(Scanned::Record(record))) => {
            let back =
                put_back(turn, &broker, &request, call.header.version, &group, &retry, &record);
            if back.is_ok() {
                let first = properties::get(record.properties(), properties::RETRY_TOPIC);
                let topic = first.unwrap_or(record.topic());
                broker.stats.group(request.group, topic).send_backs.add(1, 0);
            }
            back
        }
        _ => {
            let text = format!("look message by offset failed, {}", request.offset);
            Err(Refusal::new(response::SYSTEM_ERROR, text))
        }
    };
    turn.records = bytes;
    done.map(|()| Reply::Ok)
}

fn put_back(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    request: &SendMessageBack<'_>,
    version: i32,
    group: &GroupConfig,
    retry: &Arc<Topic>,
    record: &Record<'_>,
) -> Result<(), Refusal> {
    if record.sys_flag() & record::INNER_BATCH != 0 {
        // As the original: the client then sends the one message to the retry topic itself.
        return Err(Refusal::new(response::SYSTEM_ERROR, "MESSAGE_ILLEGAL"));
    }
    let mut max = group.retry_max_times;
    if version >= VERSION_MAX_RECONSUME {
        max = request.max_reconsume_times.unwrap_or(max);
    }
    let dead = record.reconsume_times() >= max || request.delay_level < 0;
    let text = back_properties(broker, record);
    if dead {
        let name = format!("{DLQ_PREFIX}{}", request.group);
        let topic = broker.system_made_topic(&name, 1, false, 0)?;
        tracing::info!(
            topic = name,
            origin = record.topic(),
            times = record.reconsume_times(),
            "message goes to the dead letters"
        );
        return append(turn, broker, record, &topic, 0, &text, None);
    }
    let wait = match request.delay_level {
        0 => back_off(group, record.reconsume_times()),
        level => BackOff::Level(level),
    };
    // A random queue among those of the retry topic.
    let queues = retry.queues.len().min(group.retry_queue_nums as usize).max(1) as i64;
    let queue_id = (turn.now_ms ^ record.physical_offset()).rem_euclid(queues) as i32;
    append(turn, broker, record, retry, queue_id, &text, Some(wait))
}

/// Adds the property that makes the copy wait. Without timers the next longer level stands for a
/// number of milliseconds.
fn push_wait(broker: &Broker, wait: BackOff, text: &str) -> String {
    // The last one is of a message that has waited before.
    const TIMES: [&str; 4] = [
        properties::TIMER_DELAY_MS,
        properties::TIMER_DELAY_SEC,
        properties::TIMER_DELIVER_MS,
        properties::TIMER_OUT_MS,
    ];
    let levels = broker.schedule.levels();
    let config = broker.config();
    let level = match wait {
        BackOff::Ms(ms) if config.timer_wheel_enable => {
            let mut text = properties::without(text, &TIMES);
            let ms = ms.min(config.timer_max_delay_sec.saturating_mul(1000));
            properties::push(&mut text, properties::TIMER_DELAY_MS, &ms.to_string());
            return text;
        }
        BackOff::Ms(ms) => levels.partition_point(|level| *level < ms) + 1,
        BackOff::Level(level) => level.max(1) as usize,
    };
    let mut text = text.to_owned();
    properties::push(&mut text, properties::DELAY, &level.min(levels.len()).to_string());
    text
}

/// Properties of the copy: where the message came from, its first id, no waiting for the disk.
fn back_properties(broker: &Broker, record: &Record<'_>) -> String {
    let old = record.properties();
    let mut text = properties::without(old, &[properties::WAIT, properties::DELAY]);
    if properties::get(old, properties::RETRY_TOPIC).is_none() {
        properties::push(&mut text, properties::RETRY_TOPIC, record.topic());
    }
    if properties::get(old, properties::ORIGIN_MESSAGE_ID).is_none() {
        properties::push(&mut text, properties::ORIGIN_MESSAGE_ID, &origin_id(broker, record));
    }
    properties::push(&mut text, properties::WAIT, "false");
    text
}

/// The offset message id of a record, as clients on its network know it.
pub fn origin_id(broker: &Broker, record: &Record<'_>) -> String {
    let host = match broker.fixed_ip() {
        Some(_) => broker.own_host(),
        None => record.store_host(),
    };
    offset_id(host, record.physical_offset() as u64)
}

fn append(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    record: &Record<'_>,
    topic: &Topic,
    queue_id: i32,
    text: &str,
    wait: Option<BackOff>,
) -> Result<(), Refusal> {
    let queue = usize::try_from(queue_id).ok().and_then(|id| topic.queues.get(id));
    let queue = queue
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, "the retry topic has no queue"))?;
    let text = wait.map_or_else(|| text.to_owned(), |wait| push_wait(broker, wait, text));
    let new = NewRecord {
        topic: &topic.config.topic_name,
        queue_id,
        reconsume_times: record.reconsume_times() + 1,
        prepared_offset: 0,
        ..copy_of(record, &text)
    };
    let config = broker.config();
    put(turn, broker, &config, queue, new, &Known::scan(&text)).map(drop).map_err(|refused| {
        tracing::warn!(?refused, "a message cannot be given back");
        // As Java names every cause here.
        let too_long = refused.code == response::MESSAGE_ILLEGAL;
        let remark =
            if too_long { Some("PROPERTIES_SIZE_EXCEEDED".into()) } else { refused.remark };
        Refusal { code: response::SYSTEM_ERROR, remark }
    })
}
