//! Deleting old log files and what points into them (Java: `CleanCommitLogService`).
//!
//! Owns the decision, and says why it is as it is; the parts do the deleting. Never deletes the
//! newest file, one that is not on disk yet, or more than ten files in a round. A file is as old
//! as its newest record (in Java as its last change, which a copy of the store makes new). Readers
//! that hold a deleted file open finish their read.

use std::io;
use std::sync::atomic::Ordering;

use crate::api::Wait;
use crate::commit_log::Segment;
use crate::disk::Room;
use crate::reading::store_time;
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
        let log = disk.room(&self.config.commit_log_dir)?;
        let queues = disk.room(&self.config.root)?;
        let tighter = if log.used_percent() > queues.used_percent() { log } else { queues };
        self.retain_at(now_ms, Room { free: log.free.min(queues.free), ..tighter })?;
        self.cut_topics(now_ms)
    }

    /// One round of retention when the disk has this room.
    pub(crate) fn retain_at(&self, now_ms: i64, room: Room) -> io::Result<()> {
        let used = room.used_percent();
        let short = room.free < self.config.min_free_bytes;
        self.judge_room(used, short, room.free);
        let force = used > FORCE_RATIO || short;
        let local_ms = now_ms + i64::from(self.config.utc_offset_minutes) * 60_000;
        let hour = (local_ms.rem_euclid(24 * HOUR_MS) / HOUR_MS) as u8;
        let in_time = self.config.delete_when.contains(&hour);
        let manual = self.background.take_manual_round();
        let ratio = f64::from(self.config.disk_max_used_ratio);
        let occasion = match () {
            () if force => format!("the disk is {used:.1} % used, {} bytes are free", room.free),
            () if in_time => format!("it is hour {hour}, one of deleteWhen"),
            () if manual => "an operator asked".to_owned(),
            () if used > ratio => format!("the disk is {used:.1} % used, over {ratio:.0} %"),
            () => {
                self.decided(format!(
                    "kept: the disk is {used:.1} % used, below {ratio:.0} %, and hour {hour} is \
                     none of deleteWhen ({:?})",
                    self.config.delete_when
                ));
                return Ok(());
            }
        };
        let deleted = self.delete_oldest(now_ms, force, &occasion)?;
        if deleted > 0 { self.follow_log_min() } else { Ok(()) }
    }

    /// Deletes expired files, with `force` also others, and returns how many.
    fn delete_oldest(&self, now_ms: i64, force: bool, occasion: &str) -> io::Result<usize> {
        let reserved = self.config.file_reserved_hours;
        let mut deleted = 0;
        let segments = self.log().segments();
        for pair in segments.windows(2).take(FILES_PER_ROUND) {
            let hours = (now_ms - self.newest_ms(&pair[0], &pair[1])?) / HOUR_MS;
            let expired = reserved >= 0 && hours >= reserved;
            let name = pair[0].path.display();
            if !(expired || force) {
                let limit = if reserved < 0 { "never".to_owned() } else { format!("{reserved} h") };
                self.decided(format!(
                    "{occasion}; {name} is kept: its newest message is {hours} h old, and \
                     fileReservedTime is {limit}"
                ));
                return Ok(deleted);
            }
            if !self.log().remove_oldest()? {
                self.decided(format!("{occasion}; {name} is kept: it is not on the disk yet"));
                return Ok(deleted);
            }
            let why = if expired { "fileReservedTime is over" } else { "there must be room" };
            tracing::info!(file = %name, hours, occasion, why, "log file deleted");
            deleted += 1;
        }
        let rest = segments.len() - deleted;
        self.decided(match rest {
            0 | 1 => format!("{occasion}; {deleted} files deleted, the one in use is kept"),
            _ => format!("{occasion}; {deleted} files deleted, {rest} left for the next round"),
        });
        Ok(deleted)
    }

    /// Store time of the newest record of a file: not after the first one of the next.
    fn newest_ms(&self, segment: &Segment, next: &Segment) -> io::Result<i64> {
        let mut head = [0; 76];
        next.file.read_at(&mut head, 0, Wait::MayBlock)?;
        let ms = store_time(&head);
        // A file that is only reserved begins with zeros: then nothing is known but the change.
        if ms > 0 { Ok(ms) } else { segment.file.modified_ms() }
    }

    /// Refuses messages over the warning level, and takes them again below the one of force.
    fn judge_room(&self, used: f64, short: bool, free: u64) {
        if used > WARNING_RATIO || short {
            let note = self.full_note(free);
            if !self.disk_full.swap(true, Ordering::Relaxed) {
                tracing::error!(used, note, "no room on the disk, refusing messages");
            }
            *self.full.lock() = note;
        } else if used <= FORCE_RATIO && self.disk_full.swap(false, Ordering::Relaxed) {
            tracing::info!(used, "disk has room again");
        }
    }

    /// What an operator must know when the disk is full: where, how much is free, who has most.
    fn full_note(&self, free: u64) -> String {
        let dir = self.config.commit_log_dir.display();
        let mut note = format!("{free} bytes are free under {dir}");
        if let Some((topic, bytes)) = self.largest_topic() {
            note.push_str(&format!(", the topic with most is {topic}, about {bytes} bytes"));
        }
        note
    }

    /// The topic with most bytes, by the number of its messages and the size of the newest ones.
    fn largest_topic(&self) -> Option<(String, i64)> {
        let of_topic = |(topic, _): (String, Vec<i32>)| {
            let of_queue = |queue: &std::sync::Arc<crate::Queue>| {
                let (min, max) = (queue.min_offset(), queue.max_offset(self));
                let size = queue.entry(self, max - 1).map_or(0, |entry| i64::from(entry.size));
                (max - min) * size
            };
            let bytes = self.queues().of_topic(&topic).iter().map(of_queue).sum::<i64>();
            (topic, bytes)
        };
        let all = self.topics().into_iter().map(of_topic).filter(|(_, bytes)| *bytes > 0);
        all.max_by_key(|(_, bytes)| *bytes)
    }

    /// Why messages are refused for want of room, in words; of the last round that found so.
    pub fn why_full(&self) -> String {
        let note = self.full.lock().clone();
        let dir = self.config.commit_log_dir.display();
        if note.is_empty() { format!("no room can be reserved under {dir}") } else { note }
    }

    fn decided(&self, decision: String) {
        *self.decision.lock() = decision;
    }

    /// What the last round of retention did or did not do, and why.
    pub fn retention_decision(&self) -> String {
        self.decision.lock().clone()
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

    /// A disk of which this many percent are used.
    fn percent(percent: f64) -> Room {
        let used = (percent * 1e9) as u64;
        Room { used, free: 100_000_000_000 - used }
    }

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
        let hour = |hour: i64| T0 - T0 % (24 * HOUR_MS) + (24 * 4 + hour) * HOUR_MS;
        // Expired, but neither the hour nor a full disk.
        store.retain_at(hour(5), percent(50.0)).unwrap();
        assert_eq!((store.log().min(), queue.min_offset()), (0, 0));
        // The hour, but not expired.
        store.retain_at(hour(4) - 24 * 4 * HOUR_MS, percent(50.0)).unwrap();
        assert_eq!(store.log().min(), 0);
        store.retain_at(hour(4), percent(50.0)).unwrap();
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
        store.retain_at(hour(5), percent(76.0)).unwrap();
        assert_eq!(store.log().min(), 20 * 4096);
        let bounds = (queue.min_offset(), queue.next_offset());
        store.abandon();
        let store = Store::open(config(dir.path()), clock).unwrap();
        let queue = store.queue("T", 0).unwrap();
        assert_eq!((queue.min_offset(), queue.next_offset()), bounds);
        assert_eq!(store.queue("Idle", 0).unwrap().next_offset(), 1);
        // By force whatever the age, but the file in use stays.
        store.retain_at(0, percent(86.0)).unwrap();
        store.retain_at(0, percent(86.0)).unwrap();
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
        let five = T0 - T0 % (24 * HOUR_MS) + (24 * 4 + 5) * HOUR_MS;
        // The store's own thread takes some of the rounds; its clock finds no file old.
        store.delete_expired_now();
        store.retain_at(five - 24 * 4 * HOUR_MS, percent(50.0)).unwrap();
        assert_eq!(store.log().min(), 0);
        store.retain_at(five, percent(50.0)).unwrap();
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
        store.retain_at(T0, percent(86.0)).unwrap();
        store.retain_at(T0, percent(86.0)).unwrap();
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
            store.retain_at(T0, percent(used)).unwrap();
            let result = send(&store, "T", 0, b"x");
            assert_eq!(result == Err(AppendRefused::DiskFull), refused, "{used}");
        }
    }
}
