//! Ordered pop: what a group has in hand of one queue, and whether the queue is held up by it.
//! Plain state. Java: `ConsumerOrderInfoManager.OrderInfo`, `QueueLevelConsumerManager`.
//!
//! At most one batch of a queue is out. Until all of it is acknowledged or its time is over, the
//! queue gives nothing else; then it goes on at the first message that was not acknowledged.

use std::collections::BTreeMap;

use wire::body::Member;
use wire::json::{Value, object};

/// The batch in hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OrderInfo {
    /// Names the attempt: the same client asking again after a lost answer gets the same batch.
    pub attempt: Option<String>,
    /// Time of the pop; receipts with another one are stale.
    pub pop_ms: i64,
    /// How long the batch holds the queue up, milliseconds.
    pub invisible_ms: i64,
    /// Offsets of the batch, ascending, up to 32.
    pub offsets: Vec<i64>,
    /// Bit n: the n-th message is acknowledged.
    pub acked: u64,
    /// Times of single messages that a client changed.
    pub visible_ms: BTreeMap<i64, i64>,
    /// How often messages were delivered before, where not 0.
    pub counts: BTreeMap<i64, i32>,
    /// When this was last popped.
    pub last_ms: i64,
}

/// What an acknowledgement did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acked {
    /// The offset to go on from.
    Next(i64),
    /// The receipt is of an earlier pop: nothing is changed.
    Stale,
    /// The message is not of this batch.
    Unknown,
}

impl OrderInfo {
    /// A new batch after `before`. A message that is handed out again counts one more delivery,
    /// but not to the same attempt.
    pub fn popped(
        before: Option<&OrderInfo>,
        attempt: Option<&str>,
        offsets: &[i64],
        (pop_ms, invisible_ms): (i64, i64),
    ) -> OrderInfo {
        let mut counts = BTreeMap::new();
        if let Some(before) = before {
            if attempt.is_some() && before.attempt.as_deref() == attempt {
                counts.clone_from(&before.counts);
            } else {
                let again = offsets.iter().filter(|offset| before.offsets.contains(offset));
                counts.extend(again.map(|o| (*o, before.counts.get(o).unwrap_or(&0) + 1)));
            }
        }
        OrderInfo {
            attempt: attempt.map(str::to_owned),
            pop_ms,
            invisible_ms,
            offsets: offsets.to_vec(),
            acked: 0,
            visible_ms: BTreeMap::new(),
            counts,
            last_ms: pop_ms,
        }
    }

    fn open(&self) -> impl Iterator<Item = i64> + '_ {
        let offsets = self.offsets.iter().enumerate();
        offsets.filter(|(index, _)| self.acked & (1 << index) == 0).map(|(_, offset)| *offset)
    }

    fn visible(&self, offset: i64) -> i64 {
        let own = self.visible_ms.get(&offset).copied();
        own.unwrap_or_else(|| self.pop_ms.saturating_add(self.invisible_ms))
    }

    /// Until when the queue is held up, as things stand; `None` when it is not.
    pub fn blocked_until(&self, now_ms: i64) -> Option<i64> {
        self.open().map(|offset| self.visible(offset)).filter(|until| now_ms < *until).max()
    }

    /// Whether a pop must leave the queue alone.
    pub fn is_blocked(&self, attempt: Option<&str>, now_ms: i64) -> bool {
        let same = self.attempt.is_some() && self.attempt.as_deref() == attempt;
        !same && self.blocked_until(now_ms).is_some()
    }

    /// Acknowledges a message.
    pub fn ack(&mut self, offset: i64, pop_ms: i64) -> Acked {
        if self.offsets.is_empty() {
            return Acked::Unknown;
        }
        if pop_ms != self.pop_ms {
            return Acked::Stale;
        }
        let Some(index) = self.offsets.iter().position(|known| *known == offset) else {
            return Acked::Unknown;
        };
        self.acked |= 1 << index;
        let behind = self.offsets.last().map_or(offset, |last| *last) + 1;
        Acked::Next(self.open().next().unwrap_or(behind))
    }

    /// Gives a message another time; a stale receipt changes nothing.
    pub fn change(&mut self, offset: i64, pop_ms: i64, visible_ms: i64) -> bool {
        let good = pop_ms == self.pop_ms;
        if good {
            self.visible_ms.insert(offset, visible_ms);
        }
        good
    }

    /// How often each message was delivered before, as the header field of the answer. Java:
    /// `orderCountInfo`; the last entry is for old clients that know only the queue.
    pub fn count_info(&self, flag: char, queue_id: i32, out: &mut String) {
        use std::fmt::Write;
        let separator = |out: &str| if out.is_empty() { "" } else { ";" };
        for (offset, count) in &self.counts {
            let start = separator(out);
            let _ = write!(out, "{start}{flag} qo{queue_id}%{offset} {count}");
        }
        let all = self.counts.len() == self.offsets.len();
        let least = self.counts.values().min().filter(|_| all).unwrap_or(&0);
        let start = separator(out);
        let _ = write!(out, "{start}{flag} {queue_id} {least}");
    }

    /// The member of `consumerOrderInfo.json`.
    pub fn to_json(&self) -> Value {
        let first = self.offsets.first().copied().unwrap_or(0);
        let relative = self.offsets.iter().enumerate();
        let relative = relative.map(|(i, offset)| if i == 0 { *offset } else { offset - first });
        let mut pairs = vec![
            ("cm", Value::from(self.acked as i64)),
            ("i", Value::from(self.invisible_ms)),
            ("l", Value::from(self.last_ms)),
            ("o", Value::from(relative.collect::<Vec<i64>>())),
            ("oc", object(self.counts.iter().map(|(o, n)| (*o, i64::from(*n))))),
            ("popTime", Value::from(self.pop_ms)),
        ];
        if !self.visible_ms.is_empty() {
            pairs.push(("ot", object(self.visible_ms.iter().map(|(o, ms)| (*o, *ms)))));
        }
        if let Some(attempt) = &self.attempt {
            pairs.push(("a", Value::from(attempt.as_str())));
        }
        object(pairs)
    }

    /// Reads what [`OrderInfo::to_json`] or Java wrote.
    pub fn from_json(json: &Value) -> Option<OrderInfo> {
        let number = |name: &str| json.get(name).and_then(Value::int);
        let relative: Vec<i64> = json.get("o")?.items().iter().filter_map(Value::int).collect();
        let first = *relative.first()?;
        let pairs = |name: &str| {
            let pairs = json.get(name).map_or(&[][..], Value::pairs);
            pairs.iter().filter_map(|(key, value)| Some((key.int()?, value.int()?)))
        };
        let offsets = relative.iter().enumerate();
        Some(OrderInfo {
            attempt: json.get("a").and_then(String::read),
            pop_ms: number("popTime")?,
            invisible_ms: number("i").unwrap_or(60_000),
            offsets: offsets.map(|(i, o)| if i == 0 { *o } else { first + o }).take(32).collect(),
            acked: number("cm").unwrap_or(0) as u64,
            visible_ms: pairs("ot").collect(),
            counts: pairs("oc").map(|(offset, count)| (offset, count as i32)).collect(),
            last_ms: number("l").unwrap_or(0),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_held_up_until_all_is_acknowledged() {
        let mut info = OrderInfo::popped(None, Some("a"), &[4, 5, 7], (1000, 500));
        assert!(info.is_blocked(None, 1499) && !info.is_blocked(None, 1500));
        assert!(!info.is_blocked(Some("a"), 1000) && info.is_blocked(Some("b"), 1000));
        assert_eq!(info.ack(5, 1000), Acked::Next(4));
        assert_eq!(info.ack(4, 999), Acked::Stale);
        assert_eq!(info.ack(6, 1000), Acked::Unknown);
        assert_eq!(info.ack(4, 1000), Acked::Next(7));
        assert!(info.change(7, 1000, 9000) && !info.change(7, 1, 99));
        assert_eq!(info.blocked_until(2000), Some(9000));
        assert_eq!(info.ack(7, 1000), Acked::Next(8));
        assert_eq!(info.blocked_until(2000), None);
        let read = OrderInfo::from_json(&info.to_json());
        assert_eq!(read, Some(info));
    }

    #[test]
    fn redeliveries_are_counted_but_not_for_the_same_attempt() {
        let first = OrderInfo::popped(None, Some("a"), &[1, 2], (0, 1));
        let mut text = String::new();
        first.count_info('0', 3, &mut text);
        assert_eq!(text, "0 3 0");
        let again = OrderInfo::popped(Some(&first), Some("a"), &[1, 2], (5, 1));
        assert!(again.counts.is_empty());
        let second = OrderInfo::popped(Some(&first), Some("b"), &[2, 3], (5, 1));
        let third = OrderInfo::popped(Some(&second), None, &[2, 3], (9, 1));
        text.clear();
        third.count_info('0', 3, &mut text);
        assert_eq!(text, "0 qo3%2 2;0 qo3%3 1;0 3 1");
        text.clear();
        second.count_info('0', 3, &mut text);
        assert_eq!(text, "0 qo3%2 1;0 3 0");
    }
}
