//! The readiness loop. One thread owns its connections and runs its service to completion.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use base::clock::{Clock, Stopwatch};
use base::throttle::Throttle;
use mio::{Events, Interest, Poll, Token};
use wire::frame::Frame;
use wire::header::{Header, Scratch};

use crate::conn::{Conn, Got, ReadError, Wrote};
use crate::peer::{Mail, Mailbox, Peer};
use crate::router::Call;

const LISTENER: Token = Token(usize::MAX - 1);
const WAKER: Token = Token(usize::MAX);
/// Bytes that one read takes; also the most that one connection gets in one turn.
const READ_BUFFER: usize = 256 * 1024;
/// Output of a connection that is written at once at the end of the turn. More of it is written
/// behind that of all others …
const SMALL: usize = 16 * 1024;
/// … and of all such output together so much in a turn, so that nobody waits long for answers to
/// others.
const PIECE: usize = 64 * 1024;
/// How long a loop looks for work before it sleeps, when work came that quickly before.
const SPIN: Duration = Duration::from_micros(50);
/// How often idle connections are looked for.
const IDLE_SCAN_MS: i64 = 10_000;

/// Limits of a server; each has a configuration key of the same meaning.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest frame in bytes.
    pub max_frame: usize,
    /// Most connections of the server; more are closed at once.
    pub max_connections: usize,
    /// Bytes unsent on a connection from which on it is not read any more.
    pub max_unsent: usize,
    /// Milliseconds without a byte after which a connection is closed. Java: 120 s.
    pub idle_ms: i64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_frame: wire::frame::MAX_FRAME,
            max_connections: 20_000,
            max_unsent: 1024 * 1024,
            idle_ms: 120_000,
        }
    }
}

/// What a role does with its connections. One value per loop, used by its thread only.
pub trait Service {
    /// A connection was accepted.
    fn opened(&mut self, _peer: &Arc<Peer>) {}
    /// A request: must be answered through `call`, or later through its peer.
    fn request(&mut self, call: &mut Call<'_>);
    /// A response to a request of the server's own.
    fn response(&mut self, _header: &Header<'_>, _body: &[u8], _peer: &Arc<Peer>) {}
    /// A connection has ended; its peer is dead already.
    fn closed(&mut self, _peer: &Arc<Peer>) {}
    /// Every frame of the turn is handled and nothing of it is written yet. An error means that
    /// nothing may be acknowledged any more: the loop ends without writing.
    fn turn_end(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// How long to look for work before sleeping, when work came that quickly before.
    fn look_out(&self) -> Duration {
        SPIN
    }
    /// Milliseconds until the service wants a turn without input; `None` for never.
    fn next_turn_in_ms(&mut self) -> Option<i64> {
        None
    }
}

/// A bound listening socket, so that the port is known and taken before anything else starts.
pub struct Bound {
    listener: TcpListener,
    /// The address, with the port that port 0 became.
    pub local: SocketAddr,
}

impl Bound {
    /// Binds; the error names the address.
    pub fn bind(address: SocketAddr) -> io::Result<Bound> {
        let listener = TcpListener::bind(address)
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
        listener.set_nonblocking(true)?;
        let local = listener.local_addr()?;
        Ok(Bound { listener, local })
    }

    /// Starts one loop per service, named `name` and its number.
    pub fn serve<S: Service + 'static>(
        self,
        name: &str,
        limits: Limits,
        clock: Clock,
        loops: usize,
        make: impl Fn(usize) -> S + Send + Sync + 'static,
    ) -> io::Result<Handle> {
        let make = Arc::new(make);
        let shared =
            Arc::new(Shared { connections: AtomicUsize::new(0), next_loop: AtomicUsize::new(0) });
        let mut polls = Vec::new();
        let mut mailboxes = Vec::new();
        for _ in 0..loops.max(1) {
            let poll = Poll::new()?;
            mailboxes.push(Arc::new(Mailbox::new(mio::Waker::new(poll.registry(), WAKER)?)));
            polls.push(poll);
        }
        let mut listener = Some(mio::net::TcpListener::from_std(self.listener));
        let mut threads = Vec::new();
        for (index, poll) in polls.into_iter().enumerate() {
            let mut listener = listener.take();
            if let Some(listener) = &mut listener {
                poll.registry().register(listener, LISTENER, Interest::READABLE)?;
            }
            let (make, clock) = (Arc::clone(&make), clock.clone());
            let (mailboxes, shared) = (mailboxes.clone(), Arc::clone(&shared));
            let run = move || {
                let mailbox = Arc::clone(&mailboxes[index]);
                mailbox.own();
                let core = Core {
                    poll,
                    listener,
                    mailbox,
                    mailboxes,
                    shared,
                    limits,
                    clock,
                    conns: slab::Slab::new(),
                    dirty: Vec::new(),
                    much: VecDeque::new(),
                    ready: Vec::new(),
                    mail: Vec::new(),
                    accepting: true,
                    now_ms: 0,
                };
                Loop { core, service: make(index), scratch: Scratch::default() }.run();
            };
            threads.push(std::thread::Builder::new().name(format!("{name}-{index}")).spawn(run)?);
        }
        Ok(Handle { local: self.local, mailboxes, shared, threads })
    }
}

struct Shared {
    connections: AtomicUsize,
    next_loop: AtomicUsize,
}

/// A running server.
pub struct Handle {
    /// Address that it listens on.
    pub local: SocketAddr,
    mailboxes: Vec<Arc<Mailbox>>,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Handle {
    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// System calls of the loops since the start: waits that may sleep, reads and writes.
    pub fn system_calls(&self) -> u64 {
        self.mailboxes.iter().map(|mailbox| mailbox.calls.load(Ordering::Relaxed)).sum()
    }

    /// Something that gives the loops a turn from any thread.
    pub fn waker(&self) -> impl Fn() + Send + Sync + Clone + 'static {
        let mailboxes = self.mailboxes.clone();
        move || mailboxes.iter().for_each(|mailbox| mailbox.wake())
    }

    /// Stops accepting, writes the answers that exist, closes everything, and waits for the loops.
    pub fn stop(self) {
        for mailbox in &self.mailboxes {
            mailbox.stop.store(true, Ordering::Release);
            mailbox.wake();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a loop ended with a panic");
            }
        }
    }

    /// Whether every loop still runs.
    pub fn is_alive(&self) -> bool {
        self.threads.iter().all(|thread| !thread.is_finished())
    }
}

struct Core {
    poll: Poll,
    listener: Option<mio::net::TcpListener>,
    mailbox: Arc<Mailbox>,
    mailboxes: Vec<Arc<Mailbox>>,
    shared: Arc<Shared>,
    limits: Limits,
    clock: Clock,
    conns: slab::Slab<Conn>,
    dirty: Vec<usize>,
    /// Connections with more than [`SMALL`] to write, also over the end of the turn.
    much: VecDeque<usize>,
    ready: Vec<usize>,
    mail: Vec<Mail>,
    accepting: bool,
    now_ms: i64,
}

struct Loop<S> {
    core: Core,
    service: S,
    scratch: Scratch,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);
static BAD_FRAMES: Throttle = Throttle::new();

impl<S: Service> Loop<S> {
    fn run(mut self) {
        let mut events = Events::with_capacity(1024);
        let mut buffer = vec![0; READ_BUFFER];
        let mut next_idle_scan = self.core.clock.now_ms() + IDLE_SCAN_MS;
        let mut quick = false;
        while !self.core.mailbox.stop.load(Ordering::Acquire) {
            quick = match self.wait(&mut events, quick, next_idle_scan) {
                Ok(quick) => quick,
                Err(error) => {
                    tracing::error!(%error, "the loop cannot wait for sockets and ends");
                    return;
                }
            };
            self.core.now_ms = self.core.clock.now_ms();
            self.core.mailbox.count_calls(1);
            self.core.sort_events(&events);
            self.take_mail();
            self.read_ready(&mut buffer);
            if let Err(error) = self.service.turn_end() {
                tracing::error!(%error, "nothing can be acknowledged any more; the loop ends");
                return;
            }
            self.take_mail();
            self.write_dirty();
            if self.core.now_ms >= next_idle_scan {
                self.close_idle();
                next_idle_scan = self.core.now_ms + IDLE_SCAN_MS;
            }
        }
        self.finish();
    }

    /// Waits for events; first for a short time without sleeping when the last wait was short.
    fn wait(&mut self, events: &mut Events, quick: bool, idle_scan: i64) -> io::Result<bool> {
        if !self.core.ready.is_empty() || !self.core.much.is_empty() {
            self.core.poll.poll(events, Some(Duration::ZERO)).or_else(interrupted)?;
            return Ok(quick);
        }
        let watch = Stopwatch::start();
        let spin = self.service.look_out();
        if quick {
            while watch.elapsed() < spin {
                self.core.poll.poll(events, Some(Duration::ZERO)).or_else(interrupted)?;
                if !events.is_empty() {
                    return Ok(true);
                }
                std::hint::spin_loop();
            }
        }
        let until_scan = (idle_scan - self.core.clock.now_ms()).max(0);
        let service = self.service.next_turn_in_ms().unwrap_or(i64::MAX).max(0);
        let timeout = until_scan.min(service);
        let timeout = (!self.core.conns.is_empty() || service < i64::MAX)
            .then(|| Duration::from_millis(timeout as u64));
        self.core.poll.poll(events, timeout).or_else(interrupted)?;
        Ok(watch.elapsed() < spin * 2)
    }

    fn take_mail(&mut self) {
        let mut mail = std::mem::take(&mut self.core.mail);
        self.core.mailbox.take(&mut mail);
        for letter in mail.drain(..) {
            match letter {
                Mail::Bytes { token, id, bytes } => {
                    if let Some(conn) = self.core.conn(token, id) {
                        conn.push(bytes);
                        self.core.mark_dirty(token);
                    }
                }
                Mail::Close { token, id } => {
                    if let Some(conn) = self.core.conn(token, id) {
                        conn.closing = true;
                        self.core.mark_dirty(token);
                    }
                }
                Mail::Adopt(socket) => self.adopt(mio::net::TcpStream::from_std(socket)),
            }
        }
        self.core.mail = mail;
        if std::mem::take(&mut self.core.accepting) {
            self.accept();
        }
    }

    fn accept(&mut self) {
        while let Some(listener) = &self.core.listener {
            let socket = match listener.accept() {
                Ok((socket, _)) => socket,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    if BAD_FRAMES.pass(self.core.now_ms).is_some() {
                        tracing::warn!(%error, "cannot accept a connection");
                    }
                    // No event tells of those that wait already: look again in the next turn.
                    self.core.accepting = true;
                    return;
                }
            };
            if self.core.shared.connections.load(Ordering::Relaxed)
                >= self.core.limits.max_connections
            {
                if BAD_FRAMES.pass(self.core.now_ms).is_some() {
                    tracing::warn!(
                        limit = self.core.limits.max_connections,
                        "connection refused: too many; raise maxConnections"
                    );
                }
                continue;
            }
            let loops = self.core.mailboxes.len();
            let to = self.core.shared.next_loop.fetch_add(1, Ordering::Relaxed) % loops;
            if Arc::ptr_eq(&self.core.mailboxes[to], &self.core.mailbox) {
                self.adopt(socket);
            } else {
                self.core.mailboxes[to].push(Mail::Adopt(socket.into()));
            }
        }
    }

    fn adopt(&mut self, mut socket: mio::net::TcpStream) {
        let (Ok(remote), Ok(local)) = (socket.peer_addr(), socket.local_addr()) else { return };
        let _ = socket.set_nodelay(true); // a socket that refuses it still works
        let entry = self.core.conns.vacant_entry();
        let token = entry.key();
        let registered = self.core.poll.registry().register(
            &mut socket,
            Token(token),
            Interest::READABLE | Interest::WRITABLE,
        );
        if let Err(error) = registered {
            tracing::warn!(%error, %remote, "cannot watch a connection");
            return;
        }
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let peer = Arc::new(Peer::new(
            Arc::clone(&self.core.mailbox),
            token,
            id,
            plain(remote),
            plain(local),
        ));
        self.service.opened(&peer);
        entry.insert(Conn::new(socket, peer, self.core.now_ms));
        self.core.shared.connections.fetch_add(1, Ordering::Relaxed);
        self.core.mark_ready(token);
    }

    fn read_ready(&mut self, buffer: &mut [u8]) {
        let mut ready = std::mem::take(&mut self.core.ready);
        self.core.mailbox.count_calls(ready.len() as u64);
        for token in ready.drain(..) {
            let Some(conn) = self.core.conns.get_mut(token) else { continue };
            conn.ready = false;
            if conn.closing || conn.unsent() > self.core.limits.max_unsent {
                continue; // read again once it has taken its answers
            }
            conn.active_ms = self.core.now_ms;
            let had = conn.out.len();
            let peer = Arc::clone(&conn.peer);
            let (service, scratch) = (&mut self.service, &mut self.scratch);
            let now_ms = self.core.now_ms;
            let result = conn.read(buffer, self.core.limits.max_frame, &mut |frame, out| {
                handle(service, scratch, &peer, frame, out, now_ms)
            });
            let ending = conn.ending;
            if conn.out.len() > had {
                self.core.mark_dirty(token);
            }
            match result {
                // The end may have come with the last bytes: no event tells of it again.
                Ok(Got::Drained) if ending => self.core.mark_ready(token),
                Ok(Got::Drained) => {}
                Ok(Got::More) => self.core.mark_ready(token),
                Ok(Got::End) => self.close(token),
                Err(error) => {
                    if !matches!(error, ReadError::Refused | ReadError::Io(_))
                        && let Some(skipped) = BAD_FRAMES.pass(now_ms)
                    {
                        tracing::warn!(%error, ?peer, skipped, "bad frame: connection closed");
                    }
                    // Answers to the good frames before the bad one are still written.
                    if let Some(conn) = self.core.conns.get_mut(token) {
                        conn.closing = true;
                    }
                    self.core.mark_dirty(token);
                }
            }
        }
        // Connections that were marked while this list was worked on wait for the next turn.
        ready.append(&mut self.core.ready);
        self.core.ready = ready;
    }

    fn write_dirty(&mut self) {
        let mut dirty = std::mem::take(&mut self.core.dirty);
        self.core.mailbox.count_calls(dirty.len() as u64);
        for token in dirty.drain(..) {
            match self.core.conns.get(token) {
                Some(conn) if conn.unsent() > SMALL => self.core.much.push_back(token),
                _ => drop(self.write(token, SMALL)),
            }
        }
        self.core.dirty = dirty;
        let mut left = PIECE;
        while left > 0
            && let Some(token) = self.core.much.pop_front()
        {
            let (wrote, bytes) = self.write(token, left);
            left -= bytes.min(left);
            if wrote == Wrote::Piece {
                self.core.much.push_back(token);
            }
        }
    }

    /// Writes at most so many bytes of a connection; what became of it, and how many they were.
    fn write(&mut self, token: usize, most: usize) -> (Wrote, usize) {
        let Some(conn) = self.core.conns.get_mut(token) else { return (Wrote::All, 0) };
        let had = conn.unsent();
        let wrote = conn.write(most);
        let bytes = had - conn.unsent();
        conn.dirty = matches!(wrote, Ok(Wrote::Piece));
        match wrote {
            Err(_) => self.close(token),
            Ok(Wrote::All) if conn.closing => self.close(token),
            Ok(_) => {
                let limit = self.core.limits.max_unsent;
                if had > limit && conn.unsent() <= limit {
                    self.core.mark_ready(token);
                }
            }
        }
        (wrote.unwrap_or(Wrote::All), bytes)
    }

    fn close(&mut self, token: usize) {
        let Some(mut conn) = self.core.conns.try_remove(token) else { return };
        let _ = self.core.poll.registry().deregister(&mut conn.socket); // it is closed next
        self.core.shared.connections.fetch_sub(1, Ordering::Relaxed);
        conn.peer.closed.store(true, Ordering::Release);
        self.service.closed(&conn.peer);
    }

    fn close_idle(&mut self) {
        let oldest = self.core.now_ms - self.core.limits.idle_ms;
        let idle: Vec<usize> = self
            .core
            .conns
            .iter()
            .filter(|(_, conn)| conn.active_ms < oldest)
            .map(|(token, _)| token)
            .collect();
        for token in idle {
            self.close(token);
        }
    }

    /// Writes what is left for at most a second, then closes every connection.
    fn finish(mut self) {
        self.core.listener = None;
        if self.service.turn_end().is_ok() {
            self.take_mail();
            let watch = Stopwatch::start();
            let mut left: Vec<usize> = self.core.conns.iter().map(|(token, _)| token).collect();
            while !left.is_empty() && watch.elapsed() < Duration::from_secs(1) {
                left.retain(|token| {
                    let conn = self.core.conns.get_mut(*token);
                    let wrote = conn.map(|conn| conn.write(usize::MAX));
                    matches!(wrote, Some(Ok(Wrote::Blocked)))
                });
                if !left.is_empty() {
                    std::thread::sleep(Duration::from_millis(1));
                }
            }
        }
        let all: Vec<usize> = self.core.conns.iter().map(|(token, _)| token).collect();
        all.into_iter().for_each(|token| self.close(token));
    }
}

impl Core {
    fn conn(&mut self, token: usize, id: u64) -> Option<&mut Conn> {
        self.conns.get_mut(token).filter(|conn| conn.peer.id() == id)
    }

    fn sort_events(&mut self, events: &Events) {
        for event in events {
            let Token(token) = event.token();
            if event.token() == LISTENER {
                self.accepting = true;
                continue;
            }
            if event.is_writable()
                && self.conns.get(token).is_some_and(|c| c.unsent() > 0 || c.closing)
            {
                self.mark_dirty(token);
            }
            if event.is_read_closed() || event.is_error() {
                if let Some(conn) = self.conns.get_mut(token) {
                    conn.ending = true;
                }
                self.mark_ready(token);
            } else if event.is_readable() {
                self.mark_ready(token);
            }
        }
    }

    fn mark_dirty(&mut self, token: usize) {
        if let Some(conn) = self.conns.get_mut(token).filter(|conn| !conn.dirty) {
            conn.dirty = true;
            self.dirty.push(token);
        }
    }

    fn mark_ready(&mut self, token: usize) {
        if let Some(conn) = self.conns.get_mut(token).filter(|conn| !conn.ready) {
            conn.ready = true;
            self.ready.push(token);
        }
    }
}

/// Decodes one frame and lets the service handle it. False ends the connection.
fn handle<S: Service>(
    service: &mut S,
    scratch: &mut Scratch,
    peer: &Arc<Peer>,
    frame: Frame<'_>,
    out: &mut Vec<u8>,
    now_ms: i64,
) -> bool {
    match Header::decode(frame.serialize, frame.header, scratch) {
        Ok(header) if header.is_response() => service.response(&header, frame.body, peer),
        Ok(header) => service.request(&mut Call::new(header, frame.body, peer, out)),
        Err(error) => {
            if let Some(skipped) = BAD_FRAMES.pass(now_ms) {
                tracing::warn!(%error, ?peer, skipped, "bad header: connection closed");
            }
            return false;
        }
    }
    true
}

/// An IPv4 address that came through an IPv6 socket, as IPv4.
fn plain(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn interrupted(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}
