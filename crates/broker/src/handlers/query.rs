//! 12 and 33: messages by key, by unique id, by offset id. They may read the disk, so readers
//! answer them. Java: `QueryMessageProcessor`.

use std::sync::Arc;

use net::{Call, Handled, Peer, Refusal, Reply};
use store::{At, Wait};
use wire::codes::response;
use wire::header::{ExtFields, Head, NoFields, write_frame};
use wire::properties::{self, Known};
use wire::record::{self, Record, Scanned};
use wire::requests::{QueryMessage, QueryMessageAnswer, ViewMessage};

use crate::state::Broker;
use crate::turn::{OVERLOAD, Turn};

/// What a key is compared with.
#[derive(Clone, Copy, PartialEq)]
enum KeyKind {
    /// A word of `KEYS`, or the unique id, which the original indexes alike.
    Key,
    /// The unique id.
    Unique,
    /// The tag.
    Tag,
}

/// 12: messages of a topic with a key, within a time.
pub fn by_key(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: QueryMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let config = broker.config();
    let kind = match request.index_type {
        _ if request.unique_key_query => KeyKind::Unique,
        Some("U") => KeyKind::Unique,
        Some("T") => KeyKind::Tag,
        _ => KeyKind::Key,
    };
    let limit = if kind == KeyKind::Unique {
        config.default_query_max_num
    } else {
        config.max_msgs_num_batch
    };
    let asked = if request.unique_key_query { limit } else { request.max_num };
    let max = usize::try_from(asked.min(limit)).unwrap_or(0);
    drop(config);
    let (topic, key) = (request.topic.to_owned(), request.key.to_owned());
    let (begin, end) = (request.begin_timestamp, request.end_timestamp);
    let (peer, opaque) = (Arc::clone(call.peer), call.header.opaque);
    submit(&Arc::clone(&broker), move || {
        let mut records = Vec::new();
        let found = if max == 0 {
            None
        } else {
            search(&broker, &topic, &key, kind, max, (begin, end), &mut records)
        };
        let (timestamp, offset) = found.unwrap_or((0, 0));
        let fields = QueryMessageAnswer {
            index_last_update_timestamp: timestamp,
            index_last_update_phyoffset: offset,
        };
        if records.is_empty() {
            let text = "can not find message, maybe time range not correct";
            send(&peer, opaque, response::QUERY_NOT_FOUND, Some(text), &fields, &[]);
        } else {
            send(&peer, opaque, response::SUCCESS, None, &fields, &records);
        }
    })
}

/// Collects the records that really have the key: the index knows hashes only (field case B13).
fn search(
    broker: &Broker,
    topic: &str,
    key: &str,
    kind: KeyKind,
    max: usize,
    (begin, end): (i64, i64),
    records: &mut Vec<u8>,
) -> Option<(i64, i64)> {
    let indexed = if kind == KeyKind::Tag { format!("T#{key}") } else { key.to_owned() };
    // Other keys with the same hash may be among the hits: ask for more than needed.
    let mut hits = broker.store.query_index(topic, &indexed, max * 4, begin, end);
    hits.sort_unstable();
    hits.dedup();
    let mut last = None;
    let mut count = 0;
    for offset in hits {
        let start = records.len();
        if broker.store.at(offset, Wait::MayBlock, records) != At::Found {
            records.truncate(start);
            continue;
        }
        match record::scan(&records[start..]) {
            Ok(Scanned::Record(record)) if has_key(&record, topic, key, kind) => {
                last = Some((record.store_timestamp(), record.physical_offset()));
                count += 1;
                if count == max {
                    break;
                }
            }
            _ => records.truncate(start),
        }
    }
    last
}

fn has_key(record: &Record<'_>, topic: &str, key: &str, kind: KeyKind) -> bool {
    let known = Known::scan(record.properties());
    let word = || known.keys.is_some_and(|keys| keys.split(' ').any(|word| word == key));
    record.topic() == topic
        && match kind {
            KeyKind::Tag => known.tags == Some(key),
            KeyKind::Unique => known.uniq_key == Some(key),
            KeyKind::Key => known.uniq_key == Some(key) || word(),
        }
}

/// 33: the message at a commit log offset.
pub fn by_id(turn: &mut Turn, call: &mut Call<'_>) -> Handled {
    let request: ViewMessage<'_> = call.fields()?;
    let broker = Arc::clone(&turn.broker);
    let topic = request.topic.map(str::to_owned);
    let offset = request.offset;
    let (peer, opaque) = (Arc::clone(call.peer), call.header.opaque);
    submit(&Arc::clone(&broker), move || {
        let mut bytes = Vec::new();
        let found = broker.store.at(offset, Wait::MayBlock, &mut bytes) == At::Found;
        if found && is_of_topic(&bytes, topic.as_deref()) {
            send(&peer, opaque, response::SUCCESS, None, &NoFields, &bytes);
        } else if found {
            let text = "The topic does not match the message";
            send(&peer, opaque, response::NO_PERMISSION, Some(text), &NoFields, &[]);
        } else {
            let text = format!("can not find message by the offset, {offset}");
            send(&peer, opaque, response::SYSTEM_ERROR, Some(&text), &NoFields, &[]);
        }
    })
}

/// Whether a record belongs to the topic that the asker names, if it names one. A waiting record
/// belongs to the topic that it waits for (as in 5.5.1).
fn is_of_topic(bytes: &[u8], topic: Option<&str>) -> bool {
    let Some(topic) = topic.filter(|topic| !topic.is_empty()) else { return true };
    let Ok(Scanned::Record(record)) = record::scan(bytes) else { return false };
    record.topic() == topic
        || properties::get(record.properties(), properties::REAL_TOPIC) == Some(topic)
        || properties::get(record.properties(), properties::RETRY_TOPIC) == Some(topic)
}

fn submit(broker: &Broker, job: impl FnOnce() + Send + 'static) -> Handled {
    if broker.readers.submit(job) {
        Ok(Reply::Later)
    } else {
        Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD))
    }
}

fn send<E: ExtFields>(
    peer: &Peer,
    opaque: i32,
    code: i32,
    remark: Option<&str>,
    fields: &E,
    body: &[u8],
) {
    let mut frame = Vec::with_capacity(body.len() + 256);
    let head = Head::response(code, opaque, remark);
    write_frame(&mut frame, &head, fields, false, |out| out.extend_from_slice(body));
    peer.send(frame);
}
