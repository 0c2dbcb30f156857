//! When a message that was given back comes again. Java: `GroupRetryPolicy`, which nobody asks
//! there over the remoting protocol: it is always the delay level `3 + reconsumeTimes`.
//!
//! A policy that was set for a group counts here, as it does for clients of the original's proxy. A
//! group without one keeps the levels, and a level that the consumer asks for counts in any case.

use wire::body::GroupConfig;
use wire::json::Value;

/// How long a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackOff {
    /// A delay level.
    Level(i32),
    /// Milliseconds.
    Ms(i64),
}

/// The wait of a message that was tried `times` times before, in a group that leaves it to us.
pub fn back_off(group: &GroupConfig, times: i32) -> BackOff {
    let policy = &group.group_retry_policy;
    let ms = match policy.get("type").and_then(Value::as_text) {
        Some("EXPONENTIAL") => policy.get("exponentialRetryPolicy").map(|p| exponential(p, times)),
        _ => policy.get("customizedRetryPolicy").and_then(|policy| customized(policy, times)),
    };
    ms.map_or(BackOff::Level(3_i32.saturating_add(times)), |ms| BackOff::Ms(ms.max(0)))
}

/// Java: `ExponentialRetryPolicy`, whose defaults are 5 s, 2 h and 2.
fn exponential(policy: &Value, times: i32) -> i64 {
    let number = |name, default| policy.get(name).and_then(Value::int).unwrap_or(default);
    let (initial, max) = (number("initial", 5000), number("max", 7_200_000));
    let power = number("multiplier", 2).saturating_pow(times.clamp(0, 32).unsigned_abs());
    initial.saturating_mul(power).min(max)
}

/// Java: `CustomizedRetryPolicy`: the first two durations of the list are not used.
fn customized(policy: &Value, times: i32) -> Option<i64> {
    let next = policy.get("next")?.items();
    let index = usize::try_from(times.max(0)).ok()?.saturating_add(2);
    next.get(index).or(next.last())?.int()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(policy: &str) -> [BackOff; 4] {
        let group_retry_policy = Value::parse(policy).unwrap();
        let group = GroupConfig { group_retry_policy, ..GroupConfig::default() };
        [0, 1, 2, 40].map(|times| back_off(&group, times))
    }

    #[test]
    fn policies_are_those_of_the_original() {
        use BackOff::{Level, Ms};
        let levels = [Level(3), Level(4), Level(5), Level(43)];
        assert_eq!(waits(r#"{"type":"CUSTOMIZED"}"#), levels);
        assert_eq!(waits("{}"), levels);
        assert_eq!(waits(r#"{"type":"EXPONENTIAL"}"#), levels);
        let own = r#"{"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1,2,300,400]}}"#;
        assert_eq!(waits(own), [Ms(300), Ms(400), Ms(400), Ms(400)]);
        let grows = r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":
            {"initial":100,"max":350,"multiplier":2}}"#;
        assert_eq!(waits(grows), [Ms(100), Ms(200), Ms(350), Ms(350)]);
        let defaults = r#"{"type":"EXPONENTIAL","exponentialRetryPolicy":{}}"#;
        assert_eq!(waits(defaults), [Ms(5000), Ms(10_000), Ms(20_000), Ms(7_200_000)]);
    }
}
