//! Requests that wait for a message, pulls above all. They hang on the queue they wait for; whoever
//! moves the queue answers them. There is no sweep over parked requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering};

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

/// A pull that waits on its queue.
pub struct WaitingPull {
    /// The request.
    pub pull: Pull,
    /// Everything before this offset was looked at and is not wanted.
    pub looked_to: AtomicI64,
}

/// A parked pull.
pub type ParkedPull = Parked<WaitingPull>;

const WAITING: u8 = 0;
const CLAIMED: u8 = 1;
const DONE: u8 = 2;

/// A parked request. It is answered by whoever takes it first.
pub struct Parked<W> {
    /// What it asks for.
    pub work: W,
    /// Where the answer goes.
    pub peer: Arc<Peer>,
    /// Correlation id of the request.
    pub opaque: i32,
    /// When it is answered without a message.
    pub deadline_ms: i64,
    state: AtomicU8,
    gauge: Arc<AtomicUsize>,
}

impl<W> Parked<W> {
    /// A parked request, counted in `gauge` until it is done.
    pub fn new(
        work: W,
        peer: Arc<Peer>,
        opaque: i32,
        deadline_ms: i64,
        gauge: &Arc<AtomicUsize>,
    ) -> Parked<W> {
        gauge.fetch_add(1, Ordering::Relaxed);
        let (state, gauge) = (AtomicU8::new(WAITING), Arc::clone(gauge));
        Parked { work, peer, opaque, deadline_ms, state, gauge }
    }

    fn switch(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// True for the one caller that has to answer.
    pub fn take(&self) -> bool {
        let mine = self.switch(WAITING, DONE);
        if mine {
            self.gauge.fetch_sub(1, Ordering::Relaxed);
        }
        mine
    }

    /// Like [`Parked::take`] for a caller that may find that there is nothing to answer with. One
    /// of [`Parked::finish`] and [`Parked::release`] follows.
    pub fn claim(&self) -> bool {
        self.switch(WAITING, CLAIMED)
    }

    /// The claimed request is answered.
    pub fn finish(&self) {
        if self.switch(CLAIMED, DONE) {
            self.gauge.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The claimed request waits on.
    pub fn release(&self) {
        self.switch(CLAIMED, WAITING);
    }

    /// Whether it is answered, or nobody wants the answer any more.
    pub fn is_done(&self) -> bool {
        self.state.load(Ordering::Acquire) == DONE
    }
}

/// The pulls that wait on one queue.
#[derive(Default)]
pub struct Waiters {
    list: Mutex<Vec<Arc<ParkedPull>>>,
    len: AtomicUsize,
}

impl Waiters {
    /// Whether anybody may wait. Exact enough for the send path: a pull looks once more after it
    /// has parked.
    pub fn any(&self) -> bool {
        self.len.load(Ordering::Acquire) > 0
    }

    /// Adds a parked pull; drops those that were answered by others meanwhile.
    pub fn park(&self, parked: Arc<ParkedPull>) {
        let mut list = self.list.lock();
        if list.len() >= 8 {
            list.retain(|known| !known.is_done());
        }
        list.push(parked);
        self.len.store(list.len(), Ordering::Release);
    }

    /// Takes the whole list. [`Waiters::any`] says yes until the caller has put back what still
    /// waits, so that nobody who appends meanwhile passes by.
    pub fn drain(&self) -> Vec<Arc<ParkedPull>> {
        std::mem::take(&mut *self.list.lock())
    }

    /// Puts back what still waits after [`Waiters::drain`].
    pub fn put_back(&self, parked: Vec<Arc<ParkedPull>>) {
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
