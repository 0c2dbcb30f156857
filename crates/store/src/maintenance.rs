//! The background thread: queue and index flush, checkpoint, room ahead in the log, retention.
//!
//! Owns when these happen, and the order that makes a checkpoint true. Its lock is held only to
//! sleep and to wake. Never does anything that an appender waits for. While nothing changes the
//! only tick is that of retention.

use std::io;
use std::sync::Weak;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::checkpoint::Checkpoint;
use crate::disk::is_sync_failure;
use crate::store::Store;
use crate::trash::STEP_MS;

/// Milliseconds between two checkpoints while there is progress.
const CHECKPOINT_MS: i64 = 10_000;
/// Log files after which one is made earlier. After a kill a Java broker looks through the ten
/// newest files only (`commitLogRecoverMaxNum`), so the checkpoint must not be further back.
const CHECKPOINT_FILES: i64 = 3;
/// Bytes after which one is made earlier: a start after a kill looks through so many.
const CHECKPOINT_BYTES: i64 = 512 << 20;
/// Milliseconds between two rounds of retention. Java: `cleanResourceInterval`.
const RETENTION_MS: i64 = 10_000;
/// The same while the disk is full.
const FULL_MS: i64 = 2_000;
/// Pause after a failure.
const RETRY_MS: i64 = 5_000;

/// Wakes the background thread.
#[derive(Debug, Default)]
pub(crate) struct Signal {
    state: Mutex<Wanted>,
    wake: Condvar,
    next_checkpoint_ms: AtomicI64,
    next_retention_ms: AtomicI64,
    /// Rounds of retention to come that an operator asked for.
    manual_rounds: AtomicU32,
}

#[derive(Debug, Default)]
struct Wanted {
    work: bool,
    stop: bool,
}

impl Signal {
    pub(crate) fn wake(&self) {
        let mut wanted = self.state.lock();
        if !wanted.work {
            wanted.work = true;
            self.wake.notify_one();
        }
    }

    pub(crate) fn stop(&self) {
        self.state.lock().stop = true;
        self.wake.notify_one();
    }

    /// Makes the next rounds of retention delete what has expired, the first at once.
    pub(crate) fn delete_now(&self, rounds: u32) {
        self.manual_rounds.store(rounds, Ordering::Relaxed);
        self.retain_soon();
    }

    /// Makes the next round of retention come at once.
    pub(crate) fn retain_soon(&self) {
        self.next_retention_ms.store(0, Ordering::Relaxed);
        self.wake();
    }

    /// Whether this round is one that an operator asked for.
    pub(crate) fn take_manual_round(&self) -> bool {
        let less = |rounds: u32| rounds.checked_sub(1);
        self.manual_rounds.try_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }

    /// Sleeps until woken or for `ms`; false to end.
    fn sleep(&self, ms: Option<i64>) -> bool {
        let mut wanted = self.state.lock();
        if !wanted.work && !wanted.stop {
            match ms {
                Some(ms) => {
                    self.wake.wait_for(&mut wanted, Duration::from_millis(ms.max(1) as u64));
                }
                None => self.wake.wait(&mut wanted),
            }
        }
        wanted.work = false;
        !wanted.stop
    }
}

/// The thread's life.
pub(crate) fn run(signal: &Signal, store: &Weak<Store>) {
    let mut sleep_ms = Some(0);
    while signal.sleep(sleep_ms) {
        let Some(store) = store.upgrade() else { return };
        sleep_ms = store.look_after();
    }
}

impl Store {
    /// Does what is due, as the background thread does, and returns in how many milliseconds
    /// something else will be.
    pub fn look_after(&self) -> Option<i64> {
        let log = self.log();
        if log.is_poisoned() {
            return None;
        }
        let now_ms = self.clock.now_ms();
        if log.wants_reserve(log.appended()) {
            log.reserve_ahead();
        }
        let mut result = self.queues().flush_due(now_ms, log.readable(), false);
        if let Some(index) = self.index() {
            result = result.and(index.apply(log.written()));
        }
        let behind = log.last_written().start - self.checkpoint.lock().logics_offset;
        let progress = behind > 0;
        let due = self.background.next_checkpoint_ms.load(Ordering::Relaxed);
        let mut checkpoint_in = (due - now_ms).clamp(0, CHECKPOINT_MS);
        let files = CHECKPOINT_FILES * self.config.commit_log_file_size as i64;
        if behind > files.min(CHECKPOINT_BYTES) {
            checkpoint_in = 0;
        }
        if progress && checkpoint_in == 0 {
            result = result.and(self.settle(false));
            self.background.next_checkpoint_ms.store(now_ms + CHECKPOINT_MS, Ordering::Relaxed);
            checkpoint_in = CHECKPOINT_MS;
        }
        let due = self.background.next_retention_ms.load(Ordering::Relaxed);
        let mut retention_in = (due - now_ms).clamp(0, RETENTION_MS);
        if retention_in == 0 {
            result = result.and(self.retain(now_ms));
            let full = self.disk_full.load(Ordering::Relaxed);
            retention_in = if full { FULL_MS } else { RETENTION_MS };
            self.background.next_retention_ms.store(now_ms + retention_in, Ordering::Relaxed);
        }
        if let Err(error) = &result
            && is_sync_failure(error)
        {
            // What the checkpoint would say from now on could not be believed.
            log.poison("sync of queues, index or checkpoint", error);
            self.tell_flushed();
            return None;
        }
        if let Err(error) = result {
            tracing::error!(%error, "cannot look after queues, index or old files; trying again");
            return Some(RETRY_MS);
        }
        let trash_in = match log.trash.step() {
            Ok(more) => more.then_some(STEP_MS),
            Err(error) => {
                tracing::warn!(%error, "cannot give back the room of a deleted file");
                Some(RETRY_MS)
            }
        };
        let queues_in = self.queues().next_due_in(now_ms);
        let checkpoint_in = progress.then_some(checkpoint_in);
        [queues_in, checkpoint_in, trash_in, Some(retention_in)].into_iter().flatten().min()
    }

    /// Brings log, queues and index to the disk and then says so in the checkpoint. With `close`
    /// everything appended is included.
    pub(crate) fn settle(&self, close: bool) -> io::Result<()> {
        let log = self.log();
        let poisoned = |_| io::Error::other("the store is poisoned");
        if close {
            log.commit().map_err(poisoned)?;
        }
        // In this order: the record is written, then on disk, then its entry is; what comes in
        // meanwhile is only more than the checkpoint says.
        let last = log.last_written();
        log.flush().map_err(poisoned)?;
        // The flush thread may find nothing left to do, and then tells nobody.
        self.tell_flushed();
        self.queues().flush_due(self.clock.now_ms(), log.readable(), true)?;
        self.queues().sync()?;
        let mut index_ms = 0;
        if let Some(index) = self.index() {
            index_ms = index.sync(log.flushed(), close)?;
        }
        let mut checkpoint = self.checkpoint.lock();
        if last.timestamp_ms > 0 {
            *checkpoint = Checkpoint {
                physic_ms: last.timestamp_ms,
                logics_ms: last.timestamp_ms,
                index_ms: index_ms.max(checkpoint.index_ms),
                logics_offset: last.start,
                exact: true,
                on_disk: last.start,
                taken: (last.taken.through >= 0).then_some(last.taken),
                ..*checkpoint
            };
        }
        checkpoint.save(&self.config.disk, &self.config.root.join("checkpoint"))
    }
}
