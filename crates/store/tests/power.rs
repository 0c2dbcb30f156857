//! Kills and power cuts at every change that the store makes to its disk.
//!
//! A random workload runs on a disk in memory. At each write, sync and change of a name the disk
//! is taken as a kill would leave it and, twice, as a power cut might; the store is opened on it
//! and compared with a plain model. Then the workload goes on from one of those disks, so that
//! recovery itself is cut everywhere too.
//!
//! `POWER_IMAGES` says how many disks are looked at; `APOGEE_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::clock::Clock;
use common::*;
use store::disk::{Dice, Disk, Memory, Power};
use store::{Store, StoreConfig, config_file};
use wire::properties::Known;
use wire::record::{self, INNER_BATCH, NewRecord};

/// Where the store is. The directory above it is new as well.
const ROOT: &str = "/data/store";
/// What a consumer would call its progress.
const PROGRESS: &str = "/data/store/config/progress.json";
const T0: i64 = 1_700_000_000_000;
/// Actions between two disks from which the workload goes on.
const ACTIONS: u64 = 40;

type Name = (&'static str, i32);

/// Queues; the last one is a batch queue.
const QUEUES: [Name; 6] = [("A", 0), ("A", 1), ("B", 0), ("B", 3), ("C", 0), ("Batch", 0)];

#[derive(Debug, Clone)]
struct Sent {
    queue: Name,
    /// How often its topic had been deleted.
    generation: usize,
    offset: i64,
    count: i64,
    physical: i64,
    end: i64,
    body: Vec<u8>,
}

/// What was certain after an action.
#[derive(Debug, Clone, Default)]
struct Moment {
    /// Changes of the disk up to here.
    changes: usize,
    written: i64,
    flushed: i64,
    min: i64,
    generations: BTreeMap<&'static str, usize>,
    progress: u64,
}

impl Moment {
    fn generation(&self, topic: &str) -> usize {
        self.generations.get(topic).copied().unwrap_or(0)
    }
}

fn config(memory: &Memory, sync: bool) -> StoreConfig {
    let config = StoreConfig {
        disk: Disk::memory(memory.clone()),
        commit_log_file_size: 8 << 10,
        consume_queue_file_size: 100,
        batch_queue_file_size: 4 * 46,
        batch_topics: ["Batch".to_owned()].into(),
        max_index_slots: 11,
        max_index_entries: 40,
        file_reserved_hours: 1,
        ..small(Path::new(ROOT))
    };
    if sync { sync_mode(config) } else { config }
}

/// The workload and what it knows.
struct Run {
    memory: Memory,
    store: Arc<Store>,
    clock: Clock,
    dice: Dice,
    sync: bool,
    sent: Vec<Sent>,
    now: Moment,
    moments: Vec<Moment>,
}

impl Run {
    /// Opens the store on `memory`, of which `sent` and `now` are known.
    fn begin(memory: Memory, sent: Vec<Sent>, now: Moment, mut dice: Dice) -> Run {
        let sync = dice.once_in(2);
        let clock = Clock::manual(T0 + dice.below(1_000_000) as i64);
        let mut moments = vec![Moment { changes: 0, ..now.clone() }];
        let store = Store::open_stepped(config(&memory, sync), clock.clone()).expect("open");
        let mut run = Run { memory, store, clock, dice, sync, sent, now, moments: Vec::new() };
        run.note();
        moments.append(&mut run.moments);
        Run { moments, ..run }
    }

    /// Remembers what is certain now.
    fn note(&mut self) {
        let marks = self.store.watermarks();
        self.now.changes = self.memory.changes();
        (self.now.written, self.now.flushed) = (marks.written, marks.flushed);
        self.now.min = marks.min;
        self.moments.push(self.now.clone());
    }

    fn act(&mut self) {
        match self.dice.below(100) {
            0..50 => self.send(),
            50..70 => drop(self.store.commit().unwrap()),
            70..80 => {
                self.store.flush().unwrap();
            }
            80..90 => {
                self.clock.advance(self.dice.below(9000) as i64);
                self.store.look_after();
            }
            90..94 => {
                self.now.progress += 1;
                let text = self.now.progress.to_string();
                config_file::save_on(self.store.disk(), Path::new(PROGRESS), &text).unwrap();
            }
            94 => {
                self.store.delete_expired_now();
                self.store.look_after();
            }
            95..98 => {
                let topic = ["A", "C"][self.dice.below(2) as usize];
                self.store.delete_topic(topic).unwrap();
                *self.now.generations.entry(topic).or_default() += 1;
            }
            _ => {
                self.store.close().unwrap();
                self.note();
                let config = config(&self.memory, self.sync);
                self.store = Store::open_stepped(config, self.clock.clone()).expect("open");
            }
        }
        self.note();
    }

    fn send(&mut self) {
        let queue = QUEUES[self.dice.below(QUEUES.len() as u64) as usize];
        let lengths = [1, 40, 700, 3000];
        let length = lengths[self.dice.below(4) as usize] + self.dice.below(40);
        let body: Vec<u8> = (0..length).map(|_| self.dice.below(256) as u8).collect();
        let (sent, appended) = send_one(&self.store, queue, &body);
        let generation = self.now.generation(queue.0);
        self.sent.push(Sent { generation, ..sent });
        assert!(appended > 0);
    }
}

/// Appends a message, or three in one record, and says what became of it.
fn send_one(store: &Store, queue: Name, body: &[u8]) -> (Sent, i64) {
    let (topic, id) = queue;
    let key = format!("KEYS\u{1}k{}\u{2}", body.len() % 7);
    let (handle, count) = match topic {
        "Batch" => (store.batch_queue_or_create(topic, id), 3),
        _ => (store.queue_or_create(topic, id), 1),
    };
    let appended = if count == 1 {
        append(store, &handle, body, &key).unwrap()
    } else {
        let text = format!("INNER_NUM\u{1}{count}\u{2}{key}");
        let new: NewRecord<'_> = record(&handle, body, &text);
        let new = NewRecord { sys_flag: INNER_BATCH, ..new };
        store.append_inner_batch(&handle, &new, &Known::scan(&text), count).unwrap()
    };
    let place = appended.place;
    let sent = Sent {
        queue,
        generation: 0,
        offset: place.queue_offset,
        count: i64::from(count),
        physical: place.physical_offset,
        end: appended.end,
        body: body.to_vec(),
    };
    (sent, appended.end)
}

/// Physical offsets of what a queue has, in its order.
type Contents = BTreeMap<Name, Vec<(i64, i64, Vec<u8>)>>;

/// Everything in all queues: queue offset, physical offset, body.
fn read(store: &Store) -> Contents {
    let mut all = Contents::new();
    for name in QUEUES {
        let found = all.entry(name).or_default();
        let Some(queue) = store.queue(name.0, name.1) else { continue };
        let mut from = queue.min_offset();
        while from < queue.max_offset(store) {
            let (fetch, out) = fetch(store, &queue, from, 64);
            assert!(fetch.next > from, "{name:?}: no progress at {from}: {fetch:?}");
            for record in record::records(&out) {
                let record = record.expect("record");
                record.check_crc().expect("crc");
                assert_eq!((record.topic(), record.queue_id()), name);
                let place = (record.queue_offset(), record.physical_offset());
                found.push((place.0, place.1, record.body().to_vec()));
            }
            from = fetch.next;
        }
    }
    all
}

/// What is to be found on a disk.
struct Wanted<'a> {
    sent: &'a [Sent],
    by_place: &'a HashMap<i64, usize>,
    /// Certain before the change, and possible after it.
    before: &'a Moment,
    after: &'a Moment,
    /// Log offset below which everything must be there.
    safe: i64,
}

impl Wanted<'_> {
    /// Compares; returns what was found.
    fn check(&self, store: &Store, disk: &Memory) -> Contents {
        let min = store.watermarks().min;
        assert!(min <= self.after.min, "the log begins at {min}, not {}", self.after.min);
        let contents = read(store);
        let mut found = vec![false; self.sent.len()];
        for (name, messages) in &contents {
            let mut generation = None;
            let mut next = messages.first().map_or(0, |first| first.0);
            for (offset, physical, body) in messages {
                let number = self.by_place.get(physical).expect("a message that nobody sent");
                let sent = &self.sent[*number];
                assert_eq!((sent.queue, sent.offset), (*name, *offset));
                assert!(sent.body == *body, "{name:?} {offset}: another body");
                assert_eq!(*offset, next, "{name:?}: a gap");
                assert_eq!(*generation.get_or_insert(sent.generation), sent.generation);
                next += sent.count;
                found[*number] = true;
            }
            let deleted = self.before.generation(name.0);
            assert!(generation.is_none_or(|g| g >= deleted), "{name:?} is back");
            let queue = store.queue(name.0, name.1);
            let end = queue.map_or(0, |queue| queue.next_offset());
            assert!(messages.is_empty() || end == next, "{name:?} ends at {end}, not {next}");
        }
        for (sent, found) in self.sent.iter().zip(found) {
            let must = sent.end <= self.safe
                && sent.physical >= min.max(self.before.min)
                && sent.generation >= self.after.generation(sent.queue.0);
            assert!(found || !must, "lost: {:?} {} at {}", sent.queue, sent.offset, sent.physical);
        }
        let disk = Disk::memory(disk.clone());
        let progress = config_file::load_on(&disk, Path::new(PROGRESS), |text| text.parse::<u64>());
        let progress = progress.expect("progress").unwrap_or(0);
        assert!((self.before.progress..=self.after.progress).contains(&progress), "{progress}");
        contents
    }
}

fn same(found: &Contents, wanted: &Contents, what: &str) {
    for (name, wanted) in wanted {
        let place = |messages: &Vec<(i64, i64, Vec<u8>)>| {
            messages.iter().map(|m| (m.0, m.1)).collect::<Vec<_>>()
        };
        assert_eq!(place(&found[name]), place(wanted), "{what}: {name:?}");
        assert!(found[name] == *wanted, "{what}: {name:?} has other bodies");
    }
}

/// The store goes on after a crash, and all that is derived is what a rebuild makes of the log.
fn check_more(image: &Memory, sync: bool, found: &Contents, clock: &Clock) {
    let bare = image.copy();
    for name in ["consumequeue", "batchconsumequeue", "index"] {
        bare.forget(&Path::new(ROOT).join(name));
    }
    let rebuilt = Store::open_stepped(config(&bare, sync), clock.clone()).expect("rebuild");
    let store = Store::open_stepped(config(image, sync), clock.clone()).expect("open");
    same(&read(&rebuilt), found, "a rebuild");
    let keys = |store: &Store| {
        let topics = QUEUES.iter().map(|(topic, _)| topic);
        let all = topics.flat_map(|topic| (0..7).map(move |key| (topic, format!("k{key}"))));
        all.map(|(topic, key)| store.query_index(topic, &key, 10_000, 0, i64::MAX))
            .collect::<Vec<_>>()
    };
    let (ours, theirs) = (keys(&store), keys(&rebuilt));
    for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "the index of {:?} key {}", QUEUES[n / 7], n % 7);
    }
    let mut wanted = found.clone();
    for name in QUEUES {
        let (sent, _) = send_one(&store, name, b"after the crash");
        let list = wanted.entry(name).or_default();
        list.push((sent.offset, sent.physical, sent.body));
    }
    store.commit().unwrap();
    store.flush().unwrap();
    same(&read(&store), &wanted, "a store that goes on");
    store.close().unwrap();
    let store = Store::open_stepped(config(image, sync), clock.clone()).expect("open again");
    same(&read(&store), &wanted, "what came after the crash");
}

/// Says where it was when a check fails.
struct Where<'a> {
    kind: u64,
    power: &'a Power,
    sync: bool,
}

impl Drop for Where<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let kind = if self.kind == 0 { "kill" } else { "power cut" };
            eprintln!("{kind} at change {}, sync flush: {}", self.power.at(), self.sync);
            eprintln!("the last changes were {:#?}", self.power.last(6));
        }
    }
}

/// Runs the workload from disk to disk until `images` of them were looked at.
fn campaign(seed: u64, images: usize) -> usize {
    let mut dice = Dice::new(seed);
    let mut looked_at = 0;
    let (mut start, mut sent, mut now) = (Memory::default(), Vec::new(), Moment::default());
    while looked_at < images {
        let branch = Dice::new(dice.below(u64::MAX));
        let mut run = Run::begin(start.copy(), sent, now, branch);
        for _ in 0..ACTIONS {
            run.act();
        }
        let by_place = run.sent.iter().enumerate().map(|(n, sent)| (sent.physical, n)).collect();
        let stop_at = dice.below(run.memory.changes() as u64 + 1) as usize;
        let mut power = Power::new(&start, &run.memory);
        let mut next = None;
        loop {
            let at = power.at();
            let last = run.moments.partition_point(|moment| moment.changes <= at);
            let before = &run.moments[last - 1];
            let after = run.moments.get(last).unwrap_or(before);
            for kind in 0..3 {
                let (image, safe) = match kind {
                    0 => (power.killed(), before.written),
                    _ => (power.cut(&mut dice), before.flushed),
                };
                let wanted = Wanted { sent: &run.sent, by_place: &by_place, before, after, safe };
                let here = Where { kind, power: &power, sync: run.sync };
                let clock = Clock::manual(T0 + 10_000_000);
                let crashed = image.copy();
                let store = Store::open_stepped(config(&image, run.sync), clock.clone())
                    .expect("the store opens");
                let found = wanted.check(&store, &image);
                if dice.once_in(8) {
                    drop(store);
                    check_more(&image, run.sync, &found, &clock);
                }
                drop(here);
                looked_at += 1;
                if at >= stop_at && next.is_none() && dice.once_in(3) {
                    next = Some((crashed, found, after.clone(), before.clone()));
                }
            }
            if !power.step() {
                break;
            }
        }
        let (image, found, after, before) = next.unwrap_or_else(|| {
            let store = Store::open_stepped(config(&run.memory, run.sync), run.clock.clone());
            let found = read(&store.expect("open"));
            (run.memory.copy(), found, run.now.clone(), run.now.clone())
        });
        (start, sent, now) = settle(image, run.sent, &found, &after, &before, run.sync);
    }
    looked_at
}

/// What is known of a disk from which the workload goes on.
fn settle(
    image: Memory,
    sent: Vec<Sent>,
    found: &Contents,
    after: &Moment,
    before: &Moment,
    sync: bool,
) -> (Memory, Vec<Sent>, Moment) {
    let there: Vec<i64> = found.values().flatten().map(|message| message.1).collect();
    let kept: Vec<Sent> = sent.into_iter().filter(|sent| there.contains(&sent.physical)).collect();
    // Between the beginning and the end of a deletion the disk itself says which it is.
    let mut generations = before.generations.clone();
    for (topic, generation) in &after.generations {
        let gone = !kept.iter().any(|sent| sent.queue.0 == *topic);
        if gone {
            generations.insert(topic, *generation);
        }
    }
    let probe = image.copy();
    let store = Store::open_stepped(config(&probe, sync), Clock::manual(T0)).expect("open");
    let end = store.watermarks().flushed;
    let disk = Disk::memory(image.clone());
    let progress = config_file::load_on(&disk, Path::new(PROGRESS), |text| text.parse::<u64>());
    let progress = progress.expect("progress").unwrap_or(0);
    let min = store.watermarks().min;
    let now = Moment { changes: 0, written: end, flushed: end, min, generations, progress };
    (image, kept, now)
}

#[test]
fn nothing_acknowledged_is_lost_at_any_change_of_the_disk() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let images = number("POWER_IMAGES").unwrap_or(20_000) as usize;
    let seed = number("APOGEE_SEED").unwrap_or(1_u64);
    println!("APOGEE_SEED={seed}");
    // One campaign is a few hundred disks, so that a failing seed is found again soon.
    let (campaigns, each) = (images.div_ceil(1000), images.min(1000));
    let (next, total) = (AtomicUsize::new(0), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= campaigns {
                        return;
                    }
                    let seed = seed + number as u64;
                    let result = std::panic::catch_unwind(|| campaign(seed, each));
                    let looked_at = result.unwrap_or_else(|panic| {
                        eprintln!("repeat with APOGEE_SEED={seed} POWER_IMAGES=1000");
                        std::panic::resume_unwind(panic)
                    });
                    total.fetch_add(looked_at, Ordering::Relaxed);
                }
            });
        }
    });
    println!("crash images: {}", total.load(Ordering::Relaxed));
}
