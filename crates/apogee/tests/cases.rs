//! Field cases: situations that users of the original reported, each a test named by its id.
//! What is expected is what the original answers where that is sound, else the safe answer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use net::client::{Client, Command};
use testkit::{Server, TempDir, call, create_topic, messages, pull_all, pull_from, send, send_to};
use wire::codes::request as code;
use wire::header::Pairs;
use wire::json::Value;
use wire::message_id::parse_offset_id;
use wire::record::encode_batch_entry;
use wire::requests::{PullMessage, SendMessage};

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

struct Fixture {
    server: Server,
    client: Client,
    _dir: TempDir,
}

fn fixture(settings: &str) -> Result<Fixture> {
    let dir = TempDir::new("case")?;
    let server = Server::start(BINARY, dir.path(), settings)?;
    let client = server.connect()?;
    Ok(Fixture { server, client, _dir: dir })
}

fn offset_of(answer: &Command) -> Result<i64> {
    Ok(answer.field("offset").context("no offset")?.parse()?)
}

fn query(client: &mut Client, topic: &str, key: &str) -> Result<Command> {
    let end = i64::MAX.to_string();
    let fields = [
        ("topic", topic),
        ("key", key),
        ("maxNum", "64"),
        ("beginTimestamp", "0"),
        ("endTimestamp", &end),
    ];
    call(client, code::QUERY_MESSAGE, &fields, b"")
}

fn heartbeat(client: &mut Client, body: &str) -> Result<Command> {
    call(client, code::HEART_BEAT, &[], body.as_bytes())
}

fn consumer(client_id: &str, group: &str, topic: &str) -> String {
    format!(
        r#"{{"clientID":"{client_id}","producerDataSet":[],"consumerDataSet":[{{"groupName":"{group}","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","unitMode":false,"subscriptionDataSet":[{{"topic":"{topic}","subString":"*","subVersion":1,"expressionType":"TAG"}}]}}]}}"#
    )
}

fn ids(client: &mut Client, group: &str) -> Result<Vec<String>> {
    let answer = call(client, code::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", group)], b"")?;
    if answer.code != 0 {
        return Ok(Vec::new());
    }
    let body = Value::parse_bytes(&answer.body)?;
    let list = body.get("consumerIdList").context("no list")?;
    Ok(list.items().iter().filter_map(Value::text).collect())
}

#[test]
fn b01_values_with_blanks_mean_what_they_say() -> Result<()> {
    let mut f = fixture("autoCreateTopicEnable=true \nfileReservedTime=48 \n")?;
    let config = call(&mut f.client, code::GET_BROKER_CONFIG, &[], b"")?;
    let text = String::from_utf8(config.body)?;
    ensure!(text.contains("fileReservedTime=48\n"), "{text}");
    let off =
        call(&mut f.client, code::UPDATE_BROKER_CONFIG, &[], b"autoCreateTopicEnable=false ")?;
    ensure!(off.code == 0);
    ensure!(send(&mut f.client, "NewOne", 0, "", b"x")?.code == 17);
    let on = call(&mut f.client, code::UPDATE_BROKER_CONFIG, &[], b"autoCreateTopicEnable=true ")?;
    ensure!(on.code == 0);
    ensure!(send(&mut f.client, "NewOne", 0, "", b"x")?.code == 0);
    Ok(())
}

#[test]
fn b04_property_texts_without_an_end_keep_their_values() -> Result<()> {
    let mut f = fixture("")?;
    let sent = send(&mut f.client, "T", 0, "TAGS\u{1}t1\u{2}KEYS\u{1}kk", b"x")?;
    ensure!(sent.code == 0, "{:?}", sent.remark);
    let pull = PullMessage { subscription: Some("t1"), ..pull_from("T", 0, 0) };
    let got = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    ensure!(messages(&got.body).len() == 1);
    ensure!(query(&mut f.client, "T", "kk")?.code == 0);
    let mut batch = Vec::new();
    encode_batch_entry(0, b"1", "TAGS\u{1}x", &mut batch);
    encode_batch_entry(0, b"2", "", &mut batch);
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_MESSAGE_V2, &fields, &batch)?.code == 0);
    let pull = PullMessage { subscription: Some("x"), ..pull_from("T", 0, 0) };
    let got = messages(&f.client.call(code::PULL_MESSAGE, &pull, b"")?.body);
    ensure!(got.len() == 1 && got[0].properties == "TAGS\u{1}x", "{got:?}");
    Ok(())
}

#[test]
fn b06_offsets_by_time_at_every_border() -> Result<()> {
    let mut f = fixture("")?;
    for _ in 0..5 {
        send(&mut f.client, "T", 0, "", b"x")?;
        std::thread::sleep(Duration::from_millis(3)); // distinct store times are the case
    }
    let mut batch = Vec::new();
    (0..3).for_each(|_| encode_batch_entry(0, b"b", "", &mut batch));
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    for _ in 0..2 {
        f.client.call(code::SEND_BATCH_MESSAGE, &fields, &batch)?;
        std::thread::sleep(Duration::from_millis(50));
    }
    let got = f.client.call(code::PULL_MESSAGE, &pull_from("T", 0, 0), b"")?;
    let records: Vec<_> = wire::record::records(&got.body).collect::<Result<_, _>>()?;
    let (first, last) = (records[0].store_timestamp(), records[10].store_timestamp());
    ensure!(records.len() == 11 && records[8].store_timestamp() == last);
    let mut search = |time: i64, edge: &str| -> Result<i64> {
        let time = time.to_string();
        let mut fields = vec![("topic", "T"), ("queueId", "0"), ("timestamp", time.as_str())];
        if !edge.is_empty() {
            fields.push(("boundaryType", edge));
        }
        offset_of(&call(&mut f.client, code::SEARCH_OFFSET_BY_TIMESTAMP, &fields, b"")?)
    };
    for edge in ["", "LOWER"] {
        for (time, expected) in [
            (0, 0),
            (-1, 0),
            (first - 1, 0),
            (first, 0),
            (last, 8),
            (last + 1, 11),
            (last + 100_000, 11),
        ] {
            let got = search(time, edge)?;
            ensure!(got == expected, "{edge} at {}: {got}, not {expected}", time - first);
        }
    }
    for (time, expected) in [(0, 0), (first - 1, 0), (first, 0), (last, 10), (last + 100_000, 10)] {
        let got = search(time, "UPPER")?;
        ensure!(got == expected, "UPPER at {}: {got}, not {expected}", time - first);
    }
    Ok(())
}

fn b07(clean: bool) -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    for _ in 0..10 {
        send(&mut f.client, "T", 0, "", b"old")?;
    }
    let group = br#"{"groupName":"g"}"#;
    ensure!(call(&mut f.client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], group)?.code == 0);
    let commit = [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "10")];
    ensure!(call(&mut f.client, code::UPDATE_CONSUMER_OFFSET, &commit, b"")?.code == 0);
    ensure!(call(&mut f.client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], b"")?.code == 0);
    create_topic(&mut f.client, "T", 1)?;
    let fields =
        [("consumerGroup", "g"), ("topic", "T"), ("queueId", "0"), ("setZeroIfNotFound", "false")];
    ensure!(call(&mut f.client, code::QUERY_CONSUMER_OFFSET, &fields, b"")?.code == 22);
    ensure!(send(&mut f.client, "T", 0, "", b"new")?.field("queueOffset") == Some("0"));
    if clean {
        f.server.stop()?
    } else {
        f.server.kill()?
    }
    f.server.restart()?;
    let mut client = f.server.connect()?;
    let found = pull_all(&mut client, "T", 0, 0)?;
    ensure!(found.len() == 1 && found[0].body == b"new", "{found:?}");
    let max = call(&mut client, code::GET_MAX_OFFSET, &[("topic", "T"), ("queueId", "0")], b"")?;
    ensure!(offset_of(&max)? == 1);
    Ok(())
}

#[test]
fn b07_a_deleted_topic_stays_deleted_over_a_stop() -> Result<()> {
    b07(true)
}

#[test]
fn b07_a_deleted_topic_stays_deleted_over_a_kill() -> Result<()> {
    b07(false)
}

#[test]
fn b09_two_connections_with_one_client_id_both_count() -> Result<()> {
    let f = fixture("")?;
    let (mut a, mut b) = (f.server.connect()?, f.server.connect()?);
    for client in [&mut a, &mut b] {
        ensure!(heartbeat(client, &consumer("same@1", "g", "T"))?.code == 0);
    }
    ensure!(ids(&mut b, "g")?.len() == 2);
    let fields = [("clientID", "same@1"), ("consumerGroup", "g")];
    ensure!(call(&mut a, code::UNREGISTER_CLIENT, &fields, b"")?.code == 0);
    ensure!(ids(&mut b, "g")? == ["same@1"]);
    drop(a);
    ensure!(ids(&mut b, "g")? == ["same@1"]);
    Ok(())
}

#[test]
fn b13_colliding_keys_do_not_find_each_other() -> Result<()> {
    let mut f = fixture("")?;
    send(&mut f.client, "AaTopic", 0, "KEYS\u{1}Aa\u{2}", b"x")?;
    send(&mut f.client, "BBTopic", 0, "KEYS\u{1}BB\u{2}", b"x")?;
    ensure!(query(&mut f.client, "AaTopic", "BB")?.code == 22);
    let hit = query(&mut f.client, "AaTopic", "Aa")?;
    ensure!(hit.code == 0 && messages(&hit.body).len() == 1);
    Ok(())
}

fn send_back(client: &mut Client, group: &str, offset: i64, level: &str) -> Result<i32> {
    let offset = offset.to_string();
    let fields =
        [("group", group), ("offset", &offset), ("delayLevel", level), ("originTopic", "T")];
    Ok(call(client, code::CONSUMER_SEND_MSG_BACK, &fields, b"")?.code)
}

#[test]
fn b14_retry_limits_of_minus_one_and_zero_go_to_the_dead_letters() -> Result<()> {
    let mut f = fixture("")?;
    send(&mut f.client, "T", 0, "", b"x")?;
    let physical = pull_all(&mut f.client, "T", 0, 0)?[0].physical_offset;
    for (group, settings) in [
        ("g1", r#""retryMaxTimes":-1"#),
        ("g2", r#""retryMaxTimes":0"#),
        ("g3", r#""retryQueueNums":0"#),
    ] {
        let body = format!(r#"{{"groupName":"{group}",{settings}}}"#);
        let made =
            call(&mut f.client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body.as_bytes())?;
        ensure!(made.code == 0);
        ensure!(send_back(&mut f.client, group, physical, "0")? == 0, "{group}");
        if group != "g3" {
            let dead = pull_all(&mut f.client, &format!("%DLQ%{group}"), 0, 0)?;
            ensure!(dead.len() == 1 && dead[0].reconsume_times == 1, "{group}");
        }
    }
    Ok(())
}

#[test]
fn b18_heartbeats_of_odd_clients_register() -> Result<()> {
    let f = fixture("")?;
    for (number, data) in [
        r#""consumeType":"PUSH""#,
        r#""consumeType":"consume_passively","messageModel":"clustering""#,
        r#""consumeType":1,"messageModel":1,"consumeFromWhere":0"#,
        r#""consumeFromWhere":"SOMEWHERE""#,
        r#""subscriptionDataSet":[{"topic":"T","subVersion":"17","codeSet":["1"]}]"#,
    ]
    .iter()
    .enumerate()
    {
        let mut client = f.server.connect()?;
        let group = format!("odd{number}");
        let body =
            format!(r#"{{"clientID":"c","consumerDataSet":[{{"groupName":"{group}",{data}}}]}}"#);
        ensure!(heartbeat(&mut client, &body)?.code == 0, "{data}");
        ensure!(ids(&mut client, &group)? == ["c"], "{data}");
    }
    let mut client = f.server.connect()?;
    ensure!(heartbeat(&mut client, "{}")?.code == 0);
    for bad in ["", "no json", r#"{"clientID":"c","producerDataSet":null}"#] {
        ensure!(heartbeat(&mut client, bad)?.code == 1, "{bad}");
    }
    ensure!(send(&mut client, "T", 0, "", b"x")?.code == 0);
    Ok(())
}

/// A reply to `client`, as the Go client sends it; the answer's code and text.
fn reply(client: &mut Client, properties: &str) -> Result<Command> {
    let fields = send_to("DefaultCluster_REPLY_TOPIC", 0, properties);
    Ok(client.call(code::SEND_REPLY_MESSAGE_V2, &fields, b"answer")?)
}

#[test]
fn b23_replies_reach_the_one_who_asked() -> Result<()> {
    let mut f = fixture("autoCreateTopicEnable=false\n")?;
    create_topic(&mut f.client, "T", 1)?;
    let asks = "REPLY_TO_CLIENT\u{1}asker@1\u{2}CORRELATION_ID\u{1}c1\u{2}";
    let mut batch = Vec::new();
    encode_batch_entry(0, b"2", asks, &mut batch);
    send(&mut f.client, "T", 0, asks, b"1")?;
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_BATCH_MESSAGE, &fields, &batch)?.code == 0);
    for message in pull_all(&mut f.client, "T", 0, 0)? {
        ensure!(message.properties.contains("CLUSTER\u{1}DefaultCluster"), "{message:?}");
    }
    let none = reply(&mut f.client, "MSG_TYPE\u{1}reply\u{2}")?;
    let text = "reply message properties[REPLY_TO_CLIENT] is null";
    ensure!(none.code == 1 && none.remark.as_deref() == Some(text));
    let gone = reply(&mut f.client, asks)?;
    let text = "push reply message fail, channel of <asker@1> not found.";
    ensure!(gone.code == 1 && gone.remark.as_deref() == Some(text));
    ensure!(gone.field("queueOffset") == Some("1"), "stored all the same: {gone:?}");
    for answers in [0, 1] {
        let mut asker = f.server.connect()?;
        let beat = r#"{"clientID":"asker@1","producerDataSet":[{"groupName":"p"}]}"#;
        ensure!(heartbeat(&mut asker, beat)?.code == 0);
        let fields = send_to("DefaultCluster_REPLY_TOPIC", 0, asks);
        let opaque = f.client.send(code::SEND_REPLY_MESSAGE, &fields, b"answer", false)?;
        let pushed = asker.receive()?;
        ensure!(pushed.code == code::PUSH_REPLY_MESSAGE_TO_CLIENT && pushed.body == b"answer");
        let text = pushed.field("properties").context("properties")?;
        ensure!(text.contains("CORRELATION_ID\u{1}c1") && text.contains("PUSH_REPLY_TIME"));
        let mut frame = Vec::new();
        let head = wire::header::Head::response(answers, pushed.opaque, None);
        wire::header::write_frame(&mut frame, &head, &wire::header::NoFields, false, |_| {});
        asker.send_raw(&frame)?;
        let told = f.client.answer(opaque)?;
        ensure!(told.code == answers, "{told:?}");
        if answers == 1 {
            ensure!(told.remark.as_deref() == Some("push reply message to asker@1fail."));
        }
    }
    Ok(())
}

#[test]
fn b25_bodies_that_lie_about_compression_are_stored_as_sent() -> Result<()> {
    let mut f = fixture("")?;
    let lying = SendMessage { sys_flag: 1, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_MESSAGE, &lying, b"plain")?.code == 0);
    ensure!(pull_all(&mut f.client, "T", 0, 0)?[0].body == b"plain");
    let bad = SendMessage { batch: true, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_MESSAGE, &bad, b"\x78\x9cjunk")?.code == 13);
    ensure!(send(&mut f.client, "T", 0, "", b"good")?.field("queueOffset") == Some("1"));
    Ok(())
}

#[test]
fn b26_name_limits() -> Result<()> {
    let mut f = fixture("")?;
    ensure!(send(&mut f.client, &"T".repeat(127), 0, "", b"x")?.code == 0);
    for bad in [&"T".repeat(128), "a.b", "a b", "中文", "a/b", ""] {
        let answer = send(&mut f.client, bad, 0, "", b"x")?;
        ensure!(answer.code == 29, "{bad}: {:?}", answer.remark);
    }
    for good in ["a|b", "%x"] {
        ensure!(send(&mut f.client, good, 0, "", b"x")?.code == 0, "{good}");
    }
    // The longest legal names together still can be retried and die.
    let (topic, group) = ("T".repeat(64), "G".repeat(120));
    send(&mut f.client, &topic, 0, "", b"x")?;
    let physical = pull_all(&mut f.client, &topic, 0, 0)?[0].physical_offset;
    ensure!(send_back(&mut f.client, &group, physical, "-1")? == 0);
    ensure!(pull_all(&mut f.client, &format!("%DLQ%{group}"), 0, 0)?.len() == 1);
    f.server.kill()?;
    f.server.restart()?;
    let mut client = f.server.connect()?;
    ensure!(pull_all(&mut client, &format!("%DLQ%{group}"), 0, 0)?.len() == 1);
    ensure!(send_back(&mut client, &"G".repeat(121), physical, "0")? == 26);
    Ok(())
}

#[test]
fn b27_numbers_beyond_sense() -> Result<()> {
    let mut f = fixture("")?;
    for _ in 0..3 {
        send(&mut f.client, "T", 0, "KEYS\u{1}k\u{2}", b"x")?;
    }
    for (max, expected) in [(0, 1), (-1, 1), (i32::MAX, 3)] {
        let pull = PullMessage { max_msg_nums: max, ..pull_from("T", 0, 0) };
        let got = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
        ensure!(messages(&got.body).len() == expected, "maxMsgNums {max}");
    }
    for (offset, next) in [(-1, "0"), (i64::MAX, "3")] {
        let got = f.client.call(code::PULL_MESSAGE, &pull_from("T", 0, offset), b"")?;
        ensure!(got.code == 21 && got.field("nextBeginOffset") == Some(next), "{offset}");
    }
    for (max, expected) in [("-1", 22), ("0", 22), ("2147483647", 0)] {
        let fields = [
            ("topic", "T"),
            ("key", "k"),
            ("maxNum", max),
            ("beginTimestamp", "0"),
            ("endTimestamp", "9223372036854775807"),
        ];
        let got = call(&mut f.client, code::QUERY_MESSAGE, &fields, b"")?;
        ensure!(got.code == expected, "maxNum {max}: {}", got.code);
    }
    for queue in [-1, i32::MIN] {
        ensure!(send(&mut f.client, "T", queue, "", b"x")?.code == 0, "{queue}");
    }
    ensure!(send(&mut f.client, "T", 99, "", b"x")?.code == 29);
    ensure!(f.client.call(code::PULL_MESSAGE, &pull_from("T", 99, 0), b"")?.code == 29);
    Ok(())
}

#[test]
fn b30_delay_levels_beyond_the_list_and_odd_numbers() -> Result<()> {
    let mut f = fixture("messageDelayLevel=1s 2s 3s\n")?;
    for (level, code) in [("-1", 0), ("0", 0), ("99", 0), ("3 ", 13), ("abc", 13)] {
        let answer = send(&mut f.client, "T", 0, &format!("DELAY\u{1}{level}\u{2}"), b"x")?;
        ensure!(answer.code == code, "{level}: {:?}", answer.remark);
        if code == 13 {
            ensure!(answer.remark.is_some_and(|text| text.contains("DELAY")));
        }
    }
    // -1 and 0 are there at once, 99 waits on the last level.
    ensure!(pull_all(&mut f.client, "T", 0, 0)?.len() == 2);
    ensure!(pull_all(&mut f.client, "SCHEDULE_TOPIC_XXXX", 2, 0)?.len() == 1);
    Ok(())
}

#[test]
fn delay_levels_deliver_in_time_and_over_a_kill() -> Result<()> {
    let mut f = fixture("messageDelayLevel=1s 2s\n")?;
    ensure!(send(&mut f.client, "T", 0, "DELAY\u{1}1\u{2}TAGS\u{1}t\u{2}", b"one")?.code == 0);
    ensure!(send(&mut f.client, "T", 0, "DELAY\u{1}2\u{2}", b"two")?.code == 0);
    let pull = PullMessage {
        sys_flag: 6,
        suspend_timeout_millis: 10_000,
        subscription: Some("t"),
        ..pull_from("T", 0, 0)
    };
    let got = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    let records: Vec<_> = wire::record::records(&got.body).collect::<Result<_, _>>()?;
    ensure!(records.len() == 1 && records[0].body() == b"one");
    let waited = records[0].store_timestamp() - records[0].born_timestamp();
    ensure!((1000..3000).contains(&waited), "{waited} ms");
    f.server.kill()?;
    f.server.restart()?;
    let mut client = f.server.connect()?;
    // What was delivered shortly before a kill may come again; nothing may be missing.
    let mut offset = 1;
    loop {
        let pull = PullMessage { subscription: Some("*"), queue_offset: offset, ..pull };
        let got = client.call(code::PULL_MESSAGE, &pull, b"")?;
        ensure!(got.code == 0, "{:?}", got.remark);
        if messages(&got.body).iter().any(|m| m.body == b"two") {
            return Ok(());
        }
        offset = got.field("nextBeginOffset").context("next")?.parse()?;
    }
}

#[test]
fn b49_properties_at_their_limit() -> Result<()> {
    let mut f = fixture("")?;
    let long = |len: usize| format!("P\u{1}{}\u{2}", "x".repeat(len));
    ensure!(send(&mut f.client, "T", 0, &long(32_000), b"x")?.code == 0);
    ensure!(send(&mut f.client, "T", 0, &long(32_765), b"x")?.code == 13);
    let many: String = (0..3000).map(|i| format!("k{i}\u{1}v\u{2}")).collect();
    ensure!(send(&mut f.client, "T", 0, &many, b"x")?.code == 0);
    let mut batch = Vec::new();
    encode_batch_entry(0, b"1", &long(40_000), &mut batch);
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_BATCH_MESSAGE, &fields, &batch)?.code == 13);
    ensure!(send(&mut f.client, "T", 0, "", b"next")?.field("queueOffset") == Some("2"));
    ensure!(pull_all(&mut f.client, "T", 0, 0)?.len() == 3);
    Ok(())
}

#[test]
fn b50_every_message_of_a_batch_has_its_own_id() -> Result<()> {
    let mut f = fixture("")?;
    let mut batch = Vec::new();
    for i in 0..3 {
        encode_batch_entry(0, b"b", &format!("UNIQ_KEY\u{1}U{i}\u{2}A\u{1}{i}\u{2}"), &mut batch);
    }
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    let sent = f.client.call(code::SEND_BATCH_MESSAGE, &fields, &batch)?;
    ensure!(sent.code == 0 && sent.field("queueOffset") == Some("0"));
    let ids: Vec<String> =
        sent.field("msgId").context("ids")?.split(',').map(str::to_owned).collect();
    ensure!(ids.len() == 3);
    for (i, id) in ids.iter().enumerate() {
        let (_, offset) = parse_offset_id(id).context("an offset id")?;
        let seen =
            call(&mut f.client, code::VIEW_MESSAGE_BY_ID, &[("offset", &offset.to_string())], b"")?;
        let seen = messages(&seen.body);
        ensure!(seen.len() == 1 && seen[0].properties.contains(&format!("A\u{1}{i}")));
        let end = i64::MAX.to_string();
        let key = format!("U{i}");
        let fields = [
            ("topic", "T"),
            ("key", key.as_str()),
            ("maxNum", "32"),
            ("beginTimestamp", "0"),
            ("endTimestamp", &end),
            ("_UNIQUE_KEY_QUERY", "true"),
        ];
        let hit = call(&mut f.client, code::QUERY_MESSAGE, &fields, b"")?;
        ensure!(messages(&hit.body).len() == 1, "{key}");
    }
    Ok(())
}

#[test]
fn b51_configuration_changes_are_strict_and_keep_the_file() -> Result<()> {
    let mut f = fixture("# a comment\nfileReservedTime=72\n")?;
    let mut update =
        |body: &str| call(&mut f.client, code::UPDATE_BROKER_CONFIG, &[], body.as_bytes());
    for bad in ["unknown=1", "fileReservedTime=abc", "fileReservedTime=99999999999"] {
        let answer = update(bad)?;
        let key = bad.split('=').next().context("key")?;
        ensure!(answer.code != 0 && answer.remark.is_some_and(|text| text.contains(key)), "{bad}");
    }
    ensure!(update("brokerConfigPath=/x")?.code == 16);
    ensure!(update("fileReservedTime=50")?.code == 0);
    let text = std::fs::read_to_string(f._dir.path().join("broker.conf"))?;
    ensure!(text.contains("# a comment\nfileReservedTime=50\n"), "{text}");
    Ok(())
}

#[test]
fn b52_reading_a_deleted_topic_does_not_bring_it_back() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "Gone", 1)?;
    send(&mut f.client, "Gone", 0, "", b"x")?;
    call(&mut f.client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "Gone")], b"")?;
    let queue = [("topic", "Gone"), ("queueId", "0")];
    ensure!(offset_of(&call(&mut f.client, code::GET_MAX_OFFSET, &queue, b"")?)? == 0);
    let search = [("topic", "Gone"), ("queueId", "0"), ("timestamp", "1")];
    ensure!(offset_of(&call(&mut f.client, code::SEARCH_OFFSET_BY_TIMESTAMP, &search, b"")?)? == 0);
    ensure!(f.client.call(code::PULL_MESSAGE, &pull_from("Gone", 0, 0), b"")?.code == 17);
    ensure!(call(&mut f.client, code::GET_TOPIC_STATS_INFO, &[("topic", "Gone")], b"")?.code == 17);
    heartbeat(&mut f.client, &consumer("c", "g", "Gone"))?;
    for _ in 0..2 {
        let mut client = f.server.connect()?;
        let all = call(&mut client, code::GET_ALL_TOPIC_CONFIG, &[], b"")?;
        ensure!(!String::from_utf8(all.body)?.contains("\"Gone\""));
        let folder = f._dir.path().join("data/store/consumequeue/Gone");
        ensure!(!folder.exists(), "{}", folder.display());
        f.server.stop()?;
        f.server.restart()?;
    }
    Ok(())
}

#[test]
fn b54_keys_are_words_and_missing_times_are_named() -> Result<()> {
    let mut f = fixture("")?;
    for keys in ["alpha  beta", " lead", "a#b 中文key"] {
        ensure!(send(&mut f.client, "T", 0, &format!("KEYS\u{1}{keys}\u{2}"), b"x")?.code == 0);
    }
    for key in ["alpha", "beta", "lead", "a#b", "中文key"] {
        ensure!(query(&mut f.client, "T", key)?.code == 0, "{key}");
    }
    ensure!(query(&mut f.client, "T", "alpha beta")?.code == 22);
    let fields = [("topic", "T"), ("key", "alpha"), ("maxNum", "1"), ("begin", "0"), ("end", "9")];
    let answer = call(&mut f.client, code::QUERY_MESSAGE, &fields, b"")?;
    ensure!(answer.code != 0 && answer.remark.is_some_and(|text| text.contains("beginTimestamp")));
    Ok(())
}

#[test]
fn b58_tools_reading_is_no_consumption() -> Result<()> {
    let mut f = fixture("")?;
    for _ in 0..5 {
        send(&mut f.client, "T", 0, "", b"x")?;
    }
    let pull = PullMessage { consumer_group: "TOOLS_CONSUMER", ..pull_from("T", 0, 0) };
    ensure!(messages(&f.client.call(code::PULL_MESSAGE, &pull, b"")?.body).len() == 5);
    let info = call(&mut f.client, code::GET_BROKER_RUNTIME_INFO, &[], b"")?;
    let info = String::from_utf8(info.body)?;
    ensure!(info.contains(r#""msgGetTotalTodayNow":"0""#), "{info}");
    let groups = call(&mut f.client, code::QUERY_TOPIC_CONSUME_BY_WHO, &[("topic", "T")], b"")?;
    ensure!(groups.body == br#"{"groupList":[]}"#);
    Ok(())
}

#[test]
fn b60_queue_entries_are_shown_from_their_index() -> Result<()> {
    let mut f = fixture("")?;
    for _ in 0..10 {
        send(&mut f.client, "T", 0, "", b"x")?;
    }
    let fields =
        [("topic", "T"), ("queueId", "0"), ("index", "5"), ("count", "3"), ("consumerGroup", "")];
    let answer = call(&mut f.client, code::QUERY_CONSUME_QUEUE, &fields, b"")?;
    let body = Value::parse_bytes(&answer.body)?;
    ensure!(body.get("queueData").context("data")?.items().len() == 3);
    Ok(())
}

/// Appendix A, traps 7 to 9 and section 5.4: parking, waking, deadlines, and going away.
#[test]
fn long_polling_wakes_ends_and_forgets() -> Result<()> {
    let f = fixture("")?;
    let (mut reader, mut writer) = (f.server.connect()?, f.server.connect()?);
    create_topic(&mut writer, "T", 1)?;
    let pull = PullMessage { sys_flag: 6, suspend_timeout_millis: 10_000, ..pull_from("T", 0, 0) };
    let opaque = reader.send(code::PULL_MESSAGE, &pull, b"", false)?;
    send(&mut writer, "T", 0, "", b"wake")?;
    let got = reader.answer(opaque)?;
    ensure!(got.code == 0 && messages(&got.body)[0].body == b"wake");
    let short = PullMessage { queue_offset: 1, suspend_timeout_millis: 300, ..pull };
    let got = reader.call(code::PULL_MESSAGE, &short, b"")?;
    ensure!(got.code == 19 && got.field("nextBeginOffset") == Some("1"));
    ensure!(got.remark.as_deref() == Some("OFFSET_OVERFLOW_ONE"));
    // A pull for another tag is not woken, and still sees its own.
    let tagged = PullMessage { subscription: Some("mine"), queue_offset: 1, ..pull };
    let opaque = reader.send(code::PULL_MESSAGE, &tagged, b"", false)?;
    send(&mut writer, "T", 0, "TAGS\u{1}other\u{2}", b"not mine")?;
    send(&mut writer, "T", 0, "TAGS\u{1}mine\u{2}", b"mine")?;
    let got = messages(&reader.answer(opaque)?.body);
    ensure!(got.len() == 1 && got[0].body == b"mine");
    let waiting = PullMessage { queue_offset: 3, ..pull };
    reader.send(code::PULL_MESSAGE, &waiting, b"", false)?;
    drop(reader);
    let parked = || -> Result<bool> {
        let info = call(&mut f.server.connect()?, code::GET_BROKER_RUNTIME_INFO, &[], b"")?;
        Ok(String::from_utf8(info.body)?.contains(r#""pullThreadPoolQueueSize":"0""#))
    };
    for _ in 0..200 {
        if parked()? {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10)); // the close is seen by the server's loop
    }
    anyhow::bail!("a pull of a closed connection stays parked")
}

/// Seen on the wire, 1 to 5: which answers carry which fields and remarks.
#[test]
fn answers_have_the_originals_shape() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    let empty = Some(Vec::new());
    let unknown = call(&mut f.client, 9999, &[], b"")?;
    ensure!(unknown.code == 3 && unknown.ext.is_none());
    ensure!(unknown.remark.as_deref() == Some(" request type 9999 not supported"));
    let nobody =
        call(&mut f.client, code::GET_CONSUMER_LIST_BY_GROUP, &[("consumerGroup", "x")], b"")?;
    ensure!(nobody.code == 1 && nobody.ext == empty);
    ensure!(nobody.remark.as_deref() == Some("no consumer for this group, x"));
    let none = [("consumerGroup", "x"), ("topic", "T"), ("queueId", "0"), ("commitOffset", "1")];
    let none = call(&mut f.client, code::UPDATE_CONSUMER_OFFSET, &none, b"")?;
    ensure!(
        none.code == 26
            && none.ext == empty
            && none.remark.as_deref() == Some("Group x not exist!")
    );
    let min = call(&mut f.client, code::GET_MIN_OFFSET, &[("topic", "T"), ("queueId", "0")], b"")?;
    ensure!(min.code == 0 && min.remark.as_deref() == Some("") && min.field("offset") == Some("0"));
    let refused = send(&mut f.client, "SCHEDULE_TOPIC_XXXX", 0, "", b"x")?;
    ensure!(refused.code == 16 && refused.field("MSG_REGION") == Some("DefaultRegion"));
    ensure!(refused.ext.is_some_and(|ext| ext.len() == 2));
    let sent = send(&mut f.client, "T", 0, "UNIQ_KEY\u{1}U\u{2}", b"x")?;
    ensure!(sent.remark.is_none() && sent.field("transactionId") == Some("U"));
    let view = call(&mut f.client, code::VIEW_MESSAGE_BY_ID, &[("offset", "12345")], b"")?;
    ensure!(view.code == 1);
    ensure!(view.remark.as_deref() == Some("can not find message by the offset, 12345"));
    let lock = call(&mut f.client, code::LOCK_BATCH_MQ, &[], b"{}")?;
    ensure!(lock.code == 0 && lock.body == br#"{"lockOKMQSet":[]}"# && lock.ext.is_none());
    let missing = f.client.call(code::GET_MAX_OFFSET, &Pairs(&[("topic", "T")]), b"")?;
    ensure!(missing.code == 1 && missing.remark.is_some_and(|text| text.contains("queueId")));
    Ok(())
}

/// An offset of a delay level that the queue cannot have is corrected, and nothing is lost.
#[test]
fn b29_offsets_of_delay_levels_outside_their_queues() -> Result<()> {
    let dir = TempDir::new("case")?;
    let mut server = Server::start(BINARY, dir.path(), "messageDelayLevel=1s 2s 3s 4s")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    ensure!(send(&mut client, "T", 0, "DELAY\u{1}4\u{2}", b"waits")?.code == 0);
    server.stop()?;
    let path = dir.path().join("data/store/config/delayOffset.json");
    let table = r#"{"offsetTable":{4:509548460,1:-1},"dataVersion":{"counter":1,"timestamp":0}}"#;
    std::fs::write(path, table)?;
    server.restart()?;
    let mut client = server.connect()?;
    ensure!(send(&mut client, "T", 0, "DELAY\u{1}1\u{2}", b"new")?.code == 0);
    let mut bodies = Vec::new();
    while bodies.len() < 2 {
        let mut pull = pull_from("T", 0, bodies.len() as i64);
        (pull.sys_flag, pull.suspend_timeout_millis) = (6, 10_000);
        let answer = client.call(code::PULL_MESSAGE, &pull, b"")?;
        ensure!(answer.code == 0, "the messages do not arrive: {answer:?}");
        bodies.extend(messages(&answer.body).into_iter().map(|message| message.body));
    }
    ensure!(bodies.iter().any(|body| body == b"waits") && bodies.iter().any(|b| b == b"new"));
    Ok(())
}

/// A broker on IPv6: addresses in routes and lists can be split again, ids have 56 digits.
#[test]
fn b37_a_broker_on_ipv6() -> Result<()> {
    let dir = TempDir::new("case")?;
    let server = Server::start_on(BINARY, dir.path(), "[::1]", "brokerIP1=::1")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    let port = server.broker.rsplit(':').next().context("a port")?;
    let mut namesrv = server.connect_namesrv()?;
    for (what, fields) in [
        (code::GET_ROUTEINFO_BY_TOPIC, &[("topic", "T")][..]),
        (code::GET_BROKER_CLUSTER_INFO, &[]),
    ] {
        let text = String::from_utf8(call(&mut namesrv, what, fields, b"")?.body)?;
        ensure!(text.contains(&format!(r#""[::1]:{port}""#)), "{text}");
    }
    let sent = send(&mut client, "T", 0, "", b"six")?;
    let id = sent.field("msgId").context("no id")?;
    let (host, offset) = parse_offset_id(id).context("an id")?;
    ensure!(id.len() == 56 && host.to_string() == format!("[::1]:{port}"), "{id}");
    let offset = offset.to_string();
    let view = call(&mut client, code::VIEW_MESSAGE_BY_ID, &[("offset", &offset)], b"")?;
    let record = wire::record::records(&view.body).next().context("no record")??;
    ensure!(record.sys_flag() & 0x30 == 0x30 && record.body() == b"six");
    ensure!(record.born_host().ip() == record.store_host().ip());
    Ok(())
}

fn subscription(topic: &str, sql: &str) -> String {
    format!(
        r#"{{"clientId":"c","group":"g","subscriptionData":{{"topic":"{topic}","subString":"{sql}","subVersion":1,"expressionType":"SQL92"}}}}"#
    )
}

/// SQL filters: what a consumer asks before it starts, what it gets, and how a parked pull passes
/// any number of unwanted messages.
#[test]
fn sql_filters_are_checked_applied_and_passed() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    for (sql, code) in [("a > 1", 0), ("a >", 23), ("NOT a > 5", 23)] {
        let body = subscription("T", sql);
        let answer = call(&mut f.client, code::CHECK_CLIENT_CONFIG, &[], body.as_bytes())?;
        ensure!(answer.code == code, "{sql}: {answer:?}");
        ensure!(code == 0 || answer.remark.is_some_and(|t| t.starts_with("Invalid MessageSel")));
    }
    for number in 0..1000 {
        let number = format!("a\u{1}{number}\u{2}");
        ensure!(send(&mut f.client, "T", 0, &number, b"x")?.code == 0);
    }
    let wanted = |offset, sql| PullMessage {
        subscription: Some(sql),
        expression_type: Some("SQL92"),
        ..pull_from("T", 0, offset)
    };
    let pull = wanted(0, "a BETWEEN 10 AND 19 AND a <> 15");
    let answer = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    let offsets: Vec<i64> = messages(&answer.body).iter().map(|m| m.offset).collect();
    ensure!(offsets == [10, 11, 12, 13, 14, 16, 17, 18, 19], "{offsets:?}");
    // 32 of 1000 at most, and the offset behind what was looked at.
    let answer = f.client.call(code::PULL_MESSAGE, &wanted(0, "a >= 100"), b"")?;
    ensure!(messages(&answer.body).len() == 32 && answer.field("nextBeginOffset") == Some("132"));
    let answer = f.client.call(code::PULL_MESSAGE, &wanted(0, "a = 5000"), b"")?;
    ensure!(answer.code == 20 && answer.field("nextBeginOffset") == Some("800"), "{answer:?}");
    // Parked at the end: 900 unwanted ones go by, the wanted one arrives at once.
    let mut parked = wanted(1000, "a = 5000");
    (parked.sys_flag, parked.suspend_timeout_millis) = (6, 15_000);
    let mut sender = f.server.connect()?;
    let opaque = f.client.send(code::PULL_MESSAGE, &parked, b"", false)?;
    // A connection's requests are served in order: after this answer the pull is parked.
    call(&mut f.client, code::GET_MAX_OFFSET, &[("topic", "T"), ("queueId", "0")], b"")?;
    for _ in 0..900 {
        ensure!(send(&mut sender, "T", 0, "a\u{1}1\u{2}", b"x")?.code == 0);
    }
    #[allow(clippy::disallowed_methods)] // compared with the deadline of the pull
    let started = std::time::Instant::now();
    ensure!(send(&mut sender, "T", 0, "a\u{1}5000\u{2}", b"wanted")?.code == 0);
    let answer = f.client.answer(opaque)?;
    ensure!(started.elapsed() < Duration::from_secs(5), "answered at its deadline only");
    let got = messages(&answer.body);
    ensure!(got.len() == 1 && got[0].offset == 1900, "{answer:?}");
    Ok(())
}

#[test]
fn sql_filters_can_be_off() -> Result<()> {
    let mut f = fixture("enablePropertyFilter=false")?;
    create_topic(&mut f.client, "T", 1)?;
    let body = subscription("T", "a > 1");
    let check = call(&mut f.client, code::CHECK_CLIENT_CONFIG, &[], body.as_bytes())?;
    let mut pull = pull_from("T", 0, 0);
    (pull.subscription, pull.expression_type) = (Some("a > 1"), Some("SQL92"));
    let pull = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    let text = "The broker does not support consumer to filter message by SQL92";
    for answer in [check, pull] {
        ensure!(answer.code == 1 && answer.remark.as_deref() == Some(text), "{answer:?}");
    }
    Ok(())
}

/// Section 6.3: a join, a leave and a crash are told to the others within a second.
#[test]
fn members_hear_of_joins_leaves_and_crashes() -> Result<()> {
    let f = fixture("")?;
    let mut a = f.server.connect()?;
    ensure!(heartbeat(&mut a, &consumer("a", "g", "T"))?.code == 0);
    let told = |a: &mut Client| -> Result<()> {
        let push = if a.pushed.is_empty() { a.receive()? } else { a.pushed.remove(0) };
        ensure!(push.code == code::NOTIFY_CONSUMER_IDS_CHANGED && push.flag == 2);
        ensure!(push.field("consumerGroup") == Some("g"));
        Ok(())
    };
    told(&mut a)?; // its own arrival
    let (mut b, mut c) = (f.server.connect()?, f.server.connect()?);
    heartbeat(&mut b, &consumer("b", "g", "T"))?;
    told(&mut a)?;
    heartbeat(&mut c, &consumer("c", "g", "T"))?;
    told(&mut a)?;
    let leave = [("clientID", "b"), ("consumerGroup", "g")];
    call(&mut b, code::UNREGISTER_CLIENT, &leave, b"")?;
    told(&mut a)?;
    drop(c);
    told(&mut a)?;
    ensure!(ids(&mut a, "g")? == ["a"]);
    Ok(())
}
