//! `apogee store verify|inspect|repair`: on a store that a broker wrote, damaged in each part, and
//! on stores of the original.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use net::client::Client;
use testkit::{Server, TempDir, create_topic, pull_all, send};
use wire::json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
const SETTINGS: &str = "mappedFileSizeCommitLog=65536\nmappedFileSizeConsumeQueue=400\n\
    enableLmq=true\nenableMultiDispatch=true\n";
const MESSAGES: usize = 300;

/// Exit code, output, and the text of errors.
fn tool(arguments: &[&str], data: &Path) -> Result<(i32, String, String)> {
    let done =
        Command::new(BINARY).arg("store").args(arguments).arg("--data").arg(data).output()?;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).context("output");
    Ok((done.status.code().context("code")?, text(done.stdout)?, text(done.stderr)?))
}

fn json(arguments: &[&str], data: &Path) -> Result<(i32, Value)> {
    let (code, out, errors) = tool(&[arguments, &["--json"]].concat(), data)?;
    Ok((code, Value::parse(&out).with_context(|| format!("{out} {errors}"))?))
}

/// A number of one part of a report.
fn count(report: &Value, part: &str, name: &str) -> i64 {
    let parts = report.get("parts").map_or(&[][..], Value::items);
    let named = |value: &&Value| value.get("name").and_then(Value::as_text) == Some(part);
    parts.iter().find(named).and_then(|part| part.get(name)?.int()).unwrap_or(-1)
}

fn fill(client: &mut Client) -> Result<()> {
    create_topic(client, "T", 3)?;
    for number in 0..MESSAGES {
        let light = if number % 10 == 0 { "INNER_MULTI_DISPATCH\u{1}%LMQ%a\u{2}" } else { "" };
        let text = format!("KEYS\u{1}k{number}\u{2}TAGS\u{1}a\u{2}{light}");
        let body = format!("message {number} {}", "x".repeat(number % 300));
        ensure!(send(client, "T", (number % 3) as i32, &text, body.as_bytes())?.code == 0);
    }
    Ok(())
}

fn bodies(client: &mut Client) -> Result<Vec<Vec<Vec<u8>>>> {
    let queue = |id| Ok(pull_all(client, "T", id, 0)?.into_iter().map(|m| m.body).collect());
    (0..3).map(queue).collect()
}

/// A running broker with messages.
fn broker(dir: &Path) -> Result<Server> {
    let server = Server::start(BINARY, dir, SETTINGS)?;
    fill(&mut server.connect()?)?;
    Ok(server)
}

/// Changes bytes of a file.
fn write(path: &Path, at: u64, bytes: &[u8]) -> Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path);
    Ok(file.with_context(|| path.display().to_string())?.write_all_at(bytes, at)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-r").arg("--sparse=always").arg(from).arg(to).status()?;
    ensure!(done.success(), "cp");
    Ok(())
}

fn first_file(dir: &Path) -> Result<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    files.into_iter().next().context("no file")
}

#[test]
fn a_running_broker_is_named_and_left_alone() -> Result<()> {
    let dir = TempDir::new("tools-live")?;
    let mut server = broker(dir.path())?;
    let data = dir.path().join("data");
    for arguments in [&["verify"][..], &["inspect"], &["repair"], &["repair", "--dry-run"]] {
        let (code, out, errors) = tool(arguments, &data)?;
        ensure!(code == 2 && out.is_empty(), "{code} {out}");
        ensure!(errors.contains(&format!("in use by process {}", server.pid())), "{errors}");
    }
    server.kill()?;
    let (code, report) = json(&["verify"], &data)?;
    ensure!(code == 0, "{}", report.to_text());
    ensure!(report.get("clean").and_then(Value::truth) == Some(false));
    ensure!(count(&report, "commitlog", "good") >= MESSAGES as i64);
    let (code, out, _) = tool(&["verify"], &dir.path().join("nothing"))?;
    ensure!(code == 2 && out.is_empty());
    Ok(())
}

#[test]
fn a_queue_that_the_checkpoint_did_not_wait_for_is_no_damage() -> Result<()> {
    let dir = TempDir::new("tools-news")?;
    broker(dir.path())?.stop()?; // which writes a checkpoint
    let mut server = Server::start(BINARY, dir.path(), SETTINGS)?;
    let data = dir.path().join("data");
    let mut client = server.connect()?;
    create_topic(&mut client, "New", 1)?;
    ensure!(send(&mut client, "New", 0, "TAGS\u{1}a\u{2}", b"only in the log")?.code == 0);
    server.kill()?;
    // As if it had been killed before the queue was written: the checkpoint is of before.
    let queue = data.join("store/consumequeue/New");
    if queue.exists() {
        fs::remove_dir_all(queue)?;
    }
    let (code, report) = json(&["verify"], &data)?;
    ensure!(code == 0 && count(&report, "consumequeue", "nextStart") > 0, "{}", report.to_text());
    // Nor may a repair take the topic, whose name is in the journal only, for a deleted one.
    ensure!(tool(&["repair"], &data)?.0 == 0);
    let server = Server::start(BINARY, dir.path(), SETTINGS)?;
    let found = pull_all(&mut server.connect()?, "New", 0, 0)?;
    ensure!(found.len() == 1 && found[0].body == b"only in the log");
    Ok(())
}

/// Damages a copy, and looks at what is said and done about it.
struct Case<'a> {
    name: &'a str,
    part: &'a str,
    /// Findings to repair at least, and records that stay lost.
    wanted: (i64, i64),
    harm: &'a dyn Fn(&Path) -> Result<()>,
}

fn damaged(case: &Case<'_>, clean: &Path, wanted: &[Vec<Vec<u8>>]) -> Result<()> {
    let dir = TempDir::new("tools-case")?;
    let data = dir.path().join("data");
    copy(clean, &data)?;
    let root = data.join("store");
    (case.harm)(&root)?;
    let (code, report) = json(&["verify"], &data)?;
    let told = report.to_text();
    ensure!(code == 1, "{}: {code} {told}", case.name);
    let found = (count(&report, case.part, "repair"), count(&report, case.part, "lost"));
    ensure!(found.0 >= case.wanted.0 && found.1 == case.wanted.1, "{}: {told}", case.name);
    let (_, text, _) = tool(&["verify"], &data)?;
    ensure!(text.contains("DAMAGED"), "{text}");
    let before = fs::read_dir(&root)?.count();
    let (_, dry, _) = tool(&["repair", "--dry-run"], &data)?;
    ensure!(dry.contains("would") || case.wanted.0 == 0, "{}: {dry}", case.name);
    ensure!(fs::read_dir(&root)?.count() == before, "a dry run that leaves something");
    let (code, repaired) = json(&["repair"], &data)?;
    let lost = case.wanted.1 > 0 || case.name.contains("log file");
    ensure!((code == 1) == lost, "{}: {code} {}", case.name, repaired.to_text());
    let after = repaired.get("report").context("report")?;
    for part in ["commitlog", "consumequeue", "index", "checkpoint", "config"] {
        ensure!(count(after, part, "repair") == 0, "{}: {}", case.name, after.to_text());
    }
    // The broker serves what is left.
    let server = Server::start(BINARY, dir.path(), SETTINGS)?;
    let found = bodies(&mut server.connect()?)?;
    let missing: usize = wanted.iter().zip(&found).map(|(w, f)| w.len() - f.len()).sum();
    if lost {
        ensure!(missing > 0 && missing < MESSAGES / 2, "{}: {missing}", case.name);
        let known = wanted.iter().flatten().collect::<Vec<_>>();
        ensure!(found.iter().flatten().all(|body| known.contains(&body)), "{}", case.name);
    } else {
        ensure!(found == wanted, "{}: {missing} are missing", case.name);
    }
    Ok(())
}

#[test]
fn every_part_is_verified_and_repaired() -> Result<()> {
    let dir = TempDir::new("tools")?;
    let mut server = broker(dir.path())?;
    let bodies = bodies(&mut server.connect()?)?;
    server.stop()?;
    let clean = dir.path().join("data");
    let (code, report) = json(&["verify"], &clean)?;
    ensure!(code == 0, "{}", report.to_text());
    ensure!(count(&report, "commitlog", "good") >= MESSAGES as i64, "{}", report.to_text());
    ensure!(count(&report, "index", "good") >= 2 * MESSAGES as i64, "{}", report.to_text());
    let (_, text, _) = tool(&["repair"], &clean)?;
    ensure!(text.starts_with("nothing to repair\n"), "{text}");
    let log = |start: u64| PathBuf::from(format!("commitlog/{start:020}"));
    let queue = |name: &str, start: u64| PathBuf::from(format!("{name}/{start:020}"));
    let case = |name, part, wanted, harm: &dyn Fn(&Path) -> Result<()>| {
        damaged(&Case { name, part, wanted, harm }, &clean, &bodies)
    };
    case("a body", "commitlog", (0, 1), &|root| write(&root.join(log(0)), 90, b"????"))?;
    case("a queue entry", "consumequeue", (1, 0), &|root| {
        write(&root.join(queue("consumequeue/T/1", 400)), 40, &[9; 8])
    })?;
    case("a light queue", "consumequeue", (1, 0), &|root| {
        write(&root.join(queue("consumequeue/%LMQ%a/0", 0)), 20, &[0; 20])
    })?;
    case("a queue file", "consumequeue", (1, 0), &|root| {
        Ok(fs::remove_file(root.join(queue("consumequeue/T/2", 400)))?)
    })?;
    case("a queue", "consumequeue", (1, 0), &|root| {
        Ok(fs::remove_dir_all(root.join("consumequeue/T/0"))?)
    })?;
    case("an index entry", "index", (1, 0), &|root| {
        let file = first_file(&root.join("index"))?;
        write(&file, 40 + 4 * 5_000_000 + 20 * 7 + 2, &[0x55; 4])
    })?;
    case("the checkpoint", "checkpoint", (1, 0), &|root| {
        let far = (1_i64 << 40).to_be_bytes();
        write(&root.join("checkpoint"), 40, &far)?;
        write(&root.join("checkpoint"), 56, &far)
    })?;
    case("a configuration", "config", (1, 0), &|root| {
        fs::copy(root.join("config/topics.json"), root.join("config/topics.json.bak"))?;
        write(&root.join("config/topics.json"), 0, b"x")
    })?;
    case("a cut log file", "commitlog", (1, 0), &|root| {
        Ok(fs::OpenOptions::new().write(true).open(root.join(log(0)))?.set_len(60_000)?)
    })?;
    Ok(())
}

#[test]
fn records_are_shown() -> Result<()> {
    let dir = TempDir::new("tools-show")?;
    let mut server = broker(dir.path())?;
    server.stop()?;
    let data = dir.path().join("data");
    let (code, out, _) = tool(&["inspect"], &data.join("store"))?;
    ensure!(code == 0 && out.contains("written by Apogee, stopped cleanly"), "{out}");
    let (_, overview) = json(&["inspect"], &data)?;
    let topics = overview.get("topics").map_or(&[][..], Value::items);
    let own = topics.iter().find(|t| t.get("topic").and_then(Value::as_text) == Some("T"));
    let queues = own.and_then(|topic| topic.get("queues")).context("queues")?.items();
    let spans: Vec<_> = queues.iter().map(|q| (q.get("min"), q.get("max"))).collect();
    let span = (Some(&Value::Int(0)), Some(&Value::Int(100)));
    ensure!(spans == [span; 3], "{spans:?}");
    let asked = ["inspect", "--topic", "T", "--queue", "1", "--offset", "3", "--max", "2"];
    let (code, out, _) = tool(&asked, &data)?;
    ensure!(code == 0 && out.contains("KEYS = k10") && out.contains("message 13 x"), "{out}");
    let (_, records) = json(&asked, &data)?;
    let first = &records.get("records").context("records")?.items()[0];
    let physical = first.get("physical").and_then(Value::int).context("physical")?;
    let (code, at) = json(&["inspect", "--physical", &physical.to_string()], &data)?;
    ensure!(code == 0 && at.get("records").context("records")?.items() == [first.clone()]);
    let next = (physical + 1).to_string();
    let (code, out, _) = tool(&["inspect", "--physical", &next], &data)?;
    ensure!(code == 1 && out.contains("the next is at"), "{out}");
    let (_, out, _) = tool(&["inspect", "--topic", "%LMQ%a", "--max", "1"], &data)?;
    ensure!(out.contains("message 0"), "{out}");
    let (code, _, errors) = tool(&["inspect", "--topic", "Nothing"], &data)?;
    ensure!(code == 2 && errors.contains("no such queue"), "{errors}");
    Ok(())
}

#[test]
fn stores_of_the_original_are_clean_and_stay_as_they_are() -> Result<()> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/store");
    for (name, records) in [("clean", 319), ("killed", 1787), ("torn", 1786), ("pop", 124)] {
        let dir = TempDir::new("tools-golden")?;
        let archive = golden.join(format!("{name}-5.5.0/store.tar.gz"));
        let done =
            Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(dir.path()).status()?;
        ensure!(done.success(), "tar");
        let before = sums(dir.path())?;
        let (code, report) = json(&["verify"], dir.path())?;
        ensure!(code == 0, "{name}: {}", report.to_text());
        ensure!(report.get("writer").and_then(Value::as_text) == Some("java"));
        for part in ["commitlog", "consumequeue"] {
            ensure!(count(&report, part, "good") == records, "{name}: {}", report.to_text());
        }
        let torn = count(&report, "commitlog", "nextStart");
        ensure!(torn == i64::from(name == "torn"), "{name}: {}", report.to_text());
        let (code, out, _) = tool(&["inspect"], dir.path())?;
        ensure!(code == 0 && out.contains("written by a Java broker"), "{out}");
        let (_, out, _) = tool(&["repair"], dir.path())?;
        ensure!(out.starts_with("nothing to repair"), "{out}");
        ensure!(sums(dir.path())? == before, "{name}: a look that changes something");
    }
    Ok(())
}

/// All files of a directory with their checksums.
fn sums(dir: &Path) -> Result<Vec<u8>> {
    let script = "find . -type f -exec cksum {} + | sort";
    Ok(Command::new("sh").arg("-c").arg(script).current_dir(dir).output()?.stdout)
}
