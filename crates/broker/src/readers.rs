//! Threads for reads that may wait for the disk, so that a page fault never stops a loop, and for
//! those that take long. They leave the processors to the loops: who reads old messages waits
//! rather than who sends new ones.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use store::{Store, Wait};

type Job = Box<dyn FnOnce() + Send>;

/// Reads that may wait at once.
const QUEUE: usize = 1024;

/// Niceness of the threads.
const NICE: i32 = 10;

/// A small pool with a bounded queue.
pub struct Readers {
    jobs: Mutex<Option<SyncSender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Readers {
    /// Starts `count` threads.
    pub fn start(count: usize) -> io::Result<Readers> {
        let (jobs, queue) = sync_channel::<Job>(QUEUE);
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for number in 0..count {
            let queue = Arc::clone(&queue);
            let run = move || {
                // Of this thread alone. One that may not be nice reads all the same.
                let _ = rustix::process::setpriority_process(None, NICE);
                loop {
                    let job = queue.lock().recv();
                    match job {
                        Ok(job) => job(),
                        Err(_) => return,
                    }
                }
            };
            threads.push(std::thread::Builder::new().name(format!("reader-{number}")).spawn(run)?);
        }
        Ok(Readers { jobs: Mutex::new(Some(jobs)), threads: Mutex::new(threads) })
    }

    /// Hands a job over. False when too many wait already.
    pub fn submit(&self, job: impl FnOnce() + Send + 'static) -> bool {
        let jobs = self.jobs.lock();
        let Some(jobs) = &*jobs else { return false };
        !matches!(
            jobs.try_send(Box::new(job)),
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_))
        )
    }

    /// Brings the records at these physical offsets into memory. Best effort: who wants them comes
    /// again.
    pub fn warm(&self, store: &Arc<Store>, physical_offsets: Vec<i64>) {
        let store = Arc::clone(store);
        self.submit(move || {
            let mut bytes = Vec::new();
            for offset in physical_offsets {
                bytes.clear();
                let _ = store.at(offset, Wait::MayBlock, &mut bytes); // only for the page cache
            }
        });
    }

    /// Finishes the waiting jobs and ends.
    pub fn stop(&self) {
        self.jobs.lock().take();
        for thread in self.threads.lock().drain(..) {
            let _ = thread.join(); // a panic there was logged by its hook
        }
    }
}
