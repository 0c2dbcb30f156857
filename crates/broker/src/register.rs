//! Tells the name servers what this broker has: at start, every 30 s, and at every change.
//!
//! Each remote name server has a thread and a connection of its own, so that a dead one does not
//! slow the others. The connection stays open: a name server drops a broker whose connection ends.
//! The name server of the same process is told directly.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use net::client::{CallError, Client};
use parking_lot::{Condvar, Mutex};
use wire::body::{Member, RegisterBrokerBody, TopicConfigWrapper, TopicRouteData};
use wire::codes::{perm, request as code, response};
use wire::json::Value;
use wire::requests::{BrokerHeader, RegisterBroker, TopicHeader};
use wire::text::crc31;

use crate::config::BrokerConfig;
use crate::state::Broker;

/// How long a name server may take. Java allows 24 s; a dead one costs its own thread only.
const TIMEOUT: Duration = Duration::from_secs(3);
/// First pause after a failure; doubled up to the registration period.
const RETRY: Duration = Duration::from_millis(500);

/// The name server of the same process.
pub trait LocalNamesrv: Send + Sync {
    /// Registers the broker with all its topics, as code 103 does; later also with those that have
    /// changed.
    fn register(&self, identity: &Identity, topics: TopicConfigWrapper);
    /// Takes the broker out again, as code 104 does.
    fn unregister(&self, identity: &Identity);
    /// Removes a topic that its operator deleted here.
    fn delete_topic(&self, topic: &str);
    /// The route of a topic, as code 105 answers it.
    fn route(&self, topic: &str) -> Option<TopicRouteData>;
}

/// Who a broker is to name servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Cluster.
    pub cluster: String,
    /// Broker name.
    pub name: String,
    /// 0 is the master.
    pub id: i64,
    /// `ip:port` from `brokerIP1`; `None` lets each client have the address it reached us on.
    pub fixed_address: Option<String>,
    /// `ip:port` for name servers of other processes.
    pub address: String,
    /// Address of the replication port.
    pub ha_address: String,
    /// Port of clients.
    pub port: u16,
    /// Permission of the broker, which limits that of every topic.
    pub perm: i32,
}

impl Identity {
    fn of(broker: &Broker) -> Identity {
        let config: &BrokerConfig = &broker.config();
        let address = broker.own_host();
        let ha = std::net::SocketAddr::new(address.ip(), config.ha_listen_port);
        Identity {
            cluster: config.broker_cluster_name.clone(),
            name: config.broker_name.clone(),
            id: config.broker_id,
            fixed_address: broker.fixed_ip().map(|_| address.to_string()),
            address: address.to_string(),
            ha_address: ha.to_string(),
            port: broker.port,
            perm: config.broker_permission,
        }
    }
}

#[derive(Default)]
struct Signal {
    round: Mutex<u64>,
    changed: Condvar,
}

struct Remote {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

/// All name servers that are told.
#[derive(Default)]
pub struct Registrar {
    local: Option<Arc<dyn LocalNamesrv>>,
    broker: Mutex<std::sync::Weak<Broker>>,
    remotes: Mutex<HashMap<String, Remote>>,
    signal: Arc<Signal>,
}

impl Registrar {
    /// A registrar that also tells a name server of this process.
    pub fn new(local: Option<Arc<dyn LocalNamesrv>>) -> Registrar {
        Registrar { local, ..Registrar::default() }
    }

    /// Asks the name servers, one after the other, for the route of a topic. May wait for them.
    pub fn route(&self, topic: &str) -> Option<TopicRouteData> {
        if let Some(route) = self.local.as_ref().and_then(|local| local.route(topic)) {
            return Some(route);
        }
        let addresses: Vec<String> = self.remotes.lock().keys().cloned().collect();
        addresses.iter().find_map(|address| route_from(address, topic))
    }

    /// Starts to register `broker` with these name servers.
    pub fn start(&self, broker: &Arc<Broker>, addresses: &[String]) {
        *self.broker.lock() = Arc::downgrade(broker);
        self.tell_local();
        self.set_addresses(addresses);
    }

    /// Changes the list of name servers; those that stay keep their registration.
    pub fn set_addresses(&self, addresses: &[String]) {
        let Some(broker) = self.broker.lock().upgrade() else { return };
        let mut remotes = self.remotes.lock();
        remotes.retain(|address, remote| {
            let keep = addresses.contains(address);
            if !keep {
                remote.stop.store(true, Ordering::Release);
            }
            keep
        });
        for address in addresses {
            if remotes.contains_key(address) {
                continue;
            }
            let stop = Arc::new(AtomicBool::new(false));
            let task = Task {
                address: address.clone(),
                broker: Arc::downgrade(&broker),
                signal: Arc::clone(&self.signal),
                stop: Arc::clone(&stop),
            };
            let name = format!("register-{address}");
            match std::thread::Builder::new().name(name).spawn(move || task.run()) {
                Ok(thread) => drop(remotes.insert(address.clone(), Remote { stop, thread })),
                Err(error) => {
                    tracing::error!(%error, address, "cannot register with a name server")
                }
            }
        }
        drop(remotes);
        self.wake();
    }

    /// Tells everybody that these topics were made or changed: the name server of this process
    /// gets no others, so that one of many topics does not cost what all of them do.
    pub fn topics_put(&self, names: &[&str]) {
        if let (Some(local), Some(broker)) = (&self.local, self.broker.lock().upgrade()) {
            let identity = Identity::of(&broker);
            let part = limited(broker.topics.part(names), &identity);
            local.register(&identity, part);
        }
        self.wake();
    }

    /// Tells everybody that topics have changed.
    pub fn topics_changed(&self) {
        self.tell_local();
        self.wake();
    }

    /// Tells the name server of this process that a topic is gone; remote ones learn it from the
    /// operator's tool, as with the original.
    pub fn topic_deleted(&self, topic: &str) {
        if let Some(local) = &self.local {
            local.delete_topic(topic);
        }
        self.topics_changed();
    }

    /// Takes the broker out everywhere and ends the threads.
    pub fn unregister(&self) {
        let remotes: Vec<Remote> = self.remotes.lock().drain().map(|(_, remote)| remote).collect();
        remotes.iter().for_each(|remote| remote.stop.store(true, Ordering::Release));
        self.wake();
        if let (Some(local), Some(broker)) = (&self.local, self.broker.lock().upgrade()) {
            local.unregister(&Identity::of(&broker));
        }
        for remote in remotes {
            let _ = remote.thread.join(); // a panic there was logged by its hook
        }
    }

    /// Registers again with the name server of this process; every period, as with remote ones.
    pub fn tell_local(&self) {
        if let (Some(local), Some(broker)) = (&self.local, self.broker.lock().upgrade()) {
            let identity = Identity::of(&broker);
            let topics = topics_of(&broker, &identity);
            local.register(&identity, topics);
        }
    }

    fn wake(&self) {
        *self.signal.round.lock() += 1;
        self.signal.changed.notify_all();
    }
}

/// The topics of a broker with the broker's own permission applied.
fn topics_of(broker: &Broker, identity: &Identity) -> TopicConfigWrapper {
    limited(broker.topics.wrapper(), identity)
}

fn limited(mut wrapper: TopicConfigWrapper, identity: &Identity) -> TopicConfigWrapper {
    for topic in wrapper.topic_config_table.values_mut() {
        // The inherit bit is no permission of a broker: it only marks the template.
        topic.perm &= identity.perm | perm::INHERIT;
    }
    wrapper
}

/// The registration with one remote name server.
struct Task {
    address: String,
    broker: std::sync::Weak<Broker>,
    signal: Arc<Signal>,
    stop: Arc<AtomicBool>,
}

impl Task {
    fn run(&self) {
        let mut client = None;
        let mut failures = 0_u32;
        while !self.stop.load(Ordering::Acquire) {
            let round = *self.signal.round.lock();
            let Some(broker) = self.broker.upgrade() else { return };
            let period = broker.config().register_name_server_period.clamp(10_000, 60_000) as u64;
            let identity = Identity::of(&broker);
            let done = self.register(&mut client, &broker, &identity);
            drop(broker);
            let pause = match done {
                Ok(()) => {
                    if failures > 0 {
                        tracing::info!(namesrv = self.address, "registered again");
                    }
                    failures = 0;
                    Duration::from_millis(period)
                }
                Err(error) => {
                    if failures == 0 {
                        let namesrv = self.address.as_str();
                        tracing::warn!(namesrv, %error, "cannot register; trying on");
                    }
                    client = None;
                    failures += 1;
                    (RETRY * 2_u32.saturating_pow(failures.min(6)))
                        .min(Duration::from_millis(period))
                }
            };
            let mut now = self.signal.round.lock();
            if *now == round {
                self.signal.changed.wait_for(&mut now, pause);
            }
        }
        self.unregister(client);
    }

    fn register(
        &self,
        client: &mut Option<Client>,
        broker: &Broker,
        identity: &Identity,
    ) -> Result<(), RegisterError> {
        let connection = match client {
            Some(client) => client,
            None => client.insert(Client::connect(&self.address, TIMEOUT).map_err(CallError::Io)?),
        };
        let body = RegisterBrokerBody {
            topics: topics_of(broker, identity),
            ..RegisterBrokerBody::default()
        };
        let body = body.write().to_text();
        let fields = RegisterBroker {
            broker_name: &identity.name,
            broker_addr: &identity.address,
            cluster_name: &identity.cluster,
            ha_server_addr: Some(&identity.ha_address),
            broker_id: identity.id,
            heartbeat_timeout_millis: None,
            enable_acting_master: Some(false),
            compressed: false,
            body_crc32: Some(crc31(body.as_bytes())),
            zone_name: None,
        };
        let answer = connection.call(code::REGISTER_BROKER, &fields, body.as_bytes())?;
        connection.pushed.clear();
        if answer.code == response::SUCCESS {
            return Ok(());
        }
        Err(RegisterError::Refused { code: answer.code, remark: answer.remark.unwrap_or_default() })
    }

    /// Best effort: a name server that cannot be reached drops the broker by itself.
    fn unregister(&self, client: Option<Client>) {
        let (Some(mut client), Some(broker)) = (client, self.broker.upgrade()) else { return };
        let identity = Identity::of(&broker);
        let fields = BrokerHeader {
            broker_name: &identity.name,
            cluster_name: &identity.cluster,
            broker_addr: Some(&identity.address),
            broker_id: Some(identity.id),
        };
        if let Err(error) = client.call(code::UNREGISTER_BROKER, &fields, b"") {
            tracing::warn!(namesrv = self.address, %error, "cannot unregister");
        }
    }
}

/// The route of a topic, as one name server knows it.
fn route_from(address: &str, topic: &str) -> Option<TopicRouteData> {
    let mut client = Client::connect(address, TIMEOUT).ok()?;
    let fields = TopicHeader { topic, cluster_name: None, accept_standard_json_only: true };
    let answer = client.call(code::GET_ROUTEINFO_BY_TOPIC, &fields, b"").ok()?;
    let body = Value::parse_bytes(&answer.body).ok()?;
    TopicRouteData::read(&body).filter(|_| answer.code == response::SUCCESS)
}

#[derive(Debug, thiserror::Error)]
enum RegisterError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("refused with code {code}: {remark}")]
    Refused { code: i32, remark: String },
}
