//! What the store's integration tests share.
#![allow(dead_code, unreachable_pub)] // every test file uses its own part

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use base::clock::Clock;
use store::{
    AppendRefused, Appended, At, Entry, Fetch, FlushMode, Queue, ReadLimit, Store, StoreConfig,
    Wait,
};
use wire::properties::Known;
use wire::record::{self, NewRecord, Scanned};
use wire::text::crc31;

pub mod workload;

/// A directory that is removed with the value.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new(name: &str) -> TempDir {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir =
            std::env::temp_dir().join(format!("apogee-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("temp dir");
        TempDir(dir)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Small files, so that everything rolls over soon.
pub fn small(root: &Path) -> StoreConfig {
    StoreConfig {
        commit_log_file_size: 16 << 10,
        consume_queue_file_size: 400,
        ring_bytes: 4 << 10,
        max_index_slots: 50,
        max_index_entries: 100,
        file_reserved_hours: -1,
        ..StoreConfig::new(root)
    }
}

pub fn open(config: StoreConfig, clock: &Clock) -> Arc<Store> {
    Store::open(config, clock.clone()).expect("open")
}

pub fn record<'a>(queue: &'a Queue, body: &'a [u8], properties: &'a str) -> NewRecord<'a> {
    NewRecord {
        topic: queue.topic(),
        queue_id: queue.id(),
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "10.0.0.1:5".parse().expect("host"),
        store_host: "127.0.0.1:10911".parse().expect("host"),
        reconsume_times: 0,
        prepared_offset: 0,
        body,
        body_crc: crc31(body),
        properties,
    }
}

pub fn append(
    store: &Store,
    queue: &Arc<Queue>,
    body: &[u8],
    properties: &str,
) -> Result<Appended, AppendRefused> {
    store.append(queue, &record(queue, body, properties), &Known::scan(properties))
}

/// Appends and commits one message.
pub fn send(store: &Store, topic: &str, id: i32, body: &[u8], properties: &str) -> Appended {
    let queue = store.queue_or_create(topic, id);
    let appended = append(store, &queue, body, properties).expect("append");
    store.commit().expect("commit");
    appended
}

pub fn fetch(store: &Store, queue: &Queue, from: i64, max_messages: usize) -> (Fetch, Vec<u8>) {
    let mut out = Vec::new();
    let limit = ReadLimit { max_messages, max_bytes: 1 << 20 };
    let mut any = |_: &Entry| true;
    let fetch = store.get(queue, from, limit, Wait::MayBlock, &mut any, &mut out);
    (fetch, out)
}

/// Queue offsets and bodies of everything in a queue.
pub fn contents(store: &Store, queue: &Queue) -> Vec<(i64, Vec<u8>)> {
    let mut all = Vec::new();
    let mut from = queue.min_offset();
    while from < queue.max_offset(store) {
        let (fetch, out) = fetch(store, queue, from, 32);
        assert!(fetch.next > from, "no progress at {from}: {fetch:?}");
        for record in record::records(&out) {
            let record = record.expect("record");
            record.check_crc().expect("crc");
            assert_eq!((record.topic(), record.queue_id()), (queue.topic(), queue.id()));
            all.push((record.queue_offset(), record.body().to_vec()));
        }
        from = fetch.next;
    }
    all
}

/// The record at a physical offset, as (topic, queue offset, body).
pub fn at(store: &Store, physical: i64) -> Option<(String, i64, Vec<u8>)> {
    let mut out = Vec::new();
    match store.at(physical, Wait::MayBlock, &mut out) {
        At::Found => match record::scan(&out) {
            Ok(Scanned::Record(r)) => {
                Some((r.topic().to_string(), r.queue_offset(), r.body().to_vec()))
            }
            _ => panic!("not a record"),
        },
        _ => None,
    }
}

pub fn sync_mode(config: StoreConfig) -> StoreConfig {
    StoreConfig { flush: FlushMode::Sync, ..config }
}

/// Waits until everything appended is readable.
pub fn settled(store: &Store) {
    for _ in 0..5000 {
        let marks = store.watermarks();
        if marks.readable == marks.appended {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    panic!("never readable: {:?}", store.watermarks());
}
