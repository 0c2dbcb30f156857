//! Metrics as Prometheus reads them: lag in messages and time, what is in flight, traffic.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use net::client::Client;
use testkit::{Server, TempDir, call, create_topic, free_port, messages, pull_from, send};
use wire::codes::request as code;
use wire::requests::PopMessage;

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

struct Fixture {
    server: Server,
    client: Client,
    address: String,
    _dir: TempDir,
}

fn fixture(settings: &str) -> Result<Fixture> {
    let dir = TempDir::new("metrics")?;
    let port = free_port()?;
    let settings = format!(
        "metricsExporterType=PROM\nmetricsPromExporterPort={port}\n\
         metricsLabel=zone:a,odd\n{settings}"
    );
    let server = Server::start(BINARY, dir.path(), &settings)?;
    let client = server.connect()?;
    Ok(Fixture { server, client, address: format!("127.0.0.1:{port}"), _dir: dir })
}

/// Head and body of an answer.
fn http(address: &str, path: &str) -> Result<(String, String)> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(socket, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    Ok((head.to_owned(), body.to_owned()))
}

impl Fixture {
    /// The value of a metric whose labels include all of these.
    fn value(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let (head, text) = http(&self.address, "/metrics")?;
        ensure!(head.starts_with("HTTP/1.1 200"), "{head}");
        let begin = format!("{name}{{");
        let fits = |line: &&str| {
            line.starts_with(&begin)
                && labels.iter().all(|(name, value)| line.contains(&format!("{name}=\"{value}\"")))
        };
        let mut lines = text.lines().filter(fits);
        let found = lines.next().and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
        ensure!(lines.next().is_none(), "{name} {labels:?} is there twice");
        Ok(found)
    }

    /// Lag, in flight, ready of a group.
    fn lag(&self, group: &str, retry: &str) -> Result<[f64; 3]> {
        let labels = [
            ("consumer_group", group),
            ("topic", "T"),
            ("is_retry", retry),
            ("is_system", "false"),
            ("cluster", "DefaultCluster"),
            ("node_type", "broker"),
            ("node_id", "broker-a"),
            ("zone", "a"),
        ];
        let mut three = [0.0; 3];
        for (value, name) in three.iter_mut().zip([
            "rocketmq_consumer_lag_messages",
            "rocketmq_consumer_inflight_messages",
            "rocketmq_consumer_ready_messages",
        ]) {
            *value = self.value(name, &labels)?.context("no such value")?;
        }
        Ok(three)
    }
}

fn commit(client: &mut Client, group: &str, queue: i32, offset: i32) -> Result<()> {
    let (queue, offset) = (queue.to_string(), offset.to_string());
    let fields =
        [("consumerGroup", group), ("topic", "T"), ("queueId", &queue), ("commitOffset", &offset)];
    ensure!(call(client, code::UPDATE_CONSUMER_OFFSET, &fields, b"")?.code == 0);
    Ok(())
}

fn make_group(client: &mut Client, group: &str) -> Result<()> {
    let body = format!(r#"{{"groupName":"{group}"}}"#);
    let made = call(client, code::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP, &[], body.as_bytes())?;
    ensure!(made.code == 0, "{made:?}");
    Ok(())
}

#[test]
fn lag_is_told_in_messages_and_milliseconds_also_of_groups_that_nobody_runs() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 2)?;
    make_group(&mut f.client, "g")?;
    for number in 0..20 {
        send(&mut f.client, "T", number % 2, "", b"twelve bytes")?;
    }
    std::thread::sleep(Duration::from_millis(300));
    send(&mut f.client, "T", 0, "", b"the newest")?;
    // A group without offsets is not behind.
    let labels = [("consumer_group", "g"), ("topic", "T")];
    ensure!(f.value("rocketmq_consumer_lag_messages", &labels)?.is_none());
    commit(&mut f.client, "g", 0, 3)?;
    commit(&mut f.client, "g", 1, 10)?;
    ensure!(f.lag("g", "false")? == [8.0, 0.0, 8.0], "{:?}", f.lag("g", "false")?);
    let latency = f.value("rocketmq_consumer_lag_latency_milliseconds", &labels)?;
    let latency = latency.context("no latency")?;
    ensure!((300.0..60_000.0).contains(&latency), "{latency}");
    // Pulled and not committed: the consumer has them.
    let mut pull = pull_from("T", 0, 3);
    (pull.consumer_group, pull.max_msg_nums) = ("g", 2);
    let answer = f.client.call(code::PULL_MESSAGE, &pull, b"")?;
    ensure!(messages(&answer.body).len() == 2, "{answer:?}");
    ensure!(f.lag("g", "false")? == [8.0, 2.0, 6.0], "{:?}", f.lag("g", "false")?);
    commit(&mut f.client, "g", 0, 10)?;
    ensure!(f.lag("g", "false")? == [1.0, 0.0, 1.0], "{:?}", f.lag("g", "false")?);
    let young = f.value("rocketmq_consumer_lag_latency_milliseconds", &labels)?;
    ensure!(young.is_some_and(|young| young < latency), "{young:?} {latency}");
    commit(&mut f.client, "g", 0, 11)?;
    ensure!(f.lag("g", "false")? == [0.0; 3]);
    ensure!(f.value("rocketmq_consumer_lag_latency_milliseconds", &labels)? == Some(0.0));
    // A restart changes nothing of it.
    commit(&mut f.client, "g", 0, 5)?;
    f.server.stop()?;
    f.server.restart()?;
    ensure!(f.lag("g", "false")? == [6.0, 0.0, 6.0], "{:?}", f.lag("g", "false")?);
    Ok(())
}

#[test]
fn popped_messages_are_in_flight_until_they_are_settled() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    make_group(&mut f.client, "g")?;
    for _ in 0..10 {
        send(&mut f.client, "T", 0, "", b"x")?;
    }
    let pop = PopMessage {
        consumer_group: "g",
        topic: "T",
        queue_id: 0,
        max_msg_nums: 4,
        invisible_time: 60_000,
        poll_time: 0,
        born_time: 0,
        init_mode: 0,
        exp_type: None,
        exp: None,
        order: false,
        attempt_id: None,
    };
    ensure!(f.client.call(code::POP_MESSAGE, &pop, b"")?.code == 0);
    ensure!(f.lag("g", "false")? == [10.0, 4.0, 6.0], "{:?}", f.lag("g", "false")?);
    let used = f.value("apogee_limit_used", &[("limit", "maxPopInFlight")])?;
    ensure!(used == Some(4.0), "{used:?}");
    // Handed back at once they wait for their retry as messages of the retry topic.
    let soon = PopMessage { invisible_time: 1000, max_msg_nums: 6, ..pop };
    ensure!(f.client.call(code::POP_MESSAGE, &soon, b"")?.code == 0);
    let mut patience = 100;
    while f.value("rocketmq_consumer_ready_messages", &[("is_retry", "true")])? != Some(6.0) {
        std::thread::sleep(Duration::from_millis(50));
        patience -= 1;
        ensure!(patience > 0, "no retries");
    }
    ensure!(f.lag("g", "false")? == [4.0, 4.0, 0.0], "{:?}", f.lag("g", "false")?);
    Ok(())
}

#[test]
fn a_filter_of_tags_counts_only_what_it_passes() -> Result<()> {
    let mut f = fixture("")?;
    create_topic(&mut f.client, "T", 1)?;
    for number in 0..30 {
        let tag = ["TAGS\u{1}a\u{2}", "TAGS\u{1}b\u{2}", ""][number % 3];
        send(&mut f.client, "T", 0, tag, b"x")?;
    }
    let body = r#"{"clientID":"c","consumerDataSet":[{"groupName":"g",
        "consumeType":"CONSUME_PASSIVELY","messageModel":"CLUSTERING",
        "consumeFromWhere":"CONSUME_FROM_LAST_OFFSET","unitMode":false,"subscriptionDataSet":[
        {"topic":"T","subString":"a","subVersion":1,"expressionType":"TAG"}]}]}"#;
    ensure!(call(&mut f.client, code::HEART_BEAT, &[], body.as_bytes())?.code == 0);
    commit(&mut f.client, "g", 0, 6)?;
    ensure!(f.lag("g", "false")? == [8.0, 0.0, 8.0], "{:?}", f.lag("g", "false")?);
    let labels = [("consumer_group", "g"), ("consume_mode", "push"), ("language", "java")];
    ensure!(f.value("rocketmq_consumer_connections", &labels)? == Some(1.0));
    let on = "estimateAccumulation=false";
    ensure!(call(&mut f.client, code::UPDATE_BROKER_CONFIG, &[], on.as_bytes())?.code == 0);
    ensure!(f.lag("g", "false")?[0] == 24.0, "{:?}", f.lag("g", "false")?);
    Ok(())
}

#[test]
fn traffic_is_counted_and_other_pages_are_not_there() -> Result<()> {
    let mut f = fixture("brokerName=b-1")?;
    create_topic(&mut f.client, "T", 1)?;
    make_group(&mut f.client, "g")?;
    for _ in 0..3 {
        send(&mut f.client, "T", 0, "", b"x")?;
    }
    let mut pull = pull_from("T", 0, 0);
    pull.consumer_group = "g";
    ensure!(f.client.call(code::PULL_MESSAGE, &pull, b"")?.code == 0);
    let topic = [("topic", "T"), ("is_system", "false"), ("node_id", "b-1")];
    ensure!(f.value("rocketmq_messages_in_total", &topic)? == Some(3.0));
    let bytes = f.value("rocketmq_throughput_in_total", &topic)?;
    ensure!(bytes.is_some_and(|bytes| bytes > 300.0), "{bytes:?}");
    let group = [("topic", "T"), ("consumer_group", "g"), ("is_retry", "false")];
    ensure!(f.value("rocketmq_messages_out_total", &group)? == Some(3.0));
    ensure!(f.value("rocketmq_topic_number", &[])?.is_some_and(|topics| topics > 5.0));
    let documented = include_str!("../../../docs/metrics.md");
    let text = http(&f.address, "/metrics")?.1;
    let families: Vec<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    ensure!(families.len() > 15, "{families:?}");
    for family in families {
        ensure!(documented.contains(&format!("`{family}`")), "{family} is not in docs/metrics.md");
    }
    let (head, page) = http(&f.address, "/")?;
    ensure!(head.starts_with("HTTP/1.1 200") && page.contains("/metrics"), "{head} {page}");
    ensure!(http(&f.address, "/nothing")?.0.starts_with("HTTP/1.1 404"));
    ensure!(f.server.greeting().iter().any(|line| line.contains(&f.address)));
    // A client that says nothing harms nobody, also not the end.
    let silent = TcpStream::connect(&f.address)?;
    ensure!(http(&f.address, "/metrics")?.0.contains("text/plain; version=0.0.4"));
    f.server.stop()?;
    drop(silent);
    Ok(())
}
