//! The thread that brings the log to the disk.
//!
//! Owns when the log is synced. Asynchronous flush: a first new byte wakes the thread, which syncs
//! after the interval or when 8 MiB wait, whichever is first, so that the disk has no bursts;
//! an idle broker causes no wake-up. Synchronous flush: the thread syncs whatever arrived during
//! its last sync, without any timer. Its lock is held only to sleep and to wake; it never syncs
//! under it.

use std::sync::OnceLock;
use std::time::Duration;

use base::clock::Stopwatch;

use crate::api::{FlushMode, Poisoned};
use crate::commit_log::CommitLog;
use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, fence};

/// This many unsynced bytes are synced before the interval is over.
const HURRY_BYTES: i64 = 8 << 20;

/// With synchronous flush the thread looks for more so long before it sleeps …
const LOOK_OUT: Duration = Duration::from_micros(100);
/// … if the disk is so fast that a wake-up would be a good part of the whole.
const FAST_DISK: Duration = Duration::from_micros(500);

/// Called after `flushed` moved, or when the log is poisoned.
pub(crate) type OnFlushed = Box<dyn Fn() + Send + Sync>;

/// What is flushed: the log, or in a model something smaller.
pub(crate) trait Flushed {
    /// Up to where bytes are written.
    fn written(&self) -> i64;
    /// Up to where they are on the disk.
    fn flushed(&self) -> i64;
    /// Brings what is written to the disk.
    fn flush(&self) -> Result<i64, Poisoned>;
}

impl Flushed for CommitLog {
    fn written(&self) -> i64 {
        CommitLog::written(self)
    }
    fn flushed(&self) -> i64 {
        CommitLog::flushed(self)
    }
    fn flush(&self) -> Result<i64, Poisoned> {
        CommitLog::flush(self)
    }
}

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
    pub(crate) fn written(&self, log: &impl Flushed) {
        // Pairs with `run`: either it sees the new watermark, or this sees it idle.
        fence(Ordering::SeqCst);
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
    pub(crate) fn run(&self, log: &impl Flushed) {
        let mut quick = false;
        loop {
            if quick {
                self.look_out(log);
            }
            let mut lock = self.lock.lock();
            self.idle.store(true, Ordering::SeqCst);
            fence(Ordering::SeqCst);
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
            let watch = Stopwatch::start();
            let result = log.flush();
            self.tell();
            // Loom knows no time, and needs none here: what follows is the same.
            let fast = cfg!(not(loom)) && watch.elapsed() < FAST_DISK;
            quick = fast && self.mode == FlushMode::Sync;
            if result.is_err() {
                return;
            }
        }
    }

    /// Looks for new bytes for a moment without sleeping: whoever sends one message after the
    /// other sends the next one now.
    fn look_out(&self, log: &impl Flushed) {
        let watch = Stopwatch::start();
        while log.written() <= log.flushed() && !self.stopped() && watch.elapsed() < LOOK_OUT {
            std::thread::yield_now();
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Every interleaving of appenders, the thread and the end, by loom.
#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::AtomicI64;
    use loom::thread;

    #[derive(Default)]
    struct Marks {
        written: AtomicI64,
        flushed: AtomicI64,
    }

    impl Flushed for Marks {
        fn written(&self) -> i64 {
            self.written.load(Ordering::SeqCst)
        }
        fn flushed(&self) -> i64 {
            self.flushed.load(Ordering::SeqCst)
        }
        fn flush(&self) -> Result<i64, Poisoned> {
            let upto = self.written();
            self.flushed.store(upto, Ordering::SeqCst);
            Ok(upto)
        }
    }

    /// Appenders write, tell the thread, and sleep until it has told them. A lost wake-up leaves
    /// everybody asleep, which loom reports.
    fn nobody_sleeps_for_ever(mode: FlushMode, appenders: i64) {
        loom::model(move || {
            let marks = Arc::new(Marks::default());
            let flusher = Arc::new(Flusher::new(mode, 1));
            let told = Arc::new((Mutex::new(0), Condvar::new()));
            let (of_thread, bell) = (Arc::clone(&marks), Arc::clone(&told));
            flusher.set_on_flushed(Box::new({
                let marks = Arc::clone(&marks);
                move || {
                    *bell.0.lock() = marks.flushed();
                    bell.1.notify_one();
                }
            }));
            let thread = thread::spawn({
                let flusher = Arc::clone(&flusher);
                move || flusher.run(&*of_thread)
            });
            for _ in 0..appenders {
                marks.written.fetch_add(1, Ordering::SeqCst);
                flusher.written(&*marks);
            }
            let mut seen = told.0.lock();
            while *seen < appenders {
                told.1.wait(&mut seen);
            }
            drop(seen);
            assert_eq!(marks.flushed(), appenders);
            flusher.stop();
            thread.join().expect("the thread ends");
        });
    }

    #[test]
    fn with_synchronous_flush() {
        nobody_sleeps_for_ever(FlushMode::Sync, 2);
    }

    /// Positions that are read from the smallest up are in order, whatever moves meanwhile.
    #[test]
    fn watermarks_are_read_in_order() {
        loom::model(|| {
            let marks = Arc::new((AtomicI64::new(0), AtomicI64::new(0), AtomicI64::new(0)));
            let writer = thread::spawn({
                let marks = Arc::clone(&marks);
                move || {
                    for upto in 1..3 {
                        marks.0.store(upto, Ordering::SeqCst);
                        marks.1.store(upto, Ordering::SeqCst);
                        marks.2.store(upto, Ordering::SeqCst);
                    }
                }
            });
            let flushed = marks.2.load(Ordering::SeqCst);
            let written = marks.1.load(Ordering::SeqCst);
            let appended = marks.0.load(Ordering::SeqCst);
            assert!(flushed <= written && written <= appended);
            writer.join().expect("the writer ends");
        });
    }
}
