//! 11, 361: a consumer's pull, with long polling. Java: `PullMessageProcessor`,
//! `DefaultPullMessageResultHandler`, `PullRequestHoldService`.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use filter::{Filter, SqlFilter, TagFilter};
use net::{Call, Handled, Refusal, Reply};
use store::{Fetch, FetchStatus, Wait};

use wire::body::GroupConfig;
use wire::codes::{perm, request as code, response};
use wire::header::{Head, write_frame};
use wire::requests::{PullMessage, PullMessageAnswer};

use crate::config::BrokerConfig;
use crate::reading;
use crate::reply;
use crate::state::Broker;
use crate::topics::Topic;
use crate::turn::{OVERLOAD, Turn};
use crate::waits::{Parked, ParkedPull, Pull, WaitingPull};

/// sysFlag bits of a pull. Java: `PullSysFlag`.
const COMMIT_OFFSET: i32 = 1;
const SUSPEND: i32 = 2;
const SUBSCRIPTION: i32 = 4;

/// Java: `ForbiddenType`.
mod forbidden {
    pub(super) const BROKER: i32 = 1;
    pub(super) const GROUP: i32 = 2;
    pub(super) const TOPIC: i32 = 3;
    pub(super) const BROADCASTING: i32 = 4;
    pub(super) const SUBSCRIPTION: i32 = 5;
}

/// A refused pull, with what Java calls the forbidden type.
struct Refused {
    refusal: Refusal,
    forbidden: Option<i32>,
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        Refused { refusal, forbidden: None }
    }
}

fn refuse(code: i32, forbidden: impl Into<Option<i32>>, text: String) -> Refused {
    Refused { refusal: Refusal::new(code, text), forbidden: forbidden.into() }
}

/// Handles a pull: answers it, parks it, or hands it to a reader.
pub fn handle(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: PullMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let pull = match checked(&broker, &request, call) {
        Ok(pull) => pull,
        Err(Refused { refusal, forbidden: Some(kind) }) => {
            let pairs = [("forbiddenType", kind.to_string())];
            let pairs = [(pairs[0].0, pairs[0].1.as_str())];
            let fields = wire::header::Pairs(&pairs);
            return call.answer(refusal.code, refusal.remark.as_deref(), &fields, |_| {});
        }
        Err(Refused { refusal, .. }) => return Err(refusal),
    };
    let (group, topic, queue_id) = (request.consumer_group, request.topic, request.queue_id);
    if request.sys_flag & COMMIT_OFFSET != 0 {
        broker.offsets.commit(group, topic, queue_id, request.commit_offset, turn.now_ms);
        broker.pops.offset_was_set(group, topic, queue_id, request.commit_offset);
    }
    if let Some(offset) = broker.offsets.take_reset(group, topic, queue_id) {
        let answer = header(
            &broker,
            &pull,
            offset,
            pull.queue.queue.min_offset(),
            max_offset(&broker, &pull),
        );
        return call.answer(response::PULL_OFFSET_MOVED, Some("OFFSET_RESET"), &answer, |_| {});
    }
    let mut records = std::mem::take(&mut turn.records);
    records.clear();
    let fetch = fetch(&broker, &pull, pull.offset, Wait::OnlyNew, &mut records);
    let handled = if fetch.cold {
        read_cold(&broker, pull, call)
    } else if is_new(&fetch, pull.offset) && request.sys_flag & SUSPEND != 0 {
        park(turn, call, pull, request.suspend_timeout_millis);
        Ok(Reply::Later)
    } else {
        count(&broker, &pull, &fetch);
        let (code, remark) = outcome(fetch.status, pull.offset);
        let answer = header(&broker, &pull, fetch.next, fetch.min, fetch.max);
        call.answer(code, Some(remark), &answer, |out| out.extend_from_slice(&records))
    };
    turn.records = records;
    handled
}

/// All checks in Java's order; then everything that is needed to read.
fn checked(broker: &Broker, request: &PullMessage<'_>, call: &Call<'_>) -> Result<Pull, Refused> {
    let config = broker.config();
    if config.broker_permission & perm::READ == 0 {
        let text = format!("the broker[{}] pulling message is forbidden", broker.shown_ip());
        return Err(refuse(response::NO_PERMISSION, forbidden::BROKER, text));
    }
    if call.header.code == code::LITE_PULL_MESSAGE && !config.lite_pull_message_enable {
        let text = format!("the broker[{}] for lite pull consumer is forbidden", broker.shown_ip());
        return Err(refuse(response::NO_PERMISSION, forbidden::BROKER, text));
    }
    let name = request.consumer_group;
    let group = broker.groups.get_or_create(name, config.auto_create_subscription_group);
    let group = group.ok_or_else(|| {
        let text = format!("subscription group [{name}] does not exist, {}", reply::SEE_GROUP);
        refuse(response::SUBSCRIPTION_GROUP_NOT_EXIST, None, text)
    })?;
    if !group.consume_enable {
        let text = format!("subscription group no permission, {name}");
        return Err(refuse(response::NO_PERMISSION, forbidden::GROUP, text));
    }
    let topic = broker.topics.get(request.topic).ok_or_else(|| {
        let text = format!(
            "topic[{}] not exist, apply first please! {}",
            request.topic,
            reply::SEE_APPLY_TOPIC
        );
        refuse(response::TOPIC_NOT_EXIST, None, text)
    })?;
    if topic.config.perm & perm::READ == 0 {
        let text = format!("the topic[{}] pulling message is forbidden", request.topic);
        return Err(refuse(response::NO_PERMISSION, forbidden::TOPIC, text));
    }
    if request.queue_id < 0 || request.queue_id >= topic.config.read_queue_nums {
        let text = format!(
            "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[{}]",
            request.queue_id, request.topic, topic.config.read_queue_nums, call.peer.remote
        );
        return Err(refuse(response::INVALID_PARAMETER, None, text));
    }
    let filter = if request.sys_flag & SUBSCRIPTION != 0 {
        own_expression(&config, request)?
    } else {
        registered_subscription(broker, request, &group)?
    };
    pull_of(request, &topic, &group, filter)
}

fn pull_of(
    request: &PullMessage<'_>,
    topic: &Topic,
    group: &GroupConfig,
    filter: Arc<Filter>,
) -> Result<Pull, Refused> {
    let queue = usize::try_from(request.queue_id).ok().and_then(|id| topic.queues.get(id));
    let queue = queue.ok_or_else(|| {
        refuse(response::SYSTEM_ERROR, None, "the queue does not exist".to_owned())
    })?;
    Ok(Pull {
        group: Arc::from(request.consumer_group),
        queue: Arc::clone(queue),
        offset: request.queue_offset,
        max_messages: usize::try_from(request.max_msg_nums).unwrap_or(1).max(1),
        filter,
        topic_sys_flag: topic.config.topic_sys_flag,
        group_sys_flag: group.group_sys_flag,
    })
}

/// Refuses every type of expression but tags while `enablePropertyFilter` is off.
pub fn check_property_filter(config: &BrokerConfig, expression_type: &str) -> Result<(), Refusal> {
    if config.enable_property_filter || filter::is_tag_type(expression_type) {
        return Ok(());
    }
    let text =
        format!("The broker does not support consumer to filter message by {expression_type}");
    Err(Refusal::new(response::SYSTEM_ERROR, text))
}

/// The filter that the request brings itself. As with the original an SQL expression that does
/// not compile filters nothing here: it was refused when the consumer asked before its start.
fn own_expression(
    config: &BrokerConfig,
    request: &PullMessage<'_>,
) -> Result<Arc<Filter>, Refused> {
    let expression_type = request.expression_type.unwrap_or_default();
    check_property_filter(config, expression_type)?;
    let text = request.subscription.unwrap_or_default();
    if expression_type == filter::SQL92 {
        return Ok(Arc::new(
            SqlFilter::parse(text).map_or_else(|_| Filter::default(), Filter::Sql),
        ));
    }
    let tags = TagFilter::parse(text);
    tags.map(|tags| Arc::new(Filter::Tag(tags))).map_err(|_| {
        let text = "parse the consumer's subscription failed".to_owned();
        refuse(response::SUBSCRIPTION_PARSE_FAILED, None, text)
    })
}

/// The filter that the group's heartbeat brought.
fn registered_subscription(
    broker: &Broker,
    request: &PullMessage<'_>,
    group: &GroupConfig,
) -> Result<Arc<Filter>, Refused> {
    let (name, topic) = (request.consumer_group, request.topic);
    let missing = |what: &str| {
        let text = format!("the consumer's {what} not exist{}", reply::SEE_GROUP);
        refuse(response::SUBSCRIPTION_NOT_EXIST, None, text)
    };
    let found = broker.clients.subscription(name, topic);
    let (subscription, broadcasting) = found.ok_or_else(|| missing("group info"))?;
    if broadcasting && !group.consume_broadcast_enable {
        let text = format!("the consumer group[{name}] can not consume by broadcast way");
        return Err(refuse(response::NO_PERMISSION, forbidden::BROADCASTING, text));
    }
    if broker.groups.is_read_forbidden(name, topic) {
        let text = format!("the consumer group[{name}] is forbidden for topic[{topic}]");
        return Err(refuse(response::NO_PERMISSION, forbidden::SUBSCRIPTION, text));
    }
    let subscription = subscription.ok_or_else(|| missing("subscription"))?;
    if subscription.data.sub_version < request.sub_version {
        let text = "the consumer's subscription not latest".to_owned();
        return Err(refuse(response::SUBSCRIPTION_NOT_LATEST, None, text));
    }
    check_property_filter(&broker.config(), &subscription.data.expression_type)?;
    subscription.filter.clone().map_err(|error| {
        let text = format!(
            "The broker's consumer filter data is not exist!Your expression may be wrong! {error}"
        );
        refuse(response::FILTER_DATA_NOT_EXIST, None, text)
    })
}

fn fetch(broker: &Broker, pull: &Pull, from: i64, wait: Wait, out: &mut Vec<u8>) -> Fetch {
    let limit = reading::limit(&broker.config(), pull.max_messages, wait);
    reading::fetch(broker, &pull.queue.queue, &pull.filter, from, limit, wait, out)
}

/// Whether there is nothing yet at the offset, so that the pull may wait.
fn is_new(fetch: &Fetch, asked: i64) -> bool {
    outcome(fetch.status, asked).0 == response::PULL_NOT_FOUND
}

/// Response code and remark of a store result. An empty queue that is asked for a later offset
/// moves the consumer to 0.
fn outcome(status: FetchStatus, asked: i64) -> (i32, &'static str) {
    match status {
        FetchStatus::Found => (response::SUCCESS, "FOUND"),
        FetchStatus::NoMatch => (response::PULL_RETRY_IMMEDIATELY, "NO_MATCHED_MESSAGE"),
        FetchStatus::Removing => (response::PULL_RETRY_IMMEDIATELY, "MESSAGE_WAS_REMOVING"),
        FetchStatus::OverflowOne => (response::PULL_NOT_FOUND, "OFFSET_OVERFLOW_ONE"),
        FetchStatus::OverflowBadly => (response::PULL_OFFSET_MOVED, "OFFSET_OVERFLOW_BADLY"),
        FetchStatus::TooSmall => (response::PULL_OFFSET_MOVED, "OFFSET_TOO_SMALL"),
        FetchStatus::NoMessageInQueue if asked == 0 => {
            (response::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE")
        }
        FetchStatus::NoMessageInQueue => (response::PULL_OFFSET_MOVED, "NO_MESSAGE_IN_QUEUE"),
    }
}

fn max_offset(broker: &Broker, pull: &Pull) -> i64 {
    pull.queue.queue.max_offset(&broker.store)
}

fn header(_: &Broker, pull: &Pull, next: i64, min: i64, max: i64) -> PullMessageAnswer {
    PullMessageAnswer {
        suggest_which_broker_id: 0,
        next_begin_offset: next,
        min_offset: min,
        max_offset: max,
        topic_sys_flag: Some(pull.topic_sys_flag),
        group_sys_flag: Some(pull.group_sys_flag),
        forbidden_type: None,
    }
}

fn count(broker: &Broker, pull: &Pull, fetch: &Fetch) {
    if fetch.status == FetchStatus::Found {
        broker.stats.gets_found.add(1);
        // Operators' tools read without consuming: their reads are no traffic (field case B58).
        if !crate::groups::is_system(&pull.group) {
            let (messages, bytes) = (fetch.messages as u64, fetch.bytes as u64);
            let topic = pull.queue.queue.topic();
            broker.stats.gets.add(messages);
            broker.stats.group(&pull.group, topic).gets.add(messages, bytes);
            if !pull.queue.of_system {
                broker.stats.user_gets.add(messages, bytes);
            }
            broker.offsets.pulled(&pull.group, topic, pull.queue.queue.id(), fetch.next);
        }
    } else {
        broker.stats.gets_missed.add(1);
    }
}

fn park(turn: &mut Turn, call: &Call<'_>, pull: Pull, suspend_ms: i64) {
    let config = turn.broker.config();
    let hold_ms = if config.long_polling_enable {
        suspend_ms
    } else {
        i64::from(config.short_polling_time_mills)
    };
    let deadline_ms = turn.now_ms.saturating_add(hold_ms.max(0));
    let gauge = Arc::clone(&turn.broker.parked);
    let peer = Arc::clone(call.peer);
    drop(config);
    let work = WaitingPull { looked_to: pull.offset.into(), pull };
    turn.park_pull(Arc::new(Parked::new(work, peer, call.header.opaque, deadline_ms, &gauge)));
}

/// Appends the frame that answers a pull.
fn write_answer(
    broker: &Broker,
    pull: &Pull,
    opaque: i32,
    fetch: &Fetch,
    records: &[u8],
) -> Vec<u8> {
    count(broker, pull, fetch);
    let (code, remark) = outcome(fetch.status, pull.offset);
    let mut frame = Vec::with_capacity(records.len() + 320);
    let head = Head::response(code, opaque, Some(remark));
    let fields = header(broker, pull, fetch.next, fetch.min, fetch.max);
    write_frame(&mut frame, &head, &fields, false, |out| out.extend_from_slice(records));
    frame
}

/// Answers a parked pull whose queue has moved. False when it has to wait on.
pub fn serve(turn: &mut Turn, parked: &Arc<ParkedPull>) -> bool {
    if parked.is_done() {
        return true;
    }
    let broker = Arc::clone(&turn.broker);
    let mut records = std::mem::take(&mut turn.records);
    let fetch = look_on(&broker, parked, &mut records);
    // Messages that the filter does not want leave the pull parked, as in Java.
    let waits_on = !fetch.cold
        && (is_new(&fetch, parked.work.pull.offset) || fetch.status == FetchStatus::NoMatch);
    if !waits_on && parked.take() {
        answer_parked(&broker, parked, &fetch, &records);
    }
    turn.records = records;
    !waits_on
}

/// Looks from where the pull has looked to until something matches or the queue ends.
fn look_on(broker: &Broker, parked: &ParkedPull, records: &mut Vec<u8>) -> Fetch {
    loop {
        records.clear();
        let from = parked.work.looked_to.load(Relaxed);
        let fetch = fetch(broker, &parked.work.pull, from, Wait::OnlyNew, records);
        if fetch.cold || fetch.status != FetchStatus::NoMatch || fetch.next <= from {
            return fetch;
        }
        parked.work.looked_to.store(fetch.next, Relaxed);
        if fetch.next >= fetch.max {
            return fetch;
        }
    }
}

/// Answers a pull whose time is over; it does not park again.
pub fn answer_at_deadline(turn: &mut Turn, parked: &ParkedPull) {
    let broker = Arc::clone(&turn.broker);
    let mut records = std::mem::take(&mut turn.records);
    let mut fetch = look_on(&broker, parked, &mut records);
    let looked_to = parked.work.looked_to.load(Relaxed);
    if looked_to > parked.work.pull.offset && is_new(&fetch, looked_to) {
        // Unwanted messages were passed: the client goes on behind them.
        (fetch.status, fetch.next) = (FetchStatus::NoMatch, looked_to);
    }
    answer_parked(&broker, parked, &fetch, &records);
    turn.records = records;
}

fn answer_parked(broker: &Arc<Broker>, parked: &ParkedPull, fetch: &Fetch, records: &[u8]) {
    let (pull, opaque) = (&parked.work.pull, parked.opaque);
    if fetch.cold {
        let pull = Pull { offset: parked.work.looked_to.load(Relaxed), ..pull.clone() };
        submit_cold(broker, pull, Arc::clone(&parked.peer), opaque);
    } else {
        parked.peer.send(write_answer(broker, pull, opaque, fetch, records));
    }
}

fn read_cold(broker: &Arc<Broker>, pull: Pull, call: &Call<'_>) -> Handled {
    if submit_cold(broker, pull, Arc::clone(call.peer), call.header.opaque) {
        Ok(Reply::Later)
    } else {
        Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD))
    }
}

/// Reads on a reader thread, from the page cache or else from disk, and answers from there. Old
/// messages come in large pieces, for which the sends of a loop should not wait.
fn submit_cold(broker: &Arc<Broker>, pull: Pull, peer: Arc<net::Peer>, opaque: i32) -> bool {
    let shared = Arc::clone(broker);
    broker.readers.submit(move || {
        let mut records = Vec::new();
        let mut fetch = fetch(&shared, &pull, pull.offset, Wait::OnlyCached, &mut records);
        if fetch.cold {
            fetch = self::fetch(&shared, &pull, pull.offset, Wait::MayBlock, &mut records);
        }
        peer.send(write_answer(&shared, &pull, opaque, &fetch, &records));
    })
}
