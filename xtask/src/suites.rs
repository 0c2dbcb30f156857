//! `cargo xtask test`: the suites in order, a table, and the closing line that CI counts.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::{conform, handover, tidy};

/// Makes cargo print what tests that pass have to say.
const SHOW: &str = "--show-output";
/// Lines of tests that belong into the table: how many disks, faults and kills there were.
const COUNTS: [&str; 4] = ["crash images:", "damage images:", "faults:", " cycles, "];

/// Result of one suite.
struct Suite {
    name: &'static str,
    passed: usize,
    failed: usize,
    seconds: u64,
    note: String,
}

/// Runs every suite, also after a failure, so that one run shows everything.
pub(crate) fn test() -> Result<()> {
    let mut suites = Vec::new();
    suite(&mut suites, "format", || command("cargo", &["fmt", "--all", "--check"]));
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    suite(&mut suites, "clippy", || command("cargo", &clippy));
    suite(&mut suites, "tidy", || Ok((tidy::run()?, 0, String::new())));
    // Unit, property, golden and fuzz tests of the libraries.
    let unit = ["test", "--workspace", "--exclude", "apogee", "--no-fail-fast", "--", SHOW];
    suite(&mut suites, "unit, property, golden", || cargo_test(&unit));
    suite(&mut suites, "loom", loom);
    suite(&mut suites, "release build", || build_release().map(|()| (1, 0, String::new())));
    // Crash loops, bad input and users' cases: real processes, the release build.
    let system = ["test", "--release", "-p", "apogee", "--no-fail-fast", "--", SHOW];
    suite(&mut suites, "crash, bad input, cases", || cargo_test(&system));
    suite(&mut suites, "official clients", conformance);
    suite(&mut suites, "Java's files, both ways", handed_over);
    report(&suites)
}

fn suite(
    suites: &mut Vec<Suite>,
    name: &'static str,
    run: impl FnOnce() -> Result<(usize, usize, String)>,
) {
    println!("==== {name}");
    #[allow(clippy::disallowed_methods)] // shown, decides nothing
    let started = Instant::now();
    let (passed, failed, note) = run().unwrap_or_else(|error| (0, 1, format!("{error:#}")));
    suites.push(Suite { name, passed, failed, seconds: started.elapsed().as_secs(), note });
}

fn report(suites: &[Suite]) -> Result<()> {
    println!("\n{:<26} {:>7} {:>7} {:>6}", "suite", "passed", "failed", "s");
    for suite in suites {
        let Suite { name, passed, failed, seconds, note } = suite;
        println!("{name:<26} {passed:>7} {failed:>7} {seconds:>6}  {note}");
    }
    let passed: usize = suites.iter().map(|suite| suite.passed).sum();
    let failed: usize = suites.iter().map(|suite| suite.failed).sum();
    println!("{passed} passed, {failed} failed");
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}

/// The models of `cfg(loom)`, in a target directory of their own.
pub(crate) fn loom() -> Result<(usize, usize, String)> {
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    let mut command = Command::new("cargo");
    command.args(["test", "--release", "-p", "store", "--lib", "loom_tests"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", target.join("loom"));
    counted(&mut command)
}

/// Kills, power cuts and faults alone; `long` is ten times as many as CI has.
pub(crate) fn crash(long: bool) -> Result<()> {
    let (times, rounds, cycles) = if long { (10, 25, 10) } else { (1, 1, 25) };
    let images = [("POWER_IMAGES", 100_000 * times), ("FAULTS", 2000 * times)];
    suite_of("power cuts, faults", "store", &["power", "failing_disk"], &images)?;
    for round in 1..=rounds {
        // Stores of their own each time: one is read whole after each kill. Both ways of flush.
        let name = format!("kill -9, {round} of {rounds}");
        suite_of(&name, "apogee", &["crash"], &[("CRASH_CYCLES", cycles)])?;
    }
    Ok(())
}

fn suite_of(name: &str, package: &str, tests: &[&str], numbers: &[(&str, i32)]) -> Result<()> {
    println!("==== {name}");
    let mut command = Command::new("cargo");
    command.args(["test", "--release", "-p", package]);
    command.args(tests.iter().flat_map(|test| ["--test", test]));
    command.args(["--", "--nocapture"]);
    command.envs(numbers.iter().map(|(key, number)| (key, number.to_string())));
    let status = command.status().context("cannot run cargo")?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Where cargo puts a program of the release build.
pub(crate) fn release(root: &Path, program: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    target.map_or_else(|| root.join("target"), PathBuf::from).join("release").join(program)
}

/// Builds the binary that users run.
pub(crate) fn build_release() -> Result<()> {
    command("cargo", &["build", "--release", "--quiet", "-p", "apogee"]).map(|_| ())
}

fn command(program: &str, arguments: &[&str]) -> Result<(usize, usize, String)> {
    let status = Command::new(program).args(arguments).status();
    let status = status.with_context(|| format!("cannot run {program}"))?;
    if !status.success() {
        bail!("{program} {} ended with {status}", arguments.join(" "));
    }
    Ok((1, 0, String::new()))
}

/// Runs `cargo test`, shows its output, and adds up its result lines.
fn cargo_test(arguments: &[&str]) -> Result<(usize, usize, String)> {
    counted(Command::new("cargo").args(arguments))
}

fn counted(command: &mut Command) -> Result<(usize, usize, String)> {
    let output = command.stderr(Stdio::inherit()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    print!("{text}");
    let (mut passed, mut failed) = (0, 0);
    for line in text.lines().filter(|line| line.starts_with("test result:")) {
        let count = |word: &str| {
            let before = line.split(word).next()?;
            before.rsplit([' ', '.']).find(|part| !part.is_empty())?.parse::<usize>().ok()
        };
        passed += count(" passed").unwrap_or(0);
        failed += count(" failed").unwrap_or(0);
    }
    if !output.status.success() && failed == 0 {
        bail!("{command:?} ended with {}", output.status);
    }
    if passed == 0 {
        bail!("no test was executed");
    }
    let counts = text.lines().filter(|line| COUNTS.iter().any(|count| line.contains(count)));
    Ok((passed, failed, counts.collect::<Vec<_>>().join("; ")))
}

fn conformance() -> Result<(usize, usize, String)> {
    let summary = conform::run(conform::Server::Apogee, None)?;
    let mut failed = summary.failed;
    let mut note = String::new();
    for client in &summary.skipped {
        println!("SKIPPED: {client} (its runtime is missing)");
        note = format!("skipped: {}", summary.skipped.join(", "));
        if std::env::var_os("CI").is_some() {
            failed += 1;
        }
    }
    if summary.passed == 0 {
        bail!("no case was executed");
    }
    println!("{} cases executed with official clients", summary.passed + summary.failed);
    Ok((summary.passed, failed, note))
}

fn handed_over() -> Result<(usize, usize, String)> {
    let summary = handover::run("")?;
    if summary.skipped {
        println!("SKIPPED: the change of servers needs Java and Maven");
        let failed = usize::from(std::env::var_os("CI").is_some());
        return Ok((0, failed, "skipped: no Java".into()));
    }
    if summary.passed == 0 {
        bail!("no check was executed");
    }
    println!("{} checks of stores that changed hands", summary.passed + summary.failed);
    Ok((summary.passed, summary.failed, String::new()))
}
