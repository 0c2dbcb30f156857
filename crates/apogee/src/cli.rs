//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::check_java;

/// A message broker that any Apache RocketMQ client can use unchanged.
///
/// Without a subcommand: name server and broker in one process, nothing to configure.
#[derive(Debug, Parser)]
#[command(name = "apogee", version, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// A single role.
    #[command(subcommand)]
    pub role: Option<Role>,
    /// All roles.
    #[command(flatten)]
    pub all: All,
}

/// Options of the all-in-one process.
#[derive(Debug, Args)]
pub struct All {
    /// Directory of everything that is kept.
    #[arg(long, value_name = "DIR", default_value = "apogee-data")]
    pub data: PathBuf,
    /// Configuration of the broker: a Java broker.conf works unchanged.
    #[arg(short = 'c', long = "config", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the name server.
    #[arg(long, value_name = "HOST:PORT", default_value = "0.0.0.0:9876")]
    pub namesrv_listen: SocketAddr,
    /// Options of every role.
    #[command(flatten)]
    pub common: Common,
}

/// Options of every role.
#[derive(Debug, Args)]
pub struct Common {
    /// Print the effective configuration and end.
    #[arg(short = 'p', long)]
    pub print: bool,
    /// Write log files with Java's names there instead of logging to the terminal.
    #[arg(long, value_name = "DIR")]
    pub log_dir: Option<PathBuf>,
}

/// A process with one role.
#[derive(Debug, Subcommand)]
pub enum Role {
    /// Only a name server.
    Namesrv {
        /// A Java namesrv.properties works unchanged.
        #[arg(short = 'c', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
        /// Address to listen on; wins over bindAddress and listenPort.
        #[arg(long, value_name = "HOST:PORT")]
        listen: Option<SocketAddr>,
        /// Directory of the KV configuration, unless the file names one.
        #[arg(long, value_name = "DIR", default_value = "apogee-data")]
        data: PathBuf,
        /// Options of every role.
        #[command(flatten)]
        common: Common,
    },
    /// Only a broker.
    Broker {
        /// A Java broker.conf works unchanged.
        #[arg(short = 'c', long = "config", value_name = "FILE")]
        config: Option<PathBuf>,
        /// Name servers, separated by semicolons; wins over namesrvAddr.
        #[arg(short = 'n', long, value_name = "HOST:PORT;…")]
        namesrv: Option<String>,
        /// Directory of the store, unless the file names one.
        #[arg(long, value_name = "DIR", default_value = "apogee-data")]
        data: PathBuf,
        /// Options of every role.
        #[command(flatten)]
        common: Common,
    },
    /// Looks into a store while no broker runs: verify, inspect, repair, check-java.
    Store {
        /// What to do.
        #[command(subcommand)]
        command: StoreCommand,
    },
}

/// Work on a store that nobody serves at the moment.
#[derive(Debug, Subcommand)]
pub enum StoreCommand {
    /// Work on the store itself.
    #[command(flatten)]
    Tool(StoreTool),
    /// Say what would happen if Apogee opened a directory of the Java original. Changes nothing.
    /// Exit code: 0 fine, 1 with warnings, 2 refused.
    CheckJava(check_java::Options),
}

/// Exit codes: 0 all is well, 1 damaged, 2 cannot be read.
#[derive(Debug, Subcommand)]
pub enum StoreTool {
    /// Read everything and compare it: log, queues, index, checkpoint, configurations.
    Verify {
        /// Which store, and how to tell.
        #[command(flatten)]
        place: StorePlace,
    },
    /// Show what a store holds, or single records of it.
    Inspect {
        /// Which store, and how to tell.
        #[command(flatten)]
        place: StorePlace,
        /// Records of this topic.
        #[arg(long, value_name = "NAME", conflicts_with = "physical")]
        topic: Option<String>,
        /// Queue of the topic.
        #[arg(long, value_name = "N", default_value_t = 0, requires = "topic")]
        queue: i32,
        /// Queue offset to begin with; without, the first that is left.
        #[arg(long, value_name = "O", requires = "topic")]
        offset: Option<i64>,
        /// Records at most.
        #[arg(long, value_name = "N", default_value_t = 10)]
        max: usize,
        /// The record at this offset of the commit log.
        #[arg(long, value_name = "P")]
        physical: Option<i64>,
    },
    /// Make queues and index anew from the log, and bad configurations from their backups. What is
    /// replaced is kept in repair-<n>/ in the store.
    Repair {
        /// Which store, and how to tell.
        #[command(flatten)]
        place: StorePlace,
        /// Only say what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

/// Options of all work on a store.
#[derive(Debug, Args)]
pub struct StorePlace {
    /// The store directory, or the data directory that has it as `store`.
    #[arg(long, value_name = "DIR", default_value = "apogee-data")]
    pub data: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// The options that every role has.
    pub fn common(&self) -> &Common {
        match &self.role {
            Some(Role::Namesrv { common, .. } | Role::Broker { common, .. }) => common,
            Some(Role::Store { .. }) | None => &self.all.common,
        }
    }
}
