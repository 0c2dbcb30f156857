//! Pulls that wait for a message. They hang on the queue they wait for; whoever moves the queue
//! answers them. There is no sweep over parked requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};

use filter::Filter;
use net::Peer;
use parking_lot::Mutex;

use crate::topics::TopicQueue;

/// Everything that is needed to run a pull, now or later.
#[derive(Clone)]
pub struct Pull {
    /// Consumer group, for the counters.
    pub group: Arc<str>,
    /// Queue to read.
    pub queue: Arc<TopicQueue>,
    /// First wanted queue offset.
    pub offset: i64,
    /// Most messages.
    pub max_messages: usize,
    /// Which messages to deliver.
    pub filter: Arc<Filter>,
    /// Copied into the answer.
    pub topic_sys_flag: i32,
    /// Copied into the answer.
    pub group_sys_flag: i32,
}

/// A parked pull. It is answered by whoever takes it first.
pub struct Parked {
    /// The request.
    pub pull: Pull,
    /// Where the answer goes.
    pub peer: Arc<Peer>,
    /// Correlation id of the request.
    pub opaque: i32,
    /// When it is answered without a message.
    pub deadline_ms: i64,
    /// Everything before this offset was looked at and is not wanted.
    pub looked_to: AtomicI64,
    taken: AtomicBool,
    gauge: Arc<AtomicUsize>,
}

impl Parked {
    /// A parked pull, counted in `gauge` until it is taken.
    pub fn new(
        pull: Pull,
        peer: Arc<Peer>,
        opaque: i32,
        deadline_ms: i64,
        gauge: &Arc<AtomicUsize>,
    ) -> Parked {
        gauge.fetch_add(1, Ordering::Relaxed);
        Parked {
            looked_to: AtomicI64::new(pull.offset),
            pull,
            peer,
            opaque,
            deadline_ms,
            taken: AtomicBool::new(false),
            gauge: Arc::clone(gauge),
        }
    }

    /// True for the one caller that has to answer.
    pub fn take(&self) -> bool {
        let mine = !self.taken.swap(true, Ordering::AcqRel);
        if mine {
            self.gauge.fetch_sub(1, Ordering::Relaxed);
        }
        mine
    }

    /// Whether somebody has taken it.
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }
}

/// The pulls that wait on one queue.
#[derive(Default)]
pub struct Waiters {
    list: Mutex<Vec<Arc<Parked>>>,
    len: AtomicUsize,
}

impl Waiters {
    /// Whether anybody may wait. Exact enough for the send path: a pull looks once more after it
    /// has parked.
    pub fn any(&self) -> bool {
        self.len.load(Ordering::Acquire) > 0
    }

    /// Adds a parked pull; drops those that were answered by others meanwhile.
    pub fn park(&self, parked: Arc<Parked>) {
        let mut list = self.list.lock();
        if list.len() >= 8 {
            list.retain(|known| !known.is_taken());
        }
        list.push(parked);
        self.len.store(list.len(), Ordering::Release);
    }

    /// Takes the whole list. [`Waiters::any`] says yes until the caller has put back what still
    /// waits, so that nobody who appends meanwhile passes by.
    pub fn drain(&self) -> Vec<Arc<Parked>> {
        std::mem::take(&mut *self.list.lock())
    }

    /// Puts back what still waits after [`Waiters::drain`].
    pub fn put_back(&self, parked: Vec<Arc<Parked>>) {
        let mut list = self.list.lock();
        list.extend(parked);
        self.len.store(list.len(), Ordering::Release);
    }

    /// Forgets everybody; the pulls are answered at their deadline by their loop.
    pub fn forget(&self) {
        drop(self.drain());
        self.put_back(Vec::new());
    }
}
