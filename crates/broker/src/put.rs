//! Putting one message where it belongs: under its topic, or where delayed messages wait.
//! Every message of the broker's own making and every single send goes through here.

use std::sync::Arc;

use net::Refusal;
use store::{AppendRefused, Appended};
use wire::codes::response;
use wire::properties::{Known, MAX_PROPERTIES};
use wire::record::NewRecord;
use wire::text::crc31;

use crate::config::BrokerConfig;
use crate::schedule::{self, Delayed};
use crate::state::Broker;
use crate::timers;
use crate::topics::{SCHEDULE_TOPIC, TopicQueue};
use crate::turn::Turn;

/// Where a message was put.
#[derive(Debug, Clone, Copy)]
pub struct Put {
    /// Its place, under its own topic or where it waits.
    pub appended: Appended,
    /// What its recall handle says of the time, if it waits for one.
    pub recall_ms: Option<i64>,
}

/// Appends `new`, which is meant for `queue`; `known` is the scan of its properties. Java:
/// `DefaultMessageStore.putMessage` with its hooks. Errors: 13 for properties that are too long or
/// a delay that is no number, 14 for a full disk, 1 else.
pub fn put(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    queue: &Arc<TopicQueue>,
    new: NewRecord<'_>,
    known: &Known<'_>,
) -> Result<Put, Refusal> {
    let level = schedule::level_of(known, broker.schedule.levels())?;
    let Some(level) = level else {
        if known.timer
            && known.timer_out.is_none()
            && let Some(due_ms) = timers::wanted_ms(config, known, new.properties, turn.now_ms)?
        {
            let (appended, out_ms) = timers::put_timer(turn, broker, config, new, due_ms)?;
            return Ok(Put { appended, recall_ms: Some(out_ms) });
        }
        let appended = append(turn, broker, config, queue, &new, known)?;
        return Ok(Put { appended, recall_ms: None });
    };
    let delayed = Delayed::new(broker, level, new.topic, new.queue_id, new.properties)
        .ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, "the delay topic is missing"))?;
    let waiting = NewRecord {
        topic: SCHEDULE_TOPIC,
        queue_id: delayed.queue_id,
        properties: &delayed.properties,
        ..new
    };
    let known = Known::scan(waiting.properties);
    let appended = append(turn, broker, config, &delayed.queue, &waiting, &known)?;
    broker.schedule.added(delayed.queue_id, appended.place.store_timestamp);
    Ok(Put { appended, recall_ms: None })
}

/// Appends a record as it is to the queue that it names.
pub fn append(
    turn: &mut Turn,
    broker: &Broker,
    config: &BrokerConfig,
    queue: &Arc<TopicQueue>,
    new: &NewRecord<'_>,
    known: &Known<'_>,
) -> Result<Appended, Refusal> {
    if new.properties.len() > MAX_PROPERTIES {
        return Err(illegal(config));
    }
    let appended = match known.multi_dispatch {
        Some(names) if shows_light(config, new.topic) => {
            append_light(turn, broker, config, queue, new, names)?
        }
        _ => broker.store.append(&queue.queue, new, known).map_err(|e| refusal(broker, &e))?,
    };
    turn.arrived(queue, appended.end);
    count(broker, queue, 1, appended.len);
    Ok(appended)
}

/// Appends a record of the broker's own to a topic of the system.
pub fn append_own(
    turn: &mut Turn,
    queue: &Arc<TopicQueue>,
    body: &str,
    properties: &str,
) -> Result<Appended, Refusal> {
    let broker = Arc::clone(&turn.broker);
    let host = broker.own_host();
    let new = NewRecord {
        topic: queue.queue.topic(),
        queue_id: queue.queue.id(),
        flag: 0,
        sys_flag: 0,
        born_timestamp: turn.now_ms,
        born_host: host,
        store_host: host,
        reconsume_times: 0,
        prepared_offset: 0,
        body: body.as_bytes(),
        body_crc: crc31(body.as_bytes()),
        properties,
    };
    append(turn, &broker, &broker.config(), queue, &new, &Known::scan(properties))
}

/// Whether messages of a topic are shown in light queues.
fn shows_light(config: &BrokerConfig, topic: &str) -> bool {
    config.enable_lmq && config.enable_multi_dispatch && store::allows_light(topic)
}

/// Appends a record that is shown in light queues as well. Errors: also 2017 when they are too
/// many.
fn append_light(
    turn: &mut Turn,
    broker: &Broker,
    config: &BrokerConfig,
    queue: &TopicQueue,
    new: &NewRecord<'_>,
    names: &str,
) -> Result<Appended, Refusal> {
    let most = if config.enable_lmq_quota { config.max_lmq_consume_queue_num } else { i32::MAX };
    let mut lights = Vec::new();
    for name in store::light_names(names) {
        let light = name.map(|name| broker.topics.light(name, most as usize).ok_or(name));
        lights.push(light.transpose().map_err(|name| {
            tracing::warn!(name, most, "too many light queues");
            let text = "[LMQ_CONSUME_QUEUE_NUM_EXCEEDED]lmq consume queue num exceeded.";
            Refusal::new(response::LMQ_QUOTA_EXCEEDED, text)
        })?);
    }
    let queues: Vec<_> =
        lights.iter().map(|light| light.as_ref().map(|l| Arc::clone(&l.queue))).collect();
    let appended = broker.store.append_light(&queue.queue, new, &queues);
    let appended = appended.map_err(|e| refusal(broker, &e))?;
    for light in lights.iter().flatten() {
        turn.arrived(light, appended.end);
    }
    Ok(appended)
}

/// Counts messages that were appended to a queue. Java counts a delayed message twice: where it
/// waits, which is a topic of the system, and when it is delivered.
pub fn count(broker: &Broker, queue: &TopicQueue, messages: u64, bytes: usize) {
    let (stats, bytes) = (&broker.stats, bytes as u64);
    queue.puts.add(messages, bytes);
    stats.puts.add(messages);
    stats.put_bytes.add(bytes);
    if !queue.of_system {
        stats.user_puts.add(messages, bytes);
    }
}

/// Java's answer to a body or properties over their limit.
pub fn illegal(config: &BrokerConfig) -> Refusal {
    Refusal::new(
        response::MESSAGE_ILLEGAL,
        format!(
            "the message is illegal, maybe msg body or properties length not matched. msg body \
             length limit {}B, msg properties length limit 32KB.",
            config.max_message_size
        ),
    )
}

/// The answer to a refused append.
pub fn refusal(broker: &Broker, refused: &AppendRefused) -> Refusal {
    let why = match refused {
        AppendRefused::DiskFull => broker.store.why_full(),
        _ => refused.to_string(),
    };
    match refused {
        AppendRefused::TooLarge { .. } | AppendRefused::InnerBatch => illegal(&broker.config()),
        AppendRefused::DiskFull | AppendRefused::Closed => Refusal::new(
            response::SERVICE_NOT_AVAILABLE,
            format!(
                "service not available now. It may be caused by one of the following reasons: \
                 the broker's disk is full [{why}], messages are put to the slave, message \
                 store has been shut down, etc."
            ),
        ),
        AppendRefused::Poisoned | AppendRefused::QueueDeleted => {
            Refusal::new(response::SYSTEM_ERROR, refused.to_string())
        }
    }
}
