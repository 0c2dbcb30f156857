//! Pop and acknowledge: on each connection a pop of up to 32 messages, then an acknowledgement for
//! each, then the next pop; until the topic has nothing more.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mio::{Events, Poll};
use net::client::Client;
use wire::codes::request as code;
use wire::header::{Head, Header, NoFields, Scratch, write_frame};
use wire::json::Value;
use wire::record;
use wire::requests::{AckMessage, PopMessage};

use crate::conn::Conn;
use crate::process;

/// Options of `pop`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Broker.
    #[arg(long)]
    addr: String,
    /// Topic with its number.
    #[arg(long, default_value = "Pop0")]
    topic: String,
    /// Group.
    #[arg(long, default_value = "bench")]
    group: String,
    /// Connections.
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// Messages of a pop.
    #[arg(long, default_value_t = 32)]
    batch: i32,
    /// Stop after this many messages; 0 for all.
    #[arg(long, default_value_t = 0)]
    limit: u64,
    /// Process of the server, to know what it spent.
    #[arg(long, default_value_t = 0)]
    pid: u32,
}

/// Bytes that the broker has logged so far, pop journal included.
fn logged(addr: &str) -> Result<i64> {
    let mut client = Client::connect(addr, Duration::from_secs(30))?;
    let answer = client.call(code::GET_BROKER_RUNTIME_INFO, &NoFields, b"")?;
    let body = Value::parse_bytes(&answer.body)?;
    let table = body.get("table").context("no table")?;
    let number = |name: &str| {
        let text = table.get(name).and_then(Value::text).unwrap_or_default();
        text.parse::<i64>().unwrap_or(0)
    };
    Ok(number("commitLogMaxOffset") + number("popJournalBytes"))
}

struct Load<'a> {
    options: &'a Options,
    conns: Vec<Conn>,
    /// Acknowledgements without answer, by connection.
    open: Vec<usize>,
    scratch: Scratch,
    messages: u64,
    empty: usize,
}

impl Load<'_> {
    fn pop(&mut self, at: usize) {
        let fields = PopMessage {
            consumer_group: &self.options.group,
            topic: &self.options.topic,
            queue_id: -1,
            max_msg_nums: self.options.batch,
            invisible_time: 60_000,
            poll_time: 0,
            born_time: 0,
            init_mode: 0,
            exp_type: Some("TAG"),
            exp: Some("*"),
            order: false,
            attempt_id: None,
        };
        let head = Head::request(code::POP_MESSAGE, 0, false);
        write_frame(&mut self.conns[at].out, &head, &fields, false, |_| {});
    }

    /// Takes the answers of a connection and goes on with it.
    fn receive(&mut self, at: usize) -> Result<()> {
        let (options, scratch) = (self.options, &mut self.scratch);
        let (mut acks, mut acked, mut empty) = (Vec::new(), 0, false);
        let mut messages = 0;
        self.conns[at].read(|frame| {
            let header = Header::decode(frame.serialize, frame.header, scratch)?;
            match (header.opaque, header.code) {
                (1, 0) => acked += 1,
                (0, 0) => messages += write_acks(options, &header, frame.body, &mut acks)?,
                (0, 210) => empty = true,
                (_, code) => bail!("answered with {code}: {:?}", header.remark),
            }
            Ok(())
        })?;
        self.messages += messages;
        self.open[at] += messages as usize;
        self.open[at] -= acked;
        self.conns[at].out.extend_from_slice(&acks);
        let limit = options.limit > 0 && self.messages >= options.limit;
        if empty || limit && acked > 0 && self.open[at] == 0 {
            self.empty += 1;
        } else if acked > 0 && self.open[at] == 0 {
            self.pop(at);
        }
        self.conns[at].flush()
    }
}

/// Appends an acknowledgement of every message of an answer; returns how many.
fn write_acks(
    options: &Options,
    header: &Header<'_>,
    body: &[u8],
    out: &mut Vec<u8>,
) -> Result<u64> {
    let field = |name| header.ext.get(name).with_context(|| format!("no {name}"));
    let (time, revive) = (field("popTime")?, field("reviveQid")?);
    let mut starts = HashMap::new();
    for entry in field("startOffsetInfo")?.split(';') {
        let mut words = entry.split(' ').skip(1);
        starts.insert(words.next().unwrap_or_default(), words.next().unwrap_or_default());
    }
    let mut count = 0;
    for record in record::records(body) {
        let record = record?;
        let (queue_id, offset) = (record.queue_id(), record.queue_offset());
        let start = starts.get(queue_id.to_string().as_str()).context("a queue without start")?;
        let receipt = format!("{start} {time} 60000 {revive} 0 broker-a {queue_id} {offset}");
        let fields = AckMessage {
            consumer_group: &options.group,
            topic: &options.topic,
            queue_id,
            extra_info: &receipt,
            offset,
        };
        write_frame(out, &Head::request(code::ACK_MESSAGE, 1, false), &fields, false, |_| {});
        count += 1;
    }
    Ok(count)
}

/// Pops everything and prints the rate.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(64);
    let mut conns = Vec::new();
    for token in 0..options.conns {
        conns.push(Conn::open(&options.addr, &poll, token)?);
    }
    let (open, scratch) = (vec![0; options.conns], Scratch::default());
    let mut load = Load { options, conns, open, scratch, messages: 0, empty: 0 };
    let bytes = logged(&options.addr)?;
    let before = if options.pid > 0 { process::usage(options.pid)? } else { Default::default() };
    let start = Instant::now();
    for at in 0..options.conns {
        load.pop(at);
        load.conns[at].flush()?;
    }
    while load.empty < options.conns {
        poll.poll(&mut events, Some(Duration::from_secs(30)))?;
        if events.is_empty() {
            bail!("no answer for 30 s");
        }
        for event in &events {
            load.receive(event.token().0)?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let after = if options.pid > 0 { process::usage(options.pid)? } else { Default::default() };
    let count = load.messages.max(1) as f64;
    let bytes = logged(&options.addr)? - bytes;
    println!(
        "{{\"messages\":{},\"per_second\":{:.0},\"cpu_us\":{:.3},\"bytes\":{:.1}}}",
        load.messages,
        load.messages as f64 / seconds,
        after.since(&before).cpu_us as f64 / count,
        bytes as f64 / count
    );
    Ok(())
}
