//! The properties text of a message: `name 0x01 value 0x02`, repeated.
//!
//! Java: `MessageDecoder.string2messageProperties`. A pair without `0x01` or with an empty value
//! counts as absent, a value may itself hold `0x01`, the last of two equal names wins, and the
//! final `0x02` may be missing.

/// Ends a property name.
pub const NAME_END: char = '\u{1}';
/// Ends a property value.
pub const VALUE_END: char = '\u{2}';
/// The longest encoded properties text that a record can hold, in bytes.
pub const MAX_PROPERTIES: usize = 32_767;

macro_rules! names {
    ($($(#[$doc:meta])* $id:ident = $text:literal;)*) => {
        $($(#[$doc])* pub const $id: &str = $text;)*
    };
}

names! {
    /// Index keys, separated by blanks.
    KEYS = "KEYS";
    /// The tag.
    TAGS = "TAGS";
    /// `false`: do not wait for flush or replica.
    WAIT = "WAIT";
    /// Delay level.
    DELAY = "DELAY";
    /// Original topic of a retried message.
    RETRY_TOPIC = "RETRY_TOPIC";
    /// Real topic of a delayed or half message.
    REAL_TOPIC = "REAL_TOPIC";
    /// Real queue of a delayed or half message.
    REAL_QID = "REAL_QID";
    /// `true` marks a half message.
    TRAN_MSG = "TRAN_MSG";
    /// Producer group of a transaction.
    PGROUP = "PGROUP";
    /// Transaction id of a half message: its unique id.
    TRANSACTION_ID = "__transactionId__";
    /// Seconds before the first question about a half message.
    CHECK_IMMUNITY = "CHECK_IMMUNITY_TIME_IN_SECONDS";
    /// Questions asked about a half message; written by Java brokers.
    TRANSACTION_CHECK_TIMES = "TRANSACTION_CHECK_TIMES";
    /// First half offset of a half message that a Java broker wrote again.
    TRAN_PREPARED_QUEUE_OFFSET = "TRAN_PREPARED_QUEUE_OFFSET";
    /// Offset message id of the first copy.
    ORIGIN_MESSAGE_ID = "ORIGIN_MESSAGE_ID";
    /// Retry count of a client-side retry send.
    RECONSUME_TIME = "RECONSUME_TIME";
    /// Region of the broker.
    MSG_REGION = "MSG_REGION";
    /// Trace switch.
    TRACE_ON = "TRACE_ON";
    /// The client's unique message id.
    UNIQ_KEY = "UNIQ_KEY";
    /// Limit of a client-side retry send.
    MAX_RECONSUME_TIMES = "MAX_RECONSUME_TIMES";
    /// Cluster name, needed by repliers.
    CLUSTER = "CLUSTER";
    /// Pop receipt; never accepted from outside.
    POP_CK = "POP_CK";
    /// When a retried message was popped first.
    FIRST_POP_TIME = "1ST_POP_TIME";
    /// Group whose pops retry a message.
    ORIGIN_GROUP = "ORIGIN_GROUP";
    /// Delay in seconds.
    TIMER_DELAY_SEC = "TIMER_DELAY_SEC";
    /// Delay in milliseconds.
    TIMER_DELAY_MS = "TIMER_DELAY_MS";
    /// Delivery time in epoch milliseconds.
    TIMER_DELIVER_MS = "TIMER_DELIVER_MS";
    /// When a waiting message is due, as the broker writes it.
    TIMER_OUT_MS = "TIMER_OUT_MS";
    /// When a waiting message was delivered.
    TIMER_DEQUEUE_MS = "TIMER_DEQUEUE_MS";
    /// How often a waiting message was written again.
    TIMER_ROLL_TIMES = "TIMER_ROLL_TIMES";
    /// Unique id of the waiting message that this one recalls.
    TIMER_DEL_UNIQKEY = "TIMER_DEL_UNIQKEY";
    /// Requester's client id of a request-reply message.
    REPLY_TO_CLIENT = "REPLY_TO_CLIENT";
    /// Correlation id of a request-reply message.
    CORRELATION_ID = "CORRELATION_ID";
    /// When a reply was pushed to its requester.
    PUSH_REPLY_TIME = "PUSH_REPLY_TIME";
    /// Dead letter: topic where the message came from.
    DLQ_ORIGIN_TOPIC = "DLQ_ORIGIN_TOPIC";
    /// Dead letter: id of the original message.
    DLQ_ORIGIN_MESSAGE_ID = "DLQ_ORIGIN_MESSAGE_ID";
    /// Key by which a producer keeps order.
    SHARDING_KEY = "__SHARDINGKEY";
    /// Queue chosen by priority.
    PRIORITY = "_SYS_MSG_PRIORITY_";
    /// Inner batch: number of messages.
    INNER_NUM = "INNER_NUM";
    /// Inner batch: first queue offset.
    INNER_BASE = "INNER_BASE";
    /// Light queues that show the message too, joined by commas.
    MULTI_DISPATCH = "INNER_MULTI_DISPATCH";
    /// Its offset in each of them, in the same order.
    MULTI_QUEUE_OFFSET = "INNER_MULTI_QUEUE_OFFSET";
    /// Whole-record CRC, a fixed-width last property of some Java stores.
    CRC32 = "__CRC32#";
}

/// The pairs of a properties text in order. Pairs that Java drops are left out.
pub fn pairs(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.split(VALUE_END).filter_map(|pair| {
        let (name, value) = pair.split_once(NAME_END)?;
        // Java drops pairs shorter than three characters: no name or no value.
        (!name.is_empty() && !value.is_empty()).then_some((name, value))
    })
}

/// The value of `name`; the last one when there are several.
pub fn get<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    pairs(text).filter(|(n, _)| *n == name).last().map(|(_, value)| value)
}

/// Appends one pair; inserts the separator that some clients leave off at the end.
pub fn push(text: &mut String, name: &str, value: &str) {
    if !text.is_empty() && !text.ends_with(VALUE_END) {
        text.push(VALUE_END);
    }
    text.push_str(name);
    text.push(NAME_END);
    text.push_str(value);
    text.push(VALUE_END);
}

/// Copies `text` without the named properties, every kept pair ended by its separator.
pub fn without(text: &str, names: &[&str]) -> String {
    let mut kept = String::with_capacity(text.len());
    for (name, value) in pairs(text).filter(|(name, _)| !names.contains(name)) {
        push(&mut kept, name, value);
    }
    kept
}

/// The properties that a broker acts on, found in one pass over the text.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Known<'a> {
    /// `TAGS`.
    pub tags: Option<&'a str>,
    /// `KEYS`.
    pub keys: Option<&'a str>,
    /// `UNIQ_KEY`.
    pub uniq_key: Option<&'a str>,
    /// `DELAY`, as text.
    pub delay: Option<&'a str>,
    /// `WAIT`; absent counts as true.
    pub wait: Option<&'a str>,
    /// `TRAN_MSG`.
    pub tran_msg: Option<&'a str>,
    /// One of the three timer properties is present.
    pub timer: bool,
    /// `TIMER_OUT_MS`.
    pub timer_out: Option<&'a str>,
    /// `TIMER_DEL_UNIQKEY` is present.
    pub timer_delete: bool,
    /// `POP_CK` is present and must be stripped.
    pub pop_ck: bool,
    /// `CLUSTER`, `MSG_REGION`, or `TRACE_ON` came from the sender and would appear twice.
    pub broker_set: bool,
    /// `_SYS_MSG_PRIORITY_`.
    pub priority: Option<&'a str>,
    /// `INNER_MULTI_DISPATCH`.
    pub multi_dispatch: Option<&'a str>,
    /// `INNER_MULTI_QUEUE_OFFSET`.
    pub multi_offsets: Option<&'a str>,
    /// `INNER_NUM`, as text.
    pub inner_num: Option<&'a str>,
}

impl<'a> Known<'a> {
    /// Scans a properties text once.
    pub fn scan(text: &'a str) -> Known<'a> {
        let mut known = Known::default();
        for (name, value) in pairs(text) {
            match name {
                TAGS => known.tags = Some(value),
                KEYS => known.keys = Some(value),
                UNIQ_KEY => known.uniq_key = Some(value),
                DELAY => known.delay = Some(value),
                WAIT => known.wait = Some(value),
                TRAN_MSG => known.tran_msg = Some(value),
                TIMER_DELAY_SEC | TIMER_DELAY_MS | TIMER_DELIVER_MS => known.timer = true,
                TIMER_OUT_MS => known.timer_out = Some(value),
                TIMER_DEL_UNIQKEY => known.timer_delete = true,
                POP_CK => known.pop_ck = true,
                CLUSTER | MSG_REGION | TRACE_ON => known.broker_set = true,
                PRIORITY => known.priority = Some(value),
                MULTI_DISPATCH => known.multi_dispatch = Some(value),
                MULTI_QUEUE_OFFSET => known.multi_offsets = Some(value),
                INNER_NUM => known.inner_num = Some(value),
                _ => {}
            }
        }
        known
    }

    /// The tag hash of the consume queue: Java's string hash, sign-extended; 0 without a tag.
    pub fn tags_code(&self) -> i64 {
        self.tags.map_or(0, |tags| i64::from(crate::text::java_hash(tags)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Field case B04 (properties text).
    #[test]
    fn b04_odd_texts_read_as_java_reads_them() {
        assert_eq!(get("TAGS\u{1}t1\u{2}DELAY\u{1}3", DELAY), Some("3"));
        assert_eq!(get("K\u{1}a\u{1}b", "K"), Some("a\u{1}b"));
        assert_eq!(get("K\u{1}a\u{2}K\u{1}b\u{2}", "K"), Some("b"));
        assert_eq!(get("K\u{1}\u{2}name\u{2}", "K"), None);
        assert_eq!(pairs("no separator").count(), 0);
        let mut text = String::from("TAGS\u{1}t1");
        push(&mut text, "A", "b");
        assert_eq!(text, "TAGS\u{1}t1\u{2}A\u{1}b\u{2}");
        assert_eq!(without(&text, &["TAGS"]), "A\u{1}b\u{2}");
    }

    #[test]
    fn known_is_found_in_one_pass() {
        let known =
            Known::scan("KEYS\u{1}a b\u{2}TAGS\u{1}TagA\u{2}UNIQ_KEY\u{1}U\u{2}WAIT\u{1}true");
        assert_eq!(
            (known.keys, known.tags_code(), known.wait),
            (Some("a b"), 2_598_919, Some("true"))
        );
    }
}
