//! `apogee store`: looks into a store while no broker runs, and what they say to an operator.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use base::clock::Stopwatch;
use store::OpenError;
use store::check::{self, Cure, Found, Overview, Part, Repair, Report};
use wire::json::{Value, object};
use wire::properties;
use wire::record::{self, Scanned};

use crate::cli::StoreTool;

/// Between two lines of progress.
const TICK: Duration = Duration::from_millis(100);
/// Findings that are shown of one part; `--json` has more.
const SHOWN: usize = 20;
/// Bytes of a body that is no text.
const BODY_BYTES: usize = 64;

/// Runs one command and tells the exit code: 0 all is well, 1 damaged, 2 cannot be read.
pub(crate) fn run(command: &StoreTool) -> ExitCode {
    let place = match command {
        StoreTool::Verify { place } => place,
        StoreTool::Inspect { place, .. } | StoreTool::Repair { place, .. } => place,
    };
    let root = root_of(&place.data);
    let (text, json, code) = match look(command, &root) {
        Ok(told) => told,
        Err(error) => {
            eprintln!("apogee: {error}{}", next_step(&error));
            return ExitCode::from(2);
        }
    };
    let text = if place.json { json.to_strict_text() + "\n" } else { text };
    // Whoever closed the output does not want to read it.
    let _ = std::io::stdout().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// The store itself, also when the directory above it is named.
fn root_of(data: &Path) -> PathBuf {
    let below = data.join("store");
    if !data.join("commitlog").is_dir() && below.is_dir() { below } else { data.to_path_buf() }
}

fn next_step(error: &OpenError) -> &'static str {
    match error {
        OpenError::Locked { .. } => "; stop that process first",
        OpenError::Layout { reason, .. } if reason.contains("no store") => {
            "; name the store, or the directory that has it, with --data"
        }
        OpenError::Layout { .. } => "; `apogee store verify` tells more",
        OpenError::Io { .. } => "; look at the disk and at the rights to its files",
    }
}

fn look(command: &StoreTool, root: &Path) -> Result<(String, Value, u8), OpenError> {
    let hold = check::hold(root)?;
    let config = check::config_of(root)?;
    let mut meter = Meter::new();
    let mut progress = |done: u64, total: u64| meter.show(done, total);
    match command {
        StoreTool::Verify { .. } => {
            let report = check::verify(&config, &mut progress)?;
            let code = u8::from(report.is_damaged());
            Ok((report_text(&report, true), report_json(&report), code))
        }
        StoreTool::Repair { dry_run, .. } => {
            let repair = check::repair(&config, hold, *dry_run, &mut progress)?;
            let code = u8::from(repair.after.is_damaged());
            Ok((repair_text(&repair, *dry_run), repair_json(&repair, *dry_run), code))
        }
        StoreTool::Inspect { topic: None, physical: None, .. } => {
            let overview = check::inspect(&config)?;
            Ok((overview_text(root, &overview), overview_json(root, &overview), 0))
        }
        StoreTool::Inspect { topic, queue, offset, max, physical, .. } => {
            let found = match (topic, physical) {
                (_, Some(physical)) => vec![check::at_physical(&config, *physical)?],
                (topic, None) => {
                    let topic = topic.as_deref().unwrap_or_default();
                    check::at_offset(&config, (topic, *queue), *offset, *max)?
                }
            };
            let bad = found.iter().any(|found| found.record.is_err());
            let text: String = found.iter().map(found_text).collect();
            let text = if found.is_empty() { "no message there\n".to_owned() } else { text };
            let list: Vec<Value> = found.iter().map(found_json).collect();
            Ok((text, object([("records", list)]), u8::from(bad)))
        }
    }
}

/// Progress on the terminal.
struct Meter {
    on: bool,
    watch: Stopwatch,
    next: Duration,
}

impl Meter {
    fn new() -> Meter {
        let on = std::io::stderr().is_terminal();
        Meter { on, watch: Stopwatch::start(), next: TICK }
    }

    fn show(&mut self, done: u64, total: u64) {
        let elapsed = self.watch.elapsed();
        if !self.on || elapsed < self.next {
            return;
        }
        self.next = elapsed + TICK;
        let percent = done * 100 / total.max(1);
        let rate = done as f64 / 1e6 / elapsed.as_secs_f64();
        let end = if done == total { "\r\u{1b}[K" } else { "" };
        eprint!("\r{percent:>3} %, {rate:.0} MB/s {end}");
    }
}

fn state(own: bool, clean: bool) -> String {
    let writer = if own { "written by Apogee" } else { "written by a Java broker, or empty" };
    format!("{writer}, {}", if clean { "stopped cleanly" } else { "not stopped cleanly" })
}

fn cure_word(cure: Cure) -> &'static str {
    match cure {
        Cure::NextStart => "next start",
        Cure::Repair => "repair",
        Cure::None => "lost",
    }
}

fn part_text(root: &Path, part: &Part, out: &mut String) {
    let [news, repair, lost] = part.counts;
    let _ = write!(out, "{:<13} {} {} good", part.name, part.good, part.unit);
    for (count, word) in [(repair, "to repair"), (lost, "lost"), (news, "for the next start")] {
        if count > 0 {
            let _ = write!(out, ", {count} {word}");
        }
    }
    out.push('\n');
    for finding in part.findings.iter().take(SHOWN) {
        let path = finding.path.strip_prefix(root).unwrap_or(&finding.path).display();
        let _ = writeln!(out, "  [{}] {path}: {}", cure_word(finding.cure), finding.what);
    }
    let more = (news + repair + lost).saturating_sub(SHOWN as u64);
    if more > 0 {
        let _ = writeln!(out, "  and {more} more");
    }
    for note in part.notes.iter().take(SHOWN) {
        let _ = writeln!(out, "  {note}");
    }
}

fn report_text(report: &Report, advise: bool) -> String {
    let mut out = String::new();
    let root = report.root.display();
    let _ = writeln!(out, "store {root}: {}", state(report.own, report.clean));
    let _ = writeln!(out, "log {} to {}", report.log.0, report.log.1);
    report.parts.iter().for_each(|part| part_text(&report.root, part, &mut out));
    let sum = |cure: Cure| report.parts.iter().map(|part| part.counts[cure as usize]).sum::<u64>();
    let (repair, lost) = (sum(Cure::Repair), sum(Cure::None));
    if !report.is_damaged() {
        out.push_str("clean\n");
        return out;
    }
    let _ = writeln!(out, "DAMAGED: {repair} to repair, {lost} lost");
    if advise && repair > 0 {
        let _ = writeln!(out, "next: apogee store repair --dry-run --data {root}");
    } else if lost > 0 {
        out.push_str("what is lost stays lost; a broker starts and serves everything else\n");
    }
    out
}

fn report_json(report: &Report) -> Value {
    let parts: Vec<Value> = report.parts.iter().map(part_json).collect();
    object([
        ("store", Value::from(report.root.display().to_string())),
        ("writer", Value::from(if report.own { "apogee" } else { "java" })),
        ("clean", Value::from(report.clean)),
        ("begin", Value::from(report.log.0)),
        ("end", Value::from(report.log.1)),
        ("damaged", Value::from(report.is_damaged())),
        ("parts", Value::from(parts)),
    ])
}

fn part_json(part: &Part) -> Value {
    let findings = part.findings.iter().map(|finding| {
        object([
            ("path", Value::from(finding.path.display().to_string())),
            ("what", Value::from(finding.what.clone())),
            ("cure", Value::from(cure_word(finding.cure))),
        ])
    });
    object([
        ("name", Value::from(part.name)),
        ("good", Value::from(part.good as i64)),
        ("unit", Value::from(part.unit)),
        ("nextStart", Value::from(part.counts[Cure::NextStart as usize] as i64)),
        ("repair", Value::from(part.counts[Cure::Repair as usize] as i64)),
        ("lost", Value::from(part.counts[Cure::None as usize] as i64)),
        ("findings", Value::from(findings.collect::<Vec<_>>())),
        ("notes", Value::from(part.notes.clone())),
    ])
}

fn repair_text(repair: &Repair, dry: bool) -> String {
    let mut out = String::new();
    if repair.steps.is_empty() {
        out.push_str("nothing to repair\n");
    }
    let word = if dry { "would " } else { "" };
    for step in &repair.steps {
        let _ = writeln!(out, "{word}{step}");
    }
    if let Some(aside) = &repair.aside {
        let _ = writeln!(out, "what was replaced is in {}", aside.display());
    }
    if !dry {
        out.push_str(&report_text(&repair.after, false));
    }
    out
}

fn repair_json(repair: &Repair, dry: bool) -> Value {
    object([
        ("dryRun", Value::from(dry)),
        ("steps", Value::from(repair.steps.clone())),
        ("aside", Value::from(repair.aside.as_ref().map(|path| path.display().to_string()))),
        ("report", report_json(&repair.after)),
    ])
}

fn overview_text(root: &Path, overview: &Overview) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "store {}: {}", root.display(), state(overview.own, overview.clean));
    let (files, size) = overview.files;
    let (begin, end) = overview.log;
    let _ = writeln!(out, "log {begin} to {end}, {files} files of {size} bytes");
    let (first, last) = overview.times;
    let _ = writeln!(out, "records stored from {first} to {last} (epoch milliseconds)");
    let _ = writeln!(out, "{:<40} {:>5} {:>12} {:>12}", "topic", "queue", "min", "max");
    for topic in &overview.topics {
        for queue in &topic.queues {
            let kind = if queue.batch { " (batch)" } else { "" };
            let (name, id) = (&topic.name, queue.id);
            let _ = writeln!(out, "{name:<40} {id:>5} {:>12} {:>12}{kind}", queue.min, queue.max);
        }
    }
    for (group, topics) in &overview.groups {
        let _ = writeln!(out, "group {group}: progress in {topics} topics");
    }
    for (name, count) in overview.pending.iter().filter(|(_, count)| *count > 0) {
        let _ = writeln!(out, "pending, at most: {name} {count}");
    }
    if !overview.clean {
        out.push_str("not stopped cleanly: the newest messages may be in the log only\n");
    }
    out
}

fn overview_json(root: &Path, overview: &Overview) -> Value {
    let topics = overview.topics.iter().map(|topic| {
        let queues = topic.queues.iter().map(|queue| {
            object([
                ("queue", Value::from(queue.id)),
                ("batch", Value::from(queue.batch)),
                ("min", Value::from(queue.min)),
                ("max", Value::from(queue.max)),
            ])
        });
        let queues = Value::from(queues.collect::<Vec<_>>());
        object([("topic", Value::from(topic.name.as_str())), ("queues", queues)])
    });
    let counts = |list: Vec<(&str, i64)>| object(list);
    let groups = overview.groups.iter().map(|(name, topics)| (name.as_str(), *topics as i64));
    let pending = overview.pending.iter().map(|(name, count)| (name.as_str(), *count));
    object([
        ("store", Value::from(root.display().to_string())),
        ("writer", Value::from(if overview.own { "apogee" } else { "java" })),
        ("clean", Value::from(overview.clean)),
        ("files", Value::from(overview.files.0)),
        ("fileSize", Value::from(overview.files.1 as i64)),
        ("begin", Value::from(overview.log.0)),
        ("end", Value::from(overview.log.1)),
        ("firstStored", Value::from(overview.times.0)),
        ("lastStored", Value::from(overview.times.1)),
        ("topics", Value::from(topics.collect::<Vec<_>>())),
        ("groups", counts(groups.collect())),
        ("pending", counts(pending.collect())),
    ])
}

/// The body as text, or the hex of its beginning.
fn body_text(body: &[u8]) -> (&'static str, String) {
    let is_text = |text: &str| !text.chars().any(|c| c.is_control() && !c.is_whitespace());
    match std::str::from_utf8(body) {
        Ok(text) if is_text(text) => ("text", text.to_owned()),
        _ => {
            let shown = &body[..body.len().min(BODY_BYTES)];
            let mut hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
            if shown.len() < body.len() {
                hex.push('…');
            }
            ("hex", hex)
        }
    }
}

fn found_text(found: &Found) -> String {
    let mut out = String::new();
    let bytes = match &found.record {
        Ok(bytes) => bytes,
        Err(reason) => {
            let _ = match found.offset {
                Some(offset) if found.physical < 0 => writeln!(out, "offset {offset}: {reason}"),
                Some(offset) => writeln!(out, "offset {offset}, at {}: {reason}", found.physical),
                None => writeln!(out, "at {}: {reason}", found.physical),
            };
            return out;
        }
    };
    let Ok(Scanned::Record(record)) = record::scan(bytes) else { return out };
    let (topic, id) = (record.topic(), record.queue_id());
    let _ = writeln!(out, "{topic} queue {id} offset {}", record.queue_offset());
    let _ = writeln!(out, "  at {}, {} bytes", record.physical_offset(), record.total_len());
    let (stored, born) = (record.store_timestamp(), record.born_timestamp());
    let _ = writeln!(out, "  stored {stored}, born {born} by {}", record.born_host());
    let (flag, retries) = (record.sys_flag(), record.reconsume_times());
    let _ = writeln!(out, "  sysFlag {flag:#x}, flag {}, retries {retries}", record.flag());
    for (name, value) in properties::pairs(record.properties()) {
        let _ = writeln!(out, "  {name} = {value}");
    }
    let (kind, text) = body_text(record.body());
    let _ = writeln!(out, "  body, {} bytes, {kind}: {text}", record.body().len());
    out
}

fn found_json(found: &Found) -> Value {
    let offset = found.offset.map(Value::from);
    let bytes = match &found.record {
        Ok(bytes) => bytes,
        Err(reason) => {
            return object([
                ("offset", offset.unwrap_or(Value::Null)),
                ("physical", Value::from(found.physical)),
                ("error", Value::from(reason.as_str())),
            ]);
        }
    };
    let Ok(Scanned::Record(record)) = record::scan(bytes) else { return Value::Null };
    let (kind, text) = body_text(record.body());
    let pairs = properties::pairs(record.properties());
    object([
        ("topic", Value::from(record.topic())),
        ("queue", Value::from(record.queue_id())),
        ("offset", Value::from(record.queue_offset())),
        ("physical", Value::from(record.physical_offset())),
        ("size", Value::from(record.total_len())),
        ("stored", Value::from(record.store_timestamp())),
        ("born", Value::from(record.born_timestamp())),
        ("bornHost", Value::from(record.born_host().to_string())),
        ("sysFlag", Value::from(record.sys_flag())),
        ("flag", Value::from(record.flag())),
        ("retries", Value::from(record.reconsume_times())),
        ("properties", object(pairs)),
        (kind, Value::from(text)),
    ])
}
