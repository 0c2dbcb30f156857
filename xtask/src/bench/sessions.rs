//! What is measured on one fresh server.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use super::Figures;
use super::server::{Server, number, resident_mb};

/// Everything that is measured on one fresh server.
pub(super) fn session(root: &Path, java: bool, quick: bool) -> Result<Figures> {
    let server = Server::start(root, java, "ASYNC_FLUSH")?;
    let pid_number = server.pid()?;
    let pid = pid_number.to_string();
    std::thread::sleep(Duration::from_secs(3)); // idle is what is measured next
    let mut figures = Figures::new();
    figures.insert("start_ms", server.started_ms);
    figures.insert("rss_mb", resident_mb(pid_number)?);
    let seconds = if quick { "3" } else { "6" };
    server.tool(root, &["topics", "--topic", "Bench"])?;
    server.tool(root, &["topics", "--topic", "E2e"])?;
    let send = |extra: &[&str]| -> Result<String> {
        let mut arguments = vec!["send", "--pid", &pid, "--seconds", seconds];
        arguments.extend_from_slice(extra);
        server.tool(root, &arguments)
    };
    if java {
        // The virtual machine compiles what it runs often: the same operations, unmeasured.
        let warm = if quick { "8" } else { "15" };
        for inflight in ["32", "1"] {
            server.tool(root, &["send", "--seconds", warm, "--inflight", inflight])?;
        }
        server.tool(root, &["pull", "--limit", "200000"])?;
    }
    let line = send(&["--inflight", "32"])?;
    figures.insert("pipelined", number(&line, "per_second")?);
    figures.insert("cpu", number(&line, "cpu_us")?);
    let line = send(&["--inflight", "1"])?;
    figures.insert("sync16", number(&line, "per_second")?);
    figures.insert("switches", number(&line, "switches")?);
    let line = send(&["--conns", "1", "--inflight", "1"])?;
    figures.insert("sync1_p50", number(&line, "p50_us")?);
    let line = send(&["--inflight", "8", "--size", "100", "--batch", "32"])?;
    figures.insert("batch", number(&line, "per_second")?);
    let line = server.tool(root, &["pull", "--limit", "600000"])?;
    figures.insert("pull", number(&line, "per_second")?);
    figures.extend(pops(&server, root, &pid, java, quick)?);
    if java {
        server.tool(root, &["transaction", "--seconds", "8"])?;
    }
    let line = server.tool(root, &["transaction", "--seconds", seconds])?;
    figures.insert("transaction", number(&line, "per_second")?);
    let line = server.tool(root, &["e2e", "--seconds", seconds])?;
    figures.insert("e2e_p50", number(&line, "p50_us")?);
    if !java {
        server.tool(root, &["topics", "--topic", "Many", "--topics", "500", "--queues", "8"])?;
        let many = ["--inflight", "32", "--topic", "Many", "--topics", "500", "--queues", "8"];
        let many = number(&send(&many)?, "per_second")?;
        let few = number(&send(&["--inflight", "32"])?, "per_second")?;
        figures.insert("queues", many / few);
    }
    Ok(figures)
}

/// What is measured with SYNC_FLUSH.
pub(super) fn sync_session(root: &Path, java: bool, _: bool) -> Result<Figures> {
    let server = Server::start(root, java, "SYNC_FLUSH")?;
    server.tool(root, &["topics", "--topic", "Bench"])?;
    let before = beside_log(&server.home)?;
    let mut figures = Figures::new();
    let mut sent = 0.0;
    let warm = if java { "10" } else { "1" };
    for (key, connections, inflight) in
        [("sync1", "1", "1"), ("sync16", "16", "1"), ("pipelined", "16", "32")]
    {
        let mut send = |seconds: &str| -> Result<f64> {
            let load = ["--conns", connections, "--inflight", inflight, "--seconds", seconds];
            let line = server.tool(root, &[&["send"][..], &load].concat())?;
            let rate = number(&line, "per_second")?;
            sent += rate * seconds.parse::<f64>()?;
            Ok(rate)
        };
        send(warm)?;
        figures.insert(key, send("6")?);
    }
    // Everything that is lazy has been written by then.
    std::thread::sleep(Duration::from_secs(12));
    figures.insert("beside", (beside_log(&server.home)? - before) / sent);
    Ok(figures)
}

/// Bytes of disk that everything in stores below a directory takes, but for the commit logs.
fn beside_log(dir: &Path) -> Result<f64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0.0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "commitlog" || name == "logs" {
            continue;
        }
        let meta = entry.metadata()?;
        let below = if meta.is_dir() { beside_log(&entry.path())? } else { 0.0 };
        bytes += meta.blocks() as f64 * 512.0 + below;
    }
    Ok(bytes)
}

/// Pop and acknowledge on a topic of its own, after a run that only warms up.
fn pops(server: &Server, root: &Path, pid: &str, java: bool, quick: bool) -> Result<Figures> {
    server.tool(root, &["topics", "--topic", "Pop"])?;
    server.tool(root, &["send", "--topic", "Pop", "--inflight", "32", "--seconds", "8"])?;
    if java {
        server.tool(root, &["pop", "--group", "warm", "--limit", "60000"])?;
    }
    let limit = if quick || java { "60000" } else { "300000" };
    let line = server.tool(root, &["pop", "--pid", pid, "--limit", limit])?;
    let mut figures = Figures::new();
    figures.insert("pop", number(&line, "per_second")?);
    figures.insert("pop_cpu", number(&line, "cpu_us")?);
    figures.insert("pop_bytes", number(&line, "bytes")?);
    Ok(figures)
}
