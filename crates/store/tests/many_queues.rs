//! What many queues cost at a start, counted: no clock of a busy machine is asked.
#![allow(clippy::unwrap_used)]

mod common;

use base::clock::Clock;
use common::*;
use store::StoreConfig;

/// System calls of this process that read, from the kernel.
fn reads() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap();
    let line = io.lines().find_map(|line| line.strip_prefix("syscr: ")).unwrap();
    line.parse().unwrap()
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn a_queue_costs_a_start_one_read_and_no_descriptor() {
    const TOPICS: u64 = 500;
    let dir = TempDir::new("many");
    let config = || StoreConfig { file_reserved_hours: -1, ..StoreConfig::new(dir.path()) };
    let store = open(config(), &Clock::system());
    for topic in 0..TOPICS {
        for id in 0..2 {
            let queue = store.queue_or_create(&format!("T{topic}"), id);
            append(&store, &queue, b"x", "").unwrap();
        }
    }
    store.commit().unwrap();
    store.close().unwrap();
    drop(store);
    let open_before = descriptors();
    for end in ["clean", "kill"] {
        let before = reads();
        let store = open(config(), &Clock::system());
        let made = reads() - before;
        println!("{end}: {made} reads for {} queues", TOPICS * 2);
        // One each, and what the rest of the store needs.
        assert!(made <= TOPICS * 2 + 200, "{made} reads");
        let left = descriptors() - open_before;
        assert!(left <= 64 + 16, "{left} descriptors");
        assert_eq!(store.topics().len() as u64, TOPICS);
        for topic in 0..TOPICS {
            assert_eq!(store.queue(&format!("T{topic}"), 1).unwrap().next_offset(), 1);
        }
        store.abandon();
    }
}
