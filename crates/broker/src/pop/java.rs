//! What a Java broker had in flight when it stopped: check points and acknowledgements that wait in
//! its wheel or in its revive log, and `consumerOrderInfo.json`. Taken over once, at the first
//! start on its store. Java: `PopReviveService`, `PopCheckPoint`, `AckMsg`, `BatchAckMsg`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::Ordering;

use store::Store;
use wire::body::Member;
use wire::json::{Value, object};
use wire::properties::{self, get};
use wire::record::Record;

use super::in_flight::{Single, Times};
use super::order::OrderInfo;
use super::{ORDER_KEY, PopQueue, Pops};
use crate::marks::each_record;
use crate::offsets::Offsets;
use crate::topics::Topics;

/// Prefix of the topic of check points; the name of the cluster follows.
pub const REVIVE_PREFIX: &str = "rmq_sys_REVIVE_LOG_";
/// Group whose offsets say how far the revive log was looked through.
const REVIVE_GROUP: &str = "CID_RMQ_SYS_REVIVE_GROUP";

/// A check point or acknowledgement: its tag and body.
pub struct Word {
    tag: String,
    body: Value,
}

impl Word {
    /// Reads one from its record.
    pub fn of(record: &Record<'_>) -> Option<Word> {
        let tag = get(record.properties(), properties::TAGS)?.to_owned();
        Some(Word { tag, body: Value::parse_bytes(record.body()).ok()? })
    }

    fn number(&self, name: &str) -> i64 {
        self.body.get(name).and_then(Value::int).unwrap_or(0)
    }

    fn numbers(&self, name: &str) -> Vec<i64> {
        let list = self.body.get(name).map_or(&[][..], Value::items);
        list.iter().filter_map(Value::int).collect()
    }

    fn queue(&self) -> (String, String, i32) {
        let text = |name: &str| self.body.get(name).and_then(String::read).unwrap_or_default();
        (text("c"), text("t"), self.number("q") as i32)
    }

    /// Offsets that a check point holds and has not seen acknowledged itself.
    fn held(&self) -> Vec<i64> {
        let (start, bits) = (self.number("so"), self.number("bm"));
        let distances = self.numbers("d");
        let count = self.number("n").clamp(0, 32);
        let all = (0..count).filter(|index| bits & (1 << index) == 0);
        all.map(|index| start + distances.get(index as usize).copied().unwrap_or(index)).collect()
    }
}

/// A queue of a group: group, topic, queue id.
type Name = (String, String, i32);
/// Messages in flight of a queue, by offset and time of the pop.
type Flights = BTreeMap<(i64, i64), Single>;

/// Puts check points and acknowledgements together.
fn flights_of(words: &[Word]) -> BTreeMap<Name, Flights> {
    let mut queues: BTreeMap<Name, Flights> = BTreeMap::new();
    for word in words.iter().filter(|word| word.tag == "ck") {
        let pop_ms = word.number("pt");
        let times = Times { pop_ms, due_ms: pop_ms.saturating_add(word.number("it")) };
        let suspended = word.body.get("sp").and_then(Value::truth).unwrap_or(false);
        let flights = queues.entry(word.queue()).or_default();
        for offset in word.held() {
            flights.insert((offset, pop_ms), Single { times, suspended });
        }
    }
    for word in words.iter().filter(|word| word.tag != "ck") {
        let Some(flights) = queues.get_mut(&word.queue()) else { continue };
        let mut offsets = word.numbers("aol");
        if word.tag == "ack" {
            offsets.push(word.number("ao"));
        }
        for offset in offsets {
            flights.remove(&(offset, word.number("pt")));
        }
    }
    queues
}

impl Pops {
    /// Takes over what a Java broker left: `words` waited in its wheel, others in its revive log.
    pub fn take_over(
        &self,
        mut words: Vec<Word>,
        config_dir: &Path,
        (topics, store, offsets): (&Topics, &Store, &Offsets),
        now_ms: i64,
    ) {
        for name in topics.names().iter().filter(|name| name.starts_with(REVIVE_PREFIX)) {
            let Some(topic) = topics.get(name) else { continue };
            for queue in &topic.queues {
                let id = queue.queue.id();
                let from = offsets.get(REVIVE_GROUP, name, id).unwrap_or(0);
                let next = queue.queue.next_offset();
                if from >= next {
                    continue;
                }
                let start = from.max(queue.queue.min_offset());
                each_record(store, queue, start, |_, _, record| words.extend(Word::of(record)));
                offsets.commit(REVIVE_GROUP, name, id, next, now_ms);
            }
        }
        let mut count = 0;
        for ((group, topic, queue_id), flights) in flights_of(&words) {
            let Some(stored) = topics.queue(&topic, queue_id) else { continue };
            let end = stored.queue.next_offset();
            let committed = offsets.get(&group, &topic, queue_id);
            let state = self.topic(&group, &topic);
            state.with(queue_id, |queue| {
                begin(queue, committed.unwrap_or(end));
                for ((offset, _), single) in flights.into_iter().filter(|((o, _), _)| *o < end) {
                    // Of several pops of a message the newest counts: they are in order.
                    let known = queue.progress.flight.remove(offset);
                    queue.progress.flight.put_single(offset, single);
                    self.in_flight.fetch_add(usize::from(!known), Ordering::Relaxed);
                    self.due_at(single.times.due_ms, &state, queue_id, offset);
                    count += 1;
                }
                queue.progress.next = queue.progress.next.max(queue.progress.flight.end());
                self.note_all(&state, queue_id, queue);
            });
        }
        count += self.take_over_orders(&config_dir.join("consumerOrderInfo.json"), topics, offsets);
        if count > 0 {
            tracing::info!(count, "pops of a Java broker taken over");
        }
    }

    /// Batches in hand of ordered groups, where the journal knows none.
    fn take_over_orders(&self, file: &Path, topics: &Topics, offsets: &Offsets) -> usize {
        let file = store::config_file::load(file, Value::parse).unwrap_or_else(|error| {
            tracing::warn!(%error, "ordered pops of a Java broker cannot be taken over");
            None
        });
        let table = file.as_ref().and_then(|file| file.get("table")).map_or(&[][..], Value::pairs);
        let mut count = 0;
        for (key, queues) in table {
            let Some(key) = key.text() else { continue };
            let Some((topic, group)) = key.split_once('@') else { continue };
            for (id, info) in queues.pairs() {
                let id = id.int().and_then(|id| i32::try_from(id).ok());
                let info = OrderInfo::from_json(info);
                let Some((id, info)) = id.zip(info) else { continue };
                if topics.queue(topic, id).is_none() {
                    continue;
                }
                let first = info.offsets.first().copied().unwrap_or(0);
                let next = offsets.get(group, topic, id).unwrap_or(first);
                let state = self.topic(group, topic);
                state.with(id, |queue| {
                    if queue.begun {
                        return;
                    }
                    begin(queue, next);
                    let until = info.blocked_until(0);
                    until.into_iter().for_each(|ms| self.due_at(ms, &state, id, ORDER_KEY));
                    queue.progress.order = Some(info);
                    self.note_all(&state, id, queue);
                    count += 1;
                });
            }
        }
        count
    }

    /// Writes the batches in hand where Java looks for them; for an orderly end.
    pub fn save_orders(&self, config_dir: &Path) {
        let topics: Vec<_> =
            self.table.read().values().flat_map(|topics| topics.values()).cloned().collect();
        let mut table = Vec::new();
        for topic in topics {
            let queues = topic.queues.lock();
            let orders = queues.iter().enumerate();
            let orders: Vec<(i64, Value)> = orders
                .filter_map(|(id, queue)| Some((id as i64, queue.progress.order.as_ref()?)))
                .map(|(id, order)| (id, order.to_json()))
                .collect();
            if !orders.is_empty() {
                table.push((format!("{}@{}", topic.topic, topic.group), object(orders)));
            }
        }
        let path = config_dir.join("consumerOrderInfo.json");
        if table.is_empty() && !path.exists() {
            return;
        }
        table.sort_by(|(a, _), (b, _)| a.cmp(b));
        let text = object([("table", object(table))]).to_file_text();
        if let Err(error) = store::config_file::save(&path, &text) {
            tracing::error!(path = %path.display(), %error, "cannot save ordered pops");
        }
    }
}

fn begin(queue: &mut PopQueue, committed: i64) {
    if !queue.begun {
        queue.begun = true;
        queue.committed = committed;
        queue.progress.next = committed;
    }
}
