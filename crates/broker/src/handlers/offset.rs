//! Offsets: 14, 15 (committed), 29 to 32 (stored). Java: `ConsumerManageProcessor`,
//! `AdminBrokerProcessor`.

use net::{Call, Handled, Refusal, Reply};
use store::{At, Edge, Wait};
use wire::codes::response;
use wire::record::{self, Scanned};
use wire::requests::{
    OffsetAnswer, QueryConsumerOffset, QueueHeader, SearchOffset, TimestampAnswer,
    UpdateConsumerOffset,
};

use crate::state::Broker;
use crate::topics::TopicQueue;
use crate::turn::Turn;

/// 14: the committed offset of a queue.
pub fn query(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueryConsumerOffset<'_> = call.fields()?;
    let broker = &turn.broker;
    let (group, topic, queue_id) = (request.consumer_group, request.topic, request.queue_id);
    if let Some(offset) = broker.offsets.get(group, topic, queue_id).filter(|offset| *offset >= 0) {
        return call.ok(&OffsetAnswer { offset: Some(offset) });
    }
    if request.set_zero_if_not_found == Some(false) {
        let text = "Not found, do not set to zero, maybe this group boot first";
        return Err(Refusal::new(response::QUERY_NOT_FOUND, text));
    }
    // A new group on a young queue starts at its beginning: Java does so while offset 0 is in
    // memory, we do while nothing was deleted and the first message is young enough for that.
    let young = broker.topics.queue(topic, queue_id).is_some_and(|queue| is_young(broker, &queue));
    if young {
        return call.ok(&OffsetAnswer { offset: Some(0) });
    }
    let text = "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first";
    Err(Refusal::new(response::QUERY_NOT_FOUND, text))
}

/// Whether offset 0 of a queue still exists and lies within the newest 40 % of the machine's memory
/// (Java: `checkInMemByConsumeOffset` with `accessMessageInMemoryMaxRatio`).
pub fn is_young(broker: &Broker, queue: &TopicQueue) -> bool {
    if queue.queue.min_offset() > 0 {
        return false;
    }
    match queue.queue.entry(&broker.store, 0) {
        Some(first) => {
            let written = broker.store.watermarks().written;
            (written - first.physical_offset) as u64 <= memory_bytes() / 100 * 40
        }
        None => false,
    }
}

/// Memory of the machine; read once.
fn memory_bytes() -> u64 {
    static BYTES: std::sync::OnceLock<u64> = std::sync::OnceLock::new();
    *BYTES.get_or_init(|| {
        let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.map_or(8 << 30, |kib| kib * 1024)
    })
}

/// 15: commits an offset.
pub fn update(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: UpdateConsumerOffset<'_> = call.fields()?;
    let broker = &turn.broker;
    let (group, topic) = (request.consumer_group, request.topic);
    if broker.groups.get(group).is_none() {
        let text = format!("Group {group} not exist!");
        return Err(Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text));
    }
    if broker.topics.get(topic).is_none() {
        return Err(Refusal::new(response::TOPIC_NOT_EXIST, format!("Topic {topic} not exist!")));
    }
    let missing = |what: &str| {
        Refusal::new(response::INVALID_PARAMETER, format!("{what} is null, topic is {topic}"))
    };
    let queue_id = request.queue_id.ok_or_else(|| missing("QueueId"))?;
    let offset = request.commit_offset.ok_or_else(|| missing("Offset"))?;
    if broker.offsets.has_reset(group, topic, queue_id) {
        return call.plain(response::SUCCESS, Some("Offset has been previously reset"));
    }
    broker.offsets.commit(group, topic, queue_id, offset, turn.now_ms);
    broker.pops.offset_was_set(group, topic, queue_id, offset);
    Ok(Reply::Ok)
}

/// 29: the offset of a moment.
pub fn search(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: SearchOffset<'_> = call.fields()?;
    let upper = request.boundary_type.is_some_and(|edge| edge.eq_ignore_ascii_case("UPPER"));
    let edge = if upper { Edge::Upper } else { Edge::Lower };
    let broker = &turn.broker;
    let queue = broker.topics.queue(request.topic, request.queue_id);
    let offset =
        queue.map_or(0, |q| broker.store.offset_by_time(&q.queue, request.timestamp, edge));
    call.ok(&OffsetAnswer { offset: Some(offset) })
}

/// 30: the next offset of a queue; 0 when there is no such queue.
pub fn max(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueueHeader<'_> = call.fields()?;
    let queue = turn.broker.topics.queue(request.topic, request.queue_id);
    let offset = queue.map_or(0, |q| q.queue.max_offset(&turn.broker.store));
    call.ok(&OffsetAnswer { offset: Some(offset) })
}

/// 31: the first offset of a queue; 0 when there is no such queue.
pub fn min(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueueHeader<'_> = call.fields()?;
    let queue = turn.broker.topics.queue(request.topic, request.queue_id);
    let offset = queue.map_or(0, |q| q.queue.min_offset());
    // Java sets an empty remark here.
    let fields = OffsetAnswer { offset: Some(offset) };
    call.answer(response::SUCCESS, Some(""), &fields, |_| {})
}

/// 32: store time of the oldest message of a queue; -1 without one.
pub fn earliest(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueueHeader<'_> = call.fields()?;
    let queue = turn.broker.topics.queue(request.topic, request.queue_id);
    let timestamp =
        queue.and_then(|q| store_time(&turn.broker, &q, q.queue.min_offset())).unwrap_or(-1);
    call.ok(&TimestampAnswer { timestamp })
}

/// Store time of the message at a queue offset.
pub fn store_time(broker: &Broker, queue: &TopicQueue, offset: i64) -> Option<i64> {
    let entry = queue.queue.entry(&broker.store, offset)?;
    let mut bytes = Vec::new();
    match broker.store.at(entry.physical_offset, Wait::MayBlock, &mut bytes) {
        At::Found => match record::scan(&bytes) {
            Ok(Scanned::Record(record)) => Some(record.store_timestamp()),
            _ => None,
        },
        _ => None,
    }
}
