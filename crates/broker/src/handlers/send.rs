//! 10, 310, 320: a producer's message or batch. Java: `SendMessageProcessor`.

use std::net::SocketAddr;
use std::sync::Arc;

use std::ops::Range;

use net::{Call, Handled, Refusal, Reply};
use wire::codes::{VERSION_MAX_RECONSUME, perm, response};
use wire::header::{Head, Pairs, write_frame};
use wire::message_id::{unique_id, write_offset_id};
use wire::properties::{self, Known};
use wire::record::{self, NewRecord};
use wire::requests::{SendMessage, SendMessageAnswer};
use wire::text::{DLQ_PREFIX, RETRY_PREFIX, check_topic, crc31};

use crate::config::BrokerConfig;
use crate::handlers::{recall, send_batch};
use crate::put::{Put, illegal, put};
use crate::reply;
use crate::state::Broker;
use crate::topics::{self, Topic, TopicQueue, Topics};
use crate::transactions;
use crate::turn::{FlushWait, Turn};

/// Handles a send of any kind.
pub fn handle(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: SendMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let config = broker.config();
    let sent = if request.batch {
        send_batch::batch(turn, &broker, &config, &request, call)
    } else {
        single(turn, &broker, &config, &request, call)
    };
    match sent {
        Ok(sent) => answer(turn, call, &config, sent),
        Err(refused) => {
            broker.stats.puts_failed.add(1);
            let fields = [
                ("MSG_REGION", config.region_id.as_str()),
                ("TRACE_ON", if config.trace_on { "true" } else { "false" }),
            ];
            call.answer(refused.code, refused.remark.as_deref(), &Pairs(&fields), |_| {})
        }
    }
}

/// A stored message or batch, ready to be answered.
pub struct Sent {
    /// Physical end of the (last) record.
    pub end: i64,
    /// Queue that it went to.
    pub queue_id: i32,
    /// Queue offset of the (first) message.
    pub queue_offset: i64,
    /// Where the unique id stands in `turn.properties`.
    pub uniq_key: Option<Range<usize>>,
    /// It is a batch that was stored as one record.
    pub inner_batch: bool,
    /// Handle to recall it by, if it waits for a time.
    pub recall_handle: Option<String>,
    /// Whether the sender waits for the disk.
    pub wait: bool,
}

fn answer(turn: &mut Turn, call: &mut Call<'_>, config: &BrokerConfig, sent: Sent) -> Handled {
    let ids = std::mem::take(&mut turn.ids);
    let properties = std::mem::take(&mut turn.properties);
    let uniq_key = sent.uniq_key.and_then(|at| properties.get(at));
    let fields = SendMessageAnswer {
        msg_id: &ids,
        queue_id: sent.queue_id,
        queue_offset: sent.queue_offset,
        transaction_id: uniq_key,
        batch_uniq_id: uniq_key.filter(|_| sent.inner_batch),
        recall_handle: sent.recall_handle.as_deref(),
        region: &config.region_id,
        trace_on: if config.trace_on { "true" } else { "false" },
    };
    let handled = if config.is_sync_flush() && sent.wait && !call.header.is_oneway() {
        let frame = |code| {
            let mut bytes = Vec::with_capacity(512);
            let head = Head::response(code, call.header.opaque, None);
            write_frame(&mut bytes, &head, &fields, false, |_| {});
            bytes
        };
        turn.answer_when_flushed(FlushWait {
            end: sent.end,
            deadline_ms: turn.now_ms + i64::from(config.sync_flush_timeout),
            peer: Arc::clone(call.peer),
            flushed: frame(response::SUCCESS),
            timed_out: frame(response::FLUSH_DISK_TIMEOUT),
        });
        Ok(Reply::Later)
    } else {
        call.ok(&fields)
    };
    turn.ids = ids;
    turn.properties = properties;
    handled
}

/// The checks that a send passes before it is looked at. Java: `msgCheck`.
pub fn checked_topic(
    broker: &Broker,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
    peer: SocketAddr,
) -> Result<Arc<Topic>, Refusal> {
    let known = broker.topics.get(request.topic);
    if config.broker_permission & perm::WRITE == 0 && known.as_ref().is_some_and(|t| t.config.order)
    {
        return Err(Refusal::new(
            response::NO_PERMISSION,
            format!("the broker[{}] sending message is forbidden", broker.shown_ip()),
        ));
    }
    let topic = match known {
        // A topic that exists has passed the name check; only forbidden names need a look.
        Some(topic) => topic,
        None => {
            check_topic(request.topic).map_err(|e| Refusal::new(response::INVALID_PARAMETER, e))?;
            create_topic(broker, config, request)?
        }
    };
    if Topics::is_forbidden_to_send(request.topic) {
        return Err(Refusal::new(
            response::NO_PERMISSION,
            format!("Sending message to topic[{}] is forbidden.", request.topic),
        ));
    }
    if request.queue_id >= 0 && request.queue_id as usize >= queue_count(&topic) {
        return Err(Refusal::new(
            response::INVALID_PARAMETER,
            format!(
                "request queueId[{}] is illegal, {} Producer: {peer}",
                request.queue_id,
                topics::java_text(&topic.config)
            ),
        ));
    }
    Ok(topic)
}

fn queue_count(topic: &Topic) -> usize {
    topic.config.read_queue_nums.max(topic.config.write_queue_nums).max(0) as usize
}

fn create_topic(
    broker: &Broker,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
) -> Result<Arc<Topic>, Refusal> {
    let name = request.topic;
    let retry = name.starts_with(RETRY_PREFIX);
    let sys_flag = match (request.unit_mode, retry) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    };
    let queues = request.default_topic_queue_nums;
    let template = broker.topics.template(name, request.default_topic, queues, sys_flag, config);
    if let Some(template) = template {
        let (topic, new) = broker.topics.put_if_absent(template)?;
        if new {
            broker.registrar.topics_put(&[name]);
        }
        return Ok(topic);
    }
    if retry {
        return Ok(broker.system_made_topic(name, 1, false, sys_flag)?);
    }
    Err(Refusal::new(
        response::TOPIC_NOT_EXIST,
        format!("topic[{name}] not exist, apply first please!{}", reply::SEE_APPLY_TOPIC),
    ))
}

/// A queue of the topic: the wanted one, or one of the writable ones for a negative id.
pub fn pick_queue(
    topic: &Topic,
    wanted: i32,
    seed: i64,
) -> Result<(Arc<TopicQueue>, i32), Refusal> {
    let writable = i64::from(topic.config.write_queue_nums);
    let id = match wanted {
        0.. => wanted,
        _ if writable > 0 => (seed.unsigned_abs() % writable as u64) as i32,
        _ => {
            return Err(Refusal::new(response::SYSTEM_ERROR, "the topic has no queue to write to"));
        }
    };
    let queue = usize::try_from(id).ok().and_then(|id| topic.queues.get(id));
    let queue =
        queue.ok_or_else(|| Refusal::new(response::SYSTEM_ERROR, "the topic has no queues"))?;
    Ok((Arc::clone(queue), id))
}

fn single(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
    call: &Call<'_>,
) -> Result<Sent, Refusal> {
    let mut topic = checked_topic(broker, config, request, call.peer.remote)?;
    if call.body.is_empty() {
        return Err(Refusal::new(response::SYSTEM_ERROR, "the message body is empty"));
    }
    check_body(config, call.body)?;
    let text = request.properties.unwrap_or_default();
    let known = Known::scan(text);
    let priority = known.priority.and_then(|_| priority_of(text, &known));
    let wanted = priority.map_or(request.queue_id, |p| p.min(topic.config.write_queue_nums - 1));
    let (mut queue, mut queue_id) = pick_queue(&topic, wanted, turn.now_ms)?;
    let mut dead_letter = false;
    if let Some(group) = request.topic.strip_prefix(RETRY_PREFIX)
        && let Some(dlq) = dead_letters(broker, request, group, call.header.version, turn.now_ms)?
    {
        dead_letter = true;
        (queue, queue_id) = pick_queue(&dlq, 0, 0)?;
        topic = dlq;
    }
    let host = broker.store_host(call.peer.local);
    let mut dropped: Vec<&str> = Vec::new();
    if dead_letter {
        dropped.push(properties::DELAY);
    }
    if known.priority.is_some() && priority.is_none() {
        dropped.push(properties::PRIORITY);
    }
    stored_properties(turn, config, (text, &known), host, dropped);
    let text = std::mem::take(&mut turn.properties);
    let result = store_single(
        turn,
        broker,
        config,
        request,
        call,
        Target { topic: &topic, queue, queue_id, host },
        &text,
    );
    turn.properties = text;
    let (Put { appended, recall_ms }, wait, uniq_key) = result?;
    let unique = uniq_key.clone().and_then(|at| turn.properties.get(at)).unwrap_or_default();
    let recall_handle = recall_ms
        .filter(|_| !request.topic.starts_with(RETRY_PREFIX))
        .map(|ms| recall::handle_of(request.topic, &config.broker_name, ms, unique));
    turn.ids.clear();
    write_offset_id(&mut turn.ids, host, appended.place.physical_offset as u64);
    Ok(Sent {
        end: appended.end,
        queue_id,
        queue_offset: appended.place.queue_offset,
        uniq_key,
        inner_batch: false,
        recall_handle,
        wait,
    })
}

/// The priority of a message that has one and is of no other type. Java:
/// `TopicMessageType.parseFromMessageProperty`.
fn priority_of(text: &str, known: &Known<'_>) -> Option<i32> {
    let priority = known.priority.and_then(|text| text.parse::<i32>().ok());
    let half = known.tran_msg.is_some_and(|tran| tran.eq_ignore_ascii_case("true"));
    let ordered = properties::get(text, properties::SHARDING_KEY).is_some();
    priority.filter(|p| *p >= 0 && !half && known.delay.is_none() && !known.timer && !ordered)
}

struct Target<'a> {
    topic: &'a Topic,
    queue: Arc<TopicQueue>,
    queue_id: i32,
    host: SocketAddr,
}

/// Puts a message where it belongs, a half message where those wait.
fn store_single(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    request: &SendMessage<'_>,
    call: &Call<'_>,
    target: Target<'_>,
    text: &str,
) -> Result<(Put, bool, Option<Range<usize>>), Refusal> {
    let known = Known::scan(text);
    let uniq_key = uniq_key_in(&known, text);
    let wait = waits(&known);
    let new = NewRecord {
        topic: &target.topic.config.topic_name,
        queue_id: target.queue_id,
        flag: request.flag,
        sys_flag: (request.sys_flag | multi_tag(target.topic))
            & !(record::TRANSACTION_MASK | record::INNER_BATCH),
        born_timestamp: request.born_timestamp,
        born_host: call.peer.remote,
        store_host: target.host,
        reconsume_times: request.reconsume_times.unwrap_or(0),
        prepared_offset: 0,
        body: call.body,
        body_crc: crc31(call.body),
        properties: text,
    };
    let put = if known.inner_num.is_some() || request.sys_flag & record::INNER_BATCH != 0 {
        let wanted = (request.sys_flag, &new, &known);
        let appended = send_batch::put_ready_made(turn, broker, config, &target.queue, wanted)?;
        Put { appended, recall_ms: None }
    } else if transactions::is_half(&known, new.reconsume_times) {
        Put { appended: transactions::put_half(turn, broker, config, new)?, recall_ms: None }
    } else {
        put(turn, broker, config, &target.queue, new, &known)?
    };
    Ok((put, wait, uniq_key))
}

/// Where the unique id stands in the text that was scanned.
pub fn uniq_key_in(known: &Known<'_>, text: &str) -> Option<Range<usize>> {
    let key = known.uniq_key?;
    let start = key.as_ptr() as usize - text.as_ptr() as usize;
    Some(start..start + key.len())
}

/// Whether the sender waits for the disk.
pub fn waits(known: &Known<'_>) -> bool {
    !known.wait.is_some_and(|wait| wait.eq_ignore_ascii_case("false"))
}

/// The sysFlag bit of topics whose messages may have several tags.
pub fn multi_tag(topic: &Topic) -> i32 {
    if topic.config.topic_filter_type == "MULTI_TAG" { 0x2 } else { 0 }
}

/// Builds the properties text to store in `turn.properties`.
pub fn stored_properties(
    turn: &mut Turn,
    config: &BrokerConfig,
    (sent, known): (&str, &Known<'_>),
    host: SocketAddr,
    mut dropped: Vec<&str>,
) {
    let text = &mut turn.properties;
    text.clear();
    if known.pop_ck {
        dropped.push(properties::POP_CK);
    }
    if known.broker_set {
        dropped.extend([properties::CLUSTER, properties::MSG_REGION, properties::TRACE_ON]);
    }
    if dropped.is_empty() {
        text.push_str(sent);
    } else {
        text.push_str(&properties::without(sent, &dropped));
    }
    if known.uniq_key.is_none() {
        let serial = turn.broker.stats.puts.total() ^ ((turn.now_ms as u64) << 20);
        let key = unique_id(host.ip(), std::process::id(), turn.now_ms, serial);
        properties::push(text, properties::UNIQ_KEY, &key);
    }
    properties::push(text, properties::MSG_REGION, &config.region_id);
    properties::push(text, properties::TRACE_ON, if config.trace_on { "true" } else { "false" });
    properties::push(text, properties::CLUSTER, &config.broker_cluster_name);
}

/// Whether a retry send goes to the dead letters instead. Java: `handleRetryAndDLQ`.
fn dead_letters(
    broker: &Broker,
    request: &SendMessage<'_>,
    group: &str,
    version: i32,
    now_ms: i64,
) -> Result<Option<Arc<Topic>>, Refusal> {
    let auto = broker.config().auto_create_subscription_group;
    let config = broker.groups.get_or_create(group, auto).ok_or_else(|| {
        Refusal::new(
            response::SUBSCRIPTION_GROUP_NOT_EXIST,
            format!("subscription group not exist, {group} {}", reply::SEE_GROUP),
        )
    })?;
    let mut max = config.retry_max_times;
    if version >= VERSION_MAX_RECONSUME {
        max = request.max_reconsume_times.unwrap_or(max);
    }
    let exhausted = request.reconsume_times.unwrap_or(0) > max;
    // A living lock means an orderly consumer: it has retried by itself and gives up.
    if !exhausted && broker.locks.all_expired(group, now_ms) {
        return Ok(None);
    }
    Ok(Some(broker.system_made_topic(&format!("{DLQ_PREFIX}{group}"), 1, false, 0)?))
}

/// Refuses a body over the limit.
pub fn check_body(config: &BrokerConfig, body: &[u8]) -> Result<(), Refusal> {
    if body.len() > config.max_message_size as usize { Err(illegal(config)) } else { Ok(()) }
}
