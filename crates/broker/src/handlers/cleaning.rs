//! Operators clean up before the store would: 306, 316, 329. Java: `AdminBrokerProcessor`.
//!
//! What may wait for the disk runs on a reader's thread and answers from there.

use std::sync::Arc;

use net::{Call, Handled, Refusal, Reply};
use wire::codes::response;
use wire::header::{Head, NoFields, write_frame};

use crate::state::Broker;
use crate::turn::{OVERLOAD, Turn};

/// 306: forgets what the queues and the index have of messages that are gone.
pub fn expired_queues(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    later(turn, call, |broker| broker.store.follow_log_min())
}

/// 316: deletes the queues of topics that do not exist.
pub fn unused_topics(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    later(turn, call, |broker| broker.topics.remove_unknown())
}

/// 329: deletes expired log files now and in the next rounds, whatever the hour.
pub fn expired_log(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    tracing::info!(peer = ?call.peer, "expired log files are to be deleted");
    turn.broker.store.delete_expired_now();
    Ok(Reply::Ok)
}

fn later(
    turn: &Turn,
    call: &Call<'_>,
    work: impl FnOnce(&Broker) -> std::io::Result<()> + Send + 'static,
) -> Handled {
    let (broker, peer) = (Arc::clone(&turn.broker), Arc::clone(call.peer));
    let (opaque, oneway) = (call.header.opaque, call.header.is_oneway());
    let taken = turn.broker.readers.submit(move || {
        let failed = work(&broker).err().map(|error| error.to_string());
        let code = if failed.is_some() { response::SYSTEM_ERROR } else { response::SUCCESS };
        let mut frame = Vec::new();
        let head = Head::response(code, opaque, failed.as_deref());
        write_frame(&mut frame, &head, &NoFields, false, |_| {});
        if !oneway {
            peer.send(frame);
        }
    });
    if taken { Ok(Reply::Later) } else { Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD)) }
}
