//! Bad input: a million fuzzed frames against a live server. No crash, no hang, every frame that
//! is a request is answered, other connections work on undisturbed.

#![allow(clippy::print_stdout)] // a test tells what it counted

use anyhow::{Result, ensure};
use testkit::{PATIENCE, Server, TempDir, send};
use wire::header::{FLAG_ONEWAY, Head, Pairs, write_frame};

const BINARY: &str = env!("CARGO_BIN_EXE_apogee");

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[(self.next() % items.len() as u64) as usize]
    }
}

const NAMES: [&str; 24] = [
    "topic",
    "b",
    "queueId",
    "e",
    "consumerGroup",
    "queueOffset",
    "maxMsgNums",
    "sysFlag",
    "f",
    "properties",
    "i",
    "a",
    "c",
    "d",
    "g",
    "h",
    "offset",
    "group",
    "delayLevel",
    "key",
    "maxNum",
    "timestamp",
    "commitOffset",
    "batch",
];
const VALUES: [&str; 16] = [
    "",
    "0",
    "-1",
    "1",
    "99",
    "2147483648",
    "-9223372036854775808",
    "true",
    "abc",
    "FuzzTopic",
    "%RETRY%FuzzGroup",
    "SCHEDULE_TOPIC_XXXX",
    "a b",
    "中文",
    "TAGS\u{1}x\u{2}DELAY\u{1}1",
    "*",
];
const BODIES: [&[u8]; 6] =
    [b"", b"{}", b"{\"clientID\":\"c\",\"consumerDataSet\":[{}]}", b"[[[", b"\0\0\0\x16", b"x"];
/// Codes that change settings or delete things are left out: they would end the test itself.
const NOT_FUZZED: [i32; 4] = [25, 207, 215, 318];

fn request(random: &mut Random, opaque: i32, out: &mut Vec<u8>) {
    let mut code = (random.next() % 420) as i32;
    if NOT_FUZZED.contains(&code) || random.next().is_multiple_of(8) {
        code = *random.pick(&[10, 310, 11, 12, 14, 15, 29, 34, 36, 38, 41, 200_050, 9999, -1]);
    }
    let count = random.next() % 16;
    let fields: Vec<(&str, &str)> =
        (0..count).map(|_| (*random.pick(&NAMES), *random.pick(&VALUES))).collect();
    let head = Head { version: (random.next() % 600) as i32, ..Head::request(code, opaque, false) };
    let body = *random.pick(&BODIES);
    write_frame(out, &head, &Pairs(&fields), false, |out| out.extend_from_slice(body));
}

/// Well-formed frames with senseless content: each one is answered on its connection.
#[test]
fn every_senseless_request_is_answered() -> Result<()> {
    let dir = TempDir::new("fuzz")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let mut bystander = server.connect()?;
    let mut random = Random(0x5EED_0003);
    let rounds = 500;
    let per_round = 400;
    let mut parked = 0;
    for round in 0..rounds {
        let mut client = server.connect()?;
        let mut bytes = Vec::new();
        for opaque in 0..per_round {
            request(&mut random, opaque, &mut bytes);
        }
        // The last request is a sane one: when it is answered, everything before was handled.
        let head = Head::request(30, per_round, false);
        let fields = [("topic", "FuzzTopic"), ("queueId", "0")];
        write_frame(&mut bytes, &head, &Pairs(&fields), false, |_| {});
        client.send_raw(&bytes)?;
        let mut answered = vec![false; per_round as usize];
        loop {
            let answer = client.receive()?;
            if answer.flag & 1 == 0 {
                continue; // a push to the client
            }
            if answer.opaque == per_round {
                break;
            }
            ensure!(!answered[answer.opaque as usize], "answered twice");
            answered[answer.opaque as usize] = true;
        }
        // Queries answer from another thread, and a pull may park; all others are done by now.
        parked += answered.iter().filter(|done| !**done).count();
        if round % 20 == 0 {
            let sent = send(&mut bystander, "Bystander", 0, "", b"fine")?;
            ensure!(sent.code == 0, "a bystander was disturbed: {:?}", sent.remark);
        }
    }
    println!("{} requests, {parked} answered later", rounds * per_round);
    ensure!(parked < (rounds * per_round / 20) as usize, "{parked} answers are missing");
    Ok(())
}

/// Broken frames: their connection may end, nobody else's does. 1,000,000 frames in all.
#[test]
fn broken_frames_end_their_own_connection_only() -> Result<()> {
    let dir = TempDir::new("fuzz-broken")?;
    let server = Server::start(BINARY, dir.path(), "")?;
    let mut bystander = server.connect()?;
    let mut random = Random(0x5EED_0004);
    let mut frames = 0_u64;
    let mut connections = 0_u64;
    while frames < 1_000_000 {
        let mut bytes = Vec::new();
        let mut here = 0;
        while bytes.len() < 200_000 {
            let start = bytes.len();
            let mut frame = Vec::new();
            request(&mut random, here, &mut frame);
            // One in five hundred is broken: a longer run reaches the handlers in between.
            if random.next().is_multiple_of(500) {
                let at = (random.next() % frame.len() as u64) as usize;
                frame[at] ^= 1 << (random.next() % 8);
            } else if let Some(flag) = find(&frame, b"\"flag\":0") {
                // One-way, so that the answers do not have to be read.
                frame[flag + 7] = b'0' + FLAG_ONEWAY as u8;
            }
            bytes.extend_from_slice(&frame);
            here += 1;
            debug_assert!(bytes.len() > start);
        }
        frames += here as u64;
        connections += 1;
        let mut socket = std::net::TcpStream::connect(&server.broker)?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let _ = std::io::Write::write_all(&mut socket, &bytes); // it may be closed half-way
        drop(socket);
        if connections.is_multiple_of(50) {
            let sent = send(&mut bystander, "Bystander", 0, "", b"fine")?;
            ensure!(sent.code == 0, "a bystander was disturbed: {:?}", sent.remark);
        }
    }
    let sent = send(&mut bystander, "Bystander", 0, "", b"still fine")?;
    ensure!(sent.code == 0, "a bystander was disturbed");
    println!("{frames} frames over {connections} connections");
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
