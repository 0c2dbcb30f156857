//! Answers of many bytes: they come whole and in their order, and nobody waits for them.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::time::Duration;

use base::clock::Clock;
use net::client::Client;
use net::{Bound, Call, Handle, Limits, Service};
use wire::header::Pairs;

const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers with as many bytes as the code says, 10 at least; every other one through the mailbox.
struct Echo;

fn body(len: i32) -> Vec<u8> {
    (0..len.max(10)).map(|at| (at ^ len) as u8).collect()
}

impl Service for Echo {
    fn request(&mut self, call: &mut Call<'_>) {
        let body = body(call.header.code);
        if call.header.opaque % 2 == 0 {
            call.ok_body(&body).unwrap();
            return;
        }
        let head = wire::header::Head::response(0, call.header.opaque, None);
        let mut frame = Vec::new();
        wire::header::write_frame(&mut frame, &head, &Pairs(&[]), false, |out| {
            out.extend_from_slice(&body);
        });
        call.peer.send(frame);
    }
}

fn serve() -> (Handle, String) {
    let bound = Bound::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = bound.local.to_string();
    let handle = bound.serve("echo", Limits::default(), Clock::system(), 1, |_| Echo).unwrap();
    (handle, address)
}

#[test]
fn large_and_small_answers_come_whole() {
    let (handle, address) = serve();
    let mut client = Client::connect(&address, TIMEOUT).unwrap();
    let sizes = [10, 40_000, 20, 16_000, 17_000, 3_000_000, 30, 65_536, 700_000, 11];
    for _ in 0..8 {
        let mut sent = HashMap::new();
        for size in sizes {
            sent.insert(client.send(size, &Pairs(&[]), b"", false).unwrap(), size);
        }
        while !sent.is_empty() {
            let answer = client.receive().unwrap();
            let size = sent.remove(&answer.opaque).expect("asked for, once");
            assert!(answer.body == body(size), "{size}");
        }
    }
    drop(client);
    handle.stop();
}

#[test]
fn who_does_not_read_holds_nobody_up_and_gets_all_later() {
    let (handle, address) = serve();
    let mut lazy: Vec<Client> =
        (0..4).map(|_| Client::connect(&address, TIMEOUT).unwrap()).collect();
    let sent: Vec<i32> = lazy
        .iter_mut()
        .map(|client| client.send(9_000_000, &Pairs(&[]), b"", false).unwrap())
        .collect();
    let mut client = Client::connect(&address, TIMEOUT).unwrap();
    for _ in 0..1000 {
        assert_eq!(client.call(10, &Pairs(&[]), b"").unwrap().body, body(10));
    }
    for (client, opaque) in lazy.iter_mut().zip(sent) {
        assert!(client.answer(opaque).unwrap().body == body(9_000_000));
        assert_eq!(client.call(50_000, &Pairs(&[]), b"").unwrap().body, body(50_000));
    }
    drop((client, lazy));
    handle.stop();
}
