//! kill -9 at any moment: every acknowledged message is there at its acknowledged offset, none
//! stands at two offsets of a queue, and the order of each queue is the order of sending.

#![allow(clippy::print_stdout)] // a test tells what it counted

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use net::client::Client;
use testkit::{Server, TempDir, create_topic, pull_all, send_to};
use wire::codes::request as code;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
/// Kills with each kind of flush, unless `CRASH_CYCLES` says otherwise.
const CYCLES: u64 = 25;
const IN_FLIGHT: usize = 64;
const QUEUES: i32 = 4;
const TOPIC: &str = "CrashLoop";

/// What the server promised: queue and offset of each message number.
#[derive(Default)]
struct Promised {
    next: u64,
    acknowledged: HashMap<(i32, i64), u64>,
}

fn body(number: u64) -> Vec<u8> {
    let mut body = number.to_be_bytes().to_vec();
    body.resize(16 + (number % 700) as usize, b'.');
    body
}

/// Keeps 64 sends in flight until the connection breaks; notes every acknowledgement.
fn flood(client: &mut Client, promised: &mut Promised) -> Result<()> {
    let mut waiting = HashMap::new();
    loop {
        while waiting.len() < IN_FLIGHT {
            let number = promised.next;
            promised.next += 1;
            let queue = (number % QUEUES as u64) as i32;
            let properties = format!("KEYS\u{1}k{number}\u{2}");
            let fields = send_to(TOPIC, queue, &properties);
            let Ok(opaque) = client.send(code::SEND_MESSAGE, &fields, &body(number), false) else {
                return Ok(());
            };
            waiting.insert(opaque, (queue, number));
        }
        let Ok(answer) = client.receive() else { return Ok(()) };
        ensure!(answer.code == 0, "send answered {}: {:?}", answer.code, answer.remark);
        let (queue, number) = waiting.remove(&answer.opaque).context("unknown opaque")?;
        let offset = answer.field("queueOffset").context("no offset")?.parse()?;
        let twice = promised.acknowledged.insert((queue, offset), number);
        ensure!(twice.is_none(), "offset {offset} of queue {queue} was given twice");
    }
}

/// Reads everything back and compares it with the promises.
fn verify(server: &Server, promised: &Promised) -> Result<usize> {
    let mut client = server.connect()?;
    let mut stored = 0;
    let mut found = 0;
    for queue in 0..QUEUES {
        let messages = pull_all(&mut client, TOPIC, queue, 0)?;
        stored += messages.len();
        let mut last = None;
        for (expected, message) in messages.iter().enumerate() {
            ensure!(message.offset == expected as i64, "queue {queue} has a gap at {expected}");
            let number = u64::from_be_bytes(message.body[..8].try_into()?);
            ensure!(message.body == body(number), "message {number} is damaged");
            ensure!(last < Some(number), "queue {queue}: {number} after {last:?}");
            last = Some(number);
            if let Some(acknowledged) = promised.acknowledged.get(&(queue, message.offset)) {
                ensure!(*acknowledged == number, "offset {expected} holds {number}");
                found += 1;
            }
        }
    }
    ensure!(found == promised.acknowledged.len(), "lost {}", promised.acknowledged.len() - found);
    Ok(stored)
}

fn cycles() -> u64 {
    std::env::var("CRASH_CYCLES").ok().and_then(|text| text.parse().ok()).unwrap_or(CYCLES)
}

fn crash_loop(settings: &str, cycles: u64) -> Result<()> {
    let dir = TempDir::new("crash")?;
    let mut server = Server::start(BINARY, dir.path(), settings)?;
    create_topic(&mut server.connect()?, TOPIC, QUEUES)?;
    let mut promised = Promised::default();
    let mut slowest = Duration::ZERO;
    for cycle in 0..cycles {
        let mut client = server.connect()?;
        let pid = server.pid();
        // A different moment in each cycle: some in the first turn, some after many files.
        let after = Duration::from_millis(20 + (cycle * 97) % 380);
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()
        });
        flood(&mut client, &mut promised)?;
        ensure!(killer.join().is_ok_and(|status| status.is_ok()), "cannot kill");
        server.kill()?;
        #[allow(clippy::disallowed_methods)] // reported, and compared with a generous limit
        let started = Instant::now();
        server.restart()?;
        let mut client = server.connect()?;
        let first = testkit::send(&mut client, "AfterCrash", 0, "", b"first")?;
        ensure!(first.code == 0, "first send after the crash: {:?}", first.remark);
        slowest = slowest.max(started.elapsed());
        verify(&server, &promised)?;
    }
    let stored = verify(&server, &promised)?;
    println!(
        "{cycles} cycles, {} acknowledged, {stored} stored, 0 lost; slowest first send after a \
         restart {} ms",
        promised.acknowledged.len(),
        slowest.as_millis()
    );
    ensure!(promised.acknowledged.len() > 1000, "hardly anything was sent");
    server.stop()?;
    server.restart()?;
    verify(&server, &promised)?;
    Ok(())
}

#[test]
fn asynchronous_flush_survives_kill_9() -> Result<()> {
    // Small files, so that crashes hit their borders.
    crash_loop("mappedFileSizeCommitLog=1048576\nmappedFileSizeConsumeQueue=20000", cycles())
}

#[test]
fn synchronous_flush_survives_kill_9() -> Result<()> {
    crash_loop("flushDiskType=SYNC_FLUSH\nmappedFileSizeCommitLog=1048576", cycles())
}
