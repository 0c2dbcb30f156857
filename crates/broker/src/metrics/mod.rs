//! What the broker measures, as a text for Prometheus. Java: `BrokerMetricsManager`,
//! `DefaultStoreMetricsManager`.
//!
//! Names and labels are those of the original's exporter, but for `otel_scope_name`; what only
//! this broker has begins with `apogee_`. Nothing is counted for it: the text is made from
//! what is there when somebody asks. May read files.

mod lag;
mod text;

use std::collections::BTreeMap;

pub use lag::Lag;
pub use text::CONTENT_TYPE;
use text::{Kind, Text};
use wire::codes::LANGUAGES;
use wire::text::DLQ_PREFIX;

use crate::groups;
use crate::state::Broker;

/// The text of this moment.
pub fn text(broker: &Broker) -> String {
    let config = broker.config();
    let labels = config.metric_labels().iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let own = [
        ("cluster", config.broker_cluster_name.as_str()),
        ("node_type", "broker"),
        ("node_id", config.broker_name.as_str()),
    ];
    let mut text = Text::new(labels.chain(own));
    sizes(&mut text, broker);
    traffic(&mut text, broker);
    connections(&mut text, broker);
    lags(&mut text, broker);
    transactions(&mut text, broker);
    store(&mut text, broker);
    limits(&mut text, broker);
    text.finish()
}

fn sizes(text: &mut Text, broker: &Broker) {
    let permission = f64::from(broker.config().broker_permission);
    text.single("rocketmq_broker_permission", Kind::Gauge, "Broker permission", permission);
    let topics = broker.topics.names().len() as f64;
    text.single("rocketmq_topic_number", Kind::Gauge, "Active topic number", topics);
    let groups = broker.groups.names().len() as f64;
    let help = "Active subscription group number";
    text.single("rocketmq_consumer_group_number", Kind::Gauge, help, groups);
}

fn yes(flag: bool) -> &'static str {
    if flag { "true" } else { "false" }
}

fn traffic(text: &mut Text, broker: &Broker) {
    let topics: Vec<_> =
        broker.topics.names().iter().filter_map(|n| broker.topics.get(n)).collect();
    for (name, help, bytes) in [
        ("rocketmq_messages_in_total", "Total number of incoming messages", false),
        ("rocketmq_throughput_in_total", "Total traffic of incoming messages", true),
    ] {
        text.family(name, Kind::Counter, help);
        for topic in &topics {
            let (totals, topic) = (topic.puts.totals(), topic.config.topic_name.as_str());
            if totals.times > 0 {
                let system = yes(broker.topics.is_system(topic));
                let value = if bytes { totals.bytes } else { totals.messages };
                text.value(name, &[("topic", topic), ("is_system", system)], value as f64);
            }
        }
    }
    let groups = broker.stats.all_groups();
    for (name, help, bytes) in [
        ("rocketmq_messages_out_total", "Total number of outgoing messages", false),
        ("rocketmq_throughput_out_total", "Total traffic of outgoing messages", true),
    ] {
        text.family(name, Kind::Counter, help);
        for (group, topic, traffic) in &groups {
            let totals = traffic.gets.totals();
            let retry = topic.starts_with(wire::text::RETRY_PREFIX);
            let system = broker.topics.is_system(topic) || groups::is_system(group);
            let labels = [
                ("topic", topic.as_str()),
                ("consumer_group", group.as_str()),
                ("is_retry", yes(retry)),
                ("is_system", yes(system)),
            ];
            text.value(name, &labels, if bytes { totals.bytes } else { totals.messages } as f64);
        }
    }
    let name = "rocketmq_send_to_dlq_messages_total";
    text.family(name, Kind::Counter, "Messages that became dead letters");
    for topic in &topics {
        let topic_name = topic.config.topic_name.as_str();
        let Some(group) = topic_name.strip_prefix(DLQ_PREFIX) else { continue };
        let labels = [("consumer_group", group), ("topic", topic_name)];
        text.value(name, &labels, topic.puts.totals().messages as f64);
    }
}

fn connections(text: &mut Text, broker: &Broker) {
    let language = |index: u8| {
        let name = LANGUAGES.get(usize::from(index)).unwrap_or(&"OTHER");
        name.to_ascii_lowercase()
    };
    let mut producers = BTreeMap::new();
    for member in broker.clients.producers().values().flatten() {
        *producers.entry((language(member.language), member.version)).or_insert(0_u64) += 1;
    }
    let name = "rocketmq_producer_connections";
    text.family(name, Kind::Gauge, "Producer connections");
    for ((language, version), count) in producers {
        let version = version.to_string();
        let labels = [
            ("language", language.as_str()),
            ("version", version.as_str()),
            ("protocol_type", "remoting"),
        ];
        text.value(name, &labels, count as f64);
    }
    let name = "rocketmq_consumer_connections";
    text.family(name, Kind::Gauge, "Consumer connections");
    for group in broker.clients.consumer_groups() {
        let Some(online) = broker.clients.consumer_group(&group) else { continue };
        let mode = match online.consume_type {
            Some("CONSUME_ACTIVELY") => "pull",
            Some("CONSUME_POP") => "pop",
            _ => "push",
        };
        let mut members = BTreeMap::new();
        for member in online.members.values() {
            *members.entry((language(member.language), member.version)).or_insert(0_u64) += 1;
        }
        for ((language, version), count) in members {
            let version = version.to_string();
            let labels = [
                ("consumer_group", group.as_str()),
                ("language", language.as_str()),
                ("version", version.as_str()),
                ("consume_mode", mode),
                ("protocol_type", "remoting"),
                ("is_system", yes(groups::is_system(&group))),
            ];
            text.value(name, &labels, count as f64);
        }
    }
}

/// A family of [`lags`]: its name, its help, and what of a lag it tells.
type OfLag = (&'static str, &'static str, fn(&Lag) -> i64);

const OF_LAGS: [OfLag; 5] = [
    ("rocketmq_consumer_lag_messages", "Consumer lag messages", |lag| lag.messages),
    ("rocketmq_consumer_lag_latency_milliseconds", "Consumer lag time", |lag| lag.latency_ms),
    ("rocketmq_consumer_inflight_messages", "Consumer inflight messages", |lag| lag.in_flight),
    ("rocketmq_consumer_ready_messages", "Consumer ready messages", |lag| lag.ready),
    ("rocketmq_consumer_queueing_latency_milliseconds", "Consumer queueing time", |lag| {
        lag.queueing_ms
    }),
];

fn lags(text: &mut Text, broker: &Broker) {
    let lags = lag::all(broker);
    for (name, help, of) in OF_LAGS {
        text.family(name, Kind::Gauge, help);
        for lag in &lags {
            let system = broker.topics.is_system(&lag.topic) || groups::is_system(&lag.group);
            let labels = [
                ("consumer_group", lag.group.as_str()),
                ("topic", lag.topic.as_str()),
                ("is_retry", yes(lag.is_retry)),
                ("is_system", yes(system)),
            ];
            text.value(name, &labels, of(lag) as f64);
        }
    }
}

fn transactions(text: &mut Text, broker: &Broker) {
    let ends = broker.stats.transaction_ends();
    for (name, help, commits) in [
        ("rocketmq_commit_messages_total", "Total number of commit messages", true),
        ("rocketmq_rollback_messages_total", "Total number of rollback messages", false),
    ] {
        text.family(name, Kind::Counter, help);
        for (topic, ends) in &ends {
            let value = if commits { ends.commits } else { ends.rollbacks };
            text.value(name, &[("topic", topic.as_str())], value as f64);
        }
    }
    let open = broker.transactions.count() as f64;
    text.single("apogee_open_transactions", Kind::Gauge, "Half messages of all topics", open);
}

fn store(text: &mut Text, broker: &Broker) {
    let labels = [("storage_type", "local"), ("storage_medium", "disk")];
    let marks = broker.store.watermarks();
    let name = "rocketmq_storage_size_bytes";
    text.family(name, Kind::Gauge, "Bytes of the commit log");
    text.value(name, &labels, (marks.written - marks.min) as f64);
    let name = "rocketmq_storage_flush_behind_bytes";
    text.family(name, Kind::Gauge, "Bytes that are not on the disk");
    text.value(name, &labels, (marks.written - marks.flushed).max(0) as f64);
    let name = "rocketmq_timing_messages";
    text.family(name, Kind::Gauge, "Messages that wait for a time of their own");
    for (topic, count) in broker.timers.metrics.counts() {
        let labels = [labels[0], labels[1], ("topic", topic.as_str())];
        text.value(name, &labels, count as f64);
    }
}

/// What has a limit: how much of it is in use, and the limit.
fn limits(text: &mut Text, broker: &Broker) {
    let config = broker.config();
    let (parked, flushing) = broker.waiting();
    let parked_pops = broker.pops.parked.load(std::sync::atomic::Ordering::Relaxed);
    let rows = [
        ("maxOpenTransactions", broker.transactions.count(), config.max_open_transactions),
        ("maxPendingTimers", broker.timers.count(), config.max_pending_timers),
        ("maxPopInFlight", broker.pops.in_flight(), config.max_pop_in_flight),
        ("maxPopPollingSize", parked_pops, config.max_pop_polling_size),
        ("pullThreadPoolQueueCapacity", parked, config.pull_thread_pool_queue_capacity),
        ("sendThreadPoolQueueCapacity", flushing, config.send_thread_pool_queue_capacity),
    ];
    text.family("apogee_limit_used", Kind::Gauge, "How much of a limit is in use");
    for (key, used, _) in rows {
        text.value("apogee_limit_used", &[("limit", key)], used as f64);
    }
    text.family("apogee_limit", Kind::Gauge, "The limit that a setting gives");
    for (key, _, limit) in rows {
        text.value("apogee_limit", &[("limit", key)], f64::from(limit));
    }
}
