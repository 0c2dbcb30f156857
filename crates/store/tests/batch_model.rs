//! Batch queues against a plain model: random batches, reads inside of them, stops, kills, and
//! old log files that go.
#![allow(clippy::unwrap_used)]

mod common;

use std::path::Path;
use std::sync::Arc;

use base::clock::Clock;
use common::*;
use proptest::prelude::*;
use store::{Appended, Edge, FetchStatus, Queue, Store, StoreConfig, Watermarks};
use wire::properties::{self, INNER_BASE, INNER_NUM, Known};
use wire::record::{self, INNER_BATCH, NEED_UNWRAP, NewRecord};

const TOPIC: &str = "Batches";
const LOG_FILE: i64 = 8 << 10;

#[derive(Debug, Clone)]
enum Action {
    /// A record of so many messages; 0: a single one, which is no inner batch.
    Append {
        queue: u8,
        count: i16,
        len: usize,
    },
    Commit,
    Reopen {
        clean: bool,
    },
    /// A kill that takes everything derived with it.
    LoseDerived,
    /// The older half of the log files goes while the store is closed.
    DropOld,
    Pass {
        ms: u64,
    },
    /// Reads at a place in the queue, in 256ths of it.
    Read {
        queue: u8,
        place: u8,
        max: usize,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => (0..2_u8, 0..40_i16, 0..1500_usize)
            .prop_map(|(queue, count, len)| Action::Append { queue, count, len }),
        12 => Just(Action::Commit),
        3 => any::<bool>().prop_map(|clean| Action::Reopen { clean }),
        1 => Just(Action::LoseDerived),
        1 => Just(Action::DropOld),
        3 => (0..20_000_u64).prop_map(|ms| Action::Pass { ms }),
        20 => (0..2_u8, any::<u8>(), 1..80_usize)
            .prop_map(|(queue, place, max)| Action::Read { queue, place, max }),
    ]
}

/// One record as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Batch {
    base: i64,
    count: i64,
    physical: i64,
    stored_ms: i64,
    body: Vec<u8>,
}

impl Batch {
    fn end(&self) -> i64 {
        self.base + self.count
    }
}

#[derive(Debug, Default)]
struct Model {
    queues: [Vec<Batch>; 2],
    pending: Vec<(usize, Batch)>,
    /// Start of the log; what is below cannot be read.
    log_min: i64,
}

impl Model {
    fn commit(&mut self) {
        for (queue, batch) in self.pending.drain(..) {
            self.queues[queue].push(batch);
        }
    }

    fn end(&self, queue: usize) -> i64 {
        self.queues[queue].last().map_or(0, Batch::end)
    }

    fn min(&self, queue: usize) -> i64 {
        let live = self.queues[queue].iter().find(|batch| batch.physical >= self.log_min);
        live.map_or(self.end(queue), |batch| batch.base)
    }
}

fn config(root: &Path) -> StoreConfig {
    StoreConfig {
        commit_log_file_size: LOG_FILE as u64,
        batch_queue_file_size: 7 * 46,
        batch_topics: [TOPIC.to_owned()].into(),
        file_reserved_hours: -1,
        ..small(root)
    }
}

fn append_batch(store: &Store, queue: &Arc<Queue>, body: &[u8], count: i16) -> Appended {
    if count == 0 {
        return append(store, queue, body, "").expect("append");
    }
    let text = format!("{INNER_NUM}\u{1}{count}\u{2}");
    let sys_flag = INNER_BATCH | NEED_UNWRAP;
    let new = NewRecord { sys_flag, ..record(queue, body, &text) };
    store.append_inner_batch(queue, &new, &Known::scan(&text), count).expect("append")
}

/// Reads from `from` on and compares with what the model holds there.
fn read(store: &Store, model: &Model, id: usize, from: i64, max: usize) -> i64 {
    let queue = store.queue(TOPIC, id as i32).expect("queue");
    let (fetch, out) = fetch(store, &queue, from, max);
    let (min, end) = (model.min(id), model.end(id));
    assert_eq!((fetch.min, fetch.max), (min, end));
    match fetch.status {
        FetchStatus::NoMessageInQueue => assert_eq!(end, 0),
        FetchStatus::TooSmall => assert!(from < min && fetch.next == min),
        FetchStatus::OverflowOne => assert_eq!(from, end),
        FetchStatus::OverflowBadly => assert!(from > end),
        FetchStatus::Found => {
            assert!((min..end).contains(&from));
            let first = model.queues[id].iter().position(|batch| batch.end() > from).unwrap();
            let mut at = first;
            for found in record::records(&out) {
                let (found, wanted) = (found.expect("record"), &model.queues[id][at]);
                found.check_crc().expect("crc");
                let base = properties::get(found.properties(), INNER_BASE);
                assert_eq!(base.map_or(found.queue_offset(), |b| b.parse().unwrap()), wanted.base);
                assert_eq!((found.queue_offset(), found.body()), (wanted.base, &wanted.body[..]));
                assert_eq!(found.physical_offset(), wanted.physical);
                at += 1;
            }
            let read: i64 = model.queues[id][first..at].iter().map(|batch| batch.count).sum();
            assert_eq!((fetch.messages as i64, fetch.next), (read, model.queues[id][at - 1].end()));
            assert!(at == first + 1 || read <= max as i64);
            let next = model.queues[id].get(at).map_or(i64::MAX, |batch| batch.count);
            assert!(next > max as i64 - read, "more would have fitted");
        }
        other => panic!("{other:?} at {from} of {min}..{end}"),
    }
    fetch.next
}

fn compare(store: &Store, model: &Model) {
    for id in 0..2 {
        let mut from = model.min(id);
        while from < model.end(id) {
            from = read(store, model, id, from, 32);
        }
        let queue = store.queue(TOPIC, id as i32).expect("queue");
        let live = model.queues[id].iter().filter(|batch| batch.physical >= model.log_min);
        for batch in live.step_by(5) {
            for offset in [batch.base, batch.end() - 1] {
                let entry = queue.entry(store, offset).expect("entry");
                assert_eq!(entry.physical_offset, batch.physical);
            }
            let lower = store.offset_by_time(&queue, batch.stored_ms, Edge::Lower);
            let upper = store.offset_by_time(&queue, batch.stored_ms, Edge::Upper);
            assert!(lower <= batch.base && upper >= batch.end() - 1, "{lower} {upper} {batch:?}");
        }
    }
}

fn run(actions: &[Action]) {
    let dir = TempDir::new("batch-model");
    let clock = Clock::manual(1_700_000_000_000);
    let mut model = Model::default();
    let reopen = || {
        let store = open(config(dir.path()), &clock);
        (0..2).for_each(|id| drop(store.batch_queue_or_create(TOPIC, id)));
        store
    };
    let mut store: Arc<Store> = reopen();
    for (step, action) in actions.iter().enumerate() {
        match action {
            Action::Append { queue, count, len } => {
                let id = usize::from(*queue);
                let handle = store.batch_queue_or_create(TOPIC, id as i32);
                let body = vec![step as u8; *len];
                let place = append_batch(&store, &handle, &body, *count).place;
                let pending = model.pending.iter().rev().find(|(queue, _)| *queue == id);
                let base = pending.map_or(model.end(id), |(_, batch)| batch.end());
                assert_eq!(place.queue_offset, base);
                let count = i64::from(*count).max(1);
                let (physical, stored_ms) = (place.physical_offset, place.store_timestamp);
                model.pending.push((id, Batch { base, count, physical, stored_ms, body }));
            }
            Action::Commit => {
                store.commit().expect("commit");
                model.commit();
            }
            Action::Reopen { clean: true } => {
                store.close().expect("close");
                model.commit();
                store = reopen();
            }
            Action::Reopen { clean: false } => {
                store.abandon();
                model.pending.clear();
                store = reopen();
            }
            Action::LoseDerived => {
                store.abandon();
                model.pending.clear();
                for name in ["consumequeue", "batchconsumequeue", "index"] {
                    let _ = std::fs::remove_dir_all(dir.path().join(name));
                }
                // What is gone with the log cannot be rebuilt.
                let log_min = model.log_min;
                for queue in &mut model.queues {
                    queue.retain(|batch| batch.physical >= log_min);
                }
                store = reopen();
            }
            Action::DropOld => {
                store.close().expect("close");
                model.commit();
                model.log_min = drop_old_files(dir.path(), store.watermarks());
                store = reopen();
                assert_eq!(store.watermarks().min, model.log_min);
            }
            Action::Pass { ms } => {
                clock.advance(*ms as i64);
                std::thread::sleep(std::time::Duration::from_millis(ms % 4));
            }
            Action::Read { queue, place, max } => {
                let id = usize::from(*queue);
                let from = (model.end(id) + 2) * i64::from(*place) / 256;
                read(&store, &model, id, from, *max);
            }
        }
        if step % 8 == 0 {
            compare(&store, &model);
        }
    }
    compare(&store, &model);
    store.close().expect("close");
    model.commit();
    compare(&reopen(), &model);
}

/// Deletes the older half of the log files and returns where the log begins now.
fn drop_old_files(root: &Path, marks: Watermarks) -> i64 {
    let middle = marks.min + (marks.written - marks.min) / 2;
    let keep = middle - middle % LOG_FILE;
    for start in (marks.min..keep).step_by(LOG_FILE as usize) {
        std::fs::remove_file(root.join("commitlog").join(format!("{start:020}"))).expect("file");
    }
    keep
}

/// 32 cases, or as many as PROPTEST_CASES says.
fn cases() -> ProptestConfig {
    let wanted = std::env::var_os("PROPTEST_CASES").is_some();
    let default = ProptestConfig::default();
    if wanted { default } else { ProptestConfig { cases: 32, ..default } }
}

proptest! {
    #![proptest_config(cases())]
    #[test]
    fn batch_queues_are_their_model(actions in proptest::collection::vec(action(), 1..200)) {
        run(&actions);
    }
}
