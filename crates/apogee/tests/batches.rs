//! Batches over the wire: one record for all of one in topics with `queue.type=BatchCQ`, what is
//! refused, and what a kill or lost queues leave.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use net::client::{Client, Command};
use testkit::{Server, TempDir, call, create_topic, messages, pull_all, pull_from, send, send_to};
use wire::codes::request as code;
use wire::properties;
use wire::record::{self, INNER_BATCH, NEED_UNWRAP, encode_batch_entry};
use wire::requests::SendMessage;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");
const ILLEGAL: &str = "the message is illegal, maybe msg body or properties length not matched. \
                       msg body length limit 4194304B, msg properties length limit 32KB.";

/// A server with the ordinary topic `T` and the BatchCQ topic `B`, one queue each.
fn start() -> Result<(TempDir, Server, Client)> {
    let dir = TempDir::new("batches")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let mut client = server.connect()?;
    create_topic(&mut client, "T", 1)?;
    let fields = [
        ("topic", "B"),
        ("defaultTopic", "TBW102"),
        ("readQueueNums", "1"),
        ("writeQueueNums", "1"),
        ("perm", "6"),
        ("topicFilterType", "SINGLE_TAG"),
        ("topicSysFlag", "0"),
        ("order", "false"),
        ("attributes", "+queue.type=BatchCQ"),
    ];
    let made = call(&mut client, code::UPDATE_AND_CREATE_TOPIC, &fields, b"")?;
    ensure!(made.code == 0, "{:?}", made.remark);
    Ok((dir, server, client))
}

fn body_of(count: usize) -> Vec<u8> {
    let mut body = Vec::new();
    for n in 0..count {
        encode_batch_entry(0, &[n as u8], &format!("UNIQ_KEY\u{1}U{n}\u{2}"), &mut body);
    }
    body
}

fn batch(client: &mut Client, topic: &str, text: &str, flag: i32, body: &[u8]) -> Result<Command> {
    let fields = SendMessage { batch: true, sys_flag: flag, ..send_to(topic, 0, text) };
    Ok(client.call(code::SEND_BATCH_MESSAGE, &fields, body)?)
}

fn single(client: &mut Client, topic: &str, text: &str, flag: i32, body: &[u8]) -> Result<Command> {
    let fields = SendMessage { sys_flag: flag, ..send_to(topic, 0, text) };
    Ok(client.call(code::SEND_MESSAGE_V2, &fields, body)?)
}

fn offset(answer: &Command) -> Result<i64> {
    ensure!(answer.code == 0, "{}: {:?}", answer.code, answer.remark);
    Ok(answer.field("queueOffset").context("no offset")?.parse()?)
}

#[test]
fn a_batch_is_one_record_and_answered_as_one() -> Result<()> {
    let (_dir, _server, mut client) = start()?;
    ensure!(offset(&send(&mut client, "B", 0, "", b"before")?)? == 0);
    let sent = batch(&mut client, "B", "UNIQ_KEY\u{1}ALL\u{2}WAIT\u{1}true\u{2}", 0, &body_of(10))?;
    ensure!(offset(&sent)? == 1);
    ensure!(sent.field("batchUniqId") == Some("ALL") && sent.field("transactionId") == Some("ALL"));
    ensure!(sent.field("msgId").is_some_and(|id| id.len() == 32));
    ensure!(offset(&send(&mut client, "B", 0, "", b"after")?)? == 11);
    // T-8.29: from inside of the batch on, the whole of it.
    let got = client.call(code::PULL_MESSAGE, &pull_from("B", 0, 5), b"")?;
    ensure!(got.field("nextBeginOffset") == Some("12") && got.field("maxOffset") == Some("12"));
    let records: Vec<_> = record::records(&got.body).collect::<Result<_, _>>()?;
    ensure!(records.len() == 2 && records[0].queue_offset() == 1 && records[0].body().len() > 200);
    ensure!(records[0].sys_flag() == INNER_BATCH | NEED_UNWRAP && records[1].sys_flag() == 0);
    let text = records[0].properties();
    for (name, value) in [
        ("INNER_NUM", "10"),
        ("INNER_BASE", "1"),
        ("UNIQ_KEY", "ALL"),
        ("WAIT", "true"),
        ("CLUSTER", "DefaultCluster"),
        ("MSG_REGION", "DefaultRegion"),
        ("TRACE_ON", "true"),
    ] {
        ensure!(properties::get(text, name) == Some(value), "{name} in {text}");
    }
    ensure!(properties::pairs(text).count() == 7, "{text}");
    ensure!(properties::get(records[1].properties(), "INNER_BASE").is_none());
    Ok(())
}

#[test]
fn without_a_name_of_its_own_a_batch_is_stored_message_by_message() -> Result<()> {
    let (_dir, _server, mut client) = start()?;
    for (topic, text) in [("B", ""), ("T", ""), ("T", "UNIQ_KEY\u{1}ALL\u{2}")] {
        let first = offset(&batch(&mut client, topic, text, 0, &body_of(3))?)?;
        let got = pull_all(&mut client, topic, 0, first)?;
        let offsets: Vec<_> = got.iter().map(|message| message.offset - first).collect();
        ensure!(offsets == [0, 1, 2], "{topic}: {offsets:?}");
        ensure!(got[2].properties == "UNIQ_KEY\u{1}U2\u{2}" && got[2].body == [2]);
    }
    let sent = batch(&mut client, "T", "UNIQ_KEY\u{1}ALL\u{2}", 0, &body_of(2))?;
    ensure!(sent.field("batchUniqId").is_none() && sent.field("transactionId") == Some("ALL"));
    ensure!(sent.field("msgId").is_some_and(|ids| ids.split(',').count() == 2));
    Ok(())
}

#[test]
fn what_says_of_itself_that_it_is_a_batch_must_be_one() -> Result<()> {
    let (_dir, _server, mut client) = start()?;
    let (named, two) = ("UNIQ_KEY\u{1}ALL\u{2}", "INNER_NUM\u{1}2\u{2}");
    let delayed = "UNIQ_KEY\u{1}ALL\u{2}DELAY\u{1}1\u{2}";
    let body = body_of(2);
    let many = body_of(40_000);
    let refused = [
        single(&mut client, "T", "", INNER_BATCH, &body)?,
        single(&mut client, "T", two, INNER_BATCH | NEED_UNWRAP, &body)?,
        single(&mut client, "T", two, 0, &body)?,
        single(&mut client, "B", two, 0, &body)?,
        single(&mut client, "B", "", INNER_BATCH, &body)?,
        single(&mut client, "B", two, INNER_BATCH, &body_of(3))?,
        batch(&mut client, "T", "", INNER_BATCH, &body)?,
        batch(&mut client, "T", two, 0, &body)?,
        batch(&mut client, "B", delayed, 0, &body)?,
        batch(&mut client, "B", named, 0, &many)?,
    ];
    for (number, answer) in refused.iter().enumerate() {
        let said = (answer.code, answer.remark.as_deref());
        ensure!(said == (13, Some(ILLEGAL)), "{number}: {said:?}");
    }
    for topic in ["T", "B"] {
        ensure!(pull_all(&mut client, topic, 0, 0)?.is_empty(), "{topic}");
    }
    // Ready made, as the original takes it.
    let made = single(&mut client, "B", two, INNER_BATCH | NEED_UNWRAP, &body)?;
    ensure!(offset(&made)? == 0 && made.field("batchUniqId").is_none());
    ensure!(offset(&send(&mut client, "B", 0, "", b"next")?)? == 2);
    Ok(())
}

#[test]
fn one_of_a_batch_cannot_be_given_back_by_the_broker() -> Result<()> {
    let (_dir, _server, mut client) = start()?;
    offset(&batch(&mut client, "B", "UNIQ_KEY\u{1}ALL\u{2}", 0, &body_of(2))?)?;
    let stored = pull_all(&mut client, "B", 0, 0)?;
    let physical = stored[0].physical_offset.to_string();
    let fields = [("group", "g"), ("offset", physical.as_str()), ("delayLevel", "0")];
    let back = call(&mut client, code::CONSUMER_SEND_MSG_BACK, &fields, b"")?;
    ensure!(back.code == 1 && back.remark.as_deref() == Some("MESSAGE_ILLEGAL"), "{back:?}");
    Ok(())
}

#[test]
fn a_delayed_message_reaches_a_batch_queue() -> Result<()> {
    let (_dir, _server, mut client) = start()?;
    offset(&batch(&mut client, "B", "UNIQ_KEY\u{1}ALL\u{2}", 0, &body_of(4))?)?;
    ensure!(send(&mut client, "B", 0, "DELAY\u{1}1\u{2}", b"late")?.code == 0);
    for _ in 0..100 {
        std::thread::sleep(Duration::from_millis(50));
        if let [message] = &pull_all(&mut client, "B", 0, 4)?[..] {
            ensure!(message.offset == 4 && message.body == b"late");
            return Ok(());
        }
    }
    anyhow::bail!("never delivered")
}

#[test]
fn batches_outlive_a_kill_and_the_loss_of_their_queues() -> Result<()> {
    let (dir, mut server, mut client) = start()?;
    let mut sent = 0;
    for round in 0..4 {
        for count in [1, 7, 3] {
            let named = format!("UNIQ_KEY\u{1}ALL{sent}\u{2}");
            ensure!(offset(&batch(&mut client, "B", &named, 0, &body_of(count))?)? == sent);
            sent += count as i64;
            ensure!(offset(&send(&mut client, "B", 0, "", b"one")?)? == sent);
            sent += 1;
            send(&mut client, "T", 0, "", b"ordinary")?;
        }
        if round == 1 {
            server.stop()?
        } else {
            server.kill()?
        }
        if round == 2 {
            // Also with a mark that says how far the queues are on disk.
            for entry in walk(dir.path(), "batchconsumequeue")? {
                std::fs::remove_dir_all(entry)?;
            }
        }
        server.restart()?;
        client = server.connect()?;
        let got = client.call(code::PULL_MESSAGE, &pull_from("B", 0, 0), b"")?;
        ensure!(got.field("maxOffset") == Some(&sent.to_string()[..]), "round {round}");
        let all = pull_all(&mut client, "B", 0, 0)?;
        ensure!(all.len() == 6 * (round + 1) && all[0].offset == 0, "round {round}");
        ensure!(messages(&got.body)[0] == all[0]);
        ensure!(pull_all(&mut client, "T", 0, 0)?.len() == 3 * (round + 1));
    }
    Ok(())
}

/// Directories of a name below another.
fn walk(dir: &std::path::Path, name: &str) -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() && path.ends_with(name) {
                found.push(path);
            } else if path.is_dir() {
                open.push(path);
            }
        }
    }
    ensure!(!found.is_empty(), "no {name}");
    Ok(found)
}
