//! Topic attributes: `+key=value,-key`. Java: `AttributeParser`, `AttributeUtil`,
//! `TopicAttributes`.

use std::collections::BTreeMap;

use store::Keep;
use wire::body::TopicConfig;

type Attributes = BTreeMap<String, String>;

/// Name, whether it can change, and whether a value is legal.
type Known = (&'static str, bool, fn(&str) -> bool);

const KNOWN: [Known; 7] = [
    ("queue.type", false, |v| ["BatchCQ", "SimpleCQ"].contains(&v)),
    ("cleanup.policy", false, |v| ["DELETE", "COMPACTION"].contains(&v)),
    ("message.type", true, |v| MESSAGE_TYPES.contains(&v)),
    ("reserve.time", true, |v| v.parse::<i64>().is_ok_and(|hours| hours >= -1)),
    ("reserve.bytes", true, |v| v.parse::<i64>().is_ok_and(|bytes| bytes >= -1)),
    ("index.enable", true, |v| ["true", "false"].contains(&v)),
    ("lite.topic.expiration", true, |v| v.parse().is_ok_and(|m| (-1..=43_200).contains::<i64>(&m))),
];

const MESSAGE_TYPES: [&str; 8] =
    ["UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED", "PRIORITY", "LITE"];

/// Whether a topic's queues hold batches as one. Java: `QueueTypeUtils.isBatchCq`.
pub fn is_batch(topic: &TopicConfig) -> bool {
    topic.attributes.get("queue.type").is_some_and(|kind| kind == "BatchCQ")
}

/// Whether messages of a topic are found by key, which costs disk: `index.enable`, ours.
pub fn is_indexed(topic: &TopicConfig) -> bool {
    topic.attributes.get("index.enable").is_none_or(|on| on != "false")
}

/// What of a topic is kept: `reserve.time` hours, which only the original's tiered store heeds,
/// and `reserve.bytes`, which is ours; -1 and 0 hours mean no limit.
pub fn keep(topic: &TopicConfig) -> Keep {
    let number = |key| topic.attributes.get(key).and_then(|text| text.parse::<i64>().ok());
    Keep {
        age_ms: number("reserve.time").filter(|h| *h > 0).map(|h| h.saturating_mul(3_600_000)),
        bytes: number("reserve.bytes").filter(|bytes| *bytes >= 0),
    }
}

/// Reads the text of a request; keys keep their sign.
pub fn parse(text: &str) -> Result<Attributes, String> {
    let mut changes = Attributes::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) = match part.split_once('=') {
            Some((key, value)) if key.starts_with('+') => (key, value),
            None if part.starts_with('-') => (part, ""),
            _ => return Err(format!("add/alter attribute format is wrong: {part}")),
        };
        if changes.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(format!("key duplication: {key}"));
        }
    }
    Ok(changes)
}

/// Applies signed changes to the attributes of a topic, or of a new one (`None`).
pub fn apply(old: Option<&Attributes>, changes: &Attributes) -> Result<Attributes, String> {
    let mut result = old.cloned().unwrap_or_default();
    for (signed, value) in changes {
        let (key, delete) = match (signed.strip_prefix('+'), signed.strip_prefix('-')) {
            (Some(key), _) => (key, false),
            (_, Some(key)) => (key, true),
            // A configuration that was read from a broker has no signs.
            _ => (signed.as_str(), false),
        };
        let known = KNOWN.iter().find(|(name, ..)| *name == key);
        let (_, changeable, legal) = known.ok_or_else(|| format!("unsupported key: {key}"))?;
        let same = old.is_some_and(|old| old.get(key) == Some(value));
        if old.is_some() && !changeable && !same {
            return Err(format!("attempt to update an unchangeable attribute. key: {key}"));
        }
        if delete {
            if old.is_none() {
                return Err(format!(
                    "only add attribute is supported while creating topic. key: {key}"
                ));
            }
            if result.remove(key).is_none() {
                return Err(format!("attempt to delete a nonexistent key: {key}"));
            }
            continue;
        }
        if key == "cleanup.policy" && value == "COMPACTION" {
            return Err(format!("{key}={value} is not supported by this broker; use DELETE"));
        }
        if !legal(value) {
            return Err(format!("value is not in set or range. key: {key}, value: {value}"));
        }
        result.insert(key.to_owned(), value.clone());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acceptance T-8.1 of the behaviour reference.
    #[test]
    fn attributes_follow_java_rules() {
        let created = apply(None, &parse("+message.type=FIFO,+queue.type=BatchCQ").expect("text"));
        let created = created.expect("legal");
        assert_eq!(created.get("message.type").map(String::as_str), Some("FIFO"));
        let change = |text: &str| apply(Some(&created), &parse(text)?);
        assert!(change("+message.type=DELAY").is_ok());
        assert!(change("-message.type").is_ok_and(|a| a.len() == 1));
        for bad in
            ["+queue.type=SimpleCQ", "+x=y", "-reserve.time", "+message.type=Z", "message.type=A"]
        {
            assert!(change(bad).is_err(), "{bad}");
        }
        let compacted = apply(None, &parse("+cleanup.policy=COMPACTION").expect("text"));
        assert!(compacted.is_err_and(|text| text.contains("not supported by this broker")));
        assert!(parse("+a=b,+a=c").is_err());
        assert!(apply(None, &parse("-message.type").expect("text")).is_err());
    }
}
