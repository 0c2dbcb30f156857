//! Starts real `apogee` processes for tests and speaks to them over real sockets.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use net::client::{Client, Command as Answer};
use wire::codes::request as code;
use wire::header::{NoFields, Pairs};
use wire::record;
use wire::requests::{PullMessage, SendMessage};

/// How long a server may take to start, answer or end.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory that is removed with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory.
    pub fn new(name: &str) -> Result<TempDir> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("apogee-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        Ok(TempDir(dir))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0); // a leftover only costs room
    }
}

/// A port that was free a moment ago; below those that the system gives to clients, of which one
/// might get it while a server is down, and be connected to itself.
pub fn free_port() -> Result<u16> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() * 37);
        let port = (FIRST + number % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}

/// A running process of any role. It is killed with the value.
pub struct Process {
    child: Child,
    /// What it printed until it was ready.
    pub greeting: Vec<String>,
}

impl Process {
    /// Starts the program and waits until it says that it is ready.
    pub fn start(binary: &Path, arguments: &[String]) -> Result<Process> {
        let mut child = Command::new(binary)
            .args(arguments)
            .env("APOGEE_LOG", std::env::var("APOGEE_LOG").unwrap_or_else(|_| "warn".into()))
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", binary.display()))?;
        let stdout = child.stdout.take().context("no stdout")?;
        let mut greeting = Vec::new();
        let mut lines = BufReader::new(stdout).lines();
        for line in &mut lines {
            let line = line?;
            let ready = line.contains("ready");
            greeting.push(line);
            if ready {
                // Whatever it prints later must not block it.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(Process { child, greeting });
            }
        }
        let status = child.wait()?;
        bail!("the server ended with {status} before it was ready: {greeting:?}")
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM; the exit code must be 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = Command::new("kill").arg("-TERM").arg(self.child.id().to_string()).status()?;
        if !status.success() {
            bail!("cannot signal the server");
        }
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the server ended with {status}");
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended already
        let _ = self.child.wait();
    }
}

/// A running all-in-one process.
pub struct Server {
    process: Process,
    binary: PathBuf,
    arguments: Vec<String>,
    /// `host:port` of the name server.
    pub namesrv: String,
    /// `host:port` of the broker.
    pub broker: String,
}

impl Server {
    /// Starts name server and broker with data under `dir` and these extra broker settings.
    pub fn start(binary: impl AsRef<Path>, dir: &Path, settings: &str) -> Result<Server> {
        Self::start_on(binary, dir, "127.0.0.1", settings)
    }

    /// The same on another address of this machine, in the form that stands before a port.
    pub fn start_on(
        binary: impl AsRef<Path>,
        dir: &Path,
        host: &str,
        settings: &str,
    ) -> Result<Server> {
        let (namesrv, broker) = (free_port()?, free_port()?);
        let config = dir.join("broker.conf");
        std::fs::write(&config, format!("listenPort={broker}\nbindAddress={host}\n{settings}\n"))?;
        let arguments = vec![
            "--data".to_owned(),
            dir.join("data").display().to_string(),
            "-c".to_owned(),
            config.display().to_string(),
            "--namesrv-listen".to_owned(),
            format!("{host}:{namesrv}"),
        ];
        let binary = binary.as_ref().to_path_buf();
        let process = Process::start(&binary, &arguments)?;
        let (namesrv, broker) = (format!("{host}:{namesrv}"), format!("{host}:{broker}"));
        Ok(Server { process, binary, arguments, namesrv, broker })
    }

    /// A connection to the broker.
    pub fn connect(&self) -> Result<Client> {
        Client::connect(&self.broker, PATIENCE).context("broker")
    }

    /// A connection to the name server.
    pub fn connect_namesrv(&self) -> Result<Client> {
        Client::connect(&self.namesrv, PATIENCE).context("name server")
    }

    /// What the process printed while it started.
    pub fn greeting(&self) -> &[String] {
        &self.process.greeting
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// kill -9.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()
    }

    /// SIGTERM; the exit code must be 0.
    pub fn stop(&mut self) -> Result<()> {
        self.process.stop()
    }

    /// Starts the process again on the same data and ports.
    pub fn restart(&mut self) -> Result<()> {
        self.process = Process::start(&self.binary, &self.arguments)?;
        Ok(())
    }
}

/// A plain send to one queue; adjust it with struct update syntax.
pub fn send_to<'a>(topic: &'a str, queue_id: i32, properties: &'a str) -> SendMessage<'a> {
    SendMessage {
        producer_group: "testkit",
        topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id,
        sys_flag: 0,
        born_timestamp: base::clock::Clock::system().now_ms(),
        flag: 0,
        properties: Some(properties),
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    }
}

/// Sends one message with code 10.
pub fn send(
    client: &mut Client,
    topic: &str,
    queue_id: i32,
    properties: &str,
    body: &[u8],
) -> Result<Answer> {
    Ok(client.call(code::SEND_MESSAGE, &send_to(topic, queue_id, properties), body)?)
}

/// A pull that brings its own expression and does not wait; adjust it with struct update syntax.
pub fn pull_from<'a>(topic: &'a str, queue_id: i32, offset: i64) -> PullMessage<'a> {
    PullMessage {
        consumer_group: "testkit",
        topic,
        queue_id,
        queue_offset: offset,
        max_msg_nums: 32,
        sys_flag: 4,
        commit_offset: 0,
        suspend_timeout_millis: 0,
        subscription: Some("*"),
        sub_version: 0,
        expression_type: Some("TAG"),
    }
}

/// A message as a test looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Queue offset.
    pub offset: i64,
    /// Commit log offset.
    pub physical_offset: i64,
    /// Body.
    pub body: Vec<u8>,
    /// Properties text.
    pub properties: String,
    /// Retry count.
    pub reconsume_times: i32,
}

/// The messages of a pull answer.
pub fn messages(body: &[u8]) -> Vec<Message> {
    let decoded = record::records(body).map(|record| record.expect("a stored record"));
    decoded
        .map(|record| Message {
            offset: record.queue_offset(),
            physical_offset: record.physical_offset(),
            body: record.body().to_vec(),
            properties: record.properties().to_owned(),
            reconsume_times: record.reconsume_times(),
        })
        .collect()
}

/// Everything of a queue from an offset on.
pub fn pull_all(
    client: &mut Client,
    topic: &str,
    queue_id: i32,
    from: i64,
) -> Result<Vec<Message>> {
    let mut all = Vec::new();
    let mut offset = from;
    loop {
        let answer = client.call(code::PULL_MESSAGE, &pull_from(topic, queue_id, offset), b"")?;
        let next = answer.field("nextBeginOffset").and_then(|o| o.parse().ok());
        match answer.code {
            0 => all.extend(messages(&answer.body)),
            19 => return Ok(all),
            20 | 21 => {}
            code => bail!("pull answered {code}: {:?}", answer.remark),
        }
        let next = next.context("no next offset")?;
        if answer.code == 21 && next >= offset && all.is_empty() && next == 0 {
            return Ok(all);
        }
        offset = next;
    }
}

/// Creates a topic with code 17.
pub fn create_topic(client: &mut Client, topic: &str, queues: i32) -> Result<Answer> {
    let queues = queues.to_string();
    let fields = [
        ("topic", topic),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", &queues),
        ("writeQueueNums", &queues),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
    ];
    Ok(client.call(code::UPDATE_AND_CREATE_TOPIC, &Pairs(&fields), b"")?)
}

/// A call with fields given as pairs.
pub fn call(
    client: &mut Client,
    code: i32,
    fields: &[(&str, &str)],
    body: &[u8],
) -> Result<Answer> {
    if fields.is_empty() {
        return Ok(client.call(code, &NoFields, body)?);
    }
    Ok(client.call(code, &Pairs(fields), body)?)
}
