//! `cargo xtask bench --vs-java`: us and the original in turns, A-B-B-A, a fresh store each time,
//! never both alive; medians of pairwise ratios go to docs/performance.md.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

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
    ("queues", "rate with 4,000 queues to that with 4", "", Target::OwnAtLeast(0.8)),
];

/// The same with SYNC_FLUSH on both sides, and what lies beside the log.
const SYNC_ROWS: [(&str, &str, &str, Target); 4] = [
    ("sync1", "SEND 1 KiB, 1 connection", "msg/s", Target::AtLeast(3.0)),
    ("sync16", "SEND 1 KiB, 16 connections x 1", "msg/s", Target::AtLeast(3.0)),
    ("pipelined", "SEND 1 KiB, 16 connections x 32 in flight", "msg/s", Target::AtLeast(4.0)),
    ("beside", "disk bytes per message beside the log", "B", Target::AtMost(1.0)),
];

type Figures = BTreeMap<&'static str, f64>;

/// A server of either kind, by the same commands.
struct Server {
    script: PathBuf,
    home: PathBuf,
    broker: u16,
    java: bool,
    started_ms: f64,
}

impl Server {
    fn start(root: &Path, java: bool, flush: &str) -> Result<Server> {
        let script = if java { "reference/reference.sh" } else { "apogee.sh" };
        let script = root.join("tests/conformance").join(script);
        let home = std::env::temp_dir().join(format!("apogee-bench-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&home); // of an earlier session
        std::fs::create_dir_all(&home)?;
        let conf = home.join("extra.properties");
        // 5.5.0 keeps a core busy for nothing without the first two. Light queues, which the
        // conformance runs switch on, are off as by default: they would slow the original down.
        std::fs::write(
            &conf,
            format!(
                "transactionOpBatchInterval=2000000000\ntransactionOpMsgMaxSize=1\n\
                 flushDiskType={flush}\nenableLmq=false\nenableMultiDispatch=false\n"
            ),
        )?;
        let (ns, broker) = (free_port()?, free_port()?);
        #[allow(clippy::disallowed_methods)] // measures
        let started = Instant::now();
        let mut command = Command::new(&script);
        command.env("APOGEE_BIN", crate::suites::release(root, "apogee"));
        command.arg("start").arg("--home").arg(&home).args(["--ns", &ns.to_string()]);
        command.args(["--broker", &broker.to_string()]).arg("--conf").arg(&conf);
        let status = command.stdout(Stdio::null()).status()?;
        if !status.success() {
            bail!("{} start ended with {status}", script.display());
        }
        let mut server = Server { script, home, broker, java, started_ms: 0.0 };
        server.tool(root, &["topics", "--topic", "First"])?;
        let once =
            ["send", "--topic", "First", "--conns", "1", "--inflight", "1", "--seconds", "0"];
        server.tool(root, &once)?;
        server.started_ms = started.elapsed().as_secs_f64() * 1000.0;
        Ok(server)
    }

    /// Process of the broker: the one that listens on its port.
    fn pid(&self) -> Result<u32> {
        let name = if self.java { "broker-a.pid" } else { "pid" };
        for candidate in [name, "broker.pid", "pid"] {
            if let Ok(text) = std::fs::read_to_string(self.home.join(candidate)) {
                return Ok(text.trim().parse()?);
            }
        }
        bail!("no pid file in {}", self.home.display())
    }

    /// Runs the load tool and returns its line.
    fn tool(&self, root: &Path, arguments: &[&str]) -> Result<String> {
        let address = format!("127.0.0.1:{}", self.broker);
        let output = Command::new(crate::suites::release(root, "bench"))
            .arg(arguments[0])
            .args(["--addr", &address])
            .args(&arguments[1..])
            .stderr(Stdio::inherit())
            .output()?;
        if !output.status.success() {
            bail!("bench {} failed", arguments.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let mut stop = Command::new(&self.script);
        let _ = stop.arg("stop").arg("--home").arg(&self.home).status(); // best effort
        let _ = std::fs::remove_dir_all(&self.home);
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// A number of the tool's JSON line.
fn number(line: &str, name: &str) -> Result<f64> {
    let found = line.split(&format!("\"{name}\":")).nth(1);
    let text = found.and_then(|rest| rest.split([',', '}']).next());
    text.and_then(|text| text.parse().ok()).with_context(|| format!("no {name} in {line}"))
}

fn resident_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? / 1024.0)
}

/// Everything that is measured on one fresh server.
fn session(root: &Path, java: bool, quick: bool) -> Result<Figures> {
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
fn sync_session(root: &Path, java: bool, _: bool) -> Result<Figures> {
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

/// The comparison with SYNC_FLUSH; prints its table, and puts it into the document.
pub(crate) fn sync_vs_java() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let (ours, javas) = rounds(root, 1, false, sync_session)?;
    let table = table(&SYNC_ROWS, &ours, &javas);
    println!("\n{table}");
    let path = root.join("docs/performance.md");
    let text = std::fs::read_to_string(&path)?;
    let before = text.split(SYNC_HEAD).next().unwrap_or_default().trim_end();
    let body = format!(
        "{before}\n\n{SYNC_HEAD}\n\n`cargo xtask bench --sync-vs-java`: the same machine, both \
         with `flushDiskType=SYNC_FLUSH`, A-B-B-A, Java warmed.\n\n{table}"
    );
    std::fs::write(path, body)?;
    Ok(())
}

const SYNC_HEAD: &str = "## SYNC_FLUSH";

/// What one session measures: of the original or ours, quickly or not.
type Session = fn(&Path, bool, bool) -> Result<Figures>;

/// Both servers in turns; our figures and the original's.
fn rounds(
    root: &Path,
    rounds: usize,
    quick: bool,
    session: Session,
) -> Result<(Vec<Figures>, Vec<Figures>)> {
    crate::suites::build_release()?;
    let status = Command::new("cargo")
        .args(["build", "--release", "--quiet", "-p", "bench"])
        .current_dir(root)
        .status()?;
    if !status.success() {
        bail!("the load tool does not build");
    }
    let (mut ours, mut javas) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for (step, java) in [false, true, true, false].into_iter().enumerate() {
            let name = if java { "Java" } else { "Apogee" };
            println!("round {} of {rounds}, step {}: {name}", round + 1, step + 1);
            let figures = session(root, java, quick)?;
            println!("  {figures:.1?}");
            if java { javas.push(figures) } else { ours.push(figures) }
        }
    }
    Ok((ours, javas))
}

/// Runs the comparison and writes the table.
pub(crate) fn vs_java(quick: bool) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("workspace root")?;
    let (ours, javas) = rounds(root, if quick { 1 } else { 2 }, quick, session)?;
    let table = table(&ROWS, &ours, &javas);
    println!("\n{table}");
    let path = root.join("docs/performance.md");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let rest = old.split_once("\n## ").map_or(String::new(), |(_, rest)| format!("\n## {rest}"));
    std::fs::write(path, document(&table, ours.len()) + &rest)?;
    Ok(())
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
        let reached = if reached { "yes" } else { "**no**" };
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
