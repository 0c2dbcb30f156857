//! Reading the messages of a queue that a consumer wants, for pulls and pops.

use filter::{Filter, SqlFilter};
use store::{Fetch, FetchStatus, ReadLimit, Wait};
use wire::properties;
use wire::record::{self, Scanned};

use crate::config::BrokerConfig;
use crate::state::Broker;

/// A read by properties looks at this many messages before it answers, as one by tags does.
const SQL_SCAN: i64 = 800;

/// How much one read may return. Java: `maxTransfer...OnMessageIn...`.
pub fn limit(config: &BrokerConfig, max_messages: usize, wait: Wait) -> ReadLimit {
    let (count, bytes) = match wait {
        Wait::OnlyNew | Wait::OnlyCached => (
            config.max_transfer_count_on_message_in_memory,
            config.max_transfer_bytes_on_message_in_memory,
        ),
        Wait::MayBlock => (
            config.max_transfer_count_on_message_in_disk,
            config.max_transfer_bytes_on_message_in_disk,
        ),
    };
    ReadLimit {
        max_messages: max_messages.min(count.max(1) as usize),
        max_bytes: bytes.max(1) as usize,
    }
}

/// Appends the records from `from` on that the filter wants to `out`; see [`store::Store::get`].
pub fn fetch(
    broker: &Broker,
    queue: &store::Queue,
    filter: &Filter,
    from: i64,
    limit: ReadLimit,
    wait: Wait,
    out: &mut Vec<u8>,
) -> Fetch {
    match filter {
        Filter::Tag(tags) => {
            let mut wanted = |entry: &store::Entry| tags.matches(entry.tags_code);
            broker.store.get(queue, from, limit, wait, &mut wanted, out)
        }
        Filter::Sql(sql) => fetch_by_properties(broker, queue, from, limit, wait, sql, out),
    }
}

/// Reads on until enough messages match or as many were looked at as a tag filter may skip.
fn fetch_by_properties(
    broker: &Broker,
    queue: &store::Queue,
    from: i64,
    limit: ReadLimit,
    wait: Wait,
    sql: &SqlFilter,
    out: &mut Vec<u8>,
) -> Fetch {
    let start = out.len();
    let (mut at, mut messages) = (from, 0);
    loop {
        let room = ReadLimit {
            max_messages: limit.max_messages - messages,
            max_bytes: limit.max_bytes - (out.len() - start),
        };
        let before = out.len();
        let mut fetch = broker.store.get(queue, at, room, wait, &mut |_| true, out);
        if fetch.cold && messages == 0 {
            out.truncate(start);
            return fetch;
        }
        let found = fetch.status == FetchStatus::Found && !fetch.cold;
        if found {
            messages += keep_matching(sql, before, out);
            at = fetch.next;
        }
        let full = messages >= limit.max_messages || out.len() - start >= limit.max_bytes;
        if found && !full && at - from < SQL_SCAN && at < fetch.max {
            continue;
        }
        if at > from {
            fetch.next = at;
            fetch.status = if messages > 0 { FetchStatus::Found } else { FetchStatus::NoMatch };
        }
        (fetch.messages, fetch.bytes, fetch.cold) = (messages, out.len() - start, false);
        return fetch;
    }
}

/// Drops the records behind `start` whose properties do not match; returns how many stay.
fn keep_matching(sql: &SqlFilter, start: usize, out: &mut Vec<u8>) -> usize {
    let (mut at, mut end, mut kept) = (start, start, 0);
    while let Ok(Scanned::Record(record)) = record::scan(&out[at..]) {
        let len = record.total_len();
        let text = record.properties();
        if sql.matches(&|name| properties::get(text, name)) {
            out.copy_within(at..at + len, end);
            end += len;
            kept += 1;
        }
        at += len;
    }
    out.truncate(end);
    kept
}
