//! Transactions: which half messages are open, what ends them, and the questions to producers.
//!
//! A half message lies in `RMQ_SYS_TRANS_HALF_TOPIC`; that it was ended is said by an entry in
//! `RMQ_SYS_TRANS_OP_HALF_TOPIC`. Unlike the original, which reads both topics every 30 seconds
//! and writes every half message again each time it asks about it, the broker keeps the open ones
//! in memory: an end is checked against that table, so nothing is committed twice, and a
//! question costs no write. Files and offsets are Java's, so each side goes on where the other
//! stopped. Java: `TransactionalMessageServiceImpl`.
//!
//! Should a kill fall between a copy and its mark, the copy itself is the mark: it names its half
//! message, and recovery remembers such names ([`store::Store::delivered_before_start`]).

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use net::Refusal;
use parking_lot::Mutex;
use store::{At, Store, Wait};
use wire::codes::{request, response};
use wire::header::{Head, write_frame};
use wire::json::{Value, object};
use wire::message_id::offset_id;
use wire::properties::{self, Known};
use wire::record::{self, NewRecord, Place, Record, Scanned};
use wire::requests::CheckTransaction;

use crate::config::BrokerConfig;
use crate::marks::{Marks, Names, copy_of, each_record};
use crate::offsets::Offsets;
use crate::put;
use crate::state::Broker;
use crate::topics::Topics;
use crate::turn::{OVERLOAD, Turn};

/// Where half messages wait, in queue 0.
pub const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";
/// Where it is noted that they were ended, in queue 0.
pub const OP_TOPIC: &str = "RMQ_SYS_TRANS_OP_HALF_TOPIC";
/// Where half messages end that no producer decided.
pub const PARKED_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";
/// Group under which the progress of both topics is kept.
pub const GROUP: &str = "CID_RMQ_SYS_TRANS";

/// Questions of one turn, so that a flood of them does not hold up the loop.
const PER_TURN: usize = 64;
/// Pause while a half message is fetched from disk.
const WARM_MS: i64 = 5;

/// One open half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Open {
    /// Where its record is.
    pub physical_offset: i64,
    /// When it was stored.
    pub stored_ms: i64,
    /// When its producer is asked next.
    pub due_ms: i64,
    /// How often it was asked.
    pub checks: i32,
}

#[derive(Default)]
struct State {
    /// By offset in the half queue.
    open: BTreeMap<i64, Open>,
    /// When and which half message is asked about next.
    due: BTreeSet<(i64, i64)>,
    checks_changed: bool,
}

/// The transactions of a broker.
pub struct Transactions {
    marks: Marks,
    state: Mutex<State>,
    next_due: AtomicI64,
    path: PathBuf,
}

/// Whether a send is a half message. Java: `SendMessageProcessor.sendMessage`.
pub fn is_half(known: &Known<'_>, reconsume_times: i32) -> bool {
    known.tran_msg.is_some_and(|flag| flag.eq_ignore_ascii_case("true"))
        && !(reconsume_times > 0 && known.delay.is_some_and(|level| level != "0"))
}

/// Stores a half message in place of the message that it stands for.
pub fn put_half(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    new: NewRecord<'_>,
) -> Result<store::Appended, Refusal> {
    if config.reject_transaction_message {
        return Err(Refusal::new(
            response::NO_PERMISSION,
            format!("the broker[{}] sending transaction message is forbidden", broker.shown_ip()),
        ));
    }
    let transactions = &broker.transactions;
    if transactions.count() >= config.max_open_transactions as usize {
        return Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD));
    }
    let mut text =
        properties::without(new.properties, &[properties::REAL_TOPIC, properties::REAL_QID]);
    if let Some(id) = properties::get(new.properties, properties::UNIQ_KEY) {
        properties::push(&mut text, properties::TRANSACTION_ID, id);
    }
    properties::push(&mut text, properties::REAL_TOPIC, new.topic);
    properties::push(&mut text, properties::REAL_QID, &new.queue_id.to_string());
    let half = NewRecord { topic: HALF_TOPIC, queue_id: 0, properties: &text, ..new };
    let known = Known::scan(&text);
    let appended = put::append(turn, broker, config, &transactions.marks.source, &half, &known)?;
    let stored_ms = appended.place.store_timestamp;
    transactions.opened(
        appended.place.queue_offset,
        Open {
            physical_offset: appended.place.physical_offset,
            stored_ms,
            due_ms: stored_ms.saturating_add(immunity_ms(config, &text)),
            checks: 0,
        },
    );
    Ok(appended)
}

/// How long the producer is not asked. A number of the message's own counts unless it is no
/// number, shorter than the broker's, or longer than messages are kept.
pub fn immunity_ms(config: &BrokerConfig, text: &str) -> i64 {
    let own = properties::get(text, properties::CHECK_IMMUNITY).and_then(|s| s.parse().ok());
    let own = own.map(|seconds: i64| seconds.saturating_mul(1000));
    own.filter(|ms| *ms < reserved_ms(config)).unwrap_or(0).max(config.transaction_time_out)
}

fn reserved_ms(config: &BrokerConfig) -> i64 {
    match config.file_reserved_time {
        ..0 => i64::MAX,
        hours => i64::from(hours) * 3_600_000,
    }
}

impl Transactions {
    /// Finds the open half messages: those behind the progress of [`GROUP`] that no op record
    /// names and whose copy was not delivered right before the end of the last run.
    pub fn load(
        path: PathBuf,
        topics: &Topics,
        store: &Store,
        offsets: &Offsets,
        config: &BrokerConfig,
    ) -> Result<Transactions, store::config_file::LoadError> {
        let file = store::config_file::load(&path, Value::parse)?;
        let counts =
            file.as_ref().and_then(|file| file.get("checks")).map_or(&[][..], Value::pairs);
        let counts: BTreeMap<i64, i64> =
            counts.iter().filter_map(|(half, n)| Some((half.int()?, n.int()?))).collect();
        let names = Names { source: HALF_TOPIC, marks: OP_TOPIC, group: GROUP };
        let mut ended = HashSet::new();
        let (marks, start) = Marks::load(names, topics, store, offsets, |half| {
            ended.insert(half);
        });
        let transactions = Transactions {
            marks,
            state: Mutex::default(),
            next_due: AtomicI64::new(i64::MAX),
            path,
        };
        transactions.load_halves(store, config, start, &ended, &counts);
        Ok(transactions)
    }

    fn load_halves(
        &self,
        store: &Store,
        config: &BrokerConfig,
        start: i64,
        ended: &HashSet<i64>,
        counts: &BTreeMap<i64, i64>,
    ) {
        let delivered: HashSet<i64> = store.delivered_before_start().iter().copied().collect();
        each_record(store, &self.marks.source, start, |offset, entry, record| {
            let text = record.properties();
            let number = |name| properties::get(text, name).and_then(|n| n.parse::<i64>().ok());
            let first = number(properties::TRAN_PREPARED_QUEUE_OFFSET);
            if ended.contains(&offset) || first.is_some_and(|first| ended.contains(&first)) {
                return;
            }
            if delivered.contains(&entry.physical_offset) {
                self.marks.settle(offset); // its mark was lost by a kill
                return;
            }
            let checks = counts.get(&offset).copied();
            let checks = checks.or(number(properties::TRANSACTION_CHECK_TIMES)).unwrap_or(0);
            let wait = match checks {
                0 => immunity_ms(config, text),
                _ => config.transaction_check_interval,
            };
            self.opened(
                offset,
                Open {
                    physical_offset: entry.physical_offset,
                    stored_ms: record.store_timestamp(),
                    due_ms: record.store_timestamp().saturating_add(wait),
                    checks: checks.clamp(0, 65_535) as i32,
                },
            );
        });
        let open = self.count();
        if open > 0 {
            tracing::info!(open, "transactions are open");
        }
    }

    fn opened(&self, half: i64, open: Open) {
        let mut state = self.state.lock();
        state.open.insert(half, open);
        state.due.insert((open.due_ms, half));
        self.next_due.fetch_min(open.due_ms, Ordering::AcqRel);
    }

    /// How many transactions are open.
    pub fn count(&self) -> usize {
        self.state.lock().open.len()
    }

    /// When a producer is to be asked next, if any.
    pub fn next_due_ms(&self) -> Option<i64> {
        let due = self.next_due.load(Ordering::Acquire);
        (due < i64::MAX).then_some(due)
    }

    /// The open transactions from an offset of the half queue on, at most `max`.
    pub fn list(&self, from: i64, max: usize) -> Vec<(i64, Open)> {
        let state = self.state.lock();
        state.open.range(from..).take(max).map(|(half, open)| (*half, *open)).collect()
    }

    /// One open transaction.
    pub fn get(&self, half: i64) -> Option<Open> {
        self.state.lock().open.get(&half).copied()
    }

    /// Takes an open transaction, so that one caller alone ends it. `None`: it is not open.
    pub fn take(&self, half: i64) -> Option<Open> {
        let mut state = self.state.lock();
        let open = state.open.remove(&half)?;
        state.due.remove(&(open.due_ms, half));
        Some(open)
    }

    /// Gives back what could not be ended.
    pub fn give_back(&self, half: i64, open: Open) {
        self.opened(half, open);
    }

    /// Notes that a taken transaction is ended; the mark goes to the log with this turn.
    pub fn ended(&self, half: i64) {
        self.marks.settle(half);
    }

    /// Saves the counts of questions, and the progress up to what is on disk.
    pub fn save(&self, broker: &Broker, now_ms: i64) {
        let open = self.state.lock().open.keys().next().copied();
        self.marks.save_progress(broker, open, now_ms);
        let checks = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.checks_changed) {
                return;
            }
            let asked = state.open.iter().filter(|(_, open)| open.checks > 0);
            object(asked.map(|(half, open)| (*half, i64::from(open.checks))))
        };
        let file = object([("checks", checks)]);
        if let Err(error) = store::config_file::save(&self.path, &file.to_file_text()) {
            self.state.lock().checks_changed = true;
            tracing::error!(path = %self.path.display(), %error, "cannot save the check counts");
        }
    }

    fn update_next_due(&self, state: &State) {
        let next = state.due.first().map_or(i64::MAX, |(due, _)| *due);
        self.next_due.store(next, Ordering::Release);
    }

    /// What is due now, at most [`PER_TURN`]; taken off the list of due ones.
    fn take_due(&self, now_ms: i64) -> Vec<(i64, Open)> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while taken.len() < PER_TURN
            && let Some((due, half)) = state.due.first().copied()
            && due <= now_ms
        {
            state.due.pop_first();
            if let Some(open) = state.open.get(&half) {
                taken.push((half, *open));
            }
        }
        self.update_next_due(&state);
        taken
    }

    /// Puts an open transaction on the list again, unless it was ended meanwhile.
    fn put_due(&self, half: i64, due_ms: i64, checks: i32) {
        let mut state = self.state.lock();
        let Some(open) = state.open.get_mut(&half) else { return };
        let changed = open.checks != checks;
        (open.due_ms, open.checks) = (due_ms, checks);
        state.due.insert((due_ms, half));
        state.checks_changed |= changed;
        self.update_next_due(&state);
    }
}

/// Writes the marks of the transactions that ended in this turn. Called before its commit.
pub fn write_marks(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    broker.transactions.marks.write(turn);
}

/// Asks producers about the transactions whose time has come. Called at the end of every turn.
pub fn ask_due(turn: &mut Turn) {
    let broker = Arc::clone(&turn.broker);
    let transactions = &broker.transactions;
    if transactions.next_due.load(Ordering::Acquire) > turn.now_ms {
        return;
    }
    let config = broker.config();
    for (half, open) in transactions.take_due(turn.now_ms) {
        let readable = broker.store.watermarks().readable;
        if open.physical_offset >= readable {
            transactions.put_due(half, turn.now_ms + 1, open.checks);
            continue;
        }
        let mut bytes = std::mem::take(&mut turn.records);
        bytes.clear();
        match broker.store.at(open.physical_offset, Wait::OnlyCached, &mut bytes) {
            At::Found => ask_or_park(turn, &broker, &config, half, open, &bytes),
            At::Cold => {
                broker.readers.warm(&broker.store, vec![open.physical_offset]);
                transactions.put_due(half, turn.now_ms + WARM_MS, open.checks);
            }
            At::Missing => {
                tracing::error!(half, "a half message expired before its transaction was ended");
                if transactions.take(half).is_some() {
                    transactions.ended(half);
                }
            }
        }
        turn.records = bytes;
    }
}

fn ask_or_park(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    half: i64,
    open: Open,
    bytes: &[u8],
) {
    let transactions = &broker.transactions;
    let next_ms = turn.now_ms.saturating_add(config.transaction_check_interval);
    let Ok(Scanned::Record(record)) = record::scan(bytes) else {
        return transactions.put_due(half, next_ms, open.checks + 1);
    };
    let too_old = turn.now_ms - open.stored_ms > reserved_ms(config);
    if open.checks < config.transaction_check_max && !too_old {
        ask(broker, config, half, &record);
        return transactions.put_due(half, next_ms, open.checks + 1);
    }
    let Some(open) = transactions.take(half) else { return };
    match park(turn, broker, config, &record) {
        Ok(()) => transactions.ended(half),
        Err(error) => {
            tracing::error!(?error, half, "an undecided half message cannot be parked yet");
            transactions.give_back(half, Open { due_ms: next_ms, ..open });
        }
    }
}

/// Sends 39 to one of the producers of the group. Java: `checkProducerTransactionState`.
fn ask(broker: &Broker, config: &BrokerConfig, half: i64, record: &Record<'_>) {
    let text = record.properties();
    let group = properties::get(text, properties::PGROUP).unwrap_or_default();
    let Some(peer) = broker.clients.one_producer(group, half) else {
        tracing::warn!(group, half, "no producer is connected that could decide a transaction");
        return;
    };
    let target = properties::get(text, properties::REAL_TOPIC).unwrap_or_default();
    let queue_id = properties::get(text, properties::REAL_QID).and_then(|id| id.parse().ok());
    let unique = properties::get(text, properties::UNIQ_KEY);
    let physical_offset = record.physical_offset();
    let id = offset_id(record.store_host(), physical_offset as u64);
    let fields = CheckTransaction {
        topic: HALF_TOPIC,
        tran_state_table_offset: half,
        commit_log_offset: physical_offset,
        msg_id: unique,
        transaction_id: unique,
        offset_msg_id: &id,
        broker_name: &config.broker_name,
    };
    let message = NewRecord {
        topic: target,
        queue_id: queue_id.unwrap_or(0),
        ..copy_of(record, record.properties())
    };
    let place = Place {
        queue_offset: record.queue_offset(),
        physical_offset,
        store_timestamp: record.store_timestamp(),
    };
    let mut frame = Vec::new();
    let head = Head::request(request::CHECK_TRANSACTION_STATE, half as i32, true);
    write_frame(&mut frame, &head, &fields, false, |out| {
        let start = out.len();
        message.encode(place, out);
        // Java leaves the size of a message that was taken apart at 0.
        out[start..start + 4].fill(0);
    });
    peer.send(frame);
}

/// Moves a half message that nobody decided to where an operator finds it.
fn park(
    turn: &mut Turn,
    broker: &Arc<Broker>,
    config: &BrokerConfig,
    record: &Record<'_>,
) -> Result<(), Refusal> {
    let topic = broker.system_made_topic(PARKED_TOPIC, 1, false, 0)?;
    let missing = || Refusal::new(response::SYSTEM_ERROR, "the topic has no queue");
    let queue = topic.queues.first().ok_or_else(missing)?;
    let text = record.properties();
    let new = NewRecord { topic: PARKED_TOPIC, queue_id: 0, ..copy_of(record, text) };
    let target = properties::get(text, properties::REAL_TOPIC);
    tracing::error!(topic = target, "an undecided transaction is parked in {PARKED_TOPIC}");
    put::append(turn, broker, config, queue, &new, &Known::scan(text)).map(drop)
}
