//! What the pop journal says: one entry per change, numbers as LEB128, names only where a queue is
//! written for the first time in a generation.

use std::collections::BTreeMap;

use super::in_flight::{Batch, InFlight, Single, Times};
use super::order::OrderInfo;

/// How far a group is in one queue: everything that a restart must know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Next offset to pop; with an order, the first one that is not acknowledged.
    pub next: i64,
    /// Popped and not settled.
    pub flight: InFlight,
    /// The batch in hand of an ordered group.
    pub order: Option<OrderInfo>,
    /// Copied to the retry topic, with the end of the copy in the log: settled once the log is on
    /// disk so far. A log that is shorter after a crash has lost the copy.
    pub moved: BTreeMap<i64, i64>,
}

/// One entry. `id` names a queue within its generation.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// All about a queue; replaces what was known of it.
    State {
        /// Number of the queue from here on.
        id: u64,
        /// Consumer group.
        group: &'a str,
        /// Topic, as stored.
        topic: &'a str,
        /// Queue of the topic.
        queue_id: i32,
        /// How far the group is.
        progress: Box<Progress>,
    },
    /// Messages were handed out, perhaps none: others were passed over.
    Popped {
        /// Number of the queue.
        id: u64,
        /// Next offset to pop.
        next: i64,
        /// What was handed out.
        offsets: Vec<i64>,
        /// When, and until when.
        times: Times,
    },
    /// A message is done with.
    Settled {
        /// Number of the queue.
        id: u64,
        /// Its offset.
        offset: i64,
    },
    /// A message was copied to the retry topic.
    Moved {
        /// Number of the queue.
        id: u64,
        /// Its offset.
        offset: i64,
        /// End of the copy in the log.
        end: i64,
    },
    /// A message got another time.
    Changed {
        /// Number of the queue.
        id: u64,
        /// Its offset.
        offset: i64,
        /// Its new times.
        single: Single,
    },
    /// Topic or group were deleted.
    Gone {
        /// Consumer group.
        group: &'a str,
        /// Topic, as stored.
        topic: &'a str,
        /// Queue of the topic.
        queue_id: i32,
    },
}

const STATE: u8 = 1;
const POPPED: u8 = 2;
const SETTLED: u8 = 3;
const CHANGED: u8 = 4;
const GONE: u8 = 5;
const MOVED: u8 = 6;

fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn put_times(out: &mut Vec<u8>, times: Times) {
    put(out, times.pop_ms as u64);
    put(out, times.due_ms.saturating_sub(times.pop_ms).max(0) as u64);
}

fn put_single(out: &mut Vec<u8>, offset: i64, single: Single) {
    put(out, offset as u64);
    put_times(out, single.times);
    out.push(u8::from(single.suspended));
}

impl Entry<'_> {
    /// Appends the entry.
    pub fn write(&self, out: &mut Vec<u8>) {
        match self {
            Entry::State { id, group, topic, queue_id, progress } => {
                write_state(out, *id, (group, topic, *queue_id), progress);
            }
            Entry::Popped { id, next, offsets, times } => {
                out.push(POPPED);
                put(out, *id);
                put(out, *next as u64);
                put_times(out, *times);
                put(out, offsets.len() as u64);
                let mut before = *next;
                // Backwards from the next offset: the last message is nearly always right before.
                for offset in offsets.iter().rev() {
                    put(out, (before - offset) as u64);
                    before = *offset;
                }
            }
            Entry::Settled { id, offset } => {
                out.push(SETTLED);
                put(out, *id);
                put(out, *offset as u64);
            }
            Entry::Moved { id, offset, end } => {
                out.push(MOVED);
                put(out, *id);
                put(out, *offset as u64);
                put(out, *end as u64);
            }
            Entry::Changed { id, offset, single } => {
                out.push(CHANGED);
                put(out, *id);
                put_single(out, *offset, *single);
            }
            Entry::Gone { group, topic, queue_id } => {
                out.push(GONE);
                put_text(out, group);
                put_text(out, topic);
                put(out, *queue_id as u64);
            }
        }
    }
}

/// Appends a [`Entry::State`] of a group, topic and queue.
pub fn write_state(
    out: &mut Vec<u8>,
    id: u64,
    (group, topic, queue_id): (&str, &str, i32),
    progress: &Progress,
) {
    out.push(STATE);
    put(out, id);
    put_text(out, group);
    put_text(out, topic);
    put(out, queue_id as u64);
    progress.write(out);
}

impl Progress {
    /// The first message that is not settled: what consumers without pop would go on from.
    pub fn first_open(&self) -> i64 {
        let moved = self.moved.keys().next().copied();
        self.flight.first().into_iter().chain(moved).fold(self.next, i64::min)
    }

    fn write(&self, out: &mut Vec<u8>) {
        put(out, self.next as u64);
        put(out, self.flight.batches.len() as u64);
        for (first, batch) in &self.flight.batches {
            put(out, *first as u64);
            put_times(out, batch.times);
            put(out, u64::from(batch.left));
            let gaps = batch.gaps.as_deref().unwrap_or_default();
            put(out, gaps.len() as u64);
            gaps.iter().for_each(|gap| put(out, u64::from(*gap)));
        }
        put(out, self.flight.singles.len() as u64);
        for (offset, single) in &self.flight.singles {
            put_single(out, *offset, *single);
        }
        put(out, self.moved.len() as u64);
        for (offset, end) in &self.moved {
            put(out, *offset as u64);
            put(out, *end as u64);
        }
        let order = self.order.as_ref().map(|order| order.to_json().to_text());
        put_text(out, &order.unwrap_or_default());
    }
}

/// Reads the entries of a block, up to the first that makes no sense.
pub fn read<'a>(block: &'a [u8], mut each: impl FnMut(Entry<'a>)) {
    let mut reader = Reader(block);
    while !reader.0.is_empty() {
        let Some(entry) = reader.entry() else {
            tracing::error!(rest = reader.0.len(), "an entry of the pop journal makes no sense");
            return;
        };
        each(entry);
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn number(&mut self) -> Option<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn offset(&mut self) -> Option<i64> {
        i64::try_from(self.number()?).ok()
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        let (text, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }

    fn names(&mut self) -> Option<(&'a str, &'a str, i32)> {
        Some((self.text()?, self.text()?, i32::try_from(self.number()?).ok()?))
    }

    fn times(&mut self) -> Option<Times> {
        let pop_ms = self.offset()?;
        Some(Times { pop_ms, due_ms: pop_ms.saturating_add(self.offset()?) })
    }

    fn single(&mut self) -> Option<(i64, Single)> {
        let offset = self.offset()?;
        Some((offset, Single { times: self.times()?, suspended: self.byte()? != 0 }))
    }

    fn entry(&mut self) -> Option<Entry<'a>> {
        let kind = self.byte()?;
        if kind == GONE {
            let (group, topic, queue_id) = self.names()?;
            return Some(Entry::Gone { group, topic, queue_id });
        }
        let id = self.number()?;
        Some(match kind {
            STATE => {
                let (group, topic, queue_id) = self.names()?;
                let progress = Box::new(self.progress()?);
                Entry::State { id, group, topic, queue_id, progress }
            }
            POPPED => {
                let (next, times) = (self.offset()?, self.times()?);
                let mut before = next;
                let mut offsets = Vec::new();
                for _ in 0..self.number()? {
                    before = before.checked_sub(self.offset()?)?;
                    offsets.push(before);
                }
                offsets.reverse();
                Entry::Popped { id, next, offsets, times }
            }
            SETTLED => Entry::Settled { id, offset: self.offset()? },
            MOVED => Entry::Moved { id, offset: self.offset()?, end: self.offset()? },
            CHANGED => {
                let (offset, single) = self.single()?;
                Entry::Changed { id, offset, single }
            }
            _ => return None,
        })
    }

    fn progress(&mut self) -> Option<Progress> {
        let mut progress = Progress { next: self.offset()?, ..Progress::default() };
        for _ in 0..self.number()? {
            let (first, times) = (self.offset()?, self.times()?);
            let left = u32::try_from(self.number()?).ok()?;
            let mut gaps = Vec::new();
            for _ in 0..self.number()? {
                gaps.push(u32::try_from(self.number()?).ok()?);
            }
            let gaps = (!gaps.is_empty()).then(|| gaps.into_boxed_slice());
            progress.flight.put_batch(first, Batch { times, left, gaps });
        }
        for _ in 0..self.number()? {
            let (offset, single) = self.single()?;
            progress.flight.put_single(offset, single);
        }
        for _ in 0..self.number()? {
            progress.moved.insert(self.offset()?, self.offset()?);
        }
        let order = self.text()?;
        let json = wire::json::Value::parse(order).ok();
        progress.order = json.as_ref().and_then(OrderInfo::from_json);
        Some(progress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_their_bytes() {
        let times = Times { pop_ms: 1_795_000_000_123, due_ms: 1_795_000_060_123 };
        let mut progress = Progress { next: 400, ..Progress::default() };
        progress.flight.popped(&[100, 101, 105], times);
        progress.flight.popped(&[200, 201], times);
        progress.flight.put_single(7, Single { times, suspended: true });
        progress.moved.insert(3, 4096);
        progress.order = Some(OrderInfo::popped(None, Some("a \"b\""), &[9, 10], (5, 6)));
        let entries = || {
            [
                Entry::State {
                    id: 300,
                    group: "g",
                    topic: "t",
                    queue_id: 7,
                    progress: Box::new(progress.clone()),
                },
                Entry::Popped { id: 300, next: 8, offsets: vec![2, 6, 7], times },
                Entry::Popped { id: 1, next: 9, offsets: vec![], times },
                Entry::Settled { id: 300, offset: 1 << 40 },
                Entry::Moved { id: 300, offset: 5, end: 1 << 50 },
                Entry::Changed { id: 2, offset: 9, single: Single { times, suspended: false } },
                Entry::Gone { group: "g", topic: "t", queue_id: 1 },
            ]
        };
        let mut bytes = Vec::new();
        entries().iter().for_each(|entry| entry.write(&mut bytes));
        let mut seen = Vec::new();
        read(&bytes, |entry| seen.push(entry));
        assert_eq!(seen, entries());
        // Cut anywhere it reads what is whole and never panics.
        for cut in 0..bytes.len() {
            let mut count = 0;
            read(&bytes[..cut], |_| count += 1);
            assert!(count < 7);
        }
        bytes.clear();
        let offsets: Vec<i64> = (5000..5032).collect();
        Entry::Popped { id: 3, next: 5032, offsets, times }.write(&mut bytes);
        assert!(bytes.len() < 50, "32 messages take {} bytes", bytes.len());
    }
}
