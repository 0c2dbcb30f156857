//! codes
pub(crate) const MAX_TOPIC_LENGTH: usize = 127;
