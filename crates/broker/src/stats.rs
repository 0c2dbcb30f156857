//! Counters with rates over the last ten seconds, minute and ten minutes.
//!
//! Counting is one atomic addition; a background thread samples every ten seconds.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// The counters of a broker.
#[derive(Default)]
pub struct Stats {
    /// Messages put.
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
    groups: RwLock<HashMap<(String, String), Arc<Rate>>>,
}

impl Stats {
    /// Counts messages that a group got of a topic.
    pub fn add_group_get(&self, group: &str, topic: &str, count: u64) {
        self.group_get(group, topic).add(count);
    }

    /// The counter of a group and topic.
    pub fn group_get(&self, group: &str, topic: &str) -> Arc<Rate> {
        let key = (group.to_owned(), topic.to_owned());
        if let Some(rate) = self.groups.read().get(&key) {
            return Arc::clone(rate);
        }
        Arc::clone(self.groups.write().entry(key).or_default())
    }

    /// Forgets the counters of a deleted topic or group.
    pub fn forget(&self, name: &str) {
        self.groups.write().retain(|(group, topic), _| group != name && topic != name);
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
        self.groups.read().values().for_each(|rate| rate.sample(now_ms));
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
}
