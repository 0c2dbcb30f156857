//! A store that is larger than what its users look at: consumers that come late, and starts.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, bail};

use super::server::{Server, number};
use super::{Figures, Target, median};

/// What is shown and judged.
pub(super) const ROWS: [(&str, &str, &str, Target); 7] = [
    ("alone", "send 1 KiB at 5,000/s on 16 connections, p99", "us", Target::Shown),
    ("beside", "the same beside a cold catch-up of 4 GB", "us", Target::Shown),
    ("share", "the second to the first", "", Target::OwnAtMost(2.0)),
    ("catch_up", "rate of the catch-up", "msg/s", Target::Shown),
    ("empty_ms", "start with an empty store", "ms", Target::Shown),
    ("clean_ms", "start with 10 GB after a clean stop, above that", "ms", Target::OwnAtMost(300.0)),
    ("killed_ms", "the same after kill -9 at full rate", "ms", Target::OwnAtMost(1000.0)),
];

/// Messages that the late consumer reads: 4 GB with their records' heads.
const OLD: f64 = 3_600_000.0;
/// How long the disk has to be at rest before anything is measured.
const CALM: Duration = Duration::from_secs(15);
/// Messages of the whole store of ours: 10 GB.
const WHOLE: f64 = 9_000_000.0;

/// See the module. Starts of the original are not measured: its part ends with the catch-up.
pub(super) fn session(root: &Path, java: bool, _: bool) -> Result<Figures> {
    let server = Server::start(root, java, "ASYNC_FLUSH")?;
    let mut figures = Figures::from([("empty_ms", server.started_ms)]);
    for topic in ["Bench", "Live"] {
        server.tool(root, &["topics", "--topic", topic])?;
    }
    let mut sent = fill(&server, root, 0.0, OLD)?;
    // A kill, so that the name server of the original goes on.
    server.command("kill")?;
    forget(&server.home)?;
    server.start_again(root)?;
    std::thread::sleep(CALM);
    catch_up(&server, root, &mut figures, java)?;
    if !java {
        sent = fill(&server, root, sent, WHOLE)?;
        println!("  {sent} messages");
        server.command("stop")?;
        figures.insert("clean_ms", server.start_again(root)? - server.started_ms);
        kill_under_load(&server, root)?;
        figures.insert("killed_ms", server.start_again(root)? - server.started_ms);
    }
    Ok(figures)
}

/// Sends until there are so many messages; what is lazy is written when it returns.
fn fill(server: &Server, root: &Path, mut sent: f64, until: f64) -> Result<f64> {
    while sent < until {
        let line = server.tool(root, &["send", "--inflight", "32", "--seconds", "10"])?;
        sent += number(&line, "messages")?;
    }
    std::thread::sleep(CALM);
    Ok(sent)
}

/// Live sends alone, then beside a consumer of what is not in memory: medians of three runs each.
fn catch_up(server: &Server, root: &Path, figures: &mut Figures, java: bool) -> Result<()> {
    let live = |seconds: &str| -> Result<f64> {
        let load = ["--topic", "Live", "--rate", "5000", "--inflight", "1", "--seconds", seconds];
        number(&server.tool(root, &[&["send"][..], &load].concat())?, "p99_us")
    };
    let three = || -> Result<f64> { Ok(median(&mut [live("3")?, live("3")?, live("3")?])) };
    live(if java { "10" } else { "2" })?;
    figures.insert("alone", three()?);
    let limit = format!("{OLD}");
    let mut late = server.start_tool(root, &["pull", "--limit", &limit], true)?;
    figures.insert("beside", three()?);
    if late.try_wait()?.is_some() {
        bail!("the catch-up ended before the sends did");
    }
    let line = String::from_utf8(late.wait_with_output()?.stdout)?;
    figures.insert("catch_up", number(&line, "per_second")?);
    figures.insert("share", figures["beside"] / figures["alone"]);
    Ok(())
}

/// Kills the server while it takes all that comes.
fn kill_under_load(server: &Server, root: &Path) -> Result<()> {
    let mut load =
        server.start_tool(root, &["send", "--inflight", "32", "--seconds", "60"], false)?;
    std::thread::sleep(Duration::from_secs(7));
    server.command("kill")?;
    let _ = load.wait(); // it lost its server
    Ok(())
}

/// Throws the files of a store out of the page cache.
fn forget(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget(&path)?;
            continue;
        }
        let mut dd = Command::new("dd");
        dd.arg(format!("of={}", path.display()));
        dd.args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"]);
        if !dd.status()?.success() {
            bail!("dd cannot drop {} from the page cache", path.display());
        }
    }
    Ok(())
}
