//! Conformance: published client programs, unmodified, run one scenario list against a server.
//!
//! The client programs and the scripts that control a server live in `tests/conformance`; the list
//! is `SCENARIOS.md` there. They are proven against the original server and then run against ours.
#![expect(clippy::print_stdout, reason = "the lines are what a person or CI reads")]

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::suites;

/// The server that the clients talk to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Ours: the release build of this checkout.
    Apogee,
    /// The original, from its published artifacts.
    Java,
}

impl Server {
    /// What clients are told, for bounds that only ours keeps.
    fn name(self) -> &'static str {
        match self {
            Self::Apogee => "apogee",
            Self::Java => "java",
        }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Cases that went as expected.
    pub(crate) passed: usize,
    /// Cases that did not, and clients that ended before their time.
    pub(crate) failed: usize,
    /// Clients that could not run here, with the reason.
    pub(crate) skipped: Vec<String>,
    /// The case lines of all clients.
    pub(crate) lines: Vec<String>,
}

/// One client program at one version.
struct Client {
    label: &'static str,
    script: &'static str,
    args: &'static [&'static str],
}

const CLIENTS: [Client; 6] = [
    Client { label: "java-5.5.0", script: "java/client.sh", args: &["5.5.0"] },
    Client { label: "java-5.1.4", script: "java/client.sh", args: &["5.1.4"] },
    Client { label: "java-4.9.8", script: "java/client.sh", args: &["4.9.8"] },
    Client { label: "go-2.1.2", script: "go/client.sh", args: &[] },
    Client { label: "python-0.4.4", script: "python/client.sh", args: &[] },
    Client { label: "mqadmin-5.5.0", script: "mqadmin/client.sh", args: &["5.5.0"] },
];

/// What a client script answers when its language is missing here.
const NOT_HERE: i32 = 77;

/// Longest run of one client; the script ends it then.
const CLIENT_SECONDS: u64 = 240;

/// Runs the clients, one after the other, against one fresh server.
///
/// `only` is the beginning of a client's label, such as `go` or `java-5`; after a colon may follow
/// a regular expression for the names of scenarios, such as `java:push-.*`.
///
/// # Errors
///
/// When the server cannot be started. What a client finds wrong is in the summary.
pub(crate) fn run(server: Server, only: Option<&str>) -> Result<Summary> {
    let root = folder()?;
    let (label, scenarios) = match only.and_then(|text| text.split_once(':')) {
        Some((label, scenarios)) => (label, Some(scenarios)),
        None => (only.unwrap_or_default(), None),
    };
    let mut summary = Summary::default();
    let mut ready = Vec::new();
    for client in CLIENTS.iter().filter(|client| client.label.starts_with(label)) {
        if prepare(&root, client, &mut summary)? {
            ready.push(client);
        }
    }
    if ready.is_empty() && summary.skipped.is_empty() && summary.failed == 0 {
        bail!("no client is called {label}");
    }
    if ready.is_empty() {
        return Ok(summary);
    }
    println!("conform: starting the server");
    let running = Running::start(&root, server)?;
    for client in ready {
        println!("conform: {} runs", client.label);
        run_client(&root, client, &running, scenarios, &mut summary)?;
    }
    if summary.failed == 0 {
        running.forget_files();
    } else {
        println!("conform: settings and logs are kept in {}", running.home.display());
    }
    Ok(summary)
}

fn folder() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/conformance");
    root.canonicalize().with_context(|| format!("no folder {}", root.display()))
}

/// Builds or installs a client. False when it cannot run; the summary tells why.
fn prepare(root: &Path, client: &Client, summary: &mut Summary) -> Result<bool> {
    println!("conform: preparing {}", client.label);
    let status = Command::new(root.join(client.script))
        .arg("prepare")
        .args(client.args)
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot run {}", client.script))?;
    if status.code() == Some(NOT_HERE) {
        println!("conform: !!!! {} IS SKIPPED: its language is not on this machine", client.label);
        summary.skipped.push(format!("{}: its language is not on this machine", client.label));
    } else if !status.success() {
        fail(client, &format!("cannot be prepared: {status}"), summary);
    }
    Ok(status.success())
}

/// Counts a failure of a whole client as a case of its own.
fn fail(client: &Client, reason: &str, summary: &mut Summary) {
    take(&format!("case {} whole-run FAILED {reason}", client.label), summary);
}

/// Looks at one line of a client; true when it is the closing one.
fn take(line: &str, summary: &mut Summary) -> bool {
    if let Some(case) = line.strip_prefix("case ") {
        println!("{line}");
        match case.split(' ').nth(2) {
            Some("ok") => summary.passed += 1,
            _ => summary.failed += 1,
        }
        summary.lines.push(line.to_owned());
        return false;
    }
    line.contains(" passed, ") && line.ends_with(" failed")
}

fn run_client(
    root: &Path,
    client: &Client,
    running: &Running,
    scenarios: Option<&str>,
    summary: &mut Summary,
) -> Result<()> {
    let mut command = Command::new(root.join(client.script));
    command
        .arg("run")
        .args(client.args)
        .env("SERVER", running.server.name())
        .env("NAMESRV_ADDR", format!("127.0.0.1:{}", running.namesrv))
        .env("BROKER_ADDR", format!("127.0.0.1:{}", running.broker))
        .env("METRICS_ADDR", format!("127.0.0.1:{}", running.metrics))
        .env("RESTART_BROKER", running.command_line("restart-broker"))
        .env(
            "KILL_BROKER",
            [running.command_line("kill"), running.command_line("restart-broker")].join(" && "),
        )
        .env("APOGEE_BIN", &running.program) // the two lines above start it
        .env("CLIENT_SECONDS", CLIENT_SECONDS.to_string())
        .env_remove("ONLY")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(running.home.join(format!("{}.stderr", client.label)))?);
    if let Some(scenarios) = scenarios {
        command.env("ONLY", scenarios);
    }
    let before = (summary.passed, summary.failed);
    let mut child = command.spawn().with_context(|| format!("cannot run {}", client.script))?;
    let output = child.stdout.take().context("a piped output is there")?;
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    let mut closed = false;
    let silence = Duration::from_secs(CLIENT_SECONDS + 30);
    let stuck = loop {
        match lines.recv_timeout(silence) {
            Ok(line) => closed |= take(&line, summary),
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if stuck {
        child.kill().context("cannot end a client that is stuck")?;
    }
    let status = child.wait().context("cannot wait for a client")?;
    judge_end(client, status, closed, before, summary);
    let (passed, failed) = (summary.passed - before.0, summary.failed - before.1);
    println!("{}: {passed} passed, {failed} failed", client.label);
    Ok(())
}

/// A client that broke off, or that found nothing wrong but says it did, counts as failed.
fn judge_end(
    client: &Client,
    status: ExitStatus,
    closed: bool,
    before: (usize, usize),
    summary: &mut Summary,
) {
    let cases = summary.passed + summary.failed - before.0 - before.1;
    if !closed {
        fail(client, &format!("broke off: {status}"), summary);
    } else if cases == 0 {
        fail(client, "ran no scenario", summary);
    } else if !status.success() && summary.failed == before.1 {
        fail(client, &format!("no case failed, but: {status}"), summary);
    }
}

/// A server that runs; it is stopped when this goes out of scope.
struct Running {
    server: Server,
    script: PathBuf,
    program: PathBuf,
    home: PathBuf,
    namesrv: u16,
    broker: u16,
    metrics: u16,
}

impl Running {
    fn start(root: &Path, server: Server) -> Result<Self> {
        let [namesrv, broker, metrics] = free_ports()?;
        let script = root.join(match server {
            Server::Apogee => "apogee.sh",
            Server::Java => "reference/reference.sh",
        });
        let name = format!("apogee-conform-{}-{namesrv}", std::process::id());
        let home = std::env::temp_dir().join(&name);
        // Made first, so that whatever a failed start leaves behind is stopped as well.
        let program = suites::release(&root.join("../.."), "apogee");
        let running = Self { server, script, program, home, namesrv, broker, metrics };
        let settings = std::env::temp_dir().join(format!("{name}.properties"));
        std::fs::write(&settings, running.settings()).context("cannot write settings")?;
        let status = running
            .command("start")
            .args(["--ns", &namesrv.to_string(), "--broker", &broker.to_string()])
            .arg("--conf")
            .arg(&settings)
            .status()
            .context("cannot run the script of the server")?;
        std::fs::remove_file(&settings).context("cannot remove settings")?;
        if !status.success() {
            bail!("the server did not start ({status}); see {}", running.home.display());
        }
        Ok(running)
    }

    /// What both servers are told besides their ports.
    fn settings(&self) -> String {
        format!(
            "metricsExporterType=PROM\nmetricsPromExporterHost=127.0.0.1\n\
             metricsPromExporterPort={}\n",
            self.metrics
        )
    }

    fn command(&self, what: &str) -> Command {
        let mut command = Command::new(&self.script);
        command.env("APOGEE_BIN", &self.program);
        command.arg(what).arg("--home").arg(&self.home).stdin(Stdio::null());
        command
    }

    /// The same as a line for a shell.
    fn command_line(&self, what: &str) -> String {
        let quote =
            |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        format!("{} {what} --home {}", quote(&self.script), quote(&self.home))
    }

    fn stop(&self) {
        if !matches!(self.command("stop").status(), Ok(status) if status.success()) {
            println!("conform: the server could not be stopped; see {}", self.home.display());
        }
    }

    /// Stops the server now and removes what it stored.
    fn forget_files(&self) {
        self.stop();
        if let Err(error) = std::fs::remove_dir_all(&self.home) {
            println!("conform: {} stays behind: {error}", self.home.display());
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Stopping twice does no harm: the scripts find nothing left to stop.
        if self.home.exists() {
            self.stop();
        }
    }
}

/// Ports for the name server, for the broker and for its metrics. The neighbours of the second are
/// free as well: brokers listen at -2 for urgent traffic and at +1 for replication.
///
/// They are below those that the system gives to clients: one that tries to reach a server that
/// was killed may be given the very port, is connected to itself, and keeps the server away.
pub(crate) fn free_ports() -> Result<[u16; 3]> {
    const FIRST: u16 = 20_000;
    const BLOCKS: u16 = 1200;
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let begin = std::process::id() % u32::from(BLOCKS);
    for number in 0..BLOCKS {
        let base = FIRST + ((begin as u16 + number) % BLOCKS) * 10;
        if (base..base + 6).all(free) {
            return Ok([base, base + 3, base + 5]);
        }
    }
    bail!("no free ports side by side")
}
