//! Routes: topics, brokers, clusters, and who is alive. Java: `RouteInfoManager`.

use std::collections::{BTreeMap, BTreeSet};

use wire::body::{
    BrokerData, DataVersion, QueueData, TopicConfig, TopicConfigWrapper, TopicRouteData,
};
use wire::codes::perm;

/// A broker without a sign of life for this long is dropped, unless it asked for another time.
pub const BROKER_TIMEOUT_MS: i64 = 120_000;

/// How clients reach a broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Address {
    /// The same `host:port` for everybody.
    Fixed(String),
    /// A broker of this process: this port on the address where the asking client reached us.
    Local(u16),
}

impl Address {
    /// The text for a client that reached us on `local`.
    pub fn for_client(&self, local: std::net::IpAddr) -> String {
        match self {
            Address::Fixed(text) => text.clone(),
            Address::Local(port) => std::net::SocketAddr::new(local, *port).to_string(),
        }
    }
}

/// What a broker says of itself when it registers.
#[derive(Debug, Clone)]
pub struct Registration {
    /// Cluster.
    pub cluster: String,
    /// Broker name.
    pub broker: String,
    /// 0 is the master, -1 a candidate.
    pub id: i64,
    /// Address of clients.
    pub address: Address,
    /// Address of replication.
    pub ha_address: String,
    /// Its own timeout.
    pub timeout_ms: Option<i64>,
    /// `None` from brokers before 5.0.
    pub enable_acting_master: Option<bool>,
    /// Zone, if it has one.
    pub zone: Option<String>,
    /// Its topics; all of them at first, then all or the changed ones.
    pub topics: TopicConfigWrapper,
    /// Connection that it came on; 0 for a broker of this process.
    pub peer: u64,
}

/// Options that change routes. Java: `NamesrvConfig`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RouteOptions {
    /// `supportActingMaster`.
    pub support_acting_master: bool,
    /// `deleteTopicWithBrokerRegistration`.
    pub delete_topic_with_registration: bool,
    /// `notifyMinBrokerIdChanged`.
    pub notify_min_broker_id: bool,
}

#[derive(Debug, Clone, Default)]
struct Broker {
    cluster: String,
    addresses: BTreeMap<i64, Address>,
    zone: Option<String>,
    enable_acting_master: bool,
}

#[derive(Debug, Clone)]
struct Live {
    broker: String,
    id: i64,
    seen_ms: i64,
    timeout_ms: i64,
    version: DataVersion,
    ha_address: String,
    peer: u64,
}

/// The smallest id of a broker name has changed: its living members want to know (code 905).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MinIdChange {
    /// Connections to tell.
    pub peers: Vec<u64>,
    /// Broker name.
    pub broker: String,
    /// Smallest id now, with its address and replication address.
    pub min: Option<(i64, Address, String)>,
    /// Address of the member that went, if one went.
    pub offline: Option<Address>,
}

/// What a registration brought.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Registered {
    /// For slaves: the master's replication and client address.
    pub master: Option<(String, Address)>,
    /// Set when the smallest id changed and somebody wants to know.
    pub min_id: Option<MinIdChange>,
}

/// The state of a name server.
#[derive(Debug, Default)]
pub struct Routes {
    /// Options of this moment.
    pub options: RouteOptions,
    topics: BTreeMap<String, BTreeMap<String, QueueData>>,
    brokers: BTreeMap<String, Broker>,
    clusters: BTreeMap<String, BTreeSet<String>>,
    live: BTreeMap<(String, Address), Live>,
}

impl Routes {
    /// Registers a broker. `None`: refused, since a first registration must carry all topics.
    pub fn register(&mut self, r: &Registration, now_ms: i64) -> Option<Registered> {
        let known = self.brokers.get(&r.broker);
        let registered_at = known.and_then(|broker| broker.addresses.get(&r.id)).cloned();
        if let Some(address) = registered_at.as_ref().filter(|address| **address != r.address) {
            let key = (r.cluster.clone(), address.clone());
            let newer = self.live.get(&key).is_some_and(|live| {
                live.version.state_version > r.topics.data_version.state_version
            });
            if newer {
                tracing::warn!(
                    broker = r.broker,
                    id = r.id,
                    "registration of an older master is ignored"
                );
                return Some(Registered::default());
            }
            self.live.remove(&key);
        }
        // Nothing is changed by a refused registration, so that it leaves no empty ghost.
        if registered_at.is_none() && r.topics.topic_config_table.len() == 1 {
            return None;
        }
        self.remove_ghosts(r);
        let old_min = self.min_id(&r.broker);
        self.clusters.entry(r.cluster.clone()).or_default().insert(r.broker.clone());
        let broker = self.brokers.entry(r.broker.clone()).or_default();
        broker.cluster.clone_from(&r.cluster);
        broker.zone.clone_from(&r.zone);
        broker.enable_acting_master = r.enable_acting_master.unwrap_or(false);
        broker.addresses.insert(r.id, r.address.clone());
        self.take_topics(r, registered_at.is_none());
        let live = Live {
            broker: r.broker.clone(),
            id: r.id,
            seen_ms: now_ms,
            timeout_ms: r.timeout_ms.unwrap_or(BROKER_TIMEOUT_MS),
            version: r.topics.data_version.clone(),
            ha_address: r.ha_address.clone(),
            peer: r.peer,
        };
        let key = (r.cluster.clone(), r.address.clone());
        if self.live.insert(key, live).is_none() {
            tracing::info!(broker = r.broker, id = r.id, address = ?r.address, "broker registered");
        }
        let min_id = self.min_id_change(&r.broker, old_min, None);
        Some(Registered { master: self.master_of(r), min_id })
    }

    /// One address has one name and id: whoever had it before is gone.
    fn remove_ghosts(&mut self, r: &Registration) {
        let mut ghosts = Vec::new();
        for (name, broker) in &self.brokers {
            for (id, address) in &broker.addresses {
                if *address == r.address && (name != &r.broker || *id != r.id) {
                    ghosts.push((name.clone(), *id));
                }
            }
        }
        for (name, id) in ghosts {
            self.live.retain(|(_, address), live| {
                !(*address == r.address && live.broker == name && live.id == id)
            });
            self.remove_member(&name, id);
        }
    }

    fn take_topics(&mut self, r: &Registration, first: bool) {
        let broker = &self.brokers[&r.broker];
        let min = broker.addresses.keys().copied().filter(|id| *id >= 0).min();
        let is_master = r.id == 0;
        let is_prime_slave = r.enable_acting_master.is_some() && !is_master && min == Some(r.id);
        if !is_master && !is_prime_slave {
            return;
        }
        let read_only = is_prime_slave && broker.enable_acting_master;
        let changed = self.version_of(&r.cluster, &r.address) != Some(&r.topics.data_version);
        // A broker of this process tells only what has changed, and what it has deleted.
        let is_whole = r.peer != 0;
        if self.options.delete_topic_with_registration && changed && !first && is_whole {
            let listed = &r.topics.topic_config_table;
            for (topic, queues) in &mut self.topics {
                if !listed.contains_key(topic) {
                    queues.remove(&r.broker);
                }
            }
            self.topics.retain(|_, queues| !queues.is_empty());
        }
        for config in r.topics.topic_config_table.values() {
            let known = self.topics.get(&config.topic_name);
            let known = known.is_some_and(|queues| queues.contains_key(&r.broker));
            if first || changed || !known {
                let mut data = queue_data(&r.broker, config);
                if read_only {
                    data.perm &= !perm::WRITE;
                }
                let queues = self.topics.entry(config.topic_name.clone()).or_default();
                queues.insert(r.broker.clone(), data);
            }
        }
    }

    fn version_of(&self, cluster: &str, address: &Address) -> Option<&DataVersion> {
        self.live.get(&(cluster.to_owned(), address.clone())).map(|live| &live.version)
    }

    fn master_of(&self, r: &Registration) -> Option<(String, Address)> {
        if r.id == 0 {
            return None;
        }
        let master = self.brokers.get(&r.broker)?.addresses.get(&0)?.clone();
        let live = self.live.get(&(r.cluster.clone(), master.clone()))?;
        Some((live.ha_address.clone(), master))
    }

    /// A sign of life (904, 322).
    pub fn heartbeat(&mut self, cluster: &str, address: &str, now_ms: i64) {
        let key = (cluster.to_owned(), Address::Fixed(address.to_owned()));
        if let Some(live) = self.live.get_mut(&key) {
            live.seen_ms = now_ms;
        }
    }

    /// Whether a broker's topics differ from what is known, and the known version (322).
    pub fn query_version(
        &mut self,
        cluster: &str,
        address: &str,
        version: &DataVersion,
        now_ms: i64,
    ) -> (bool, Option<DataVersion>) {
        self.heartbeat(cluster, address, now_ms);
        let known = self.version_of(cluster, &Address::Fixed(address.to_owned())).cloned();
        (known.as_ref() != Some(version), known)
    }

    /// A broker leaves (104).
    pub fn unregister(
        &mut self,
        cluster: &str,
        name: &str,
        id: i64,
        address: &Address,
    ) -> Option<MinIdChange> {
        let old_min = self.min_id(name);
        self.live.remove(&(cluster.to_owned(), address.clone()));
        if self.brokers.get(name).and_then(|broker| broker.addresses.get(&id)) != Some(address) {
            return None;
        }
        tracing::info!(broker = name, id, "broker unregistered");
        self.remove_member(name, id);
        self.min_id_change(name, old_min, Some(address))
    }

    /// Brokers whose connection has ended.
    pub fn disconnected(&mut self, peer: u64) -> Vec<MinIdChange> {
        self.drop_where(|live| live.peer == peer, "connection ended")
    }

    /// Brokers that were silent for too long.
    pub fn expire(&mut self, now_ms: i64) -> Vec<MinIdChange> {
        self.drop_where(
            |live| live.peer != 0 && live.seen_ms + live.timeout_ms < now_ms,
            "silent for too long",
        )
    }

    fn drop_where(&mut self, gone: impl Fn(&Live) -> bool, why: &str) -> Vec<MinIdChange> {
        let keys: Vec<_> =
            self.live.iter().filter(|(_, live)| gone(live)).map(|(key, _)| key.clone()).collect();
        let mut changes = Vec::new();
        for (cluster, address) in keys {
            let Some(live) = self.live.get(&(cluster.clone(), address.clone())) else { continue };
            let (name, id) = (live.broker.clone(), live.id);
            tracing::warn!(broker = name, id, ?address, why, "broker dropped");
            changes.extend(self.unregister(&cluster, &name, id, &address));
        }
        changes
    }

    /// Takes one id out of a broker name, and the name when it was the last.
    fn remove_member(&mut self, name: &str, id: i64) {
        let Some(broker) = self.brokers.get_mut(name) else { return };
        broker.addresses.remove(&id);
        if broker.addresses.is_empty() {
            self.brokers.remove(name);
            for names in self.clusters.values_mut() {
                names.remove(name);
            }
            self.clusters.retain(|_, names| !names.is_empty());
            for queues in self.topics.values_mut() {
                queues.remove(name);
            }
            self.topics.retain(|_, queues| !queues.is_empty());
        } else if broker.enable_acting_master && !broker.addresses.contains_key(&0) {
            // No living master: its slaves can serve reads only, until it is back.
            for queues in self.topics.values_mut() {
                if let Some(data) = queues.get_mut(name) {
                    data.perm &= !perm::WRITE;
                }
            }
        }
    }

    fn min_id(&self, name: &str) -> Option<i64> {
        self.brokers.get(name)?.addresses.keys().copied().min()
    }

    fn min_id_change(
        &self,
        name: &str,
        old: Option<i64>,
        offline: Option<&Address>,
    ) -> Option<MinIdChange> {
        let new = self.min_id(name);
        if !self.options.notify_min_broker_id || old == new {
            return None;
        }
        let address = new.and_then(|id| self.brokers.get(name)?.addresses.get(&id).cloned());
        let members = self.live.iter().filter(|(_, live)| live.broker == name);
        let peers = members.clone().map(|(_, live)| live.peer).filter(|peer| *peer != 0).collect();
        let ha = members
            .clone()
            .find(|(_, live)| Some(live.id) == new)
            .map(|(_, l)| l.ha_address.clone());
        Some(MinIdChange {
            peers,
            broker: name.to_owned(),
            min: new.zip(address).map(|(id, address)| (id, address, ha.unwrap_or_default())),
            offline: offline.cloned(),
        })
    }

    /// The route of a topic for a client that reached us on `local`; `None` when nobody has it.
    pub fn route(
        &self,
        topic: &str,
        local: std::net::IpAddr,
        zone: Option<&str>,
    ) -> Option<TopicRouteData> {
        let queues = self.topics.get(topic)?;
        let mut route = TopicRouteData::default();
        for (name, data) in queues {
            let Some(broker) = self.brokers.get(name) else { continue };
            let mut shown = self.shown(name, broker, local);
            if zone.is_some_and(|zone| hidden(broker, zone)) {
                continue;
            }
            if self.options.support_acting_master && data.perm & perm::WRITE == 0 {
                present_acting_master(broker, &mut shown);
            }
            route.queue_datas.push(data.clone());
            route.broker_datas.push(shown);
        }
        (!route.broker_datas.is_empty()).then_some(route)
    }

    fn shown(&self, name: &str, broker: &Broker, local: std::net::IpAddr) -> BrokerData {
        let addresses = broker.addresses.iter();
        BrokerData {
            broker_addrs: addresses.map(|(id, address)| (*id, address.for_client(local))).collect(),
            broker_name: name.to_owned(),
            cluster: broker.cluster.clone(),
            enable_acting_master: broker.enable_acting_master,
            zone_name: broker.zone.clone(),
        }
    }

    /// Every broker as a client sees it, by name.
    pub fn all_brokers(&self, local: std::net::IpAddr) -> Vec<BrokerData> {
        self.brokers.iter().map(|(name, broker)| self.shown(name, broker, local)).collect()
    }

    /// Broker names by cluster.
    pub fn clusters(&self) -> &BTreeMap<String, BTreeSet<String>> {
        &self.clusters
    }

    /// All topics, or those of a cluster's brokers.
    pub fn topic_names(&self, cluster: Option<&str>) -> Vec<String> {
        let names = cluster.map(|cluster| self.clusters.get(cluster).cloned().unwrap_or_default());
        let wanted = |queues: &BTreeMap<String, QueueData>| {
            names.as_ref().is_none_or(|names| queues.keys().any(|name| names.contains(name)))
        };
        self.topics.iter().filter(|(_, queues)| wanted(queues)).map(|(t, _)| t.clone()).collect()
    }

    /// Topics by a test of their system flag; the first broker's counts, as in Java.
    pub fn topics_by_flag(&self, wanted: impl Fn(i32) -> bool) -> Vec<String> {
        let flag = |queues: &BTreeMap<String, QueueData>| {
            queues.values().next().is_some_and(|data| wanted(data.topic_sys_flag))
        };
        self.topics.iter().filter(|(_, queues)| flag(queues)).map(|(t, _)| t.clone()).collect()
    }

    /// Removes a topic, everywhere or from the brokers of a cluster (216).
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(cluster) = cluster else {
            self.topics.remove(topic);
            return;
        };
        let names = self.clusters.get(cluster).cloned().unwrap_or_default();
        if let Some(queues) = self.topics.get_mut(topic) {
            queues.retain(|name, _| !names.contains(name));
            if queues.is_empty() {
                self.topics.remove(topic);
            }
        }
    }

    /// Adds a topic by its queues (217); ignored when a named broker is unknown.
    pub fn add_topic(&mut self, topic: &str, queues: &[QueueData]) {
        if queues.is_empty() || !queues.iter().all(|q| self.brokers.contains_key(&q.broker_name)) {
            return;
        }
        let entry = self.topics.entry(topic.to_owned()).or_default();
        for data in queues {
            entry.entry(data.broker_name.clone()).or_insert_with(|| data.clone());
        }
    }

    /// Changes the permission of every topic of a broker; how many it has (205, 327).
    pub fn change_perm(&mut self, broker: &str, change: impl Fn(i32) -> i32) -> i32 {
        let mut count = 0;
        for data in self.topics.values_mut().filter_map(|queues| queues.get_mut(broker)) {
            data.perm = change(data.perm);
            count += 1;
        }
        count
    }

    /// The members of a broker name within a cluster (901).
    pub fn members(
        &self,
        cluster: &str,
        name: &str,
        local: std::net::IpAddr,
    ) -> BTreeMap<i64, String> {
        let broker = self.brokers.get(name).filter(|broker| broker.cluster == cluster);
        let addresses = broker.map(|broker| broker.addresses.iter());
        let addresses = addresses.into_iter().flatten();
        addresses.map(|(id, address)| (*id, address.for_client(local))).collect()
    }
}

fn queue_data(broker: &str, config: &TopicConfig) -> QueueData {
    QueueData {
        broker_name: broker.to_owned(),
        perm: config.perm,
        read_queue_nums: config.read_queue_nums,
        topic_sys_flag: config.topic_sys_flag,
        write_queue_nums: config.write_queue_nums,
    }
}

/// Whether a broker of another zone is kept from a client of `zone`. Java: `ZoneRouteRPCHook`.
fn hidden(broker: &Broker, zone: &str) -> bool {
    broker.zone.as_deref() != Some(zone) && broker.addresses.contains_key(&0)
}

fn present_acting_master(broker: &Broker, shown: &mut BrokerData) {
    if broker.enable_acting_master
        && !shown.broker_addrs.contains_key(&0)
        && let Some(min) = shown.broker_addrs.keys().copied().find(|id| *id > 0)
        && let Some(address) = shown.broker_addrs.remove(&min)
    {
        shown.broker_addrs.insert(0, address);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn registration(broker: &str, id: i64, address: &str, topics: &[&str]) -> Registration {
        let config = |name: &&str| {
            let config = TopicConfig { topic_name: (*name).to_owned(), ..TopicConfig::default() };
            ((*name).to_owned(), config)
        };
        Registration {
            cluster: "c".into(),
            broker: broker.into(),
            id,
            address: Address::Fixed(address.into()),
            ha_address: format!("{address}-ha"),
            timeout_ms: None,
            enable_acting_master: Some(false),
            zone: None,
            topics: TopicConfigWrapper {
                topic_config_table: topics.iter().map(config).collect(),
                ..TopicConfigWrapper::default()
            },
            peer: 7,
        }
    }

    fn perm_of(routes: &Routes, topic: &str) -> i32 {
        routes.route(topic, LOCAL, None).expect("route").queue_datas[0].perm
    }

    #[test]
    fn b17_one_address_has_one_name_and_id() {
        let mut routes = Routes::default();
        assert!(routes.register(&registration("b", 0, "h:1", &["t"]), 0).is_none(), "one topic");
        assert!(routes.all_brokers(LOCAL).is_empty(), "no ghost of a refused registration");
        for name in ["b 1", "b%2", "b中"] {
            routes
                .register(&registration(name, 0, "my_host.local:1", &["t", "u"]), 0)
                .expect("taken");
            let brokers = routes.all_brokers(LOCAL);
            assert_eq!((brokers.len(), brokers[0].broker_name.as_str()), (1, name));
            assert_eq!(routes.route("t", LOCAL, None).expect("route").broker_datas.len(), 1);
        }
        routes
            .register(&registration("b中", i64::MAX, "my_host.local:1", &["t", "u"]), 0)
            .expect("moved");
        let brokers = routes.all_brokers(LOCAL);
        assert_eq!(brokers[0].broker_addrs.keys().collect::<Vec<_>>(), [&i64::MAX]);
        let mut other = registration("b中", 0, "[fd00::1]:1", &["t", "u"]);
        other.cluster = "d".into();
        routes.register(&other, 0).expect("taken");
        assert_eq!(routes.clusters().len(), 2, "both clusters keep the name");
    }

    #[test]
    fn b48_perm_is_read_only_just_while_an_acting_master_serves() {
        let mut routes = Routes::default();
        routes.register(&registration("b", -1, "h:9", &["t", "u"]), 0).expect("candidate");
        routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("master");
        assert_eq!(perm_of(&routes, "t"), 6);
        routes.register(&registration("b", 1, "h:2", &["t", "u"]), 0).expect("slave");
        routes.unregister("c", "b", 0, &Address::Fixed("h:1".into()));
        assert_eq!(perm_of(&routes, "t"), 6, "no acting master was asked for");
        let acting = |id, address| {
            let mut r = registration("b", id, address, &["t", "u"]);
            r.enable_acting_master = Some(true);
            r
        };
        routes.options.support_acting_master = true;
        routes.register(&acting(0, "h:1"), 0).expect("master");
        routes.register(&acting(1, "h:2"), 0).expect("slave");
        routes.unregister("c", "b", -1, &Address::Fixed("h:9".into()));
        routes.unregister("c", "b", 0, &Address::Fixed("h:1".into()));
        assert_eq!(perm_of(&routes, "t"), 4);
        let route = routes.route("t", LOCAL, None).expect("route");
        assert_eq!(route.broker_datas[0].broker_addrs.get(&0).map(String::as_str), Some("h:2"));
        routes.register(&acting(0, "h:1"), 0).expect("master is back");
        assert_eq!(perm_of(&routes, "t"), 6);
    }

    #[test]
    fn silence_and_disconnects_drop_a_broker() {
        let mut routes = Routes::default();
        routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("taken");
        routes.heartbeat("c", "h:1", 1000);
        routes.expire(1000 + BROKER_TIMEOUT_MS);
        assert!(routes.route("t", LOCAL, None).is_some());
        routes.expire(1001 + BROKER_TIMEOUT_MS);
        assert!(routes.route("t", LOCAL, None).is_none() && routes.clusters().is_empty());
        routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("taken");
        routes.disconnected(8);
        assert_eq!(routes.topic_names(None), ["t", "u"]);
        routes.disconnected(7);
        assert!(routes.topic_names(None).is_empty());
    }

    #[test]
    fn later_registrations_add_and_change_topics() {
        let mut routes = Routes::default();
        routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("taken");
        assert_eq!(routes.change_perm("b", |perm| perm & !2), 2);
        routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("same version");
        assert_eq!(perm_of(&routes, "t"), 4, "the same version changes nothing");
        let mut newer = registration("b", 0, "h:1", &["v"]);
        newer.topics.data_version.counter = 1;
        routes.register(&newer, 0).expect("one topic is fine later");
        assert_eq!(routes.topic_names(None), ["t", "u", "v"]);
        routes.options.delete_topic_with_registration = true;
        newer.topics.data_version.counter = 2;
        routes.register(&newer, 0).expect("taken");
        assert_eq!(routes.topic_names(Some("c")), ["v"]);
        let mut part = Registration { peer: 0, ..registration("b", 0, "h:1", &["w"]) };
        part.topics.data_version.counter = 3;
        routes.register(&part, 0).expect("taken");
        assert_eq!(routes.topic_names(Some("c")), ["v", "w"], "a part from this process");
        routes.delete_topic("w", None);
        routes.delete_topic("v", Some("elsewhere"));
        assert_eq!(routes.topic_names(None), ["v"]);
        routes.delete_topic("v", None);
        assert!(routes.topic_names(None).is_empty());
    }

    #[test]
    fn the_smallest_id_is_told_when_asked_for() {
        let mut routes = Routes::default();
        routes.options.notify_min_broker_id = true;
        routes.register(&registration("b", 1, "h:2", &["t", "u"]), 0).expect("slave");
        let change = routes.register(&registration("b", 0, "h:1", &["t", "u"]), 0).expect("master");
        let change = change.min_id.expect("changed");
        assert_eq!((change.min.map(|(id, ..)| id), change.peers.len()), (Some(0), 2));
        let change =
            routes.unregister("c", "b", 0, &Address::Fixed("h:1".into())).expect("changed");
        assert_eq!(change.min.expect("slave").0, 1);
        let local = Address::Local(10911).for_client("10.1.2.3".parse().expect("ip"));
        assert_eq!(local, "10.1.2.3:10911");
    }
}
