//! Fetches, limits, times, keys, delays and concurrent commits.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use base::clock::Clock;
use common::*;
use store::{
    AppendRefused, Edge, Entry, FetchStatus, ReadLimit, SCHEDULE_TOPIC, StoreConfig, Wait,
};
use wire::properties::Known;
use wire::record::{self, TRANSACTION_PREPARED};

const T0: i64 = 1_700_000_000_000;

#[test]
fn statuses_and_next_offsets_are_javas() {
    let dir = TempDir::new("status");
    let store = open(small(dir.path()), &Clock::manual(T0));
    let queue = store.queue_or_create("T", 0);
    let status = |from| {
        let (fetch, _) = fetch(&store, &queue, from, 10);
        (fetch.status, fetch.next)
    };
    assert_eq!(status(0), (FetchStatus::NoMessageInQueue, 0));
    assert_eq!(status(5), (FetchStatus::NoMessageInQueue, 0));
    append(&store, &queue, b"x", "").unwrap();
    // Appended, not committed: nobody sees it.
    assert_eq!((queue.next_offset(), queue.max_offset(&store)), (1, 0));
    assert_eq!(status(0), (FetchStatus::NoMessageInQueue, 0));
    store.commit().unwrap();
    assert_eq!(status(0), (FetchStatus::Found, 1));
    assert_eq!(status(1), (FetchStatus::OverflowOne, 1));
    assert_eq!(status(7), (FetchStatus::OverflowBadly, 1));
    assert_eq!(status(-1), (FetchStatus::TooSmall, 0));
}

#[test]
fn limits_filters_and_the_scan_bound() {
    let dir = TempDir::new("limits");
    let config = StoreConfig { commit_log_file_size: 1 << 20, ..small(dir.path()) };
    let store = open(config, &Clock::manual(T0));
    let queue = store.queue_or_create("T", 0);
    for n in 0..2000 {
        append(&store, &queue, &[7; 100], &format!("TAGS\u{1}t{}\u{2}", n % 1000)).unwrap();
    }
    store.commit().unwrap();
    let get = |from, max_messages, max_bytes, tag: &str| {
        let code = i64::from(wire::text::java_hash(tag));
        let mut out = Vec::new();
        let mut wanted = |entry: &Entry| tag.is_empty() || entry.tags_code == code;
        let limit = ReadLimit { max_messages, max_bytes };
        let fetch = store.get(&queue, from, limit, Wait::OnlyCached, &mut wanted, &mut out);
        assert_eq!(record::records(&out).map(Result::unwrap).count(), fetch.messages);
        assert_eq!((out.len(), fetch.cold), (fetch.bytes, false));
        (fetch.status, fetch.messages, fetch.next)
    };
    assert_eq!(get(0, 10, 1 << 20, ""), (FetchStatus::Found, 10, 10));
    assert_eq!(get(0, 1500, 1 << 20, ""), (FetchStatus::Found, 1500, 1500));
    assert_eq!(get(0, 10, 1, ""), (FetchStatus::Found, 1, 1));
    assert_eq!(get(0, 10, 999, ""), (FetchStatus::Found, 4, 4));
    assert_eq!(get(0, 10, 1 << 20, "t900"), (FetchStatus::NoMatch, 0, 800));
    assert_eq!(get(800, 10, 1 << 20, "t900"), (FetchStatus::Found, 1, 1600));
    assert_eq!(get(1999, 10, 1 << 20, ""), (FetchStatus::Found, 1, 2000));
}

#[test]
fn records_spread_over_the_log_are_read_whole() {
    let dir = TempDir::new("spread");
    let store = open(small(dir.path()), &Clock::manual(T0));
    for n in 0..600_usize {
        // Gaps of very different widths between the records of one queue.
        let body = vec![n as u8; if n % 7 == 0 { 900 } else { 10 }];
        send(&store, "T", (n % 5 % 3) as i32, &body, "");
    }
    for id in 0..3 {
        let queue = store.queue("T", id).unwrap();
        let all = contents(&store, &queue);
        let wanted: Vec<_> = (0..600_usize).filter(|n| (n % 5 % 3) as i32 == id).collect();
        assert_eq!(all.len(), wanted.len());
        for (offset, ((found, body), n)) in all.iter().zip(wanted).enumerate() {
            assert_eq!((*found, body[0]), (offset as i64, n as u8));
        }
    }
    assert!(at(&store, 0).is_some() && at(&store, 1).is_none() && at(&store, -1).is_none());
    assert!(at(&store, store.watermarks().appended).is_none());
}

/// Field case B06: five single messages, a batch of three, a batch of three.
#[test]
fn b06_offsets_by_time() {
    let dir = TempDir::new("b06");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    let queue = store.queue_or_create("T", 0);
    for _ in 0..5 {
        send(&store, "T", 0, b"single", "");
        clock.advance(10);
    }
    let mut physical = Vec::new();
    for _ in 0..2 {
        clock.advance(100);
        let records = [b"1", b"2", b"3"].map(|body| (record(&queue, body, ""), Known::default()));
        let first = store.append_batch(&queue, &records, &mut physical).unwrap();
        assert_eq!((physical.len(), physical[0]), (3, first.place.physical_offset));
        store.commit().unwrap();
    }
    let last = clock.now_ms();
    let cases = [
        (0, 0, 0),
        (-1, 0, 0),
        (T0 - 1, 0, 0),
        (T0, 0, 0),
        (last, 8, 10),
        (last + 1, 11, 10),
        (last + 100_000, 11, 10),
        // Between two messages, and inside of the first batch.
        (T0 + 15, 2, 1),
        (T0 + 150, 5, 7),
    ];
    for (time, lower, upper) in cases {
        assert_eq!(store.offset_by_time(&queue, time, Edge::Lower), lower, "lower {time}");
        assert_eq!(store.offset_by_time(&queue, time, Edge::Upper), upper, "upper {time}");
    }
    let empty = store.queue_or_create("Empty", 0);
    assert_eq!(store.offset_by_time(&empty, T0, Edge::Lower), 0);
    assert_eq!(store.offset_by_time(&empty, T0, Edge::Upper), 0);
}

#[test]
fn keys_are_found_by_unique_key_word_and_tag() {
    let dir = TempDir::new("keys");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    let text = "UNIQ_KEY\u{1}U1\u{2}KEYS\u{1}order  7\u{2}TAGS\u{1}red\u{2}";
    let physical = send(&store, "T", 0, b"x", text).place.physical_offset;
    for key in ["U1", "order", "7", "T#red"] {
        assert_eq!(store.query_index("T", key, 10, T0, T0), [physical], "{key}");
    }
    assert!(store.query_index("T", "", 10, 0, i64::MAX).is_empty());
    assert!(store.query_index("T", "U1", 10, T0 + 2000, T0 + 9000).is_empty());
    assert!(store.query_index("T2", "U1", 10, 0, i64::MAX).is_empty());
}

#[test]
fn delayed_messages_carry_their_due_time_and_half_messages_no_entry() {
    let dir = TempDir::new("delay");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    for (n, (level, ms)) in [("1", 1000), ("3", 10_000), ("99", 7_200_000)].iter().enumerate() {
        let text = format!("DELAY\u{1}{level}\u{2}TAGS\u{1}x\u{2}");
        send(&store, SCHEDULE_TOPIC, 2, b"later", &text);
        let queue = store.queue(SCHEDULE_TOPIC, 2).unwrap();
        assert_eq!(queue.entry(&store, n as i64).unwrap().tags_code, T0 + ms);
        assert_eq!(queue.entry(&store, n as i64 + 1), None);
    }
    let queue = store.queue_or_create("T", 0);
    let mut half = record(&queue, b"half", "UNIQ_KEY\u{1}H\u{2}");
    half.sys_flag = TRANSACTION_PREPARED;
    let appended = store.append(&queue, &half, &Known::scan(half.properties)).unwrap();
    store.commit().unwrap();
    assert_eq!((appended.place.queue_offset, queue.next_offset()), (0, 0));
    assert_eq!(at(&store, appended.place.physical_offset).unwrap().2, b"half");
    assert_eq!(store.query_index("T", "H", 9, 0, i64::MAX).len(), 1);
    store.abandon();
    let store = open(small(dir.path()), &clock);
    assert_eq!(
        store.queue(SCHEDULE_TOPIC, 2).unwrap().entry(&store, 2).unwrap().tags_code,
        T0 + 7_200_000
    );
    assert!(store.queue("T", 0).is_none_or(|queue| queue.next_offset() == 0));
}

#[test]
fn a_batch_is_all_or_nothing_and_in_one_file() {
    let dir = TempDir::new("batch");
    let store = open(small(dir.path()), &Clock::manual(T0));
    let queue = store.queue_or_create("T", 0);
    let body = [1; 1000];
    let records = vec![(record(&queue, &body, ""), Known::default()); 10];
    let mut physical = Vec::new();
    for _ in 0..5 {
        store.append_batch(&queue, &records, &mut physical).unwrap();
        assert_eq!(physical[0] / (16 << 10), physical[9] / (16 << 10));
    }
    let many = vec![(record(&queue, &body, ""), Known::default()); 20];
    let refused = store.append_batch(&queue, &many, &mut physical);
    assert!(matches!(refused, Err(AppendRefused::TooLarge { .. })));
    let big = vec![0; 20 << 10];
    assert!(matches!(append(&store, &queue, &big, ""), Err(AppendRefused::TooLarge { .. })));
    store.commit().unwrap();
    assert_eq!((queue.next_offset(), contents(&store, &queue).len()), (50, 50));
}

#[test]
fn the_largest_record_fills_a_file_but_for_the_marker() {
    let dir = TempDir::new("exact");
    let clock = Clock::manual(T0);
    let store = open(small(dir.path()), &clock);
    let room = (16 << 10) - 8;
    let overhead = 91 + "T".len();
    let queue = store.queue_or_create("T", 0);
    append(&store, &queue, b"first", "").unwrap();
    for _ in 0..2 {
        let appended = append(&store, &queue, &vec![9; room - overhead], "").unwrap();
        assert_eq!((appended.len, appended.place.physical_offset % (16 << 10)), (room, 0));
    }
    append(&store, &queue, b"last", "").unwrap();
    let too_large = append(&store, &queue, &vec![9; room - overhead + 1], "");
    assert_eq!(too_large, Err(AppendRefused::TooLarge { len: room + 1, max: room }));
    store.commit().unwrap();
    let before = contents(&store, &queue);
    assert_eq!(before.len(), 4);
    store.abandon();
    let store = open(small(dir.path()), &clock);
    assert_eq!(contents(&store, &store.queue("T", 0).unwrap()), before);
}

#[test]
fn group_commit_from_four_threads_keeps_every_order() {
    for sync in [false, true] {
        let dir = TempDir::new("group");
        let clock = Clock::system();
        let config = StoreConfig { commit_log_file_size: 256 << 10, ..small(dir.path()) };
        let config = if sync { sync_mode(config) } else { config };
        let store = open(config.clone(), &clock);
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let store = Arc::clone(&store);
                std::thread::spawn(move || {
                    for n in 0..500 {
                        let own = store.queue_or_create("Own", thread);
                        let shared = store.queue_or_create("Shared", 0);
                        let body = format!("{thread} {n}");
                        append(&store, &own, body.as_bytes(), "").unwrap();
                        let end = append(&store, &shared, body.as_bytes(), "").unwrap().end;
                        assert!(store.commit().unwrap() >= end);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        settled(&store);
        let check = |store: &store::Store| {
            let all = contents(store, &store.queue("Shared", 0).unwrap());
            assert_eq!(all.len(), 2000);
            for thread in 0..4 {
                let own = contents(store, &store.queue("Own", thread).unwrap());
                let mine = format!("{thread} ");
                let part: Vec<_> =
                    all.iter().map(|m| &m.1).filter(|b| b.starts_with(mine.as_bytes())).collect();
                assert_eq!(part, own.iter().map(|m| &m.1).collect::<Vec<_>>());
            }
        };
        check(&store);
        store.abandon();
        check(&open(config, &clock));
    }
}

#[test]
fn synchronous_flush_hides_what_is_not_on_disk_and_calls_back() {
    let dir = TempDir::new("sync");
    let store = open(sync_mode(small(dir.path())), &Clock::system());
    let (sender, receiver) = std::sync::mpsc::channel();
    store.on_flushed(Box::new(move || {
        let _ = sender.send(());
    }));
    let end = send(&store, "T", 0, b"x", "").end;
    while store.watermarks().flushed < end {
        receiver.recv_timeout(std::time::Duration::from_secs(5)).unwrap();
    }
    let queue = store.queue("T", 0).unwrap();
    assert_eq!((queue.max_offset(&store), store.watermarks().readable), (1, end));
}

#[test]
fn a_cold_page_is_reported_not_waited_for() {
    use rustix::fs::{Advice, fadvise};
    let dir = TempDir::new("cold");
    let config = StoreConfig { commit_log_file_size: 1 << 20, ..small(dir.path()) };
    let store = open(config.clone(), &Clock::manual(T0));
    for n in 0..100 {
        send(&store, "T", n % 2, &[n as u8; 2000], "");
    }
    store.close().unwrap();
    let store = open(config, &Clock::manual(T0));
    let queue = store.queue("T", 0).unwrap();
    let get = |wait| {
        let mut out = Vec::new();
        let limit = ReadLimit { max_messages: 20, max_bytes: 1 << 20 };
        let mut any = |_: &Entry| true;
        let fetch = store.get(&queue, 0, limit, wait, &mut any, &mut out);
        assert_eq!(out.len(), fetch.bytes);
        fetch
    };
    let file = std::fs::File::open(dir.path().join("commitlog").join("0".repeat(20))).unwrap();
    file.sync_all().unwrap();
    fadvise(&file, 0, None, Advice::DontNeed).unwrap();
    let cold = get(Wait::OnlyCached);
    // Some file systems cannot tell; then the answer is simply there.
    if cold.cold {
        assert_eq!((cold.messages, cold.bytes, cold.next), (0, 0, 0));
        // The kernel may have begun to read ahead, so only these two are possible.
        let at = store.at(0, Wait::OnlyCached, &mut Vec::new());
        assert!(matches!(at, store::At::Cold | store::At::Found), "{at:?}");
    }
    let found = get(Wait::MayBlock);
    assert_eq!((found.status, found.messages, found.next), (FetchStatus::Found, 20, 20));
    let warm = get(Wait::OnlyCached);
    assert_eq!((warm.messages, warm.cold), (20, false));
}

#[test]
fn a_topic_may_go_without_index() {
    let dir = TempDir::new("no-index");
    let store = open(small(dir.path()), &Clock::manual(T0));
    for topic in ["With", "Without"] {
        send(&store, topic, 0, b"x", "KEYS\u{1}k\u{2}");
        store.set_indexed(topic, topic == "With");
        send(&store, topic, 0, b"x", "KEYS\u{1}k\u{2}");
    }
    let found = |topic| store.query_index(topic, "k", 10, 0, i64::MAX).len();
    assert_eq!((found("With"), found("Without")), (2, 1));
    store.set_indexed("Without", true);
    send(&store, "Without", 0, b"x", "KEYS\u{1}k\u{2}");
    assert_eq!(store.query_index("Without", "k", 10, 0, i64::MAX).len(), 2);
}
