//! What waits inside of a store that a Java 5.5.0 broker left: levels, timers with the state of its
//! wheel, open transactions.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use base::clock::Clock;
use broker::config::BrokerConfig;
use broker::handlers;
use broker::marks::each_record;
use broker::pop::take::{Kind, Pop, take};
use broker::register::Registrar;
use broker::state::Broker;
use broker::turn::Turn;
use filter::Filter;
use net::Service;
use wire::json::Value;
use wire::properties::get;

/// Some seconds after the Java broker stopped.
const STOPPED_MS: i64 = 1_795_576_000_000;

const COMMIT_LOG: &str = "mappedFileSizeCommitLog";
const QUEUE: &str = "mappedFileSizeConsumeQueue";

struct Fixture {
    dir: PathBuf,
    clock: Clock,
    broker: Arc<Broker>,
    turn: Turn,
    manifest: Value,
}

impl Fixture {
    fn open(name: &str, test: &str) -> Fixture {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/store");
        let text = std::fs::read(golden.join(name).join("manifest.json")).expect("manifest");
        let manifest = Value::parse_bytes(&text).expect("json");
        let dir = std::env::temp_dir().join(format!("apogee-golden-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("directory");
        let archive = golden.join(name).join("store.tar.gz");
        let done = Command::new("tar").arg("xzf").arg(archive).arg("-C").arg(&dir).status();
        assert!(done.expect("tar").success());
        let clock = Clock::manual(STOPPED_MS);
        let mut config = BrokerConfig::default();
        let root = dir.join("store").display().to_string();
        let sizes: Vec<String> =
            manifest.get("conf").expect("conf").items().iter().filter_map(Value::text).collect();
        for (key, value) in sizes.iter().filter_map(|line| line.split_once('=')) {
            if key.starts_with("mappedFileSizeCo") {
                config
                    .put(if key.ends_with("Log") { COMMIT_LOG } else { QUEUE }, value)
                    .expect(key);
            }
        }
        for (key, value) in [
            ("storePathRootDir", root.as_str()),
            ("timerMaxDelaySec", "157680000"),
            ("transactionCheckInterval", "3600000"),
            ("fileReservedTime", "876000"),
            ("messageIndexEnable", "false"),
        ] {
            config.put(key, value).expect(key);
        }
        let registrar = Registrar::new(None);
        let broker = Broker::open(config, None, clock.clone(), registrar, 1).expect("open");
        let turn = Turn::new(Arc::clone(&broker), Arc::new(handlers::router()));
        Fixture { dir, clock, broker, turn, manifest }
    }

    fn turns(&mut self) {
        for _ in 0..20 {
            self.turn.turn_end().expect("turn");
        }
    }

    /// Unique ids of everything that a topic holds, each once.
    fn unique_ids(&self, topic: &str) -> BTreeSet<String> {
        let topic = self.broker.topics.get(topic).expect("topic");
        let mut ids = BTreeSet::new();
        for queue in &topic.queues {
            each_record(&self.broker.store, queue, queue.queue.min_offset(), |_, _, record| {
                let id = get(record.properties(), "UNIQ_KEY").expect("id").to_owned();
                assert!(ids.insert(id.clone()), "{id} twice");
            });
        }
        ids
    }

    fn pending(&self, name: &str) -> Value {
        self.manifest.get("pending").and_then(|pending| pending.get(name)).expect(name).clone()
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.broker.store.abandon();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

#[test]
fn timers_of_a_java_broker_come_at_their_times() {
    let mut f = Fixture::open("clean-5.5.0", "timers");
    let waiting = f.pending("timerMessages");
    // A recalled message and the word that recalls it wait as well, to go together.
    let recalled = f.pending("timersRecalled");
    assert_eq!(f.broker.timers.count(), waiting.items().len() + 2 * recalled.items().len());
    f.turns();
    let before = f.unique_ids("GoldenDelay");
    let mut timers: Vec<(i64, String)> = Vec::new();
    for timer in waiting.items() {
        let text = |name: &str| timer.get(name).and_then(Value::text).expect("text");
        timers.push((text("deliverAt").parse().expect("time"), text("uniq")));
    }
    timers.sort();
    for (index, (due_ms, id)) in timers.iter().enumerate() {
        // Java rounds its times down to whole seconds and delivers when the second is over.
        let now_ms = f.clock.now_ms();
        if now_ms < due_ms - 1 {
            f.clock.advance(due_ms - 1 - now_ms);
            f.turns();
            assert!(!f.unique_ids("GoldenDelay").contains(id), "timer {index} is early");
        }
        f.clock.advance((due_ms + 2000 - f.clock.now_ms()).max(0));
        f.turns();
        assert!(f.unique_ids("GoldenDelay").contains(id), "timer {index} is late");
    }
    let after = f.unique_ids("GoldenDelay");
    // The levels 16 to 18 came meanwhile, too: three of the topic, one retry of its group.
    assert_eq!(after.len(), before.len() + timers.len() + 3);
    for recalled in recalled.items() {
        assert!(!after.contains(&recalled.text().expect("id")), "a recalled message came");
    }
    assert_eq!(f.unique_ids("%RETRY%GoldenPush").len(), 3);
    assert_eq!(f.broker.timers.count(), 0);
}

/// Messages with an offset of rest 0 by 3 were acknowledged, of rest 1 have two hours, the others
/// one.
#[test]
fn pops_of_a_java_broker_come_again_at_their_times() {
    const POPPED_MS: i64 = 1_795_576_985_000;
    let mut f = Fixture::open("pop-5.5.0", "pops");
    f.clock.advance(POPPED_MS - STOPPED_MS);
    f.turns();
    assert_eq!((f.broker.pops.in_flight(), f.broker.timers.count()), (24, 0));
    for queue_id in 0..4 {
        let next = f.broker.pops.next_offset("GoldenPopGroup", "GoldenPop", queue_id);
        let committed = f.broker.offsets.get("GoldenPopGroup", "GoldenPop", queue_id);
        assert_eq!((next, committed), (Some(10), Some(1)));
    }
    let again = |f: &Fixture| {
        let topic = f.broker.topics.get("%RETRY%GoldenPopGroup_GoldenPop");
        topic.map_or(0, |_| f.unique_ids("%RETRY%GoldenPopGroup_GoldenPop").len())
    };
    f.clock.advance(3_580_000);
    f.turns();
    assert_eq!(again(&f), 0);
    f.clock.advance(25_000);
    f.turns();
    assert_eq!(again(&f), 12);
    f.clock.advance(3_600_000);
    f.turns();
    assert_eq!((again(&f), f.broker.pops.in_flight()), (24, 0));
}

/// Queue by queue: nothing, one of four, all of the first four acknowledged, and one with two
/// hours; each holds its batch for an hour.
#[test]
fn ordered_pops_of_a_java_broker_hold_their_queues() {
    let mut f = Fixture::open("pop-5.5.0", "ordered-pops");
    f.clock.advance(1_795_576_990_000 - STOPPED_MS);
    let pop = |f: &mut Fixture, queue_id: i32| -> Vec<i64> {
        f.turns();
        let pop = Pop {
            kind: Kind::Take,
            group: Arc::from("GoldenPopFifoGroup"),
            topic: Arc::from("GoldenPopFifo"),
            queue_id,
            max_messages: 3,
            invisible_ms: 60_000,
            order: true,
            attempt: None,
            from_min: true,
            filter: Arc::new(Filter::default()),
        };
        let mut out = Vec::new();
        take(&f.turn, &f.broker, &pop, &mut out);
        wire::record::records(&out).map(|record| record.expect("record").queue_offset()).collect()
    };
    for queue_id in 0..4 {
        assert!(pop(&mut f, queue_id).is_empty(), "queue {queue_id} is held");
    }
    f.clock.advance(3_600_000);
    assert_eq!(pop(&mut f, 0), [0, 1, 2]);
    assert_eq!(pop(&mut f, 1), [1, 2, 3]);
    assert_eq!(pop(&mut f, 2), [4, 5, 6]);
    assert!(pop(&mut f, 3).is_empty(), "its first message has two hours");
    f.clock.advance(3_600_000);
    assert_eq!(pop(&mut f, 3), [0, 1, 2]);
}

/// Unique ids of the open half messages, each once.
fn open_ids(f: &Fixture) -> BTreeSet<String> {
    let mut ids = BTreeSet::new();
    for (_, open) in &f.broker.transactions.list(0, 1000) {
        let mut bytes = Vec::new();
        f.broker.store.at(open.physical_offset, store::Wait::MayBlock, &mut bytes);
        let Ok(wire::record::Scanned::Record(record)) = wire::record::scan(&bytes) else {
            panic!("no record")
        };
        let id = get(record.properties(), "UNIQ_KEY").expect("id").to_owned();
        assert!(ids.insert(id), "open twice");
    }
    ids
}

#[test]
fn transactions_that_a_java_broker_left_open_are_open() {
    for (name, test) in [("clean-5.5.0", "open-ones"), ("killed-5.5.0", "open-killed")] {
        let mut f = Fixture::open(name, test);
        f.turns();
        let wanted = f.pending("halfMessages");
        let wanted: BTreeSet<String> = wanted.items().iter().filter_map(Value::text).collect();
        let open = open_ids(&f);
        // Where the broker was killed, ends that it had not written yet are asked about again.
        assert!(open.is_superset(&wanted), "{name}");
        assert!(name.starts_with("killed") || open == wanted, "{name}");
    }
}

/// Every committed offset and every message of a level, of all stores.
#[test]
fn offsets_and_levels_are_what_java_reads() {
    let names = ["clean-5.5.0", "killed-5.5.0", "torn-5.5.0", "pop-5.5.0"];
    let (mut offsets, mut levels) = (0, 0);
    for name in names {
        let f = Fixture::open(name, &format!("offsets-{name}"));
        for (group, topics) in f.manifest.get("consumerOffsets").expect("offsets").pairs() {
            let group = group.text().expect("group");
            // Ours commits the first message in flight; see the test of pops.
            let popping = group == "GoldenPopGroup";
            for (topic, queues) in topics.pairs() {
                for (id, offset) in queues.pairs() {
                    let (topic, id) = (topic.text().expect("topic"), id.text().expect("id"));
                    let id: i32 = id.parse().expect("number");
                    let found = f.broker.offsets.get(&group, &topic, id);
                    let wanted = if popping { Some(1) } else { offset.int() };
                    assert_eq!(found, wanted, "{name}: {group} {topic} {id}");
                    offsets += 1;
                }
            }
        }
        let waiting = f.pending("delayLevelMessages");
        for (level, messages) in waiting.pairs() {
            let level: usize = level.text().expect("level").parse().expect("number");
            let (next, end) = f.broker.schedule.offsets()[level - 1];
            assert_eq!(end - next, messages.items().len() as i64, "{name}: level {level}");
            let topic = f.broker.topics.get("SCHEDULE_TOPIC_XXXX").expect("topic");
            let mut ids = Vec::new();
            each_record(&f.broker.store, &topic.queues[level - 1], next, |_, _, record| {
                ids.push(get(record.properties(), "UNIQ_KEY").expect("id").to_owned());
            });
            let wanted = messages.items().iter();
            let wanted: Vec<String> =
                wanted.filter_map(|m| m.get("uniq").and_then(Value::text)).collect();
            assert_eq!(ids, wanted, "{name}: level {level}");
            levels += ids.len();
        }
    }
    assert!(offsets > 30 && levels > 170, "{offsets} offsets, {levels} messages were compared");
}

/// Every timer of the killed store is due when its manifest says.
#[test]
fn timers_of_a_killed_java_broker_are_all_there() {
    for name in ["killed-5.5.0", "torn-5.5.0"] {
        let f = Fixture::open(name, &format!("timers-{name}"));
        let waiting = f.pending("timerMessages");
        assert_eq!(f.broker.timers.count(), waiting.items().len(), "{name}");
    }
}

/// Groups come with their settings.
#[test]
fn groups_of_a_java_broker_are_known() {
    let f = Fixture::open("clean-5.5.0", "groups");
    for group in ["GoldenOrderly", "GoldenPartial", "GoldenPush", "GoldenSql"] {
        assert!(f.broker.groups.get(group).is_some(), "{group}");
    }
}
