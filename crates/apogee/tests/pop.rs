//! Pop over the wire: what comes, when it comes again, receipts, order, waiting, kills.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use base::clock::{Clock, Stopwatch};
use net::client::{Client, Command};
use testkit::{Server, TempDir, call, create_topic, send};
use wire::codes::request as code;
use wire::properties::get;
use wire::record;
use wire::requests::{AckMessage, ChangeInvisibleTime, PopMessage};

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

fn start(settings: &str, queues: i32) -> Result<(TempDir, Server, Client)> {
    let dir = TempDir::new("pop")?;
    let server = Server::start(BINARY, dir.path(), settings)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", queues)?;
    Ok((dir, server, client))
}

fn sleep_ms(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A pop of up to 32 messages from all queues, from the beginning, that does not wait.
fn request(invisible_ms: i64) -> PopMessage<'static> {
    PopMessage {
        consumer_group: "g",
        topic: "T",
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
    }
}

/// A popped message as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Popped {
    body: Vec<u8>,
    times: i32,
    topic: String,
    queue_id: i32,
    offset: i64,
    receipt: String,
    properties: String,
}

/// Sends a pop and makes receipts as Java's client does.
fn pop(client: &mut Client, request: &PopMessage<'_>) -> Result<Vec<Popped>> {
    let answer = client.call(code::POP_MESSAGE, request, b"")?;
    if answer.code != 0 {
        ensure!(answer.code == 210, "{} {:?}", answer.code, answer.remark);
        return Ok(Vec::new());
    }
    popped(request, &answer)
}

fn popped(request: &PopMessage<'_>, answer: &Command) -> Result<Vec<Popped>> {
    let field = |name| answer.field(name).with_context(|| format!("no {name}"));
    let (time, revive) = (field("popTime")?, field("reviveQid")?);
    let mut starts = HashMap::new();
    for entry in field("startOffsetInfo")?.split(';') {
        let words: Vec<&str> = entry.split(' ').collect();
        ensure!(words.len() == 3, "{entry}");
        let again = starts.insert((words[0].to_owned(), words[1].to_owned()), words[2].to_owned());
        ensure!(again.is_none(), "a queue is named twice");
    }
    let mut offsets = 0;
    for entry in field("msgOffsetInfo")?.split(';') {
        offsets += entry.split(' ').nth(2).context("offsets")?.split(',').count();
    }
    let mut found = Vec::new();
    for record in record::records(&answer.body) {
        let record = record?;
        let text = record.properties();
        let queue = ("0".to_owned(), record.queue_id().to_string());
        let receipt = match get(text, "POP_CK") {
            Some(receipt) => receipt.to_owned(),
            None => {
                let start = starts.get(&queue).context("a queue without start")?;
                let (invisible, id) = (request.invisible_time, record.queue_id());
                let offset = record.queue_offset();
                format!("{start} {time} {invisible} {revive} 0 broker-a {id} {offset}")
            }
        };
        let retried = receipt.split(' ').nth(4) == Some("1");
        let group = request.consumer_group;
        ensure!(record.topic() == request.topic);
        found.push(Popped {
            body: record.body().to_vec(),
            times: record.reconsume_times(),
            topic: if retried { format!("%RETRY%{group}_T") } else { "T".to_owned() },
            queue_id: record.queue_id(),
            offset: record.queue_offset(),
            receipt,
            properties: text.to_owned(),
        });
    }
    ensure!(found.len() == offsets, "every message has its offset in the header");
    Ok(found)
}

/// Pops until so many messages came, or two seconds long.
fn pop_all(client: &mut Client, invisible_ms: i64, count: usize) -> Result<Vec<Popped>> {
    let watch = Stopwatch::start();
    let mut found = Vec::new();
    while found.len() < count && watch.elapsed() < Duration::from_secs(5) {
        let batch = pop(client, &request(invisible_ms))?;
        if batch.is_empty() {
            sleep_ms(10);
        }
        found.extend(batch);
    }
    Ok(found)
}

fn ack(client: &mut Client, message: &Popped) -> Result<Command> {
    let request = AckMessage {
        consumer_group: "g",
        topic: &message.topic,
        queue_id: message.queue_id,
        extra_info: &message.receipt,
        offset: message.offset,
    };
    Ok(client.call(code::ACK_MESSAGE, &request, b"")?)
}

fn change(client: &mut Client, message: &Popped, invisible_ms: i64) -> Result<Popped> {
    change_as(client, message, invisible_ms, false)
}

fn change_as(client: &mut Client, message: &Popped, ms: i64, suspend: bool) -> Result<Popped> {
    let request = ChangeInvisibleTime {
        consumer_group: "g",
        topic: &message.topic,
        queue_id: message.queue_id,
        extra_info: &message.receipt,
        offset: message.offset,
        invisible_time: ms,
        suspend,
    };
    let answer = client.call(code::CHANGE_MESSAGE_INVISIBLETIME, &request, b"")?;
    ensure!(answer.code == 0 && answer.remark.as_deref() == Some("not set any response code"));
    let field = |name| answer.field(name).context("missing");
    let (time, invisible, revive) =
        (field("popTime")?, field("invisibleTime")?, field("reviveQid")?);
    let flag = message.receipt.split(' ').nth(4).context("flag")?;
    let (id, offset) = (message.queue_id, message.offset);
    let receipt = format!("{offset} {time} {invisible} {revive} {flag} broker-a {id} {offset}");
    Ok(Popped { receipt, ..message.clone() })
}

fn fill(client: &mut Client, queues: i32, count: usize) -> Result<()> {
    for n in 0..count {
        let sent = send(client, "T", n as i32 % queues, "", n.to_string().as_bytes())?;
        ensure!(sent.code == 0, "{:?}", sent.remark);
    }
    Ok(())
}

fn numbers(messages: &[Popped]) -> Result<Vec<usize>> {
    let texts = messages.iter().map(|m| Ok(std::str::from_utf8(&m.body)?.parse()?));
    let mut numbers: Vec<usize> = texts.collect::<Result<_>>()?;
    numbers.sort_unstable();
    Ok(numbers)
}

#[test]
fn t_7_1_a_frozen_client_holds_up_nobody() -> Result<()> {
    let (_dir, server, mut frozen) = start("", 4)?;
    let mut other = server.connect()?;
    fill(&mut frozen, 4, 100)?;
    let held = pop(&mut frozen, &PopMessage { max_msg_nums: 10, ..request(1500) })?;
    ensure!(held.len() == 10);
    let watch = Stopwatch::start();
    let rest = pop_all(&mut other, 60_000, 90)?;
    ensure!(rest.len() == 90 && watch.elapsed() < Duration::from_millis(1000));
    rest.iter().try_for_each(|message| ack(&mut other, message).map(drop))?;
    let again = pop_all(&mut other, 60_000, 10)?;
    let waited = watch.elapsed().as_millis();
    ensure!((1300..1800).contains(&waited), "again after {waited} ms");
    ensure!(numbers(&again)? == numbers(&held)?);
    for message in &again {
        ensure!(message.times == 1 && message.topic == "%RETRY%g_T");
        ensure!(get(&message.properties, "ORIGIN_GROUP") == Some("g"));
        let first = held.iter().find(|m| m.body == message.body).context("of the first pop")?;
        ensure!(get(&message.properties, "1ST_POP_TIME") == first.receipt.split(' ').nth(1));
    }
    Ok(())
}

#[test]
fn t_7_2_an_old_receipt_is_dead() -> Result<()> {
    let (_dir, _server, mut client) = start("", 1)?;
    fill(&mut client, 1, 1)?;
    let first = pop_all(&mut client, 300, 1)?.swap_remove(0);
    let second = change(&mut client, &first, 800)?;
    let watch = Stopwatch::start();
    ensure!(ack(&mut client, &first)?.code == 0, "a stale word is no error");
    let again = pop_all(&mut client, 60_000, 1)?.swap_remove(0);
    let waited = watch.elapsed().as_millis();
    ensure!((700..1000).contains(&waited), "again after {waited} ms");
    ensure!(again.times == 1);
    // T-7.3: after its time an acknowledgement is answered, and changes nothing.
    ensure!(ack(&mut client, &second)?.code == 0);
    ensure!(ack(&mut client, &again)?.code == 0 && ack(&mut client, &again)?.code == 0);
    // Given back unread: no attempt is counted.
    fill(&mut client, 1, 1)?;
    let one = pop_all(&mut client, 60_000, 1)?.swap_remove(0);
    change_as(&mut client, &one, 10, true)?;
    let again = pop_all(&mut client, 60_000, 1)?.swap_remove(0);
    ensure!(again.times == 0);
    Ok(())
}

#[test]
fn b26_names_of_every_length_come_again_and_end_in_the_dead_letters() -> Result<()> {
    let (_dir, mut server, mut client) = start("", 1)?;
    let (topic, group) = ("T".repeat(127), "G".repeat(120));
    create_topic(&mut client, &topic, 1)?;
    let body = format!(r#"{{"groupName":"{group}","retryMaxTimes":2,"retryQueueNums":1}}"#);
    let made = call(&mut client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body.as_bytes())?;
    ensure!(made.code == 0);
    ensure!(send(&mut client, &topic, 0, "TAGS\u{1}a\u{2}", b"x")?.code == 0);
    let mut seen = Vec::new();
    let watch = Stopwatch::start();
    while seen.len() < 3 && watch.elapsed() < Duration::from_secs(5) {
        let one = PopMessage {
            topic: &topic,
            consumer_group: &group,
            poll_time: 1000,
            born_time: Clock::system().now_ms(),
            exp_type: Some("TAG"),
            exp: Some("a || b"),
            ..request(50)
        };
        let answer = client.call(code::POP_MESSAGE, &one, b"")?;
        for record in record::records(&answer.body) {
            seen.push(record?.reconsume_times());
        }
    }
    ensure!(seen == [0, 1, 2], "{seen:?}");
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    let dead = format!("%DLQ%{group}");
    for _ in 0..200 {
        let found = testkit::pull_all(&mut client, &dead, 0, 0).unwrap_or_default();
        if !found.is_empty() {
            ensure!(found.len() == 1 && found[0].body == b"x");
            let pulled = client.call(code::PULL_MESSAGE, &testkit::pull_from(&dead, 0, 0), b"")?;
            let record = record::records(&pulled.body).next().context("a record")??;
            ensure!(get(record.properties(), "RETRY_TOPIC") == Some(topic.as_str()));
            return Ok(());
        }
        sleep_ms(20);
    }
    bail!("the message never reached the dead letters")
}

#[test]
fn b27_sizes_that_make_no_sense_are_refused() -> Result<()> {
    let (_dir, _server, mut client) = start("", 2)?;
    for max_msg_nums in [33, 0, -1, i32::MAX, i32::MIN] {
        let bad = PopMessage { max_msg_nums, ..request(1000) };
        let answer = client.call(code::POP_MESSAGE, &bad, b"")?;
        ensure!(answer.code == 29 && answer.field("popTime") == Some("0"), "{max_msg_nums}");
    }
    let refused = [
        (PopMessage { queue_id: 2, ..request(1) }, 29),
        (PopMessage { topic: "nope", ..request(1) }, 17),
        (PopMessage { exp_type: Some("SQL92"), exp: Some("a >"), ..request(1) }, 23),
        (PopMessage { exp_type: Some("XYZ"), exp: Some("a"), ..request(1) }, 23),
        (PopMessage { born_time: 1, ..request(1) }, 210),
        (PopMessage { queue_id: i32::MIN, ..request(1) }, 210),
    ];
    for (request, code) in refused {
        let answer = client.call(code::POP_MESSAGE, &request, b"")?;
        ensure!(answer.code == code, "{request:?}: {} {:?}", answer.code, answer.remark);
    }
    fill(&mut client, 2, 2)?;
    let one = pop_all(&mut client, 60_000, 2)?.swap_remove(0);
    for (bad, code) in [
        (Popped { queue_id: 9, ..one.clone() }, 13),
        (Popped { queue_id: -1, ..one.clone() }, 13),
        (Popped { offset: 77, ..one.clone() }, 208),
        (Popped { offset: -1, ..one.clone() }, 208),
        (Popped { topic: "nope".into(), ..one.clone() }, 17),
        (Popped { receipt: "a b".into(), ..one.clone() }, 1),
    ] {
        let answer = ack(&mut client, &bad)?;
        ensure!(answer.code == code, "{bad:?}: {} {:?}", answer.code, answer.remark);
    }
    ensure!(ack(&mut client, &one)?.code == 0);
    Ok(())
}

#[test]
fn batch_acknowledgements_settle_what_they_name() -> Result<()> {
    let (_dir, _server, mut client) = start("", 1)?;
    fill(&mut client, 1, 10)?;
    let held = pop_all(&mut client, 700, 10)?;
    let time = held[0].receipt.split(' ').nth(1).context("time")?;
    // Bits 0 to 7 but for 3, and one far outside the queue.
    let entry = |bits: &str, topic: &str| {
        format!(
            r#"{{"b":"{bits}","c":"g","it":700,"pt":{time},"q":0,"r":"0","rq":0,"so":0,"t":"{topic}"}}"#
        )
    };
    let body = format!(
        r#"{{"acks":[{},{}],"brokerName":"broker-a"}}"#,
        entry("9wAAAAAAAAAB", "T"),
        entry("/w==", "nope")
    );
    let answer = call(&mut client, code::BATCH_ACK_MESSAGE, &[], body.as_bytes())?;
    ensure!(answer.code == 0, "{:?}", answer.remark);
    for empty in [&b""[..], br#"{"acks":[]}"#] {
        ensure!(call(&mut client, code::BATCH_ACK_MESSAGE, &[], empty)?.code == 208);
    }
    let again = pop_all(&mut client, 60_000, 3)?;
    ensure!(numbers(&again)? == [3, 8, 9]);
    sleep_ms(100);
    ensure!(pop(&mut client, &request(1000))?.is_empty());
    Ok(())
}

#[test]
fn t_7_4_an_ordered_queue_gives_one_batch_at_a_time() -> Result<()> {
    let (_dir, mut server, mut client) = start("", 1)?;
    fill(&mut client, 1, 8)?;
    let order = |attempt: &'static str| PopMessage {
        order: true,
        attempt_id: Some(attempt),
        max_msg_nums: 4,
        ..request(800)
    };
    let answer = client.call(code::POP_MESSAGE, &order("a"), b"")?;
    ensure!(answer.field("reviveQid") == Some("999"));
    ensure!(
        answer.field("orderCountInfo") == Some("0 0 0"),
        "{:?}",
        answer.field("orderCountInfo")
    );
    let batch = popped(&order("a"), &answer)?;
    ensure!(numbers(&batch)? == [0, 1, 2, 3]);
    ensure!(pop(&mut client, &order("b"))?.is_empty(), "held up");
    let same = pop(&mut client, &order("a"))?;
    ensure!(numbers(&same)? == [0, 1, 2, 3], "the same attempt gets the same batch");
    for index in [0, 2, 3] {
        ensure!(ack(&mut client, &same[index])?.code == 0);
    }
    ensure!(pop(&mut client, &order("b"))?.is_empty(), "1 still holds it up");
    // A kill takes away nothing of it.
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    let watch = Stopwatch::start();
    ensure!(pop(&mut client, &order("b"))?.is_empty(), "still held up after a kill");
    let waiting = PopMessage { poll_time: 5000, ..order("b") };
    let answer = client.call(code::POP_MESSAGE, &waiting, b"")?;
    ensure!(answer.code == 0 && watch.elapsed() < Duration::from_millis(1000), "woken in time");
    let again = popped(&waiting, &answer)?;
    ensure!(numbers(&again)? == [1, 2, 3, 4], "goes on at the first open one");
    let counts = answer.field("orderCountInfo").context("counts")?;
    ensure!(counts == "0 qo0%1 1;0 qo0%2 1;0 qo0%3 1;0 0 0", "{counts}");
    for message in &again {
        ensure!(ack(&mut client, message)?.code == 0);
    }
    ensure!(ack(&mut client, &batch[0])?.code == 0, "long settled");
    let rest = pop(&mut client, &order("c"))?;
    ensure!(numbers(&rest)? == [5, 6, 7]);
    let later = change(&mut client, &rest[0], 10)?;
    ensure!(ack(&mut client, &later)?.code == 0);
    Ok(())
}

#[test]
fn waiting_pops_are_woken_one_by_one() -> Result<()> {
    let (_dir, server, mut client) = start("popPollingSize=3\n", 2)?;
    let waiting = |group: &'static str| PopMessage {
        consumer_group: group,
        poll_time: 1500,
        ..request(60_000)
    };
    let mut threads = Vec::new();
    for number in 0..4 {
        let mut client = server.connect()?;
        let group = if number == 3 { "other" } else { "g" };
        threads.push(std::thread::spawn(move || -> Result<(i32, usize, Duration)> {
            let watch = Stopwatch::start();
            let answer = client.call(code::POP_MESSAGE, &waiting(group), b"")?;
            let found = record::records(&answer.body).count();
            Ok((answer.code, found, watch.elapsed()))
        }));
    }
    sleep_ms(300);
    let fields = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "-1")];
    let polling = call(&mut client, code::POLLING_INFO, &fields, b"")?;
    ensure!(polling.field("pollingNum") == Some("3"), "{polling:?}");
    fill(&mut client, 2, 1)?;
    let mut outcomes = BTreeMap::new();
    for thread in threads {
        let (code, found, waited) = thread.join().expect("thread")?;
        ensure!(
            code == 0 && waited.as_millis() < 900 || (1300..2000).contains(&waited.as_millis())
        );
        *outcomes.entry((code, found)).or_insert(0) += 1;
    }
    // One of each group got the message; the others waited to the end.
    ensure!(outcomes == BTreeMap::from([((0, 1), 2), ((210, 0), 2)]), "{outcomes:?}");
    Ok(())
}

#[test]
fn t_7_5_too_many_waiting_pops_are_refused() -> Result<()> {
    let (_dir, server, _client) = start("popPollingSize=3\n", 1)?;
    let mut threads = Vec::new();
    for _ in 0..6 {
        let mut client = server.connect()?;
        threads.push(std::thread::spawn(move || {
            let waiting = PopMessage { poll_time: 700, ..request(1000) };
            client.call(code::POP_MESSAGE, &waiting, b"").map(|answer| answer.code)
        }));
    }
    let mut codes = Vec::new();
    for thread in threads {
        codes.push(thread.join().expect("thread")?);
    }
    codes.sort_unstable();
    // As the original: one more than the limit, then full.
    ensure!(codes == [209, 209, 210, 210, 210, 210], "{codes:?}");
    Ok(())
}

#[test]
fn an_operators_reset_and_a_deleted_topic() -> Result<()> {
    let (_dir, mut server, mut client) = start("", 1)?;
    fill(&mut client, 1, 20)?;
    let held = pop_all(&mut client, 60_000, 20)?;
    for message in &held[..12] {
        ack(&mut client, message)?;
    }
    let fields = [
        ("topic", "T"),
        ("group", "g"),
        ("timestamp", "0"),
        ("isForce", "true"),
        ("queueId", "0"),
        ("offset", "5"),
    ];
    let reset = call(&mut client, code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"")?;
    ensure!(reset.code == 0, "{:?}", reset.remark);
    let again = pop_all(&mut client, 60_000, 15)?;
    ensure!(numbers(&again)? == (5..20).collect::<Vec<_>>());
    ensure!(again.iter().all(|message| message.times == 0), "anew, not again");
    // A commit for a queue that cannot be changes nothing, and takes no memory.
    for id in ["-1", "2147483647"] {
        let fields =
            [("consumerGroup", "g"), ("topic", "T"), ("queueId", id), ("commitOffset", "3")];
        ensure!(call(&mut client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")?.code == 0);
    }
    // A topic of the same name begins anew, also after a kill.
    ensure!(call(&mut client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], b"")?.code == 0);
    create_topic(&mut client, "T", 1)?;
    fill(&mut client, 1, 3)?;
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(numbers(&pop_all(&mut client, 60_000, 3)?)? == [0, 1, 2]);
    Ok(())
}

#[test]
fn filters_pass_over_what_is_not_wanted() -> Result<()> {
    let (_dir, _server, mut client) = start("", 2)?;
    for n in 0..60 {
        let tag = if n % 3 == 0 { "a" } else { "b" };
        let text = format!("TAGS\u{1}{tag}\u{2}n\u{1}{n}\u{2}");
        ensure!(send(&mut client, "T", n % 2, &text, n.to_string().as_bytes())?.code == 0);
    }
    let by = |kind: &'static str, text: &'static str, group: &'static str| PopMessage {
        consumer_group: group,
        exp_type: Some(kind),
        exp: Some(text),
        ..request(200)
    };
    let tagged = pop(&mut client, &by("TAG", "a", "tags"))?;
    ensure!(numbers(&tagged)? == (0..60).step_by(3).collect::<Vec<_>>());
    let sql = pop(&mut client, &by("SQL92", "n BETWEEN 50 AND 70", "sql"))?;
    ensure!(numbers(&sql)? == (50..60).collect::<Vec<_>>());
    ensure!(pop(&mut client, &by("TAG", "b", "tags"))?.is_empty(), "passed over for good");
    Ok(())
}

#[test]
fn t_8_11_priorities_choose_the_queue_and_pop_takes_the_highest_first() -> Result<()> {
    let (_dir, _server, mut client) = start("", 4)?;
    let fields = [
        ("topic", "T"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "4"),
        ("writeQueueNums", "4"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
        ("attributes", "+message.type=PRIORITY"),
    ];
    ensure!(call(&mut client, code::UPDATE_AND_CREATE_TOPIC, &fields, b"")?.code == 0);
    let mut queues = Vec::new();
    for priority in [0, 3, 6, 9, 2, 1, 0, 2] {
        let text = format!("_SYS_MSG_PRIORITY_\u{1}{priority}\u{2}");
        let body = priority.to_string();
        let sent = send(&mut client, "T", 0, &text, body.as_bytes())?;
        queues.push(sent.field("queueId").context("queue")?.parse::<i32>()?);
    }
    ensure!(queues == [0, 3, 3, 3, 2, 1, 0, 2], "{queues:?}");
    let mut order = Vec::new();
    for _ in 0..8 {
        let one = pop(&mut client, &PopMessage { max_msg_nums: 1, ..request(60_000) })?;
        order.push(one[0].queue_id);
        // What is more important overtakes what waits.
        if order.len() == 4 {
            send(&mut client, "T", 0, "_SYS_MSG_PRIORITY_\u{1}7\u{2}", b"7")?;
        }
    }
    ensure!(order == [3, 3, 3, 2, 3, 2, 1, 0], "{order:?}");
    // Another type wins, and the mark goes.
    for (text, queue) in [
        ("_SYS_MSG_PRIORITY_\u{1}3\u{2}__SHARDINGKEY\u{1}k\u{2}", 1),
        ("_SYS_MSG_PRIORITY_\u{1}-3\u{2}", 1),
        ("_SYS_MSG_PRIORITY_\u{1}x\u{2}", 1),
    ] {
        let sent = send(&mut client, "T", 1, text, b"x")?;
        ensure!(sent.field("queueId") == Some(queue.to_string().as_str()), "{text}");
    }
    let request = testkit::pull_from("T", 1, 1);
    let pulled = client.call(code::PULL_MESSAGE, &request, b"")?;
    for record in record::records(&pulled.body) {
        ensure!(get(record?.properties(), "_SYS_MSG_PRIORITY_").is_none());
    }
    Ok(())
}

#[test]
fn a_batch_in_one_record_comes_again_message_by_message() -> Result<()> {
    let (_dir, _server, mut client) = start("", 1)?;
    let fields = [
        ("topic", "B"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "1"),
        ("writeQueueNums", "1"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("order", "false"),
        ("attributes", "+queue.type=BatchCQ"),
    ];
    ensure!(call(&mut client, code::UPDATE_AND_CREATE_TOPIC, &fields, b"")?.code == 0);
    let mut batch = Vec::new();
    for n in 0..3 {
        record::encode_batch_entry(n, n.to_string().as_bytes(), "TAGS\u{1}x\u{2}", &mut batch);
    }
    let batched = wire::requests::SendMessage {
        batch: true,
        ..testkit::send_to("B", 0, "UNIQ_KEY\u{1}K\u{2}")
    };
    let sent = client.call(code::SEND_BATCH_MESSAGE, &batched, &batch)?;
    ensure!(sent.code == 0, "{:?}", sent.remark);
    let of_b = |ms| PopMessage { topic: "B", ..request(ms) };
    let answer = client.call(code::POP_MESSAGE, &of_b(50), b"")?;
    ensure!(record::records(&answer.body).count() == 1);
    sleep_ms(200);
    let answer = client.call(code::POP_MESSAGE, &of_b(60_000), b"")?;
    let mut bodies = Vec::new();
    for record in record::records(&answer.body) {
        let record = record?;
        ensure!(record.reconsume_times() == 1 && record.sys_flag() & record::INNER_BATCH == 0);
        bodies.push((record.flag(), record.body().to_vec()));
    }
    ensure!(bodies == [(0, b"0".to_vec()), (1, b"1".to_vec()), (2, b"2".to_vec())]);
    Ok(())
}

#[test]
fn dead_letters_go_on_their_way_again() -> Result<()> {
    let (_dir, _server, mut client) = start("", 1)?;
    let group = br#"{"groupName":"g","retryMaxTimes":0,"retryQueueNums":1}"#;
    call(&mut client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group)?;
    for n in 0..5 {
        let text = format!("TAGS\u{1}{}\u{2}n\u{1}{n}\u{2}", if n == 3 { "odd" } else { "even" });
        send(&mut client, "T", 0, &text, n.to_string().as_bytes())?;
    }
    ensure!(pop_all(&mut client, 20, 5)?.len() == 5);
    for _ in 0..200 {
        if testkit::pull_all(&mut client, "%DLQ%g", 0, 0).unwrap_or_default().len() == 5 {
            break;
        }
        sleep_ms(10);
    }
    let redrive = |client: &mut Client, fields: &[(&str, &str)]| -> Result<String> {
        let mut all = vec![("consumerGroup", "g")];
        all.extend_from_slice(fields);
        let answer = call(client, code::APOGEE_REDRIVE, &all, b"")?;
        ensure!(answer.code == 0, "{:?}", answer.remark);
        Ok(String::from_utf8(answer.body)?)
    };
    let one = redrive(&mut client, &[("offset", "2")])?;
    ensure!(one == r#"{"redriven":1,"next":3,"max":5}"#, "{one}");
    let again = pop_all(&mut client, 60_000, 1)?;
    ensure!(numbers(&again)? == [2] && again[0].times == 0);
    redrive(&mut client, &[("expressionType", "SQL92"), ("expression", "n = 4")])?;
    redrive(&mut client, &[("expression", "odd")])?;
    ensure!(numbers(&pop_all(&mut client, 60_000, 2)?)? == [3, 4]);
    redrive(&mut client, &[("maxNums", "3")])?;
    let rest = redrive(&mut client, &[])?;
    ensure!(rest == r#"{"redriven":2,"next":5,"max":5}"#, "{rest}");
    ensure!(redrive(&mut client, &[])? == r#"{"redriven":0,"next":5,"max":5}"#);
    ensure!(numbers(&pop_all(&mut client, 60_000, 5)?)? == [0, 1, 2, 3, 4]);
    for fields in
        [[("consumerGroup", "none"), ("x", "")], [("consumerGroup", "g"), ("offset", "9")]]
    {
        ensure!(call(&mut client, code::APOGEE_REDRIVE, &fields, b"")?.code == 1);
    }
    Ok(())
}

#[test]
fn big_messages_come_and_a_group_may_change_between_pull_and_pop() -> Result<()> {
    let (_dir, _server, mut client) = start("", 1)?;
    let big = vec![b'x'; 4 << 20];
    for _ in 0..3 {
        ensure!(send(&mut client, "T", 0, "", &big)?.code == 0);
    }
    for _ in 0..3 {
        let one = pop(&mut client, &request(60_000))?;
        ensure!(one.len() == 1 && one[0].body.len() == 4 << 20);
        ack(&mut client, &one[0])?;
    }
    // What the group has committed by pull is where its pops begin.
    for n in 0..10 {
        send(&mut client, "T", 0, "", n.to_string().as_bytes())?;
    }
    let commit = |client: &mut Client, offset: &str| {
        let fields =
            [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("commitOffset", offset)];
        call(client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")
    };
    commit(&mut client, "7")?;
    let held = pop(&mut client, &PopMessage { max_msg_nums: 4, ..request(60_000) })?;
    ensure!(numbers(&held)? == [4, 5, 6, 7]);
    ack(&mut client, &held[0])?;
    // Who goes on by pull begins at the first message that is not acknowledged.
    let fields = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0")];
    let committed = call(&mut client, code::QUERY_CONSUMER_OFFSET, &fields, b"")?;
    ensure!(committed.field("offset") == Some("8"), "{committed:?}");
    commit(&mut client, "12")?;
    ensure!(numbers(&pop(&mut client, &request(60_000))?)? == [9]);
    Ok(())
}

#[test]
fn a_kill_loses_nothing_and_repeats_only_what_was_in_flight() -> Result<()> {
    let (_dir, mut server, mut client) = start("", 4)?;
    const COUNT: usize = 10_000;
    for chunk in 0..COUNT / 100 {
        let bodies: Vec<String> = (0..100).map(|n| (chunk * 100 + n).to_string()).collect();
        let mut batch = Vec::new();
        for body in &bodies {
            record::encode_batch_entry(0, body.as_bytes(), "", &mut batch);
        }
        let request = wire::requests::SendMessage {
            batch: true,
            ..testkit::send_to("T", chunk as i32 % 4, "")
        };
        ensure!(client.call(code::SEND_BATCH_MESSAGE, &request, &batch)?.code == 0);
    }
    let held = pop_all(&mut client, 4_000, COUNT)?;
    ensure!(held.len() == COUNT, "{}", held.len());
    let mut open: Vec<usize> = Vec::new();
    for (index, message) in held.iter().enumerate() {
        if index % 3 == 0 {
            open.extend(numbers(std::slice::from_ref(message))?);
        } else {
            ensure!(ack(&mut client, message)?.code == 0);
        }
    }
    open.sort_unstable();
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(pop(&mut client, &request(60_000))?.is_empty(), "nothing comes early");
    let again = pop_all(&mut client, 60_000, open.len())?;
    ensure!(again.iter().all(|message| message.times == 1));
    ensure!(numbers(&again)? == open, "{} of {}", again.len(), open.len());
    // While copies are written: another kill, and everything that is open comes exactly once more.
    for message in &again {
        change(&mut client, message, 300)?;
    }
    sleep_ms(310);
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    let last = pop_all(&mut client, 60_000, open.len())?;
    ensure!(numbers(&last)? == open, "{} of {}", last.len(), open.len());
    sleep_ms(300);
    ensure!(pop(&mut client, &request(60_000))?.is_empty(), "none comes twice");
    for message in &last {
        ensure!(ack(&mut client, message)?.code == 0);
    }
    server.stop()?;
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(pop(&mut client, &request(60_000))?.is_empty());
    Ok(())
}
