//! The binary: reads the command line, starts roles, waits for a signal, stops them.
#![allow(clippy::print_stdout, clippy::print_stderr)] // what a person starts may speak to them

use std::process::ExitCode;

use apogee::cli::Cli;
use clap::Parser;

/// Small and quick to give memory back; one line.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match apogee::run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("apogee: {error:#}");
            ExitCode::FAILURE
        }
    }
}
