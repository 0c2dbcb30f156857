//! Who is connected: producers and consumers as their heartbeats tell, by group.
//!
//! One lock over everything; it is held for map operations only. Notifications are returned to
//! the caller, never sent under the lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use filter::{Filter, SqlError, SqlFilter, TagFilter};
use net::Peer;
use parking_lot::Mutex;
use wire::body::{Connection, SubscriptionData};
use wire::codes::LANGUAGES;

/// One subscription of a group, ready to filter.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// As the client sent it.
    pub data: SubscriptionData,
    /// Which messages it wants; an SQL expression may be refused.
    pub filter: Result<Arc<Filter>, SqlError>,
}

impl Subscription {
    /// Parses what a client sent; odd expressions count as everything, as the client filters too.
    pub fn new(mut data: SubscriptionData) -> Subscription {
        if !filter::is_tag_type(&data.expression_type) {
            let filter = SqlFilter::parse(&data.sub_string).map(|sql| Arc::new(Filter::Sql(sql)));
            return Subscription { data, filter };
        }
        let tags = TagFilter::parse(&data.sub_string).unwrap_or_default();
        data.tags_set.clone_from(&tags.tags);
        data.code_set = tags.codes().iter().map(|code| i64::from(*code)).collect();
        Subscription { data, filter: Ok(Arc::new(Filter::Tag(tags))) }
    }
}

/// One connection of a group.
#[derive(Debug, Clone)]
pub struct ClientMember {
    /// The connection.
    pub peer: Arc<Peer>,
    /// Id that the client gave itself; two connections may have the same.
    pub client_id: String,
    /// Index into [`LANGUAGES`].
    pub language: u8,
    /// Version ordinal.
    pub version: i32,
    /// Time of the last heartbeat.
    pub seen_ms: i64,
}

impl ClientMember {
    /// As answers of 203 and 204 show it.
    pub fn connection(&self) -> Connection {
        Connection {
            client_addr: self.peer.remote.to_string(),
            client_id: self.client_id.clone(),
            language: LANGUAGES.get(usize::from(self.language)).unwrap_or(&"OTHER").to_string(),
            version: self.version,
        }
    }
}

/// How a consumer group consumes, as its last heartbeat said.
#[derive(Debug, Clone, Default)]
pub struct ConsumerGroup {
    /// Connections by their number.
    pub members: BTreeMap<u64, ClientMember>,
    /// Subscriptions by topic.
    pub subscriptions: BTreeMap<String, Arc<Subscription>>,
    /// Java's names, or nothing when the client sent none that is known.
    pub consume_type: Option<&'static str>,
    /// Java's name of the message model.
    pub message_model: Option<&'static str>,
    /// Java's name of the start position.
    pub consume_from_where: Option<&'static str>,
    fingerprint: i64,
}

impl ConsumerGroup {
    /// Whether every member gets every message.
    pub fn is_broadcasting(&self) -> bool {
        self.message_model == Some("BROADCASTING")
    }
}

/// What one heartbeat says of one consumer group.
pub struct ConsumerBeat {
    /// Group name.
    pub group: String,
    /// Subscriptions; `None` when the heartbeat leaves them out on purpose (V2).
    pub subscriptions: Option<Vec<SubscriptionData>>,
    /// Java's names of the three enums.
    pub consume_type: Option<&'static str>,
    /// See [`ConsumerGroup`].
    pub message_model: Option<&'static str>,
    /// See [`ConsumerGroup`].
    pub consume_from_where: Option<&'static str>,
    /// Hash of the whole heartbeat, 0 from clients that do not send one.
    pub fingerprint: i64,
}

/// What registering a consumer changed.
#[derive(Default)]
pub struct Changed {
    /// Connections to tell that the group changed.
    pub notify: Vec<Arc<Peer>>,
    /// The heartbeat's hash differs from the group's last one.
    pub fingerprint_differs: bool,
    /// Another connection of the group has the same client id.
    pub double_id: bool,
}

#[derive(Default)]
struct Tables {
    producers: HashMap<String, BTreeMap<u64, ClientMember>>,
    consumers: HashMap<String, ConsumerGroup>,
    /// The newest connection of each producing client, by its id.
    producer_ids: HashMap<String, Arc<Peer>>,
    /// Groups by connection, so that a close looks at its own only.
    by_peer: HashMap<u64, Groups>,
}

#[derive(Default)]
struct Groups {
    producers: Vec<String>,
    consumers: Vec<String>,
}

/// All registrations.
#[derive(Default)]
pub struct Clients(Mutex<Tables>);

impl Clients {
    /// Registers a connection as producer of a group.
    pub fn beat_producer(&self, group: &str, member: ClientMember) {
        let tables = &mut *self.0.lock();
        let id = member.peer.id();
        match tables.producer_ids.get(&member.client_id) {
            Some(known) if known.id() == id => {}
            _ => {
                let peer = Arc::clone(&member.peer);
                tables.producer_ids.insert(member.client_id.clone(), peer);
            }
        }
        if tables.producers.entry(group.to_owned()).or_default().insert(id, member).is_none() {
            tables.by_peer.entry(id).or_default().producers.push(group.to_owned());
        }
    }

    /// Registers a connection as consumer of a group.
    pub fn beat_consumer(&self, beat: ConsumerBeat, member: ClientMember) -> Changed {
        let tables = &mut *self.0.lock();
        let id = member.peer.id();
        let group = tables.consumers.entry(beat.group.clone()).or_default();
        let double_id = group
            .members
            .iter()
            .any(|(other, known)| *other != id && known.client_id == member.client_id);
        let mut changed = group.members.insert(id, member).is_none();
        if changed {
            tables.by_peer.entry(id).or_default().consumers.push(beat.group);
        }
        let fingerprint_differs = group.fingerprint != 0 && group.fingerprint != beat.fingerprint;
        group.fingerprint = beat.fingerprint;
        group.consume_type = beat.consume_type;
        group.message_model = beat.message_model;
        group.consume_from_where = beat.consume_from_where;
        if let Some(subscriptions) = beat.subscriptions {
            changed |= group.subscribe(subscriptions);
        }
        let tell = changed && !group.is_broadcasting();
        let notify = if tell { group.peers() } else { Vec::new() };
        Changed { notify, fingerprint_differs, double_id }
    }

    /// Forgets a connection in the named groups. Returns the connections to tell.
    pub fn unregister(
        &self,
        peer: &Peer,
        producer: Option<&str>,
        consumer: Option<&str>,
    ) -> Vec<Arc<Peer>> {
        let tables = &mut *self.0.lock();
        if let Some(group) = producer {
            tables.remove_producer(group, peer.id());
        }
        consumer.map_or_else(Vec::new, |group| tables.remove_consumer(group, peer.id()))
    }

    /// Forgets a closed connection. Returns for each group the connections to tell.
    pub fn closed(&self, peer: &Peer) -> Vec<(String, Vec<Arc<Peer>>)> {
        let tables = &mut *self.0.lock();
        let Some(groups) = tables.by_peer.remove(&peer.id()) else { return Vec::new() };
        for group in &groups.producers {
            tables.remove_producer(group, peer.id());
        }
        let each = groups.consumers.into_iter();
        each.map(|group| {
            let told = tables.remove_consumer(&group, peer.id());
            (group, told)
        })
        .collect()
    }

    /// Connections without a heartbeat since `before_ms`; they are to be closed.
    pub fn silent(&self, before_ms: i64) -> Vec<Arc<Peer>> {
        let tables = self.0.lock();
        let consumers = tables.consumers.values().flat_map(|group| group.members.values());
        let members = consumers.chain(tables.producers.values().flat_map(BTreeMap::values));
        members.filter(|m| m.seen_ms < before_ms).map(|m| Arc::clone(&m.peer)).collect()
    }

    /// The subscription of a group to a topic. Outer `None`: the group is unknown.
    pub fn subscription(
        &self,
        group: &str,
        topic: &str,
    ) -> Option<(Option<Arc<Subscription>>, bool)> {
        let tables = self.0.lock();
        let group = tables.consumers.get(group)?;
        Some((group.subscriptions.get(topic).cloned(), group.is_broadcasting()))
    }

    /// A copy of a consumer group.
    pub fn consumer_group(&self, group: &str) -> Option<ConsumerGroup> {
        self.0.lock().consumers.get(group).cloned()
    }

    /// Client ids of a group, one for each connection.
    pub fn consumer_ids(&self, group: &str) -> Vec<String> {
        let tables = self.0.lock();
        let members = tables.consumers.get(group).map(|group| group.members.values());
        members.into_iter().flatten().map(|member| member.client_id.clone()).collect()
    }

    /// Producers of a group; `None` when it has none.
    pub fn producer_group(&self, group: &str) -> Option<Vec<ClientMember>> {
        self.0.lock().producers.get(group).map(|members| members.values().cloned().collect())
    }

    /// The connection of a producing client.
    pub fn producer_of(&self, client_id: &str) -> Option<Arc<Peer>> {
        self.0.lock().producer_ids.get(client_id).cloned()
    }

    /// The connection of one of the producers of a group, chosen by `seed`.
    pub fn one_producer(&self, group: &str, seed: i64) -> Option<Arc<Peer>> {
        let tables = self.0.lock();
        let members = tables.producers.get(group)?;
        let chosen = seed.unsigned_abs() % members.len().max(1) as u64;
        members.values().nth(chosen as usize).map(|member| Arc::clone(&member.peer))
    }

    /// All producer groups with their members, sorted by group.
    pub fn producers(&self) -> BTreeMap<String, Vec<ClientMember>> {
        let tables = self.0.lock();
        let groups = tables.producers.iter();
        groups
            .map(|(group, members)| (group.clone(), members.values().cloned().collect()))
            .collect()
    }

    /// Consumer groups with connections, sorted.
    pub fn consumer_groups(&self) -> Vec<String> {
        let mut groups: Vec<String> = self.0.lock().consumers.keys().cloned().collect();
        groups.sort_unstable();
        groups
    }

    /// Consumer groups that are subscribed to a topic now, sorted.
    pub fn subscribers(&self, topic: &str) -> Vec<String> {
        let tables = self.0.lock();
        let groups = tables.consumers.iter();
        let groups = groups.filter(|(_, group)| group.subscriptions.contains_key(topic));
        let mut groups: Vec<String> = groups.map(|(name, _)| name.clone()).collect();
        groups.sort_unstable();
        groups
    }

    /// The connection of a client of a consumer group.
    pub fn find_consumer(&self, group: &str, client_id: &str) -> Option<ClientMember> {
        let tables = self.0.lock();
        let members = tables.consumers.get(group)?.members.values();
        members.into_iter().find(|member| member.client_id == client_id).cloned()
    }
}

impl ConsumerGroup {
    /// Takes over the subscriptions of a heartbeat; true when a topic came or went.
    fn subscribe(&mut self, subscriptions: Vec<SubscriptionData>) -> bool {
        let mut changed = false;
        let before = self.subscriptions.len();
        let topics: Vec<&str> = subscriptions.iter().map(|s| s.topic.as_str()).collect();
        self.subscriptions.retain(|topic, _| topics.contains(&topic.as_str()));
        changed |= self.subscriptions.len() != before;
        for data in subscriptions {
            let newer = match self.subscriptions.get(&data.topic) {
                Some(known) => data.sub_version > known.data.sub_version,
                None => {
                    changed = true;
                    true
                }
            };
            if newer {
                self.subscriptions.insert(data.topic.clone(), Arc::new(Subscription::new(data)));
            }
        }
        changed
    }

    fn peers(&self) -> Vec<Arc<Peer>> {
        self.members.values().map(|member| Arc::clone(&member.peer)).collect()
    }
}

impl Tables {
    fn remove_producer(&mut self, group: &str, id: u64) {
        if let Some(members) = self.producers.get_mut(group) {
            if let Some(member) = members.remove(&id)
                && self.producer_ids.get(&member.client_id).is_some_and(|peer| peer.id() == id)
            {
                self.producer_ids.remove(&member.client_id);
            }
            if members.is_empty() {
                self.producers.remove(group);
            }
        }
        if let Some(groups) = self.by_peer.get_mut(&id) {
            groups.producers.retain(|known| known != group);
        }
    }

    fn remove_consumer(&mut self, name: &str, id: u64) -> Vec<Arc<Peer>> {
        if let Some(groups) = self.by_peer.get_mut(&id) {
            groups.consumers.retain(|known| known != name);
        }
        let Some(group) = self.consumers.get_mut(name) else { return Vec::new() };
        if group.members.remove(&id).is_none() {
            return Vec::new();
        }
        let notify = if group.is_broadcasting() { Vec::new() } else { group.peers() };
        if group.members.is_empty() {
            self.consumers.remove(name);
        }
        notify
    }
}
