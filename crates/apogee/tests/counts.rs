//! What a SEND costs, in counts that no busy machine changes: allocations, system calls.
#![allow(unsafe_code)] // the counting allocator below, which only this test uses
#![allow(clippy::print_stdout)] // a test tells what it counted

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use base::clock::Clock;
use base::config::Table;
use broker::config::BrokerConfig;
use namesrv::{Namesrv, NamesrvConfig};
use testkit::{TempDir, create_topic, send_to};
use wire::codes::request as code;
use wire::header::{Head, write_frame};

const CONNECTIONS: usize = 16;
const PIPELINED: usize = 32;
/// Rounds that bring every buffer to its size, and rounds that are counted.
const ROUNDS: u64 = 200;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

/// Set once every thread of the broker has its name.
static ARMED: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy)]
enum Thread {
    Unknown,
    /// A loop of the broker: what it allocates counts.
    Loop,
    Other,
}

thread_local! {
    static THREAD: Cell<Thread> = const { Cell::new(Thread::Unknown) };
}

fn count() {
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    if matches!(THREAD.with(Cell::get), Thread::Unknown) {
        THREAD.with(|thread| thread.set(Thread::Other)); // reading the name allocates, too
        let name = std::fs::read_to_string("/proc/thread-self/comm");
        if name.is_ok_and(|name| name.starts_with("broker-")) {
            THREAD.with(|thread| thread.set(Thread::Loop));
        }
    }
    if matches!(THREAD.with(Cell::get), Thread::Loop) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged; counting touches plain integers.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The frames of one connection's round, and the bytes of their answers.
struct Client {
    socket: TcpStream,
    sends: usize,
    frames: Vec<u8>,
    answers: Vec<u8>,
}

impl Client {
    fn open(address: &str, topic: &str, sends: usize) -> Result<Client> {
        let properties = "UNIQ_KEY\u{1}7F0000010001\u{2}WAIT\u{1}true\u{2}TAGS\u{1}a\u{2}";
        let mut frames = Vec::new();
        for opaque in 0..sends {
            let fields = send_to(topic, opaque as i32 % 4, properties);
            let head = Head::request(code::SEND_MESSAGE, opaque as i32, false);
            let body = |out: &mut Vec<u8>| out.extend_from_slice(&[7; 1024]);
            write_frame(&mut frames, &head, &fields, false, body);
        }
        let socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        Ok(Client { socket, sends, frames, answers: vec![0; 256 * 1024] })
    }

    /// Reads until every answer of the round is there; each must say that all is well.
    fn receive(&mut self) -> Result<()> {
        let (mut filled, mut answers, mut good) = (0, 0, 0);
        let mut at = 0;
        while answers < self.sends {
            let read = self.socket.read(&mut self.answers[filled..])?;
            ensure!(read > 0, "the broker closed the connection");
            filled += read;
            while let Some((frame, len)) =
                wire::frame::split(&self.answers[at..filled], wire::frame::MAX_FRAME)?
            {
                at += len;
                answers += 1;
                good += usize::from(frame.header.windows(8).any(|w| w == b"\"code\":0"));
            }
        }
        ensure!(good == self.sends, "a send was refused");
        Ok(())
    }
}

fn open_all(address: &str, sends: usize) -> Result<Vec<Client>> {
    (0..CONNECTIONS).map(|_| Client::open(address, "Counted", sends)).collect()
}

/// Every connection sends its frames, then every one takes its answers, so many times.
fn rounds(clients: &mut [Client], rounds: u64) -> Result<()> {
    for _ in 0..rounds {
        clients.iter_mut().try_for_each(|c| c.socket.write_all(&c.frames))?;
        clients.iter_mut().try_for_each(Client::receive)?;
    }
    Ok(())
}

/// Context switches of the broker's loops so far, of their own will and not.
fn switches() -> Result<u64> {
    let mut switches = 0;
    for task in std::fs::read_dir("/proc/self/task")? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        if status.lines().next().is_some_and(|name| name.contains("broker-")) {
            let lines = status.lines().filter_map(|l| l.split_once("voluntary_ctxt_switches:"));
            switches += lines.filter_map(|(_, n)| n.trim().parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(switches)
}

/// Writes of files by this process, from the kernel. Sockets are not among them.
fn file_writes() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("syscw: "));
    line.and_then(|count| count.parse().ok()).context("no syscw in /proc/self/io")
}

#[test]
fn a_send_allocates_nothing_and_shares_system_calls_and_switches() -> Result<()> {
    let dir = TempDir::new("counts")?;
    let (clock, mut config) = (Clock::system(), BrokerConfig::load("", "")?.0);
    let root = dir.path().join("store").display().to_string();
    config.put("storePathRootDir", &root).ok().context("a known key")?;
    let namesrv = Namesrv::open(
        NamesrvConfig::load("", "")?.0,
        None,
        dir.path().join("kv.json"),
        clock.clone(),
    )?;
    let namesrv = namesrv::start(namesrv, "127.0.0.1:0".parse()?)?;
    config.put("namesrvAddr", &namesrv.local().to_string()).ok().context("a known key")?;
    let server = broker::start(config, None, clock, None, "127.0.0.1:0".parse()?)?;
    let address = server.local().to_string();
    let mut admin = net::client::Client::connect(&address, testkit::PATIENCE)?;
    create_topic(&mut admin, "Counted", 4)?;
    let mut clients = open_all(&address, PIPELINED)?;
    ARMED.store(true, Ordering::Relaxed);
    let mut least = u64::MAX;
    let sends = ROUNDS * (CONNECTIONS * PIPELINED) as u64;
    let mut calls = 0.0;
    // The first windows bring every buffer to its size: the best one counts.
    for window in 0..10 {
        let (allocations, before) = (ALLOCATIONS.load(Ordering::Relaxed), server.system_calls());
        let writes = file_writes()?;
        rounds(&mut clients, ROUNDS)?;
        let made = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
        println!("window {window}: {made} allocations");
        least = least.min(made);
        let made = server.system_calls() - before + file_writes()? - writes;
        calls = made as f64 / sends as f64 * 32.0;
    }
    println!("{least} allocations in {sends} sends, {calls:.2} system calls per 32 sends");
    ensure!(least == 0, "{least} allocations in {sends} sends");
    ensure!(calls < 4.0, "{calls:.2} system calls per 32 sends");
    let mut clients = open_all(&address, 1)?;
    let before = switches()?;
    rounds(&mut clients, ROUNDS * 10)?;
    let per_send = (switches()? - before) as f64 / (ROUNDS * 10 * CONNECTIONS as u64) as f64;
    println!("{per_send:.3} context switches per send on {CONNECTIONS} connections");
    ensure!(per_send <= 0.5, "{per_send:.3} context switches per send");
    server.stop()?;
    namesrv.stop();
    Ok(())
}
