//! Texts of the original that more than one handler answers with.

/// What follows where a topic is missing. Java: `FAQUrl.suggestTodo`.
pub const SEE_APPLY_TOPIC: &str =
    "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.";
/// What follows where a group is missing; the same page.
pub const SEE_GROUP: &str = SEE_APPLY_TOPIC;
/// Remark of a success whose handler names no other text. Java: `RemotingCommand`.
pub const NOT_SET: &str = "not set any response code";
