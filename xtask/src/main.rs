//! Project tasks: `cargo xtask test | tidy | conform | handover | bench`.
#![allow(clippy::print_stdout)] // a tool for people: what it prints is its purpose

mod bench;
mod conform;
mod handover;
mod suites;
mod tidy;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask test                                  everything that CI runs; the last line counts
cargo xtask tidy                                  layout, dependencies, codes, columns
cargo xtask conform [--server apogee|java] [CLIENT]   official clients against a server
cargo xtask crash [--long]                        kill -9 under load, images of crashes, faults
cargo xtask loom                                  every interleaving of the store's wake-ups
cargo xtask handover [SCENARIO]                   one store served by the original and by ours
cargo xtask bench --vs-java [--quick]             side by side with the original
cargo xtask bench --sync-vs-java                  the same with SYNC_FLUSH
cargo xtask bench --scale                         large stores: late consumers, starts";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["test"] => suites::test(),
        ["tidy"] => tidy::run().map(|checks| println!("{checks} passed, 0 failed")),
        ["conform", rest @ ..] => conform_command(rest),
        ["loom"] => suites::loom().map(|(passed, ..)| println!("{passed} passed, 0 failed")),
        ["crash"] => suites::crash(false),
        ["crash", "--long"] => suites::crash(true),
        ["handover", rest @ ..] => handover_command(rest.first().copied().unwrap_or_default()),
        ["bench", "--sync-vs-java"] => bench::sync_vs_java(),
        ["bench", "--scale"] => bench::scale(),
        ["bench", "--vs-java"] => bench::vs_java(false),
        ["bench", "--vs-java", "--quick"] => bench::vs_java(true),
        _ => {
            println!("{USAGE}");
            bail!("unknown command");
        }
    }
}

fn conform_command(words: &[&str]) -> Result<()> {
    let (server, rest) = match words {
        ["--server", "java", rest @ ..] => (conform::Server::Java, rest),
        ["--server", "apogee", rest @ ..] | rest => (conform::Server::Apogee, rest),
    };
    if matches!(server, conform::Server::Apogee) {
        suites::build_release()?;
    }
    let summary = conform::run(server, rest.first().copied())?;
    for client in &summary.skipped {
        println!("SKIPPED: {client} (its runtime is missing)");
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed > 0 {
        bail!("{} cases failed", summary.failed);
    }
    Ok(())
}

fn handover_command(only: &str) -> Result<()> {
    suites::build_release()?;
    let summary = handover::run(only)?;
    if summary.skipped {
        println!("SKIPPED: no Java or Maven on this machine");
    }
    println!("{} passed, {} failed", summary.passed, summary.failed);
    if summary.failed > 0 || summary.passed == 0 && !summary.skipped {
        bail!("{} checks failed, {} were executed", summary.failed, summary.passed);
    }
    Ok(())
}
