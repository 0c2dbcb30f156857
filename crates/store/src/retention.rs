//! Deleting old log files and what points into them (Java: `CleanCommitLogService`).
//!
//! Owns the decision; the parts do the deleting. Takes no lock of its own. Never deletes the
//! newest file, one that is not on disk yet, or more than ten files in a round. Readers that hold
//! a deleted file open finish their read.

use std::io;
use std::sync::atomic::Ordering;

use crate::store::Store;

/// Above this percentage files are deleted whatever their age. Java: `diskSpaceCleanForciblyRatio`.
const FORCE_RATIO: f64 = 85.0;
/// Above this one appends are refused. Java: `diskSpaceWarningLevelRatio`.
const WARNING_RATIO: f64 = 90.0;
const FILES_PER_ROUND: usize = 10;
/// Rounds that a request of an operator lasts. Java: `MAX_MANUAL_DELETE_FILE_TIMES`.
const MANUAL_ROUNDS: u32 = 20;
const HOUR_MS: i64 = 3_600_000;

impl Store {
    /// One round of retention on the disks as they are.
    pub(crate) fn retain(&self, now_ms: i64) -> io::Result<()> {
        let disk = &self.config.disk;
        let log = disk.used_percent(&self.config.commit_log_dir)?;
        let queues = disk.used_percent(&self.config.root)?;
        self.retain_at(now_ms, log.max(queues))
    }

    /// One round of retention when `used` percent of the disk are in use.
    pub(crate) fn retain_at(&self, now_ms: i64, used: f64) -> io::Result<()> {
        if used > WARNING_RATIO && !self.disk_full.swap(true, Ordering::Relaxed) {
            tracing::error!(used, "disk over the warning level, refusing messages");
        } else if used <= FORCE_RATIO && self.disk_full.swap(false, Ordering::Relaxed) {
            tracing::info!(used, "disk has room again");
        }
        let force = used > FORCE_RATIO;
        let local_ms = now_ms + i64::from(self.config.utc_offset_minutes) * 60_000;
        let hour = (local_ms.rem_euclid(24 * HOUR_MS) / HOUR_MS) as u8;
        let in_time = self.config.delete_when.contains(&hour);
        let manual = self.background.take_manual_round();
        if !force && !in_time && !manual && used <= f64::from(self.config.disk_max_used_ratio) {
            return Ok(());
        }
        let mut deleted = 0;
        for segment in self.log().segments().into_iter().take(FILES_PER_ROUND) {
            let age_ms = now_ms - segment.file.modified_ms()?;
            let reserved = self.config.file_reserved_hours;
            let expired = reserved >= 0 && age_ms > reserved.saturating_mul(HOUR_MS);
            if !(expired || force) || !self.log().remove_oldest()? {
                break;
            }
            tracing::info!(file = %segment.path.display(), age_ms, used, "log file deleted");
            deleted += 1;
        }
        if deleted > 0 {
            self.follow_log_min()?;
        }
        Ok(())
    }

    /// Deletes expired files in the next rounds, whatever the hour. Java:
    /// `executeDeleteFilesManually`.
    pub fn delete_expired_now(&self) {
        self.background.delete_now(MANUAL_ROUNDS);
    }

    /// Lets queues, index and the list of deleted topics forget what left the log. Java:
    /// `cleanExpiredConsumerQueue`. May wait for the disk.
    ///
    /// # Errors
    ///
    /// When a file cannot be read or deleted; the next round tries again.
    pub fn follow_log_min(&self) -> io::Result<()> {
        let log_min = self.log().min();
        for queue in self.queues().all() {
            self.queues().raise_min(&queue, log_min)?;
        }
        if let Some(index) = self.index() {
            index.remove_below(log_min)?;
        }
        self.deleted.lock().prune(log_min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{AppendRefused, Edge, StoreConfig};
    use crate::files;
    use crate::testing::{TempDir, send, send_inner};
    use base::clock::Clock;

    /// 03:00 UTC.
    const T0: i64 = 1_700_017_200_000;

    fn config(root: &std::path::Path) -> StoreConfig {
        StoreConfig {
            commit_log_file_size: 4096,
            consume_queue_file_size: 100,
            max_index_slots: 10,
            max_index_entries: 10,
            ..StoreConfig::new(root)
        }
    }

    #[test]
    fn files_go_by_age_in_their_hour_and_by_force_but_never_the_last() {
        let dir = TempDir::new("retention");
        let clock = Clock::manual(T0);
        let store = Store::open(config(dir.path()), clock.clone()).unwrap();
        send(&store, "Idle", 0, b"the only one").unwrap();
        for _ in 0..100 {
            send(&store, "T", 0, &[1; 900]).unwrap();
        }
        store.settle(false).unwrap();
        let queue = store.queue("T", 0).unwrap();
        let files = store.log().segments();
        let now = files[0].file.modified_ms().unwrap();
        let hour = |hour: i64| now - now % (24 * HOUR_MS) + (24 * 4 + hour) * HOUR_MS;
        // Expired, but neither the hour nor a full disk.
        store.retain_at(hour(5), 50.0).unwrap();
        assert_eq!((store.log().min(), queue.min_offset()), (0, 0));
        // The hour, but not expired.
        store.retain_at(hour(4) - 24 * 4 * HOUR_MS, 50.0).unwrap();
        assert_eq!(store.log().min(), 0);
        store.retain_at(hour(4), 50.0).unwrap();
        assert_eq!(store.log().min(), 10 * 4096);
        let min = queue.min_offset();
        assert_eq!(min, 40);
        assert!(!files[9].path.exists() && files[10].path.exists());
        let queue_dir = dir.path().join("consumequeue/T/0");
        assert!(!queue_dir.join(files::name_of(700)).exists());
        assert!(queue_dir.join(files::name_of(800)).exists());
        // A queue without messages keeps its numbering and its last file.
        let idle = store.queue("Idle", 0).unwrap();
        assert_eq!((idle.min_offset(), idle.next_offset()), (1, 1));
        assert!(dir.path().join("consumequeue/Idle/0").join(files::name_of(0)).exists());
        assert_eq!(store.offset_by_time(&queue, 0, Edge::Lower), min);
        // Any hour above the ratio; and it is all there after a crash.
        store.retain_at(hour(5), 76.0).unwrap();
        assert_eq!(store.log().min(), 20 * 4096);
        let bounds = (queue.min_offset(), queue.next_offset());
        store.abandon();
        let store = Store::open(config(dir.path()), clock).unwrap();
        let queue = store.queue("T", 0).unwrap();
        assert_eq!((queue.min_offset(), queue.next_offset()), bounds);
        assert_eq!(store.queue("Idle", 0).unwrap().next_offset(), 1);
        // By force whatever the age, but the file in use stays.
        store.retain_at(0, 86.0).unwrap();
        store.retain_at(0, 86.0).unwrap();
        assert_eq!(store.log().min(), store.log().appended() / 4096 * 4096);
        let last = queue.next_offset();
        assert_eq!(send(&store, "T", 0, b"goes on").unwrap().place.queue_offset, last);
    }

    #[test]
    fn an_operator_may_ask_at_any_hour_but_young_files_stay() {
        let dir = TempDir::new("manual");
        let store = Store::open(config(dir.path()), Clock::manual(T0)).unwrap();
        for _ in 0..60 {
            send(&store, "T", 0, &[1; 900]).unwrap();
        }
        store.settle(false).unwrap();
        let now = store.log().segments()[0].file.modified_ms().unwrap();
        let five = now - now % (24 * HOUR_MS) + (24 * 4 + 5) * HOUR_MS;
        // The store's own thread takes some of the rounds; its clock finds no file old.
        store.delete_expired_now();
        store.retain_at(five - 24 * 4 * HOUR_MS, 50.0).unwrap();
        assert_eq!(store.log().min(), 0);
        store.retain_at(five, 50.0).unwrap();
        assert_eq!(store.log().min(), 10 * 4096);
    }

    #[test]
    fn a_batch_queue_loses_its_oldest_batches_and_files() {
        let dir = TempDir::new("batch-retention");
        let config = StoreConfig {
            batch_queue_file_size: 10 * 46,
            batch_topics: ["B".to_owned()].into(),
            ..config(dir.path())
        };
        let store = Store::open(config.clone(), Clock::manual(T0)).unwrap();
        let queue = store.batch_queue_or_create("B", 0);
        // Without an entry of an ordinary queue a start after a kill would read the whole log.
        send(&store, "T", 0, b"").unwrap();
        // Four to a log file, and that one.
        (0..100).for_each(|_| send_inner(&store, &queue, 900, 3));
        store.settle(false).unwrap();
        store.retain_at(T0, 86.0).unwrap();
        store.retain_at(T0, 86.0).unwrap();
        let log_min = store.log().min();
        assert_eq!(log_min, 20 * 4096);
        assert_eq!((queue.min_offset(), queue.next_offset()), (79 * 3, 300));
        let files = dir.path().join("batchconsumequeue/B/0");
        let named = |slot: i64| files.join(files::name_of(slot * 46));
        assert!(!named(60).exists() && named(70).exists());
        assert_eq!(store.offset_by_time(&queue, 0, Edge::Lower), 79 * 3);
        assert_eq!(queue.entry(&store, 79 * 3 + 2).unwrap().physical_offset, log_min);
        assert!(queue.entry(&store, 79 * 3 - 1).is_none());
        store.abandon();
        let store = Store::open(config, Clock::manual(T0)).unwrap();
        let queue = store.queue("B", 0).unwrap();
        assert_eq!((queue.min_offset(), queue.next_offset()), (79 * 3, 300));
        // What is in files is not read into memory, but for the last, which the log tells.
        let state = queue.state.lock();
        assert_eq!(state.batches.as_ref().map(|batches| batches.tail_base()), Some(99));
    }

    #[test]
    fn over_the_warning_level_messages_are_refused_until_there_is_room() {
        let dir = TempDir::new("full");
        let config = StoreConfig { file_reserved_hours: -1, ..config(dir.path()) };
        let store = Store::open(config, Clock::manual(T0)).unwrap();
        // The thread's own first round, on the real disk, must be over.
        std::thread::sleep(std::time::Duration::from_millis(50));
        for (used, refused) in [(89.0, false), (91.0, true), (88.0, true), (85.0, false)] {
            store.retain_at(T0, used).unwrap();
            let result = send(&store, "T", 0, b"x");
            assert_eq!(result == Err(AppendRefused::DiskFull), refused, "{used}");
        }
    }
}
