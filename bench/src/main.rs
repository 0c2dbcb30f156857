//! The load tool: one epoll thread, pre-built frames, checked answers, HDR histograms, and what
//! the server's process spent meanwhile. Each run prints one line of JSON.
#![allow(clippy::print_stdout)] // what it prints is its purpose
#![allow(clippy::disallowed_methods)] // it measures: the machine's clock is its subject

mod conn;
mod e2e;
mod frames;
mod null;
mod pop;
mod process;
mod pull;
mod send;
mod transaction;

use anyhow::Result;
use clap::{Parser, Subcommand};

/// Loads a RocketMQ-compatible broker and measures it.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    run: Run,
}

#[derive(Debug, Subcommand)]
enum Run {
    /// Sends in a closed loop, or with --rate in an open one.
    Send(send::Options),
    /// Reads everything that a topic has, from the beginning.
    Pull(pull::Options),
    /// Pops everything that a topic has, and acknowledges it.
    Pop(pop::Options),
    /// Half messages and their commits.
    Transaction(transaction::Options),
    /// Time from send to receipt at a fixed rate.
    E2e(e2e::Options),
    /// Answers every SEND without doing anything: shows the tool's own ceiling.
    Null {
        /// Address.
        #[arg(long, default_value = "127.0.0.1:10999")]
        listen: std::net::SocketAddr,
    },
    /// Creates topics named NAME0, NAME1, ….
    Topics {
        /// Broker.
        #[arg(long)]
        addr: String,
        /// Name without the number.
        #[arg(long)]
        topic: String,
        /// How many.
        #[arg(long, default_value_t = 1)]
        topics: usize,
        /// Queues of each.
        #[arg(long, default_value_t = 4)]
        queues: i32,
    },
}

fn main() -> Result<()> {
    match Cli::parse().run {
        Run::Send(options) => send::run(&options),
        Run::Pull(options) => pull::run(&options),
        Run::Pop(options) => pop::run(&options),
        Run::Transaction(options) => transaction::run(&options),
        Run::E2e(options) => e2e::run(&options),
        Run::Null { listen } => null::run(listen),
        Run::Topics { addr, topic, topics, queues } => {
            frames::create_topics(&addr, &topic, topics, queues)
        }
    }
}
