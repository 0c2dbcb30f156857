//! Transactions over the wire: what becomes visible, who is asked, and what a kill leaves behind.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use base::clock::Stopwatch;
use net::client::{Client, Command};
use testkit::{Server, TempDir, call, create_topic, pull_all, send, send_to};
use wire::codes::request as code;
use wire::json::Value;
use wire::message_id::parse_offset_id;
use wire::record::{self, Scanned};
use wire::requests::EndTransaction;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
const COMMIT: i32 = 8;
const ROLLBACK: i32 = 12;
const GROUP: &str = "tx-group";
const PARKED: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// A half message as its producer knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Half {
    offset: i64,
    physical: i64,
}

fn start(settings: &str) -> Result<(TempDir, Server, Client)> {
    let dir = TempDir::new("tx")?;
    let server = Server::start(BINARY, dir.path(), settings)?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    Ok((dir, server, client))
}

fn properties(extra: &str) -> String {
    format!("TRAN_MSG\u{1}true\u{2}PGROUP\u{1}{GROUP}\u{2}{extra}")
}

fn half_of(answer: &Command) -> Result<Half> {
    ensure!(answer.code == 0, "{}: {:?}", answer.code, answer.remark);
    let id = answer.field("msgId").and_then(parse_offset_id).context("no message id")?;
    let offset = answer.field("queueOffset").context("no offset")?.parse()?;
    Ok(Half { offset, physical: id.1 as i64 })
}

fn half(client: &mut Client, extra: &str, body: &[u8]) -> Result<Half> {
    half_of(&send(client, "T", 0, &properties(extra), body)?)
}

fn end_request(half: &Half, how: i32, asked: bool) -> EndTransaction<'static> {
    EndTransaction {
        producer_group: GROUP,
        tran_state_table_offset: half.offset,
        commit_log_offset: half.physical,
        commit_or_rollback: how,
        from_transaction_check: asked,
        msg_id: Some("x"),
        transaction_id: None,
    }
}

fn end(client: &mut Client, half: &Half, how: i32) -> Result<Command> {
    Ok(client.call(code::END_TRANSACTION, &end_request(half, how, false), b"")?)
}

fn bodies(client: &mut Client, topic: &str) -> Result<Vec<String>> {
    let found = pull_all(client, topic, 0, 0)?;
    Ok(found.into_iter().map(|m| String::from_utf8_lossy(&m.body).into_owned()).collect())
}

fn produce_from(client: &mut Client, group: &str) -> Result<()> {
    let body = format!(r#"{{"clientID":"c@1","producerDataSet":[{{"groupName":"{group}"}}]}}"#);
    ensure!(call(client, code::HEART_BEAT, &[], body.as_bytes())?.code == 0);
    Ok(())
}

#[test]
fn commit_shows_once_and_rollback_never() -> Result<()> {
    let (_dir, _server, mut client) = start("")?;
    let one = half(&mut client, "UNIQ_KEY\u{1}U1\u{2}TAGS\u{1}t\u{2}", b"one")?;
    let two = half(&mut client, "", b"two")?;
    ensure!(one.offset == 0 && two.offset == 1, "{one:?} {two:?}");
    ensure!(bodies(&mut client, "T")?.is_empty(), "half messages are invisible");
    ensure!(end(&mut client, &two, ROLLBACK)?.code == 0);
    ensure!(end(&mut client, &one, COMMIT)?.code == 0);
    let found = pull_all(&mut client, "T", 0, 0)?;
    ensure!(found.len() == 1 && found[0].body == b"one", "{found:?}");
    let text = &found[0].properties;
    ensure!(text.contains("TRAN_MSG\u{1}true") && text.contains("__transactionId__\u{1}U1"));
    ensure!(!text.contains("REAL_TOPIC") && !text.contains("REAL_QID"), "{text}");
    let pull = testkit::pull_from("T", 0, 0);
    let raw = client.call(code::PULL_MESSAGE, &pull, b"")?.body;
    let Scanned::Record(record) = record::scan(&raw)? else { anyhow::bail!("a blank") };
    ensure!(record.prepared_offset() == one.physical && record.sys_flag() & 0xC == 8);
    // A delay is kept until the commit and counts from there.
    let late = half(&mut client, "DELAY\u{1}1\u{2}", b"late")?;
    ensure!(end(&mut client, &late, COMMIT)?.code == 0);
    ensure!(pull_all(&mut client, "SCHEDULE_TOPIC_XXXX", 0, 0)?.len() == 1);
    Ok(())
}

#[test]
fn b40_wrong_ends_change_nothing() -> Result<()> {
    let (_dir, _server, mut client) = start("")?;
    let orphan = half_of(&send(&mut client, "T", 0, "TRAN_MSG\u{1}true\u{2}", b"orphan")?)?;
    let one = half(&mut client, "", b"one")?;
    let two = half(&mut client, "", b"two")?;
    let other = half_of(&send(&mut client, "Other", 0, "", b"plain")?)?;
    for (request, text) in [
        (end_request(&orphan, COMMIT, false), "The producer group wrong"),
        (
            EndTransaction { producer_group: "else", ..end_request(&one, COMMIT, false) },
            "The producer group wrong",
        ),
        (
            EndTransaction { commit_log_offset: two.physical, ..end_request(&one, COMMIT, false) },
            "The transaction state table offset wrong",
        ),
        (
            EndTransaction {
                tran_state_table_offset: one.offset + 1,
                ..end_request(&one, COMMIT, false)
            },
            "The transaction state table offset wrong",
        ),
        (
            EndTransaction { commit_log_offset: 999_999, ..end_request(&one, COMMIT, false) },
            "Find prepared transaction message failed",
        ),
        (
            EndTransaction {
                commit_log_offset: other.physical,
                ..end_request(&one, COMMIT, false)
            },
            "Find prepared transaction message failed",
        ),
    ] {
        let answer = client.call(code::END_TRANSACTION, &request, b"")?;
        ensure!(answer.code == 1 && answer.remark.as_deref() == Some(text), "{answer:?}");
    }
    ensure!(bodies(&mut client, "T")?.is_empty());
    ensure!(end(&mut client, &one, 7)?.code == 1);
    ensure!(end(&mut client, &one, COMMIT)?.code == 0);
    for (half, how) in [(&one, COMMIT), (&one, ROLLBACK)] {
        ensure!(end(&mut client, half, how)?.code == 1);
    }
    ensure!(end(&mut client, &two, ROLLBACK)?.code == 0);
    ensure!(end(&mut client, &two, COMMIT)?.code == 1, "a commit after a rollback");
    ensure!(bodies(&mut client, "T")? == ["one"]);
    // "Unknown" has no answer; the connection goes on.
    client.send(code::END_TRANSACTION, &end_request(&orphan, 0, false), b"", false)?;
    ensure!(send(&mut client, "Other", 0, "", b"x")?.code == 0);
    ensure!(client.pushed.is_empty());
    Ok(())
}

#[test]
fn refused_when_the_broker_takes_no_transactions() -> Result<()> {
    let (_dir, _server, mut client) = start("rejectTransactionMessage=true\n")?;
    let answer = send(&mut client, "T", 0, &properties(""), b"x")?;
    ensure!(answer.code == 16, "{answer:?}");
    ensure!(answer.remark.is_some_and(|t| t.ends_with("sending transaction message is forbidden")));
    Ok(())
}

/// Questions until `enough`, by offset of their half message.
fn questions(
    client: &mut Client,
    mut enough: impl FnMut(&BTreeMap<i64, usize>) -> bool,
) -> Result<(BTreeMap<i64, usize>, Vec<Command>)> {
    let (mut counts, mut all) = (BTreeMap::new(), Vec::new());
    while !enough(&counts) {
        let command = client.receive()?;
        if command.code == code::CHECK_TRANSACTION_STATE && command.flag & 1 == 0 {
            let offset = command.field("tranStateTableOffset").context("offset")?.parse()?;
            *counts.entry(offset).or_default() += 1;
            all.push(command);
        }
    }
    Ok((counts, all))
}

#[test]
fn b41_every_half_message_is_asked_about_in_its_time() -> Result<()> {
    let settings = "transactionTimeOut=300\ntransactionCheckInterval=60000\n";
    let (_dir, _server, mut client) = start(settings)?;
    produce_from(&mut client, GROUP)?;
    let sent = Stopwatch::start();
    for own in ["1", "0", "-1", "abc", "999999999999"] {
        half(&mut client, &format!("CHECK_IMMUNITY_TIME_IN_SECONDS\u{1}{own}\u{2}"), b"x")?;
    }
    let (counts, asked) = questions(&mut client, |counts| counts.len() == 4)?;
    ensure!(sent.elapsed() >= Duration::from_millis(300));
    ensure!(counts.keys().eq(&[1, 2, 3, 4]), "{counts:?}");
    questions(&mut client, |counts| counts.contains_key(&0))?;
    ensure!(sent.elapsed() >= Duration::from_millis(1000), "not before its own time");
    let first = &asked[0];
    ensure!(first.field("topic") == Some("RMQ_SYS_TRANS_HALF_TOPIC") && first.flag & 2 == 2);
    ensure!(first.field("bname").is_some() && first.field("offsetMsgId").is_some());
    ensure!(first.body[..4] == [0; 4], "the size is left open");
    let mut body = first.body.clone();
    let len = body.len() as u32;
    body[..4].copy_from_slice(&len.to_be_bytes());
    let Scanned::Record(record) = record::scan(&body)? else { anyhow::bail!("a blank") };
    ensure!(record.topic() == "T" && record.body() == b"x");
    // An answer that comes unasked after the message's own time is refused, an asked one counts.
    let physical = first.field("commitLogOffset").context("offset")?.parse()?;
    let offset = first.field("tranStateTableOffset").context("offset")?.parse()?;
    let half = Half { offset, physical };
    ensure!(end(&mut client, &half, COMMIT)?.code == 604);
    let asked = end_request(&half, COMMIT, true);
    ensure!(client.call(code::END_TRANSACTION, &asked, b"")?.code == 0);
    ensure!(bodies(&mut client, "T")? == ["x"]);
    Ok(())
}

#[test]
fn an_undecided_transaction_is_parked_and_can_be_asked_about_again() -> Result<()> {
    let settings = "transactionTimeOut=100\ntransactionCheckInterval=100\ntransactionCheckMax=3\n";
    let (_dir, mut server, mut client) = start(settings)?;
    produce_from(&mut client, GROUP)?;
    half(&mut client, "", b"lost")?;
    questions(&mut client, |counts| counts.get(&0) == Some(&2))?;
    // A restart does not forget how often it was asked.
    server.stop()?;
    server.restart()?;
    let mut client = server.connect()?;
    produce_from(&mut client, GROUP)?;
    let waited = Stopwatch::start();
    while bodies(&mut client, PARKED).unwrap_or_default().is_empty() {
        ensure!(waited.elapsed() < testkit::PATIENCE, "never parked");
        std::thread::sleep(Duration::from_millis(20));
    }
    ensure!(bodies(&mut client, PARKED)? == ["lost"] && bodies(&mut client, "T")?.is_empty());
    let asked = client.pushed.iter().filter(|c| c.code == code::CHECK_TRANSACTION_STATE).count();
    ensure!(asked <= 2, "asked {asked} times more after the restart");
    client.pushed.clear();
    let parked = pull_all(&mut client, PARKED, 0, 0)?.remove(0);
    let host = server.broker.parse()?;
    let id = wire::message_id::offset_id(host, parked.physical_offset as u64);
    let fields = [("topic", PARKED), ("msgId", id.as_str())];
    ensure!(call(&mut client, code::RESUME_CHECK_HALF_MESSAGE, &fields, b"")?.code == 0);
    let (counts, asked) = questions(&mut client, |counts| !counts.is_empty())?;
    ensure!(counts.contains_key(&1), "{counts:?}");
    let physical = asked[0].field("commitLogOffset").context("offset")?.parse()?;
    let again = end_request(&Half { offset: 1, physical }, COMMIT, true);
    ensure!(client.call(code::END_TRANSACTION, &again, b"")?.code == 0);
    ensure!(bodies(&mut client, "T")? == ["lost"]);
    Ok(())
}

#[test]
fn an_operator_sees_and_decides_open_transactions() -> Result<()> {
    let (_dir, _server, mut client) = start("")?;
    for (id, body) in [("U0", "a"), ("U1", "b"), ("U2", "c")] {
        half(&mut client, &format!("UNIQ_KEY\u{1}{id}\u{2}"), body.as_bytes())?;
    }
    let listed = call(&mut client, code::APOGEE_LIST_TRANSACTIONS, &[("from", "1")], b"")?;
    let body = Value::parse_bytes(&listed.body)?;
    ensure!(body.get("total").and_then(Value::int) == Some(3));
    let open = body.get("transactions").context("list")?.items();
    let text = |at: usize, name: &str| open[at].get(name).and_then(Value::text);
    ensure!(open.len() == 2 && text(0, "msgId").as_deref() == Some("U1"));
    ensure!(text(1, "topic").as_deref() == Some("T"));
    ensure!(text(1, "producerGroup").as_deref() == Some(GROUP));
    let mut decide = |half: &str, how: &str| {
        let fields = [("halfOffset", half), ("commitOrRollback", how)];
        call(&mut client, code::APOGEE_END_TRANSACTION, &fields, b"")
    };
    ensure!(decide("1", "8")?.code == 0 && decide("2", "12")?.code == 0);
    for (half, how) in [("1", "8"), ("0", "0"), ("9", "8")] {
        ensure!(decide(half, how)?.code == 1, "{half} {how}");
    }
    ensure!(bodies(&mut client, "T")? == ["b"]);
    Ok(())
}

/// Random ends, some of them never answered, through kills: each committed message is there once,
/// no rolled back one is, and the undecided ones still can be decided.
#[test]
fn each_transaction_ends_exactly_one_way_through_kills() -> Result<()> {
    let seed = std::process::id() as u64 ^ 0x9E37_79B9;
    println!("seed {seed}");
    let mut random = seed;
    let mut next = move || {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        random >> 33
    };
    let (_dir, mut server, mut client) = start("transactionTimeOut=600000\n")?;
    let mut committed = Vec::new();
    let mut unsure: Vec<(String, Half, i32)> = Vec::new();
    for cycle in 0..6 {
        let mut open = Vec::new();
        for number in 0..200 {
            let body = format!("{cycle}-{number}");
            open.push((half(&mut client, "", body.as_bytes())?, body));
        }
        for (half, body) in open.drain(..100) {
            let how = if next() % 2 == 0 { COMMIT } else { ROLLBACK };
            ensure!(end(&mut client, &half, how)?.code == 0);
            if how == COMMIT {
                committed.push(body);
            }
        }
        for (half, body) in open.drain(..) {
            let how = if next() % 2 == 0 { COMMIT } else { ROLLBACK };
            client.send(code::END_TRANSACTION, &end_request(&half, how, false), b"", true)?;
            unsure.push((body, half, how));
        }
        std::thread::sleep(Duration::from_micros(next() % 3000));
        server.kill()?;
        server.restart()?;
        client = server.connect()?;
        for (body, half, how) in unsure.drain(..) {
            // Either it was ended before the kill, or it is ended now.
            end(&mut client, &half, how)?;
            if how == COMMIT {
                committed.push(body);
            }
        }
    }
    let mut found = bodies(&mut client, "T")?;
    found.sort();
    committed.sort();
    ensure!(found == committed, "{} found, {} committed", found.len(), committed.len());
    Ok(())
}

#[test]
fn a_thousand_open_transactions_survive_a_kill() -> Result<()> {
    let (_dir, mut server, mut client) = start("transactionTimeOut=1500\n")?;
    let opaques: Vec<i32> = (0..1000)
        .map(|n| {
            let body = n.to_string();
            let text = properties("");
            let fields = send_to("T", 0, &text);
            client.send(code::SEND_MESSAGE_V2, &fields, body.as_bytes(), false)
        })
        .collect::<Result<_, _>>()?;
    for opaque in opaques {
        ensure!(client.answer(opaque)?.code == 0);
    }
    server.kill()?;
    server.restart()?;
    let mut client = server.connect()?;
    produce_from(&mut client, GROUP)?;
    let (counts, asked) = questions(&mut client, |counts| counts.len() == 1000)?;
    ensure!(counts.values().all(|count| *count == 1), "each is asked about once");
    for question in &asked {
        let offset = question.field("tranStateTableOffset").context("offset")?.parse()?;
        let physical = question.field("commitLogOffset").context("offset")?.parse()?;
        let request = end_request(&Half { offset, physical }, COMMIT, true);
        client.send(code::END_TRANSACTION, &request, b"", true)?;
    }
    let mut found = bodies(&mut client, "T")?;
    found.sort_by_key(|body| body.parse::<u32>().unwrap_or(u32::MAX));
    ensure!(found == (0..1000).map(|n| n.to_string()).collect::<Vec<_>>());
    Ok(())
}
