//! Pop against a plain model, on a stepped clock: random pops, words of consumers, time, kills.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::clock::Clock;
use broker::config::BrokerConfig;
use broker::handlers;
use broker::pop::in_flight::{Single, Times};
use broker::pop::take::{Kind, Pop, take};
use broker::put::put;
use broker::register::Registrar;
use broker::state::Broker;
use broker::turn::Turn;
use filter::Filter;
use net::Service;
use wire::body::{GroupConfig, TopicConfig};
use wire::properties::{Known, get};
use wire::record::{self, NewRecord};
use wire::text::crc31;

const START_MS: i64 = 1_795_000_000_000;
const QUEUES: i32 = 3;
const MAX_TIMES: i32 = 3;

/// What a client would send to speak of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Receipt {
    topic: String,
    queue_id: i32,
    offset: i64,
    pop_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// May be popped, with so many attempts counted.
    Visible(i32),
    /// Out until then.
    Flight {
        receipt: Receipt,
        due_ms: i64,
        times: i32,
        suspended: bool,
    },
    Acked,
    Dead,
}

struct Fixture {
    dir: PathBuf,
    clock: Clock,
    broker: Arc<Broker>,
    turn: Turn,
    model: BTreeMap<u64, State>,
    /// Receipts that are no good any more.
    stale: Vec<Receipt>,
    next: u64,
    seed: u64,
}

fn open(dir: &Path, clock: &Clock) -> (Arc<Broker>, Turn) {
    let mut config = BrokerConfig::default();
    config.put("storePathRootDir", &dir.display().to_string()).expect("path");
    config.put("mappedFileSizeCommitLog", "4194304").expect("size");
    config.put("messageIndexEnable", "false").expect("index");
    let broker = Broker::open(config, None, clock.clone(), Registrar::new(None), 1).expect("open");
    let turn = Turn::new(Arc::clone(&broker), Arc::new(handlers::router()));
    (broker, turn)
}

impl Fixture {
    fn new(name: &str, seed: u64) -> Fixture {
        let dir = std::env::temp_dir().join(format!("apogee-pop-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let clock = Clock::manual(START_MS);
        let (broker, turn) = open(&dir, &clock);
        let topic = TopicConfig {
            topic_name: "T".into(),
            read_queue_nums: QUEUES,
            write_queue_nums: QUEUES,
            ..TopicConfig::default()
        };
        broker.topics.put(vec![topic]).expect("topic");
        let group = GroupConfig {
            group_name: "g".into(),
            retry_max_times: MAX_TIMES,
            ..GroupConfig::default()
        };
        broker.groups.put(vec![group]).expect("group");
        let (model, stale) = (BTreeMap::new(), Vec::new());
        Fixture { dir, clock, broker, turn, model, stale, next: 0, seed }
    }

    fn random(&mut self, below: u64) -> u64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        (self.seed >> 33) % below
    }

    fn send(&mut self) {
        let host = "127.0.0.1:1".parse().expect("address");
        let queue_id = self.random(QUEUES as u64) as i32;
        let queue = self.broker.topics.queue("T", queue_id).expect("queue");
        let body = self.next.to_string();
        let new = NewRecord {
            topic: "T",
            queue_id,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_offset: 0,
            body: body.as_bytes(),
            body_crc: crc31(body.as_bytes()),
            properties: "",
        };
        let config = self.broker.config();
        put(&mut self.turn, &self.broker, &config, &queue, new, &Known::default()).expect("stored");
        self.model.insert(self.next, State::Visible(0));
        self.next += 1;
    }

    /// One turn; what is due comes back.
    fn turn(&mut self) {
        self.turn.now_ms = self.clock.now_ms();
        self.turn.turn_end().expect("turn");
        let now = self.clock.now_ms();
        for state in self.model.values_mut() {
            if let State::Flight { receipt, due_ms, times, suspended } = state
                && *due_ms <= now
            {
                self.stale.push(receipt.clone());
                *state = match *times {
                    MAX_TIMES if !*suspended => State::Dead,
                    times => State::Visible(times + i32::from(!*suspended)),
                };
            }
        }
    }

    fn pop(&mut self, invisible_ms: i64) {
        let max_messages = 1 + self.random(32) as usize;
        let queue_id = if self.random(4) == 0 { self.random(QUEUES as u64) as i32 } else { -1 };
        let pop = Pop {
            kind: Kind::Take,
            group: Arc::from("g"),
            topic: Arc::from("T"),
            queue_id,
            max_messages,
            invisible_ms,
            order: false,
            attempt: None,
            from_min: true,
            filter: Arc::new(Filter::default()),
        };
        let mut records = Vec::new();
        let now = self.clock.now_ms();
        self.turn.now_ms = now;
        let taken = take(&self.turn, &self.broker, &pop, &mut records);
        assert!(taken.cold.is_none() && !taken.unfinished && taken.messages <= max_messages);
        for record in record::records(&records) {
            let record = record.expect("record");
            let number: u64 = std::str::from_utf8(record.body()).expect("text").parse().expect("n");
            let retried = get(record.properties(), "POP_CK").is_some();
            assert_eq!(record.topic(), "T");
            let receipt = Receipt {
                topic: if retried { "%RETRY%g_T".into() } else { "T".into() },
                queue_id: record.queue_id(),
                offset: record.queue_offset(),
                pop_ms: now,
            };
            let times = record.reconsume_times();
            let state = self.model.get_mut(&number).expect("known");
            assert_eq!(*state, State::Visible(times), "message {number} at {now}");
            let due_ms = now + invisible_ms;
            *state = State::Flight { receipt, due_ms, times, suspended: false };
        }
        if taken.messages < max_messages && queue_id == -1 {
            let left = self.model.iter().find(|(_, state)| matches!(state, State::Visible(_)));
            assert_eq!(left, None, "a pop over all queues leaves nothing visible behind");
        }
    }

    fn some_in_flight(&mut self) -> Option<(u64, Receipt)> {
        let from = self.random(self.next.max(1));
        let mut flights = self.model.range(from..).chain(self.model.range(..from));
        flights.find_map(|(number, state)| match state {
            State::Flight { receipt, .. } => Some((*number, receipt.clone())),
            _ => None,
        })
    }

    fn ack(&mut self) {
        let Some((number, receipt)) = self.some_in_flight() else { return };
        let state = self.broker.pops.existing("g", &receipt.topic).expect("popped");
        let (queue, offset) = (receipt.queue_id, receipt.offset);
        assert!(self.broker.pops.ack(&state, queue, offset, receipt.pop_ms));
        assert!(!self.broker.pops.ack(&state, queue, offset, receipt.pop_ms), "only once");
        self.model.insert(number, State::Acked);
        self.stale.push(receipt);
    }

    fn stale_word(&mut self) {
        if self.stale.is_empty() {
            return;
        }
        let index = self.random(self.stale.len() as u64) as usize;
        let receipt = self.stale.swap_remove(index);
        let state = self.broker.pops.existing("g", &receipt.topic).expect("popped");
        let (queue, offset) = (receipt.queue_id, receipt.offset);
        assert!(!self.broker.pops.ack(&state, queue, offset, receipt.pop_ms));
        let times = Times { pop_ms: self.clock.now_ms(), due_ms: 0 };
        let single = Single { times, suspended: false };
        let changed = self.broker.pops.change(&state, queue, offset, receipt.pop_ms, single);
        assert_eq!(changed, None);
    }

    fn change(&mut self) {
        let Some((number, receipt)) = self.some_in_flight() else { return };
        let now = self.clock.now_ms();
        let due_ms = now + self.random(2000) as i64;
        let suspended = self.random(3) == 0;
        let single = Single { times: Times { pop_ms: now, due_ms }, suspended };
        let state = self.broker.pops.existing("g", &receipt.topic).expect("popped");
        let (queue, offset) = (receipt.queue_id, receipt.offset);
        let pop_ms = self.broker.pops.change(&state, queue, offset, receipt.pop_ms, single);
        let pop_ms = pop_ms.expect("a good receipt");
        assert!(pop_ms >= now && pop_ms > receipt.pop_ms);
        self.stale.push(receipt.clone());
        let Some(State::Flight { times, .. }) = self.model.get(&number).cloned() else { return };
        let receipt = Receipt { pop_ms, ..receipt };
        self.model.insert(number, State::Flight { receipt, due_ms, times, suspended });
    }

    /// As a kill would leave it, or as an orderly end does.
    fn reopen(&mut self, kill: bool) {
        if kill {
            self.broker.store.abandon();
        } else {
            self.broker.close().expect("close");
        }
        (self.broker, self.turn) = open(&self.dir, &self.clock);
    }

    /// The offset that others would go on from is never behind an open message.
    fn check_committed(&self) {
        for queue_id in 0..QUEUES {
            let open = self.model.values().filter_map(|state| match state {
                State::Flight { receipt, .. } if receipt.topic == "T" => Some(receipt),
                _ => None,
            });
            let open = open.filter(|r| r.queue_id == queue_id).map(|r| r.offset).min();
            let committed = self.broker.offsets.get("g", "T", queue_id).unwrap_or(0);
            assert!(open.is_none_or(|open| committed <= open), "{committed} {open:?}");
        }
        let flights = self.model.values().filter(|s| matches!(s, State::Flight { .. })).count();
        assert_eq!(self.broker.pops.in_flight(), flights);
    }

    fn dead(&self) -> usize {
        let queue = self.broker.topics.queue("%DLQ%g", 0);
        queue.map_or(0, |queue| queue.queue.next_offset() as usize)
    }

    fn forget_settled(&mut self) -> usize {
        let dead = self.model.values().filter(|state| **state == State::Dead).count();
        self.model.retain(|_, state| !matches!(state, State::Acked | State::Dead));
        self.stale.clear();
        dead
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.broker.store.abandon();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn seed() -> u64 {
    std::env::var("APOGEE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(42)
}

#[test]
fn pop_is_its_model() {
    let mut f = Fixture::new("model", seed());
    println!("APOGEE_SEED={}", seed());
    let (mut kills, mut dead) = (0, 0);
    for step in 0..100_000 {
        match f.random(100) {
            0..20 => f.send(),
            20..40 => {
                let invisible_ms = 1 + f.random(1500) as i64;
                f.pop(invisible_ms);
            }
            40..62 => f.ack(),
            62..68 => f.change(),
            68..72 => f.stale_word(),
            72..90 => {
                let by = f.random(150) as i64;
                f.clock.advance(by);
            }
            90 if step % 50 == 0 => f.broker.pops.housekeeping(),
            91 if step % 20 == 0 => {
                f.turn();
                let kill = f.random(4) > 0;
                f.reopen(kill);
                kills += u32::from(kill);
            }
            _ => {}
        }
        f.turn();
        if step % 100 == 0 {
            f.check_committed();
        }
        if f.model.len() > 400 {
            dead += f.forget_settled();
        }
    }
    dead += f.forget_settled();
    assert_eq!(f.dead(), dead, "each dead message once");
    assert!(kills > 10 && dead > 100, "{kills} kills, {dead} dead");
}

#[test]
fn a_lost_end_of_the_journal_repeats_and_loses_nothing() {
    for round in 0..40 {
        let mut f = Fixture::new("lost-end", seed() + round);
        for _ in 0..300 {
            match f.random(10) {
                0..4 => f.send(),
                4..6 => f.pop(1000),
                6..9 => f.ack(),
                _ => f.clock.advance(7),
            }
            f.turn();
        }
        f.broker.store.abandon();
        let journal = f.dir.join("apogee-pop");
        let newest =
            std::fs::read_dir(&journal).expect("journal").map(|e| e.expect("entry").path());
        let newest = newest.max().expect("a file");
        let bytes = std::fs::read(&newest).expect("read");
        let cut = f.random(bytes.len() as u64) as usize;
        std::fs::write(&newest, &bytes[..cut]).expect("cut");
        // Offsets are saved by other means, and only up to what was settled.
        f.broker.offsets.save();
        (f.broker, f.turn) = open(&f.dir, &f.clock);
        f.clock.advance(10_000);
        f.turn.now_ms = f.clock.now_ms();
        f.turn.turn_end().expect("turn");
        f.turn.turn_end().expect("turn");
        let mut seen = std::collections::BTreeSet::new();
        loop {
            let pop = Pop {
                kind: Kind::Take,
                group: Arc::from("g"),
                topic: Arc::from("T"),
                queue_id: -1,
                max_messages: 32,
                invisible_ms: 60_000,
                order: false,
                attempt: None,
                from_min: true,
                filter: Arc::new(Filter::default()),
            };
            let mut records = Vec::new();
            if take(&f.turn, &f.broker, &pop, &mut records).messages == 0 {
                break;
            }
            for record in record::records(&records) {
                let body = record.expect("record").body().to_vec();
                seen.insert(String::from_utf8(body).expect("text").parse::<u64>().expect("n"));
            }
        }
        for (number, state) in &f.model {
            let open = !matches!(state, State::Acked | State::Dead);
            assert!(!open || seen.contains(number), "round {round}: {number} {state:?} is lost");
        }
    }
}

/// Its offsets count, also smaller ones, and our journal does not; until a pop here.
#[test]
fn what_a_java_broker_did_since_counts() {
    let mut f = Fixture::new("java-was-here", seed());
    (0..90).for_each(|_| f.send());
    f.turn();
    f.pop(60_000);
    f.pop(60_000);
    f.ack();
    f.turn();
    assert!(f.broker.pops.in_flight() > 0);
    f.broker.close().expect("close");
    let lock = f.dir.join("lock");
    assert_eq!(std::fs::read(&lock).expect("lock"), b"APOG");
    std::fs::write(&lock, b"lock").expect("a Java broker starts");
    let offsets = r#"{"offsetTable":{"T@g":{0:0,1:3,2:4}}}"#;
    std::fs::write(f.dir.join("config/consumerOffset.json"), offsets).expect("offsets");
    (f.broker, f.turn) = open(&f.dir, &f.clock);
    assert_eq!(f.broker.pops.in_flight(), 0);
    for (queue_id, wanted) in [0, 3, 4].into_iter().enumerate() {
        assert_eq!(f.broker.offsets.get("g", "T", queue_id as i32), Some(wanted));
    }
    // Everything from there on may be popped, and is in flight for good after a kill.
    f.model.values_mut().for_each(|state| *state = State::Visible(0));
    f.pop(60_000);
    f.turn();
    let flights = f.broker.pops.in_flight();
    assert!(flights > 0);
    f.reopen(true);
    assert_eq!(f.broker.pops.in_flight(), flights);
}
