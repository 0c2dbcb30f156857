//! 900003: an operator sends dead letters on their way again: one, all, or those that an expression
//! picks. They go to the retry topic of their group alone, as if they had never been given back, so
//! that no other group of the topic sees them. The dead letters themselves stay until they expire.

use std::sync::Arc;

use filter::{Filter, SqlFilter, TagFilter};
use net::{Call, Handled, Refusal};
use store::{ReadLimit, Wait};
use wire::codes::response;
use wire::json::object;
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Record};
use wire::requests::Redrive;
use wire::text::{DLQ_PREFIX, RETRY_PREFIX};

use crate::marks::copy_of;
use crate::pop::take::retry_topic;
use crate::state::Broker;
use crate::topics::TopicQueue;
use crate::turn::Turn;
use crate::{put, reading};

/// Group whose offset says up to where all dead letters of a group were sent again.
const PROGRESS: &str = "CID_RMQ_SYS_APOGEE_REDRIVE";
/// Most dead letters of one request; the answer says where to go on.
const MOST: usize = 1000;

fn refuse(text: impl Into<String>) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, text.into())
}

/// Handles a redrive.
pub fn redrive(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: Redrive<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let group = request.consumer_group;
    let name = format!("{DLQ_PREFIX}{group}");
    let queue = broker.topics.queue(&name, 0);
    let queue = queue.ok_or_else(|| refuse(format!("{group} has no dead letters here")))?;
    let filter = filter_of(&request)?;
    let all = request.offset.is_none() && request.expression.is_none();
    let progress = broker.offsets.get(PROGRESS, &name, 0).unwrap_or(0);
    let from = request.offset.or(request.from).unwrap_or(progress).max(queue.queue.min_offset());
    let most = request.max_nums.and_then(|n| usize::try_from(n).ok()).unwrap_or(MOST);
    let limit = ReadLimit {
        max_messages: if request.offset.is_some() { 1 } else { most.clamp(1, MOST) },
        max_bytes: 64 << 20,
    };
    let mut records = Vec::new();
    let wait = Wait::MayBlock; // an operator's request, and the dead are mostly cold
    let fetch = reading::fetch(&broker, &queue.queue, &filter, from, limit, wait, &mut records);
    let mut sent = 0;
    for record in record::records(&records) {
        let record =
            record.map_err(|error| refuse(format!("a dead letter is damaged: {error}")))?;
        if request.offset.is_some_and(|offset| offset != record.queue_offset()) {
            break;
        }
        send_again(turn, &broker, group, &record)?;
        sent += 1;
    }
    if request.offset.is_some() && sent == 0 {
        return Err(refuse(format!("no dead letter of {group} is at offset {from}")));
    }
    if all && fetch.next > progress {
        broker.offsets.commit(PROGRESS, &name, 0, fetch.next, turn.now_ms);
    }
    let next = fetch.next;
    tracing::info!(group, sent, from, next, peer = ?call.peer, "dead letters redriven");
    let body = object([("redriven", sent), ("next", next), ("max", fetch.max)]);
    call.ok_body(body.to_text().as_bytes())
}

fn filter_of(request: &Redrive<'_>) -> Result<Filter, Refusal> {
    let text = request.expression.unwrap_or_default();
    if request.expression_type.is_some_and(|kind| kind == filter::SQL92) {
        return SqlFilter::parse(text).map(Filter::Sql).map_err(|error| refuse(error.to_string()));
    }
    TagFilter::parse(text).map(Filter::Tag).map_err(|_| refuse("the expression has no tag"))
}

fn send_again(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    group: &str,
    record: &Record<'_>,
) -> Result<(), Refusal> {
    const OLD: [&str; 5] = [
        properties::DELAY,
        properties::RECONSUME_TIME,
        properties::FIRST_POP_TIME,
        properties::TIMER_OUT_MS,
        properties::WAIT,
    ];
    let (target, queue) = target_of(broker, group, record.properties())?;
    let text = properties::without(record.properties(), &OLD);
    let new = NewRecord {
        topic: &target,
        queue_id: 0,
        reconsume_times: 0,
        prepared_offset: 0,
        ..copy_of(record, &text)
    };
    let config = broker.config();
    let appended = put::append(turn, broker, &config, &queue, &new, &Known::scan(&text))?;
    if let Some(state) = broker.pops.existing(group, &target) {
        turn.retry_arrived(&queue, appended.end, &state);
    }
    Ok(())
}

/// Where the group takes its retries of this message from: pops have a retry topic for each topic.
fn target_of(
    broker: &Arc<Broker>,
    group: &str,
    text: &str,
) -> Result<(String, Arc<TopicQueue>), Refusal> {
    let origin = properties::get(text, properties::RETRY_TOPIC).unwrap_or_default();
    let popped = broker.pops.existing(group, origin).is_some();
    let name = match popped {
        true => retry_topic(origin, group, broker.config().enable_retry_topic_v2),
        false => format!("{RETRY_PREFIX}{group}"),
    };
    let topic = broker.system_made_topic(&name, 1, false, 0)?;
    let queue = topic.queues.first().cloned();
    queue.map(|queue| (name, queue)).ok_or_else(|| refuse("the retry topic has no queue"))
}
