//! Seeded fuzzers with a count budget: no input makes a decoder panic, hang, or read beyond its
//! bytes. Seeds are recorded frames; a failure prints the seed that reproduces it.

use std::path::Path;

use wire::frame::{self, Serialize};
use wire::header::{Header, Scratch};
use wire::json::Value;
use wire::message_id::unhex;
use wire::record::{self, NewRecord, Place};
use wire::{properties, requests};

/// A small generator (xorshift), so that a seed means the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// Changes bytes, cuts, repeats or inserts, a few times.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            let at = self.below(bytes.len());
            match self.below(6) {
                _ if bytes.is_empty() => bytes.push(self.next() as u8),
                0 => bytes[at] = self.next() as u8,
                1 => bytes[at] ^= 1 << self.below(8),
                2 => bytes.truncate(at),
                3 => bytes.insert(at, b"\"{}[]:,\\u0\0\xff"[self.below(12)]),
                4 => {
                    let end = at + self.below(bytes.len() - at);
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => {
                    let value = [0_u32, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF][self.below(5)];
                    for (slot, byte) in bytes[at..].iter_mut().zip(value.to_be_bytes()) {
                        *slot = byte;
                    }
                }
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/frames");
    let mut seeds = Vec::new();
    for name in ["send", "pull", "dialects", "errors", "client"] {
        let text = std::fs::read_to_string(folder.join(format!("{name}.jsonl"))).expect("frames");
        for line in text.lines() {
            let pair = Value::parse(line).expect("json");
            let raw = |side| Some(pair.get(side)?.get("raw_hex")?.as_text()?.to_owned());
            seeds.extend(["req", "resp"].into_iter().filter_map(raw).filter_map(|hex| unhex(&hex)));
        }
    }
    assert!(seeds.len() > 200);
    seeds
}

#[test]
fn frames_and_headers_survive_a_million_mutations() {
    let seeds = seeds();
    let mut random = Random(0x5EED_0001);
    let (mut split, mut decoded, mut accepted) = (0, 0, 0);
    let mut scratch = Scratch::default();
    for _ in 0..1_000_000 {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        bytes.truncate(4096);
        random.mutate(&mut bytes);
        // Half of the frames keep their length, so that the header is reached.
        if random.below(2) == 0 && bytes.len() >= 8 {
            let total = (bytes.len() - 4) as u32;
            bytes[..4].copy_from_slice(&total.to_be_bytes());
        }
        let Ok(Some((got, len))) = frame::split(&bytes, frame::MAX_FRAME) else { continue };
        assert!(len <= bytes.len());
        split += 1;
        for serialize in [got.serialize, Serialize::Binary] {
            if let Ok(header) = Header::decode(serialize, got.header, &mut scratch) {
                decoded += 1;
                if decoded % 16 == 0 {
                    accepted += requests::decode_as_all(&header.ext);
                }
            }
        }
    }
    println!("{split} split, {decoded} decoded, {accepted} accepted as commands");
    assert!(split > 300_000 && decoded > 100_000 && accepted > 1000);
}

#[test]
fn records_batches_properties_and_json_survive() {
    let mut random = Random(0x5EED_0002);
    let new = NewRecord {
        topic: "fuzz",
        queue_id: 1,
        flag: 0,
        sys_flag: 0,
        born_timestamp: 1,
        born_host: "10.0.0.1:1".parse().expect("host"),
        store_host: "[fd00::1]:1".parse().expect("host"),
        reconsume_times: 0,
        prepared_offset: 0,
        body: b"body of some length",
        body_crc: 0,
        properties: "KEYS\u{1}a b\u{2}TAGS\u{1}t\u{2}",
    };
    let mut record_seed = Vec::new();
    new.encode(Place { queue_offset: 1, physical_offset: 2, store_timestamp: 3 }, &mut record_seed);
    let mut batch_seed = Vec::new();
    record::encode_batch_entry(0, b"one", "A\u{1}b\u{2}", &mut batch_seed);
    record::encode_batch_entry(0, b"two", "", &mut batch_seed);
    let json_seed = br#"{"a":[1,{"b":null}],{"k":1}:{0:"x\u0041"},"c":"\ud83d\ude00"}"#;
    for _ in 0..300_000 {
        let mut bytes = record_seed.clone();
        random.mutate(&mut bytes);
        for found in record::records(&bytes).flatten() {
            assert!(found.total_len() <= bytes.len());
            let _ = (found.check_crc(), found.born_host(), found.store_host(), found.body().len());
        }
        let mut bytes = batch_seed.clone();
        random.mutate(&mut bytes);
        assert!(record::batch_entries(&bytes).take(1000).count() < 1000);
        let mut bytes = json_seed.to_vec();
        random.mutate(&mut bytes);
        if let Ok(value) = Value::parse_bytes(&bytes) {
            let text = value.to_strict_text();
            assert!(Value::parse(&text).is_ok(), "{text}");
        }
        let text = String::from_utf8_lossy(&bytes).replace('{', "\u{1}").replace('}', "\u{2}");
        let _ = (properties::Known::scan(&text), properties::without(&text, &["a"]));
    }
}
