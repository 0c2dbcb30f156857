//! Starts and stops a broker: socket, store, loops, background thread.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use net::{Bound, Handle, Limits};

use crate::config::BrokerConfig;
use crate::handlers;
use crate::register::{LocalNamesrv, Registrar};
use crate::state::{Broker, StartError, World};
use crate::turn::Turn;

/// A running broker.
pub struct BrokerServer {
    /// What its threads share.
    pub broker: Arc<Broker>,
    handle: Handle,
    stop: Arc<AtomicBool>,
    background: JoinHandle<()>,
}

/// Binds, opens the store, and serves. The port is taken first, so that a second broker by mistake
/// touches nothing.
pub fn start(
    config: BrokerConfig,
    config_file: Option<PathBuf>,
    world: impl Into<World>,
    local_namesrv: Option<Arc<dyn LocalNamesrv>>,
    listen: SocketAddr,
) -> Result<BrokerServer, StartError> {
    let world = world.into();
    let clock = world.clock.clone();
    let bound = Bound::bind(listen)?;
    let port = bound.local.port();
    let limits = Limits {
        max_frame: config.max_frame_bytes as usize,
        max_connections: config.max_connections as usize,
        max_unsent: config.max_unsent_bytes as usize,
        idle_ms: config.server_channel_max_idle_time_seconds as i64 * 1000,
    };
    let loops = match config.loops {
        0 => default_loops(),
        loops => loops as usize,
    };
    let addresses = config.namesrv_addresses();
    let registrar = Registrar::new(local_namesrv);
    let broker = Broker::open(config, config_file, world, registrar, port)?;
    let router = Arc::new(handlers::router());
    let shared = Arc::clone(&broker);
    let make = move |_| Turn::new(Arc::clone(&shared), Arc::clone(&router));
    let handle = bound.serve("broker", limits, clock, loops, make)?;
    let wake = handle.waker();
    broker.set_wake(wake.clone());
    broker.store.on_flushed(Box::new(wake));
    broker.registrar.start(&broker, &addresses);
    let stop = Arc::new(AtomicBool::new(false));
    let background = {
        let (broker, stop) = (Arc::clone(&broker), Arc::clone(&stop));
        std::thread::Builder::new()
            .name("housekeeping".into())
            .spawn(move || housekeeping(&broker, &stop))?
    };
    Ok(BrokerServer { broker, handle, stop, background })
}

/// One loop up to two processors, else half of them (house, section 2).
fn default_loops() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if processors <= 2 { 1 } else { processors / 2 }
}

fn housekeeping(broker: &Broker, stop: &AtomicBool) {
    let mut tick = 0_u64;
    while !stop.load(Ordering::Acquire) {
        std::thread::park_timeout(Duration::from_secs(1));
        tick += 1;
        broker.housekeeping(tick);
    }
}

impl BrokerServer {
    /// Address that clients connect to.
    pub fn local(&self) -> SocketAddr {
        self.handle.local
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.handle.connections()
    }

    /// System calls of the loops since the start: waits, reads and writes of sockets.
    pub fn system_calls(&self) -> u64 {
        self.handle.system_calls()
    }

    /// Whether it still serves; false after an error that forbids every acknowledgement.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive() && !self.broker.store.is_poisoned()
    }

    /// Stops accepting, answers what is in flight, leaves the name servers, flushes, saves.
    pub fn stop(self) -> io::Result<()> {
        self.stop.store(true, Ordering::Release);
        self.background.thread().unpark();
        self.broker.registrar.unregister();
        self.handle.stop();
        let _ = self.background.join(); // a panic there was logged by its hook
        self.broker.close()
    }
}
