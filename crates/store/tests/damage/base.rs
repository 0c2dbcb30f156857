//! The stores that are damaged, and all that was written to them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::clock::Clock;
use store::disk::{Disk, Memory};
use store::{At, Queue, Store, StoreConfig, Wait, config_file};
use wire::properties::{self, Known};
use wire::record::{self, INNER_BATCH, NewRecord, Record, Scanned};

use crate::common::*;

pub(crate) const ROOT: &str = "/data/store";
/// A file as the broker keeps its own.
pub(crate) const PROGRESS: &str = "/data/store/config/progress.json";
pub(crate) const T0: i64 = 1_700_000_000_000;
pub(crate) const LOG_FILE: i64 = 8 << 10;
const QUEUE_FILE: i64 = 5 * 20;
const BATCH_FILE: i64 = 4 * 46;

/// Topic and queue id.
pub(crate) type Name = (String, i32);

/// One record that was written.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) physical: i64,
    pub(crate) bytes: Vec<u8>,
    /// Queues that show it, with its first offset there and the number of its messages.
    pub(crate) places: Vec<(Name, i64, i64)>,
}

impl Sent {
    pub(crate) fn has_key(&self, topic: &str, key: &str) -> bool {
        let Ok(Scanned::Record(record)) = record::scan(&self.bytes) else { return false };
        let keys = properties::get(record.properties(), properties::KEYS);
        record.topic() == topic && keys == Some(key)
    }
}

/// A store as it was left.
pub(crate) struct Base {
    pub(crate) memory: Memory,
    /// The same store when half of it was written.
    pub(crate) older: Memory,
    pub(crate) sent: Vec<Sent>,
    /// Number of a record in `sent` by its place.
    pub(crate) by_place: HashMap<i64, usize>,
    pub(crate) clean: bool,
    /// Start of the newest record of which a checkpoint says that it is everywhere.
    pub(crate) checkpoint: i64,
    /// Behind the last record.
    end: i64,
    /// Slots of the batch queue by their first offset.
    slots: HashMap<i64, i64>,
}

pub(crate) fn config(memory: &Memory) -> StoreConfig {
    StoreConfig {
        disk: Disk::memory(memory.clone()),
        commit_log_file_size: LOG_FILE as u64,
        consume_queue_file_size: QUEUE_FILE as u64,
        batch_queue_file_size: BATCH_FILE as u64,
        batch_topics: ["B".to_owned()].into(),
        multi_dispatch: true,
        max_index_slots: 11,
        max_index_entries: 60,
        ..small(Path::new(ROOT))
    }
}

/// A text that few other texts pass for.
fn progress(number: i64) -> String {
    format!("{{\"offset\":{number},\"again\":\"{number}{number}{number}\"}}")
}

pub(crate) fn parse_progress(text: &str) -> Result<i64, String> {
    (1..=2).find(|n| progress(*n) == text).ok_or_else(|| "not what was saved".to_owned())
}

/// Queues of a record with the offsets that it names itself, and the number of its messages.
pub(crate) fn places_of(record: &Record<'_>) -> Vec<(Name, i64, i64)> {
    let name = (record.topic().to_owned(), record.queue_id());
    let known = Known::scan(record.properties());
    let number = |name| properties::get(record.properties(), name)?.parse::<i64>().ok();
    let (offset, count) = match record.sys_flag() & INNER_BATCH {
        0 => (record.queue_offset(), 1),
        _ => {
            let (base, count) = (number(properties::INNER_BASE), number(properties::INNER_NUM));
            (base.unwrap_or(-1), count.unwrap_or(0))
        }
    };
    let mut places = vec![(name, offset, count)];
    let names = known.multi_dispatch.unwrap_or_default().split(',');
    let offsets = known.multi_offsets.unwrap_or_default().split(',');
    for (light, offset) in names.zip(offsets) {
        if let Ok(offset) = offset.parse() {
            places.push(((light.to_owned(), 0), offset, 1));
        }
    }
    places
}

/// The offset that a record has in a queue by its own words.
pub(crate) fn offset_in(name: &Name, record: &Record<'_>) -> Option<i64> {
    places_of(record).into_iter().find(|place| place.0 == *name).map(|place| place.1)
}

/// Sends what fits the queue: a batch of three, a message shown in two light queues, or one.
pub(crate) fn send_one(store: &Store, name: &Name, body: &[u8], key: &str) -> Sent {
    let keys = format!("KEYS\u{1}{key}\u{2}TAGS\u{1}a\u{2}");
    let queue: Arc<Queue> = match name.0.as_str() {
        "B" => store.batch_queue_or_create("B", name.1),
        topic => store.queue_or_create(topic, name.1),
    };
    let appended = match name.0.as_str() {
        "B" => {
            let text = format!("INNER_NUM\u{1}3\u{2}{keys}");
            let new: NewRecord<'_> = record(&queue, body, &text);
            let new = NewRecord { sys_flag: INNER_BATCH, ..new };
            store.append_inner_batch(&queue, &new, &Known::scan(&text), 3)
        }
        "L" => {
            let names = ["%LMQ%a", "%LMQ%b"];
            let text = format!("INNER_MULTI_DISPATCH\u{1}{}\u{2}{keys}", names.join(","));
            let lights = names.map(|light| Some(store.queue_or_create(light, 0)));
            store.append_light(&queue, &record(&queue, body, &text), &lights)
        }
        _ => append(store, &queue, body, &keys),
    };
    let physical = appended.expect("append").place.physical_offset;
    store.commit().expect("commit");
    let mut bytes = Vec::new();
    assert_eq!(store.at(physical, Wait::MayBlock, &mut bytes), At::Found);
    let Ok(Scanned::Record(stored)) = record::scan(&bytes) else { panic!("no record") };
    let places = places_of(&stored);
    Sent { physical, bytes, places }
}

impl Base {
    /// Stopped cleanly, killed with and without a checkpoint, and one that lost its oldest files.
    pub(crate) fn all() -> Vec<Base> {
        vec![
            Base::make(true, true, false),
            Base::make(false, true, false),
            Base::make(false, false, false),
            Base::make(true, true, true),
            Base::make(false, true, true),
        ]
    }

    fn make(clean: bool, checkpoint: bool, shortened: bool) -> Base {
        let memory = Memory::default();
        let clock = Clock::manual(T0);
        let store = Store::open_stepped(config(&memory), clock.clone()).expect("open");
        let names = Base::topics();
        let mut base = Base {
            memory: memory.clone(),
            older: Memory::default(),
            sent: Vec::new(),
            by_place: HashMap::new(),
            clean,
            checkpoint: 0,
            end: 0,
            slots: HashMap::new(),
        };
        config_file::save_on(store.disk(), Path::new(PROGRESS), &progress(1)).expect("save");
        let mut dice = store::disk::Dice::new(7);
        for number in 0..160 {
            let name = &names[dice.below(names.len() as u64) as usize];
            let body = vec![number as u8 + 1; dice.below(280) as usize + 1];
            base.add(send_one(&store, name, &body, &format!("k{}", number % 7)));
            clock.advance(700);
            if number == 20 {
                for n in 0..5 {
                    base.add(send_one(&store, &("D".into(), 0), &[n; 40], "k0"));
                }
            }
            if number == 40 {
                store.delete_topic("D").expect("delete");
                let disk = store.disk();
                config_file::save_on(disk, Path::new(PROGRESS), &progress(2)).expect("save");
            }
            if number == 80 {
                base.older = memory.copy();
            }
            if checkpoint && number == 100 {
                clock.advance(20_000);
                store.look_after();
                base.checkpoint = base.sent.last().expect("sent").physical;
            }
        }
        base.end = base.sent.last().map_or(0, |s| s.physical + s.bytes.len() as i64);
        if clean {
            store.close().expect("close");
            base.checkpoint = base.sent.last().expect("sent").physical;
        } else {
            store.abandon();
        }
        if shortened {
            for start in [0, LOG_FILE] {
                memory.forget(&base.log_file(start));
            }
            base.sent.retain(|sent| sent.physical >= 2 * LOG_FILE);
        }
        base.by_place = base.sent.iter().enumerate().map(|(n, s)| (s.physical, n)).collect();
        base
    }

    fn add(&mut self, sent: Sent) {
        if sent.places[0].0.0 == "B" {
            let next = self.slots.len() as i64;
            self.slots.insert(sent.places[0].1, next);
        }
        self.sent.push(sent);
    }

    fn topics() -> Vec<Name> {
        [("T", 0), ("T", 1), ("T", 2), ("B", 0), ("L", 0)].map(|(t, id)| (t.to_owned(), id)).into()
    }

    /// Queues that can be sent to.
    pub(crate) fn names(&self) -> Vec<Name> {
        Base::topics()
    }

    pub(crate) fn end(&self) -> i64 {
        self.end
    }

    pub(crate) fn describe(&self) -> String {
        let begin = self.sent.first().map_or(0, |sent| sent.physical);
        let (clean, end) = (self.clean, self.end);
        format!("clean {clean}, log {begin} to {end}, checkpoint {}", self.checkpoint)
    }

    pub(crate) fn is_deleted(&self, name: &Name) -> bool {
        name.0 == "D"
    }

    pub(crate) fn file_start(&self, physical: i64) -> i64 {
        physical - physical % LOG_FILE
    }

    pub(crate) fn log_file(&self, physical: i64) -> PathBuf {
        Path::new(ROOT).join(format!("commitlog/{:020}", self.file_start(physical)))
    }

    /// Start and length of every record, and of the markers that end files.
    pub(crate) fn places(&self) -> Vec<(i64, usize)> {
        let mut places = BTreeSet::new();
        for (number, sent) in self.sent.iter().enumerate() {
            places.insert((sent.physical, sent.bytes.len()));
            let end = sent.physical + sent.bytes.len() as i64;
            let next = self.sent.get(number + 1).map_or(self.end, |next| next.physical);
            if next > end {
                places.insert((end, 8));
            }
        }
        places.into_iter().collect()
    }

    /// File, position and length of the entry that shows a message in a queue.
    pub(crate) fn entry_place(&self, name: &Name, offset: i64) -> Option<(PathBuf, usize, usize)> {
        let (dir, at, len, file) = match name.0.as_str() {
            "B" => ("batchconsumequeue", self.slots.get(&offset)? * 46, 46, BATCH_FILE),
            _ => ("consumequeue", offset * 20, 20, QUEUE_FILE),
        };
        let start = at / file * file;
        let path = format!("{dir}/{}/{}/{start:020}", name.0, name.1);
        Some((Path::new(ROOT).join(path), (at - start) as usize, len))
    }
}
