//! Consumer groups: their configuration, its file, and the journal of changes that the file does
//! not have yet.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use base::clock::Clock;
use parking_lot::{Mutex, RwLock};
use store::config_file::LoadError;
use store::config_journal::{ConfigJournal, Opened};
use store::disk::Disk;
use wire::body::{DataVersion, GroupConfig, Member};
use wire::json::{Value, object};
use wire::text::check_group;

use crate::saved::{self, NotSaved};

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

/// Bits by topic that a group must not do, by group.
type Forbidden = BTreeMap<String, BTreeMap<String, i32>>;

/// All consumer groups of a broker. A change is on disk before anybody sees it.
pub struct Groups {
    table: RwLock<HashMap<String, Arc<GroupConfig>>>,
    forbidden: RwLock<Forbidden>,
    change: Mutex<Change>,
    journal: ConfigJournal,
    clock: Clock,
}

#[derive(Default)]
struct Change {
    version: DataVersion,
    /// Groups that were made and are not on disk yet.
    unsaved: Vec<String>,
}

impl Groups {
    /// Reads `subscriptionGroup.json` or its backup, and the changes since.
    pub fn load(disk: &Disk, path: &Path, clock: Clock) -> Result<Groups, LoadError> {
        let Opened { file, changes, journal } = ConfigJournal::open(disk, path, Value::parse)?;
        let mut configs = BTreeMap::<String, GroupConfig>::new();
        let mut forbidden = Forbidden::new();
        let mut version = DataVersion::default();
        for part in file.into_iter().chain(saved::changes(&journal, &changes)) {
            let read = |name: &str| part.get(name).and_then(BTreeMap::read);
            configs.extend(read("subscriptionGroupTable").unwrap_or_default());
            version = part.get("dataVersion").and_then(DataVersion::read).unwrap_or(version);
            let bits: Option<Forbidden> = part.get("forbiddenTable").and_then(Member::read);
            forbidden.extend(bits.unwrap_or_default());
            for name in saved::removed(&part) {
                configs.remove(&name);
                forbidden.remove(&name);
            }
        }
        forbidden.retain(|_, topics| !topics.is_empty());
        let mut table = HashMap::new();
        for name in PREDEFINED {
            table.insert(name.to_owned(), Arc::new(named(name)));
        }
        for (name, mut config) in configs {
            config.group_name.clone_from(&name);
            table.insert(name, Arc::new(config));
        }
        let change = Mutex::new(Change { version, unsaved: Vec::new() });
        let (table, forbidden) = (RwLock::new(table), RwLock::new(forbidden));
        Ok(Groups { table, forbidden, change, journal, clock })
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
        let mut change = self.change.lock();
        let mut table = self.table.write();
        table.entry(name.to_owned()).or_insert_with(|| {
            change.version.advance(self.clock.now_ms());
            // On disk within a second: a restart without it would make the same group anew.
            change.unsaved.push(name.to_owned());
            Arc::new(named(name))
        });
        table.get(name).cloned()
    }

    /// Brings groups that came into being by themselves to the disk. By the background thread, and
    /// at the end.
    pub fn save_new(&self) {
        let mut change = self.change.lock();
        if change.unsaved.is_empty() {
            return;
        }
        let unsaved: Vec<_> = change.unsaved.iter().filter_map(|name| self.get(name)).collect();
        if self.append(&change.version, &unsaved).is_ok() {
            change.unsaved.clear(); // else it is tried again; the error was logged
        }
    }

    /// Creates or changes groups; on disk when it returns, or not done at all.
    pub fn put(&self, configs: Vec<GroupConfig>) -> Result<(), NotSaved> {
        let mut change = self.change.lock();
        let configs: Vec<_> = configs.into_iter().map(Arc::new).collect();
        change.version.advance(self.clock.now_ms());
        self.append(&change.version, &configs)?;
        let named = configs.into_iter().map(|config| (config.group_name.clone(), config));
        self.table.write().extend(named);
        Ok(())
    }

    fn append(&self, version: &DataVersion, configs: &[Arc<GroupConfig>]) -> Result<(), NotSaved> {
        let groups = configs.iter().map(|config| (config.group_name.as_str(), config.write()));
        let change =
            object([("dataVersion", version.write()), ("subscriptionGroupTable", object(groups))]);
        saved::append(&self.journal, &change, self.clock.now_ms())
    }

    /// Removes a group. False when there was none.
    pub fn remove(&self, name: &str) -> bool {
        let mut change = self.change.lock();
        let existed = self.table.write().remove(name).is_some();
        let was_forbidden = self.forbidden.write().remove(name).is_some();
        if existed || was_forbidden {
            change.version.advance(self.clock.now_ms());
            let removal = saved::removal(&change.version, name);
            let _ = saved::append(&self.journal, &removal, self.clock.now_ms()); // was logged
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
        let mut change = self.change.lock();
        let mut topics = self.forbidden.read().get(group).cloned().unwrap_or_default();
        let bits = topics.entry(topic.to_owned()).or_insert(0);
        *bits = if forbid { *bits | 1 } else { *bits & !1 };
        topics.retain(|_, bits| *bits > 0);
        change.version.advance(self.clock.now_ms());
        let record = object([
            ("dataVersion", change.version.write()),
            ("forbiddenTable", object([(group, topics.write())])),
        ]);
        saved::append(&self.journal, &record, self.clock.now_ms())?;
        if topics.is_empty() {
            self.forbidden.write().remove(group);
        } else {
            self.forbidden.write().insert(group.to_owned(), topics);
        }
        Ok(())
    }

    /// Names of all groups, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.table.read().keys().cloned().collect();
        names.sort_unstable();
        names
    }

    /// The version of the table.
    pub fn version(&self) -> DataVersion {
        self.change.lock().version.clone()
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

    /// Brings `subscriptionGroup.json` up to date when changes have waited for it long enough. By
    /// the background thread.
    pub fn export(&self) {
        if self.journal.wants_export(self.clock.now_ms()) {
            self.export_now();
        }
    }

    /// Saves everything and brings the file up to date, after which nothing but it is needed. At
    /// the end, when nothing changes any more.
    pub fn close(&self) {
        self.save_new();
        if self.journal.has_changes() {
            self.export_now();
        }
        saved::remove(&self.journal);
    }

    fn export_now(&self) {
        let begun = {
            let change = self.change.lock();
            self.journal.begin_export().map(|export| (export, self.body_at(&change.version, None)))
        };
        if let Some((export, file)) = begun {
            saved::export(&self.journal, export, &file, self.clock.now_ms());
        }
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
