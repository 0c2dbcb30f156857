//! What one loop of the broker does: requests in, one group commit at the end of the turn, then
//! whatever that commit makes answerable.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use net::{Call, Class, Peer, Refusal, Router, Service};
use wire::codes::response;
use wire::header::Header;

use crate::handlers;
use crate::handlers::pull;
use crate::state::Broker;
use crate::topics::TopicQueue;
use crate::waits::Parked;

/// Text of every refusal for lack of room. Java: `NettyRemotingAbstract`.
pub const OVERLOAD: &str = "[OVERLOAD]system busy, start flow control for a while";

/// An answer to a send that is held back until its record is on disk.
pub struct FlushWait {
    /// Physical end of the record.
    pub end: i64,
    /// When the wait counts as failed.
    pub deadline_ms: i64,
    /// Where the answer goes.
    pub peer: Arc<Peer>,
    /// The answer of a flush in time.
    pub flushed: Vec<u8>,
    /// The answer of a flush too late: stored, not yet safe.
    pub timed_out: Vec<u8>,
}

/// The state of one loop.
pub struct Turn {
    /// The shared broker.
    pub broker: Arc<Broker>,
    router: Arc<Router<Turn>>,
    /// Time of the request in hand.
    pub now_ms: i64,
    /// Something was appended since the last commit.
    pub appended: bool,
    /// Queues with new messages and parked pulls, with the physical end of the newest.
    arrivals: Vec<(Arc<TopicQueue>, i64)>,
    flush_waits: VecDeque<FlushWait>,
    deadlines: BinaryHeap<ByDeadline>,
    parked_by_peer: HashMap<u64, Vec<Arc<Parked>>>,
    /// Reused for the properties of the message in hand.
    pub properties: String,
    /// Reused for offset message ids.
    pub ids: String,
    /// Reused for the records of the answer in hand.
    pub records: Vec<u8>,
    /// Reused for the physical offsets of a batch.
    pub offsets: Vec<i64>,
}

impl Turn {
    /// The state of a new loop.
    pub fn new(broker: Arc<Broker>, router: Arc<Router<Turn>>) -> Turn {
        Turn {
            now_ms: broker.clock.now_ms(),
            broker,
            router,
            appended: false,
            arrivals: Vec::new(),
            flush_waits: VecDeque::new(),
            deadlines: BinaryHeap::new(),
            parked_by_peer: HashMap::new(),
            properties: String::new(),
            ids: String::new(),
            records: Vec::new(),
            offsets: Vec::new(),
        }
    }

    /// Notes an append, so that the turn commits it and serves who waits for it.
    pub fn arrived(&mut self, queue: &Arc<TopicQueue>, end: i64) {
        self.appended = true;
        if !queue.waiters.any() {
            return;
        }
        match self.arrivals.last_mut() {
            Some((last, last_end)) if Arc::ptr_eq(last, queue) => *last_end = end,
            _ => self.arrivals.push((Arc::clone(queue), end)),
        }
    }

    /// Holds an answer back until the disk has its record.
    pub fn answer_when_flushed(&mut self, wait: FlushWait) {
        self.broker.flushing.fetch_add(1, Relaxed);
        self.flush_waits.push_back(wait);
    }

    /// Parks a pull. It looks once more afterwards, since another loop may have appended meanwhile.
    pub fn park(&mut self, parked: Arc<Parked>) {
        let queue = Arc::clone(&parked.pull.queue);
        let mine = self.parked_by_peer.entry(parked.peer.id()).or_default();
        if mine.len() >= 64 {
            mine.retain(|known| !known.is_taken());
        }
        mine.push(Arc::clone(&parked));
        self.deadlines.push(ByDeadline(Arc::clone(&parked)));
        if self.deadlines.len() > 1024
            && self.deadlines.len() > 4 * self.broker.parked.load(Relaxed)
        {
            self.deadlines.retain(|known| !known.0.is_taken());
        }
        let offset = parked.pull.offset;
        queue.waiters.park(parked);
        if queue.queue.next_offset() > offset {
            let end = self.broker.store.watermarks().appended;
            self.arrivals.push((queue, end));
        }
    }

    /// Serves the pulls that wait on queues whose new messages are readable by now.
    fn serve_arrivals(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let readable = self.broker.store.watermarks().readable;
        let mut arrivals = std::mem::take(&mut self.arrivals);
        arrivals.retain(|(queue, end)| {
            if *end > readable {
                return true;
            }
            loop {
                let seen = queue.queue.max_offset(&self.broker.store);
                let mut waiting = queue.waiters.drain();
                waiting.retain(|parked| !pull::serve(self, parked));
                queue.waiters.put_back(waiting);
                // Another loop may have added messages while the list was in our hands.
                if queue.queue.max_offset(&self.broker.store) == seen {
                    return false;
                }
            }
        });
        self.arrivals = arrivals;
    }

    fn answer_flushed(&mut self) {
        if self.flush_waits.is_empty() {
            return;
        }
        let flushed = self.broker.store.watermarks().flushed;
        while let Some(wait) = self.flush_waits.front() {
            if wait.end > flushed && wait.deadline_ms > self.now_ms {
                break;
            }
            let Some(wait) = self.flush_waits.pop_front() else { break };
            self.broker.flushing.fetch_sub(1, Relaxed);
            wait.peer.send(if wait.end <= flushed { wait.flushed } else { wait.timed_out });
        }
    }

    fn answer_deadlines(&mut self) {
        while let Some(next) = self.deadlines.peek() {
            if next.0.deadline_ms > self.now_ms && !next.0.is_taken() {
                return;
            }
            let Some(ByDeadline(parked)) = self.deadlines.pop() else { return };
            if parked.take() {
                pull::answer_at_deadline(self, &parked);
            }
        }
    }
}

impl Service for Turn {
    fn request(&mut self, call: &mut Call<'_>) {
        self.now_ms = self.broker.clock.now_ms();
        let router = Arc::clone(&self.router);
        router.dispatch(self, call, Turn::admit);
    }

    fn response(&mut self, header: &Header<'_>, body: &[u8], peer: &Arc<Peer>) {
        handlers::relay::response(&self.broker, header, body, peer);
    }

    fn closed(&mut self, peer: &Arc<Peer>) {
        for parked in self.parked_by_peer.remove(&peer.id()).into_iter().flatten() {
            parked.take();
        }
        for (group, members) in self.broker.clients.closed(peer) {
            handlers::client::notify(&self.broker, &group, &members);
        }
    }

    fn turn_end(&mut self) -> io::Result<()> {
        self.now_ms = self.broker.clock.now_ms();
        crate::schedule::deliver_due(self);
        crate::timers::deliver_due(self);
        crate::transactions::ask_due(self);
        crate::transactions::write_marks(self);
        if std::mem::take(&mut self.appended) {
            self.broker.store.commit().map_err(io::Error::other)?;
        }
        self.serve_arrivals();
        self.answer_flushed();
        self.answer_deadlines();
        Ok(())
    }

    fn next_turn_in_ms(&mut self) -> Option<i64> {
        let parked = self.deadlines.peek().map(|next| next.0.deadline_ms);
        let flush = self.flush_waits.front().map(|wait| wait.deadline_ms);
        let due = self.broker.schedule.next_due_ms();
        let timer = self.broker.timers.next_due_ms();
        let ask = self.broker.transactions.next_due_ms();
        // With SYNC_FLUSH the flusher wakes this loop, else another loop is about to commit.
        let commit = !self.arrivals.is_empty() && !self.broker.config().is_sync_flush();
        let commit = commit.then_some(self.now_ms + 1);
        let next = [parked, flush, due, timer, ask, commit].into_iter().flatten().min()?;
        Some((next - self.broker.clock.now_ms()).max(0))
    }
}

impl Turn {
    /// Refuses a request whose class has no room.
    fn admit(&mut self, class: Class) -> Result<(), Refusal> {
        let (parked, flushing) = self.broker.waiting();
        let config = self.broker.config();
        let full = match class {
            Class::Send => flushing >= config.send_thread_pool_queue_capacity as usize,
            Class::Pull => parked >= config.pull_thread_pool_queue_capacity as usize,
            _ => false,
        };
        if full { Err(Refusal::new(response::SYSTEM_BUSY, OVERLOAD)) } else { Ok(()) }
    }
}

/// Orders parked pulls so that the heap gives the earliest deadline first.
struct ByDeadline(Arc<Parked>);

impl PartialEq for ByDeadline {
    fn eq(&self, other: &Self) -> bool {
        self.0.deadline_ms == other.0.deadline_ms
    }
}
impl Eq for ByDeadline {}
impl PartialOrd for ByDeadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for ByDeadline {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.deadline_ms.cmp(&self.0.deadline_ms)
    }
}
