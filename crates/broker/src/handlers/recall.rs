//! 370: takes back a message that waits for its time. Java: `RecallMessageProcessor`,
//! `RecallMessageHandle`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use net::{Call, Handled, Refusal};
use wire::codes::response;
use wire::properties::{self, Known};
use wire::record::NewRecord;
use wire::requests::{RecallMessage, RecallMessageAnswer};
use wire::text::crc31;

use crate::put;
use crate::turn::Turn;

/// The text by which a producer may recall a message.
pub fn handle_of(topic: &str, broker_name: &str, recall_ms: i64, unique: &str) -> String {
    URL_SAFE.encode(format!("v1 {topic} {broker_name} {recall_ms} {unique}"))
}

struct Handle {
    topic: String,
    broker_name: String,
    recall_ms: i64,
    unique: String,
}

fn parse(handle: &str) -> Option<Handle> {
    // Written with padding; Java reads it without, too.
    let engine = base64::engine::general_purpose::GeneralPurpose::new(
        &base64::alphabet::URL_SAFE,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(engine.decode(handle).ok()?).ok()?;
    let mut words = text.split(' ');
    if words.next()? != "v1" {
        return None;
    }
    Some(Handle {
        topic: words.next()?.to_owned(),
        broker_name: words.next()?.to_owned(),
        recall_ms: words.next()?.parse().unwrap_or(-1),
        unique: words.next()?.to_owned(),
    })
}

/// Handles a recall. Success means that the wish is stored; it counts if the message still waits.
pub fn recall(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: RecallMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let config = broker.config();
    let illegal = |text: &'static str| Refusal::new(response::ILLEGAL_OPERATION, text);
    if !config.recall_message_enable {
        let text = "recall failed, operation is forbidden";
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    if broker.topics.get(request.topic).is_none() {
        let text = format!("recall failed, the topic[{}] not exist", request.topic);
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, text));
    }
    let handle = request.recall_handle.and_then(parse);
    let handle = handle.ok_or_else(|| illegal("recall handle is invalid"))?;
    if handle.topic != request.topic {
        return Err(illegal("recall failed, topic not match"));
    }
    if handle.broker_name != config.broker_name {
        return Err(illegal("recall failed, broker service not available"));
    }
    let left_ms = handle.recall_ms - turn.now_ms;
    if left_ms <= 0 || left_ms >= config.timer_max_delay_sec.saturating_mul(1000) {
        return Err(illegal("recall failed, timestamp invalid"));
    }
    let mut text = String::new();
    properties::push(&mut text, properties::TAGS, "_RECALL_TAG_");
    properties::push(&mut text, properties::TIMER_DEL_UNIQKEY, &handle.unique);
    properties::push(&mut text, properties::UNIQ_KEY, &handle.unique);
    properties::push(&mut text, properties::TIMER_DELIVER_MS, &handle.recall_ms.to_string());
    if let Some(group) = request.producer_group {
        properties::push(&mut text, properties::PGROUP, group);
    }
    let new = NewRecord {
        topic: request.topic,
        queue_id: 0,
        flag: 0,
        sys_flag: 0,
        born_timestamp: turn.now_ms,
        born_host: call.peer.remote,
        store_host: broker.store_host(call.peer.local),
        reconsume_times: 0,
        prepared_offset: 0,
        body: b"0",
        body_crc: crc31(b"0"),
        properties: &text,
    };
    let queue = broker.topics.queue(request.topic, 0);
    let queue = queue.ok_or_else(|| illegal("recall failed, the topic has no queue"))?;
    put::put(turn, &broker, &config, &queue, new, &Known::scan(&text)).map_err(|refused| {
        tracing::warn!(?refused, "a recall cannot be stored");
        Refusal::new(response::SYSTEM_ERROR, "recall failed, execute error")
    })?;
    call.ok(&RecallMessageAnswer { msg_id: &handle.unique, region: &config.region_id })
}
