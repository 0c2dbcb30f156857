//! 37: a producer ends a transaction; 323: an operator has a parked one asked about again; 900001
//! and 900002, ours: an operator looks at the open ones and decides one.
//! Java: `EndTransactionProcessor`, `AdminBrokerProcessor.resumeCheckHalfMessage`.

use std::sync::Arc;

use net::{Call, Handled, Refusal, Reply};
use store::{At, Wait};
use wire::codes::response;
use wire::json::{Value, object};
use wire::message_id::parse_offset_id;
use wire::properties::{self, Known};
use wire::record::{
    self, NewRecord, Record, Scanned, TRANSACTION_COMMIT, TRANSACTION_MASK, TRANSACTION_ROLLBACK,
};
use wire::requests::{EndTransaction, ListTransactions, ResolveTransaction, ResumeCheck};

use crate::marks::copy_of;
use crate::put;
use crate::state::Broker;
use crate::transactions::{self, HALF_TOPIC, immunity_ms};
use crate::turn::Turn;

fn refuse(text: &'static str) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, text)
}

/// 37. "Unknown" is never answered, as in the original.
pub fn end(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: EndTransaction<'_> = call.fields()?;
    match request.commit_or_rollback {
        0 => return Ok(Reply::Never),
        TRANSACTION_COMMIT | TRANSACTION_ROLLBACK => {}
        _ => return Err(refuse("commitOrRollback field wrong: 0, 8 or 12 is wanted")),
    }
    let broker = Arc::clone(&turn.broker);
    let mut bytes = std::mem::take(&mut turn.records);
    bytes.clear();
    // It was sent moments ago and is nearly always cached; one that is not is worth the wait.
    let found = broker.store.at(request.commit_log_offset, Wait::MayBlock, &mut bytes);
    let done = match (found, record::scan(&bytes)) {
        (At::Found, Ok(Scanned::Record(half))) if half.topic() == HALF_TOPIC => {
            end_half(turn, &broker, &request, &half)
        }
        _ => Err(refuse("Find prepared transaction message failed")),
    };
    turn.records = bytes;
    if let Err(refused) = &done {
        tracing::debug!(?refused, group = request.producer_group, "a transaction is not ended");
    }
    done.map(|()| Reply::Ok)
}

fn end_half(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    request: &EndTransaction<'_>,
    half: &Record<'_>,
) -> Result<(), Refusal> {
    let text = half.properties();
    let age_ms = turn.now_ms - half.store_timestamp();
    if !request.from_transaction_check
        && properties::get(text, properties::CHECK_IMMUNITY).is_some()
        && age_ms > immunity_ms(&broker.config(), text)
    {
        let text = "the time to end this transaction unasked is over; the broker will ask";
        return Err(Refusal::new(response::ILLEGAL_OPERATION, text));
    }
    if properties::get(text, properties::PGROUP) != Some(request.producer_group) {
        return Err(refuse("The producer group wrong"));
    }
    if half.queue_offset() != request.tran_state_table_offset {
        return Err(refuse("The transaction state table offset wrong"));
    }
    finish(turn, broker, request.commit_or_rollback, half)
}

/// Commits or rolls back a half message that is still open.
pub fn finish(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    how: i32,
    half: &Record<'_>,
) -> Result<(), Refusal> {
    let offset = half.queue_offset();
    let Some(open) = broker.transactions.take(offset) else {
        return Err(refuse("The transaction was ended before"));
    };
    if how == TRANSACTION_COMMIT
        && let Err(refused) = deliver(turn, broker, half)
    {
        broker.transactions.give_back(offset, open);
        return Err(refused);
    }
    broker.transactions.ended(offset);
    let topic = properties::get(half.properties(), properties::REAL_TOPIC).unwrap_or_default();
    broker.stats.transaction_ended(topic, how == TRANSACTION_COMMIT);
    Ok(())
}

/// Puts the copy of a committed half message under its real topic. As the original, the text
/// keeps `TRAN_MSG`, by which clients know the transaction id.
fn deliver(turn: &mut Turn, broker: &Arc<Broker>, half: &Record<'_>) -> Result<(), Refusal> {
    let text = half.properties();
    let topic = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
    let id = properties::get(text, properties::REAL_QID).and_then(|id| id.parse::<i32>().ok());
    let queue = id.and_then(|id| broker.topics.queue(topic, id)).ok_or_else(|| {
        let text = format!("topic[{topic}] not exist, the transaction stays open");
        Refusal::new(response::TOPIC_NOT_EXIST, text)
    })?;
    let kept = properties::without(text, &[properties::REAL_TOPIC, properties::REAL_QID]);
    let new = NewRecord {
        topic,
        queue_id: id.unwrap_or(0),
        sys_flag: half.sys_flag() & !TRANSACTION_MASK | TRANSACTION_COMMIT,
        prepared_offset: half.physical_offset(),
        ..copy_of(half, &kept)
    };
    let config = broker.config();
    put::put(turn, broker, &config, &queue, new, &Known::scan(&kept)).map(drop)
}

/// 323: writes a parked half message as a new one, with all its questions before it.
pub fn resume_check(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ResumeCheck<'_> = call.fields()?;
    let failed = || refuse("Put message back to RMQ_SYS_TRANS_HALF_TOPIC failed.");
    let broker = Arc::clone(&turn.broker);
    let (_, offset) = parse_offset_id(request.msg_id).ok_or_else(failed)?;
    let mut bytes = Vec::new();
    if broker.store.at(offset as i64, Wait::MayBlock, &mut bytes) != At::Found {
        return Err(failed());
    }
    let Ok(Scanned::Record(parked)) = record::scan(&bytes) else { return Err(failed()) };
    let text = parked.properties();
    let topic = properties::get(text, properties::REAL_TOPIC).ok_or_else(failed)?;
    let queue_id = properties::get(text, properties::REAL_QID).and_then(|id| id.parse().ok());
    let new = NewRecord { topic, queue_id: queue_id.ok_or_else(failed)?, ..copy_of(&parked, text) };
    transactions::put_half(turn, &broker, &broker.config(), new)?;
    Ok(Reply::Ok)
}

/// Most transactions that one answer lists.
const LISTED: usize = 256;

/// 900001: the open transactions from an offset of the half queue on, as JSON.
pub fn list(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ListTransactions = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let max = usize::try_from(request.max_nums.unwrap_or(32)).unwrap_or(0).clamp(1, LISTED);
    let open = broker.transactions.list(request.from.unwrap_or(0), max);
    let mut bytes = Vec::new();
    let listed = open.iter().map(|(half, open)| {
        bytes.clear();
        let found = broker.store.at(open.physical_offset, Wait::MayBlock, &mut bytes);
        let record = match (found, record::scan(&bytes)) {
            (At::Found, Ok(Scanned::Record(record))) => Some(record),
            _ => None,
        };
        let text = record.map(|record| record.properties()).unwrap_or_default();
        let property = |name| properties::get(text, name).unwrap_or_default().to_owned();
        object([
            ("halfOffset", Value::from(*half)),
            ("commitLogOffset", Value::from(open.physical_offset)),
            ("storeTimestamp", Value::from(open.stored_ms)),
            ("checks", Value::from(i64::from(open.checks))),
            ("nextCheckTimestamp", Value::from(open.due_ms)),
            ("topic", Value::from(property(properties::REAL_TOPIC))),
            ("queueId", Value::from(property(properties::REAL_QID))),
            ("producerGroup", Value::from(property(properties::PGROUP))),
            ("msgId", Value::from(property(properties::UNIQ_KEY))),
        ])
    });
    let listed: Vec<Value> = listed.collect();
    let total = broker.transactions.count() as i64;
    let body = object([("total", Value::from(total)), ("transactions", Value::from(listed))]);
    call.ok_body(body.to_text().as_bytes())
}

/// 900002: commits or rolls back an open transaction, whoever its producer is.
pub fn resolve(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ResolveTransaction = call.fields()?;
    let how = request.commit_or_rollback;
    if how != TRANSACTION_COMMIT && how != TRANSACTION_ROLLBACK {
        return Err(refuse("commitOrRollback is 8 to commit or 12 to roll back"));
    }
    let broker = Arc::clone(&turn.broker);
    let open = broker.transactions.get(request.half_offset);
    let open = open.ok_or_else(|| refuse("no transaction is open at this halfOffset"))?;
    let mut bytes = Vec::new();
    let found = broker.store.at(open.physical_offset, Wait::MayBlock, &mut bytes);
    let (At::Found, Ok(Scanned::Record(half))) = (found, record::scan(&bytes)) else {
        return Err(refuse("Find prepared transaction message failed"));
    };
    tracing::info!(half = request.half_offset, how, peer = ?call.peer, "an operator decides");
    finish(turn, &broker, how, &half)?;
    Ok(Reply::Ok)
}
