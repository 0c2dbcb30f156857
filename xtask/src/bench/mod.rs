//! `cargo xtask bench`: us and the original in turns, a fresh store each time, never both alive;
//! medians of pairwise ratios go to docs/performance.md.

mod scale;
mod server;
mod sessions;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// How a row is judged.
#[derive(Clone, Copy)]
enum Target {
    /// Ours divided by Java's, at least.
    AtLeast(f64),
    /// Ours divided by Java's, at most.
    AtMost(f64),
    /// Our own figure, at most.
    OwnAtMost(f64),
    /// Our own figure, at least.
    OwnAtLeast(f64),
    /// Only shown.
    Shown,
}

/// Key of the measurement, what it is, unit, and what is to be reached.
const ROWS: [(&str, &str, &str, Target); 15] = [
    ("pipelined", "SEND 1 KiB, 16 connections x 32 in flight", "msg/s", Target::AtLeast(5.0)),
    ("sync16", "SEND 1 KiB, 16 connections x 1", "msg/s", Target::AtLeast(3.5)),
    ("sync1_p50", "SEND 1 KiB, 1 connection, p50", "us", Target::AtMost(0.5)),
    ("batch", "batches of 32 x 100 B, 16 x 8", "msg/s", Target::AtLeast(2.0)),
    ("pull", "catch-up pull, 4 queues", "msg/s", Target::AtLeast(2.0)),
    ("e2e_p50", "send to receive at 2,000/s, p50", "us", Target::AtMost(0.2)),
    ("pop", "POP 32 + ACK each, 16 connections", "msg/s", Target::AtLeast(3.0)),
    ("pop_cpu", "CPU per message popped and acknowledged", "us", Target::AtMost(0.25)),
    ("pop_bytes", "bytes logged per message popped and acknowledged", "B", Target::AtMost(0.2)),
    ("transaction", "half message + commit, 16 connections x 1", "1/s", Target::AtLeast(3.0)),
    ("cpu", "CPU per message, pipelined", "us", Target::AtMost(1.0 / 7.0)),
    ("switches", "context switches per message, 16 x 1", "", Target::OwnAtMost(0.5)),
    ("start_ms", "start to first accepted message", "ms", Target::AtMost(1.0 / 20.0)),
    ("rss_mb", "resident memory when idle", "MB", Target::OwnAtMost(40.0)),
    ("queues", "rate with 4,000 queues to that with 4", "", Target::OwnAtLeast(0.9)),
];

/// The same with SYNC_FLUSH on both sides, and what lies beside the log.
const SYNC_ROWS: [(&str, &str, &str, Target); 4] = [
    ("sync1", "SEND 1 KiB, 1 connection", "msg/s", Target::AtLeast(3.0)),
    ("sync16", "SEND 1 KiB, 16 connections x 1", "msg/s", Target::AtLeast(3.0)),
    ("pipelined", "SEND 1 KiB, 16 connections x 32 in flight", "msg/s", Target::AtLeast(4.0)),
    ("beside", "disk bytes per message beside the log", "B", Target::AtMost(1.0)),
];

type Figures = BTreeMap<&'static str, f64>;

/// What one session measures: of the original or ours, quickly or not.
type Session = fn(&Path, bool, bool) -> Result<Figures>;

/// Who comes when; true is the original.
const ABBA: [bool; 4] = [false, true, true, false];

/// Both servers in turns; our figures and the original's.
fn rounds(order: &[bool], quick: bool, session: Session) -> Result<(Vec<Figures>, Vec<Figures>)> {
    let root = root()?;
    crate::suites::build_release()?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "-p", "bench"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the load tool does not build");
    }
    let (mut ours, mut javas) = (Vec::new(), Vec::new());
    for (step, java) in order.iter().copied().enumerate() {
        let name = if java { "Java" } else { "Apogee" };
        println!("step {} of {}: {name}", step + 1, order.len());
        let figures = session(root, java, quick)?;
        println!("  {figures:.1?}");
        if java { javas.push(figures) } else { ours.push(figures) }
    }
    Ok((ours, javas))
}

/// Runs the comparison and writes the first table.
pub(crate) fn vs_java(quick: bool) -> Result<()> {
    let order: &[bool] = if quick { &ABBA } else { &[ABBA, ABBA].concat() };
    let (ours, javas) = rounds(order, quick, sessions::session)?;
    let table = table(&ROWS, &ours, &javas);
    println!("\n{table}");
    let path = root()?.join("docs/performance.md");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let rest = old.split_once("\n## ").map_or(String::new(), |(_, rest)| format!("\n## {rest}"));
    std::fs::write(path, document(&table, ours.len()) + &rest)?;
    Ok(())
}

/// The comparison with SYNC_FLUSH.
pub(crate) fn sync_vs_java() -> Result<()> {
    let (ours, javas) = rounds(&ABBA, false, sessions::sync_session)?;
    let about = "`cargo xtask bench --sync-vs-java`: the same machine, both with \
                 `flushDiskType=SYNC_FLUSH`, A-B-B-A, Java warmed.";
    put_section("SYNC_FLUSH", about, &table(&SYNC_ROWS, &ours, &javas))
}

/// Large stores: consumers that come late, and starts.
pub(crate) fn scale() -> Result<()> {
    let (ours, javas) = rounds(&[false, true, false], false, scale::session)?;
    let about = "`cargo xtask bench --scale`: A-B-A. The store is written, stopped, thrown out of \
                 the page cache and started; then the live sends are measured, first alone, then \
                 beside a consumer that reads the\nold messages as fast as it can (with `nice \
                 19`: its processor time is not the broker's). Starts are counted from the \
                 command to the first accepted message.";
    put_section("Large stores", about, &table(&scale::ROWS, &ours, &javas))
}

/// Prints a table and makes it a section of the document.
fn put_section(head: &str, about: &str, table: &str) -> Result<()> {
    println!("\n{table}");
    let path = root()?.join("docs/performance.md");
    let text = std::fs::read_to_string(&path)?;
    let mut parts: Vec<String> = text.split("\n## ").map(|part| part.trim().to_owned()).collect();
    let section = format!("{head}\n\n{about}\n\n{}", table.trim());
    match parts.iter_mut().find(|part| part.lines().next() == Some(head)) {
        Some(part) => *part = section,
        None => parts.push(section),
    }
    std::fs::write(path, parts.join("\n\n## ") + "\n")?;
    Ok(())
}

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

fn table(
    rows: &[(&'static str, &str, &str, Target)],
    ours: &[Figures],
    javas: &[Figures],
) -> String {
    let mut text = String::from(
        "| What | Apogee | Java | ratio (lowest, highest) | to reach | reached |\n\
         |---|---|---|---|---|---|\n",
    );
    for &(key, what, unit, target) in rows {
        let all = |side: &[Figures]| -> Vec<f64> {
            side.iter().filter_map(|figures| figures.get(key).copied()).collect()
        };
        let (mut own, mut java) = (all(ours), all(javas));
        let mut ratios: Vec<f64> = own.iter().zip(&java).map(|(own, java)| own / java).collect();
        let (own, java, ratio) = (median(&mut own), median(&mut java), median(&mut ratios));
        let (reached, wanted) = match target {
            Target::AtLeast(limit) => (ratio >= limit, format!(">= {limit:.1}x")),
            Target::AtMost(limit) => (ratio <= limit, format!("<= {limit:.2}x")),
            Target::OwnAtMost(limit) => (own <= limit, format!("<= {limit} {unit}")),
            Target::OwnAtLeast(limit) => (own >= limit, format!(">= {limit}")),
            Target::Shown => (true, String::new()),
        };
        let spread = match (ratios.first(), ratios.last()) {
            (Some(low), Some(high)) => format!("{ratio:.3} ({low:.3}, {high:.3})"),
            _ => "-".to_owned(),
        };
        let shown = |value: f64| match value {
            value if value.is_nan() => "-".to_owned(),
            value if value >= 1000.0 => format!("{value:.0} {unit}"),
            value => format!("{value:.2} {unit}"),
        };
        let reached = match (reached, wanted.is_empty()) {
            (_, true) => "",
            (true, _) => "yes",
            (false, _) => "**no**",
        };
        let _ = writeln!(
            text,
            "| {what} | {} | {} | {spread} | {wanted} | {reached} |",
            shown(own),
            shown(java)
        );
    }
    text
}

fn document(table: &str, pairs: usize) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find(|line| line.starts_with("model name")).unwrap_or("unknown");
    let model = model.rsplit(": ").next().unwrap_or_default();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    let date = Command::new("date").arg("+%Y-%m-%d").output();
    let date = date.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    format!(
        "# Performance\n\n`cargo xtask bench --vs-java`, {}: {model}, {cores} cores, Linux {}. \
         Apache RocketMQ 5.5.0 on OpenJDK 17 with\n1 GiB of heap, asynchronous flush on both \
         sides, the load tool (`bench/`, one thread) on the same machine. Alternated\nA-B-B-A, a \
         fresh store each time, never both alive, Java warmed with the same operations and with \
         `transactionOpBatchInterval`\nraised, since 5.5.0 spins otherwise. Medians of {pairs} \
         pairwise ratios.\n\n{table}\n",
        date.unwrap_or_default(),
        kernel.trim()
    )
}
