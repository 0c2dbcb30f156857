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
    /// Looks at a store that nobody serves at the moment.
    #[command(subcommand)]
    Store(StoreTool),
}

/// What to do with a store.
#[derive(Debug, Subcommand)]
pub enum StoreTool {
    /// Says what would happen if Apogee opened a directory of the Java original. Changes nothing.
    /// Exit code: 0 fine, 1 with warnings, 2 refused.
    CheckJava(check_java::Options),
}

impl Cli {
    /// The options that every role has.
    pub fn common(&self) -> &Common {
        match &self.role {
            Some(Role::Namesrv { common, .. } | Role::Broker { common, .. }) => common,
            Some(Role::Store(_)) | None => &self.all.common,
        }
    }
}
