//! Figures, on demand: `cargo test -p store --release --test measure -- --ignored --nocapture`.
#![allow(clippy::unwrap_used)]

mod common;

use base::clock::{Clock, Stopwatch};
use common::*;
use store::{ReadLimit, StoreConfig, Wait};
use wire::properties::Known;

const TEXT: &str =
    "UNIQ_KEY\u{1}7F0000010000B73F000000000000047C\u{2}KEYS\u{1}k\u{2}TAGS\u{1}t\u{2}";

/// Nanoseconds that this thread was on a processor; a loaded machine does not change it much.
fn cpu_ns() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0.0)
}

/// Nanoseconds of time and of this thread's processor for a message.
fn turns(store: &store::Store, queues: i32, messages: usize, batch: usize) -> (f64, f64) {
    let queues: Vec<_> = (0..queues).map(|id| store.queue_or_create("T", id)).collect();
    let body = [7; 1024];
    let records: Vec<_> = queues.iter().map(|queue| record(queue, &body, TEXT)).collect();
    let (watch, cpu) = (Stopwatch::start(), cpu_ns());
    for n in 0..messages / batch {
        for m in 0..batch {
            let at = (n * batch + m) % queues.len();
            store.append(&queues[at], &records[at], &Known::scan(TEXT)).unwrap();
        }
        store.commit().unwrap();
    }
    let count = (messages / batch * batch) as f64;
    (watch.elapsed().as_nanos() as f64 / count, (cpu_ns() - cpu) / count)
}

#[test]
#[ignore = "prints figures"]
fn append_fetch_and_recovery() {
    let dir = TempDir::new("measure");
    for index in [false, true] {
        for (queues, batch) in [(1, 1), (1, 32), (4, 32), (1000, 32), (4, 256)] {
            let root = dir.path().join(format!("{index}-{queues}-{batch}"));
            let config = StoreConfig { index, file_reserved_hours: -1, ..StoreConfig::new(&root) };
            let store = open(config, &Clock::system());
            turns(&store, queues, 20_000, batch);
            let (ns, cpu) = turns(&store, queues, 200_000, batch);
            println!(
                "index {index}, {queues} queues, turns of {batch}: {ns:.0} ns, {cpu:.0} ns cpu"
            );
            store.abandon();
            drop(store);
            std::fs::remove_dir_all(&root).unwrap();
        }
    }
    let config =
        || StoreConfig { file_reserved_hours: -1, ..StoreConfig::new(dir.path().join("big")) };
    let store = open(config(), &Clock::system());
    turns(&store, 4, 900_000, 64);
    let queue = store.queue("T", 0).unwrap();
    for (what, from) in [("hot", queue.next_offset() - 4000), ("page cache", 0)] {
        let mut out = Vec::with_capacity(1 << 20);
        let watch = Stopwatch::start();
        let mut messages = 0;
        let mut next = from;
        while messages < 3200 {
            out.clear();
            let limit = ReadLimit { max_messages: 32, max_bytes: 256 << 10 };
            let mut any = |_: &store::Entry| true;
            let fetch = store.get(&queue, next, limit, Wait::MayBlock, &mut any, &mut out);
            assert!(fetch.messages > 0, "{fetch:?}");
            messages += fetch.messages;
            next = fetch.next;
        }
        let ns = watch.elapsed().as_nanos() as f64 / messages as f64;
        println!("fetch of 32, {what}: {ns:.0} ns a message");
    }
    for end in ["clean", "crash", "crash without checkpoint", "crash without anything derived"] {
        let store = if end == "clean" { store.clone() } else { open(config(), &Clock::system()) };
        if end == "clean" {
            store.close().unwrap()
        } else {
            store.abandon()
        }
        drop(store);
        let lost: &[&str] = match end {
            "crash without checkpoint" => &["checkpoint"],
            "crash without anything derived" => &["checkpoint", "index", "consumequeue"],
            _ => &[],
        };
        for name in lost {
            let path = dir.path().join("big").join(name);
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_dir_all(&path);
        }
        let watch = Stopwatch::start();
        let store = open(config(), &Clock::system());
        let bytes = store.watermarks().appended >> 20;
        println!("open after {end}: {} ms with {bytes} MiB of log", watch.elapsed().as_millis());
        store.abandon();
    }
}
