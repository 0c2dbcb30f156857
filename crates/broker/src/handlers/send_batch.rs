//! A producer's batch: one record for each of its messages, or, in topics with
//! `queue.type=BatchCQ`, one record for all of them. Java: `SendMessageProcessor.sendBatchMessage`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use net::{Call, Refusal};
use store::Appended;
use wire::codes::response;
use wire::message_id::write_offset_id;
use wire::properties::{self, Known, MAX_PROPERTIES};
use wire::record::{self, BatchEntry, NewRecord};
use wire::requests::SendMessage;
use wire::text::{RETRY_PREFIX, crc31};

use crate::config::BrokerConfig;
use crate::handlers::send::{
    Sent, check_body, checked_topic, multi_tag, pick_queue, stored_properties, uniq_key_in, waits,
};
use crate::put::{self, count, illegal, refusal};
use crate::schedule;
use crate::state::Broker;
use crate::topics::{Topic, TopicQueue};
use crate::transactions;
use crate::turn::Turn;

/// Where a batch goes.
struct Target {
    topic: Arc<Topic>,
    queue: Arc<TopicQueue>,
    queue_id: i32,
    host: SocketAddr,
}

/// Stores a batch. Errors as those of a single message; 13 also for a body that is no batch, an
/// empty one, a retry topic, and what says that it is an inner batch where none can be.
pub fn batch(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
    call: &Call<'_>,
) -> Result<Sent, Refusal> {
    let topic = checked_topic(broker, config, request, call.peer.remote)?;
    if request.topic.len() > 127 {
        let text = format!("message topic length too long {}", request.topic.len());
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, text));
    }
    if request.topic.starts_with(RETRY_PREFIX) {
        let text = format!("batch request does not support retry group {}", request.topic);
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, text));
    }
    check_body(config, call.body)?;
    let (queue, queue_id) = pick_queue(&topic, request.queue_id, turn.now_ms)?;
    let host = broker.store_host(call.peer.local);
    let known = Known::scan(request.properties.unwrap_or_default());
    let target = Target { topic, queue, queue_id, host };
    let entries = entries_of(call.body)?;
    // Without a unique id of its own the sender cannot be told of one record for all: its
    // messages are stored one by one then, each with its own entry.
    if target.queue.queue.is_batch() && known.uniq_key.is_some() {
        return one_record(turn, broker, config, (request, call), &target, entries.len());
    }
    let says_inner = request.sys_flag & record::INNER_BATCH != 0;
    if says_inner && !target.queue.queue.is_batch() || known.inner_num.is_some() && !says_inner {
        return Err(illegal(config));
    }
    many_records(turn, broker, config, (request, call), &target, &entries)
}

/// The messages in a batch body; at least one.
fn entries_of(body: &[u8]) -> Result<Vec<BatchEntry<'_>>, Refusal> {
    let entries: Result<Vec<_>, _> = record::batch_entries(body).collect();
    let entries = entries.map_err(|e| {
        Refusal::new(response::MESSAGE_ILLEGAL, format!("the batch body cannot be read: {e}"))
    })?;
    if entries.is_empty() {
        return Err(Refusal::new(response::MESSAGE_ILLEGAL, "the batch has no messages"));
    }
    Ok(entries)
}

/// A record without its own part, which `body` and `text` are.
fn new_record<'a>(
    (request, call): (&SendMessage<'a>, &Call<'_>),
    target: &Target,
    body: &'a [u8],
    text: &'a str,
) -> NewRecord<'a> {
    NewRecord {
        topic: request.topic,
        queue_id: target.queue_id,
        flag: request.flag,
        sys_flag: (request.sys_flag | multi_tag(&target.topic))
            & !(record::TRANSACTION_MASK | record::INNER_BATCH),
        born_timestamp: request.born_timestamp,
        born_host: call.peer.remote,
        store_host: target.host,
        reconsume_times: request.reconsume_times.unwrap_or(0),
        prepared_offset: 0,
        body,
        body_crc: crc31(body),
        properties: text,
    }
}

fn many_records(
    turn: &mut Turn,
    broker: &Broker,
    config: &BrokerConfig,
    sent: (&SendMessage<'_>, &Call<'_>),
    target: &Target,
    entries: &[BatchEntry<'_>],
) -> Result<Sent, Refusal> {
    let mut texts = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut text = Cow::Borrowed(entry.properties);
        if properties::get(&text, properties::REPLY_TO_CLIENT).is_some()
            && properties::get(&text, properties::CLUSTER).is_none()
        {
            // Who answers needs it (B23); the original leaves it off in batches.
            properties::push(text.to_mut(), properties::CLUSTER, &config.broker_cluster_name);
        }
        if text.len() > MAX_PROPERTIES {
            return Err(illegal(config));
        }
        texts.push(text);
    }
    let mut records = Vec::with_capacity(entries.len());
    for (entry, text) in entries.iter().zip(&texts) {
        let mut new = new_record(sent, target, entry.body, text);
        new.flag = entry.flag;
        records.push((new, Known::scan(text)));
    }
    let mut offsets = std::mem::take(&mut turn.offsets);
    offsets.clear();
    let appended = broker.store.append_batch(&target.queue.queue, &records, &mut offsets);
    turn.ids.clear();
    for offset in &offsets {
        if !turn.ids.is_empty() {
            turn.ids.push(',');
        }
        write_offset_id(&mut turn.ids, target.host, *offset as u64);
    }
    turn.offsets = offsets;
    let appended = appended.map_err(|e| refusal(broker, &e))?;
    turn.properties.clear();
    turn.properties.push_str(sent.0.properties.unwrap_or_default());
    Ok(stored(turn, broker, target, &appended, records.len()))
}

/// Stores a batch as one record, which takes as many queue offsets as it has messages.
fn one_record(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    sent: (&SendMessage<'_>, &Call<'_>),
    target: &Target,
    messages: usize,
) -> Result<Sent, Refusal> {
    let count = i16::try_from(messages).map_err(|_| illegal(config))?;
    let header = sent.0.properties.unwrap_or_default();
    let header = properties::without(header, &[properties::INNER_NUM, properties::INNER_BASE]);
    let known = Known::scan(&header);
    stored_properties(turn, config, (&header, &known), target.host, Vec::new());
    properties::push(&mut turn.properties, properties::INNER_NUM, &count.to_string());
    let text = std::mem::take(&mut turn.properties);
    let mut new = new_record(sent, target, sent.1.body, &text);
    new.sys_flag |= record::INNER_BATCH | record::NEED_UNWRAP;
    let appended = append(broker, config, &target.queue, (&new, &Known::scan(&text)), count);
    turn.properties = text;
    let appended = appended?;
    turn.ids.clear();
    write_offset_id(&mut turn.ids, target.host, appended.place.physical_offset as u64);
    let sent = stored(turn, broker, target, &appended, messages);
    Ok(Sent { inner_batch: true, ..sent })
}

/// Counts what was stored; `turn.properties` are those of the batch as a whole.
fn stored(
    turn: &mut Turn,
    broker: &Broker,
    target: &Target,
    appended: &Appended,
    messages: usize,
) -> Sent {
    turn.arrived(&target.queue, appended.end);
    let bytes = appended.end - appended.place.physical_offset;
    count(broker, &target.queue, messages as u64, bytes as usize);
    let known = Known::scan(&turn.properties);
    Sent {
        end: appended.end,
        queue_id: target.queue_id,
        queue_offset: appended.place.queue_offset,
        uniq_key: uniq_key_in(&known, &turn.properties),
        inner_batch: false,
        recall_handle: None,
        wait: waits(&known),
    }
}

/// Appends one record of `count` messages. It cannot wait anywhere, as in the original.
fn append(
    broker: &Broker,
    config: &BrokerConfig,
    queue: &TopicQueue,
    (new, known): (&NewRecord<'_>, &Known<'_>),
    count: i16,
) -> Result<Appended, Refusal> {
    let waits = schedule::level_of(known, broker.schedule.levels())?.is_some() || known.timer;
    if waits || transactions::is_half(known, new.reconsume_times) {
        return Err(illegal(config));
    }
    let appended = broker.store.append_inner_batch(&queue.queue, new, known, count);
    appended.map_err(|e| refusal(broker, &e))
}

/// Puts a single message that says of itself that it is an inner batch; `sys_flag` is that of the
/// request. Refused with 13 unless the topic holds such and the message is what it says. Java:
/// `HookUtils.checkInnerBatch`.
pub fn put_ready_made(
    turn: &mut Turn,
    broker: &Broker,
    config: &BrokerConfig,
    queue: &Arc<TopicQueue>,
    (sys_flag, new, known): (i32, &NewRecord<'_>, &Known<'_>),
) -> Result<Appended, Refusal> {
    let count = known.inner_num.and_then(|count| count.parse::<i16>().ok()).unwrap_or(0);
    if sys_flag & record::INNER_BATCH == 0
        || !queue.queue.is_batch()
        || entries_of(new.body)?.len() != usize::try_from(count).unwrap_or(0)
    {
        return Err(illegal(config));
    }
    let text = properties::without(new.properties, &[properties::INNER_BASE]);
    let sys_flag = new.sys_flag | record::INNER_BATCH;
    let new = NewRecord { sys_flag, properties: &text, ..*new };
    let known = Known::scan(&text);
    let appended = append(broker, config, queue, (&new, &known), count)?;
    turn.arrived(queue, appended.end);
    put::count(broker, queue, count as u64, appended.len);
    Ok(appended)
}
