//! Catch-up reading: everything that a topic has, one pull in flight on each queue.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mio::{Events, Poll, Token};
use wire::codes::request as code;
use wire::header::{Head, Header, Scratch, write_frame};
use wire::record;
use wire::requests::PullMessage;

use crate::conn::Conn;

/// Options of `pull`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Broker.
    #[arg(long)]
    addr: String,
    /// Topic with its number.
    #[arg(long, default_value = "Bench0")]
    topic: String,
    /// Queues.
    #[arg(long, default_value_t = 4)]
    queues: usize,
    /// Messages asked for at once.
    #[arg(long, default_value_t = 32)]
    batch: i32,
    /// Stop after this many messages; 0 for all.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Messages a second at most; 0 for as many as come.
    #[arg(long, default_value_t = 0)]
    rate: u64,
}

/// Appends a pull of a queue.
pub(crate) fn write_pull(
    out: &mut Vec<u8>,
    topic: &str,
    queue: usize,
    offset: i64,
    batch: i32,
    hold_ms: i64,
) {
    let fields = PullMessage {
        consumer_group: "bench",
        topic,
        queue_id: queue as i32,
        queue_offset: offset,
        max_msg_nums: batch,
        sys_flag: if hold_ms > 0 { 6 } else { 4 },
        commit_offset: 0,
        suspend_timeout_millis: hold_ms,
        subscription: Some("*"),
        sub_version: 0,
        expression_type: Some("TAG"),
    };
    let head = Head::request(code::PULL_MESSAGE, queue as i32, false);
    write_frame(out, &head, &fields, false, |_| {});
}

/// Reads and prints the rate.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(64);
    let mut conn = Conn::open(&options.addr, &poll, 0)?;
    let mut offsets = vec![0_i64; options.queues];
    let mut done = vec![false; options.queues];
    let (mut messages, mut bytes) = (0_u64, 0_u64);
    let start = Instant::now();
    for (queue, offset) in offsets.iter().enumerate() {
        write_pull(&mut conn.out, &options.topic, queue, *offset, options.batch, 0);
    }
    conn.flush()?;
    let mut scratch = Scratch::default();
    while !done.iter().all(|done| *done) {
        poll.poll(&mut events, Some(Duration::from_secs(30)))?;
        if events.is_empty() {
            bail!("no answer for 30 s");
        }
        for event in &events {
            debug_assert_eq!(event.token(), Token(0));
        }
        let mut next = Vec::new();
        conn.read(|frame| {
            let header = Header::decode(frame.serialize, frame.header, &mut scratch)?;
            let queue = header.opaque as usize;
            if header.code == 0 {
                for record in record::records(frame.body) {
                    let record = record?;
                    if record.queue_offset() != offsets[queue] {
                        bail!("queue {queue}: {} after {}", record.queue_offset(), offsets[queue]);
                    }
                    offsets[queue] += 1;
                    messages += 1;
                    bytes += record.total_len() as u64;
                }
                next.push(queue);
            } else if header.code == 19 {
                done[queue] = true;
            } else {
                bail!("a pull was answered with {}: {:?}", header.code, header.remark);
            }
            Ok(())
        })?;
        if let Some(due_ns) = (messages * 1_000_000_000).checked_div(options.rate) {
            std::thread::sleep(Duration::from_nanos(due_ns).saturating_sub(start.elapsed()));
        }
        for queue in next {
            if options.limit > 0 && messages >= options.limit {
                done[queue] = true;
            } else {
                let offset = *offsets.get(queue).context("queue")?;
                write_pull(&mut conn.out, &options.topic, queue, offset, options.batch, 0);
            }
        }
        conn.flush()?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{{\"messages\":{messages},\"per_second\":{:.0},\"bytes\":{bytes}}}",
        messages as f64 / seconds
    );
    Ok(())
}
