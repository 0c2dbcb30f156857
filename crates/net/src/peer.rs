//! The far end of a connection, as everybody but its own loop sees it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;

use parking_lot::Mutex;

/// What other threads, or the service inside its turn, ask of a loop.
pub(crate) enum Mail {
    /// Append these bytes to the connection's output.
    Bytes { token: usize, id: u64, bytes: Vec<u8> },
    /// Close the connection after what was already asked.
    Close { token: usize, id: u64 },
    /// Adopt a connection that another loop accepted.
    Adopt(std::net::TcpStream),
}

/// The post box of one loop. Locked only to push or to take everything.
pub(crate) struct Mailbox {
    mail: Mutex<Vec<Mail>>,
    waker: mio::Waker,
    owner: OnceLock<ThreadId>,
    pub(crate) stop: AtomicBool,
    /// System calls of the loop: waits, reads and writes. Written by the owner alone.
    pub(crate) calls: AtomicU64,
}

impl Mailbox {
    pub(crate) fn new(waker: mio::Waker) -> Mailbox {
        Mailbox {
            mail: Mutex::new(Vec::new()),
            waker,
            owner: OnceLock::new(),
            stop: AtomicBool::new(false),
            calls: AtomicU64::new(0),
        }
    }

    pub(crate) fn own(&self) {
        let _ = self.owner.set(std::thread::current().id());
    }

    /// Counts system calls of the owner; no read-modify-write, since nobody else writes.
    pub(crate) fn count_calls(&self, calls: u64) {
        self.calls.store(self.calls.load(Ordering::Relaxed) + calls, Ordering::Relaxed);
    }

    pub(crate) fn push(&self, mail: Mail) {
        let first = {
            let mut queue = self.mail.lock();
            queue.push(mail);
            queue.len() == 1
        };
        // The owner looks into its box at the end of each turn; others wake it once.
        if first && self.owner.get() != Some(&std::thread::current().id()) {
            self.wake();
        }
    }

    pub(crate) fn wake(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake a loop");
        }
    }

    /// Swaps the waiting mail into `into`, which must be empty.
    pub(crate) fn take(&self, into: &mut Vec<Mail>) {
        std::mem::swap(&mut *self.mail.lock(), into);
    }
}

/// One connection. Cheap to clone by `Arc`, usable from any thread, dead once closed.
pub struct Peer {
    mailbox: Arc<Mailbox>,
    token: usize,
    id: u64,
    /// Address of the client.
    pub remote: SocketAddr,
    /// Our own address on which the client reached us.
    pub local: SocketAddr,
    pub(crate) closed: AtomicBool,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}", self.remote, self.id)
    }
}

impl Peer {
    pub(crate) fn new(
        mailbox: Arc<Mailbox>,
        token: usize,
        id: u64,
        remote: SocketAddr,
        local: SocketAddr,
    ) -> Peer {
        Peer { mailbox, token, id, remote, local, closed: AtomicBool::new(false) }
    }

    /// Number of this connection; never used twice by a process.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Sends whole frames. Does nothing when the connection is gone.
    pub fn send(&self, bytes: Vec<u8>) {
        if !self.is_closed() {
            self.mailbox.push(Mail::Bytes { token: self.token, id: self.id, bytes });
        }
    }

    /// Closes the connection once its waiting answers are written.
    pub fn close(&self) {
        if !self.is_closed() {
            self.mailbox.push(Mail::Close { token: self.token, id: self.id });
        }
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}
