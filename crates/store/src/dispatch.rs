//! What a record means to its queue and to the index.
//!
//! The one place that knows it: appending uses the parts, recovery the whole. Owns nothing; takes
//! one queue's lock for a moment. Java: `CommitLogDispatcherBuildConsumeQueue` and its like.

use wire::properties::Known;
use wire::record::{INNER_BATCH, Record, TRANSACTION_MASK, TRANSACTION_ROLLBACK};
use wire::text::{hash_onto, java_hash};

use crate::api::{Entry, SCHEDULE_TOPIC, StoreConfig, TIMER_DELETE, TIMER_TOPIC, timer_due_ms};
use crate::batch_queue::BatchEntry;
use crate::deleted::DeletedTopics;
use crate::gaps::{Gaps, Item};
use crate::index::Index;
use crate::light;
use crate::queues::Queues;

/// The tag code of a queue entry: the tag's hash, or when a delayed message is due.
pub(crate) fn tags_code(topic: &str, known: &Known<'_>, stored_ms: i64, levels: &[i64]) -> i64 {
    if topic == SCHEDULE_TOPIC
        && let Some(level) = known.delay.and_then(|text| text.parse::<usize>().ok())
        && level > 0
    {
        let level_ms = levels.get(level.min(levels.len()) - 1).copied().unwrap_or(1000);
        return stored_ms + level_ms;
    }
    if topic == TIMER_TOPIC
        && let Some(out_ms) = known.timer_out.and_then(|text| text.parse::<i64>().ok())
    {
        let delete = if known.timer_delete { TIMER_DELETE } else { 0 };
        return timer_due_ms(out_ms) & !TIMER_DELETE | delete;
    }
    known.tags_code()
}

/// Hands the Java hashes of all index keys of a message to `push`; `start` is the hash of
/// `topic#`.
pub(crate) fn each_key(known: &Known<'_>, start: i32, mut push: impl FnMut(i32)) {
    if let Some(key) = known.uniq_key {
        push(hash_onto(start, key));
    }
    for key in known.keys.unwrap_or_default().split(' ').filter(|key| !key.is_empty()) {
        push(hash_onto(start, key));
    }
    if let Some(tag) = known.tags {
        push(hash_onto(hash_onto(start, "T#"), tag));
    }
}

/// Puts a record into its queues where it is missing.
pub(crate) fn to_queue(
    config: &StoreConfig,
    (queues, gaps): (&Queues, &mut Gaps),
    deleted: &DeletedTopics,
    record: &Record<'_>,
    now_ms: i64,
) {
    let topic = record.topic();
    if !record.is_visible() || record.physical_offset() < deleted.offset(topic) {
        return;
    }
    let known = Known::scan(record.properties());
    let tags_code = tags_code(topic, &known, record.store_timestamp(), &config.delay_levels_ms);
    let batch = record.sys_flag() & INNER_BATCH != 0 || config.batch_topics.contains(topic);
    let queue = queues.find_or_create(topic, record.queue_id(), batch);
    let entry = Entry {
        physical_offset: record.physical_offset(),
        size: record.total_len() as i32,
        tags_code,
    };
    light::to_light_queues(config, (queues, gaps), record, &known, entry, now_ms);
    let item = if queue.is_batch() {
        BatchEntry::of(record, entry).map(Item::Batch)
    } else {
        Some(Item::One(record.queue_offset(), entry))
    };
    match item {
        Some(item) => gaps.put(queues, &queue, item, now_ms),
        None => {
            let at = entry.physical_offset;
            tracing::error!(topic, at, "a batch that does not say what it holds, not shown");
        }
    }
}

/// Notes the keys of a record.
pub(crate) fn to_index(index: &Index, record: &Record<'_>) {
    if record.sys_flag() & TRANSACTION_MASK == TRANSACTION_ROLLBACK {
        return;
    }
    let start = hash_onto(java_hash(record.topic()), "#");
    each_key(&Known::scan(record.properties()), start, |hash| {
        index.push(hash, record.physical_offset(), record.store_timestamp());
    });
}
