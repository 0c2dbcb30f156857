//! The name server as a running thing: shared state, its loop, in-process registration.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use base::clock::Clock;
use net::{Bound, Call, Handle, Limits, Peer, Router, Service};
use parking_lot::Mutex;
use wire::codes::request as code;
use wire::header::{Head, write_frame};
use wire::requests::MinBrokerIdChange;

use crate::config::NamesrvConfig;
use crate::handlers;
use crate::kv::Kv;
use crate::routes::{MinIdChange, Registration, Routes};

/// Everything that a name server keeps, behind one lock that is held for map operations, and for
/// the file when KV settings or the configuration change (rare).
pub(crate) struct State {
    pub(crate) config: NamesrvConfig,
    pub(crate) routes: Routes,
    pub(crate) kv: Kv,
    pub(crate) peers: HashMap<u64, Arc<Peer>>,
    /// File that changes of the configuration are saved to.
    pub(crate) config_file: Option<PathBuf>,
}

/// A name server, shared between its loop and a broker of the same process.
pub struct Namesrv {
    pub(crate) state: Mutex<State>,
    pub(crate) clock: Clock,
    pub(crate) start_ms: i64,
}

impl Namesrv {
    /// A name server with its KV file read.
    pub fn open(
        config: NamesrvConfig,
        config_file: Option<PathBuf>,
        kv_path: PathBuf,
        clock: Clock,
    ) -> io::Result<Arc<Namesrv>> {
        let mut routes = Routes::default();
        routes.options = config.route_options();
        let state =
            State { config, routes, kv: Kv::load(kv_path)?, peers: HashMap::new(), config_file };
        let start_ms = clock.now_ms();
        Ok(Arc::new(Namesrv { state: Mutex::new(state), clock, start_ms }))
    }

    /// Registers a broker of this process; the same rules as for others.
    pub fn register(&self, registration: &Registration) {
        let now_ms = self.clock.now_ms();
        let mut state = self.state.lock();
        if let Some(registered) = state.routes.register(registration, now_ms) {
            state.tell(registered.min_id);
        }
    }

    /// Takes a broker of this process out.
    pub fn unregister(&self, cluster: &str, name: &str, id: i64, address: &crate::routes::Address) {
        let mut state = self.state.lock();
        let change = state.routes.unregister(cluster, name, id, address);
        state.tell(change);
    }

    /// The route of a topic for the broker of this process.
    pub fn route(&self, topic: &str) -> Option<wire::body::TopicRouteData> {
        self.state.lock().routes.route(topic, std::net::Ipv4Addr::LOCALHOST.into(), None)
    }

    /// Removes a topic that the broker of this process deleted.
    pub fn delete_topic_everywhere(&self, topic: &str) {
        self.state.lock().routes.delete_topic(topic, None);
    }
}

impl State {
    /// Sends 905 to those concerned.
    pub(crate) fn tell(&self, change: Option<MinIdChange>) {
        let Some(change) = change else { return };
        for peer in change.peers.iter().filter_map(|id| self.peers.get(id)) {
            let (min, ha) = match &change.min {
                Some((id, address, ha)) => {
                    (Some((*id, address.for_client(peer.local.ip()))), Some(ha.as_str()))
                }
                None => (None, None),
            };
            let offline = change.offline.as_ref().map(|a| a.for_client(peer.local.ip()));
            let fields = MinBrokerIdChange {
                min_broker_id: min.as_ref().map(|(id, _)| *id),
                broker_name: Some(&change.broker),
                min_broker_addr: min.as_ref().map(|(_, address)| address.as_str()),
                offline_broker_addr: offline.as_deref(),
                ha_broker_addr: ha,
            };
            let mut frame = Vec::new();
            let head = Head::request(code::NOTIFY_MIN_BROKER_ID_CHANGE, 0, true);
            write_frame(&mut frame, &head, &fields, false, |_| {});
            peer.send(frame);
        }
    }
}

/// The loop's side of a name server.
pub(crate) struct NamesrvLoop {
    pub(crate) server: Arc<Namesrv>,
    router: Arc<Router<NamesrvLoop>>,
    next_scan_ms: i64,
}

impl Service for NamesrvLoop {
    fn opened(&mut self, peer: &Arc<Peer>) {
        self.server.state.lock().peers.insert(peer.id(), Arc::clone(peer));
    }

    fn request(&mut self, call: &mut Call<'_>) {
        let router = Arc::clone(&self.router);
        router.dispatch(self, call, |_, _| Ok(()));
    }

    fn closed(&mut self, peer: &Arc<Peer>) {
        let mut state = self.server.state.lock();
        state.peers.remove(&peer.id());
        for change in state.routes.disconnected(peer.id()) {
            state.tell(Some(change));
        }
    }

    fn turn_end(&mut self) -> io::Result<()> {
        let now_ms = self.server.clock.now_ms();
        if now_ms >= self.next_scan_ms {
            let mut state = self.server.state.lock();
            self.next_scan_ms = now_ms + state.config.scan_not_active_broker_interval;
            for change in state.routes.expire(now_ms) {
                state.tell(Some(change));
            }
        }
        Ok(())
    }

    fn next_turn_in_ms(&mut self) -> Option<i64> {
        Some(self.next_scan_ms - self.server.clock.now_ms())
    }
}

/// A listening name server.
pub struct NamesrvServer {
    /// Its state.
    pub namesrv: Arc<Namesrv>,
    handle: Handle,
}

/// Serves a name server on `listen`.
pub fn start(namesrv: Arc<Namesrv>, listen: SocketAddr) -> io::Result<NamesrvServer> {
    let bound = Bound::bind(listen)?;
    let limits = {
        let state = namesrv.state.lock();
        Limits {
            max_connections: state.config.max_connections as usize,
            idle_ms: i64::from(state.config.server_channel_max_idle_time_seconds) * 1000,
            ..Limits::default()
        }
    };
    let router = Arc::new(handlers::router());
    let shared = Arc::clone(&namesrv);
    let make = move |_| NamesrvLoop {
        server: Arc::clone(&shared),
        router: Arc::clone(&router),
        next_scan_ms: 0,
    };
    let handle = bound.serve("namesrv", limits, namesrv.clock.clone(), 1, make)?;
    Ok(NamesrvServer { namesrv, handle })
}

impl NamesrvServer {
    /// Address that clients connect to.
    pub fn local(&self) -> SocketAddr {
        self.handle.local
    }

    /// Whether it still serves.
    pub fn is_alive(&self) -> bool {
        self.handle.is_alive()
    }

    /// Stops serving.
    pub fn stop(self) {
        self.handle.stop();
    }
}
