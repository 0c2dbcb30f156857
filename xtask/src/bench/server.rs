//! A server under load, of either kind, and the load tool.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

/// A server of either kind, by the same commands.
pub(super) struct Server {
    script: PathBuf,
    pub(super) home: PathBuf,
    broker: u16,
    java: bool,
    /// From the command to the first accepted message.
    pub(super) started_ms: f64,
}

impl Server {
    pub(super) fn start(root: &Path, java: bool, flush: &str) -> Result<Server> {
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
        server.first_message(root)?;
        server.started_ms = started.elapsed().as_secs_f64() * 1000.0;
        Ok(server)
    }

    fn first_message(&self, root: &Path) -> Result<()> {
        let once =
            ["send", "--topic", "First", "--conns", "1", "--inflight", "1", "--seconds", "0"];
        self.tool(root, &once).map(drop)
    }

    /// Starts again what was stopped or killed; milliseconds from the command to the first
    /// accepted message.
    pub(super) fn start_again(&self, root: &Path) -> Result<f64> {
        #[allow(clippy::disallowed_methods)] // measures
        let started = Instant::now();
        self.command("restart-broker")?;
        self.first_message(root)?;
        Ok(started.elapsed().as_secs_f64() * 1000.0)
    }

    /// Runs a command of the script that needs no more than the directory.
    pub(super) fn command(&self, name: &str) -> Result<()> {
        let mut command = Command::new(&self.script);
        let status = command.arg(name).arg("--home").arg(&self.home).status()?;
        if !status.success() {
            bail!("{} {name} ended with {status}", self.script.display());
        }
        Ok(())
    }

    /// Process of the broker: the one that listens on its port.
    pub(super) fn pid(&self) -> Result<u32> {
        let name = if self.java { "broker-a.pid" } else { "pid" };
        for candidate in [name, "broker.pid", "pid"] {
            if let Ok(text) = std::fs::read_to_string(self.home.join(candidate)) {
                return Ok(text.trim().parse()?);
            }
        }
        bail!("no pid file in {}", self.home.display())
    }

    /// Runs the load tool and returns its line.
    pub(super) fn tool(&self, root: &Path, arguments: &[&str]) -> Result<String> {
        let tool = self.start_tool(root, arguments, false)?;
        let output = tool.wait_with_output()?;
        if !output.status.success() {
            bail!("bench {} failed", arguments.join(" "));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts the load tool; a polite one takes only the processor time that nobody else wants.
    pub(super) fn start_tool(&self, root: &Path, words: &[&str], polite: bool) -> Result<Child> {
        let address = format!("127.0.0.1:{}", self.broker);
        let mut command = Command::new("nice");
        command.args(["-n", if polite { "19" } else { "0" }]);
        command.arg(crate::suites::release(root, "bench")).arg(words[0]);
        command.args(["--addr", &address]).args(&words[1..]);
        Ok(command.stdout(Stdio::piped()).spawn()?)
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
pub(super) fn number(line: &str, name: &str) -> Result<f64> {
    let found = line.split(&format!("\"{name}\":")).nth(1);
    let text = found.and_then(|rest| rest.split([',', '}']).next());
    text.and_then(|text| text.parse().ok()).with_context(|| format!("no {name} in {line}"))
}

pub(super) fn resident_mb(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    Ok(kib.context("no VmRSS")? / 1024.0)
}
