//! `apogee store check-java DIR`: what would happen if Apogee opened a directory of the Java
//! original, said beforehand and by reading only.
//!
//! The verdict is the exit code: 0 nothing is in the way, 1 there is something to know first, 2 the
//! store would be refused. Counts are of this moment; a broker that runs on the directory makes
//! them wrong, so that is refused too.

mod count;
mod look;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use store::disk::Disk;
use store::{rocksdb_parts, store_holder};
use wire::json::{Value, object};

use look::{Log, config, list, members, numbered};

/// Options of the command.
#[derive(Debug, Args)]
pub struct Options {
    /// The store directory of the Java broker: its storePathRootDir.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Directory of the commit log, when it is not DIR/commitlog: the broker's storePathCommitLog.
    #[arg(long, value_name = "DIR")]
    pub commit_log: Option<PathBuf>,
    /// One JSON object instead of lines for people.
    #[arg(long)]
    pub json: bool,
}

/// Sizes that need no setting.
const LOG_FILE: u64 = 1 << 30;
const QUEUE_FILE: u64 = 6_000_000;

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// Which broker wrote the store, as far as its files tell.
    pub written_by: String,
    /// Whether the last broker stopped cleanly.
    pub clean: bool,
    /// Settings that Apogee, and a Java broker later, need for this store.
    pub settings: Vec<String>,
    /// What is taken over, by name.
    pub counts: Vec<(&'static str, i64)>,
    /// What an operator should know or do; the start succeeds anyway.
    pub warnings: Vec<String>,
    /// Why the store is refused, and what to do first.
    pub refused: Vec<String>,
}

impl Report {
    /// 0, 1 or 2: see the module.
    pub fn verdict(&self) -> u8 {
        match (self.refused.is_empty(), self.warnings.is_empty()) {
            (false, _) => 2,
            (true, false) => 1,
            (true, true) => 0,
        }
    }

    fn to_json(&self) -> Value {
        let texts = |texts: &[String]| {
            Value::Array(texts.iter().map(|text| Value::from(text.as_str())).collect())
        };
        object([
            ("verdict", Value::from(i64::from(self.verdict()))),
            ("writtenBy", Value::from(self.written_by.as_str())),
            ("clean", Value::from(self.clean)),
            ("canGoBack", Value::from(self.refused.is_empty())),
            ("takenOver", object(self.counts.iter().copied())),
            ("settings", texts(&self.settings)),
            ("warnings", texts(&self.warnings)),
            ("refused", texts(&self.refused)),
        ])
    }

    fn to_text(&self) -> String {
        let mut text = format!("written by   {}\n", self.written_by);
        let end = if self.clean { "cleanly" } else { "by a kill or crash" };
        text.push_str(&format!("stopped      {end}\n"));
        for (name, count) in &self.counts {
            text.push_str(&format!("taken over   {count} {name}\n"));
        }
        for setting in &self.settings {
            text.push_str(&format!("needs        {setting}\n"));
        }
        for warning in &self.warnings {
            text.push_str(&format!("warning      {warning}\n"));
        }
        for reason in &self.refused {
            text.push_str(&format!("refused      {reason}\n"));
        }
        text.push_str(match self.verdict() {
            2 => "verdict      Apogee does not open this store\n",
            1 => "verdict      Apogee opens this store; read the warnings first\n",
            _ => "verdict      Apogee opens this store\n",
        });
        if self.refused.is_empty() {
            text.push_str("going back   possible: stop Apogee cleanly, start the Java broker\n");
        }
        text
    }
}

/// Looks, prints, and answers with the verdict as exit code.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn run(options: &Options) -> Result<ExitCode> {
    let report = check(options)?;
    let text = if options.json { report.to_json().to_file_text() } else { report.to_text() };
    // Whoever closed the output still gets the verdict.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    Ok(ExitCode::from(report.verdict()))
}

/// Looks at a store.
///
/// # Errors
///
/// When the directory cannot be read.
pub fn check(options: &Options) -> Result<Report> {
    let root = &options.dir;
    if !root.is_dir() {
        bail!("{} is no directory; give the storePathRootDir of the broker", root.display());
    }
    let mut report = Report { clean: !root.join("abort").exists(), ..Report::default() };
    let log_dir = options.commit_log.clone().unwrap_or_else(|| root.join("commitlog"));
    if let Some(pid) = store_holder(root) {
        report.refused.push(format!("process {pid} has the store open; stop that broker first"));
    }
    for part in rocksdb_parts(&Disk::default(), root) {
        let place = part.path.display();
        report.refused.push(format!("{place}: RocksDB with {}; {}", part.holds, part.first));
    }
    let log = log_files(&log_dir, &mut report)?;
    other_kinds(root, &mut report)?;
    queue_files(root, &mut report)?;
    report.written_by = written_by(root);
    configuration(root, &mut report);
    if !report.clean {
        report.warnings.push(
            "the last broker was killed: the start recovers, which takes about a second for each \
             GB of log files since its last checkpoint"
                .into(),
        );
    }
    if report.refused.is_empty() {
        count::count(root, &log, &mut report)?;
    }
    Ok(report)
}

/// Files of the log: equal sizes, no gaps.
fn log_files(dir: &Path, report: &mut Report) -> Result<Log> {
    let files = numbered(dir)?;
    if files.is_empty() {
        report.refused.push(format!(
            "{} has no log files: this is no store, or its commit log is elsewhere \
             (--commit-log, storePathCommitLog)",
            dir.display()
        ));
    }
    let size = files.first().map_or(0, |file| file.len);
    for pair in files.windows(2) {
        if pair[1].len != size {
            report.refused.push(format!(
                "{}: file {:020} has {} bytes, the first has {size}: restore it from a copy",
                dir.display(),
                pair[1].start,
                pair[1].len
            ));
        }
        if pair[1].start != pair[0].start + size as i64 {
            report.refused.push(format!(
                "{}: between {:020} and {:020} files are missing: restore them, or give all \
                 directories that storePathCommitLog names as one",
                dir.display(),
                pair[0].start,
                pair[1].start
            ));
        }
    }
    if size != LOG_FILE && size > 0 {
        report.settings.push(format!("mappedFileSizeCommitLog={size}"));
    }
    Ok(Log { files })
}

/// Stores that are no plain ones, and parts that Apogee does not serve.
fn other_kinds(root: &Path, report: &mut Report) -> Result<()> {
    let holds = |name: &str| -> Result<bool> { Ok(!list(&root.join(name))?.is_empty()) };
    for entry in list(root)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("dledger-") {
            report.refused.push(format!(
                "{name}: the commit log of a DLedger group has another format; move its messages \
                 by consuming and sending them again"
            ));
        }
    }
    if holds("consumequeue_ext")? {
        report.refused.push(
            "consumequeue_ext: extension units (enableConsumeQueueExt) are not read; with the \
             broker stopped remove consumequeue and consumequeue_ext: the queues are made anew \
             from the commit log"
                .into(),
        );
    }
    for name in ["epochFileCheckpoint", "brokerIdentity"] {
        if root.join(name).exists() {
            report.warnings.push(format!(
                "{name}: a broker of controller mode; Apogee serves its store alone, without \
                 replicas"
            ));
        }
    }
    for (name, what) in [
        ("compaction/compactionLog", "compacted topics are served from the log as they were sent"),
        ("tiered_index_file", "messages in tiered storage are not served"),
    ] {
        if holds(name)? {
            report.warnings.push(format!("{name}: {what}"));
        }
    }
    Ok(())
}

/// Size of the files of consume queues, which must be told when it is not the default.
fn queue_files(root: &Path, report: &mut Report) -> Result<()> {
    for (topic, ids) in look::queues(root, "consumequeue")? {
        for id in ids {
            let dir = root.join("consumequeue").join(&topic).join(id.to_string());
            if let Some(file) = numbered(&dir)?.first() {
                if file.len != QUEUE_FILE {
                    report.settings.push(format!("mappedFileSizeConsumeQueue={}", file.len));
                }
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Which broker the files come from.
fn written_by(root: &Path) -> String {
    let field = |at: usize| {
        let bytes = std::fs::read(root.join("checkpoint")).ok()?;
        Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
    };
    let java = std::fs::read(root.join("lock")).is_ok_and(|text| text.starts_with(b"lock"));
    match () {
        () if root.join("lock").exists() && !java => "Apogee".into(),
        () if field(40).is_some_and(|offset| offset > 0) => "Java 5.5 or later".into(),
        () if root.join("rocksdbstore").exists() => "Java 5.4 or later".into(),
        () if root.join("config/timercheck").exists() => "Java 5".into(),
        () => "Java 4 or 5.0".into(),
    }
}

/// Files of `config/`.
fn configuration(root: &Path, report: &mut Report) {
    let mut load = |name: &str| {
        config(root, name).unwrap_or_else(|error| {
            report.refused.push(format!("{error}, and so its backup: repair it or take a copy"));
            None
        })
    };
    let topics = load("topics.json");
    let groups = load("subscriptionGroup.json");
    let offsets = load("consumerOffset.json");
    let light = load("lmqConsumerOffset.json");
    let mapping = load("topicQueueMapping.json");
    for name in ["delayOffset.json", "consumerOrderInfo.json", "messageRequestMode.json"] {
        load(name);
    }
    report.counts.push(("topics", members(topics.as_ref(), "topicConfigTable")));
    report.counts.push(("groups", members(groups.as_ref(), "subscriptionGroupTable")));
    let table = members(offsets.as_ref(), "offsetTable");
    report.counts.push(("topics of groups with offsets", table));
    if topics.is_none() && report.refused.is_empty() {
        report.warnings.push(
            "config/topics.json is missing: topics come back without their \
            settings, when they are used"
                .into(),
        );
    }
    if light.is_some() {
        report.settings.push("enableLmq=true".into());
        report.warnings.push(
            "config/lmqConsumerOffset.json: with enableLmq=true the offsets are \
            there, not in consumerOffset.json; keep the setting"
                .into(),
        );
    }
    if members(mapping.as_ref(), "topicQueueMappingInfoMap") > 0 {
        report.warnings.push(
            "static topics (topicQueueMapping.json) are served by their physical \
            queues only"
                .into(),
        );
    }
}
