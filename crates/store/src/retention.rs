//! Deleting old log files and what points into them (Java: `CleanCommitLogService`).
//!
//! Owns the decision; the parts do the deleting. Takes no lock of its own. Never deletes the
//! newest file, one that is not on disk yet, or more than ten files in a round. Readers that hold
//! a deleted file open finish their read.

use std::io;
use std::sync::atomic::Ordering;
use std::time::UNIX_EPOCH;

use crate::files;
use crate::store::Store;

/// Above this percentage files are deleted whatever their age. Java: `diskSpaceCleanForciblyRatio`.
const FORCE_RATIO: f64 = 85.0;
/// Above this one appends are refused. Java: `diskSpaceWarningLevelRatio`.
const WARNING_RATIO: f64 = 90.0;
const FILES_PER_ROUND: usize = 10;
const HOUR_MS: i64 = 3_600_000;

impl Store {
    /// One round of retention on the disks as they are.
    pub(crate) fn retain(&self, now_ms: i64) -> io::Result<()> {
        let log = files::disk_used_percent(&self.config.commit_log_dir)?;
        let queues = files::disk_used_percent(&self.config.root)?;
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
        if !force && !in_time && used <= f64::from(self.config.disk_max_used_ratio) {
            return Ok(());
        }
        let mut deleted = 0;
        for segment in self.log().segments().into_iter().take(FILES_PER_ROUND) {
            let age_ms = now_ms - modified_ms(&segment.file)?;
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

    /// Lets queues, index and the list of deleted topics forget what left the log.
    fn follow_log_min(&self) -> io::Result<()> {
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

fn modified_ms(file: &std::fs::File) -> io::Result<i64> {
    let since = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
    Ok(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}
