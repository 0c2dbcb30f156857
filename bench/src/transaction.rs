//! Transactions: on each connection a half message, its commit, then the next one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use mio::{Events, Poll};
use wire::codes::request as code;
use wire::header::{Head, Header, Scratch, write_frame};
use wire::message_id::parse_offset_id;
use wire::requests::{EndTransaction, SendMessage};

use crate::conn::Conn;

/// sysFlag of a half message.
const HALF: i32 = 4;
/// sysFlag of a commit.
const COMMIT: i32 = 8;

/// Options of `transaction`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Broker.
    #[arg(long)]
    addr: String,
    /// Topic with its number.
    #[arg(long, default_value = "Bench0")]
    topic: String,
    /// Connections.
    #[arg(long, default_value_t = 16)]
    conns: usize,
    /// How long.
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn write_half(options: &Options, number: u64, out: &mut Vec<u8>) {
    let text = format!(
        "UNIQ_KEY\u{1}FD0000000000000000000000{number:08}\u{2}TRAN_MSG\u{1}true\u{2}\
         PGROUP\u{1}bench\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagA\u{2}"
    );
    let fields = SendMessage {
        producer_group: "bench",
        topic: &options.topic,
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: (number % 4) as i32,
        sys_flag: HALF,
        born_timestamp: 1_700_000_000_000,
        flag: 0,
        properties: Some(&text),
        reconsume_times: Some(0),
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    };
    let head = Head::request(code::SEND_MESSAGE_V2, 0, false);
    write_frame(out, &head, &fields, true, |out| out.extend_from_slice(&[b'x'; 1024]));
}

/// Appends the commit of the half message that was answered so.
fn write_commit(header: &Header<'_>, out: &mut Vec<u8>) -> Result<()> {
    let field = |name| header.ext.get(name).with_context(|| format!("no {name}"));
    let id = field("msgId")?;
    let (_, physical) = parse_offset_id(id).context("an offset message id")?;
    let fields = EndTransaction {
        producer_group: "bench",
        tran_state_table_offset: field("queueOffset")?.parse()?,
        commit_log_offset: physical as i64,
        commit_or_rollback: COMMIT,
        from_transaction_check: false,
        msg_id: header.ext.get("transactionId"),
        transaction_id: header.ext.get("transactionId"),
    };
    write_frame(out, &Head::request(code::END_TRANSACTION, 1, false), &fields, false, |_| {});
    Ok(())
}

/// Runs and prints the rate of whole cycles.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut poll = Poll::new()?;
    let mut events = Events::with_capacity(64);
    let mut conns = Vec::new();
    let (mut begun, mut done) = (0, 0_u64);
    let start = Instant::now();
    for token in 0..options.conns {
        let mut conn = Conn::open(&options.addr, &poll, token)?;
        write_half(options, begun, &mut conn.out);
        begun += 1;
        conn.flush()?;
        conns.push(conn);
    }
    let end = start + Duration::from_secs(options.seconds);
    let mut scratch = Scratch::default();
    while Instant::now() < end {
        poll.poll(&mut events, Some(Duration::from_secs(30)))?;
        if events.is_empty() {
            bail!("no answer for 30 s");
        }
        for event in &events {
            let conn = &mut conns[event.token().0];
            let mut out = Vec::new();
            conn.read(|frame| {
                let header = Header::decode(frame.serialize, frame.header, &mut scratch)?;
                if header.code != 0 {
                    bail!("answered with {}: {:?}", header.code, header.remark);
                }
                if header.opaque == 0 {
                    return write_commit(&header, &mut out);
                }
                done += 1;
                write_half(options, begun, &mut out);
                begun += 1;
                Ok(())
            })?;
            conn.out.extend_from_slice(&out);
            conn.flush()?;
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{{\"messages\":{done},\"per_second\":{:.0}}}", done as f64 / seconds);
    Ok(())
}
