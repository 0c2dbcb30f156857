//! Sends: closed loop with a number in flight on each connection, or open loop at a fixed rate with
//! latencies counted from the intended time.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;
use mio::{Events, Poll, Token};
use wire::header::Scratch;

use crate::conn::Conn;
use crate::frames::{self, FIRST_OPAQUE, Template};
use crate::process;

/// Options of `send`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Broker.
    #[arg(long)]
    addr: String,
    /// Topic without its number; topics are named NAME0, NAME1, ….
    #[arg(long, default_value = "Bench")]
    topic: String,
    /// Topics.
    #[arg(long, default_value_t = 1)]
    topics: usize,
    /// Queues of each topic.
    #[arg(long, default_value_t = 4)]
    queues: usize,
    /// Body bytes of a message.
    #[arg(long, default_value_t = 1024)]
    size: usize,
    /// Connections.
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// Sends in flight on each connection.
    #[arg(long, default_value_t = 32)]
    inflight: usize,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Sends a second for the open loop; 0 for the closed one.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// Messages of a batch; 0 for single ones.
    #[arg(long, default_value_t = 0)]
    batch: usize,
    /// The server's process, for its processor time and context switches.
    #[arg(long)]
    pid: Option<u32>,
    /// Fail when context switches per send exceed this.
    #[arg(long)]
    max_switches: Option<f64>,
}

struct Load {
    conns: Vec<Conn>,
    /// Per connection: when each send in flight was meant to leave, oldest first.
    waiting: Vec<VecDeque<(i32, Instant)>>,
    templates: Vec<Template>,
    next: usize,
    opaque: i32,
    latency: Histogram<u64>,
    /// How much later than intended the tool itself was with its sends.
    lateness: Histogram<u64>,
    answered: u64,
    /// What the answers said of each queue.
    given: HashMap<usize, Given>,
    queues: usize,
}

/// The offsets that answers named for one queue. Several threads of a server may answer in any
/// order, so that only the whole can be judged.
struct Given {
    count: i64,
    lowest: i64,
    highest: i64,
    sum: i128,
}

impl Given {
    fn add(&mut self, offset: i64) {
        self.count += 1;
        self.lowest = self.lowest.min(offset);
        self.highest = self.highest.max(offset);
        self.sum += i128::from(offset);
    }

    /// Whether the offsets were consecutive, `step` messages apart, none given twice.
    fn is_whole(&self, step: i64) -> bool {
        let ends = i128::from(self.lowest) + i128::from(self.highest);
        self.highest - self.lowest == (self.count - 1) * step
            && self.sum * 2 == ends * i128::from(self.count)
    }
}

impl Load {
    fn send(&mut self, conn: usize, intended: Instant) {
        let template = self.next % self.templates.len();
        self.next += 1;
        self.opaque = if self.opaque == i32::MAX { FIRST_OPAQUE } else { self.opaque + 1 };
        self.templates[template].write(self.opaque, &mut self.conns[conn].out);
        self.waiting[conn].push_back((self.opaque, intended));
    }

    /// Takes the answers of a connection; returns how many came.
    fn receive(&mut self, at: usize, scratch: &mut Scratch) -> Result<usize> {
        let (waiting, latency, given) = (&mut self.waiting[at], &mut self.latency, &mut self.given);
        let one_topic = self.templates.len() == self.queues;
        let mut count = 0;
        self.conns[at].read(|frame| {
            let answer = frames::answer(frame, scratch)?;
            let found = waiting.iter().position(|(opaque, _)| *opaque == answer.opaque);
            let found = found.context("an answer that nobody waits for")?;
            let (_, intended) = waiting.remove(found).context("just found")?;
            latency.saturating_record(intended.elapsed().as_nanos() as u64);
            // With several topics the queue id does not tell the topic.
            if one_topic {
                let new = Given { count: 0, lowest: i64::MAX, highest: i64::MIN, sum: 0 };
                given.entry(answer.queue_id).or_insert(new).add(answer.queue_offset);
            }
            count += 1;
            Ok(())
        })?;
        self.answered += count as u64;
        Ok(count)
    }
}

/// Runs the load and prints its figures.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut poll = Poll::new()?;
    let conns = (0..options.conns).map(|token| Conn::open(&options.addr, &poll, token));
    let mut templates = Vec::new();
    for topic in 0..options.topics {
        let name = format!("{}{topic}", options.topic);
        for queue in 0..options.queues {
            templates.push(Template::send(&name, queue as i32, options.size, options.batch)?);
        }
    }
    let mut load = Load {
        conns: conns.collect::<Result<_>>()?,
        waiting: vec![VecDeque::new(); options.conns],
        templates,
        next: 0,
        opaque: FIRST_OPAQUE,
        latency: Histogram::new_with_max(60_000_000_000, 3)?,
        lateness: Histogram::new_with_max(60_000_000_000, 3)?,
        answered: 0,
        given: HashMap::new(),
        queues: options.queues,
    };
    let before = options.pid.map(process::usage).transpose()?.unwrap_or_default();
    let start = Instant::now();
    let end = start + Duration::from_secs_f64(options.seconds);
    if options.rate > 0 {
        open_loop(&mut load, &mut poll, options.rate, start, end)?;
    } else {
        closed_loop(&mut load, &mut poll, options.inflight, end)?;
    }
    let elapsed = start.elapsed();
    let spent = options.pid.map(process::usage).transpose()?.unwrap_or_default().since(&before);
    for (queue, given) in &load.given {
        if !given.is_whole(options.batch.max(1) as i64) {
            bail!(
                "queue {queue}: offsets from {} to {} in {} answers",
                given.lowest,
                given.highest,
                given.count
            );
        }
    }
    report(options, &load, elapsed, spent)
}

fn closed_loop(load: &mut Load, poll: &mut Poll, inflight: usize, end: Instant) -> Result<()> {
    let mut events = Events::with_capacity(1024);
    let mut scratch = Scratch::default();
    for conn in 0..load.conns.len() {
        let now = Instant::now();
        (0..inflight).for_each(|_| load.send(conn, now));
        load.conns[conn].flush()?;
    }
    let mut open = true;
    while load.waiting.iter().any(|waiting| !waiting.is_empty()) {
        poll.poll(&mut events, Some(Duration::from_secs(30)))?;
        if events.is_empty() {
            bail!("no answer for 30 s");
        }
        for event in &events {
            let Token(conn) = event.token();
            let answered = load.receive(conn, &mut scratch)?;
            let now = Instant::now();
            open = open && now < end;
            if open {
                (0..answered).for_each(|_| load.send(conn, now));
            }
            load.conns[conn].flush()?;
        }
    }
    Ok(())
}

fn open_loop(
    load: &mut Load,
    poll: &mut Poll,
    rate: u64,
    start: Instant,
    end: Instant,
) -> Result<()> {
    let mut events = Events::with_capacity(1024);
    let mut scratch = Scratch::default();
    let mut sent = 0_u64;
    loop {
        let now = Instant::now();
        let due = |sent: u64| start + Duration::from_nanos(sent * 1_000_000_000 / rate);
        while due(sent) <= now.min(end) {
            let conn = sent as usize % load.conns.len();
            load.lateness.saturating_record(due(sent).elapsed().as_nanos() as u64);
            load.send(conn, due(sent));
            load.conns[conn].flush()?;
            sent += 1;
        }
        if now >= end && load.waiting.iter().all(VecDeque::is_empty) {
            return Ok(());
        }
        if now > end + Duration::from_secs(30) {
            bail!("answers are missing");
        }
        poll.poll(&mut events, Some(Duration::ZERO))?;
        if events.is_empty() {
            // Instead of a wait of whole milliseconds, or of a processor that the server needs.
            std::thread::sleep(Duration::from_micros(20));
        }
        for event in &events {
            let Token(conn) = event.token();
            load.receive(conn, &mut scratch)?;
            load.conns[conn].flush()?;
        }
    }
}

fn report(options: &Options, load: &Load, elapsed: Duration, spent: process::Usage) -> Result<()> {
    let sends = load.answered.max(1) as f64;
    let messages = sends * options.batch.max(1) as f64;
    let us = |quantile| load.latency.value_at_quantile(quantile) as f64 / 1000.0;
    let late_us = load.lateness.value_at_quantile(0.99) as f64 / 1000.0;
    let switches = spent.switches as f64 / sends;
    println!(
        "{{\"messages\":{messages},\"per_second\":{:.0},\"p50_us\":{:.1},\"p99_us\":{:.1},\
         \"p999_us\":{:.1},\"max_us\":{:.1},\"late_p99_us\":{late_us:.1},\
         \"cpu_us\":{:.3},\"switches\":{switches:.4}}}",
        messages / elapsed.as_secs_f64(),
        us(0.5),
        us(0.99),
        us(0.999),
        load.latency.max() as f64 / 1000.0,
        spent.cpu_us as f64 / messages,
    );
    if options.max_switches.is_some_and(|limit| switches > limit) {
        bail!("{switches:.3} context switches per send");
    }
    Ok(())
}
