//! How far groups are behind, in messages and in time. Java: `ConsumerLagCalculator`.
//!
//! Where the original knows only groups that are connected, this also tells of those that are
//! not: a group that nobody runs is the one whose backlog grows.

use std::collections::BTreeSet;

use filter::Filter;
use wire::text::RETRY_PREFIX;

use crate::handlers::offset::store_time;
use crate::pop::take::retry_topic;
use crate::state::Broker;
use crate::topics::TopicQueue;

/// Entries of a queue that are looked at for an estimate. Java: `maxConsumeQueueScan`.
const MOST_LOOKED_AT: i64 = 20_000;
/// Matches that are enough for an estimate. Java: `sampleCountThreshold`.
const ENOUGH_MATCHES: i64 = 5_000;
/// Entries read at once.
const BLOCK: usize = 128;

/// How far a group is behind in a topic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lag {
    /// The group.
    pub group: String,
    /// The topic, also where its retries are meant.
    pub topic: String,
    /// Whether this is about the retries.
    pub is_retry: bool,
    /// Messages that are not settled; of those that a tag filter would pass, an estimate.
    pub messages: i64,
    /// Age of the oldest of them, milliseconds.
    pub latency_ms: i64,
    /// Messages that a consumer has and did not settle.
    pub in_flight: i64,
    /// Messages that nobody has yet.
    pub ready: i64,
    /// Age of the oldest of those, milliseconds.
    pub queueing_ms: i64,
}

/// All groups, each with the topics that it subscribes to or has offsets of. Reads files.
pub(super) fn all(broker: &Broker) -> Vec<Lag> {
    let now_ms = broker.clock.now_ms();
    let mut lags = Vec::new();
    for group in broker.groups.names() {
        let online = broker.clients.consumer_group(&group);
        if online.as_ref().is_some_and(|online| online.is_broadcasting()) {
            continue;
        }
        let subscribed = online.map(|online| online.subscriptions).unwrap_or_default();
        let mut topics: BTreeSet<String> = subscribed.keys().cloned().collect();
        if topics.is_empty() {
            topics.extend(broker.offsets.topics_of(&group));
        }
        let own_retries = format!("{RETRY_PREFIX}{group}");
        for topic in &topics {
            let of_pops = topic.starts_with(RETRY_PREFIX) && *topic != own_retries;
            if of_pops || broker.topics.get(topic).is_none() {
                continue;
            }
            let filter = subscribed.get(topic).and_then(|s| s.filter.clone().ok());
            let mut lag = of(broker, &group, topic, filter.as_deref(), now_ms);
            lag.is_retry = *topic == own_retries;
            lags.push(lag);
            let retries = [true, false].map(|second| retry_topic(topic, &group, second));
            let retries = retries.iter().filter(|name| broker.topics.get(name).is_some());
            for name in retries.collect::<BTreeSet<_>>() {
                let lag = of(broker, &group, name, None, now_ms);
                lags.push(Lag { topic: topic.clone(), is_retry: true, ..lag });
            }
        }
    }
    lags
}

/// One group and one stored topic.
fn of(broker: &Broker, group: &str, topic: &str, filter: Option<&Filter>, now_ms: i64) -> Lag {
    let mut lag = Lag { group: group.to_owned(), topic: topic.to_owned(), ..Lag::default() };
    let (committed, pulled) =
        (broker.offsets.of_topic(group, topic), broker.offsets.pulled_of_topic(group, topic));
    let (mut oldest, mut oldest_ready) = (i64::MAX, i64::MAX);
    let Some(config) = broker.topics.get(topic) else { return lag };
    for queue in &config.queues {
        let id = queue.queue.id();
        let (min, max) = (queue.queue.min_offset(), queue.queue.max_offset(&broker.store));
        let popped = broker.pops.progress(group, topic, id);
        // A group without any offset begins at the end, or where its first pull says.
        let Some(settled) = committed.get(&id).copied().or(popped.map(|(next, _)| next)) else {
            continue;
        };
        let settled = settled.clamp(min, max.max(min));
        let next = match popped {
            Some((next, _)) => next,
            None => pulled.get(&id).copied().unwrap_or(settled),
        };
        let next = next.clamp(settled, max.max(settled));
        let flight = match popped {
            Some((_, flight)) => flight,
            None => count(broker, queue, filter, settled, next),
        };
        let ready = count(broker, queue, filter, next, max);
        lag.in_flight += flight;
        lag.ready += ready;
        lag.messages += flight + ready;
        if flight + ready > 0 {
            oldest = oldest.min(store_time(broker, queue, settled).unwrap_or(i64::MAX));
        }
        if ready > 0 {
            oldest_ready = oldest_ready.min(store_time(broker, queue, next).unwrap_or(i64::MAX));
        }
    }
    let age = |since: i64| if since == i64::MAX { 0 } else { (now_ms - since).max(0) };
    (lag.latency_ms, lag.queueing_ms) = (age(oldest), age(oldest_ready));
    lag
}

/// Messages in `[from, to)` of a queue that a filter of tags would pass. Java:
/// `ConsumeQueue.estimateMessageCount`; as there, SQL expressions count everything.
fn count(broker: &Broker, queue: &TopicQueue, filter: Option<&Filter>, from: i64, to: i64) -> i64 {
    let all = (to - from).max(0);
    let Some(Filter::Tag(tags)) = filter else { return all };
    if tags.is_all() || queue.queue.is_batch() || !broker.config().estimate_accumulation {
        return all;
    }
    let (mut looked_at, mut matches) = (0, 0);
    let mut block = [store::Entry::default(); BLOCK];
    while looked_at < all.min(MOST_LOOKED_AT) && matches <= ENOUGH_MATCHES {
        let wanted = ((all - looked_at) as usize).min(BLOCK);
        let found = queue.queue.entries(&broker.store, from + looked_at, &mut block[..wanted]);
        if found == 0 {
            break;
        }
        let fits = |entry: &&store::Entry| tags.matches(entry.tags_code);
        matches += block[..found].iter().filter(fits).count() as i64;
        looked_at += found as i64;
    }
    if looked_at == 0 || looked_at >= all { matches } else { matches * all / looked_at }
}
