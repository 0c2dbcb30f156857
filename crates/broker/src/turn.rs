//! What one loop of the broker does: requests in, one group commit at the end of the turn, then
//! whatever that commit makes answerable.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use net::{Call, Class, Peer, Refusal, Router, Service};
use wire::codes::response;
use wire::header::Header;

use crate::handlers;
use crate::handlers::pull;
use crate::pop::PopTopic;
use crate::pop::serve;
use crate::pop::waiting::{ParkedPop, PopWaiters};
use crate::state::Broker;
use crate::topics::TopicQueue;
use crate::waits::ParkedPull;

/// How long a loop looks for work before it sleeps; longer while a disk is about to be done.
const LOOK_OUT: Duration = Duration::from_micros(50);
const FLUSH_LOOK_OUT: Duration = Duration::from_micros(200);

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

/// A parked request, by what it waits with.
#[derive(Clone)]
pub enum Waiting {
    /// A pull.
    Pull(Arc<ParkedPull>),
    /// A pop or a notification.
    Pop(Arc<ParkedPop>),
}

impl Waiting {
    fn deadline_ms(&self) -> i64 {
        match self {
            Waiting::Pull(parked) => parked.deadline_ms,
            Waiting::Pop(parked) => parked.deadline_ms,
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Waiting::Pull(parked) => parked.is_done(),
            Waiting::Pop(parked) => parked.is_done(),
        }
    }

    fn take(&self) -> bool {
        match self {
            Waiting::Pull(parked) => parked.take(),
            Waiting::Pop(parked) => parked.take(),
        }
    }
}

/// A reason to serve who waits, once the log is readable up to `end`.
struct Arrival {
    end: i64,
    of: Arrived,
}

enum Arrived {
    /// A message in this queue.
    In(Arc<TopicQueue>),
    /// Something for this group alone.
    For(Arc<PopWaiters>, Arc<str>),
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
    /// Queues with new messages that somebody waits for.
    arrivals: Vec<Arrival>,
    flush_waits: VecDeque<FlushWait>,
    deadlines: BinaryHeap<ByDeadline>,
    parked_by_peer: HashMap<u64, Vec<Waiting>>,
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
        if !queue.waiters.any() && !queue.pops.any() {
            return;
        }
        if let Some(Arrival { end: last_end, of: Arrived::In(last) }) = self.arrivals.last_mut()
            && Arc::ptr_eq(last, queue)
        {
            *last_end = end;
            return;
        }
        self.arrivals.push(Arrival { end, of: Arrived::In(Arc::clone(queue)) });
    }

    /// Notes that a message was copied to the retry topic of a group.
    pub fn retry_arrived(&mut self, queue: &Arc<TopicQueue>, end: i64, state: &PopTopic) {
        self.arrived(queue, end);
        self.wake_pops_at(state, end);
    }

    /// Serves the pops of a group on a topic at the end of this turn.
    pub fn wake_pops(&mut self, state: &PopTopic) {
        self.wake_pops_at(state, 0);
    }

    fn wake_pops_at(&mut self, state: &PopTopic, end: i64) {
        let Some(topic) = self.broker.topics.get(state.origin()) else { return };
        if topic.pops.any() {
            self.wake_group(&topic.pops, &state.group, end);
        }
    }

    /// Serves the pops of a group once the log is readable up to `end`.
    pub fn wake_group(&mut self, waiters: &Arc<PopWaiters>, group: &Arc<str>, end: i64) {
        if let Some(Arrival { end: last_end, of: Arrived::For(known, last) }) =
            self.arrivals.last_mut()
            && Arc::ptr_eq(known, waiters)
            && last == group
        {
            *last_end = end.max(*last_end);
            return;
        }
        let of = Arrived::For(Arc::clone(waiters), Arc::clone(group));
        self.arrivals.push(Arrival { end, of });
    }

    /// Holds an answer back until the disk has its record.
    pub fn answer_when_flushed(&mut self, wait: FlushWait) {
        self.broker.flushing.fetch_add(1, Relaxed);
        self.flush_waits.push_back(wait);
    }

    /// Parks a pull. It looks once more afterwards, since another loop may have appended meanwhile.
    pub fn park_pull(&mut self, parked: Arc<ParkedPull>) {
        let queue = Arc::clone(&parked.work.pull.queue);
        let offset = parked.work.pull.offset;
        self.park(parked.peer.id(), Waiting::Pull(Arc::clone(&parked)));
        queue.waiters.park(parked);
        if queue.queue.next_offset() > offset {
            let end = self.broker.store.watermarks().appended;
            self.arrivals.push(Arrival { end, of: Arrived::In(queue) });
        }
    }

    /// Parks a pop or notification. `unread`: whether messages are in the queues that it could not
    /// read yet.
    pub fn park_pop(&mut self, waiters: &Arc<PopWaiters>, parked: Arc<ParkedPop>) {
        self.park(parked.peer.id(), Waiting::Pop(Arc::clone(&parked)));
        waiters.park(Arc::clone(&parked));
        let broker = Arc::clone(&self.broker);
        if crate::pop::take::available(self, &broker, &parked.work, false) > 0 {
            let end = broker.store.watermarks().appended;
            self.wake_group(waiters, &parked.work.group, end);
        }
    }

    /// Remembers a parked request for its deadline and for the end of its connection.
    fn park(&mut self, peer: u64, waiting: Waiting) {
        let mine = self.parked_by_peer.entry(peer).or_default();
        if mine.len() >= 64 {
            mine.retain(|known| !known.is_done());
        }
        mine.push(waiting.clone());
        self.deadlines.push(ByDeadline(waiting));
        let parked = self.broker.parked.load(Relaxed) + self.broker.pops.parked.load(Relaxed);
        if self.deadlines.len() > 1024 && self.deadlines.len() > 4 * parked {
            self.deadlines.retain(|known| !known.0.is_done());
        }
    }

    /// Serves those who wait for what is readable by now.
    fn serve_arrivals(&mut self) {
        if self.arrivals.is_empty() {
            return;
        }
        let readable = self.broker.store.watermarks().readable;
        // Serving a group may give another reason to serve it; that one waits for the next turn.
        let mut arrivals = std::mem::take(&mut self.arrivals);
        for arrival in arrivals.drain(..) {
            match &arrival.of {
                _ if arrival.end > readable => self.arrivals.push(arrival),
                Arrived::In(queue) => self.serve_queue(queue),
                Arrived::For(waiters, group) => serve::serve(self, waiters, Some(group), -1),
            }
        }
        if self.arrivals.is_empty() {
            self.arrivals = arrivals; // its room is used again
        }
    }

    fn serve_queue(&mut self, queue: &TopicQueue) {
        loop {
            let seen = queue.queue.max_offset(&self.broker.store);
            if queue.waiters.any() {
                let mut waiting = queue.waiters.drain();
                waiting.retain(|parked| !pull::serve(self, parked));
                queue.waiters.put_back(waiting);
            }
            if queue.pops.any() {
                serve::serve(self, &queue.pops, None, queue.queue.id());
            }
            // Another loop may have added messages while the lists were in our hands.
            if queue.queue.max_offset(&self.broker.store) == seen {
                return;
            }
        }
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
            if next.0.deadline_ms() > self.now_ms && !next.0.is_done() {
                return;
            }
            let Some(ByDeadline(waiting)) = self.deadlines.pop() else { return };
            if !waiting.take() {
                if !waiting.is_done() {
                    // In the hands of another loop, which may not have an answer for it.
                    self.deadlines.push(ByDeadline(waiting));
                    return;
                }
                continue;
            }
            match &waiting {
                Waiting::Pull(parked) => pull::answer_at_deadline(self, parked),
                Waiting::Pop(parked) => serve::answer_at_deadline(self, parked),
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
        crate::pop::expire::deliver_due(self);
        if std::mem::take(&mut self.appended) {
            self.broker.store.commit().map_err(io::Error::other)?;
        }
        serve::serve_warmed(self);
        self.serve_arrivals();
        self.broker.pops.turn_end(&self.broker.offsets, self.now_ms);
        self.answer_flushed();
        self.answer_deadlines();
        Ok(())
    }

    fn look_out(&self) -> Duration {
        if self.flush_waits.is_empty() { LOOK_OUT } else { FLUSH_LOOK_OUT }
    }

    fn next_turn_in_ms(&mut self) -> Option<i64> {
        let parked = self.deadlines.peek().map(|next| next.0.deadline_ms());
        let flush = self.flush_waits.front().map(|wait| wait.deadline_ms);
        let due = self.broker.schedule.next_due_ms();
        let timer = self.broker.timers.next_due_ms();
        let ask = self.broker.transactions.next_due_ms();
        let pop = self.broker.pops.next_due_ms();
        // With SYNC_FLUSH the flusher wakes this loop, else another loop is about to commit.
        let commit = !self.arrivals.is_empty() && !self.broker.config().is_sync_flush();
        let commit = commit.then_some(self.now_ms + 1);
        let next = [parked, flush, due, timer, ask, pop, commit].into_iter().flatten().min()?;
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
struct ByDeadline(Waiting);

impl PartialEq for ByDeadline {
    fn eq(&self, other: &Self) -> bool {
        self.0.deadline_ms() == other.0.deadline_ms()
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
        other.0.deadline_ms().cmp(&self.0.deadline_ms())
    }
}
