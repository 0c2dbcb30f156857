//! Questions that a client answers: 307, 309 and 223 of operators, and 326 with a reply. But for
//! 223, whose answers become one, the broker passes bodies on untouched, since clients of other
//! languages write JSON of their own. Java: `AdminBrokerProcessor`, `Broker2Client`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use net::{Call, Handled, Peer, Refusal, Reply};
use parking_lot::Mutex;
use store::{At, Wait};
use wire::codes::{request as code, response};
use wire::header::{Head, Header, NoFields, Pairs, write_frame};
use wire::json::{Value, object};
use wire::message_id::parse_offset_id;
use wire::requests::{ClientOfGroup, ConsumerStatus};

use crate::handlers::progress::{MIN_TOLD_VERSION, too_old};
use crate::reply::NOT_SET;
use crate::state::Broker;
use crate::turn::{OVERLOAD, Turn};

/// How long a consumer may take.
const TIMEOUT_MS: i64 = 10_000;
/// How long each consumer may take to tell its offsets. Java waits this long for one by one.
const STATUS_TIMEOUT_MS: i64 = 5000;
/// Versions below this cannot answer. Java: `V3_1_8_SNAPSHOT`.
const MIN_VERSION: i32 = 62;

/// What the one who asked is told.
pub enum Answers {
    /// The client's answer under this opaque; the name of the client is for the text of a timeout.
    Passed {
        /// Opaque of the one who asked.
        opaque: i32,
        /// Group and client.
        about: String,
    },
    /// Whole frames: one if the client answers success, one if not or not in time.
    Fixed {
        /// For code 0.
        success: Vec<u8>,
        /// For everything else.
        failure: Vec<u8>,
    },
    /// A part of one answer: what this client says.
    Part {
        /// Where the parts come together.
        all: Arc<Gathering>,
        /// Its id.
        client: String,
    },
}

/// The offsets that clients tell, for the answer to a 223.
pub struct Gathering {
    opaque: i32,
    parts: Mutex<Parts>,
}

struct Parts {
    missing: usize,
    told: BTreeMap<String, Value>,
}

impl Gathering {
    /// Takes a client's part, or that there will be none; the answer when it was the last.
    fn take(&self, client: String, part: Option<Value>) -> Option<Vec<u8>> {
        let Parts { missing, told } = &mut *self.parts.lock();
        *missing -= 1;
        told.extend(part.map(|part| (client, part)));
        (*missing == 0).then(|| status_frame(self.opaque, std::mem::take(told)))
    }
}

/// The answer to a 223. Java: `GetConsumerStatusBody`.
fn status_frame(opaque: i32, told: BTreeMap<String, Value>) -> Vec<u8> {
    let none = BTreeMap::<String, Value>::new();
    let body = object([("consumerTable", object(told)), ("messageQueueTable", object(none))]);
    let text = body.to_text();
    let mut frame = Vec::new();
    let head = Head::response(response::SUCCESS, opaque, Some(NOT_SET));
    write_frame(&mut frame, &head, &NoFields, false, |out| out.extend_from_slice(text.as_bytes()));
    frame
}

struct Question {
    /// `None`: nobody waits for the answer.
    asker: Option<Arc<Peer>>,
    deadline_ms: i64,
    answers: Answers,
}

/// Questions that wait for a consumer's answer, by connection and opaque.
#[derive(Default)]
pub struct Relays {
    waiting: Mutex<HashMap<(u64, i32), Question>>,
    next_opaque: AtomicI32,
}

impl Relays {
    /// Questions that wait for an answer now.
    pub fn count(&self) -> usize {
        self.waiting.lock().len()
    }

    /// Answers the questions whose time is over.
    pub fn expire(&self, now_ms: i64) {
        let late: Vec<Question> = {
            let mut waiting = self.waiting.lock();
            let late = waiting.extract_if(|_, question| question.deadline_ms <= now_ms);
            late.map(|(_, question)| question).collect()
        };
        for Question { asker, answers, .. } in late {
            let Some(asker) = asker else { continue };
            asker.send(match answers {
                Answers::Fixed { failure, .. } => failure,
                Answers::Part { all, client } => match all.take(client, None) {
                    Some(frame) => frame,
                    None => continue,
                },
                Answers::Passed { opaque, about } => {
                    let text =
                        format!("consumer {about} Timeout: no answer within {TIMEOUT_MS} ms");
                    let head = Head::response(response::CONSUME_MSG_TIMEOUT, opaque, Some(&text));
                    let mut frame = Vec::new();
                    write_frame(&mut frame, &head, &NoFields, false, |_| {});
                    frame
                }
            });
        }
    }
}

/// Sends a client a request that `write` makes, and remembers who is told the answer.
pub fn ask(
    broker: &Broker,
    client: &Arc<Peer>,
    now_ms: i64,
    asker: Option<Arc<Peer>>,
    answers: Answers,
    write: impl FnOnce(i32, &mut Vec<u8>),
) -> Result<(), Refusal> {
    let opaque = broker.relays.next_opaque.fetch_add(1, Ordering::Relaxed);
    let patience = match answers {
        Answers::Part { .. } => STATUS_TIMEOUT_MS,
        _ => TIMEOUT_MS,
    };
    let question = Question { asker, deadline_ms: now_ms + patience, answers };
    {
        let mut waiting = broker.relays.waiting.lock();
        if waiting.len() >= broker.config().max_client_questions as usize {
            return Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD));
        }
        waiting.insert((client.id(), opaque), question);
    }
    let mut frame = Vec::new();
    write(opaque, &mut frame);
    client.send(frame);
    Ok(())
}

/// An answer of a client: to the operator it goes, unless nobody asked.
pub fn response(broker: &Broker, header: &Header<'_>, body: &[u8], peer: &Arc<Peer>) {
    let question = broker.relays.waiting.lock().remove(&(peer.id(), header.opaque));
    let Some(Question { asker: Some(asker), answers, .. }) = question else { return };
    asker.send(match answers {
        Answers::Fixed { success, .. } if header.code == response::SUCCESS => success,
        Answers::Fixed { failure, .. } => failure,
        Answers::Part { all, client } => {
            let body = Value::parse_bytes(body).ok().filter(|_| header.code == response::SUCCESS);
            let offsets = body.and_then(|body| body.get("messageQueueTable").cloned());
            match all.take(client, offsets) {
                Some(frame) => frame,
                None => return,
            }
        }
        Answers::Passed { opaque, .. } => {
            let mut frame = Vec::new();
            let head = Head::response(header.code, opaque, header.remark);
            write_frame(&mut frame, &head, &NoFields, false, |out| out.extend_from_slice(body));
            frame
        }
    });
}

/// 307: what a consumer is doing.
pub fn running_info(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    ask_consumer(turn, call, &[], None)
}

/// 309: lets a consumer run one message through its listener.
pub fn consume_directly(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ClientOfGroup<'_> = call.fields()?;
    let mut message = Vec::new();
    if call.body.is_empty()
        && let Some((_, offset)) = request.msg_id.and_then(parse_offset_id)
        && turn.broker.store.at(offset as i64, Wait::MayBlock, &mut message) != At::Found
    {
        message.clear();
    }
    let broker_name = turn.broker.config().broker_name.clone();
    let body = if call.body.is_empty() { message.as_slice() } else { call.body };
    ask_consumer(turn, call, &[("brokerName", &broker_name)], Some(body))
}

fn ask_consumer(
    turn: &Turn,
    call: &Call<'_>,
    extra: &[(&str, &str)],
    body: Option<&[u8]>,
) -> Handled {
    let request: ClientOfGroup<'_> = call.fields()?;
    let broker = &turn.broker;
    let (group, client) = (request.consumer_group, request.client_id.unwrap_or_default());
    let about = format!("<{group}> <{client}>");
    let member = broker.clients.find_consumer(group, client).ok_or_else(|| {
        Refusal::new(response::SYSTEM_ERROR, format!("The Consumer {about} not online"))
    })?;
    if member.version < MIN_VERSION {
        let text = format!(
            "The Consumer <{client}> Version <{}> too low to finish, please upgrade it to \
             V3_1_8_SNAPSHOT",
            member.version
        );
        return Err(Refusal::new(response::SYSTEM_ERROR, text));
    }
    let mut fields: Vec<(&str, &str)> = call.header.ext.iter().collect();
    fields.extend_from_slice(extra);
    let body = body.unwrap_or(call.body);
    let answers = Answers::Passed { opaque: call.header.opaque, about };
    let asker = Some(Arc::clone(call.peer));
    ask(broker, &member.peer, turn.now_ms, asker, answers, |opaque, frame| {
        let head = Head::request(call.header.code, opaque, false);
        write_frame(frame, &head, &Pairs(&fields), false, |out| out.extend_from_slice(body));
    })?;
    Ok(Reply::Later)
}

/// 223: asks all clients of a group, or one, for the offsets that they have reached, and puts
/// their answers together. Java: `Broker2Client.getConsumeStatus`.
pub fn consumer_status(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ConsumerStatus<'_> = call.fields()?;
    let broker = &turn.broker;
    let (group, topic) = (request.group, request.topic);
    let online = broker.clients.consumer_group(group).ok_or_else(|| {
        let text = format!("No Any Consumer online in the consumer group: [{group}]");
        Refusal::new(response::SYSTEM_ERROR, text)
    })?;
    if let Some(old) = online.members.values().find(|m| m.version < MIN_TOLD_VERSION) {
        return Err(too_old(old.version));
    }
    let only = request.client_addr.filter(|id| !id.trim().is_empty());
    let mut members: Vec<_> = online.members.into_values().collect();
    members.retain(|member| only.is_none_or(|id| member.client_id == id));
    let parts = Mutex::new(Parts { missing: members.len(), told: BTreeMap::new() });
    let all = Arc::new(Gathering { opaque: call.header.opaque, parts });
    if members.is_empty() {
        call.peer.send(status_frame(call.header.opaque, BTreeMap::new()));
    }
    let fields = ConsumerStatus { topic, group, client_addr: None };
    for member in members {
        let client = member.client_id;
        let answers = Answers::Part { all: Arc::clone(&all), client: client.clone() };
        let asker = Some(Arc::clone(call.peer));
        let asked = ask(broker, &member.peer, turn.now_ms, asker, answers, |opaque, frame| {
            let head = Head::request(code::GET_CONSUMER_STATUS_FROM_CLIENT, opaque, false);
            write_frame(frame, &head, &fields, false, |_| {});
        });
        if asked.is_err()
            && let Some(frame) = all.take(client, None)
        {
            call.peer.send(frame);
        }
    }
    Ok(Reply::Later)
}
