//! Consumer groups: their configuration and its file.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::clock::Clock;
use parking_lot::{Mutex, RwLock};
use wire::body::{DataVersion, GroupConfig, Member};
use wire::json::{Value, object};
use wire::text::check_group;

use crate::topics::NotSaved;

/// Groups that exist without creation. Java: `SubscriptionGroupManager.init`.
const PREDEFINED: [&str; 9] = [
    "TOOLS_CONSUMER",
    "FILTERSRV_CONSUMER",
    "SELF_TEST_C_GROUP",
    "CID_ONS-HTTP-PROXY",
    "CID_ONSAPI_PULL",
    "CID_ONSAPI_PERMISSION",
    "CID_ONSAPI_OWNER",
    "CID_RMQ_SYS_TRANS",
    "CID_RMQ_SYS_REVIVE_GROUP",
];

/// Prefix of the groups of the system itself.
const SYSTEM_PREFIX: &str = "CID_RMQ_SYS_";

/// Whether a group belongs to the system. Java: `MixAll.isSysConsumerGroup`.
pub fn is_system(group: &str) -> bool {
    group.starts_with(SYSTEM_PREFIX) || PREDEFINED.contains(&group)
}

/// All consumer groups of a broker. A change is on disk before anybody sees it.
pub struct Groups {
    table: RwLock<HashMap<String, Arc<GroupConfig>>>,
    forbidden: RwLock<BTreeMap<String, BTreeMap<String, i32>>>,
    change: Mutex<DataVersion>,
    /// A group was made that is not in the file yet.
    unsaved: AtomicBool,
    path: PathBuf,
    clock: Clock,
}

impl Groups {
    /// Reads `subscriptionGroup.json` or its backup.
    pub fn load(path: PathBuf, clock: Clock) -> Result<Groups, store::config_file::LoadError> {
        let file = store::config_file::load(&path, Value::parse)?;
        let part = |name: &str| file.as_ref().and_then(|file| file.get(name));
        let configs =
            part("subscriptionGroupTable").and_then(BTreeMap::<String, GroupConfig>::read);
        let version = part("dataVersion").and_then(DataVersion::read).unwrap_or_default();
        let forbidden = part("forbiddenTable").and_then(Member::read).unwrap_or_default();
        let mut table = HashMap::new();
        for name in PREDEFINED {
            table.insert(name.to_owned(), Arc::new(named(name)));
        }
        for (name, mut config) in configs.unwrap_or_default() {
            config.group_name.clone_from(&name);
            table.insert(name, Arc::new(config));
        }
        Ok(Groups {
            table: RwLock::new(table),
            forbidden: RwLock::new(forbidden),
            change: Mutex::new(version),
            unsaved: AtomicBool::new(false),
            path,
            clock,
        })
    }

    /// A group, if it exists.
    pub fn get(&self, name: &str) -> Option<Arc<GroupConfig>> {
        self.table.read().get(name).cloned()
    }

    /// A group; created when that is allowed and the name is legal.
    /// Java: `SubscriptionGroupManager.findSubscriptionGroupConfig`.
    pub fn get_or_create(&self, name: &str, auto_create: bool) -> Option<Arc<GroupConfig>> {
        if let Some(config) = self.get(name) {
            return Some(config);
        }
        if !(auto_create || is_system(name)) || check_group(name).is_err() {
            return None;
        }
        tracing::info!(group = name, "new consumer group");
        let mut version = self.change.lock();
        self.table.write().entry(name.to_owned()).or_insert_with(|| Arc::new(named(name)));
        version.advance(self.clock.now_ms());
        // On disk within a second: a restart without it would make the same group anew.
        self.unsaved.store(true, Ordering::Release);
        self.get(name)
    }

    /// Writes groups that came into being by themselves. By the background thread, and at the end.
    pub fn save_new(&self) {
        if self.unsaved.swap(false, Ordering::AcqRel) && self.save(&self.change.lock()).is_err() {
            self.unsaved.store(true, Ordering::Release); // the error was logged
        }
    }

    /// Creates or changes groups; on disk when it returns, or not done at all.
    pub fn put(&self, configs: Vec<GroupConfig>) -> Result<(), NotSaved> {
        let mut version = self.change.lock();
        let before = self.table.read().clone();
        for config in configs {
            self.table.write().insert(config.group_name.clone(), Arc::new(config));
        }
        version.advance(self.clock.now_ms());
        self.save(&version).inspect_err(|_| *self.table.write() = before)
    }

    /// Removes a group. False when there was none.
    pub fn remove(&self, name: &str) -> bool {
        let mut version = self.change.lock();
        let existed = self.table.write().remove(name).is_some();
        self.forbidden.write().remove(name);
        if existed {
            version.advance(self.clock.now_ms());
            let _ = self.save(&version); // an error was logged
        }
        existed
    }

    /// Whether reading a topic is forbidden to a group (bit 0 of its forbidden bits).
    pub fn is_read_forbidden(&self, group: &str, topic: &str) -> bool {
        let forbidden = self.forbidden.read();
        forbidden.get(group).and_then(|topics| topics.get(topic)).is_some_and(|bits| bits & 1 != 0)
    }

    /// Forbids or allows a group to read a topic; on disk when it returns. Where the original
    /// forgets all topics of the group when one is allowed, ours keeps the others.
    pub fn set_read_forbidden(
        &self,
        group: &str,
        topic: &str,
        forbid: bool,
    ) -> Result<(), NotSaved> {
        let mut version = self.change.lock();
        {
            let mut forbidden = self.forbidden.write();
            let topics = forbidden.entry(group.to_owned()).or_default();
            let bits = topics.entry(topic.to_owned()).or_insert(0);
            *bits = if forbid { *bits | 1 } else { *bits & !1 };
            topics.retain(|_, bits| *bits > 0);
            forbidden.retain(|_, topics| !topics.is_empty());
        }
        version.advance(self.clock.now_ms());
        self.save(&version)
    }

    /// Names of all groups, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The version of the table.
    pub fn version(&self) -> DataVersion {
        self.change.lock().clone()
    }

    /// The table as a body: everything, or `count` groups from position `from` in name order.
    pub fn body(&self, page: Option<(usize, usize)>) -> Value {
        let version = self.version();
        self.body_at(&version, page)
    }

    fn body_at(&self, version: &DataVersion, page: Option<(usize, usize)>) -> Value {
        let (from, count) = page.unwrap_or((0, usize::MAX));
        let table = self.table.read();
        let sorted: BTreeMap<&str, &Arc<GroupConfig>> =
            table.iter().map(|(name, config)| (name.as_str(), config)).collect();
        let groups = sorted.into_iter().skip(from).take(count);
        object([
            ("dataVersion", version.write()),
            ("forbiddenTable", self.forbidden.read().write()),
            ("subscriptionGroupTable", object(groups.map(|(name, config)| (name, config.write())))),
        ])
    }

    fn save(&self, version: &DataVersion) -> Result<(), NotSaved> {
        let text = self.body_at(version, None).to_file_text();
        store::config_file::save(&self.path, &text).map_err(|e| NotSaved::new(&self.path, &e))
    }
}

fn named(name: &str) -> GroupConfig {
    let broadcast =
        matches!(name, "CID_ONSAPI_PULL" | "CID_ONSAPI_PERMISSION" | "CID_ONSAPI_OWNER");
    GroupConfig {
        group_name: name.to_owned(),
        consume_broadcast_enable: broadcast || !name.starts_with("CID_ONS-"),
        ..GroupConfig::default()
    }
}
