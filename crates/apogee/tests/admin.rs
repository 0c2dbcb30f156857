//! What operators ask about progress, statistics and cleaning, and how they change it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::clock::Stopwatch;
use net::client::{Client, Command};
use testkit::{Server, TempDir, call, create_topic, messages, pull_all, pull_from, send, send_to};
use wire::codes::request as code;
use wire::header::{Head, NoFields, write_frame};
use wire::json::Value;
use wire::record::encode_batch_entry;
use wire::requests::{PullMessage, SendMessage};

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
/// Index of C++ in `wire::codes::LANGUAGES`.
const CPP: u8 = 1;

struct Fixture {
    server: Server,
    client: Client,
    dir: TempDir,
}

fn fixture(settings: &str) -> Result<Fixture> {
    let dir = TempDir::new("admin")?;
    let server = Server::start(BINARY, dir.path(), settings)?;
    let client = server.connect()?;
    Ok(Fixture { server, client, dir })
}

/// A topic with this many messages in each of two queues, and a group.
fn filled(settings: &str, count: usize) -> Result<Fixture> {
    let mut f = fixture(settings)?;
    create_topic(&mut f.client, "T", 2)?;
    for number in 0..2 * count {
        send(&mut f.client, "T", number as i32 % 2, "", b"x")?;
    }
    make_group(&mut f.client, "g")?;
    Ok(f)
}

fn make_group(client: &mut Client, group: &str) -> Result<()> {
    let body = format!(r#"{{"groupName":"{group}"}}"#);
    let made = call(client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body.as_bytes())?;
    ensure!(made.code == 0, "{made:?}");
    Ok(())
}

fn commit(client: &mut Client, group: &str, topic: &str, queue: &str, offset: &str) -> Result<()> {
    let fields =
        [("consumerGroup", group), ("topic", topic), ("queueId", queue), ("commitOffset", offset)];
    ensure!(call(client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")?.code == 0);
    Ok(())
}

fn committed(client: &mut Client, group: &str, queue: &str) -> Result<Option<i64>> {
    let fields = [
        ("consumerGroup", group),
        ("topic", "T"),
        ("queueId", queue),
        ("setZeroIfNotFound", "false"),
    ];
    let answer = call(client, code::QUERY_CONSUMER_OFFSET, &fields, b"")?;
    Ok(answer.field("offset").and_then(|text| text.parse().ok()))
}

/// A connection that is a consumer of the group, in the language with this number.
fn consumer(server: &Server, id: &str, group: &str, language: u8) -> Result<Client> {
    let mut client = server.connect()?;
    let body = format!(
        r#"{{"clientID":"{id}","producerDataSet":[],"consumerDataSet":[{{"groupName":"{group}","consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING","consumeFromWhere":"CONSUME_FROM_FIRST_OFFSET","unitMode":false,"subscriptionDataSet":[{{"topic":"T","subString":"*","subVersion":1,"expressionType":"TAG"}}]}}]}}"#
    );
    let opaque = 1 << 20;
    let head = Head { language, ..Head::request(code::HEART_BEAT, opaque, false) };
    let mut frame = Vec::new();
    let put = |out: &mut Vec<u8>| out.extend_from_slice(body.as_bytes());
    write_frame(&mut frame, &head, &NoFields, false, put);
    client.send_raw(&frame)?;
    ensure!(client.answer(opaque)?.code == 0);
    Ok(client)
}

/// Takes the next request of this code that the server makes; others are left aside.
fn asked(client: &mut Client, code: i32) -> Result<Command> {
    loop {
        let command = client.receive()?;
        if command.code == code {
            return Ok(command);
        }
    }
}

fn reply(client: &mut Client, question: &Command, code: i32, body: &str) -> Result<()> {
    let mut frame = Vec::new();
    let head = Head::response(code, question.opaque, None);
    write_frame(&mut frame, &head, &NoFields, false, |out| out.extend_from_slice(body.as_bytes()));
    Ok(client.send_raw(&frame)?)
}

fn key(queue: i32) -> String {
    format!(r#"{{"brokerName":"broker-a","queueId":{queue},"topic":"T"}}"#)
}

fn text(answer: &Command) -> Result<&str> {
    Ok(std::str::from_utf8(&answer.body)?)
}

fn reset(client: &mut Client, extra: &[(&str, &str)]) -> Result<Command> {
    let mut fields = vec![("topic", "T"), ("group", "g"), ("isForce", "true")];
    fields.extend_from_slice(extra);
    call(client, code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"")
}

#[test]
fn a_reset_moves_all_queues_or_one_and_the_next_pull_is_told() -> Result<()> {
    let mut f = filled("", 10)?;
    commit(&mut f.client, "g", "T", "0", "3")?;
    let all = reset(&mut f.client, &[("timestamp", "-1")])?;
    let expected = format!(r#"{{"offsetTable":{{{}:10,{}:10}}}}"#, key(0), key(1));
    ensure!(all.code == 0 && text(&all)? == expected, "{all:?}");
    // A late commit of the old position is ignored until the client has heard of the reset.
    commit(&mut f.client, "g", "T", "0", "4")?;
    ensure!(committed(&mut f.client, "g", "0")? == Some(10));
    let pull = PullMessage { consumer_group: "g", ..pull_from("T", 0, 4) };
    let told = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    ensure!(told.code == 21 && told.field("nextBeginOffset") == Some("10"), "{told:?}");
    commit(&mut f.client, "g", "T", "0", "9")?;
    ensure!(committed(&mut f.client, "g", "0")? == Some(9));
    let past = reset(&mut f.client, &[("timestamp", "0"), ("queueId", "1")])?;
    ensure!(text(&past)? == format!(r#"{{"offsetTable":{{{}:0}}}}"#, key(1)), "{past:?}");
    // By offset: up to one behind the next one, and only for a queue.
    for (offset, good) in [("0", true), ("11", true), ("12", false), ("-2", false)] {
        let one = [("timestamp", "-1"), ("queueId", "0"), ("offset", offset)];
        let answer = reset(&mut f.client, &one)?;
        ensure!((answer.code == 0) == good, "{offset}: {answer:?}");
        if !good {
            let remark = format!("Target offset {offset} not in consume queue range [0-10]");
            ensure!(answer.code == 1 && answer.remark == Some(remark));
        }
    }
    let all = reset(&mut f.client, &[("timestamp", "0"), ("offset", "5")])?;
    ensure!(
        text(&all)?.matches(":0}").count() == 1 && committed(&mut f.client, "g", "1")? == Some(0)
    );
    let fields = [("topic", "None"), ("group", "g"), ("timestamp", "0"), ("isForce", "false")];
    let none = call(&mut f.client, code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"")?;
    ensure!(none.code == 17 && none.remark.as_deref() == Some("Topic None does not exist"));
    let fields = [("topic", "T"), ("group", "none"), ("timestamp", "0"), ("isForce", "false")];
    let none = call(&mut f.client, code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"")?;
    ensure!(none.code == 26 && none.remark.as_deref() == Some("Group none does not exist"));
    Ok(())
}

#[test]
fn b35_resets_are_pushed_in_the_form_that_each_client_reads() -> Result<()> {
    let mut f = filled("useServerSideResetOffset=false\n", 10)?;
    let none = reset(&mut f.client, &[("timestamp", "-1")])?;
    ensure!(none.remark.as_deref() == Some("THe consumer group <g> not exist"), "{none:?}");
    commit(&mut f.client, "g", "T", "0", "3")?;
    commit(&mut f.client, "g", "T", "1", "4")?;
    let none = reset(&mut f.client, &[("timestamp", "-1")])?;
    let remark = "Consumer not online, so can not reset offset, Group: g Topic: T Timestamp: -1";
    ensure!(none.code == 206 && none.remark.as_deref() == Some(remark), "{none:?}");
    let mut java = consumer(&f.server, "java@1", "g", 0)?;
    let mut cpp = consumer(&f.server, "cpp@1", "g", CPP)?;
    // Forward only by force.
    for (force, offsets) in [("false", [3, 4]), ("true", [10, 10])] {
        let fields = [("topic", "T"), ("group", "g"), ("timestamp", "-1"), ("isForce", force)];
        let answer = call(&mut f.client, code::INVOKE_BROKER_TO_RESET_OFFSET, &fields, b"")?;
        let [first, second] = offsets;
        let keyed = format!(r#"{{"offsetTable":{{{}:{first},{}:{second}}}}}"#, key(0), key(1));
        ensure!(answer.code == 0 && text(&answer)? == keyed, "{answer:?}");
        let pushed = asked(&mut java, code::RESET_CONSUMER_CLIENT_OFFSET)?;
        ensure!(text(&pushed)? == keyed, "{pushed:?}");
        ensure!(pushed.field("group") == Some("g") && pushed.field("timestamp") == Some("-1"));
        let pushed = asked(&mut cpp, code::RESET_CONSUMER_CLIENT_OFFSET)?;
        let item = |id, offset| {
            format!(r#"{{"brokerName":"broker-a","offset":{offset},"queueId":{id},"topic":"T"}}"#)
        };
        let list = format!(r#"{{"offsetTable":[{},{}]}}"#, item(0, first), item(1, second));
        ensure!(text(&pushed)? == list, "{pushed:?}");
    }
    // Nothing was changed here: the clients commit when they have moved.
    ensure!(committed(&mut f.client, "g", "0")? == Some(3));
    // A reset of the other kind that no pull has taken yet is over with a pushed one.
    let mut switch = |on: &str| -> Result<()> {
        let line = format!("useServerSideResetOffset={on}");
        let answer = call(&mut f.client, code::UPDATE_BROKER_CONFIG, &[], line.as_bytes())?;
        ensure!(answer.code == 0, "{answer:?}");
        Ok(())
    };
    switch("true")?;
    ensure!(reset(&mut java, &[("timestamp", "-1")])?.code == 0);
    switch("false")?;
    ensure!(reset(&mut java, &[("timestamp", "0")])?.code == 0);
    commit(&mut f.client, "g", "T", "0", "0")?;
    ensure!(committed(&mut f.client, "g", "0")? == Some(0));
    let pull = PullMessage { consumer_group: "g", ..pull_from("T", 0, 0) };
    ensure!(f.client.call(code::PULL_MESSAGE, &pull, b"")?.code == 0);
    Ok(())
}

#[test]
fn offsets_that_clients_tell_become_one_answer() -> Result<()> {
    let mut f = filled("", 1)?;
    let fields = [("topic", "T"), ("group", "g")];
    let status = code::INVOKE_BROKER_TO_GET_CONSUMER_STATUS;
    let none = call(&mut f.client, status, &fields, b"")?;
    ensure!(none.remark.as_deref() == Some("No Any Consumer online in the consumer group: [g]"));
    let mut a = consumer(&f.server, "a@1", "g", 0)?;
    let mut b = consumer(&f.server, "b@1", "g", 0)?;
    let mut c = consumer(&f.server, "c@1", "g", 0)?;
    let opaque = f.client.send(status, &wire::header::Pairs(&fields), b"", false)?;
    let body = |queue| format!(r#"{{"messageQueueTable":{{{}:7}}}}"#, key(queue));
    for (client, code, queue) in [(&mut b, 0, 1), (&mut c, 1, 0), (&mut a, 0, 0)] {
        let question = asked(client, code::GET_CONSUMER_STATUS_FROM_CLIENT)?;
        ensure!(question.field("topic") == Some("T") && question.field("group") == Some("g"));
        reply(client, &question, code, &body(queue))?;
    }
    let answer = f.client.answer(opaque)?;
    let table = format!(r#""a@1":{{{}:7}},"b@1":{{{}:7}}"#, key(0), key(1));
    let expected = format!(r#"{{"consumerTable":{{{table}}},"messageQueueTable":{{}}}}"#);
    ensure!(answer.code == 0 && text(&answer)? == expected, "{answer:?}");
    // One client alone, and one that says nothing: the time of the question ends it.
    let one = [("topic", "T"), ("group", "g"), ("clientAddr", "c@1")];
    let answer = call(&mut f.client, status, &one, b"")?;
    ensure!(answer.code == 0 && text(&answer)?.starts_with(r#"{"consumerTable":{}"#));
    let one = [("topic", "T"), ("group", "g"), ("clientAddr", "nobody")];
    let answer = call(&mut f.client, status, &one, b"")?;
    ensure!(answer.code == 0 && text(&answer)?.starts_with(r#"{"consumerTable":{}"#));
    Ok(())
}

#[test]
fn b36_what_a_consumer_says_of_itself_passes_unchanged() -> Result<()> {
    let mut f = filled("", 1)?;
    let mut cpp = consumer(&f.server, "cpp@1", "g", CPP)?;
    let fields = wire::header::Pairs(&[("consumerGroup", "g"), ("clientId", "cpp@1")]);
    let opaque = f.client.send(code::GET_CONSUMER_RUNNING_INFO, &fields, b"", false)?;
    let question = asked(&mut cpp, code::GET_CONSUMER_RUNNING_INFO)?;
    let body = r#"{"mqTable":{"q":{"commitOffset": 18446744073709551615}}}"#;
    reply(&mut cpp, &question, 0, body)?;
    ensure!(text(&f.client.answer(opaque)?)? == body);
    Ok(())
}

fn consume_stats(client: &mut Client, extra: &[(&str, &str)]) -> Result<Value> {
    let mut fields = vec![("consumerGroup", "g")];
    fields.extend_from_slice(extra);
    let answer = call(client, code::GET_CONSUME_STATS, &fields, b"")?;
    ensure!(answer.code == 0, "{answer:?}");
    Ok(Value::parse_bytes(&answer.body)?)
}

/// Broker offset, consumer offset, pull offset, time of the last consumed message.
fn rows(stats: &Value) -> Vec<[i64; 4]> {
    let table = stats.get("offsetTable").map_or(&[][..], Value::pairs);
    let row = |(_, row): &(Value, Value)| {
        ["brokerOffset", "consumerOffset", "pullOffset", "lastTimestamp"]
            .map(|name| row.get(name).and_then(Value::int).unwrap_or(-1))
    };
    table.iter().map(row).collect()
}

#[test]
fn lag_is_told_in_messages_and_in_time() -> Result<()> {
    let mut f = filled("", 10)?;
    commit(&mut f.client, "g", "T", "0", "4")?;
    let pull = PullMessage { consumer_group: "g", max_msg_nums: 7, ..pull_from("T", 0, 0) };
    let got = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    let times: Vec<i64> = wire::record::records(&got.body)
        .map(|record| record.map(|record| record.store_timestamp()))
        .collect::<Result<_, _>>()?;
    let expected = vec![[10, 4, 7, times[3]], [10, 0, 0, 0]];
    ensure!(rows(&consume_stats(&mut f.client, &[])?) == expected);
    ensure!(rows(&consume_stats(&mut f.client, &[("topic", "T")])?) == expected);
    ensure!(rows(&consume_stats(&mut f.client, &[("topicList", "None;T;")])?) == expected);
    ensure!(rows(&consume_stats(&mut f.client, &[("topic", "None")])?).is_empty());
    // What an online group does not subscribe to any more is no lag of it.
    create_topic(&mut f.client, "Left", 1)?;
    commit(&mut f.client, "g", "Left", "0", "0")?;
    ensure!(rows(&consume_stats(&mut f.client, &[])?).len() == 3);
    let _online = consumer(&f.server, "c@1", "g", 0)?;
    ensure!(rows(&consume_stats(&mut f.client, &[])?) == expected);
    let all = call(&mut f.client, code::GET_BROKER_CONSUME_STATS, &[("isOrder", "false")], b"")?;
    let all = Value::parse_bytes(&all.body)?;
    ensure!(all.get("totalDiff").and_then(Value::int) == Some(16), "{all:?}");
    ensure!(all.get("totalInflightDiff").and_then(Value::int) == Some(3));
    ensure!(all.get("brokerAddr").and_then(Value::text).is_some_and(|at| at.contains(':')));
    let list = all.get("consumeStatsList").context("list")?.items();
    let of_group = list.iter().find_map(|map| map.get("g")).context("the group")?.items();
    ensure!(of_group.len() == 1 && rows(&of_group[0]) == expected);
    let ordered = call(&mut f.client, code::GET_BROKER_CONSUME_STATS, &[("isOrder", "true")], b"")?;
    ensure!(text(&ordered)?.contains(r#""totalDiff":0"#));
    Ok(())
}

#[test]
fn b60_a_group_that_never_consumed_is_wholly_behind() -> Result<()> {
    let mut f = filled("", 5)?;
    let stats = consume_stats(&mut f.client, &[("topic", "T")])?;
    ensure!(rows(&stats) == [[5, 0, 0, 0]; 2], "{stats:?}");
    ensure!(rows(&consume_stats(&mut f.client, &[])?).is_empty());
    Ok(())
}

#[test]
fn time_spans_of_a_group() -> Result<()> {
    let mut f = filled("", 2)?;
    std::thread::sleep(Duration::from_millis(20)); // a difference of times is the case
    send(&mut f.client, "T", 0, "", b"late")?;
    commit(&mut f.client, "g", "T", "0", "2")?;
    let fields = [("topic", "T"), ("group", "g")];
    let answer = call(&mut f.client, code::QUERY_CONSUME_TIME_SPAN, &fields, b"")?;
    let body = Value::parse_bytes(&answer.body)?;
    let spans = body.get("consumeTimeSpanSet").context("set")?.items();
    let number = |at: usize, name| spans[at].get(name).and_then(Value::int).unwrap_or(-2);
    let (min, max) = (number(0, "minTimeStamp"), number(0, "maxTimeStamp"));
    ensure!(spans.len() == 2 && max - min >= 20, "{body:?}");
    ensure!((min..max).contains(&number(0, "consumeTimeStamp")));
    ensure!((0..60_000).contains(&number(0, "delayTime")));
    // Without an offset the group stands before the first message.
    ensure!(number(1, "consumeTimeStamp") == number(1, "minTimeStamp"));
    ensure!((20..60_000).contains(&number(1, "delayTime")), "{body:?}");
    let none = [("topic", "None"), ("group", "g")];
    ensure!(call(&mut f.client, code::QUERY_CONSUME_TIME_SPAN, &none, b"")?.code == 17);
    Ok(())
}

#[test]
fn offsets_are_cloned_and_compared() -> Result<()> {
    let mut f = filled("", 10)?;
    for (group, first, second) in [("g", "3", "8"), ("h", "5", "6")] {
        make_group(&mut f.client, group)?;
        commit(&mut f.client, group, "T", "0", first)?;
        commit(&mut f.client, group, "T", "1", second)?;
    }
    let mut correction = |fields: &[(&str, &str)]| -> Result<String> {
        let answer = call(&mut f.client, code::QUERY_CORRECTION_OFFSET, fields, b"")?;
        Ok(text(&answer)?.to_owned())
    };
    let all = correction(&[("topic", "T"), ("compareGroup", "none")])?;
    ensure!(all == r#"{"correctionOffsets":{0:3,1:6}}"#, "{all}");
    let fields = [("topic", "T"), ("compareGroup", "g"), ("filterGroups", "g,x")];
    let some = correction(&fields)?;
    ensure!(some == format!(r#"{{"correctionOffsets":{{0:{},1:6}}}}"#, i64::MAX), "{some}");
    for (dest, topic) in [("copy", Some("T")), ("all", None)] {
        let mut fields = vec![("srcGroup", "g"), ("destGroup", dest), ("offline", "true")];
        fields.extend(topic.map(|topic| ("topic", topic)));
        ensure!(call(&mut f.client, code::CLONE_GROUP_OFFSET, &fields, b"")?.code == 0);
        ensure!(committed(&mut f.client, dest, "0")? == Some(3), "{dest}");
        ensure!(committed(&mut f.client, dest, "1")? == Some(8), "{dest}");
    }
    ensure!(committed(&mut f.client, "g", "0")? == Some(3), "filtering deletes nothing");
    Ok(())
}

#[test]
fn reading_a_topic_can_be_forbidden_to_a_group() -> Result<()> {
    let mut f = filled("", 1)?;
    let mut online = consumer(&f.server, "c@1", "g", 0)?;
    let mut set = |topic: &str, readable: Option<&str>| -> Result<bool> {
        let mut fields = vec![("group", "g"), ("topic", topic)];
        fields.extend(readable.map(|readable| ("readable", readable)));
        let answer = call(&mut f.client, code::UPDATE_AND_GET_GROUP_FORBIDDEN, &fields, b"")?;
        let body = text(&answer)?;
        let shown = |readable| {
            body == format!(r#"{{"group":"g","readable":{readable},"topic":"{topic}"}}"#)
        };
        ensure!(answer.code == 0 && (shown(true) || shown(false)), "{answer:?}");
        Ok(shown(true))
    };
    let pull = PullMessage { consumer_group: "g", sys_flag: 0, ..pull_from("T", 0, 0) };
    ensure!(set("T", None)?);
    ensure!(!set("Other", Some("false"))? && !set("T", Some("false"))?);
    let refused = online.call(code::PULL_MESSAGE, &pull, b"")?;
    ensure!(refused.code == 16 && refused.field("forbiddenType").is_some(), "{refused:?}");
    ensure!(set("T", Some("true"))?);
    ensure!(messages(&online.call(code::PULL_MESSAGE, &pull, b"")?.body).len() == 1);
    ensure!(!set("Other", None)?, "the other topic stays forbidden");
    f.server.kill()?;
    f.server.restart()?;
    let groups = call(&mut f.server.connect()?, code::GET_ALL_SUBSCRIPTIONGROUP_CONFIG, &[], b"")?;
    ensure!(text(&groups)?.contains(r#""forbiddenTable":{"g":{"Other":1}}"#));
    Ok(())
}

/// Sum and average of the last minute; `None` when there is no such item.
fn minute(client: &mut Client, name: &str, key: &str) -> Result<Option<(i64, f64)>> {
    let fields = [("statsName", name), ("statsKey", key)];
    let answer = call(client, code::VIEW_BROKER_STATS_DATA, &fields, b"")?;
    if answer.code != 0 {
        let remark = format!("The stats <{name}> <{key}> not exist");
        ensure!(answer.code == 1 && answer.remark == Some(remark));
        return Ok(None);
    }
    let body = Value::parse_bytes(&answer.body)?;
    let sums: Vec<i64> = ["statsMinute", "statsHour", "statsDay"]
        .iter()
        .filter_map(|span| body.get(span)?.get("sum")?.int())
        .collect();
    ensure!(sums.len() == 3 && sums[0] == sums[1] && sums[1] == sums[2], "{body:?}");
    let average = match body.get("statsMinute").and_then(|span| span.get("avgpt")) {
        Some(Value::Float(average)) => *average,
        other => anyhow::bail!("{other:?}"),
    };
    Ok(Some((sums[0], average)))
}

#[test]
fn statistics_count_what_was_put_got_and_given_back() -> Result<()> {
    let mut f = filled("", 3)?;
    let mut batch = Vec::new();
    (0..4).for_each(|_| encode_batch_entry(0, b"b", "", &mut batch));
    let fields = SendMessage { batch: true, ..send_to("T", 0, "") };
    ensure!(f.client.call(code::SEND_BATCH_MESSAGE, &fields, &batch)?.code == 0);
    let pull = PullMessage { consumer_group: "g", ..pull_from("T", 0, 0) };
    let got = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    let physical = messages(&got.body)[0].physical_offset.to_string();
    let fields = [("group", "g"), ("offset", &physical), ("delayLevel", "0"), ("originTopic", "T")];
    ensure!(call(&mut f.client, code::CONSUMER_SEND_MSG_BACK, &fields, b"")?.code == 0);
    let bytes = got.body.len() as i64;
    for (name, key, sum, average) in [
        ("TOPIC_PUT_NUMS", "T", 10, 10.0 / 7.0),
        ("GROUP_GET_NUMS", "T@g", 7, 7.0),
        ("GROUP_GET_SIZE", "T@g", bytes, bytes as f64),
        ("SNDBCK_PUT_NUMS", "T@g", 1, 1.0),
        ("TOPIC_PUT_NUMS", "SCHEDULE_TOPIC_XXXX", 1, 1.0),
        ("BROKER_PUT_NUMS", "DefaultCluster", 11, 0.0),
        ("BROKER_GET_NUMS", "DefaultCluster", 7, 7.0),
        ("BROKER_PUT_NUMS_WITHOUT_SYSTEM_TOPIC", "DefaultCluster", 10, 10.0 / 7.0),
    ] {
        let found = minute(&mut f.client, name, key)?;
        ensure!(found == Some((sum, average)), "{name} {key}: {found:?}");
    }
    let (size, _) = minute(&mut f.client, "TOPIC_PUT_SIZE", "T")?.context("size")?;
    let stored: i64 = (0..2)
        .map(|queue| {
            let got = f.client.call(code::PULL_MESSAGE, &pull_from("T", queue, 0), b"")?;
            Ok(got.body.len() as i64)
        })
        .sum::<Result<i64>>()?;
    ensure!(size == stored, "{size} {stored}");
    for (name, key) in [
        ("TOPIC_PUT_NUMS", "None"),
        ("GROUP_GET_NUMS", "T@none"),
        ("SNDBCK_PUT_NUMS", "T"),
        ("BROKER_PUT_NUMS", "None"),
        ("NO_SUCH_NAME", "T"),
    ] {
        ensure!(minute(&mut f.client, name, key)?.is_none(), "{name} {key}");
    }
    ensure!(call(&mut f.client, code::DELETE_TOPIC_IN_BROKER, &[("topic", "T")], b"")?.code == 0);
    ensure!(minute(&mut f.client, "TOPIC_PUT_NUMS", "T")?.is_none());
    ensure!(minute(&mut f.client, "GROUP_GET_NUMS", "T@g")?.is_none());
    Ok(())
}

#[test]
fn operators_clean_up() -> Result<()> {
    let mut f = filled("", 1)?;
    create_topic(&mut f.client, "Lost", 1)?;
    send(&mut f.client, "Lost", 0, "", b"x")?;
    for code in [code::CLEAN_EXPIRED_CONSUMEQUEUE, code::DELETE_EXPIRED_COMMITLOG] {
        ensure!(call(&mut f.client, code, &[], b"")?.code == 0);
    }
    // A topic that the configuration has lost leaves its queues behind.
    f.server.stop()?;
    let config = f.dir.path().join("data/store/config");
    let path = config.join("topics.json");
    let file = std::fs::read_to_string(&path)?;
    std::fs::write(&path, file.replace("\"Lost\"", "\"Found\""))?;
    f.server.restart()?;
    let mut client = f.server.connect()?;
    let queues = f.dir.path().join("data/store/consumequeue");
    ensure!(queues.join("Lost").exists());
    ensure!(call(&mut client, code::CLEAN_UNUSED_TOPIC, &[], b"")?.code == 0);
    ensure!(!queues.join("Lost").exists() && queues.join("T").exists());
    ensure!(pull_all(&mut client, "T", 0, 0)?.len() == 1);
    Ok(())
}

#[test]
fn what_waits_for_its_time_is_counted_by_topic() -> Result<()> {
    let mut f = filled("", 1)?;
    for (delay_ms, queue) in [("100000", 0), ("200", 1)] {
        let properties = format!("TIMER_DELAY_MS\u{1}{delay_ms}\u{2}");
        ensure!(send(&mut f.client, "T", queue, &properties, b"x")?.code == 0);
    }
    let count = |client: &mut Client| -> Result<i64> {
        let answer = call(client, code::GET_TIMER_METRICS, &[], b"")?;
        let body = Value::parse_bytes(&answer.body)?;
        ensure!(body.get("dataVersion").is_some(), "{body:?}");
        let metric = body.get("timingCount").and_then(|topics| topics.get("T")?.get("count"));
        Ok(metric.and_then(Value::int).unwrap_or(0))
    };
    ensure!(count(&mut f.client)? == 2);
    let pull = PullMessage { sys_flag: 6, suspend_timeout_millis: 10_000, ..pull_from("T", 1, 1) };
    ensure!(f.client.call(code::PULL_MESSAGE, &pull, b"")?.code == 0);
    ensure!(count(&mut f.client)? == 1);
    f.server.stop()?;
    f.server.restart()?;
    let mut client = f.server.connect()?;
    ensure!(count(&mut client)? == 1, "over a restart");
    let answer = call(&mut client, code::GET_TIMER_CHECK_POINT, &[], b"")?;
    let number =
        |at: usize| answer.body[8 * at..8 * at + 8].iter().fold(0, |n, b| n << 8 | i64::from(*b));
    ensure!(answer.code == 0 && answer.body.len() == 56);
    ensure!(number(0) > 1_700_000_000_000 && (number(2), number(3)) == (2, 2));
    Ok(())
}

/// The smallest offset of the first queue.
fn min_offset(client: &mut Client) -> Result<i64> {
    let answer = call(client, code::GET_MIN_OFFSET, &[("topic", "T"), ("queueId", "0")], b"")?;
    Ok(answer.field("offset").context("no offset")?.parse()?)
}

#[test]
fn a_topic_keeps_what_its_attributes_say() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    for _ in 0..20 {
        send(&mut f.client, "T", 0, "KEYS\u{1}k\u{2}", &[b'x'; 1000])?;
    }
    let change = |client: &mut Client, attributes: &str| {
        let fields = [
            ("topic", "T"),
            ("defaultTopic", "TBW102"),
            ("readQueueNums", "1"),
            ("writeQueueNums", "1"),
            ("perm", "6"),
            ("topicFilterType", "SINGLE_TAG"),
            ("topicSysFlag", "0"),
            ("order", "false"),
            ("attributes", attributes),
        ];
        call(client, code::UPDATE_AND_CREATE_TOPIC, &fields, b"")
    };
    ensure!(change(&mut f.client, "+reserve.bytes=x")?.code == 1);
    ensure!(change(&mut f.client, "+reserve.bytes=6500,+index.enable=false")?.code == 0);
    let mut tries = 0;
    while min_offset(&mut f.client)? == 0 {
        std::thread::sleep(Duration::from_millis(20));
        tries += 1;
        ensure!(tries < 500, "nothing goes");
    }
    // Records of a little more than 1,200 bytes.
    ensure!(min_offset(&mut f.client)? == 15, "{}", min_offset(&mut f.client)?);
    let first = pull_all(&mut f.client, "T", 0, 15)?.first().map(|message| message.offset);
    ensure!(first == Some(15), "{first:?}");
    // It is cut again after a restart, and taking the limit away brings nothing back.
    f.server.stop()?;
    f.server.restart()?;
    f.client = f.server.connect()?;
    let mut tries = 0;
    while min_offset(&mut f.client)? != 15 {
        std::thread::sleep(Duration::from_millis(20));
        tries += 1;
        ensure!(tries < 500, "not cut after a restart: {}", min_offset(&mut f.client)?);
    }
    ensure!(change(&mut f.client, "-reserve.bytes")?.code == 0);
    ensure!(min_offset(&mut f.client)? == 15);
    Ok(())
}

#[test]
fn a_group_s_back_off_says_when_a_message_comes_again() -> Result<()> {
    let mut f = fixture("messageDelayLevel=10m 10m 10m 10m 10m\n")?;
    create_topic(&mut f.client, "T", 1)?;
    let policy = r#""groupRetryPolicy":{"type":"CUSTOMIZED","customizedRetryPolicy":
        {"next":[0,0,300,900]}}"#;
    let body = format!(r#"{{"groupName":"g",{policy}}}"#);
    let code = code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    ensure!(call(&mut f.client, code, &[], body.as_bytes())?.code == 0);
    // A message that has waited for a time of its own before.
    send(&mut f.client, "T", 0, "TIMER_DELAY_MS\u{1}20\u{2}", b"x")?;
    let mut topic = "T";
    let mut from = 0;
    for (tried, wait_ms) in [(0, 300), (1, 900), (2, 900)] {
        let mut found = Vec::new();
        for _ in 0..200 {
            found = pull_all(&mut f.client, topic, 0, from).unwrap_or_default();
            if !found.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let message = found.first().context("it does not come")?;
        ensure!(message.reconsume_times == tried, "{message:?}");
        let physical = message.physical_offset.to_string();
        let fields =
            [("group", "g"), ("offset", &physical), ("delayLevel", "0"), ("originTopic", "T")];
        let began = Stopwatch::start();
        ensure!(call(&mut f.client, code::CONSUMER_SEND_MSG_BACK, &fields, b"")?.code == 0);
        from = if topic == "T" { 0 } else { message.offset + 1 };
        topic = "%RETRY%g";
        let before = pull_all(&mut f.client, topic, 0, from)?;
        let early = began.elapsed() < Duration::from_millis(wait_ms);
        ensure!(before.is_empty() || !early, "it came at once");
    }
    Ok(())
}
