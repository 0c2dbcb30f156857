//! Keeps log lines of repeated failures down to a few a second.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// Lets one event a second through and counts the others.
#[derive(Debug, Default)]
pub struct Throttle {
    next_ms: AtomicI64,
    skipped: AtomicU64,
}

impl Throttle {
    /// A throttle that lets its first event through.
    pub const fn new() -> Throttle {
        Throttle { next_ms: AtomicI64::new(0), skipped: AtomicU64::new(0) }
    }

    /// `Some(skipped)` when the event may be logged, with the number skipped since the last one.
    pub fn pass(&self, now_ms: i64) -> Option<u64> {
        if now_ms < self.next_ms.load(Ordering::Relaxed) {
            self.skipped.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        self.next_ms.store(now_ms + 1000, Ordering::Relaxed);
        Some(self.skipped.swap(0, Ordering::Relaxed))
    }
}
