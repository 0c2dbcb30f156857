//! Figures that are looked at, not judged: `cargo test --release --test measure -- --ignored`.
#![allow(clippy::print_stdout)] // what it prints is its purpose

use anyhow::{Context, Result, ensure};
use base::clock::{Clock, Stopwatch};
use testkit::{Server, TempDir, create_topic, send};
use wire::body::{Member, TopicConfig};
use wire::codes::request as code;
use wire::header::{Head, write_frame};
use wire::json::{Value, object};
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

/// Kilobytes of a line of `/proc/PID/status`.
fn status_kb(pid: u32, name: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such line")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

/// Creates topics `M0`, `M1`, … with 8 queues each by code 18, which is one change for 500.
fn create_many(client: &mut net::client::Client, topics: usize) -> Result<()> {
    for first in (0..topics).step_by(500) {
        let configs = (first..topics.min(first + 500)).map(|number| {
            let config = TopicConfig {
                topic_name: format!("M{number}"),
                read_queue_nums: 8,
                write_queue_nums: 8,
                perm: 6,
                ..TopicConfig::default()
            };
            config.write()
        });
        let body = object([("topicConfigList", Value::Array(configs.collect()))]).to_text();
        let created =
            testkit::call(client, code::UPDATE_AND_CREATE_TOPIC_LIST, &[], body.as_bytes());
        ensure!(created?.code == 0);
    }
    Ok(())
}

/// One message into each of 8 queues of so many topics, 512 requests in flight.
fn send_to_each(address: &str, topics: usize) -> Result<()> {
    let mut socket = std::net::TcpStream::connect(address)?;
    let mut received = vec![0; 1 << 20];
    for first in (0..topics).step_by(64) {
        let mut frames = Vec::new();
        let last = topics.min(first + 64);
        for number in first..last {
            let topic = format!("M{number}");
            for queue in 0..8 {
                let fields = testkit::send_to(&topic, queue, "");
                let head = Head::request(code::SEND_MESSAGE, number as i32, false);
                write_frame(&mut frames, &head, &fields, false, |out| out.extend([7; 100]));
            }
        }
        std::io::Write::write_all(&mut socket, &frames)?;
        let (mut filled, mut at, mut good) = (0, 0, 0);
        while good < (last - first) * 8 {
            let read = std::io::Read::read(&mut socket, &mut received[filled..])?;
            ensure!(read > 0, "the broker closed the connection");
            filled += read;
            while let Some((frame, len)) =
                wire::frame::split(&received[at..filled], wire::frame::MAX_FRAME)?
            {
                ensure!(frame.header.windows(8).any(|w| w == b"\"code\":0"), "a send was refused");
                at += len;
                good += 1;
            }
        }
    }
    Ok(())
}

/// What 100,000 queues cost: memory, descriptors, starts.
#[test]
#[ignore = "prints figures"]
fn a_hundred_thousand_queues() -> Result<()> {
    const TOPICS: usize = 12_500;
    let dir = TempDir::new("measure")?;
    let mut server = Server::start(BINARY, dir.path(), "")?;
    let show = |what: &str, server: &Server| -> Result<()> {
        let (rss, maps) = (status_kb(server.pid(), "VmRSS:")?, status_kb(server.pid(), "VmSize:")?);
        let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid()))?.count();
        println!("{what}: {rss} KiB resident, {maps} KiB mapped, {open} descriptors");
        Ok(())
    };
    show("empty", &server)?;
    let mut client = server.connect()?;
    let watch = Stopwatch::start();
    create_many(&mut client, TOPICS)?;
    println!("created in {} ms", watch.elapsed().as_millis());
    show("100,000 queues, new", &server)?;
    let start = |what: &str, server: &mut Server| -> Result<()> {
        let watch = Stopwatch::start();
        server.restart()?;
        println!("start {what}: {} ms", watch.elapsed().as_millis());
        show(what, server)
    };
    server.stop()?;
    start("without messages", &mut server)?;
    let watch = Stopwatch::start();
    send_to_each(&server.broker, TOPICS)?;
    println!("a message each in {} ms", watch.elapsed().as_millis());
    show("a message each", &server)?;
    std::thread::sleep(std::time::Duration::from_secs(20));
    show("20 s later", &server)?;
    let watch = Stopwatch::start();
    server.stop()?;
    println!("stopped in {} ms", watch.elapsed().as_millis());
    start("after a clean stop", &mut server)?;
    send_to_each(&server.broker, TOPICS)?;
    std::thread::sleep(std::time::Duration::from_secs(20));
    server.kill()?;
    start("after a kill", &mut server)?;
    server.kill()?;
    start("after another kill", &mut server)
}
