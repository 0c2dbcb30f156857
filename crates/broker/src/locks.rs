//! Queue locks of orderly consumers: leases of 60 s that their holder renews.

use std::collections::HashMap;

use parking_lot::Mutex;

/// Milliseconds after which an unrenewed lock may be taken. Java:
/// `rocketmq.broker.rebalance.lockMaxLiveTime`.
pub const LEASE_MS: i64 = 60_000;

struct Lock {
    client_id: String,
    renewed_ms: i64,
}

/// A queue within a group: topic and queue id. The broker is this one.
type Key = (String, i32);

/// All locks of a broker.
#[derive(Default)]
pub struct Locks(Mutex<HashMap<String, HashMap<Key, Lock>>>);

impl Locks {
    /// Takes or renews the lock of a queue. True when the client holds it now.
    pub fn lock(
        &self,
        group: &str,
        topic: &str,
        queue_id: i32,
        client_id: &str,
        now_ms: i64,
    ) -> bool {
        let mut groups = self.0.lock();
        let locks = groups.entry(group.to_owned()).or_default();
        let lock = locks
            .entry((topic.to_owned(), queue_id))
            .or_insert_with(|| Lock { client_id: client_id.to_owned(), renewed_ms: now_ms });
        let expired = now_ms - lock.renewed_ms > LEASE_MS;
        if lock.client_id != client_id && !expired {
            return false;
        }
        if lock.client_id != client_id {
            tracing::warn!(
                group,
                topic,
                queue_id,
                from = lock.client_id,
                to = client_id,
                "lock expired: taken over"
            );
            client_id.clone_into(&mut lock.client_id);
        }
        lock.renewed_ms = now_ms;
        true
    }

    /// Gives a lock back; only its holder can.
    pub fn unlock(&self, group: &str, topic: &str, queue_id: i32, client_id: &str) {
        let mut groups = self.0.lock();
        let Some(locks) = groups.get_mut(group) else { return };
        let key = (topic.to_owned(), queue_id);
        if locks.get(&key).is_some_and(|lock| lock.client_id == client_id) {
            locks.remove(&key);
        }
        if locks.is_empty() {
            groups.remove(group);
        }
    }

    /// Whether no lock of the group is alive. Java: `isLockAllExpired`.
    pub fn all_expired(&self, group: &str, now_ms: i64) -> bool {
        let groups = self.0.lock();
        groups
            .get(group)
            .is_none_or(|locks| locks.values().all(|lock| now_ms - lock.renewed_ms > LEASE_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_exclusive_until_it_expires() {
        let locks = Locks::default();
        assert!(locks.lock("g", "t", 0, "a", 0));
        assert!(!locks.lock("g", "t", 0, "b", LEASE_MS));
        assert!(locks.lock("g", "t", 0, "a", LEASE_MS), "renewed");
        assert!(!locks.all_expired("g", 2 * LEASE_MS) && locks.all_expired("other", 0));
        assert!(locks.lock("g", "t", 0, "b", 2 * LEASE_MS + 1), "expired");
        locks.unlock("g", "t", 0, "a");
        assert!(!locks.lock("g", "t", 0, "a", 2 * LEASE_MS + 2), "b still holds it");
        locks.unlock("g", "t", 0, "b");
        assert!(locks.lock("g", "t", 0, "a", 2 * LEASE_MS + 3));
    }
}
