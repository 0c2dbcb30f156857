//! Figures that are looked at, not judged: `cargo test --release --test measure -- --ignored`.
#![allow(clippy::print_stdout)] // what it prints is its purpose

use anyhow::{Context, Result, ensure};
use base::clock::Clock;
use testkit::{Server, TempDir, create_topic, send};
use wire::codes::request as code;
use wire::header::{Head, write_frame};
use wire::requests::{PopMessage, PullMessage};

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

fn cpu_ms(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().context("stat")?.split(' ').collect();
    Ok((fields[12].parse::<u64>()? + fields[13].parse::<u64>()?) * 10)
}

/// 1,000 groups wait on a topic, and messages arrive in another queue of it: what that costs.
#[test]
#[ignore = "prints figures"]
fn an_arrival_beside_a_thousand_waiting_groups() -> Result<()> {
    let dir = TempDir::new("measure")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 2)?;
    let sends = |client: &mut net::client::Client| -> Result<u64> {
        let before = cpu_ms(server.pid())?;
        for _ in 0..20_000 {
            ensure!(send(client, "T", 0, "", b"x")?.code == 0);
        }
        Ok(cpu_ms(server.pid())? - before)
    };
    sends(&mut client)?;
    println!("20,000 sends, nobody waits: {} ms of CPU", sends(&mut client)?);
    let mut socket = std::net::TcpStream::connect(&server.broker)?;
    let mut frames = Vec::new();
    for number in 0..1000 {
        let group = format!("g{number}");
        let pull = PullMessage {
            consumer_group: &group,
            sys_flag: 6,
            suspend_timeout_millis: 600_000,
            ..testkit::pull_from("T", 1, 0)
        };
        let head = Head::request(code::PULL_MESSAGE, number, false);
        write_frame(&mut frames, &head, &pull, false, |_| {});
    }
    std::io::Write::write_all(&mut socket, &frames)?;
    // Making a thousand groups takes its time: each is on disk before it is used.
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("1,000 pulls wait on the other queue: {} ms", sends(&mut client)?);
    frames.clear();
    for number in 0..1000 {
        let group = format!("p{number}");
        let pop = PopMessage {
            consumer_group: &group,
            topic: "T",
            queue_id: 1,
            max_msg_nums: 32,
            invisible_time: 60_000,
            poll_time: 600_000,
            born_time: Clock::system().now_ms(),
            init_mode: 0,
            exp_type: None,
            exp: None,
            order: false,
            attempt_id: None,
        };
        let head = Head::request(code::POP_MESSAGE, number, false);
        write_frame(&mut frames, &head, &pop, false, |_| {});
    }
    std::io::Write::write_all(&mut socket, &frames)?;
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("and 1,000 pops: {} ms", sends(&mut client)?);
    Ok(())
}
