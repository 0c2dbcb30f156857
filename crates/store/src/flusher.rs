//! The thread that brings the log to the disk.
//!
//! Owns when the log is synced. Asynchronous flush: a first new byte wakes the thread, which syncs
//! after the interval or when 8 MiB wait, whichever is first, so that the disk has no bursts;
//! an idle broker causes no wake-up. Synchronous flush: the thread syncs whatever arrived during
//! its last sync, without any timer. Its lock is held only to sleep and to wake; it never syncs
//! under it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::api::FlushMode;
use crate::commit_log::CommitLog;

/// This many unsynced bytes are synced before the interval is over.
const HURRY_BYTES: i64 = 8 << 20;

/// Called after `flushed` moved, or when the log is poisoned.
pub(crate) type OnFlushed = Box<dyn Fn() + Send + Sync>;

/// See the module.
pub(crate) struct Flusher {
    mode: FlushMode,
    interval: Duration,
    lock: Mutex<()>,
    wake: Condvar,
    /// The thread sleeps because there is nothing to sync.
    idle: AtomicBool,
    /// It was told that many bytes wait.
    hurried: AtomicBool,
    stop: AtomicBool,
    on_flushed: OnceLock<OnFlushed>,
}

impl Flusher {
    pub(crate) fn new(mode: FlushMode, interval_ms: u64) -> Flusher {
        Flusher {
            mode,
            interval: Duration::from_millis(interval_ms),
            lock: Mutex::new(()),
            wake: Condvar::new(),
            idle: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            on_flushed: OnceLock::new(),
        }
    }

    /// Sets what is called when `flushed` has moved; the first call counts.
    pub(crate) fn set_on_flushed(&self, call: OnFlushed) {
        let _ = self.on_flushed.set(call);
    }

    /// Calls what is to be called when `flushed` has moved or the log is poisoned.
    pub(crate) fn tell(&self) {
        if let Some(call) = self.on_flushed.get() {
            call();
        }
    }

    /// Says that bytes were written.
    pub(crate) fn written(&self, log: &CommitLog) {
        // Pairs with `run`: either it sees the new watermark, or this sees it idle.
        let idle = self.idle.load(Ordering::SeqCst);
        let hurry = self.mode == FlushMode::Async
            && log.written() - log.flushed() >= HURRY_BYTES
            && !self.hurried.swap(true, Ordering::SeqCst);
        if idle || hurry {
            let _lock = self.lock.lock();
            self.wake.notify_one();
        }
    }

    /// Ends the thread soon.
    pub(crate) fn stop(&self) {
        let _lock = self.lock.lock();
        self.stop.store(true, Ordering::SeqCst);
        self.wake.notify_one();
    }

    /// The thread's life.
    pub(crate) fn run(&self, log: &Arc<CommitLog>) {
        loop {
            let mut lock = self.lock.lock();
            self.idle.store(true, Ordering::SeqCst);
            while log.written() <= log.flushed() && !self.stopped() {
                self.wake.wait(&mut lock);
            }
            self.idle.store(false, Ordering::SeqCst);
            let hurried = self.hurried.load(Ordering::SeqCst);
            if self.mode == FlushMode::Async && !hurried && !self.stopped() {
                self.wake.wait_for(&mut lock, self.interval);
            }
            drop(lock);
            if self.stopped() {
                return;
            }
            self.hurried.store(false, Ordering::SeqCst);
            let result = log.flush();
            self.tell();
            if result.is_err() {
                return;
            }
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
