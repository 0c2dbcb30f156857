//! Which roles a command line means, and how they are started and stopped together.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use base::clock::Clock;
use base::config::Table;
use broker::BrokerServer;
use broker::config::{BrokerConfig, MetricsExporter};
use broker::register::{Identity, LocalNamesrv};
use namesrv::routes::{Address, Registration};
use namesrv::{Namesrv, NamesrvConfig, NamesrvServer};
use wire::body::{TopicConfigWrapper, TopicRouteData};

use crate::cli::{Cli, Role};
use crate::http::Http;

/// What is to be started.
pub struct Plan {
    broker: Option<(BrokerConfig, Option<PathBuf>)>,
    namesrv: Option<(NamesrvConfig, Option<PathBuf>, PathBuf, SocketAddr)>,
    /// What the writer of the configuration should know.
    pub warnings: Vec<String>,
}

impl Plan {
    /// Reads the files that a command line names.
    pub fn of(cli: &Cli) -> Result<Plan> {
        let mut plan = Plan { broker: None, namesrv: None, warnings: Vec::new() };
        match &cli.role {
            None => {
                let listen = cli.all.namesrv_listen;
                plan.add_namesrv(None, Some(listen), &cli.all.data)?;
                plan.add_broker(cli.all.config.as_deref(), None, &cli.all.data)?;
            }
            Some(Role::Namesrv { config, listen, data, .. }) => {
                plan.add_namesrv(config.as_deref(), *listen, data)?;
            }
            Some(Role::Broker { config, namesrv, data, .. }) => {
                plan.add_broker(config.as_deref(), namesrv.as_deref(), data)?;
            }
            Some(Role::Store(_)) => {}
        }
        Ok(plan)
    }

    fn add_broker(
        &mut self,
        file: Option<&Path>,
        namesrv: Option<&str>,
        data: &Path,
    ) -> Result<()> {
        let mut config = self.load::<BrokerConfig>(file)?;
        let put = |config: &mut BrokerConfig, key: &'static str, text: &str| {
            config.put(key, text).map_err(|(key, problem)| anyhow!("{key}={text}: {problem}"))
        };
        if config.store_path_root_dir.is_empty() {
            put(&mut config, "storePathRootDir", &data.join("store").display().to_string())?;
        }
        if let Some(list) = namesrv {
            put(&mut config, "namesrvAddr", list)?;
        }
        self.broker = Some((config, file.map(Path::to_path_buf)));
        Ok(())
    }

    fn add_namesrv(
        &mut self,
        file: Option<&Path>,
        listen: Option<SocketAddr>,
        data: &Path,
    ) -> Result<()> {
        let mut config = self.load::<NamesrvConfig>(file)?;
        let listen = match listen {
            Some(listen) => {
                // What an operator is shown is what is listened on.
                (config.bind_address, config.listen_port) =
                    (listen.ip().to_string(), listen.port());
                listen
            }
            None => resolve(&config.bind_address, config.listen_port)?,
        };
        let kv = match config.kv_config_path.as_str() {
            "" => data.join("namesrv").join("kvConfig.json"),
            path => PathBuf::from(path),
        };
        let saved = match config.config_store_path.as_str() {
            "" => file.map(Path::to_path_buf),
            path => Some(PathBuf::from(path)),
        };
        self.namesrv = Some((config, saved, kv, listen));
        Ok(())
    }

    fn load<T: Table>(&mut self, file: Option<&Path>) -> Result<T> {
        let Some(path) = file else { return Ok(T::load("", "")?.0) };
        let bytes =
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        // Java's own encoding of such files, for those that are not UTF-8.
        let latin = |bytes: &[u8]| bytes.iter().map(|b| char::from(*b)).collect();
        let text = String::from_utf8(bytes).unwrap_or_else(|e| latin(e.as_bytes()));
        let name = path.display().to_string();
        let (config, warnings) = T::load(&name, &text)?;
        self.warnings.extend(warnings.into_iter().map(|warning| match warning.line {
            0 => format!("{name}: {}", warning.text),
            line => format!("{name}: line {line}: {}", warning.text),
        }));
        Ok(config)
    }

    /// The effective configuration as properties text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let Some((config, ..)) = &self.namesrv {
            text.push_str("# name server\n");
            text.push_str(&config.text());
        }
        if let Some((config, _)) = &self.broker {
            text.push_str("# broker\n");
            text.push_str(&config.text());
        }
        text
    }
}

fn resolve(host: &str, port: u16) -> Result<SocketAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = (host, port).to_socket_addrs();
    let mut addresses = addresses.with_context(|| format!("bindAddress {host} has no address"))?;
    addresses.next().with_context(|| format!("bindAddress {host} has no address"))
}

/// The name server of this process, as the broker sees it.
struct InProcess(Arc<Namesrv>);

impl InProcess {
    fn address(identity: &Identity) -> Address {
        match &identity.fixed_address {
            Some(address) => Address::Fixed(address.clone()),
            None => Address::Local(identity.port),
        }
    }
}

impl LocalNamesrv for InProcess {
    fn register(&self, identity: &Identity, topics: TopicConfigWrapper) {
        self.0.register(&Registration {
            cluster: identity.cluster.clone(),
            broker: identity.name.clone(),
            id: identity.id,
            address: Self::address(identity),
            ha_address: identity.ha_address.clone(),
            timeout_ms: None,
            enable_acting_master: Some(false),
            zone: None,
            topics,
            peer: 0,
        });
    }

    fn unregister(&self, identity: &Identity) {
        self.0.unregister(&identity.cluster, &identity.name, identity.id, &Self::address(identity));
    }

    fn delete_topic(&self, topic: &str) {
        self.0.delete_topic_everywhere(topic);
    }

    fn route(&self, topic: &str) -> Option<TopicRouteData> {
        self.0.route(topic)
    }
}

/// Roles that run.
pub struct Running {
    namesrv: Option<NamesrvServer>,
    broker: Option<BrokerServer>,
    http: Option<Http>,
    remote_namesrvs: Vec<String>,
}

impl Running {
    /// Starts everything that is planned.
    pub fn start(plan: Plan, clock: &Clock) -> Result<Running> {
        let mut running =
            Running { namesrv: None, broker: None, http: None, remote_namesrvs: Vec::new() };
        if let Some((config, file, kv, listen)) = plan.namesrv {
            let namesrv = Namesrv::open(config, file, kv, clock.clone())?;
            let started = namesrv::start(namesrv, listen);
            running.namesrv = Some(
                started.map_err(|e| port_in_use(e, "--namesrv-listen, --listen or listenPort"))?,
            );
        }
        if let Some((mut config, file)) = plan.broker {
            let listen = resolve(&config.bind_address, config.listen_port)?;
            let local = running.namesrv.as_ref();
            let namesrv = local.map(|server| {
                Arc::new(InProcess(Arc::clone(&server.namesrv))) as Arc<dyn LocalNamesrv>
            });
            if let Some(server) = local {
                let others = without_own(&config.namesrv_addresses(), server.local());
                config.put("namesrvAddr", &others).map_err(|(key, e)| anyhow!("{key}: {e}"))?;
            }
            running.remote_namesrvs = config.namesrv_addresses();
            if local.is_none() && running.remote_namesrvs.is_empty() {
                bail!("no name server: set namesrvAddr in the file or give -n HOST:PORT");
            }
            let metrics = metrics_address(&config)?;
            let started = broker::start(config, file, clock.clone(), namesrv, listen);
            let server = started.map_err(|error| match error {
                broker::StartError::Io(error) => port_in_use(error, "listenPort"),
                error => error.into(),
            })?;
            if let Some(listen) = metrics {
                let http = Http::start(listen, Arc::clone(&server.broker));
                running.http = Some(http.map_err(|e| port_in_use(e, "metricsPromExporterPort"))?);
            }
            running.broker = Some(server);
        }
        Ok(running)
    }

    /// A few lines for the person who started the process.
    pub fn greeting(&self, took: Duration) -> Vec<String> {
        let mut lines = vec![format!("apogee {}", env!("CARGO_PKG_VERSION"))];
        let namesrv = self.namesrv.as_ref().map(|server| format!("name server {}", server.local()));
        let broker = self.broker.as_ref();
        let address = broker.map(|server| {
            let handed_out = match server.broker.fixed_ip() {
                Some(ip) => SocketAddr::new(ip, server.local().port()).to_string(),
                None => "the address on which they reach the name server".to_owned(),
            };
            format!("broker {}; clients are given {handed_out}", server.local())
        });
        lines.push([namesrv.clone(), address].into_iter().flatten().collect::<Vec<_>>().join(", "));
        if let Some(http) = &self.http {
            lines.push(format!("metrics http://{}/metrics", http.local));
        }
        if let Some(server) = broker {
            let config = server.broker.config();
            lines.push(format!("data in {}", config.store_path_root_dir));
            lines.push(if config.is_sync_flush() {
                "an acknowledged message is on the disk (SYNC_FLUSH)".to_owned()
            } else {
                format!(
                    "an acknowledged message survives a crash of the process; a power cut may take \
                     the last {} ms (ASYNC_FLUSH)",
                    config.flush_interval_commit_log
                )
            });
        }
        let port = self.namesrv.as_ref().map(|server| server.local().port());
        let first = match (port, self.remote_namesrvs.first()) {
            (Some(port), _) => format!("127.0.0.1:{port}"),
            (None, Some(remote)) => remote.clone(),
            (None, None) => String::new(),
        };
        lines.push(format!(
            "ready in {} ms; first message: mqadmin sendMessage -n {first} -t hello -p world",
            took.as_millis()
        ));
        lines
    }

    /// Whether every role still serves.
    pub fn is_alive(&self) -> bool {
        self.namesrv.as_ref().is_none_or(NamesrvServer::is_alive)
            && self.broker.as_ref().is_none_or(BrokerServer::is_alive)
    }

    /// Stops the broker first, so that it leaves a name server that still runs.
    pub fn stop(self) -> Result<()> {
        self.http.into_iter().for_each(Http::stop);
        let closed = self.broker.map(BrokerServer::stop).transpose();
        if let Some(server) = self.namesrv {
            server.stop();
        }
        closed.context("the store was not closed cleanly")?;
        Ok(())
    }
}

/// Where metrics are told, if they are. Java: `brokerIP1` unless there is a host of its own.
fn metrics_address(config: &BrokerConfig) -> Result<Option<SocketAddr>> {
    if config.metrics_exporter_type != MetricsExporter::Prom {
        return Ok(None);
    }
    let hosts = [&config.metrics_prom_exporter_host, &config.broker_ip1, &config.bind_address];
    let host = hosts.into_iter().find(|host| !host.is_empty());
    let host = host.map_or("127.0.0.1", String::as_str);
    resolve(host, config.metrics_prom_exporter_port).map(Some)
}

/// The other name servers of a list: the one of this process is told directly.
fn without_own(addresses: &[String], own: SocketAddr) -> String {
    let is_own = |address: &&String| {
        let resolved = address.to_socket_addrs().into_iter().flatten();
        resolved
            .into_iter()
            .any(|a| a.port() == own.port() && (a.ip().is_loopback() || a.ip() == own.ip()))
    };
    let others: Vec<&str> =
        addresses.iter().filter(|address| !is_own(address)).map(String::as_str).collect();
    others.join(";")
}

fn port_in_use(error: std::io::Error, setting: &str) -> anyhow::Error {
    if error.kind() == std::io::ErrorKind::AddrInUse {
        anyhow!("{error}; another process has the port: stop it, or choose another by {setting}")
    } else {
        error.into()
    }
}
