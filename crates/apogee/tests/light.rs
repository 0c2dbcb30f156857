//! Light queues (LMQ): one record, shown in many queues.

use anyhow::{Context, Result, ensure};
use testkit::{Server, TempDir, create_topic, pull_all, send};
use wire::codes::request as code;
use wire::properties::get;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
const ON: &str = "enableLmq=true\nenableMultiDispatch=true\n";

fn naming(names: &str) -> String {
    format!("INNER_MULTI_DISPATCH\u{1}{names}\u{2}TAGS\u{1}a\u{2}")
}

#[test]
fn t_8_28_one_record_is_shown_in_every_queue_that_it_names() -> Result<()> {
    let dir = TempDir::new("light")?;
    let mut server = Server::start(BINARY, dir.path(), ON)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    for names in ["%LMQ%a,%LMQ%b,%LMQ%c", "%LMQ%b", "%LMQ%c,plain,%LMQ%a", "%LMQ%a,%LMQ%a"] {
        let sent = send(&mut client, "T", 0, &naming(names), names.as_bytes())?;
        ensure!(sent.code == 0, "{:?}", sent.remark);
    }
    let check = |client: &mut net::client::Client| -> Result<()> {
        let own = pull_all(client, "T", 0, 0)?;
        let told: Vec<&str> =
            own.iter().filter_map(|m| get(&m.properties, "INNER_MULTI_QUEUE_OFFSET")).collect();
        ensure!(told == ["0,0,0", "1", "1,,1", "2,2"], "{told:?}");
        for (light, wanted) in
            [("%LMQ%a", vec![0, 2, 3]), ("%LMQ%b", vec![0, 1]), ("%LMQ%c", vec![0, 2])]
        {
            let found = pull_all(client, light, 0, 0)?;
            let places: Vec<i64> = found.iter().map(|m| m.physical_offset).collect();
            let wanted: Vec<i64> = wanted.iter().map(|n| own[*n].physical_offset).collect();
            ensure!(places == wanted, "{light}: {places:?} {wanted:?}");
        }
        Ok(())
    };
    check(&mut client)?;
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    check(&mut client)?;
    // Numbering goes on; a waiting pull of a light queue is woken.
    let mut waiting = server.connect()?;
    let pull = std::thread::spawn(move || -> Result<usize> {
        let request = wire::requests::PullMessage {
            sys_flag: 6,
            suspend_timeout_millis: 10_000,
            ..testkit::pull_from("%LMQ%b", 0, 2)
        };
        let answer = waiting.call(code::PULL_MESSAGE, &request, b"")?;
        Ok(wire::record::records(&answer.body).count())
    });
    std::thread::sleep(std::time::Duration::from_millis(200));
    ensure!(send(&mut client, "T", 0, &naming("%LMQ%b"), b"more")?.code == 0);
    ensure!(pull.join().expect("thread")? == 1);
    // Queues may be deleted and are rebuilt from the log.
    server.stop()?;
    std::fs::remove_dir_all(dir.path().join("data/store/consumequeue"))?;
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(pull_all(&mut client, "%LMQ%b", 0, 0)?.len() == 3);
    Ok(())
}

#[test]
fn light_queues_are_off_by_default_and_have_a_quota() -> Result<()> {
    let dir = TempDir::new("light-off")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    ensure!(send(&mut client, "T", 0, &naming("%LMQ%a"), b"x")?.code == 0);
    ensure!(
        get(&pull_all(&mut client, "T", 0, 0)?[0].properties, "INNER_MULTI_QUEUE_OFFSET").is_none()
    );
    let answer = client.call(code::PULL_MESSAGE, &testkit::pull_from("%LMQ%a", 0, 0), b"")?;
    ensure!(answer.code == 17, "{}", answer.code);
    let dir = TempDir::new("light-quota")?;
    let settings = format!("{ON}enableLmqQuota=true\nmaxLmqConsumeQueueNum=2\n");
    let server = Server::start(BINARY, dir.path(), &settings)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    for (names, code) in [("%LMQ%a,%LMQ%b", 0), ("%LMQ%c", 2017), ("%LMQ%b", 0)] {
        let sent = send(&mut client, "T", 0, &naming(names), b"x")?;
        ensure!(sent.code == code, "{names}: {} {:?}", sent.code, sent.remark);
    }
    Ok(())
}

fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
fn a_hundred_thousand_light_queues() -> Result<()> {
    const COUNT: usize = 100_000;
    let dir = TempDir::new("light-many")?;
    // Small files, for this many queues: a file appears when a queue reaches the disk.
    let settings = format!("{ON}mappedFileSizeConsumeQueue=2000\n");
    let mut server = Server::start(BINARY, dir.path(), &settings)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    let before = resident_kib(server.pid())?;
    for start in (0..COUNT).step_by(500) {
        let names: Vec<String> = (start..start + 500).map(|n| format!("%LMQ%q{n}")).collect();
        let sent = send(&mut client, "T", 0, &naming(&names.join(",")), b"x")?;
        ensure!(sent.code == 0, "{:?}", sent.remark);
    }
    let grown = (resident_kib(server.pid())? - before) * 1024 / COUNT as u64;
    ensure!(grown < 4096, "{grown} bytes a queue");
    for n in [0, 1, 777, COUNT - 1] {
        ensure!(pull_all(&mut client, &format!("%LMQ%q{n}"), 0, 0)?.len() == 1);
    }
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    for n in [0, 1, 777, COUNT - 1] {
        ensure!(pull_all(&mut client, &format!("%LMQ%q{n}"), 0, 0)?.len() == 1, "queue {n}");
    }
    Ok(())
}
