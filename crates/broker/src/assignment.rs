//! Which queues a client works on, when it asks the broker instead of deciding itself, and whether
//! it pulls or pops them. Java: `QueryAssignmentProcessor`, `MessageRequestModeManager`.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use parking_lot::Mutex;
use wire::body::{Member, MessageQueue, TopicRouteData};
use wire::codes::perm;
use wire::json::{Value, object};

/// How long a route is believed. Java: `loadBalancePollNameServerInterval`.
const ROUTE_MS: i64 = 30_000;
/// Routes that are remembered.
const ROUTES: usize = 10_000;

/// How a group consumes a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mode {
    /// It pops; else it pulls.
    pub pop: bool,
    /// How many neighbours' shares a client pops beside its own; 0 or less: everything.
    pub share: i64,
}

/// topic -> group -> what the operator said.
type Table = BTreeMap<String, BTreeMap<String, Value>>;

/// The modes that operators set, and the routes of topics that clients ask for.
pub struct Assignments {
    modes: Mutex<Table>,
    path: PathBuf,
    routes: Mutex<HashMap<String, (i64, Vec<MessageQueue>)>>,
}

impl Assignments {
    /// Reads `messageRequestMode.json` or its backup.
    pub fn load(path: PathBuf) -> Result<Assignments, store::config_file::LoadError> {
        let file = store::config_file::load(&path, Value::parse)?;
        let table = file.as_ref().and_then(|file| file.get("messageRequestModeMap"));
        let modes = table.and_then(Table::read).unwrap_or_default();
        Ok(Assignments { modes: Mutex::new(modes), path, routes: Mutex::default() })
    }

    /// Sets a mode, as code 401 brings it; on disk when it returns.
    pub fn set_mode(&self, topic: &str, group: &str, body: Value) {
        let mut modes = self.modes.lock();
        modes.entry(topic.to_owned()).or_default().insert(group.to_owned(), body);
        let file = object([("messageRequestModeMap", modes.write())]);
        if let Err(error) = store::config_file::save(&self.path, &file.to_file_text()) {
            tracing::error!(path = %self.path.display(), %error, "cannot save the request modes");
        }
    }

    /// The mode that was set for a group and topic.
    pub fn mode(&self, topic: &str, group: &str) -> Option<Mode> {
        let modes = self.modes.lock();
        let body = modes.get(topic)?.get(group)?;
        let pop = body.get("mode").and_then(Value::as_text) == Some("POP");
        let share = body.get("popShareQueueNum").and_then(Value::int).unwrap_or(0);
        Some(Mode { pop, share })
    }

    /// All modes, in Java's shape.
    pub fn body(&self) -> Value {
        object([("messageRequestModeMap", self.modes.lock().write())])
    }

    /// The readable queues of a topic, if its route was seen a short while ago.
    pub fn queues(&self, topic: &str, now_ms: i64) -> Option<Vec<MessageQueue>> {
        let routes = self.routes.lock();
        let (seen_ms, queues) = routes.get(topic)?;
        (now_ms - seen_ms < ROUTE_MS).then(|| queues.clone())
    }

    /// Remembers the queues of a topic.
    pub fn saw_queues(&self, topic: &str, queues: &[MessageQueue], now_ms: i64) {
        let mut routes = self.routes.lock();
        if routes.len() >= ROUTES {
            routes.retain(|_, (seen_ms, _)| now_ms - *seen_ms < ROUTE_MS);
        }
        if routes.len() < ROUTES {
            routes.insert(topic.to_owned(), (now_ms, queues.to_vec()));
        }
    }
}

/// The readable queues that a route shows, in order.
pub fn queues_of(topic: &str, route: &TopicRouteData) -> Vec<MessageQueue> {
    let readable = route.queue_datas.iter().filter(|data| data.perm & perm::READ != 0);
    let mut queues: Vec<MessageQueue> = readable
        .flat_map(|data| {
            (0..data.read_queue_nums).map(|queue_id| MessageQueue {
                broker_name: data.broker_name.clone(),
                queue_id,
                topic: topic.to_owned(),
            })
        })
        .collect();
    queues.sort_by(|a, b| (&a.broker_name, a.queue_id).cmp(&(&b.broker_name, b.queue_id)));
    queues
}

/// The part of `queues` that belongs to the client at `index` of `count`. `None`: no such strategy.
pub fn allot(
    strategy: &str,
    index: usize,
    count: usize,
    queues: &[MessageQueue],
) -> Option<Vec<MessageQueue>> {
    let len = queues.len();
    match strategy {
        "AVG" => {
            let (each, more) = (len / count, len % count);
            let start = if index < more { index * (each + 1) } else { index * each + more };
            let size = if index < more { each + 1 } else { each };
            Some(queues[start..start + size].to_vec())
        }
        "AVG_BY_CIRCLE" => Some(queues.iter().skip(index).step_by(count).cloned().collect()),
        _ => None,
    }
}

/// What a client pops: everything when the shares overlap anyway (queue -1 of each broker), else
/// its own part and those of its neighbours. Java: `allocate4Pop`.
pub fn allot_pop(
    strategy: &str,
    index: usize,
    count: usize,
    queues: &[MessageQueue],
    share: i64,
) -> Option<Vec<MessageQueue>> {
    if share <= 0 || share >= count as i64 - 1 {
        let mut all: Vec<MessageQueue> =
            queues.iter().map(|queue| MessageQueue { queue_id: -1, ..queue.clone() }).collect();
        all.dedup();
        return Some(all);
    }
    if count > queues.len() {
        let one = queues.get(index % queues.len().max(1));
        return Some(one.into_iter().cloned().collect());
    }
    let mut mine = Vec::new();
    for step in 0..=share as usize {
        mine.extend(allot(strategy, (index + step) % count, count, queues)?);
    }
    Some(mine)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: i32) -> Vec<MessageQueue> {
        let queue =
            |queue_id| MessageQueue { broker_name: "b".into(), queue_id, topic: "t".into() };
        (0..count).map(queue).collect()
    }

    fn ids(queues: Option<Vec<MessageQueue>>) -> Vec<i32> {
        queues.expect("strategy").iter().map(|queue| queue.queue_id).collect()
    }

    #[test]
    fn every_queue_has_one_client() {
        for strategy in ["AVG", "AVG_BY_CIRCLE"] {
            for count in 1..10 {
                for len in 0..20 {
                    let parts =
                        (0..count).flat_map(|i| ids(allot(strategy, i, count, &queues(len))));
                    let mut all: Vec<i32> = parts.collect();
                    all.sort_unstable();
                    assert_eq!(all, (0..len).collect::<Vec<_>>(), "{strategy} {count} {len}");
                }
            }
        }
        assert_eq!(ids(allot("AVG", 1, 3, &queues(8))), [3, 4, 5]);
        assert_eq!(ids(allot("AVG_BY_CIRCLE", 1, 3, &queues(8))), [1, 4, 7]);
        assert_eq!(allot("NEAREST", 0, 1, &queues(1)), None);
    }

    #[test]
    fn pops_share() {
        assert_eq!(ids(allot_pop("AVG", 0, 2, &queues(4), 0)), [-1]);
        assert_eq!(ids(allot_pop("AVG", 0, 2, &queues(4), 1)), [-1]);
        assert_eq!(ids(allot_pop("AVG", 3, 4, &queues(4), 1)), [3, 0]);
        assert_eq!(ids(allot_pop("AVG", 5, 9, &queues(4), 1)), [1]);
    }
}
