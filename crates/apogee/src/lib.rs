//! The product: starts any set of roles in the caller's process.
#![allow(clippy::print_stdout, clippy::print_stderr)] // greeting and warnings go to the terminal

pub mod check_java;
pub mod cli;
mod http;
mod logs;
pub mod roles;
mod store_tools;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use base::clock::{Clock, Stopwatch};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::cli::{Cli, Role, StoreCommand};
use crate::roles::{Plan, Running};

/// How often the process looks whether a role has ended by itself.
const WATCH: Duration = Duration::from_millis(200);
/// A clean stop takes less; whoever waits longer is told why.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Runs until a signal. The exit code is 0 after a clean stop.
pub fn run(cli: &Cli) -> Result<ExitCode> {
    if let Some(Role::Store { command }) = &cli.role {
        return match command {
            StoreCommand::Tool(tool) => Ok(store_tools::run(tool)),
            StoreCommand::CheckJava(options) => check_java::run(options),
        };
    }
    let watch = Stopwatch::start();
    let plan = Plan::of(cli)?;
    if cli.common().print {
        print!("{}", plan.text());
        return Ok(ExitCode::SUCCESS);
    }
    logs::start(cli.common().log_dir.as_deref()).context("cannot write logs")?;
    plan.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot listen for signals")?;
    let running = Running::start(plan, &Clock::system())?;
    for line in running.greeting(watch.elapsed()) {
        // Whoever closed the output does not want to read it; that is no reason to end.
        let _ = writeln!(std::io::stdout(), "{line}");
    }
    let ended = loop {
        if signals.pending().next().is_some() {
            break false;
        }
        if !running.is_alive() {
            break true;
        }
        std::thread::sleep(WATCH);
    };
    let stopping = Stopwatch::start();
    if ended {
        tracing::error!("a role has ended by itself; the process ends without a clean stop");
        return Ok(ExitCode::FAILURE);
    }
    running.stop()?;
    if stopping.elapsed() > STOP_LIMIT {
        tracing::warn!(ms = stopping.elapsed().as_millis() as u64, "the stop took long");
    }
    Ok(ExitCode::SUCCESS)
}
