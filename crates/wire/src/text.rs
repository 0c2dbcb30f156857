//! Small text rules that Java applies everywhere: string hash, names of topics and groups.

use crate::codes::MAX_TOPIC_LENGTH;

/// Prefix of the retry topic of a consumer group. Java: `MixAll.RETRY_GROUP_TOPIC_PREFIX`.
pub const RETRY_PREFIX: &str = "%RETRY%";
/// Prefix of the dead letter topic of a consumer group. Java: `MixAll.DLQ_GROUP_TOPIC_PREFIX`.
pub const DLQ_PREFIX: &str = "%DLQ%";

/// Java's `String.hashCode`: over UTF-16 units, 32 bits, wrapping.
pub fn java_hash(text: &str) -> i32 {
    hash_onto(0, text)
}

/// Continues a Java string hash with more text, as if both had been one string.
pub fn hash_onto(start: i32, text: &str) -> i32 {
    let step = |hash: i32, unit: u16| hash.wrapping_mul(31).wrapping_add(i32::from(unit));
    if text.is_ascii() {
        return text.bytes().fold(start, |hash, byte| step(hash, u16::from(byte)));
    }
    text.encode_utf16().fold(start, step)
}

/// CRC-32 with the top bit cleared, as records and registrations carry it.
pub fn crc31(bytes: &[u8]) -> i32 {
    (crc32fast::hash(bytes) & 0x7FFF_FFFF) as i32
}

fn legal_characters(name: &str) -> bool {
    name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'%' | b'|' | b'_' | b'-'))
}

const PATTERN: &str = "^[%|a-zA-Z0-9_-]+$";

/// Checks a topic name; the error is the remark that Java 5.5.0 answers with code 29.
pub fn check_topic(topic: &str) -> Result<(), String> {
    if topic.trim().is_empty() {
        return Err("The specified topic is blank.".into());
    }
    if !legal_characters(topic) {
        return Err(format!(
            "The specified topic: {topic}, contains illegal characters, allowing only {PATTERN}"
        ));
    }
    let retry = topic.starts_with(RETRY_PREFIX) || topic.starts_with(DLQ_PREFIX);
    if retry && topic.len() > 255 {
        return Err(format!(
            "The specified topic is DLQ or Retry topic: {topic}, and it's longer than topic max \
             length: 255"
        ));
    }
    if !retry && topic.len() > MAX_TOPIC_LENGTH {
        return Err(format!(
            "The specified topic: {topic}, is longer than topic max length: {MAX_TOPIC_LENGTH}"
        ));
    }
    Ok(())
}

/// Checks a group name; the error is the remark that Java 5.5.0 answers with code 29.
pub fn check_group(group: &str) -> Result<(), String> {
    if group.trim().is_empty() {
        return Err("The specified group is blank.".into());
    }
    if group.len() > 120 {
        return Err(format!("The specified group: {group}, is longer than group max length: 120"));
    }
    if !legal_characters(group) {
        return Err(format!(
            "The specified group: {group}, contains illegal characters, allowing only {PATTERN}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn java_hash_matches_java() {
        assert_eq!(java_hash(""), 0);
        assert_eq!(java_hash("TagA"), 2_598_919);
        assert_eq!(java_hash("Aa"), java_hash("BB"));
        // Outside the basic plane: two UTF-16 units, 0xD83D and 0xDE00.
        assert_eq!(java_hash("\u{1F600}"), 0xD83D * 31 + 0xDE00);
        assert_eq!(hash_onto(java_hash("topic"), "#key"), java_hash("topic#key"));
    }

    #[test]
    fn names_follow_java_limits() {
        assert!(check_topic(&"T".repeat(127)).is_ok());
        assert!(check_topic(&"T".repeat(128)).is_err());
        assert!(check_topic(&format!("%RETRY%{}", "G".repeat(200))).is_ok());
        for bad in ["a.b", "a b", "中文", "a/b", ""] {
            assert!(check_topic(bad).is_err(), "{bad}");
        }
        assert!(check_topic("a|b").is_ok() && check_topic("%x").is_ok());
        assert!(check_group(&"G".repeat(120)).is_ok() && check_group(&"G".repeat(121)).is_err());
    }
}
