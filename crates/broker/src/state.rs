//! The broker: everything that its loops and background threads share.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use base::clock::Clock;
use parking_lot::Mutex;
use store::Store;
use store::disk::Disk;
use wire::body::{TopicConfig, TopicConfigWrapper};
use wire::codes::perm;

use crate::assignment::Assignments;
use crate::attributes;
use crate::clients::Clients;
use crate::config::BrokerConfig;
use crate::groups::Groups;
use crate::handlers::relay::Relays;
use crate::locks::Locks;
use crate::offsets::Offsets;
use crate::pop::Pops;
use crate::readers::Readers;
use crate::register::Registrar;
use crate::saved::NotSaved;
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::timers::Timers;
use crate::topics::{self, Topic, Topics};
use crate::transactions::Transactions;

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] store::OpenError),
    /// A file under `config/` and its backup cannot be read.
    #[error(transparent)]
    ConfigFile(#[from] store::config_file::LoadError),
    /// A thread or socket cannot be had.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What a broker stands on; tests bring their own.
#[derive(Debug, Clone)]
pub struct World {
    /// Time.
    pub clock: Clock,
    /// Where the store's files are.
    pub disk: Disk,
}

impl From<Clock> for World {
    fn from(clock: Clock) -> World {
        World { clock, disk: Disk::default() }
    }
}

/// Everything that a broker shares between its threads. Each part has its own lock; none is held
/// while another is taken, but for `topics.change` before `topics.table` (see locks.md).
pub struct Broker {
    config: ArcSwap<BrokerConfig>,
    /// Serializes changes of the configuration.
    pub(crate) config_change: Mutex<()>,
    /// File that the configuration came from, rewritten by changes at run time.
    pub config_file: Option<PathBuf>,
    /// Time.
    pub clock: Clock,
    /// Messages.
    pub store: Arc<Store>,
    /// Topics.
    pub topics: Topics,
    /// Consumer groups.
    pub groups: Groups,
    /// Committed offsets.
    pub offsets: Offsets,
    /// Connected clients.
    pub clients: Clients,
    /// Queue locks.
    pub locks: Locks,
    /// Delay levels.
    pub schedule: Schedule,
    /// Messages that wait for a time.
    pub timers: Timers,
    /// Open transactions.
    pub transactions: Transactions,
    /// Who works on which queues.
    pub assignments: Assignments,
    /// Messages that were popped.
    pub pops: Pops,
    /// Counters.
    pub stats: Stats,
    /// Threads for reads that may touch the disk.
    pub readers: Readers,
    /// Name servers.
    pub registrar: Registrar,
    /// Questions of operators to consumers.
    pub relays: Relays,
    /// Pulls parked now.
    pub parked: Arc<AtomicUsize>,
    /// Sends that wait for the disk now.
    pub flushing: AtomicUsize,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
    /// When the process started.
    pub boot_ms: i64,
    /// Port that clients reach us on.
    pub port: u16,
}

impl Broker {
    /// Opens the store and its configuration. Nothing is listened on and nobody is told yet.
    pub fn open(
        config: BrokerConfig,
        config_file: Option<PathBuf>,
        world: impl Into<World>,
        registrar: Registrar,
        port: u16,
    ) -> Result<Arc<Broker>, StartError> {
        let World { clock, disk } = world.into();
        let folder = PathBuf::from(&config.store_path_root_dir).join("config");
        let path = folder.join("topics.json");
        // Before the store: its recovery has to know which queues are batch queues.
        let saved = topics::read(&disk, &path)?;
        let wanted = store_config(&config, &saved.wrapper, disk.clone());
        let store = Store::open(wanted, clock.clone())?;
        let topics = Topics::open(saved, Arc::clone(&store), clock.clone(), &config);
        let path = folder.join("subscriptionGroup.json");
        let groups = Groups::load(&disk, &path, clock.clone())?;
        let offsets = Offsets::load(folder.join("consumerOffset.json"), config.enable_lmq)?;
        offsets.cut_to(|name, id| Some(topics.queue(name, id)?.queue.next_offset()));
        let levels = config.delay_levels_ms().to_vec();
        let schedule = Schedule::load(folder.join("delayOffset.json"), levels, &topics, &store)?;
        let checks = folder.join("apogee-transactionChecks.json");
        let transactions = Transactions::load(checks, &topics, &store, &offsets, &config)?;
        let assignments = Assignments::load(folder.join("messageRequestMode.json"))?;
        let timers = Timers::load(&folder, &topics, &store, &offsets);
        let journal = PathBuf::from(&config.store_path_root_dir).join("apogee-pop");
        let pops = Pops::load(&journal, &topics, &store, &offsets)?;
        let parts = (&topics, &*store, &offsets);
        pops.take_over(timers.take_java_pops(), &folder, parts, clock.now_ms());
        // What was taken over must be ours on disk before the store says so.
        pops.turn_end(&offsets, clock.now_ms());
        pops.save()?;
        offsets.save();
        store.claim()?;
        Ok(Arc::new(Broker {
            boot_ms: clock.now_ms(),
            config: ArcSwap::from_pointee(config),
            config_change: Mutex::new(()),
            config_file,
            clock,
            store,
            topics,
            groups,
            offsets,
            clients: Clients::default(),
            locks: Locks::default(),
            schedule,
            timers,
            transactions,
            assignments,
            pops,
            stats: Stats::default(),
            readers: Readers::start(2)?,
            registrar,
            relays: Relays::default(),
            parked: Arc::default(),
            flushing: AtomicUsize::new(0),
            wake: OnceLock::new(),
            port,
        }))
    }

    fn config_folder(&self) -> PathBuf {
        PathBuf::from(&self.config().store_path_root_dir).join("config")
    }

    /// Sets what wakes every loop.
    pub(crate) fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake)); // once, at start
    }

    /// Makes every loop have a turn.
    pub fn wake_loops(&self) {
        if let Some(wake) = self.wake.get() {
            wake();
        }
    }

    /// The configuration of this moment.
    pub fn config(&self) -> arc_swap::Guard<Arc<BrokerConfig>> {
        self.config.load()
    }

    pub(crate) fn set_config(&self, config: BrokerConfig) {
        self.config.store(Arc::new(config));
    }

    /// The address that messages of a connection carry as their store host, and with it their
    /// offset message ids: `brokerIP1` when set, else the address on which the client reached us.
    pub fn store_host(&self, local: SocketAddr) -> SocketAddr {
        match self.fixed_ip() {
            Some(ip) => SocketAddr::new(ip, self.port),
            None => local,
        }
    }

    /// The store host of messages that the broker makes itself.
    pub fn own_host(&self) -> SocketAddr {
        SocketAddr::new(self.fixed_ip().unwrap_or_else(outward_ip), self.port)
    }

    /// `brokerIP1` when it is set and an address.
    pub fn fixed_ip(&self) -> Option<IpAddr> {
        self.config().broker_ip1.trim_matches(['[', ']']).parse().ok()
    }

    /// How texts name this broker: `brokerIP1`, or the address that the machine shows outside.
    pub fn shown_ip(&self) -> String {
        self.own_host().ip().to_string()
    }

    /// The topic of a group's retries or dead letters; created when missing.
    /// Java: `createTopicInSendMessageBackMethod`.
    pub fn system_made_topic(
        &self,
        name: &str,
        queues: i32,
        order: bool,
        sys_flag: i32,
    ) -> Result<Arc<Topic>, NotSaved> {
        if let Some(topic) = self.topics.get(name)
            && topic.config.order == order
        {
            return Ok(topic);
        }
        let config = match self.topics.get(name) {
            Some(topic) => TopicConfig { order, ..topic.config.clone() },
            None => TopicConfig {
                topic_name: name.to_owned(),
                read_queue_nums: queues,
                write_queue_nums: queues,
                perm: perm::READ | perm::WRITE,
                order,
                topic_sys_flag: sys_flag,
                ..TopicConfig::default()
            },
        };
        let mut topics = self.topics.put(vec![config])?;
        self.registrar.topics_put(&[name]);
        Ok(topics.swap_remove(0))
    }

    /// Ends everything that is not a loop: saves, flushes, closes the store.
    pub fn close(&self) -> io::Result<()> {
        self.readers.stop();
        self.transactions.save(self, self.clock.now_ms());
        self.timers.save(self, self.clock.now_ms());
        self.timers.leave_to_java(self, self.clock.now_ms());
        self.pops.turn_end(&self.offsets, self.clock.now_ms());
        self.pops.housekeeping();
        self.topics.close();
        self.groups.close();
        self.pops.save_orders(&self.config_folder());
        self.offsets.save();
        self.store.close()?;
        self.schedule.save_last();
        Ok(())
    }

    /// Work of every second, by the background thread.
    pub fn housekeeping(&self, tick: u64) {
        let now_ms = self.clock.now_ms();
        let config = self.config();
        if tick.is_multiple_of((config.flush_consumer_offset_interval / 1000).max(1) as u64) {
            self.transactions.save(self, now_ms);
            self.timers.save(self, now_ms);
            self.offsets.save();
        }
        self.pops.housekeeping();
        self.groups.save_new();
        self.topics.export();
        self.groups.export();
        self.relays.expire(now_ms);
        if tick.is_multiple_of((config.register_name_server_period / 1000).clamp(10, 60) as u64) {
            self.registrar.tell_local();
        }
        if tick.is_multiple_of(10) {
            self.stats.sample(now_ms);
            for name in self.topics.names() {
                if let Some(topic) = self.topics.get(&name) {
                    topic.puts.sample(now_ms);
                }
            }
            self.schedule.save(&self.store);
            for peer in self.clients.silent(now_ms - config.channel_expired_timeout) {
                tracing::info!(?peer, "no heartbeat for too long: connection closed");
                peer.close();
            }
        }
    }

    /// Pulls parked and sends waiting for the disk, for limits and operators.
    pub fn waiting(&self) -> (usize, usize) {
        (self.parked.load(Ordering::Relaxed), self.flushing.load(Ordering::Relaxed))
    }
}

/// The address with which this machine would speak to others; loopback when it has none.
fn outward_ip() -> IpAddr {
    let probe = || -> io::Result<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        // No packet is sent: connecting only asks the routing table. A documentation address.
        socket.connect("192.0.2.1:9")?;
        Ok(socket.local_addr()?.ip())
    };
    probe().unwrap_or(IpAddr::from([127, 0, 0, 1]))
}

fn store_config(
    config: &BrokerConfig,
    saved: &TopicConfigWrapper,
    disk: Disk,
) -> store::StoreConfig {
    let mut wanted = store::StoreConfig::new(PathBuf::from(&config.store_path_root_dir));
    wanted.disk = disk;
    if !config.store_path_commit_log.is_empty() {
        wanted.commit_log_dir = PathBuf::from(&config.store_path_commit_log);
    }
    wanted.commit_log_file_size = config.mapped_file_size_commit_log as u64;
    wanted.consume_queue_file_size = config.mapped_file_size_consume_queue as u64;
    let batch = saved.topic_config_table.iter().filter(|(_, topic)| attributes::is_batch(topic));
    wanted.multi_dispatch = config.enable_lmq && config.enable_multi_dispatch;
    wanted.batch_topics = batch.map(|(name, _)| name.clone()).collect();
    wanted.flush =
        if config.is_sync_flush() { store::FlushMode::Sync } else { store::FlushMode::Async };
    wanted.flush_interval_ms = config.flush_interval_commit_log as u64;
    wanted.ring_bytes = config.tail_ring_bytes as usize;
    wanted.delay_levels_ms = config.delay_levels_ms().to_vec();
    wanted.index = config.message_index_enable;
    wanted.file_reserved_hours = i64::from(config.file_reserved_time);
    wanted.delete_when = config.delete_hours().to_vec();
    wanted.min_free_bytes = config.min_disk_free_bytes as u64;
    wanted.disk_max_used_ratio = config.disk_max_used_space_ratio as u8;
    wanted
}
