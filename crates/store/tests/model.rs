//! The store against a plain model: random appends, commits, stops and crashes.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use base::clock::Clock;
use common::*;
use proptest::prelude::*;
use store::{Store, StoreConfig};

#[derive(Debug, Clone)]
enum Action {
    Append {
        queue: u8,
        len: usize,
    },
    Commit,
    /// A clean stop, or a kill after which the page cache is still there.
    Reopen {
        clean: bool,
    },
    /// A kill that takes everything derived with it.
    LoseDerived,
    /// A power cut: the log keeps what was synced and `more` bytes of the rest.
    PowerCut {
        more: usize,
    },
    Delete {
        topic: u8,
    },
    /// Lets time pass and gives the background thread a chance to flush.
    Pass {
        ms: u64,
    },
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        30 => (0..6_u8, 0..2500_usize).prop_map(|(queue, len)| Action::Append { queue, len }),
        12 => Just(Action::Commit),
        3 => any::<bool>().prop_map(|clean| Action::Reopen { clean }),
        1 => Just(Action::LoseDerived),
        2 => (0..9000_usize).prop_map(|more| Action::PowerCut { more }),
        1 => (0..2_u8).prop_map(|topic| Action::Delete { topic }),
        2 => (0..20_000_u64).prop_map(|ms| Action::Pass { ms }),
    ]
}

fn name(queue: u8) -> (String, i32) {
    (format!("Topic{}", queue / 3), i32::from(queue % 3))
}

type Message = (Vec<u8>, i64);

/// Bodies and ends in the log of every queue's messages; what is not committed is apart.
#[derive(Default)]
struct Model {
    queues: BTreeMap<(String, i32), Vec<Message>>,
    pending: Vec<((String, i32), Message)>,
}

impl Model {
    fn commit(&mut self) {
        for (queue, body) in self.pending.drain(..) {
            self.queues.entry(queue).or_default().push(body);
        }
    }
}

fn config(root: &Path) -> StoreConfig {
    StoreConfig { commit_log_file_size: 8 << 10, ..small(root) }
}

fn compare(store: &Store, model: &Model) {
    for (topic, id) in (0..6).map(name) {
        let empty = Vec::new();
        let wanted = model.queues.get(&(topic.clone(), id)).unwrap_or(&empty);
        let Some(queue) = store.queue(&topic, id) else {
            assert!(wanted.is_empty(), "{topic} {id} is gone");
            continue;
        };
        let bounds = (queue.min_offset(), queue.max_offset(store));
        assert_eq!(bounds, (0, wanted.len() as i64), "{topic} {id}");
        let found = contents(store, &queue);
        let wanted: Vec<_> =
            wanted.iter().enumerate().map(|(n, (body, _))| (n as i64, body.clone())).collect();
        assert!(found == wanted, "{topic} {id} differs");
    }
}

fn run(actions: &[Action]) {
    let dir = TempDir::new("model");
    let clock = Clock::manual(1_700_000_000_000);
    let mut model = Model::default();
    let mut store: Arc<Store> = open(config(dir.path()), &clock);
    for (step, action) in actions.iter().enumerate() {
        match action {
            Action::Append { queue, len } => {
                let (topic, id) = name(*queue);
                let body = vec![step as u8; *len];
                let handle = store.queue_or_create(&topic, id);
                let text = format!("KEYS\u{1}k{step}\u{2}");
                let appended = append(&store, &handle, &body, &text).expect("append");
                let place = appended.place;
                model.pending.push(((topic, id), (body, appended.end)));
                let queue = name(*queue);
                let before = model.queues.get(&queue).map_or(0, Vec::len)
                    + model.pending.iter().filter(|p| p.0 == queue).count();
                assert_eq!(place.queue_offset, before as i64 - 1);
            }
            Action::Commit => {
                store.commit().expect("commit");
                model.commit();
            }
            Action::Reopen { clean } => {
                if *clean {
                    store.close().expect("close");
                    model.commit();
                } else {
                    store.abandon();
                    model.pending.clear();
                }
                store = open(config(dir.path()), &clock);
            }
            Action::LoseDerived => {
                store.abandon();
                model.pending.clear();
                for name in ["consumequeue", "index"] {
                    let _ = std::fs::remove_dir_all(dir.path().join(name));
                }
                store = open(config(dir.path()), &clock);
            }
            Action::PowerCut { more } => {
                store.abandon();
                let marks = store.watermarks();
                let kept = (marks.flushed + *more as i64).min(marks.written);
                cut_log(dir.path(), kept);
                model.pending.clear();
                for messages in model.queues.values_mut() {
                    messages.retain(|(_, end)| *end <= kept);
                }
                store = open(config(dir.path()), &clock);
            }
            Action::Delete { topic } => {
                let topic = format!("Topic{topic}");
                store.delete_topic(&topic).expect("delete");
                model.queues.retain(|(of, _), _| *of != topic);
                model.pending.retain(|((of, _), _)| *of != topic);
            }
            Action::Pass { ms } => {
                clock.advance(*ms as i64);
                std::thread::sleep(std::time::Duration::from_millis(ms % 4));
            }
        }
        if step % 8 == 0 {
            compare(&store, &model);
        }
    }
    compare(&store, &model);
    store.close().expect("close");
    compare_after_close(dir.path(), &clock, model);
}

/// Zeroes the log from `kept` on.
fn cut_log(root: &Path, kept: i64) {
    for entry in std::fs::read_dir(root.join("commitlog")).expect("dir") {
        let path = entry.expect("entry").path();
        let start: i64 = path.file_name().unwrap().to_str().unwrap().parse().expect("name");
        let mut bytes = std::fs::read(&path).expect("read");
        let from = (kept - start).clamp(0, bytes.len() as i64) as usize;
        bytes[from..].fill(0);
        std::fs::write(&path, bytes).expect("write");
    }
}

fn compare_after_close(root: &Path, clock: &Clock, mut model: Model) {
    model.commit();
    let store = open(config(root), clock);
    compare(&store, &model);
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
    fn the_store_is_its_model(actions in proptest::collection::vec(action(), 1..160)) {
        run(&actions);
    }
}
