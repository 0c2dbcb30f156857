//! Topics: their configuration file, their queues, and how they come into being.
//!
//! Readers take one read lock and clone an `Arc`; a change replaces the topic and is in the journal
//! of changes, on disk, before anybody sees it. `topics.json` follows from time to time and at a
//! clean stop. Queues live on from one configuration to the next.

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use base::clock::Clock;
use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};
use store::config_file::LoadError;
use store::config_journal::{ConfigJournal, Opened};
use store::disk::Disk;
use store::{Queue, Store};
use wire::body::{DataVersion, Member, TopicConfig, TopicConfigWrapper};
use wire::codes::perm;
use wire::json::{Value, object};
use wire::text::check_topic;

use crate::attributes;
use crate::config::BrokerConfig;
use crate::pop::waiting::PopWaiters;
use crate::saved::{self, NotSaved};
use crate::stats::Traffic;
use crate::transactions::{HALF_TOPIC, OP_TOPIC, PARKED_TOPIC};
use crate::waits::Waiters;

/// The template of automatically created topics.
pub const AUTO_CREATE_KEY_TOPIC: &str = "TBW102";
/// Where messages with a delay level wait; queue = level - 1.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";
/// Prefix of all names that belong to the system.
pub const SYSTEM_PREFIX: &str = "rmq_sys_";

/// Light queues that are remembered at most.
const MOST_LIGHT: usize = 10_000_000;

/// Topics that no client may send to. Java: `TopicValidator.NOT_ALLOWED_SEND_TOPIC_SET`.
const FORBIDDEN_TO_SEND: [&str; 8] = [
    SCHEDULE_TOPIC,
    HALF_TOPIC,
    OP_TOPIC,
    PARKED_TOPIC,
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
    "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
    "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
];

/// More system topics, besides those above and the ones that [`Topics::system`] adds.
const SYSTEM: [&str; 4] =
    [AUTO_CREATE_KEY_TOPIC, "BenchmarkTest", "RMQ_SYS_TRACE_TOPIC", "CHECKPOINT_TOPIC"];

/// A queue of a topic with those who wait for its next message.
pub struct TopicQueue {
    /// The stored queue.
    pub queue: Arc<Queue>,
    /// Pulls that wait for an arrival.
    pub waiters: Waiters,
    /// Pops that wait for an arrival in the topic.
    pub pops: Arc<PopWaiters>,
    /// Messages put to the topic.
    pub puts: Arc<Traffic>,
    /// Whether the topic belongs to the system.
    pub of_system: bool,
}

/// A topic at one moment.
pub struct Topic {
    /// Its configuration.
    pub config: TopicConfig,
    /// Queues 0 to max(read, write) - 1.
    pub queues: Vec<Arc<TopicQueue>>,
    /// Messages put.
    pub puts: Arc<Traffic>,
    /// Pops that wait on it.
    pub pops: Arc<PopWaiters>,
}

/// All topics of a broker.
pub struct Topics {
    table: RwLock<HashMap<String, Arc<Topic>, RandomState>>,
    /// Held while a change is made and written; holds the version.
    change: Mutex<DataVersion>,
    system: RwLock<Vec<String>>,
    /// Light queues that somebody has asked for since the start.
    lights: RwLock<HashMap<String, Arc<Topic>, RandomState>>,
    lights_on: bool,
    light_puts: Arc<Traffic>,
    journal: ConfigJournal,
    store: Arc<Store>,
    clock: Clock,
}

/// The topics that were saved.
pub struct Saved {
    /// Version and table.
    pub wrapper: TopicConfigWrapper,
    journal: ConfigJournal,
}

/// Reads `topics.json` or its backup, and the changes since; no topic when there is nothing.
pub fn read(disk: &Disk, path: &Path) -> Result<Saved, LoadError> {
    let Opened { file, changes, journal } = ConfigJournal::open(disk, path, Value::parse)?;
    let mut wrapper = file.as_ref().and_then(TopicConfigWrapper::read).unwrap_or_default();
    for change in saved::changes(&journal, &changes) {
        let changed = TopicConfigWrapper::read(&change).unwrap_or_default();
        wrapper.data_version = changed.data_version;
        wrapper.topic_config_table.extend(changed.topic_config_table);
        for name in saved::removed(&change) {
            wrapper.topic_config_table.remove(&name);
        }
    }
    Ok(Saved { wrapper, journal })
}

impl Topics {
    /// The topics that [`read`] found, and those of the system.
    pub fn open(
        Saved { wrapper, journal }: Saved,
        store: Arc<Store>,
        clock: Clock,
        config: &BrokerConfig,
    ) -> Topics {
        let topics = Topics {
            table: RwLock::default(),
            change: Mutex::new(wrapper.data_version),
            system: RwLock::default(),
            lights: RwLock::default(),
            lights_on: config.enable_lmq,
            light_puts: Arc::default(),
            journal,
            store,
            clock,
        };
        for (name, mut config) in wrapper.topic_config_table {
            config.topic_name.clone_from(&name);
            topics.insert(config);
        }
        topics.add_system_topics(config);
        topics
    }

    /// The topics that every Java broker has. Java: the constructor of `TopicConfigManager`.
    fn add_system_topics(&self, config: &BrokerConfig) {
        const RW: i32 = perm::READ | perm::WRITE;
        let cluster = config.broker_cluster_name.as_str();
        let broker = config.broker_name.as_str();
        let optional = |on: bool| if on { perm::INHERIT | RW } else { perm::INHERIT };
        let mut wanted = vec![
            ("SELF_TEST_TOPIC".to_owned(), 1, RW),
            ("BenchmarkTest".to_owned(), 1024, RW),
            (cluster.to_owned(), 16, optional(config.cluster_topic_enable)),
            (broker.to_owned(), 1, optional(config.broker_topic_enable)),
            ("OFFSET_MOVED_EVENT".to_owned(), 1, RW),
            (SCHEDULE_TOPIC.to_owned(), config.delay_levels_ms().len().max(18) as i32, RW),
            (format!("{cluster}_REPLY_TOPIC"), 1, RW),
            (format!("rmq_sys_REVIVE_LOG_{cluster}"), 8, RW),
            (format!("rmq_sys_SYNC_BROKER_MEMBER_{broker}"), 1, perm::INHERIT),
            (HALF_TOPIC.to_owned(), 1, RW),
            (OP_TOPIC.to_owned(), 1, RW),
            ("RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC".to_owned(), 1, RW),
            ("RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC".to_owned(), 1, RW),
            (store::TIMER_TOPIC.to_owned(), 1, RW),
        ];
        let queues = config.default_topic_queue_nums;
        if config.auto_create_topic_enable {
            wanted.push((AUTO_CREATE_KEY_TOPIC.to_owned(), queues, perm::INHERIT | RW));
        } else {
            self.table.write().remove(AUTO_CREATE_KEY_TOPIC);
        }
        if config.trace_topic_enable {
            wanted.push((config.msg_trace_topic_name.clone(), 1, RW));
        }
        for (name, queues, perm) in wanted {
            self.system.write().push(name.clone());
            self.insert(TopicConfig {
                topic_name: name,
                read_queue_nums: queues,
                write_queue_nums: queues,
                perm,
                ..TopicConfig::default()
            });
        }
    }

    /// Makes the template of automatic topics exist when creation was switched on at run time.
    pub fn switch_auto_create(&self, config: &BrokerConfig) {
        if config.auto_create_topic_enable && self.get(AUTO_CREATE_KEY_TOPIC).is_none() {
            self.system.write().push(AUTO_CREATE_KEY_TOPIC.to_owned());
            let queues = config.default_topic_queue_nums;
            let made = self.put(vec![TopicConfig {
                topic_name: AUTO_CREATE_KEY_TOPIC.to_owned(),
                read_queue_nums: queues,
                write_queue_nums: queues,
                perm: perm::INHERIT | perm::READ | perm::WRITE,
                ..TopicConfig::default()
            }]);
            drop(made); // an error was logged; the switch works until a restart does it again
        }
    }

    /// Puts a topic into the table, keeping the queues that an earlier configuration had.
    fn insert(&self, config: TopicConfig) -> Arc<Topic> {
        let wanted = config.read_queue_nums.max(config.write_queue_nums).max(0);
        let of_system = self.is_system(&config.topic_name);
        let mut table = self.table.write();
        let old = table.get(&config.topic_name);
        let mut queues = old.map_or_else(Vec::new, |old| old.queues.clone());
        let puts = old.map_or_else(Arc::default, |old| Arc::clone(&old.puts));
        let pops = old.map_or_else(Arc::default, |old| Arc::clone(&old.pops));
        for id in queues.len() as i32..wanted {
            let queue = if attributes::is_batch(&config) {
                self.store.batch_queue_or_create(&config.topic_name, id)
            } else {
                self.store.queue_or_create(&config.topic_name, id)
            };
            let (waiters, puts, pops) = (Waiters::default(), Arc::clone(&puts), Arc::clone(&pops));
            queues.push(Arc::new(TopicQueue { queue, waiters, puts, pops, of_system }));
        }
        self.store.set_keep(&config.topic_name, attributes::keep(&config));
        self.store.set_indexed(&config.topic_name, attributes::is_indexed(&config));
        let topic = Arc::new(Topic { config, queues, puts, pops });
        table.insert(topic.config.topic_name.clone(), Arc::clone(&topic));
        topic
    }

    /// A topic, if it exists; a light queue counts as one with a single queue.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        let known = self.table.read().get(name).cloned();
        known.or_else(|| self.light_topic(name, MOST_LIGHT))
    }

    /// A queue of an existing topic.
    pub fn queue(&self, name: &str, id: i32) -> Option<Arc<TopicQueue>> {
        let index = usize::try_from(id).ok()?;
        if let Some(topic) = self.table.read().get(name) {
            return topic.queues.get(index).cloned();
        }
        self.light_topic(name, MOST_LIGHT)?.queues.get(index).cloned()
    }

    /// A light queue; made when missing, unless there are `most` already.
    pub fn light(&self, name: &str, most: usize) -> Option<Arc<TopicQueue>> {
        self.light_topic(name, most)?.queues.first().cloned()
    }

    fn light_topic(&self, name: &str, most: usize) -> Option<Arc<Topic>> {
        if !self.lights_on || !name.starts_with(store::LIGHT_PREFIX) {
            return None;
        }
        if let Some(known) = self.lights.read().get(name) {
            return Some(Arc::clone(known));
        }
        let mut lights = self.lights.write();
        if !lights.contains_key(name) && lights.len() >= most || check_topic(name).is_err() {
            return None;
        }
        let config = TopicConfig {
            topic_name: name.to_owned(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            perm: perm::READ | perm::WRITE,
            ..TopicConfig::default()
        };
        let queue = self.store.queue_or_create(name, 0);
        let puts = Arc::clone(&self.light_puts);
        let pops: Arc<PopWaiters> = Arc::default();
        let waiters = Waiters::default();
        let queue = TopicQueue {
            queue,
            waiters,
            puts: Arc::clone(&puts),
            pops: Arc::clone(&pops),
            of_system: false,
        };
        let topic = Arc::new(Topic { config, queues: vec![Arc::new(queue)], puts, pops });
        Some(Arc::clone(lights.entry(name.to_owned()).or_insert(topic)))
    }

    /// Names of all topics, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// Whether a topic belongs to the system.
    pub fn is_system(&self, name: &str) -> bool {
        SYSTEM.contains(&name)
            || FORBIDDEN_TO_SEND.contains(&name)
            || name.starts_with(SYSTEM_PREFIX)
            || self.system.read().iter().any(|system| system == name)
    }

    /// All system topics that exist, sorted.
    pub fn system_topics(&self) -> Vec<String> {
        let mut names = self.names();
        names.retain(|name| self.is_system(name));
        names
    }

    /// Whether clients may not send to a topic.
    pub fn is_forbidden_to_send(name: &str) -> bool {
        FORBIDDEN_TO_SEND.contains(&name)
    }

    /// Creates or changes topics; on disk when it returns, or not done at all.
    pub fn put(&self, configs: Vec<TopicConfig>) -> Result<Vec<Arc<Topic>>, NotSaved> {
        let mut version = self.change.lock();
        self.put_at(&mut version, configs)
    }

    fn put_at(
        &self,
        version: &mut DataVersion,
        configs: Vec<TopicConfig>,
    ) -> Result<Vec<Arc<Topic>>, NotSaved> {
        version.advance(self.clock.now_ms());
        let changed = configs.iter().map(|config| (config.topic_name.as_str(), config.write()));
        let change =
            object([("dataVersion", version.write()), ("topicConfigTable", object(changed))]);
        // First: a topic that a restart forgets would take its messages with it.
        saved::append(&self.journal, &change, self.clock.now_ms())?;
        Ok(configs.into_iter().map(|config| self.insert(config)).collect())
    }

    /// Creates a topic unless it exists; the second value tells whether it is new.
    pub fn put_if_absent(&self, config: TopicConfig) -> Result<(Arc<Topic>, bool), NotSaved> {
        let mut version = self.change.lock();
        if let Some(topic) = self.get(&config.topic_name) {
            return Ok((topic, false));
        }
        tracing::info!(topic = config.topic_name, queues = config.write_queue_nums, "new topic");
        let mut topics = self.put_at(&mut version, vec![config])?;
        Ok((topics.swap_remove(0), true))
    }

    /// Removes a topic with its queues and messages. False when there was none.
    pub fn remove(&self, name: &str) -> bool {
        let mut version = self.change.lock();
        let Some(topic) = self.table.write().remove(name) else { return false };
        for queue in &topic.queues {
            queue.waiters.forget();
        }
        if let Err(error) = self.store.delete_topic(name) {
            tracing::error!(topic = name, %error, "cannot delete the files of a topic");
        }
        version.advance(self.clock.now_ms());
        let change = saved::removal(&version, name);
        if let Err(error) = saved::append(&self.journal, &change, self.clock.now_ms()) {
            tracing::error!(%error, topic = name, "a deleted topic is back after a restart");
        }
        true
    }

    /// Deletes stored queues whose topic does not exist; those of the system and light queues stay.
    /// Java: `DefaultMessageStore.cleanUnusedTopic`. No topic comes into being meanwhile.
    pub fn remove_unknown(&self) -> io::Result<()> {
        let _version = self.change.lock();
        for (topic, queues) in self.store.topics() {
            let kept = self.get(&topic).is_some()
                || self.is_system(&topic)
                || topic.starts_with(store::LIGHT_PREFIX);
            if !kept {
                tracing::info!(topic, queues = queues.len(), "queues of an unknown topic deleted");
                self.store.delete_topic(&topic)?;
            }
        }
        Ok(())
    }

    /// The topic that a send to an unknown one creates, if that is allowed.
    /// Java: `TopicConfigManager.createTopicInSendMessageMethod`.
    pub fn template(
        &self,
        topic: &str,
        default_topic: &str,
        client_queues: i32,
        sys_flag: i32,
        config: &BrokerConfig,
    ) -> Option<TopicConfig> {
        let template = self.get(default_topic)?;
        let template = &template.config;
        let switched_off =
            default_topic == AUTO_CREATE_KEY_TOPIC && !config.auto_create_topic_enable;
        if switched_off || template.perm & perm::INHERIT == 0 {
            return None;
        }
        let queues = client_queues.min(template.write_queue_nums).max(0);
        Some(TopicConfig {
            topic_name: topic.to_owned(),
            read_queue_nums: queues,
            write_queue_nums: queues,
            perm: template.perm & !perm::INHERIT,
            topic_sys_flag: sys_flag,
            topic_filter_type: template.topic_filter_type.clone(),
            ..TopicConfig::default()
        })
    }

    /// The table with its version, as it is registered and synchronized.
    pub fn wrapper(&self) -> TopicConfigWrapper {
        let (version, topics) = self.snapshot(&self.change.lock());
        wrapper_of(version, &topics)
    }

    /// The same with no topics but these.
    pub fn part(&self, names: &[&str]) -> TopicConfigWrapper {
        let version = self.change.lock();
        let topics: Vec<_> = names.iter().filter_map(|name| self.get(name)).collect();
        wrapper_of(version.clone(), &topics)
    }

    /// The current version.
    pub fn version(&self) -> DataVersion {
        self.change.lock().clone()
    }

    fn snapshot(&self, version: &DataVersion) -> (DataVersion, Vec<Arc<Topic>>) {
        (version.clone(), self.table.read().values().cloned().collect())
    }

    /// Brings `topics.json` up to date when changes have waited for it long enough. By the
    /// background thread.
    pub fn export(&self) {
        if self.journal.wants_export(self.clock.now_ms()) {
            self.export_now();
        }
    }

    /// Brings `topics.json` up to date, after which nothing but it is needed. At the end, when
    /// nothing changes any more.
    pub fn close(&self) {
        if self.journal.has_changes() {
            self.export_now();
        }
        saved::remove(&self.journal);
    }

    fn export_now(&self) {
        let begun = {
            let version = self.change.lock();
            self.journal.begin_export().map(|export| (export, self.snapshot(&version)))
        };
        let Some((export, (version, topics))) = begun else { return };
        let wrapper = wrapper_of(version, &topics);
        let file = object([
            ("dataVersion", wrapper.data_version.write()),
            ("topicConfigTable", wrapper.topic_config_table.write()),
        ]);
        saved::export(&self.journal, export, &file, self.clock.now_ms());
    }
}

fn wrapper_of(version: DataVersion, topics: &[Arc<Topic>]) -> TopicConfigWrapper {
    let configs = topics.iter().map(|topic| (topic.config.topic_name.clone(), &topic.config));
    TopicConfigWrapper {
        data_version: version,
        topic_config_table: configs.map(|(name, config)| (name, config.clone())).collect(),
        ..TopicConfigWrapper::default()
    }
}

/// Java's text form of a topic, as its answers show it.
pub fn java_text(config: &TopicConfig) -> String {
    let perm = config.perm;
    let bit = |bit, letter| if perm & bit == bit { letter } else { "-" };
    format!(
        "TopicConfig [topicName={}, readQueueNums={}, writeQueueNums={}, perm={}{}{}, \
         topicFilterType={}, topicSysFlag={}, order={}, attributes={{{}}}]",
        config.topic_name,
        config.read_queue_nums,
        config.write_queue_nums,
        bit(perm::READ, "R"),
        bit(perm::WRITE, "W"),
        bit(perm::INHERIT, "X"),
        config.topic_filter_type,
        config.topic_sys_flag,
        config.order,
        config.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(", "),
    )
}
