//! B20: what waits inside of the broker falls due while the disk is full. Nothing of it is lost,
//! nothing blocks anything else, and all of it comes when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::clock::Clock;
use net::client::Client;
use testkit::{Server, TempDir, call, create_topic, pull_all, send};
use wire::codes::request as code;
use wire::record;
use wire::requests::PopMessage;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
const SETTINGS: &str = "mappedFileSizeCommitLog=16777216\nmessageDelayLevel=3s 5s\n";

/// A small file system of its own; `None` where this user may not mount.
struct SmallDisk {
    dir: PathBuf,
    _temp: TempDir,
}

impl SmallDisk {
    #[allow(clippy::print_stdout)] // says why nothing was tested
    fn mount() -> Result<Option<SmallDisk>> {
        let temp = TempDir::new("disk-full")?;
        let dir = temp.path().to_path_buf();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=96m", "tmpfs"]).arg(&dir);
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        if !mounted {
            println!("skipped: this user may not mount a small file system");
        }
        Ok(mounted.then_some(SmallDisk { dir, _temp: temp }))
    }

    fn ballast(&self) -> PathBuf {
        self.dir.join("ballast")
    }

    /// Takes every free block.
    fn fill(&self) -> Result<()> {
        let mut chunk = 4 << 20;
        let mut bytes = 0;
        while chunk >= 4096 {
            let status = Command::new("fallocate")
                .args(["-l", &(bytes + chunk).to_string()])
                .arg(self.ballast())
                .output()?;
            if status.status.success() { bytes += chunk } else { chunk /= 2 }
        }
        ensure!(bytes > 1 << 20, "only {bytes} bytes were free");
        Ok(())
    }

    fn empty(&self) -> Result<()> {
        Ok(std::fs::remove_file(self.ballast())?)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.dir).output(); // best effort
    }
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn start(dir: &Path) -> Result<(Server, Client)> {
    let server = Server::start(BINARY, dir, SETTINGS)?;
    let mut client = server.connect()?;
    for topic in ["T", "T2", "P"] {
        create_topic(&mut client, topic, 1)?;
    }
    Ok((server, client))
}

/// Sends until the broker has noticed that there is no room.
fn await_refusal(client: &mut Client) -> Result<()> {
    let body = vec![b'x'; 256 * 1024];
    for _ in 0..2000 {
        let sent = send(client, "Filler", 0, "", &body)?;
        if sent.code == 14 {
            let text = sent.remark.unwrap_or_default();
            ensure!(text.contains("disk is full") && text.contains("commitlog"), "{text}");
            return Ok(());
        }
        sleep_ms(5);
    }
    anyhow::bail!("sends are taken although the disk is full")
}

fn pop(client: &mut Client, invisible_ms: i64) -> Result<Vec<Vec<u8>>> {
    let request = PopMessage {
        consumer_group: "g",
        topic: "P",
        queue_id: -1,
        max_msg_nums: 32,
        invisible_time: invisible_ms,
        poll_time: 0,
        born_time: Clock::system().now_ms(),
        init_mode: 0,
        exp_type: None,
        exp: None,
        order: false,
        attempt_id: None,
    };
    let answer = client.call(code::POP_MESSAGE, &request, b"")?;
    let records = record::records(&answer.body);
    records.map(|record| Ok(record?.body().to_vec())).collect()
}

fn bodies(client: &mut Client, topic: &str) -> Result<Vec<String>> {
    let found = pull_all(client, topic, 0, 0)?;
    let mut texts: Vec<String> =
        found.iter().map(|m| String::from_utf8_lossy(&m.body).into_owned()).collect();
    texts.sort_unstable();
    Ok(texts)
}

fn run(kill: bool) -> Result<()> {
    let Some(disk) = SmallDisk::mount()? else { return Ok(()) };
    let (mut server, mut client) = start(&disk.dir)?;
    send(&mut client, "Filler", 0, "", b"makes the topic")?;
    for n in 0..11 {
        let body = format!("{n:02}");
        ensure!(send(&mut client, "T", 0, "DELAY\u{1}1\u{2}", body.as_bytes())?.code == 0);
        let timer = "TIMER_DELAY_MS\u{1}3000\u{2}";
        ensure!(send(&mut client, "T2", 0, timer, body.as_bytes())?.code == 0);
        ensure!(send(&mut client, "P", 0, "", body.as_bytes())?.code == 0);
    }
    ensure!(send(&mut client, "Gone", 0, "DELAY\u{1}1\u{2}", b"x")?.code == 0);
    ensure!(send(&mut client, "T", 0, "DELAY\u{1}1\u{2}", b"11")?.code == 0);
    ensure!(pop(&mut client, 3000)?.len() == 11);
    call(&mut client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "Gone")], b"")?;
    sleep_ms(500);
    disk.fill()?;
    await_refusal(&mut client)?;
    sleep_ms(4000);
    if kill {
        server.kill()?;
    }
    disk.empty()?;
    if kill {
        server.restart()?;
        client = server.connect()?;
    }
    let wanted: Vec<String> = (0..12).map(|n| format!("{n:02}")).collect();
    let mut popped = Vec::new();
    for _ in 0..300 {
        popped.extend(pop(&mut client, 60_000)?);
        if popped.len() == 11
            && bodies(&mut client, "T")?.len() >= 12
            && bodies(&mut client, "T2")?.len() >= 11
        {
            break;
        }
        sleep_ms(50);
    }
    ensure!(bodies(&mut client, "T")? == wanted, "T {:?}", bodies(&mut client, "T")?);
    ensure!(bodies(&mut client, "T2")? == wanted[..11], "{:?}", bodies(&mut client, "T2")?);
    popped.sort_unstable();
    let popped: Vec<String> =
        popped.into_iter().map(String::from_utf8).collect::<Result<_, _>>().context("text")?;
    ensure!(popped == wanted[..11], "popped {popped:?}");
    Ok(())
}

#[test]
fn b20_what_is_due_while_the_disk_is_full_comes_afterwards() -> Result<()> {
    run(false)
}

#[test]
fn b20_also_over_a_kill() -> Result<()> {
    run(true)
}
