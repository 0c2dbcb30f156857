//! Committed offsets of consumer groups: in memory, on disk every few seconds and at the end.
//! Java: `ConsumerOffsetManager`, and `LmqConsumerOffsetManager`, which has a file of its own for
//! all offsets when `enableLmq` is on.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use parking_lot::Mutex;
use wire::body::{DataVersion, Member};
use wire::json::{Value, object};

/// Offsets of groups of light queues, in the file of [`Offsets::light_path`]: Java keeps one number
/// for each, since such a queue is alone in its topic.
const LIGHT_MEMBER: &str = "lmqOffsetTable";
/// Commits after which the version advances. Java: `consumerOffsetUpdateVersionStep`.
const VERSION_STEP: u64 = 500;

type Queues = BTreeMap<i32, i64>;

#[derive(Default)]
struct Table {
    /// group -> topic -> queue -> next offset to consume.
    groups: HashMap<String, HashMap<String, Queues>>,
    /// The same of what was handed out. Java: `pullOffsetTable`, which no file keeps either.
    pulled: HashMap<String, HashMap<String, Queues>>,
    /// Pending resets by an operator, taken by the next pull.
    resets: HashMap<(String, String, i32), i64>,
    version: DataVersion,
    commits: u64,
    dirty: bool,
}

/// All committed offsets.
pub struct Offsets {
    table: Mutex<Table>,
    path: PathBuf,
    /// With `enableLmq`: what a Java broker with the same setting reads and writes instead.
    light_path: Option<PathBuf>,
}

impl Offsets {
    /// Reads `consumerOffset.json` or its backup; with `light` (`enableLmq`) rather
    /// `lmqConsumerOffset.json` beside it, when there is one.
    pub fn load(path: PathBuf, light: bool) -> Result<Offsets, store::config_file::LoadError> {
        let light_path = light.then(|| path.with_file_name("lmqConsumerOffset.json"));
        let file = match &light_path {
            Some(path) => store::config_file::load(path, Value::parse)?,
            None => None,
        };
        let file = match file {
            Some(file) => Some(file),
            None => store::config_file::load(&path, Value::parse)?,
        };
        let mut table = Table::default();
        if let Some(file) = &file {
            table.version = file.get("dataVersion").and_then(Member::read).unwrap_or_default();
            for (key, queues) in file.get("offsetTable").map_or(&[][..], Value::pairs) {
                let Some(key) = key.text() else { continue };
                let Some((topic, group)) = key.rsplit_once('@') else { continue };
                let offsets = queues.pairs().iter();
                let offsets = offsets.filter_map(|(q, o)| Some((q.int()? as i32, o.int()?)));
                let topics = table.groups.entry(group.to_owned()).or_default();
                topics.insert(topic.to_owned(), offsets.collect());
            }
            for (key, offset) in file.get(LIGHT_MEMBER).map_or(&[][..], Value::pairs) {
                let (Some(key), Some(offset)) = (key.text(), offset.int()) else { continue };
                let Some((topic, group)) = key.rsplit_once('@') else { continue };
                set(&mut table.groups, group, topic, 0, offset);
            }
        }
        Ok(Offsets { table: Mutex::new(table), path, light_path })
    }

    /// Takes back offsets above the end of their queue, for a start: the log has lost what a power
    /// cut took, and what takes the lost messages' offsets must not be skipped. `end` knows the
    /// next offset of a queue.
    pub fn cut_to(&self, end: impl Fn(&str, i32) -> Option<i64>) {
        let table = &mut *self.table.lock();
        for (group, topics) in &mut table.groups {
            for (topic, queues) in topics {
                for (id, offset) in queues {
                    if let Some(end) = end(topic, *id).filter(|end| end < offset) {
                        tracing::warn!(
                            group,
                            topic,
                            queue = id,
                            offset,
                            end,
                            "committed offset above the end of the queue, taken back"
                        );
                        *offset = end;
                        table.dirty = true;
                    }
                }
            }
        }
    }

    /// The committed offset of a queue.
    pub fn get(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        self.table.lock().groups.get(group)?.get(topic)?.get(&queue_id).copied()
    }

    /// Commits an offset, also a smaller one, as Java does.
    pub fn commit(&self, group: &str, topic: &str, queue_id: i32, offset: i64, now_ms: i64) {
        let table = &mut *self.table.lock();
        table.dirty = true;
        table.commits += 1;
        if table.commits.is_multiple_of(VERSION_STEP) {
            table.version.advance(now_ms);
        }
        set(&mut table.groups, group, topic, queue_id, offset);
    }

    /// Notes up to where messages were handed out.
    pub fn pulled(&self, group: &str, topic: &str, queue_id: i32, next: i64) {
        set(&mut self.table.lock().pulled, group, topic, queue_id, next);
    }

    /// Up to where messages of one topic were handed out to a group.
    pub fn pulled_of_topic(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let table = self.table.lock();
        table.pulled.get(group).and_then(|t| t.get(topic)).cloned().unwrap_or_default()
    }

    /// Gives one group the offsets that another has of a topic; nothing when it has none. Those
    /// that the other group had are gone, as in Java.
    pub fn copy(&self, from: &str, to: &str, topic: &str) {
        let table = &mut *self.table.lock();
        let Some(queues) = table.groups.get(from).and_then(|t| t.get(topic)).cloned() else {
            return;
        };
        table.groups.entry(to.to_owned()).or_default().insert(topic.to_owned(), queues);
        table.dirty = true;
    }

    /// Commits `to` if the committed offset is still `before` (or there is none). False when
    /// somebody else has moved it.
    pub fn commit_from(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        (before, to): (i64, i64),
        now_ms: i64,
    ) -> bool {
        let known = self.get(group, topic, queue_id);
        if known == Some(to) {
            return true;
        }
        let free = known.is_none_or(|known| known == before);
        if free {
            self.commit(group, topic, queue_id, to, now_ms);
        }
        free
    }

    /// Replaces an offset by the word of an operator: the next pull of the queue is told, and
    /// commits are ignored until then.
    pub fn reset(&self, group: &str, topic: &str, queue_id: i32, offset: i64, now_ms: i64) {
        self.commit(group, topic, queue_id, offset, now_ms);
        let key = (group.to_owned(), topic.to_owned(), queue_id);
        let table = &mut *self.table.lock();
        table.resets.insert(key, offset);
        if let Some(queues) = table.pulled.get_mut(group).and_then(|t| t.get_mut(topic)) {
            queues.remove(&queue_id);
        }
    }

    /// Whether a reset waits for its pull.
    pub fn has_reset(&self, group: &str, topic: &str, queue_id: i32) -> bool {
        let table = self.table.lock();
        !table.resets.is_empty()
            && table.resets.contains_key(&(group.to_owned(), topic.to_owned(), queue_id))
    }

    /// Forgets the resets of a group and topic that wait for a pull.
    pub fn forget_resets(&self, group: &str, topic: &str) {
        self.table.lock().resets.retain(|(g, t, _), _| g != group || t != topic);
    }

    /// Takes a waiting reset.
    pub fn take_reset(&self, group: &str, topic: &str, queue_id: i32) -> Option<i64> {
        let mut table = self.table.lock();
        if table.resets.is_empty() {
            return None;
        }
        table.resets.remove(&(group.to_owned(), topic.to_owned(), queue_id))
    }

    /// Offsets of one topic of a group.
    pub fn of_topic(&self, group: &str, topic: &str) -> BTreeMap<i32, i64> {
        let table = self.table.lock();
        table.groups.get(group).and_then(|t| t.get(topic)).cloned().unwrap_or_default()
    }

    /// Topics that a group has offsets of, sorted.
    pub fn topics_of(&self, group: &str) -> Vec<String> {
        let table = self.table.lock();
        let mut topics: Vec<String> =
            table.groups.get(group).map_or_else(Vec::new, |t| t.keys().cloned().collect());
        topics.sort_unstable();
        topics
    }

    /// Groups that have offsets of a topic, sorted.
    pub fn groups_of(&self, topic: &str) -> Vec<String> {
        let table = self.table.lock();
        let groups = table.groups.iter().filter(|(_, topics)| topics.contains_key(topic));
        let mut groups: Vec<String> = groups.map(|(group, _)| group.clone()).collect();
        groups.sort_unstable();
        groups
    }

    /// Forgets a deleted topic.
    pub fn remove_topic(&self, topic: &str) {
        let table = &mut *self.table.lock();
        table.groups.values_mut().for_each(|topics| drop(topics.remove(topic)));
        table.pulled.values_mut().for_each(|topics| drop(topics.remove(topic)));
        table.groups.retain(|_, topics| !topics.is_empty());
        table.resets.retain(|(_, t, _), _| t != topic);
        table.dirty = true;
    }

    /// Forgets a deleted group.
    pub fn remove_group(&self, group: &str) {
        let table = &mut *self.table.lock();
        table.groups.remove(group);
        table.pulled.remove(group);
        table.resets.retain(|(g, _, _), _| g != group);
        table.dirty = true;
    }

    /// The table as a body and file, in Java's shape.
    pub fn body(&self) -> Value {
        let table = self.table.lock();
        let mut entries = BTreeMap::new();
        let mut topics_of = BTreeMap::new();
        for (group, topics) in &table.groups {
            let mut names: Vec<&str> = topics.keys().map(String::as_str).collect();
            names.sort_unstable();
            topics_of.insert(group.as_str(), Value::from(names));
            for (topic, queues) in topics {
                let offsets = queues.iter().map(|(queue, offset)| (*queue, *offset));
                entries.insert(format!("{topic}@{group}"), object(offsets));
            }
        }
        object([
            ("dataVersion", table.version.write()),
            ("groupTopicMap", object(topics_of)),
            ("offsetTable", object(entries)),
        ])
    }

    /// [`Offsets::body`] as a Java broker with `enableLmq` has it.
    fn light_body(&self) -> Value {
        let table = self.table.lock();
        let (mut entries, mut lights) = (BTreeMap::new(), BTreeMap::new());
        for (group, topics) in &table.groups {
            for (topic, queues) in topics {
                let key = format!("{topic}@{group}");
                match queues.get(&0) {
                    Some(offset) if group.starts_with(store::LIGHT_PREFIX) => {
                        lights.insert(key, *offset);
                    }
                    _ => {
                        let offsets = queues.iter().map(|(queue, offset)| (*queue, *offset));
                        entries.insert(key, object(offsets));
                    }
                }
            }
        }
        object([
            ("dataVersion", table.version.write()),
            (LIGHT_MEMBER, object(lights)),
            ("offsetTable", object(entries)),
        ])
    }

    /// Writes the file if anything changed since the last time; with `enableLmq` both, so that the
    /// setting may change.
    pub fn save(&self) {
        if !std::mem::take(&mut self.table.lock().dirty) {
            return;
        }
        let light = self.light_path.as_ref().map(|path| (path, self.light_body()));
        for (path, body) in light.into_iter().chain([(&self.path, self.body())]) {
            if let Err(error) = store::config_file::save(path, &body.to_file_text()) {
                self.table.lock().dirty = true;
                tracing::error!(path = %path.display(), %error, "cannot save consumer offsets");
            }
        }
    }
}

/// Sets an offset; allocates for the first one of a topic only.
fn set(
    groups: &mut HashMap<String, HashMap<String, Queues>>,
    group: &str,
    topic: &str,
    queue_id: i32,
    offset: i64,
) {
    if let Some(queues) = groups.get_mut(group).and_then(|topics| topics.get_mut(topic)) {
        queues.insert(queue_id, offset);
        return;
    }
    let topics = groups.entry(group.to_owned()).or_default();
    topics.entry(topic.to_owned()).or_default().insert(queue_id, offset);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_above_the_end_of_their_queue_are_taken_back() {
        let dir = std::env::temp_dir().join(format!("apogee-cut-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let path = dir.join("consumerOffset.json");
        let offsets = Offsets::load(path.clone(), false).unwrap();
        for (topic, queue, offset) in [("t", 0, 10), ("t", 1, 4), ("gone", 0, 7)] {
            offsets.commit("g", topic, queue, offset, 1);
        }
        offsets.cut_to(|topic, queue| (topic == "t").then_some([6, 6][queue as usize]));
        let left = |queue| offsets.get("g", "t", queue);
        assert_eq!((left(0), left(1), offsets.get("g", "gone", 0)), (Some(6), Some(4), Some(7)));
        offsets.save();
        assert_eq!(Offsets::load(path, false).unwrap().get("g", "t", 0), Some(6));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_java_broker_with_light_queues_keeps_all_offsets_in_its_own_file() {
        let dir = std::env::temp_dir().join(format!("apogee-offsets-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("consumerOffset.json");
        let old = r#"{"offsetTable":{"t@g":{0:3}}}"#;
        let new = r#"{"lmqOffsetTable":{"%LMQ%a@%LMQ%a":8},"offsetTable":{"t@g":{0:7,1:2}}}"#;
        std::fs::write(&path, old).unwrap();
        std::fs::write(dir.join("lmqConsumerOffset.json"), new).unwrap();
        let open = |light| Offsets::load(path.clone(), light).unwrap();
        assert_eq!(open(false).get("g", "t", 0), Some(3));
        let offsets = open(true);
        assert_eq!((offsets.get("g", "t", 0), offsets.get("g", "t", 1)), (Some(7), Some(2)));
        assert_eq!(offsets.get("%LMQ%a", "%LMQ%a", 0), Some(8));
        offsets.commit("g", "t", 0, 9, 1);
        offsets.save();
        for light in [false, true] {
            let offsets = open(light);
            assert_eq!(offsets.get("g", "t", 0), Some(9), "{light}");
            assert_eq!(offsets.get("%LMQ%a", "%LMQ%a", 0), Some(8), "{light}");
        }
        let text = std::fs::read_to_string(dir.join("lmqConsumerOffset.json")).unwrap();
        let file = Value::parse(&text).unwrap();
        assert_eq!(file.get("lmqOffsetTable").unwrap().pairs().len(), 1);
        assert_eq!(file.get("offsetTable").unwrap().pairs().len(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
