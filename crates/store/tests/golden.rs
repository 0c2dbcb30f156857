//! Stores that a Java 5.5.0 broker wrote, against what the same broker reads in them.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use base::clock::Clock;
use common::*;
use serde_json::Value;
use store::{Edge, Store, StoreConfig};
use wire::message_id::offset_id;
use wire::properties;
use wire::record::{self, INNER_BATCH, Record, Scanned};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/store").join(name)
}

fn manifest(name: &str) -> Value {
    let text = std::fs::read_to_string(golden(name).join("manifest.json")).expect("manifest");
    serde_json::from_str(&text).expect("json")
}

fn unpack(name: &str, dir: &Path) -> PathBuf {
    let archive = golden(name).join("store.tar.gz");
    let done = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(dir).status();
    assert!(done.expect("tar").success());
    dir.join("store")
}

fn config(root: &Path, manifest: &Value) -> StoreConfig {
    let conf: BTreeMap<_, u64> = manifest["conf"]
        .as_array()
        .expect("conf")
        .iter()
        .filter_map(|line| line.as_str()?.split_once('='))
        .filter_map(|(key, value)| Some((key, value.parse().ok()?)))
        .collect();
    StoreConfig {
        commit_log_file_size: conf["mappedFileSizeCommitLog"],
        consume_queue_file_size: conf["mappedFileSizeConsumeQueue"],
        max_index_slots: conf["maxHashSlotNum"] as u32,
        max_index_entries: conf["maxIndexNum"] as u32,
        file_reserved_hours: 876_000,
        batch_topics: ["GoldenBatchCq".to_owned()].into(),
        ..StoreConfig::new(root)
    }
}

fn number(value: &Value) -> i64 {
    value.as_i64().expect("number")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Compares one stored record with one message of the manifest.
fn compare(record: &Record<'_>, wanted: &Value) {
    assert_eq!(record.queue_offset(), number(&wanted["offset"]));
    assert_eq!(record.physical_offset(), number(&wanted["physical"]));
    assert_eq!(record.total_len() as i64, number(&wanted["storeSize"]));
    assert_eq!(i64::from(record.body_crc()), number(&wanted["bodyCrc"]));
    // Java's reader clears the bit when it decompresses.
    assert_eq!(i64::from(record.sys_flag() & !1), number(&wanted["sysFlag"]) & !1);
    assert_eq!(record.store_timestamp(), number(&wanted["store"]));
    assert_eq!(i64::from(record.flag()), number(&wanted["flag"]));
    assert_eq!(i64::from(record.reconsume_times()), number(&wanted["reconsumeTimes"]));
    assert_eq!(record.prepared_offset(), number(&wanted["preparedOffset"]));
    assert_eq!(record.born_timestamp(), number(&wanted["born"]));
    assert_eq!(record.born_host().to_string(), text(&wanted["bornHost"]));
    assert_eq!(record.store_host().to_string(), text(&wanted["storeHost"]));
    let id = offset_id(record.store_host(), record.physical_offset() as u64);
    assert_eq!(id, text(&wanted["offsetMsgId"]));
    let found: BTreeMap<_, _> = properties::pairs(record.properties()).collect();
    let wanted: BTreeMap<_, _> = wanted["properties"]
        .as_object()
        .expect("properties")
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str().expect("text")))
        .collect();
    assert_eq!(found, wanted);
}

/// Everything in the manifest is in the store, with the same bounds, and nothing else is.
fn check(store: &Store, manifest: &Value) {
    let topics = manifest["topics"].as_object().expect("topics");
    let mut messages = 0;
    for (topic, wanted) in topics {
        for wanted in wanted["queues"].as_array().expect("queues") {
            let id = number(&wanted["queue"]) as i32;
            let queue = store.queue(topic, id).unwrap_or_else(|| panic!("no {topic} {id}"));
            let bounds = (queue.min_offset(), queue.max_offset(store));
            assert_eq!(bounds, (number(&wanted["min"]), number(&wanted["max"])), "{topic} {id}");
            let wanted = wanted["messages"].as_array().expect("messages");
            let mut from = bounds.0;
            let mut out = Vec::new();
            while from < bounds.1 {
                let (fetch, bytes) = fetch(store, &queue, from, 7);
                out.extend_from_slice(&bytes);
                from = fetch.next;
            }
            let found: Vec<_> = record::records(&out).map(|r| r.expect("record")).collect();
            messages += wanted.len();
            if found.first().is_some_and(|record| record.sys_flag() & INNER_BATCH != 0) {
                check_batches(store, &queue, &found, wanted);
                continue;
            }
            assert_eq!(found.len(), wanted.len(), "{topic} {id}");
            for (record, wanted) in found.iter().zip(wanted) {
                assert!(record.check_crc().is_ok());
                compare(record, wanted);
                check_lookups(store, &queue, record);
            }
        }
    }
    let counted: i64 = manifest["counts"].as_object().expect("counts").values().map(number).sum();
    assert_eq!(messages as i64, counted);
    for (topic, ids) in store.topics() {
        for id in ids {
            let queue = store.queue(&topic, id).expect("queue");
            assert!(queue.max_offset(store) == 0 || topics.contains_key(&topic), "{topic} {id}");
        }
    }
}

/// By physical offset, by time and by key the record is found too.
fn check_lookups(store: &Store, queue: &store::Queue, record: &Record<'_>) {
    let offset = record.queue_offset();
    assert_eq!(at(store, record.physical_offset()).map(|found| found.1), Some(offset));
    let time = record.store_timestamp();
    assert!(store.offset_by_time(queue, time, Edge::Lower) <= offset);
    assert!(store.offset_by_time(queue, time, Edge::Upper) >= offset);
    if let Some(key) = properties::get(record.properties(), properties::UNIQ_KEY) {
        let hits = store.query_index(record.topic(), key, 64, time - 1, time + 1);
        assert!(hits.contains(&record.physical_offset()), "{key} of {}", record.topic());
    }
}

/// Inner batches: the records cover the queue without a gap.
fn check_batches(store: &Store, queue: &store::Queue, found: &[Record<'_>], wanted: &[Value]) {
    let number_of = |record: &Record<'_>, name| {
        properties::get(record.properties(), name).and_then(|v| v.parse::<i64>().ok())
    };
    let mut next = queue.min_offset();
    for record in found {
        assert_eq!(number_of(record, properties::INNER_BASE), Some(next));
        next += number_of(record, properties::INNER_NUM).expect("count");
        let of_record = |w: &&Value| number(&w["physical"]) == record.physical_offset();
        let wanted: Vec<_> = wanted.iter().filter(of_record).collect();
        let inner: Vec<_> =
            record::batch_entries(record.body()).map(|e| e.expect("entry")).collect();
        assert_eq!(wanted.len() as i64, number_of(record, properties::INNER_NUM).expect("count"));
        assert_eq!(wanted.len(), inner.len());
        for (entry, wanted) in inner.iter().zip(wanted) {
            assert_eq!(entry.body.len() as i64, number(&wanted["bodyLen"]));
            let id = properties::get(entry.properties, properties::UNIQ_KEY);
            assert_eq!(id, Some(text(&wanted["uniq"])));
        }
        // From inside of the range the whole record comes.
        let (one, _) = fetch(store, queue, next - 1, 1);
        let messages = number_of(record, properties::INNER_NUM).expect("count") as usize;
        assert_eq!((one.messages, one.next), (messages, next));
    }
    assert_eq!(next, queue.max_offset(store));
}

/// Opens a store, checks it; again after a clean stop, a crash, and without derived files.
fn opens(name: &str) {
    let dir = TempDir::new("golden");
    let manifest = manifest(name);
    let root = unpack(name, dir.path());
    let clock = Clock::manual(1_795_600_000_000);
    let config = config(&root, &manifest);
    for round in 0..4 {
        let store = open(config.clone(), &clock);
        check(&store, &manifest);
        if round == 1 {
            store.close().expect("close")
        } else {
            store.abandon()
        }
        if round == 2 {
            for name in ["consumequeue", "batchconsumequeue"] {
                let _ = std::fs::remove_dir_all(root.join(name));
            }
        }
    }
}

#[test]
fn clean_store_reads_as_java_reads_it() {
    opens("clean-5.5.0");
}

#[test]
fn killed_store_has_every_acknowledged_send() {
    opens("killed-5.5.0");
    let acknowledged = &manifest("killed-5.5.0")["acknowledged"];
    assert_eq!(
        (number(&acknowledged["found"]), acknowledged["lost"].as_array().expect("lost").len()),
        (1694, 0)
    );
}

#[test]
fn torn_store_loses_exactly_the_cut_record() {
    opens("torn-5.5.0");
    let lost = &manifest("torn-5.5.0")["acknowledged"]["lost"];
    let lost = lost.as_array().expect("lost");
    assert_eq!(
        (lost.len(), &lost[0]["topic"], number(&lost[0]["offset"])),
        (1, &Value::from("FloodNormal"), 338)
    );
}

#[test]
fn an_unchanged_clean_store_keeps_its_bytes() {
    let dir = TempDir::new("bytes");
    let manifest = manifest("clean-5.5.0");
    let root = unpack("clean-5.5.0", dir.path());
    let read = |name: &str| {
        let mut files = BTreeMap::new();
        let mut dirs = vec![root.join(name)];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).expect("dir") {
                let path = entry.expect("entry").path();
                if path.is_dir() {
                    dirs.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(&path).expect("file"));
                }
            }
        }
        files
    };
    let before: Vec<_> =
        ["commitlog", "consumequeue", "batchconsumequeue", "index"].map(read).into();
    open(config(&root, &manifest), &Clock::manual(1_795_600_000_000)).close().expect("close");
    let after: Vec<_> =
        ["commitlog", "consumequeue", "batchconsumequeue", "index"].map(read).into();
    for (before, after) in before.iter().zip(&after) {
        for (path, bytes) in before {
            match after.get(path) {
                Some(now) => assert!(now == bytes, "{} changed", path.display()),
                None => assert!(bytes.iter().all(|b| *b == 0), "{} went", path.display()),
            }
        }
    }
    let Ok(Scanned::Record(_)) = record::scan(&before[0].values().next().expect("file")[..]) else {
        panic!("no record at the start")
    };
}
