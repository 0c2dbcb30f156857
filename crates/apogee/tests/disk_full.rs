//! B20: what waits inside of the broker falls due while the disk is full. Nothing of it is lost,
//! nothing blocks anything else, and all of it comes when there is room again.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::clock::Clock;
use net::client::Client;
use testkit::{Server, TempDir, call, create_topic, pull_all, pull_from, send};
use wire::codes::request as code;
use wire::json::Value;
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

    /// An ext4 of 512 MiB in a file, or a memory file system of that size where there is none.
    fn mount_ext4() -> Result<Option<SmallDisk>> {
        let temp = TempDir::new("disk-ext4")?;
        let (image, dir) = (temp.path().join("image"), temp.path().join("mounted"));
        std::fs::create_dir(&dir)?;
        std::fs::File::create(&image)?.set_len(512 << 20)?;
        let run = |program: &str, args: &[&std::ffi::OsStr]| {
            let output = Command::new(program).args(args).output();
            output.is_ok_and(|output| output.status.success())
        };
        let made = run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), image.as_ref()])
            && run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), dir.as_ref()]);
        let size = ["-t", "tmpfs", "-o", "size=512m", "tmpfs"].map(AsRef::as_ref);
        let made = made || run("mount", &[&size[..], &[dir.as_ref()]].concat());
        Ok(made.then_some(SmallDisk { dir, _temp: temp }))
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

/// Code of a send to the small topic.
fn code_of_send(client: &mut Client) -> Result<i32> {
    Ok(send(client, "T", 0, "", b"small")?.code)
}

#[test]
fn a_full_disk_is_named_consumers_go_on_and_room_is_used_at_once() -> Result<()> {
    let Some(disk) = SmallDisk::mount_ext4()? else { return Ok(()) };
    let data = disk.dir.join("data");
    std::fs::create_dir(&data)?;
    let (server, mut client) = start(&data)?;
    for _ in 0..20 {
        ensure!(code_of_send(&mut client)? == 0);
    }
    let group = br#"{"groupName":"g"}"#;
    let made = call(&mut client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group)?;
    ensure!(made.code == 0, "{made:?}");
    let fields = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "20")];
    ensure!(call(&mut client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")?.code == 0);
    let body = vec![b'x'; 256 * 1024];
    for _ in 0..40 {
        ensure!(send(&mut client, "Filler", 0, "", &body)?.code == 0);
    }
    disk.fill()?;
    await_refusal(&mut client)?;
    // Told with the next look at the disk, which comes soon after the first refusal.
    let mut text = String::new();
    for _ in 0..100 {
        text = send(&mut client, "T", 0, "", b"small")?.remark.unwrap_or_default();
        if text.contains("Filler") {
            break;
        }
        sleep_ms(50);
    }
    for part in ["bytes are free under", "commitlog", "the topic with most is Filler, about "] {
        ensure!(text.contains(part), "{part:?} is not in {text:?}");
    }
    // Consumers read and commit; operators ask.
    let filler = client.call(code::PULL_MESSAGE, &pull_from("Filler", 0, 0), b"")?;
    ensure!([0, 21].contains(&filler.code), "{filler:?}");
    ensure!(call(&mut client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")?.code == 0);
    let table = call(&mut client, code::GET_BROKER_RUNTIME_INFO, &[], b"")?;
    let table = Value::parse(std::str::from_utf8(&table.body)?).map_err(anyhow::Error::msg)?;
    let decision = table.get("table").and_then(|table| table.get("retentionDecision"));
    let decision = decision.and_then(Value::text).unwrap_or_default();
    ensure!(decision.contains("% used"), "{decision}");
    disk.empty()?;
    let mut tries = 0;
    while code_of_send(&mut client)? != 0 {
        sleep_ms(100);
        tries += 1;
        ensure!(tries <= 100, "not within ten seconds");
    }
    drop(server);
    Ok(())
}
