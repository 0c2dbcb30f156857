//! The broker: requests, topics, groups, offsets, long polling, retry.
