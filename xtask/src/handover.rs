//! `cargo xtask handover`: one store directory, served in turn by the original and by ours.
//!
//! Both servers get the same directory, ports and file sizes. The original's own client library
//! fills whichever runs, writes down everything that it sees of it, and looks afterwards for what
//! was to come; its program is in `tests/handover`. What one server showed the next must show.
#![expect(clippy::print_stdout, reason = "the lines are what a person or CI reads")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::conform::{Server, free_ports};
use crate::suites;

/// What a client script answers when Java is missing here.
const NOT_HERE: i32 = 77;
/// Log files after which a server under load is killed: more than the ten newest that the original
/// looks through, and, on a machine that is not too slow, before ours makes a checkpoint by time.
const LOG_FILES: usize = 22;
/// How long that may take.
const LOAD_LIMIT: Duration = Duration::from_secs(60);
/// Topics that get messages by themselves while nobody sends.
const MOVING: [&str; 9] = [
    "HandWake",
    "HandLater",
    "HandTransaction",
    "%RETRY%HandRetryGroup",
    "%RETRY%HandPopGroup_",
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "rmq_sys_wheel_timer",
];

/// What a run came to.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Checks that held.
    pub(crate) passed: usize,
    /// Checks that did not.
    pub(crate) failed: usize,
    /// There is no Java here.
    pub(crate) skipped: bool,
}

impl Summary {
    fn check(&mut self, right: bool, text: impl FnOnce() -> String) {
        if right {
            self.passed += 1;
        } else {
            self.failed += 1;
            println!("handover: WRONG {}", text());
        }
    }
}

/// Runs the scenarios; `only` is the beginning of a name.
///
/// # Errors
///
/// When a server or the client program cannot be started.
pub(crate) fn run(only: &str) -> Result<Summary> {
    let mut summary = Summary::default();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests").canonicalize()?;
    let prepared = Command::new(tests.join("handover/client.sh")).arg("prepare").status()?;
    if prepared.code() == Some(NOT_HERE) {
        summary.skipped = true;
        return Ok(summary);
    }
    if !prepared.success() {
        bail!("the client program of tests/handover cannot be built: {prepared}");
    }
    type Scenario = fn(&Place, &mut Summary) -> Result<()>;
    let scenarios: [(&str, Scenario); 4] = [
        ("clean", clean),
        ("killed-apogee", killed_ours),
        ("killed-java", killed_java),
        ("rocksdb", rocksdb),
    ];
    for (name, scenario) in scenarios {
        if name.starts_with(only) {
            println!("==== handover {name}");
            let (place, before) = (Place::new(&tests, name)?, summary.failed);
            scenario(&place, &mut summary)?;
            place.end(summary.failed == before);
        }
    }
    Ok(summary)
}

/// Original, ours, original, ours: each stops cleanly, and each is filled.
fn clean(place: &Place, summary: &mut Summary) -> Result<()> {
    let order = [Server::Java, Server::Apogee, Server::Java, Server::Apogee];
    let mut before: Option<BTreeMap<String, BTreeSet<String>>> = None;
    for (index, server) in order.into_iter().enumerate() {
        place.start(server)?;
        if let Some(before) = before.take() {
            compare(&before, &place.dump()?, index, summary);
            // The servers change in some seconds; what is due then may be late by them.
            for twice in place.client(&["settle", "ledger", "late"], summary)? {
                // What was acknowledged behind the first popped message in flight.
                let pop = server == Server::Java && twice.ends_with("popped again");
                summary.check(pop, || format!("change {index}: {twice}"));
            }
            place.client(&["verify", "ledger"], summary)?;
        }
        if index + 1 < order.len() {
            place.client(&["fill", &(index + 1).to_string(), "ledger"], summary)?;
            before = Some(place.dump()?);
        }
        place.stop(server)?;
        let abort = place.home.join("store/abort");
        summary.check(!abort.exists(), || format!("{server:?} did not stop cleanly"));
        place.judge(0, summary)?;
    }
    Ok(())
}

/// Ours is killed under load more than ten log files behind its start; the original goes on.
fn killed_ours(place: &Place, summary: &mut Summary) -> Result<()> {
    killed(place, Server::Apogee, Server::Java, summary)
}

/// The other way round.
fn killed_java(place: &Place, summary: &mut Summary) -> Result<()> {
    killed(place, Server::Java, Server::Apogee, summary)
}

fn killed(place: &Place, dies: Server, follows: Server, summary: &mut Summary) -> Result<()> {
    place.start(dies)?;
    let mut load = place.command(&["load", "load", "ledger"]).stdout(Stdio::piped()).spawn()?;
    await_line(&mut load, "loading")?;
    let files = || std::fs::read_dir(place.home.join("store/commitlog")).map(Iterator::count);
    #[allow(clippy::disallowed_methods)] // how long to wait for a process
    let started = Instant::now();
    while files()? < LOG_FILES && started.elapsed() < LOAD_LIMIT {
        std::thread::sleep(Duration::from_millis(20));
    }
    let enough = files()? >= LOG_FILES;
    summary.check(enough, || format!("no {LOG_FILES} log files in {LOAD_LIMIT:?}"));
    place.script(dies, "kill", &[])?;
    let ended = load.wait()?;
    summary.check(ended.success(), || format!("the load ended with {ended}"));
    place.stop(dies)?; // its name server
    place.judge(1, summary)?;
    place.start(follows)?;
    place.client(&["verify", "ledger"], summary)?;
    place.client(&["settle", "ledger", "late"], summary)?;
    place.stop(follows)
}

/// A store in RocksDB is refused, and opens after what is said to do first was done.
fn rocksdb(place: &Place, summary: &mut Summary) -> Result<()> {
    let settings = place.home.join("settings.properties");
    let plain = std::fs::read_to_string(&settings)?;
    std::fs::write(&settings, format!("{plain}storeType=defaultRocksDB\n"))?;
    place.start(Server::Java)?;
    place.client(&["fill", "1", "ledger"], summary)?;
    place.stop(Server::Java)?;
    std::fs::write(&settings, plain)?;
    place.judge(2, summary)?;
    let refused = place.start(Server::Apogee).is_err();
    summary.check(refused, || "a store in RocksDB is opened".into());
    let config = place.home.join("store/config");
    let aside = place.home.join("aside");
    std::fs::create_dir_all(&aside)?;
    for (kind, file) in [
        ("topics", "topics.json"),
        ("subscriptionGroups", "subscriptionGroup.json"),
        ("consumerOffsets", "consumerOffset.json"),
    ] {
        let status = Command::new(place.tests.join("conformance/reference/reference.sh"))
            .args(["mqadmin", "rocksDBConfigToJson", "-p", &format!("{}/", config.display())])
            .args(["-t", kind, "-e", &config.join(file).display().to_string()])
            .stdout(Stdio::null())
            .status()?;
        summary.check(status.success(), || format!("{kind}: {status}"));
        std::fs::rename(config.join(kind), aside.join(kind))?;
    }
    std::fs::rename(place.home.join("store/consumequeue"), aside.join("consumequeue"))?;
    place.judge(1, summary)?; // the queues are made anew
    place.start(Server::Apogee)?;
    place.client(&["verify", "ledger"], summary)?;
    place.client(&["settle", "ledger", "late"], summary)?;
    place.stop(Server::Apogee)?;
    place.judge(0, summary)
}

fn await_line(child: &mut Child, wanted: &str) -> Result<()> {
    use std::io::{BufRead, BufReader};
    let output = child.stdout.take().context("a piped output is there")?;
    for line in BufReader::new(output).lines() {
        if line? == wanted {
            return Ok(());
        }
    }
    bail!("the client program ended before it said {wanted}");
}

/// Everything that was to be seen is, unchanged; and nothing else where nothing moves by itself.
fn compare(
    before: &BTreeMap<String, BTreeSet<String>>,
    after: &BTreeMap<String, BTreeSet<String>>,
    index: usize,
    summary: &mut Summary,
) {
    let nothing = BTreeSet::new();
    for (part, lines) in before {
        let now = after.get(part).unwrap_or(&nothing);
        for line in lines {
            summary.check(now.contains(line), || format!("change {index}: gone: {line}"));
        }
        let moving = MOVING.iter().any(|topic| part.contains(topic));
        for line in now.difference(lines).filter(|_| !moving) {
            summary.check(false, || format!("change {index}: new: {line}"));
        }
    }
}

/// A directory, ports, and the scripts of both servers.
struct Place {
    tests: PathBuf,
    home: PathBuf,
    namesrv: u16,
    broker: u16,
    program: PathBuf,
}

impl Place {
    fn new(tests: &Path, name: &str) -> Result<Place> {
        let [namesrv, broker, _] = free_ports()?;
        let home = format!("apogee-handover-{name}-{}", std::process::id());
        let home = std::env::temp_dir().join(home);
        std::fs::create_dir_all(&home)?;
        let store = home.join("store");
        let store = store.display();
        // Small files, so that several of each kind exist; the rest is as both have it by default.
        let settings = format!(
            "storePathRootDir={store}\nstorePathCommitLog={store}/commitlog\n\
             mappedFileSizeCommitLog=1048576\nmappedFileSizeConsumeQueue=2000\n\
             enableLmq=false\nenableMultiDispatch=false\ntransactionCheckMax=1000\n\
             recallMessageEnable=true\n"
        );
        std::fs::write(home.join("settings.properties"), settings)?;
        let program = suites::release(&tests.join(".."), "apogee");
        Ok(Place { tests: tests.to_path_buf(), home, namesrv, broker, program })
    }

    fn script(&self, server: Server, what: &str, more: &[&str]) -> Result<()> {
        let script = self.tests.join("conformance").join(match server {
            Server::Apogee => "apogee.sh",
            Server::Java => "reference/reference.sh",
        });
        let mut command = Command::new(&script);
        command.env("APOGEE_BIN", &self.program).arg(what).args(more).stdin(Stdio::null());
        let home = format!("{server:?}").to_lowercase();
        let status = command.arg("--home").arg(self.home.join(home)).status();
        let status = status.with_context(|| format!("cannot run {}", script.display()))?;
        if !status.success() {
            bail!("{what} of {server:?} ended with {status}; see {}", self.home.display());
        }
        Ok(())
    }

    fn start(&self, server: Server) -> Result<()> {
        println!("handover: {server:?} starts");
        let (namesrv, broker) = (self.namesrv.to_string(), self.broker.to_string());
        let settings = self.home.join("settings.properties").display().to_string();
        let more = ["--ns", &namesrv, "--broker", &broker, "--conf", &settings];
        self.script(server, "start", &more)
    }

    fn stop(&self, server: Server) -> Result<()> {
        self.script(server, "stop", &[])
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.tests.join("handover/client.sh"));
        command.arg("run").args(words).current_dir(&self.home).stdin(Stdio::null());
        command.env("NAMESRV_ADDR", format!("127.0.0.1:{}", self.namesrv));
        command.env("BROKER_ADDR", format!("127.0.0.1:{}", self.broker));
        command
    }

    /// Compares the exit code of `apogee store check-java`.
    fn judge(&self, wanted: i32, summary: &mut Summary) -> Result<()> {
        let mut command = Command::new(&self.program);
        let output = command.args(["store", "check-java"]).arg(self.home.join("store")).output()?;
        summary.check(output.status.code() == Some(wanted), || {
            format!(
                "check-java says {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stdout)
            )
        });
        Ok(())
    }

    /// Runs the client program, counts what it says, and returns what came twice.
    fn client(&self, words: &[&str], summary: &mut Summary) -> Result<Vec<String>> {
        let output = self.command(words).stderr(Stdio::inherit()).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        // Its log library speaks on the same channel.
        for line in text.lines().filter(|line| !line.contains("|-") && !line.is_empty()) {
            println!("handover: {line}");
            let numbers: Vec<usize> =
                line.split([' ', ',']).filter_map(|word| word.parse().ok()).collect();
            if let (true, [checks, wrong, _]) = (line.contains(" checks, "), &numbers[..]) {
                summary.passed += checks - wrong.min(checks);
                summary.failed += wrong;
            }
        }
        if !output.status.success() {
            bail!("{} ended with {}", words.join(" "), output.status);
        }
        Ok(text.lines().filter(|line| line.starts_with("twice")).map(str::to_owned).collect())
    }

    /// What a client sees of the server: lines by topic or kind.
    fn dump(&self) -> Result<BTreeMap<String, BTreeSet<String>>> {
        let mut nothing = Summary::default();
        self.client(&["dump", "dump"], &mut nothing)?;
        let mut parts: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in std::fs::read_to_string(self.home.join("dump"))?.lines() {
            let mut words = line.split('\t');
            let part = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
            parts.entry(format!("{} {}", part.0, part.1)).or_default().insert(line.to_owned());
        }
        Ok(parts)
    }

    fn end(&self, good: bool) {
        if !good {
            println!("handover: files and logs are kept in {}", self.home.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.home) {
            println!("handover: {} stays behind: {error}", self.home.display());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Stopping twice does no harm: the scripts find nothing left to stop.
        for server in [Server::Apogee, Server::Java] {
            if self.home.exists() && self.stop(server).is_err() {
                println!("handover: {server:?} could not be stopped");
            }
        }
    }
}
