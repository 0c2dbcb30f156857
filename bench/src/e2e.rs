//! Time from send to receipt: one connection sends at a fixed rate, another waits with long polls.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use hdrhistogram::Histogram;
use mio::{Events, Poll};
use wire::header::{Header, Scratch};
use wire::record;

use crate::conn::Conn;
use crate::frames::{self, FIRST_OPAQUE, Template};
use crate::pull::write_pull;

/// Options of `e2e`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Broker.
    #[arg(long)]
    addr: String,
    /// Topic with its number; it must be empty.
    #[arg(long, default_value = "E2e0")]
    topic: String,
    /// Queues.
    #[arg(long, default_value_t = 4)]
    queues: usize,
    /// Sends a second.
    #[arg(long, default_value_t = 2000)]
    rate: u64,
    /// Seconds.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

struct State {
    start: Instant,
    topic: String,
    offsets: Vec<i64>,
    received: u64,
    latency: Histogram<u64>,
}

impl State {
    /// Takes an answer to a pull; the queue to pull again.
    fn take(&mut self, header: &Header<'_>, body: &[u8]) -> Result<usize> {
        let queue = header.opaque as usize;
        match header.code {
            0 => {
                let now = self.start.elapsed().as_nanos() as u64;
                for record in record::records(body) {
                    let record = record?;
                    let sent = record.body().first_chunk().context("no time in the body")?;
                    let sent = u64::from_be_bytes(*sent);
                    self.latency.saturating_record(now.saturating_sub(sent));
                    self.offsets[queue] = record.queue_offset() + 1;
                    self.received += 1;
                }
            }
            19 | 20 => {}
            21 => {
                let next = header.ext.get("nextBeginOffset").context("no next offset")?;
                self.offsets[queue] = next.parse()?;
            }
            code => bail!("a pull was answered with {code}: {:?}", header.remark),
        }
        Ok(queue)
    }
}

/// Both connections and what came of them.
struct Run {
    poll: Poll,
    events: Events,
    sender: Conn,
    reader: Conn,
    templates: Vec<Template>,
    scratch: Scratch,
    state: State,
}

impl Run {
    /// Sends `total` messages at `rate` a second and receives them; latencies count from the time
    /// at which each was meant to leave.
    fn phase(&mut self, total: u64, rate: u64, patience: Duration) -> Result<()> {
        self.state.start = Instant::now();
        self.state.received = 0;
        self.state.latency.reset();
        let mut sent = 0;
        while self.state.received < total {
            if self.state.start.elapsed() > patience {
                bail!("{} of {total} were received", self.state.received);
            }
            self.send_due(&mut sent, total, rate)?;
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            if !self.events.is_empty() {
                self.receive()?;
            }
        }
        Ok(())
    }

    fn send_due(&mut self, sent: &mut u64, total: u64, rate: u64) -> Result<()> {
        while *sent < total {
            let intended = *sent * 1_000_000_000 / rate;
            if intended > self.state.start.elapsed().as_nanos() as u64 {
                break;
            }
            let template = &self.templates[*sent as usize % self.templates.len()];
            let start = template.write(FIRST_OPAQUE + *sent as i32, &mut self.sender.out);
            let time = intended.to_be_bytes();
            self.sender.out[start + template.body_at..][..8].copy_from_slice(&time);
            self.sender.flush()?;
            *sent += 1;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<()> {
        let (state, scratch) = (&mut self.state, &mut self.scratch);
        self.sender.read(|frame| frames::answer(frame, scratch).map(drop))?;
        let mut again = Vec::new();
        self.reader.read(|frame| {
            let header = Header::decode(frame.serialize, frame.header, scratch)?;
            again.push(state.take(&header, frame.body)?);
            Ok(())
        })?;
        for queue in again {
            let offset = state.offsets[queue];
            write_pull(&mut self.reader.out, &state.topic, queue, offset, 32, 15_000);
        }
        self.reader.flush()
    }
}

/// Runs and prints the latencies.
pub(crate) fn run(options: &Options) -> Result<()> {
    let poll = Poll::new()?;
    let sender = Conn::open(&options.addr, &poll, 0)?;
    let mut reader = Conn::open(&options.addr, &poll, 1)?;
    let queues = 0..options.queues;
    let templates = queues.map(|queue| Template::send(&options.topic, queue as i32, 1024, 0));
    let state = State {
        start: Instant::now(),
        topic: options.topic.clone(),
        offsets: vec![0; options.queues],
        received: 0,
        latency: Histogram::new_with_max(60_000_000_000, 3)?,
    };
    for queue in 0..options.queues {
        write_pull(&mut reader.out, &options.topic, queue, 0, 32, 15_000);
    }
    reader.flush()?;
    let templates = templates.collect::<Result<_>>()?;
    let events = Events::with_capacity(64);
    let mut run =
        Run { poll, events, sender, reader, templates, scratch: Scratch::default(), state };
    // Unmeasured: the original's dispatcher may be behind with what was sent before, and its
    // virtual machine has not compiled this way yet.
    run.phase(options.rate * 3, options.rate, Duration::from_secs(180))?;
    let total = (options.rate as f64 * options.seconds) as u64;
    run.phase(total, options.rate, Duration::from_secs_f64(options.seconds + 30.0))?;
    let us = |quantile| run.state.latency.value_at_quantile(quantile) as f64 / 1000.0;
    println!(
        "{{\"messages\":{total},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1}}}",
        us(0.5),
        us(0.99),
        us(0.999)
    );
    Ok(())
}
