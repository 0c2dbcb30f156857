//! Messages for any time, over the wire: when they come, what is refused, recall, kills.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::clock::Clock;
use net::client::{Client, Command};
use testkit::{Message, Server, TempDir, call, create_topic, pull_all, send, send_to};
use wire::codes::request as code;
use wire::properties::get;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

fn start(settings: &str) -> Result<(TempDir, Server, Client)> {
    let dir = TempDir::new("timers")?;
    let server = Server::start(BINARY, dir.path(), settings)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 2)?;
    Ok((dir, server, client))
}

fn now_ms() -> i64 {
    Clock::system().now_ms()
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

fn timer(client: &mut Client, name: &str, value: &str, body: &[u8]) -> Result<Command> {
    send(client, "T", 0, &format!("{name}\u{1}{value}\u{2}UNIQ_KEY\u{1}{value}\u{2}"), body)
}

/// Waits until the queue holds so many.
fn await_messages(client: &mut Client, count: usize) -> Result<Vec<Message>> {
    for _ in 0..2000 {
        let found = pull_all(client, "T", 0, 0)?;
        if found.len() >= count {
            return Ok(found);
        }
        sleep_ms(5);
    }
    anyhow::bail!("{count} messages never came")
}

#[test]
fn due_messages_come_at_their_time_to_their_queue() -> Result<()> {
    let (_dir, _server, mut client) = start("")?;
    let begin = now_ms();
    for (name, value) in [
        ("TIMER_DELAY_SEC", "1".to_owned()),
        ("TIMER_DELAY_MS", "300".to_owned()),
        ("TIMER_DELIVER_MS", (begin + 600).to_string()),
    ] {
        let sent = timer(&mut client, name, &value, name.as_bytes())?;
        ensure!(sent.code == 0, "{:?}", sent.remark);
        ensure!(sent.field("recallHandle").is_some(), "a handle to recall it by");
    }
    ensure!(pull_all(&mut client, "T", 0, 0)?.is_empty());
    let found = await_messages(&mut client, 3)?;
    let bodies: Vec<&[u8]> = found.iter().map(|m| m.body.as_slice()).collect();
    ensure!(bodies == [&b"TIMER_DELAY_MS"[..], b"TIMER_DELIVER_MS", b"TIMER_DELAY_SEC"]);
    let pulled = client.call(code::PULL_MESSAGE, &testkit::pull_from("T", 0, 0), b"")?;
    for (record, delay) in wire::record::records(&pulled.body).zip([300, 600, 1000]) {
        let record = record?;
        let late = record.store_timestamp() - begin - delay;
        ensure!((0..=150).contains(&late), "{late} ms after its time");
        let text = record.properties();
        ensure!(get(text, "TIMER_OUT_MS").is_some() && get(text, "REAL_TOPIC").is_none());
    }
    Ok(())
}

#[test]
fn what_is_refused_and_what_comes_at_once() -> Result<()> {
    let (_dir, _server, mut client) = start("timerMaxDelaySec=100\n")?;
    let limit = "timer message illegal, the delay time should not be bigger than the max delay \
                 100000ms; or if set del msg, the delay time should be bigger than the current \
                 time";
    for (name, value) in [
        ("TIMER_DELAY_SEC", "101"),
        ("TIMER_DELAY_SEC", "abc"),
        ("TIMER_DELAY_MS", "100500"),
        ("TIMER_DELIVER_MS", "9223372036854775807"),
        ("TIMER_DELAY_SEC", "9223372036854775807"),
    ] {
        let sent = timer(&mut client, name, value, b"x")?;
        ensure!(
            sent.code == 13 && sent.remark.as_deref() == Some(limit),
            "{name}={value}: {sent:?}"
        );
    }
    let past = (now_ms() - 5000).to_string();
    for (name, value) in [
        ("TIMER_DELIVER_MS", past.as_str()),
        ("TIMER_DELAY_SEC", "0"),
        ("TIMER_DELIVER_MS", "-9223372036854775808"),
    ] {
        let sent = timer(&mut client, name, value, b"now")?;
        ensure!(sent.code == 0 && sent.field("recallHandle").is_none());
    }
    ensure!(pull_all(&mut client, "T", 0, 0)?.len() == 3);
    // Seconds win over milliseconds, and a level over both.
    let both = "TIMER_DELAY_MS\u{1}0\u{2}TIMER_DELAY_SEC\u{1}50\u{2}";
    ensure!(send(&mut client, "T", 0, both, b"x")?.code == 0);
    let level = "DELAY\u{1}1\u{2}TIMER_DELAY_SEC\u{1}101\u{2}";
    let sent = send(&mut client, "T", 0, level, b"x")?;
    ensure!(sent.code == 0 && sent.field("recallHandle").is_none());
    ensure!(pull_all(&mut client, "T", 0, 0)?.len() == 3);
    ensure!(pull_all(&mut client, "SCHEDULE_TOPIC_XXXX", 0, 0)?.len() == 1);
    ensure!(pull_all(&mut client, "rmq_sys_wheel_timer", 0, 0)?.len() == 1);
    let off = call(&mut client, code::UPDATE_BROKER_CONFIG, &[], b"timerWheelEnable=false")?;
    ensure!(off.code == 0);
    let sent = timer(&mut client, "TIMER_DELAY_SEC", "1", b"x")?;
    let text = "accurate timer message is not enabled, timerWheelEnable is false";
    ensure!(sent.code == 1 && sent.remark.as_deref() == Some(text));
    Ok(())
}

fn recall(client: &mut Client, topic: &str, handle: &str) -> Result<Command> {
    let fields = [("producerGroup", "g"), ("topic", topic), ("recallHandle", handle)];
    call(client, code::RECALL_MESSAGE, &fields, b"")
}

#[test]
fn recalled_messages_never_come() -> Result<()> {
    let (_dir, mut server, mut client) = start("")?;
    let handle = |sent: &Command| sent.field("recallHandle").map(str::to_owned);
    let kept = timer(&mut client, "TIMER_DELAY_MS", "1200", b"kept")?;
    let kept = handle(&kept).context("a handle")?;
    let gone = timer(&mut client, "TIMER_DELAY_MS", "1201", b"gone")?;
    let gone = handle(&gone).context("a handle")?;
    let early = timer(&mut client, "TIMER_DELAY_MS", "1202", b"gone too")?;
    let early = handle(&early).context("a handle")?;
    for (topic, handle, code) in [
        ("T", "", 604),
        ("T", "no handle", 604),
        ("Other", kept.as_str(), 17),
        ("TBW102", kept.as_str(), 604),
    ] {
        let answer = recall(&mut client, topic, handle)?;
        ensure!(answer.code == code, "{topic} {handle}: {answer:?}");
    }
    for _ in 0..2 {
        let answer = recall(&mut client, "T", &gone)?;
        ensure!(answer.code == 0 && answer.field("msgId") == Some("1201"), "{answer:?}");
    }
    ensure!(recall(&mut client, "T", &early)?.code == 0);
    // The wish survives a kill.
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    let found = await_messages(&mut client, 1)?;
    sleep_ms(300);
    ensure!(found[0].body == b"kept" && pull_all(&mut client, "T", 0, 0)?.len() == 1);
    let late = recall(&mut client, "T", &kept)?;
    ensure!(late.code == 604 && late.remark.as_deref() == Some("recall failed, timestamp invalid"));
    let off = call(&mut client, code::UPDATE_BROKER_CONFIG, &[], b"recallMessageEnable=false")?;
    ensure!(off.code == 0 && recall(&mut client, "T", &kept)?.code == 16);
    Ok(())
}

/// 10,000 messages over some seconds, two kills among them: each comes once and none early.
#[test]
fn ten_thousand_timers_survive_kills() -> Result<()> {
    let (_dir, mut server, mut client) = start("")?;
    let begin = now_ms();
    let mut due = HashMap::new();
    let mut opaques = Vec::new();
    for number in 0..10_000_i64 {
        let at = begin + 1500 + number % 1000 * 4;
        let body = number.to_string();
        due.insert(body.clone(), at);
        let text = format!("TIMER_DELIVER_MS\u{1}{at}\u{2}");
        let fields = send_to("T", 0, &text);
        opaques.push(client.send(code::SEND_MESSAGE_V2, &fields, body.as_bytes(), false)?);
    }
    for opaque in opaques {
        ensure!(client.answer(opaque)?.code == 0);
    }
    for pause in [1000, 1200] {
        sleep_ms(pause);
        server.kill()?;
        server.restart()?;
    }
    let mut client = server.connect()?;
    let mut offset = 0;
    let mut seen: HashMap<String, usize> = HashMap::new();
    while seen.len() < due.len() {
        ensure!(now_ms() < begin + 30_000, "{} of {} came", seen.len(), due.len());
        let pull = testkit::pull_from("T", 0, offset);
        let answer = client.call(code::PULL_MESSAGE, &pull, b"")?;
        if answer.code != 0 {
            sleep_ms(10);
            continue;
        }
        for record in wire::record::records(&answer.body) {
            let record = record?;
            let body = String::from_utf8(record.body().to_vec())?;
            let at = due.get(&body).context("nobody sent this")?;
            ensure!(record.store_timestamp() >= *at, "{body} came early");
            *seen.entry(body).or_default() += 1;
            offset = record.queue_offset() + 1;
        }
    }
    let twice = seen.values().filter(|count| **count > 1).count();
    println!("{twice} of {} came twice", seen.len());
    ensure!(twice == 0);
    Ok(())
}

#[test]
fn retrying_messages_come_once_over_kills() -> Result<()> {
    let (_dir, mut server, mut client) = start("messageDelayLevel=1s 2s 3s\n")?;
    for n in 0..100 {
        let sent = send(&mut client, "T", 0, "", n.to_string().as_bytes())?;
        let id = sent.field("msgId").context("id")?;
        let (_, offset) = wire::message_id::parse_offset_id(id).context("id")?;
        let (offset, level) = (offset.to_string(), (1 + n % 3).to_string());
        let back = [("group", "g"), ("offset", offset.as_str()), ("delayLevel", level.as_str())];
        ensure!(call(&mut client, code::CONSUMER_SEND_MSG_BACK, &back, b"")?.code == 0);
    }
    for _ in 0..3 {
        sleep_ms(900);
        server.kill()?;
        server.restart()?;
        client = server.connect()?;
    }
    sleep_ms(1000);
    let found = pull_all(&mut client, "%RETRY%g", 0, 0)?;
    let mut numbers: Vec<usize> = Vec::new();
    for message in &found {
        ensure!(message.reconsume_times == 1);
        numbers.push(std::str::from_utf8(&message.body)?.parse()?);
    }
    numbers.sort_unstable();
    ensure!(numbers == (0..100).collect::<Vec<_>>(), "{} came", numbers.len());
    Ok(())
}
