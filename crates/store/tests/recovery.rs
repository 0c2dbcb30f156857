//! What survives crashes, damage and meddling with the files.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

use base::clock::Clock;
use common::*;
use store::{FetchStatus, OpenError, Store, StoreConfig};

const T0: i64 = 1_700_000_000_000;

fn write(path: &Path, at: u64, bytes: &[u8]) {
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
}

fn log_file(root: &Path, start: i64) -> std::path::PathBuf {
    root.join("commitlog").join(format!("{start:020}"))
}

/// Sends `count` messages over three queues; the number of bytes varies.
fn fill(store: &Store, count: usize) {
    for n in 0..count {
        let body = vec![n as u8; n % 300 + 1];
        let properties = format!("TAGS\u{1}t{}\u{2}KEYS\u{1}k{n} both\u{2}", n % 3);
        send(store, "T", (n % 3) as i32, &body, &properties);
    }
}

/// All contents and bounds, and some index answers.
type Picture = Vec<(String, i32, i64, i64, Vec<(i64, Vec<u8>)>)>;

fn picture(store: &Store) -> Picture {
    let mut all = Vec::new();
    for (topic, ids) in store.topics() {
        for id in ids {
            let queue = store.queue(&topic, id).unwrap();
            let (min, max) = (queue.min_offset(), queue.max_offset(store));
            assert_eq!(queue.next_offset(), max);
            all.push((topic.clone(), id, min, max, contents(store, &queue)));
        }
    }
    all
}

fn hits(store: &Store, key: &str) -> usize {
    store.query_index("T", key, 1000, 0, i64::MAX).len()
}

/// Fills a store, ends it, lets `change` meddle with its files, and opens it again.
fn survives(name: &str, clean: bool, change: impl Fn(&Path)) {
    let dir = TempDir::new(name);
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    fill(&store, 400);
    let before = picture(&store);
    if clean {
        store.close().unwrap()
    } else {
        store.abandon()
    }
    change(dir.path());
    let store = open(small(dir.path()), &clock);
    assert_eq!(picture(&store), before, "{name}");
    assert_eq!((hits(&store, "k399"), hits(&store, "k7"), hits(&store, "both")), (1, 1, 400));
    // And the numbering goes on.
    assert_eq!(send(&store, "T", 0, b"next", "").place.queue_offset, 134);
    store.close().unwrap();
    let store = open(small(dir.path()), &clock);
    assert_eq!(store.queue("T", 0).unwrap().next_offset(), 135);
    store.close().unwrap();
    assert!(!dir.path().join("abort").exists());
}

#[test]
fn restarts_and_lost_files_change_nothing() {
    let remove = |name: &'static str| {
        move |root: &Path| {
            let path = root.join(name);
            if path.is_dir() {
                fs::remove_dir_all(path).unwrap();
            } else {
                let _ = fs::remove_file(path); // a kill may come before the first checkpoint
            }
        }
    };
    for clean in [true, false] {
        survives("plain", clean, |_| {});
        survives("no-queues", clean, remove("consumequeue"));
        survives("no-checkpoint", clean, remove("checkpoint"));
        survives("no-derived", clean, |root| {
            for name in ["consumequeue", "index", "checkpoint"] {
                let _ = fs::remove_dir_all(root.join(name));
                let _ = fs::remove_file(root.join(name));
            }
        });
        survives("no-index", clean, |root| {
            let _ = fs::remove_dir_all(root.join("index"));
        });
    }
}

#[test]
fn garbage_behind_the_end_is_not_a_record() {
    let dir = TempDir::new("garbage");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    fill(&store, 10);
    let before = picture(&store);
    let end = store.watermarks().appended;
    store.abandon();
    let copy = fs::read(log_file(dir.path(), 0)).unwrap();
    // A whole record that belongs elsewhere, and rubbish.
    for garbage in [&copy[..end as usize], &[0xAB; 5000]] {
        write(&log_file(dir.path(), 0), end as u64, garbage);
        let store = open(small(dir.path()), &clock);
        assert_eq!((picture(&store), store.watermarks().appended), (before.clone(), end));
        store.abandon();
        let tail = fs::read(log_file(dir.path(), 0)).unwrap();
        assert!(tail[end as usize..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_tail_torn_at_any_byte_costs_exactly_the_last_record() {
    let dir = TempDir::new("torn");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    fill(&store, 9);
    let before = picture(&store);
    let last = send(&store, "T", 1, b"the last one", "KEYS\u{1}last\u{2}");
    store.abandon();
    // A checkpoint would say that the record was on disk, which makes this damage, not a tear.
    let _ = fs::remove_file(dir.path().join("checkpoint"));
    let file = log_file(dir.path(), 0);
    let whole = fs::read(&file).unwrap();
    for cut in 0..last.len {
        let mut torn = whole.clone();
        torn[last.place.physical_offset as usize + cut..].fill(0);
        if torn[..last.end as usize] == whole[..last.end as usize] {
            continue; // the record ended in zeros
        }
        fs::write(&file, &torn).unwrap();
        let store = open(small(dir.path()), &clock);
        assert_eq!(picture(&store), before, "cut at {cut}");
        assert_eq!(store.watermarks().appended, last.place.physical_offset);
        let again = send(&store, "T", 1, b"again", "");
        assert_eq!(again.place, last.place);
        assert_eq!(hits(&store, "last"), 0);
        store.abandon();
        let _ = fs::remove_file(dir.path().join("checkpoint"));
    }
}

#[test]
fn old_records_behind_a_cut_never_come_back() {
    let dir = TempDir::new("stale");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    let first = send(&store, "T", 0, b"same length 1", "");
    send(&store, "T", 0, b"same length 2", "");
    send(&store, "T", 0, b"same length 3", "");
    store.abandon();
    let _ = fs::remove_file(dir.path().join("checkpoint"));
    write(&log_file(dir.path(), 0), first.end as u64 + 4, &[0xFF; 4]);
    let store = open(small(dir.path()), &clock);
    // Ends exactly where the third record, which is still right, begins.
    send(&store, "T", 0, b"same length X", "");
    store.abandon();
    let store = open(small(dir.path()), &clock);
    let queue = store.queue("T", 0).unwrap();
    let bodies: Vec<_> = contents(&store, &queue).into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies, [b"same length 1", b"same length X"]);
}

#[test]
fn a_bad_record_below_the_checkpoint_costs_only_itself() {
    let dir = TempDir::new("rot");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    fill(&store, 300);
    let middle = contents(&store, &store.queue("T", 0).unwrap())[20].1.clone();
    let (fetch, out) = fetch(&store, &store.queue("T", 0).unwrap(), 20, 1);
    assert_eq!(fetch.status, FetchStatus::Found);
    let Ok(wire::record::Scanned::Record(r)) = wire::record::scan(&out) else { panic!() };
    let (at, total) = (r.physical_offset(), r.total_len());
    assert_eq!(r.body(), middle);
    store.close().unwrap();
    let start = at - at % (16 << 10);
    write(&log_file(dir.path(), start), (at - start) as u64 + 90, &[0x55]);
    fs::remove_dir_all(dir.path().join("consumequeue")).unwrap();
    let store = open(small(dir.path()), &clock);
    let queue = store.queue("T", 0).unwrap();
    let found = contents(&store, &queue);
    assert_eq!((found.len(), queue.next_offset()), (99, 100), "{total}");
    assert!(found.iter().all(|(offset, _)| *offset != 20));
    assert!(!dir.path().join(format!("cut-{at}")).exists());
}

#[test]
fn files_of_another_size_stay_as_they_are() {
    let dir = TempDir::new("sizes");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    fill(&store, 300);
    let before = picture(&store);
    store.close().unwrap();
    let store = open(StoreConfig::new(dir.path()), &clock);
    assert_eq!(picture(&store), before);
    fill(&store, 300);
    store.close().unwrap();
    for entry in fs::read_dir(dir.path().join("commitlog")).unwrap() {
        assert_eq!(entry.unwrap().metadata().unwrap().len(), 16 << 10);
    }
    fs::File::create(log_file(dir.path(), 0)).unwrap().set_len(99).unwrap();
    let error = Store::open(small(dir.path()), clock.clone()).unwrap_err();
    assert!(
        matches!(&error, OpenError::Layout { path, .. } if path.ends_with(format!("{:020}", 0)))
    );
}

#[test]
fn an_open_store_is_locked() {
    let dir = TempDir::new("locked");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    let error = Store::open(small(dir.path()), clock.clone()).unwrap_err();
    assert!(matches!(error, OpenError::Locked { pid, .. } if pid == std::process::id() as i32));
    assert_eq!(
        fs::read_to_string(dir.path().join("abort")).unwrap(),
        std::process::id().to_string()
    );
    store.close().unwrap();
    store.close().unwrap();
    assert_eq!(
        append(&store, &store.queue_or_create("T", 0), b"", ""),
        Err(store::AppendRefused::Closed)
    );
    open(small(dir.path()), &clock).close().unwrap();
}

/// Field case B07: delete, create again, send one, restart.
#[test]
fn b07_a_deleted_topic_stays_deleted() {
    for clean in [true, false] {
        for recreated in [true, false] {
            let dir = TempDir::new("b07");
            let clock = Clock::manual(T0);
            let store = open(small(dir.path()), &clock);
            fill(&store, 60);
            send(&store, "Other", 0, b"stays", "");
            let old = store.queue("T", 0).unwrap();
            store.delete_topic("T").unwrap();
            assert!(store.queue("T", 0).is_none() && !dir.path().join("consumequeue/T").exists());
            assert_eq!(append(&store, &old, b"", ""), Err(store::AppendRefused::QueueDeleted));
            if recreated {
                assert_eq!(send(&store, "T", 0, b"new", "").place.queue_offset, 0);
            }
            if clean {
                store.close().unwrap()
            } else {
                store.abandon()
            }
            for _ in 0..2 {
                let store = open(small(dir.path()), &clock);
                assert_eq!(contents(&store, &store.queue("Other", 0).unwrap()).len(), 1);
                if recreated {
                    let queue = store.queue("T", 0).unwrap();
                    assert_eq!((queue.min_offset(), queue.max_offset(&store)), (0, 1));
                    assert_eq!(contents(&store, &queue), [(0, b"new".to_vec())]);
                } else {
                    assert!(store.queue("T", 0).is_none());
                }
                // Once more with everything rebuilt.
                store.abandon();
                let _ = fs::remove_dir_all(dir.path().join("consumequeue"));
            }
        }
    }
}

/// After a kill a Java broker brings the queue of a deleted topic back, and may add to it.
#[test]
fn what_a_java_broker_added_to_a_topic_that_it_brought_back_stays() {
    let dir = TempDir::new("brought-back");
    let clock = Clock::manual(T0);
    // Without an index, which would have the log read from its begin.
    let config = StoreConfig { index: false, ..small(dir.path()) };
    let store = open(config.clone(), &clock);
    let old = send(&store, "T", 0, b"old", "");
    send(&store, "Other", 0, b"stays", "");
    store.delete_topic("T").unwrap();
    let new = send(&store, "T", 0, b"new", "");
    let last = send(&store, "Other", 0, b"last", "");
    store.close().unwrap();
    let file = dir.path().join("consumequeue/T/0").join(format!("{:020}", 0));
    let mut bytes = fs::read(&file).unwrap();
    let entry = bytes[..20].to_vec();
    bytes[20..40].copy_from_slice(&entry);
    bytes[..8].copy_from_slice(&old.place.physical_offset.to_be_bytes());
    bytes[8..12].copy_from_slice(&(old.len as i32).to_be_bytes());
    fs::write(&file, bytes).unwrap();
    assert!(new.place.physical_offset < last.place.physical_offset);
    for _ in 0..2 {
        let store = open(config.clone(), &clock);
        let queue = store.queue("T", 0).expect("its new message is there");
        assert_eq!(contents(&store, &queue), [(0, b"new".to_vec())]);
        assert_eq!(contents(&store, &store.queue("Other", 0).unwrap()).len(), 2);
        store.close().unwrap();
    }
}
