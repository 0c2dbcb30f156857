//! How many messages of each topic wait for their time, for 61 and from one run to the next.
//! Java: `TimerMetrics` and its file `config/timermetrics`.
//!
//! The numbers of the last seconds before a kill are lost, as in Java; when nothing waits any
//! more they start over.

use std::collections::BTreeMap;
use std::path::PathBuf;

use parking_lot::Mutex;
use wire::body::{DataVersion, Member};
use wire::json::{Value, object};

/// Waiting messages of a topic, and when that last changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Metric {
    count: i64,
    changed_ms: i64,
}

#[derive(Default)]
struct Table {
    topics: BTreeMap<String, Metric>,
    version: DataVersion,
    dirty: bool,
}

/// The table with its file.
pub struct TimerMetrics {
    table: Mutex<Table>,
    path: PathBuf,
}

impl TimerMetrics {
    /// Reads the file; one that cannot be read counts as none, since these are only figures.
    pub fn load(path: PathBuf) -> TimerMetrics {
        let file = store::config_file::load(&path, Value::parse).unwrap_or_else(|error| {
            tracing::warn!(%error, "the counts of waiting messages are lost");
            None
        });
        let mut table = Table::default();
        if let Some(file) = file {
            table.version = file.get("dataVersion").and_then(Member::read).unwrap_or_default();
            for (topic, metric) in file.get("timingCount").map_or(&[][..], Value::pairs) {
                let number = |name| metric.get(name).and_then(Value::int).unwrap_or(0);
                let metric = Metric { count: number("count"), changed_ms: number("timeStamp") };
                table.topics.extend(topic.text().map(|topic| (topic, metric)));
            }
        }
        TimerMetrics { table: Mutex::new(table), path }
    }

    /// Counts messages that begin (+1) or end (-1) to wait.
    pub fn add(&self, topic: &str, count: i64, now_ms: i64) {
        let table = &mut *self.table.lock();
        if !table.topics.contains_key(topic) {
            table.topics.insert(topic.to_owned(), Metric::default());
        }
        if let Some(metric) = table.topics.get_mut(topic) {
            *metric = Metric { count: (metric.count + count).max(0), changed_ms: now_ms };
        }
        table.version.advance(now_ms);
        table.dirty = true;
    }

    /// Waiting messages of each topic.
    pub fn counts(&self) -> Vec<(String, i64)> {
        let table = self.table.lock();
        table.topics.iter().map(|(topic, metric)| (topic.clone(), metric.count)).collect()
    }

    /// The table in Java's shape.
    pub fn body(&self) -> Value {
        let table = self.table.lock();
        let topics = table.topics.iter().map(|(topic, metric)| {
            let shown = object([("count", metric.count), ("timeStamp", metric.changed_ms)]);
            (topic.as_str(), shown)
        });
        object([("dataVersion", table.version.write()), ("timingCount", object(topics))])
    }

    /// Writes the file if anything changed; `waiting` is how many messages wait in truth.
    pub fn save(&self, waiting: usize) {
        {
            let mut table = self.table.lock();
            if waiting == 0 && table.topics.values().any(|metric| metric.count > 0) {
                table.topics.values_mut().for_each(|metric| metric.count = 0);
                table.dirty = true;
            }
            if !std::mem::take(&mut table.dirty) {
                return;
            }
        }
        if let Err(error) = store::config_file::save(&self.path, &self.body().to_file_text()) {
            self.table.lock().dirty = true;
            tracing::error!(path = %self.path.display(), %error, "cannot save the timer metrics");
        }
    }
}
