//! Answers to pops, at once or when something arrived for them.

use std::sync::Arc;

use net::Peer;
use wire::codes::response;
use wire::header::{Head, write_frame};
use wire::requests::{NotificationAnswer, PopMessageAnswer};

use super::take::{self, Kind, Pop, Taken};
use super::waiting::{ParkedPop, PopWaiters};
use crate::state::Broker;
use crate::turn::Turn;

/// Header of the answer to a pop.
pub fn header<'a>(pop: &Pop, taken: &'a Taken) -> PopMessageAnswer<'a> {
    PopMessageAnswer {
        pop_time: taken.pop_ms,
        invisible_time: pop.invisible_ms,
        revive_qid: pop.revive_queue(),
        rest_num: taken.rest,
        start_offset_info: Some(&taken.start_info),
        msg_offset_info: Some(&taken.offset_info),
        order_count_info: pop.order.then_some(&*taken.order_info),
    }
}

/// Answers a parked pop whose time is over.
pub fn answer_at_deadline(turn: &Turn, parked: &ParkedPop) {
    let pop = &parked.work;
    let mut frame = Vec::new();
    match pop.kind {
        Kind::Take => {
            let taken = Taken { pop_ms: turn.now_ms, ..Taken::default() };
            let code = response::POLLING_TIMEOUT;
            let head = Head::response(code, parked.opaque, Some("NO_MESSAGE_IN_QUEUE"));
            write_frame(&mut frame, &head, &header(pop, &taken), false, |_| {});
        }
        Kind::Notify => write_notification(&mut frame, parked.opaque, false, false),
    }
    parked.peer.send(frame);
}

/// Appends the answer to a notification.
pub fn write_notification(frame: &mut Vec<u8>, opaque: i32, has_msg: bool, polling_full: bool) {
    let head = Head::response(response::SUCCESS, opaque, Some(crate::reply::NOT_SET));
    let fields = NotificationAnswer { has_msg, polling_full };
    write_frame(frame, &head, &fields, false, |_| {});
}

/// Serves the pops that wait on a topic: after a message in a queue all that it concerns, or all
/// of one group.
pub fn serve(turn: &mut Turn, waiters: &PopWaiters, group: Option<&Arc<str>>, queue_id: i32) {
    let lists = match group {
        Some(group) => waiters.of(group),
        None => waiters.on(queue_id),
    };
    for list in lists {
        let mut told = 0;
        while let Some(parked) = waiters.claim(&list) {
            if run(turn, &parked, &mut told) {
                waiters.answered(&parked);
            } else {
                waiters.give_back(parked);
                break;
            }
        }
    }
}

/// Runs a parked pop. False when there is nothing for it.
fn run(turn: &mut Turn, parked: &Arc<ParkedPop>, told: &mut i64) -> bool {
    let broker = Arc::clone(&turn.broker);
    let pop = &parked.work;
    if pop.kind == Kind::Notify {
        // Each message is worth one word.
        let has_msg = take::available(turn, &broker, pop, true) > *told;
        if has_msg {
            *told += 1;
            let mut frame = Vec::new();
            write_notification(&mut frame, parked.opaque, true, false);
            parked.peer.send(frame);
        }
        return has_msg;
    }
    let mut records = std::mem::take(&mut turn.records);
    records.clear();
    let taken = take::take(turn, &broker, pop, &mut records);
    if taken.messages > 0 {
        answer(&parked.peer, parked.opaque, pop, &taken, &records);
    } else {
        look_again(turn, pop, &taken);
    }
    turn.records = records;
    taken.messages > 0
}

fn answer(peer: &Peer, opaque: i32, pop: &Pop, taken: &Taken, records: &[u8]) {
    let mut frame = Vec::with_capacity(records.len() + 320);
    let head = Head::response(response::SUCCESS, opaque, Some("FOUND"));
    let body = |out: &mut Vec<u8>| out.extend_from_slice(records);
    write_frame(&mut frame, &head, &header(pop, taken), false, body);
    peer.send(frame);
}

/// Sees to it that a pop that found nothing is asked again when there is a reason: its messages
/// are on disk and on their way into memory, or it has not seen everything.
pub fn look_again(turn: &mut Turn, pop: &Pop, taken: &Taken) {
    let broker = Arc::clone(&turn.broker);
    let Some(topic) = broker.topics.get(&pop.topic) else { return };
    if taken.unfinished {
        turn.wake_group(&topic.pops, &pop.group, 0);
    }
    let Some((queue, from)) = &taken.cold else { return };
    let (queue, from, group) = (Arc::clone(queue), *from, Arc::clone(&pop.group));
    let (filter, max) = (Arc::clone(&pop.filter), pop.max_messages);
    let shared = Arc::clone(&broker);
    let submitted = broker.readers.submit(move || {
        warm(&shared, &queue.queue, &filter, from, max);
        shared.pops.warmed.lock().push((Arc::clone(&topic.pops), group));
        shared.wake_loops();
    });
    if !submitted {
        tracing::warn!(topic = &*pop.topic, "too many reads wait for the disk: a pop waits longer");
    }
}

/// Reads what a pop would read, only to have it in memory.
fn warm(broker: &Broker, queue: &store::Queue, filter: &filter::Filter, from: i64, max: usize) {
    let limit = crate::reading::limit(&broker.config(), max, store::Wait::OnlyCached);
    let mut out = Vec::new();
    let wait = store::Wait::MayBlock;
    crate::reading::fetch(broker, queue, filter, from, limit, wait, &mut out);
}

/// Serves the groups whose messages were brought into memory.
pub fn serve_warmed(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    let warmed: Vec<(Arc<PopWaiters>, Arc<str>)> = std::mem::take(&mut *broker.pops.warmed.lock());
    for (waiters, group) in warmed {
        serve(turn, &waiters, Some(&group), -1);
    }
}
