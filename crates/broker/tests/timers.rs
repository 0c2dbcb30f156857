//! Timers on a stepped clock: days take milliseconds.

use std::path::PathBuf;
use std::sync::Arc;

use base::clock::Clock;
use broker::config::BrokerConfig;
use broker::handlers;
use broker::put::put;
use broker::register::Registrar;
use broker::state::Broker;
use broker::turn::Turn;
use net::Service;
use wire::body::TopicConfig;
use wire::properties::Known;
use wire::record::NewRecord;
use wire::text::crc31;

const DAY_MS: i64 = 86_400_000;
const START_MS: i64 = 1_795_000_000_000;

struct Fixture {
    dir: PathBuf,
    clock: Clock,
    broker: Arc<Broker>,
    turn: Turn,
}

impl Fixture {
    fn new(name: &str) -> Fixture {
        let dir = std::env::temp_dir().join(format!("apogee-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        let clock = Clock::manual(START_MS);
        let (broker, turn) = open(&dir, &clock);
        let config = TopicConfig {
            topic_name: "T".into(),
            read_queue_nums: 1,
            write_queue_nums: 1,
            ..TopicConfig::default()
        };
        broker.topics.put(vec![config]).expect("topic");
        Fixture { dir, clock, broker, turn }
    }

    fn send(&mut self, property: &str, value: i64) {
        let text = format!("{property}\u{1}{value}\u{2}");
        let host = "127.0.0.1:1".parse().expect("address");
        let queue = self.broker.topics.queue("T", 0).expect("queue");
        let new = NewRecord {
            topic: "T",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 0,
            born_host: host,
            store_host: host,
            reconsume_times: 0,
            prepared_offset: 0,
            body: b"x",
            body_crc: crc31(b"x"),
            properties: &text,
        };
        self.turn.now_ms = self.clock.now_ms();
        let config = self.broker.config();
        let known = Known::scan(&text);
        put(&mut self.turn, &self.broker, &config, &queue, new, &known).expect("stored");
        self.turn();
    }

    fn turn(&mut self) {
        self.turn.turn_end().expect("turn");
    }

    fn delivered(&self) -> i64 {
        self.broker.topics.queue("T", 0).expect("queue").queue.next_offset()
    }

    fn wheel(&self) -> i64 {
        let queue = self.broker.topics.queue("rmq_sys_wheel_timer", 0).expect("queue");
        queue.queue.next_offset()
    }

    /// As a kill would leave it.
    fn reopen(&mut self) {
        self.broker.store.abandon();
        (self.broker, self.turn) = open(&self.dir, &self.clock);
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn open(dir: &std::path::Path, clock: &Clock) -> (Arc<Broker>, Turn) {
    let mut config = BrokerConfig::default();
    config.put("storePathRootDir", &dir.display().to_string()).expect("path");
    config.put("timerMaxDelaySec", "31536000").expect("limit");
    config.put("mappedFileSizeCommitLog", "1048576").expect("size");
    config.put("messageIndexEnable", "false").expect("index");
    let broker = Broker::open(config, None, clock.clone(), Registrar::new(None), 1).expect("open");
    let turn = Turn::new(Arc::clone(&broker), Arc::new(handlers::router()));
    (broker, turn)
}

#[test]
fn three_days_are_three_days() {
    let mut f = Fixture::new("three-days");
    f.send("TIMER_DELAY_SEC", 3 * 86_400);
    f.clock.advance(3 * DAY_MS - 1);
    f.turn();
    assert_eq!(f.delivered(), 0);
    f.clock.advance(2);
    f.turn();
    assert_eq!(f.delivered(), 1);
    f.reopen();
    f.clock.advance(DAY_MS);
    f.turn();
    assert_eq!(f.delivered(), 1, "delivered once, also over a kill");
}

#[test]
fn b42_a_month_is_written_again_before_its_record_expires() {
    let mut f = Fixture::new("a-month");
    f.send("TIMER_DELAY_SEC", 30 * 86_400);
    f.send("TIMER_DELAY_SEC", 1);
    for day in 1..30 {
        f.clock.advance(DAY_MS);
        f.turn();
        if day % 7 == 0 {
            f.reopen();
            f.turn();
        }
        assert_eq!(f.delivered(), 1, "day {day}");
        assert_eq!(f.broker.timers.count(), 1, "day {day}");
    }
    // At 36 hours, half of what the log is kept.
    assert!((14..=17).contains(&(f.wheel() - 2)), "written {} times again", f.wheel() - 2);
    f.clock.advance(DAY_MS + 2);
    f.turn();
    f.turn();
    assert_eq!((f.delivered(), f.broker.timers.count()), (2, 0));
}

#[test]
fn a_clock_set_back_loses_nothing() {
    let mut f = Fixture::new("set-back");
    f.send("TIMER_DELAY_MS", 5000);
    f.clock.advance(6000);
    f.turn();
    assert_eq!(f.delivered(), 1);
    f.clock.advance(-10_000);
    f.send("TIMER_DELAY_MS", 1000);
    f.reopen();
    f.clock.advance(1002);
    f.turn();
    assert_eq!(f.delivered(), 2);
}

/// What a Java broker says in `timercheck` counts when it was here since, and only then: it has
/// delivered what it had put into its wheel and what was due before the time it has reached.
#[test]
fn what_a_java_broker_delivered_since_is_not_delivered_again() {
    let mut f = Fixture::new("java-delivered");
    for seconds in [5, 6, 20, 5, 86_400] {
        f.send("TIMER_DELAY_SEC", seconds);
    }
    f.broker.close().expect("close");
    let check = f.dir.join("config/timercheck");
    let field = |bytes: &[u8], at: usize| {
        i64::from_be_bytes(bytes[8 * at..8 * at + 8].try_into().expect("eight bytes"))
    };
    let mut bytes = std::fs::read(&check).expect("left to Java");
    assert_eq!((field(&bytes, 0), field(&bytes, 2)), (START_MS, 5));
    assert_eq!(std::fs::metadata(f.dir.join("timerwheel")).expect("wheel").len(), 38_707_200);
    // It ran for ten seconds and did not come to the last two records.
    bytes[..8].copy_from_slice(&(START_MS + 10_000).to_be_bytes());
    bytes[16..24].copy_from_slice(&3_i64.to_be_bytes());
    std::fs::write(&check, bytes).expect("a Java broker");
    f.clock.advance(12_000);
    (f.broker, f.turn) = open(&f.dir, &f.clock);
    assert_eq!(f.broker.timers.count(), 3);
    f.turn();
    assert_eq!(f.delivered(), 1, "the one that it had not put into its wheel");
    f.clock.advance(10_000);
    f.turn();
    assert_eq!(f.delivered(), 2);
    // Its wheel is of no use any more once the log says what it had delivered.
    f.broker.store.commit().expect("commit");
    f.broker.store.flush().expect("flush");
    (0..3).for_each(|_| f.broker.timers.save(&f.broker, f.clock.now_ms()));
    assert!(!f.dir.join("timerwheel").exists());
    f.reopen();
    f.turn();
    assert_eq!((f.delivered(), f.broker.timers.count()), (2, 1));
}
