//! 200050, 200052, 200054, 200055: pop, peek, whether there is something to pop, and how many wait.
//! Java: `PopMessageProcessor`, `PeekMessageProcessor`, `NotificationProcessor`,
//! `PollingInfoProcessor`.

use std::sync::Arc;

use filter::{Filter, SqlFilter, TagFilter};
use net::{Call, Handled, Refusal, Reply};
use wire::codes::{perm, response};
use wire::requests::{
    GroupQueue, Notification, NotificationAnswer, PollingInfoAnswer, PopMessage, PopMessageAnswer,
};

use crate::pop::in_flight::MAX_BATCH;
use crate::pop::serve;
use crate::pop::take::{self, Kind, Pop, Taken};
use crate::pop::waiting::ParkedPop;
use crate::reply;
use crate::state::Broker;
use crate::topics::Topic;
use crate::turn::Turn;
use crate::waits::Parked;

/// A request this much older than it wants to wait is answered at once.
const TOO_LATE_MS: i64 = 500;
/// How long a pop that does not want to wait waits for messages on their way from the disk.
const COLD_MS: i64 = 3000;
/// `initMode` of a group that begins at the oldest message. Java: `ConsumeInitMode.MIN`.
const FROM_MIN: i32 = 0;

/// 200050: takes messages, or waits for some.
pub fn pop(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: PopMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let born_ms = if request.born_time == 0 { turn.now_ms } else { request.born_time };
    let deadline_ms = born_ms.saturating_add(request.poll_time.max(0));
    let made = check(&broker, &request, call, turn.now_ms - deadline_ms)
        .and_then(|topic| Ok((pop_of(&broker, &request)?, topic)));
    let (pop, topic) = match made {
        Ok(made) => made,
        // As with the original a refusal brings the header, too.
        Err(refused) => {
            let fields = refused_header();
            return call.answer(refused.code, refused.remark.as_deref(), &fields, |_| {});
        }
    };
    let mut records = std::mem::take(&mut turn.records);
    records.clear();
    let taken = take::take(turn, &broker, &pop, &mut records);
    let handled = if taken.messages > 0 {
        if taken.rest > 0 && topic.pops.any() {
            turn.wake_group(&topic.pops, &pop.group, 0);
        }
        let fields = serve::header(&pop, &taken);
        let body = |out: &mut Vec<u8>| out.extend_from_slice(&records);
        call.answer(response::SUCCESS, Some("FOUND"), &fields, body)
    } else {
        park(turn, call, &topic, pop, &taken, (request.poll_time, deadline_ms))
    };
    turn.records = records;
    handled
}

/// All checks in Java's order. `late_ms`: how long ago the client stopped to wait.
fn check(
    broker: &Broker,
    request: &PopMessage<'_>,
    call: &Call<'_>,
    late_ms: i64,
) -> Result<Arc<Topic>, Refusal> {
    let config = broker.config();
    let refuse = |code: i32, what: &str| {
        let text = format!("the broker[{}] pop message{what}", broker.shown_ip());
        Err(Refusal::new(code, text))
    };
    if late_ms > TOO_LATE_MS {
        return refuse(response::POLLING_TIMEOUT, " is timeout too much");
    }
    if config.broker_permission & perm::READ == 0 {
        return refuse(response::NO_PERMISSION, " is forbidden");
    }
    if request.max_msg_nums > MAX_BATCH as i32 {
        return refuse(response::INVALID_PARAMETER, "'s num is greater than 32");
    }
    if request.max_msg_nums < 1 {
        return refuse(response::INVALID_PARAMETER, "'s num is less than 1");
    }
    if !config.timer_wheel_enable {
        let what = " is forbidden because timerWheelEnable is false";
        return refuse(response::SYSTEM_ERROR, what);
    }
    check_names(broker, request.consumer_group, request.topic, request.queue_id, call)
}

/// The checks of topic, queue and group that the four requests share.
fn check_names(
    broker: &Broker,
    group: &str,
    name: &str,
    queue_id: i32,
    call: &Call<'_>,
) -> Result<Arc<Topic>, Refusal> {
    let topic = broker.topics.get(name).ok_or_else(|| {
        let text =
            format!("topic[{name}] not exist, apply first please! {}", reply::SEE_APPLY_TOPIC);
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    if topic.config.perm & perm::READ == 0 {
        let text = format!("the topic[{name}] peeking message is forbidden");
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    if queue_id >= topic.config.read_queue_nums {
        let text = illegal_queue(&topic, queue_id, call);
        return Err(Refusal::new(response::INVALID_PARAMETER, text));
    }
    let create = broker.config().auto_create_subscription_group;
    let config = broker.groups.get_or_create(group, create).ok_or_else(|| {
        let text = format!("subscription group [{group}] does not exist, {}", reply::SEE_GROUP);
        Refusal::new(response::SUBSCRIPTION_GROUP_NOT_EXIST, text)
    })?;
    if !config.consume_enable {
        let text = format!("subscription group no permission, {group}");
        return Err(Refusal::new(response::NO_PERMISSION, text));
    }
    Ok(topic)
}

/// The text for a queue that a topic does not have.
pub fn illegal_queue(topic: &Topic, queue_id: i32, call: &Call<'_>) -> String {
    format!(
        "queueId[{queue_id}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}] consumer:[/{}]",
        topic.config.topic_name, topic.config.read_queue_nums, call.peer.remote
    )
}

fn pop_of(broker: &Broker, request: &PopMessage<'_>) -> Result<Pop, Refusal> {
    let (group, topic) = (request.consumer_group, request.topic);
    Ok(Pop {
        kind: Kind::Take,
        filter: filter_of(broker, group, topic, request.exp_type, request.exp)?,
        group: Arc::from(group),
        topic: Arc::from(topic),
        queue_id: request.queue_id.max(-1),
        max_messages: request.max_msg_nums as usize,
        invisible_ms: request.invisible_time,
        order: request.order,
        attempt: request.attempt_id.map(str::to_owned),
        from_min: request.init_mode == FROM_MIN,
    })
}

fn filter_of(
    broker: &Broker,
    group: &str,
    topic: &str,
    kind: Option<&str>,
    text: Option<&str>,
) -> Result<Arc<Filter>, Refusal> {
    let (kind, text) = (kind.unwrap_or_default(), text.unwrap_or_default());
    let bad = || {
        let text = "parse the consumer's subscription failed";
        Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, text)
    };
    broker.pops.topic(group, topic).filter(kind, text, || {
        if text.is_empty() || filter::is_tag_type(kind) {
            return TagFilter::parse(text).map(Filter::Tag).map_err(|_| bad());
        }
        if kind != filter::SQL92 {
            return Err(bad());
        }
        SqlFilter::parse(text).map(Filter::Sql).map_err(|_| bad())
    })
}

/// The header of a refused pop. Java answers with the zeros of an unused header.
fn refused_header() -> PopMessageAnswer<'static> {
    PopMessageAnswer {
        pop_time: 0,
        invisible_time: 0,
        revive_qid: 0,
        rest_num: 0,
        start_offset_info: None,
        msg_offset_info: None,
        order_count_info: None,
    }
}

/// Lets a pop wait that found nothing, if it wants to and there is room.
fn park(
    turn: &mut Turn,
    call: &mut Call<'_>,
    topic: &Topic,
    pop: Pop,
    taken: &Taken,
    (poll_ms, deadline_ms): (i64, i64),
) -> Handled {
    let waits = poll_ms > 0 && deadline_ms > turn.now_ms;
    let code = if taken.cold.is_none() && !taken.unfinished && !waits {
        Some(response::POLLING_TIMEOUT)
    } else if is_full(turn, topic, &pop) {
        Some(response::POLLING_FULL)
    } else {
        None
    };
    if let Some(code) = code {
        let fields = serve::header(&pop, taken);
        return call.answer(code, Some("NO_MESSAGE_IN_QUEUE"), &fields, |_| {});
    }
    serve::look_again(turn, &pop, taken);
    let deadline_ms = if waits { deadline_ms } else { turn.now_ms + COLD_MS };
    let parked = parked(turn, call, pop, deadline_ms);
    turn.park_pop(&topic.pops, parked);
    Ok(Reply::Later)
}

fn parked(turn: &Turn, call: &Call<'_>, pop: Pop, deadline_ms: i64) -> Arc<ParkedPop> {
    let gauge = &turn.broker.pops.parked;
    Arc::new(Parked::new(pop, Arc::clone(call.peer), call.header.opaque, deadline_ms, gauge))
}

fn is_full(turn: &Turn, topic: &Topic, pop: &Pop) -> bool {
    let config = turn.broker.config();
    let all = turn.broker.pops.parked.load(std::sync::atomic::Ordering::Relaxed);
    all >= config.max_pop_polling_size as usize
        || all > config.pop_polling_size as usize
            && topic.pops.len(&pop.group, pop.queue_id) > config.pop_polling_size as usize
}

/// 200054: says whether there is something to pop, at once or when something arrives.
pub fn notification(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: Notification<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let (group, name, queue_id) = (request.consumer_group, request.topic, request.queue_id);
    check_broker(&broker)?;
    let topic = check_names(&broker, group, name, queue_id, call)?;
    let pop = Pop {
        kind: Kind::Notify,
        filter: filter_of(&broker, group, name, request.exp_type, request.exp)?,
        group: Arc::from(group),
        topic: Arc::from(name),
        queue_id: queue_id.max(-1),
        max_messages: 1,
        invisible_ms: 0,
        order: request.order,
        attempt: request.attempt_id.map(str::to_owned),
        from_min: true,
    };
    let has_msg = take::available(turn, &broker, &pop, true) > 0;
    let born_ms = if request.born_time == 0 { turn.now_ms } else { request.born_time };
    let deadline_ms = born_ms.saturating_add(request.poll_time.max(0));
    let waits = !has_msg && request.poll_time > 0 && deadline_ms > turn.now_ms;
    let polling_full = waits && is_full(turn, &topic, &pop);
    if waits && !polling_full {
        let parked = parked(turn, call, pop, deadline_ms);
        turn.park_pop(&topic.pops, parked);
        return Ok(Reply::Later);
    }
    let fields = NotificationAnswer { has_msg, polling_full };
    call.answer(response::SUCCESS, Some(reply::NOT_SET), &fields, |_| {})
}

fn check_broker(broker: &Broker) -> Result<(), Refusal> {
    if broker.config().broker_permission & perm::READ != 0 {
        return Ok(());
    }
    let text = format!("the broker[{}] peeking message is forbidden", broker.shown_ip());
    Err(Refusal::new(response::NO_PERMISSION, text))
}

/// 200055: how many pops wait on a queue, or on all.
pub fn polling_info(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GroupQueue<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let (group, queue_id) = (request.consumer_group, request.queue_id);
    check_broker(&broker)?;
    let topic = check_names(&broker, group, request.topic, queue_id, call)?;
    let polling_num = topic.pops.len(group, queue_id) as i32;
    let fields = PollingInfoAnswer { polling_num };
    call.answer(response::SUCCESS, Some(reply::NOT_SET), &fields, |_| {})
}

/// 200052: shows what a pop would take, and takes nothing.
pub fn peek(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: GroupQueue<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let (group, name, queue_id) = (request.consumer_group, request.topic, request.queue_id);
    let checked =
        check_broker(&broker).and_then(|()| check_names(&broker, group, name, queue_id, call));
    if let Err(refused) = checked {
        return call.answer(refused.code, refused.remark.as_deref(), &refused_header(), |_| {});
    }
    let max = request.max_msg_nums.unwrap_or(1).clamp(1, MAX_BATCH as i32) as usize;
    let mut records = std::mem::take(&mut turn.records);
    records.clear();
    let rest = take::peek(&broker, group, name, queue_id, max, &mut records);
    let found = !records.is_empty();
    let (code, remark) = match found {
        true => (response::SUCCESS, "FOUND"),
        false => (response::PULL_NOT_FOUND, "NO_MESSAGE_IN_QUEUE"),
    };
    let fields = PopMessageAnswer { rest_num: rest, ..refused_header() };
    let body = |out: &mut Vec<u8>| out.extend_from_slice(&records);
    let handled = call.answer(code, Some(remark), &fields, body);
    turn.records = records;
    handled
}
