//! Counters: with rates over the last ten seconds, minute and ten minutes for the runtime table,
//! with sums of the last minute, hour and day for 315. Java: `StoreStatsService`,
//! `BrokerStatsManager`.
//!
//! Counting is atomic addition; a background thread samples every ten seconds.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::{Mutex, RwLock};

/// Samples that are kept: ten minutes at one in ten seconds, and one before.
const SAMPLES: usize = 61;

/// A counter that remembers its recent past.
#[derive(Default)]
pub struct Rate {
    total: AtomicU64,
    samples: Mutex<VecDeque<(i64, u64)>>,
}

impl Rate {
    /// Counts.
    pub fn add(&self, count: u64) {
        self.total.fetch_add(count, Ordering::Relaxed);
    }

    /// Everything counted since the start.
    pub fn total(&self) -> u64 {
        self.total.load(Ordering::Relaxed)
    }

    /// Remembers the value of this moment.
    pub fn sample(&self, now_ms: i64) {
        let mut samples = self.samples.lock();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back((now_ms, self.total()));
    }

    /// Count per second over at most the last `seconds`.
    pub fn per_second(&self, now_ms: i64, seconds: i64) -> f64 {
        let samples = self.samples.lock();
        let since = now_ms - seconds * 1000 - 1500; // a sample may be taken a little late
        let Some((at, total)) = samples.iter().find(|(at, _)| *at >= since) else { return 0.0 };
        let elapsed = (now_ms - at).max(1) as f64 / 1000.0;
        // Within the first moments a rate means nothing.
        if elapsed < 1.0 { 0.0 } else { (self.total() - total) as f64 / elapsed }
    }

    /// Java's three numbers: ten seconds, a minute, ten minutes.
    pub fn three(&self, now_ms: i64) -> String {
        let rate = |seconds| java_double(self.per_second(now_ms, seconds));
        format!("{} {} {}", rate(10), rate(60), rate(600))
    }
}

/// A number as Java's `Double.toString` shows it, well enough for its readers.
pub fn java_double(number: f64) -> String {
    format!("{number:?}")
}

/// What was counted of one thing since the broker started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages.
    pub messages: u64,
    /// Bytes of records.
    pub bytes: u64,
    /// Requests: a batch is one.
    pub times: u64,
}

/// What 315 tells of one span of time. Java: `StatsSnapshot`.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figure {
    /// Count within the span.
    pub sum: u64,
    /// Count per second.
    pub tps: f64,
    /// Count per request.
    pub avgpt: f64,
}

/// Which count of a [`Totals`] is meant.
pub type Count = fn(&Totals) -> u64;

/// Milliseconds between two samples of a span, and how many make it. Java: `StatsItem`.
const SPANS: [(i64, usize); 3] = [(10_000, 6), (600_000, 6), (3_600_000, 24)];
/// How much too early a sample may be, since the housekeeping thread was late the last time.
const SLACK_MS: i64 = 5000;

/// The recent past of a count: the last minute, hour and day. Java: `StatsItem`, whose hour and
/// day are as old as their last sample; here the present counts too.
#[derive(Default)]
pub struct History([VecDeque<(i64, Totals)>; 3]);

impl History {
    /// Remembers `now` in every span whose next sample is due.
    fn sample(&mut self, now_ms: i64, now: Totals) {
        for ((every_ms, keep), samples) in SPANS.iter().zip(&mut self.0) {
            if samples.is_empty() {
                // As in Java: what came before the first sample came within one step.
                samples.push_back((now_ms - every_ms, Totals::default()));
            }
            if samples.back().is_some_and(|(at, _)| now_ms - at < every_ms - SLACK_MS) {
                continue;
            }
            samples.push_back((now_ms, now));
            if samples.len() > keep + 1 {
                samples.pop_front();
            }
        }
    }

    /// Minute, hour and day up to now.
    fn figures(&self, now_ms: i64, now: Totals, count: Count) -> [Figure; 3] {
        let mut figures = [Figure::default(); 3];
        for (((every_ms, keep), samples), figure) in SPANS.iter().zip(&self.0).zip(&mut figures) {
            // Of the two oldest samples the one nearer to a whole span before now.
            let old = now_ms - every_ms * *keep as i64 + every_ms / 2;
            let second = samples.get(1).filter(|(at, _)| *at < old);
            let first = second.or(samples.front()).copied();
            let (at, first) = first.unwrap_or((now_ms - every_ms, Totals::default()));
            let sum = count(&now).saturating_sub(count(&first));
            let times = now.times.saturating_sub(first.times);
            *figure = Figure {
                sum,
                tps: sum as f64 * 1000.0 / (now_ms - at).max(1) as f64,
                avgpt: if times == 0 { 0.0 } else { sum as f64 / times as f64 },
            };
        }
        figures
    }
}

/// Counters of messages that pass one point, with their recent past. Counting is three atomic
/// additions and never waits.
#[derive(Default)]
pub struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    times: AtomicU64,
    history: Mutex<History>,
}

impl Traffic {
    /// Counts what one request moved.
    pub fn add(&self, messages: u64, bytes: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Relaxed);
    }

    /// Everything counted since the start.
    pub fn totals(&self) -> Totals {
        Totals {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            times: self.times.load(Ordering::Relaxed),
        }
    }

    /// Remembers the values of this moment; what never moved costs nothing.
    pub fn sample(&self, now_ms: i64) {
        let totals = self.totals();
        if totals.times > 0 {
            self.history.lock().sample(now_ms, totals);
        }
    }

    /// Minute, hour and day; `None` before the first request, as Java has no item then.
    pub fn figures(&self, now_ms: i64, count: Count) -> Option<[Figure; 3]> {
        let totals = self.totals();
        (totals.times > 0).then(|| self.history.lock().figures(now_ms, totals, count))
    }

    /// Messages per second in the last minute.
    pub fn tps(&self, now_ms: i64) -> f64 {
        let figures = self.figures(now_ms, |totals| totals.messages);
        figures.map_or(0.0, |[minute, ..]| minute.tps)
    }
}

/// How the transactions of a topic ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TransactionEnds {
    /// Half messages that were committed.
    pub commits: u64,
    /// Half messages that were rolled back.
    pub rollbacks: u64,
}

/// What a group does with a topic.
#[derive(Default)]
pub struct GroupTraffic {
    /// What it got.
    pub gets: Traffic,
    /// What it gave back for a retry.
    pub send_backs: Traffic,
}

/// Totals at the last two midnights (UTC). Java: `BrokerStats`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Days {
    day: i64,
    /// Messages put and got when yesterday began.
    pub yesterday: (u64, u64),
    /// Messages put and got when today began.
    pub today: (u64, u64),
}

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

type ByTopic = HashMap<String, Arc<GroupTraffic>, RandomState>;

/// The counters of a broker.
#[derive(Default)]
pub struct Stats {
    /// Messages put, also those of the system.
    pub puts: Rate,
    /// Bytes put.
    pub put_bytes: Rate,
    /// Refused puts.
    pub puts_failed: Rate,
    /// Messages that pulls got.
    pub gets: Rate,
    /// Pulls that found something.
    pub gets_found: Rate,
    /// Pulls that found nothing.
    pub gets_missed: Rate,
    /// Popped messages that were acknowledged.
    pub acks: Rate,
    /// Messages put to topics of users, and their bytes.
    pub user_puts: Traffic,
    /// Messages got by groups of users, and their bytes.
    pub user_gets: Traffic,
    all_puts: Mutex<History>,
    transaction_ends: Mutex<BTreeMap<String, TransactionEnds>>,
    days: Mutex<Days>,
    groups: RwLock<HashMap<String, ByTopic, RandomState>>,
}

impl Stats {
    /// The counters of a group and topic; made when missing.
    pub fn group(&self, group: &str, topic: &str) -> Arc<GroupTraffic> {
        if let Some(known) = self.known_group(group, topic) {
            return known;
        }
        let mut groups = self.groups.write();
        let topics = groups.entry(group.to_owned()).or_default();
        Arc::clone(topics.entry(topic.to_owned()).or_default())
    }

    /// The counters of a group and topic, if there are any.
    pub fn known_group(&self, group: &str, topic: &str) -> Option<Arc<GroupTraffic>> {
        self.groups.read().get(group)?.get(topic).cloned()
    }

    /// Every group and topic, with their counters; sorted.
    pub fn all_groups(&self) -> Vec<(String, String, Arc<GroupTraffic>)> {
        let groups = self.groups.read();
        let of_group = |(group, topics): (&String, &ByTopic)| {
            let of_topic = |(topic, traffic): (&String, &Arc<GroupTraffic>)| {
                (group.clone(), topic.clone(), Arc::clone(traffic))
            };
            topics.iter().map(of_topic).collect::<Vec<_>>()
        };
        let mut all: Vec<_> = groups.iter().flat_map(of_group).collect();
        all.sort_unstable_by(|one, other| (&one.0, &one.1).cmp(&(&other.0, &other.1)));
        all
    }

    /// Counts the end of a transaction.
    pub fn transaction_ended(&self, topic: &str, committed: bool) {
        let mut ends = self.transaction_ends.lock();
        if !ends.contains_key(topic) {
            ends.insert(topic.to_owned(), TransactionEnds::default());
        }
        if let Some(ends) = ends.get_mut(topic) {
            ends.commits += u64::from(committed);
            ends.rollbacks += u64::from(!committed);
        }
    }

    /// How the transactions of each topic ended.
    pub fn transaction_ends(&self) -> Vec<(String, TransactionEnds)> {
        self.transaction_ends.lock().iter().map(|(topic, ends)| (topic.clone(), *ends)).collect()
    }

    /// Messages per second that a group got of a topic in the last minute.
    pub fn group_tps(&self, group: &str, topic: &str, now_ms: i64) -> f64 {
        self.known_group(group, topic).map_or(0.0, |group| group.gets.tps(now_ms))
    }

    /// Minute, hour and day of all puts, those of the system included.
    pub fn all_puts(&self, now_ms: i64) -> [Figure; 3] {
        self.all_puts.lock().figures(now_ms, self.all_totals(), |totals| totals.messages)
    }

    fn all_totals(&self) -> Totals {
        Totals { messages: self.puts.total(), bytes: self.put_bytes.total(), times: 0 }
    }

    /// Totals at the last two midnights.
    pub fn days(&self) -> Days {
        *self.days.lock()
    }

    /// Forgets the counters of a deleted group.
    pub fn forget_group(&self, group: &str) {
        self.groups.write().remove(group);
    }

    /// Forgets the counters of a deleted topic.
    pub fn forget_topic(&self, topic: &str) {
        self.groups.write().values_mut().for_each(|topics| drop(topics.remove(topic)));
    }

    /// Samples everything.
    pub fn sample(&self, now_ms: i64) {
        let own = [
            &self.puts,
            &self.put_bytes,
            &self.puts_failed,
            &self.gets,
            &self.gets_found,
            &self.gets_missed,
        ];
        own.iter().for_each(|rate| rate.sample(now_ms));
        self.user_puts.sample(now_ms);
        self.user_gets.sample(now_ms);
        self.all_puts.lock().sample(now_ms, self.all_totals());
        for group in self.groups.read().values().flat_map(HashMap::values) {
            group.gets.sample(now_ms);
            group.send_backs.sample(now_ms);
        }
        self.begin_day(now_ms / DAY_MS);
    }

    fn begin_day(&self, day: i64) {
        let mut days = self.days.lock();
        if days.day != day {
            let (puts, gets) = (self.user_puts.totals().messages, self.user_gets.totals().messages);
            // A start is no midnight: today begins with nothing.
            let today = if days.day == 0 { (0, 0) } else { (puts, gets) };
            *days = Days { day, yesterday: days.today, today };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_cover_their_window() {
        let rate = Rate::default();
        for second in 0..=12 {
            rate.sample(second * 10_000);
            rate.add(100);
        }
        let now = 125_000;
        assert!((rate.per_second(now, 10) - 100.0 / 5.0).abs() < 20.0);
        assert!((rate.per_second(now, 60) - 10.0).abs() < 2.0);
        assert_eq!(rate.total(), 1300);
        assert_eq!(Rate::default().three(5), "0.0 0.0 0.0");
    }

    /// Sums of minute, hour and day.
    fn sums(traffic: &Traffic, now_ms: i64) -> [u64; 3] {
        traffic.figures(now_ms, |totals| totals.messages).expect("counted").map(|f| f.sum)
    }

    #[test]
    fn figures_cover_minute_hour_and_day() {
        let traffic = Traffic::default();
        assert_eq!(traffic.figures(0, |totals| totals.messages), None);
        traffic.add(8, 800);
        let first = traffic.figures(0, |totals| totals.bytes).expect("counted");
        let same_sum = first.map(|figure| figure.sum);
        assert_eq!((same_sum, first[0].tps, first[0].avgpt), ([800; 3], 80.0, 800.0));
        // Ten messages a second for two days, in batches of five.
        let mut now_ms = 0;
        while now_ms < 2 * DAY_MS {
            traffic.sample(now_ms);
            now_ms += 10_000;
            (0..20).for_each(|_| traffic.add(5, 50));
        }
        let [minute, hour, day] = sums(&traffic, now_ms);
        assert_eq!(minute, 600);
        assert!((33_000..=39_000).contains(&hour), "{hour}");
        assert!((846_000..=882_000).contains(&day), "{day}");
        let figures = traffic.figures(now_ms, |totals| totals.messages).expect("counted");
        assert!(figures.iter().all(|f| (f.tps - 10.0).abs() < 0.1 && f.avgpt == 5.0));
        // And two days of silence later nothing.
        for step in 0..2 * DAY_MS / 10_000 {
            traffic.sample(now_ms + step * 10_000);
        }
        assert_eq!(sums(&traffic, now_ms + 2 * DAY_MS), [0; 3]);
    }

    #[test]
    fn midnights_are_remembered() {
        let stats = Stats::default();
        let noon = 20_000 * DAY_MS + DAY_MS / 2;
        for (day, puts) in [(0, 3), (1, 4), (2, 5)] {
            stats.sample(noon + day * DAY_MS);
            stats.user_puts.add(puts, 0);
        }
        assert_eq!((stats.days().yesterday.0, stats.days().today.0), (3, 7));
    }
}
