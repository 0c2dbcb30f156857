//! Light queues: a message is stored once, under its own topic, and shown in any number of queues
//! `%LMQ%…` as well, each with an offset of its own. Which queues, and which offsets, stand among
//! the properties of the record. Java: `LmqDispatch`, `MultiDispatchUtils`.

use std::sync::Arc;

use wire::properties::{self, Known};
use wire::record::{NewRecord, Record};
use wire::text::{DLQ_PREFIX, RETRY_PREFIX};

use crate::api::{AppendRefused, Appended, Entry, SCHEDULE_TOPIC, StoreConfig};
use crate::dispatch;
use crate::gaps::{Gaps, Item};
use crate::queue::Queue;
use crate::queues::Queues;
use crate::store::Store;

/// Prefix of a light queue's name. Java: `MixAll.LMQ_PREFIX`.
pub const LIGHT_PREFIX: &str = "%LMQ%";
/// Between two names, and between two offsets.
const SEPARATOR: char = ',';

/// Whether messages of a topic may be shown in light queues. Java: `MixAll.topicAllowsLMQ`.
pub fn allows_light(topic: &str) -> bool {
    // The original forgets the upper-case names, and shows half messages before their commit.
    ![RETRY_PREFIX, DLQ_PREFIX, "rmq_sys_", "RMQ_SYS_", LIGHT_PREFIX]
        .iter()
        .any(|p| topic.starts_with(p))
        && topic != SCHEDULE_TOPIC
}

/// The light queues that a message names, in order; `None` for a name that is none.
pub fn light_names(names: &str) -> impl Iterator<Item = Option<&str>> {
    names.split(SEPARATOR).map(|name| Some(name).filter(|name| name.starts_with(LIGHT_PREFIX)))
}

impl Store {
    /// Appends as [`Store::append`] does, and shows the record in these light queues, one for each
    /// name of the message; their offsets are put among its properties.
    pub fn append_light(
        &self,
        queue: &Arc<Queue>,
        record: &NewRecord<'_>,
        lights: &[Option<Arc<Queue>>],
    ) -> Result<Appended, AppendRefused> {
        let mut pending = self.log().lock_pending();
        // Nobody else appends while `pending` is held, so that these offsets hold.
        let next = |queue: &Arc<Queue>| queue.state.lock().next;
        let offsets: Vec<Option<i64>> = lights.iter().map(|l| l.as_ref().map(next)).collect();
        let told: Vec<String> =
            offsets.iter().map(|o| o.map_or_else(String::new, |o| o.to_string())).collect();
        // As the original, which leaves out the wish to wait as well.
        let mut text = properties::without(record.properties, &[properties::WAIT]);
        let told = told.join(&SEPARATOR.to_string());
        properties::push(&mut text, properties::MULTI_QUEUE_OFFSET, &told);
        let record = NewRecord { properties: &text, ..*record };
        let known = Known::scan(&text);
        self.check(&record, false)?;
        let state = &mut *queue.state.lock();
        let (appended, mut wake) =
            self.append_one(queue, state, &mut pending, (&record, &known), 1)?;
        let levels = &self.config.delay_levels_ms;
        let stored_ms = appended.place.store_timestamp;
        let entry = Entry {
            physical_offset: appended.place.physical_offset,
            size: appended.len as i32,
            tags_code: dispatch::tags_code(record.topic, &known, stored_ms, levels),
        };
        for (light, offset) in lights.iter().zip(offsets) {
            let (Some(light), Some(offset)) = (light, offset) else { continue };
            let state = &mut *light.state.lock();
            if !state.deleted && state.put_at(offset, entry) {
                pending.last.taken.through += 1;
                wake |= self.list(light, state, stored_ms);
            }
        }
        drop(pending);
        self.wake_for(wake, appended.end);
        Ok(appended)
    }
}

/// Whether a record names a light queue with this offset in it.
pub(crate) fn light_offset(record: &Record<'_>, name: &str, offset: i64) -> bool {
    let known = Known::scan(record.properties());
    let (Some(names), Some(offsets)) = (known.multi_dispatch, known.multi_offsets) else {
        return false;
    };
    let own = |(named, told): (&str, &str)| named == name && told.parse() == Ok(offset);
    names.split(SEPARATOR).zip(offsets.split(SEPARATOR)).any(own)
}

/// Shows a recovered record in the light queues that it names, where it is missing.
pub(crate) fn to_light_queues(
    config: &StoreConfig,
    (queues, gaps): (&Queues, &mut Gaps),
    record: &Record<'_>,
    known: &Known<'_>,
    entry: Entry,
    now_ms: i64,
) {
    let (Some(names), Some(offsets)) = (known.multi_dispatch, known.multi_offsets) else { return };
    if !config.multi_dispatch || !allows_light(record.topic()) {
        return;
    }
    for (name, offset) in light_names(names).zip(offsets.split(SEPARATOR)) {
        let (Some(name), Ok(offset)) = (name, offset.parse::<i64>()) else { continue };
        let queue = queues.find_or_create(name, 0, false);
        gaps.put(queues, &queue, Item::One(offset, entry), now_ms);
    }
}
