//! The bytes of a batch queue and of its records, against those of RocketMQ 5.5.0 in
//! `batch-cq/store.hex` (made by `batch-cq/make.sh`): one message, a batch of two, one message.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::{Path, PathBuf};

use base::clock::Clock;
use common::*;
use store::StoreConfig;
use wire::properties::{self, INNER_BASE, INNER_NUM, Known};
use wire::record::{self, INNER_BATCH, NewRecord, Record};

/// The log and the queue of the recording.
fn recorded() -> (Vec<u8>, Vec<u8>) {
    let text = include_str!("batch-cq/store.hex");
    let (log, queue) = text.split_once("log\n").unwrap().1.split_once("queue\n").unwrap();
    let bytes = |text: &str| -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        let byte = |pair: &[char]| u8::from_str_radix(&pair.iter().collect::<String>(), 16);
        digits.chunks(2).map(|pair| byte(pair).expect("digits")).collect()
    };
    (bytes(log), bytes(queue))
}

fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        batch_queue_file_size: 460,
        batch_topics: ["Cq".to_owned()].into(),
        ..small(root)
    }
}

fn log_file(root: &Path) -> PathBuf {
    root.join("commitlog").join(format!("{:020}", 0))
}

fn queue_file(root: &Path) -> PathBuf {
    root.join("batchconsumequeue/Cq/0").join(format!("{:020}", 0))
}

/// What a sender would have given for a stored record.
fn sent<'a>(record: &Record<'a>, properties: &'a str) -> NewRecord<'a> {
    NewRecord {
        topic: record.topic(),
        queue_id: record.queue_id(),
        flag: record.flag(),
        sys_flag: record.sys_flag(),
        born_timestamp: record.born_timestamp(),
        born_host: record.born_host(),
        store_host: record.store_host(),
        reconsume_times: record.reconsume_times(),
        prepared_offset: record.prepared_offset(),
        body: record.body(),
        body_crc: record.body_crc(),
        properties,
    }
}

#[test]
fn the_same_messages_become_the_same_bytes() {
    let (log, wanted) = recorded();
    let dir = TempDir::new("batch-bytes");
    let clock = Clock::manual(0);
    let store = open(config(dir.path()), &clock);
    let queue = store.batch_queue_or_create("Cq", 0);
    for record in record::records(&log) {
        let record = record.expect("record");
        clock.advance(record.store_timestamp() - clock.now_ms());
        let text = properties::without(record.properties(), &[INNER_BASE]);
        let (new, known) = (sent(&record, &text), Known::scan(&text));
        if record.sys_flag() & INNER_BATCH == 0 {
            store.append(&queue, &new, &known).expect("append");
        } else {
            let count = properties::get(&text, INNER_NUM).unwrap().parse().unwrap();
            store.append_inner_batch(&queue, &new, &known, count).expect("append");
        }
    }
    store.close().expect("close");
    let written = std::fs::read(log_file(dir.path())).unwrap();
    assert!(written[..log.len()] == log, "the log differs");
    let written = std::fs::read(queue_file(dir.path())).unwrap();
    assert_eq!(written[..wanted.len()], wanted);
    assert!(written[wanted.len()..].iter().all(|byte| *byte == 0));
}

#[test]
fn the_queue_is_made_again_from_the_log_alone() {
    let (log, wanted) = recorded();
    let dir = TempDir::new("batch-rebuild");
    std::fs::create_dir_all(dir.path().join("commitlog")).unwrap();
    let mut file = log;
    file.resize(16 << 10, 0);
    std::fs::write(log_file(dir.path()), file).unwrap();
    let store = open(config(dir.path()), &Clock::system());
    let queue = store.queue("Cq", 0).expect("queue");
    assert!(queue.is_batch());
    assert_eq!((queue.min_offset(), queue.max_offset(&store)), (0, 4));
    let (all, _) = fetch(&store, &queue, 2, 32);
    assert_eq!((all.messages, all.next), (3, 4));
    store.close().expect("close");
    assert_eq!(std::fs::read(queue_file(dir.path())).unwrap()[..wanted.len()], wanted);
}
