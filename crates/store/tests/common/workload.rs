//! A random workload on a store in memory, what it knows, and the comparison with a disk.

use std::collections::{BTreeMap, HashMap};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::clock::Clock;
use store::disk::{Dice, Disk, Memory};
use store::{Store, StoreConfig, config_file};
use wire::properties::Known;
use wire::record::{self, INNER_BATCH, NewRecord};

use super::*;

/// Where the store is. The directory above it is new as well.
pub const ROOT: &str = "/data/store";
/// What a consumer would call its progress.
pub const PROGRESS: &str = "/data/store/config/progress.json";
pub const T0: i64 = 1_700_000_000_000;
/// Actions between two disks from which the workload goes on.
pub const ACTIONS: u64 = 40;

pub type Name = (&'static str, i32);

/// Queues; the last one is a batch queue.
pub const QUEUES: [Name; 6] = [("A", 0), ("A", 1), ("B", 0), ("B", 3), ("C", 0), ("Batch", 0)];

#[derive(Debug, Clone)]
pub struct Sent {
    pub queue: Name,
    /// How often its topic had been deleted.
    pub generation: usize,
    pub offset: i64,
    pub count: i64,
    pub physical: i64,
    pub end: i64,
    pub body: Vec<u8>,
}

/// What was certain after an action.
#[derive(Debug, Clone, Default)]
pub struct Moment {
    /// Changes of the disk up to here.
    pub changes: usize,
    pub written: i64,
    pub flushed: i64,
    pub min: i64,
    pub generations: BTreeMap<&'static str, usize>,
    pub progress: u64,
}

impl Moment {
    pub fn generation(&self, topic: &str) -> usize {
        self.generations.get(topic).copied().unwrap_or(0)
    }
}

pub fn config(memory: &Memory, sync: bool) -> StoreConfig {
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
pub struct Run {
    pub disk: Disk,
    pub memory: Memory,
    pub store: Arc<Store>,
    /// It was closed and did not open again.
    pub is_closed: bool,
    pub clock: Clock,
    pub dice: Dice,
    pub sync: bool,
    pub sent: Vec<Sent>,
    pub now: Moment,
    pub moments: Vec<Moment>,
}

impl Run {
    /// Opens the store on `memory`, of which `sent` and `now` are known.
    pub fn begin(memory: Memory, sent: Vec<Sent>, now: Moment, dice: Dice) -> Run {
        let disk = Disk::memory(memory.clone());
        Run::begin_on(disk, memory, sent, now, dice).expect("open")
    }

    /// The same, where `disk` is `memory` with something in between.
    pub fn begin_on(
        disk: Disk,
        memory: Memory,
        sent: Vec<Sent>,
        now: Moment,
        mut dice: Dice,
    ) -> Outcome<Run> {
        let sync = dice.once_in(2);
        let clock = Clock::manual(T0 + dice.below(1_000_000) as i64);
        let moments = vec![Moment { changes: 0, ..now.clone() }];
        let config = StoreConfig { disk: disk.clone(), ..config(&memory, sync) };
        let store = Store::open_stepped(config, clock.clone()).map_err(text)?;
        let mut run =
            Run { disk, memory, store, is_closed: false, clock, dice, sync, sent, now, moments };
        run.note();
        Ok(run)
    }

    /// Remembers what is certain now.
    pub fn note(&mut self) {
        let marks = self.store.watermarks();
        self.now.changes = self.memory.changes();
        (self.now.written, self.now.flushed) = (marks.written, marks.flushed);
        self.now.min = marks.min;
        self.moments.push(self.now.clone());
    }

    /// Does something. After an error `now` says what may have come about.
    pub fn act(&mut self) -> Outcome<()> {
        match self.dice.below(100) {
            0..50 => self.send()?,
            50..70 => drop(self.store.commit().map_err(text)?),
            70..80 => drop(self.store.flush().map_err(text)?),
            80..90 => {
                self.clock.advance(self.dice.below(9000) as i64);
                self.store.look_after();
            }
            90..94 => {
                self.now.progress += 1;
                let progress = self.now.progress.to_string();
                config_file::save_on(&self.disk, Path::new(PROGRESS), &progress).map_err(text)?;
            }
            94 => {
                self.store.delete_expired_now();
                self.store.look_after();
            }
            95..98 => {
                let topic = ["A", "C"][self.dice.below(2) as usize];
                *self.now.generations.entry(topic).or_default() += 1;
                self.store.delete_topic(topic).map_err(text)?;
            }
            _ => {
                self.store.close().map_err(text)?;
                self.note();
                self.is_closed = true;
                let config = config(&self.memory, self.sync);
                let config = StoreConfig { disk: self.disk.clone(), ..config };
                self.store = Store::open_stepped(config, self.clock.clone()).map_err(text)?;
                self.is_closed = false;
            }
        }
        self.note();
        Ok(())
    }

    fn send(&mut self) -> Outcome<()> {
        let queue = QUEUES[self.dice.below(QUEUES.len() as u64) as usize];
        let lengths = [1, 40, 700, 3000];
        let length = lengths[self.dice.below(4) as usize] + self.dice.below(40);
        let body: Vec<u8> = (0..length).map(|_| self.dice.below(256) as u8).collect();
        let sent = send_one(&self.store, queue, &body)?;
        let generation = self.now.generation(queue.0);
        self.sent.push(Sent { generation, ..sent });
        Ok(())
    }
}

/// A result whose error only a person reads.
pub type Outcome<T> = Result<T, String>;

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Appends a message, or three in one record, and says what became of it.
pub fn send_one(store: &Store, queue: Name, body: &[u8]) -> Outcome<Sent> {
    let (topic, id) = queue;
    let key = format!("KEYS\u{1}k{}\u{2}", body.len() % 7);
    let (handle, count) = match topic {
        "Batch" => (store.batch_queue_or_create(topic, id), 3),
        _ => (store.queue_or_create(topic, id), 1),
    };
    let appended = if count == 1 {
        append(store, &handle, body, &key)
    } else {
        let properties = format!("INNER_NUM\u{1}{count}\u{2}{key}");
        let new: NewRecord<'_> = record(&handle, body, &properties);
        let new = NewRecord { sys_flag: INNER_BATCH, ..new };
        store.append_inner_batch(&handle, &new, &Known::scan(&properties), count)
    };
    let appended = appended.map_err(text)?;
    let place = appended.place;
    Ok(Sent {
        queue,
        generation: 0,
        offset: place.queue_offset,
        count: i64::from(count),
        physical: place.physical_offset,
        end: appended.end,
        body: body.to_vec(),
    })
}

/// Physical offsets of what a queue has, in its order.
pub type Contents = BTreeMap<Name, Vec<(i64, i64, Vec<u8>)>>;

/// Everything in all queues: queue offset, physical offset, body.
pub fn read(store: &Store) -> Contents {
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
pub struct Wanted<'a> {
    pub sent: &'a [Sent],
    pub by_place: &'a HashMap<i64, usize>,
    /// Certain before the change, and possible after it.
    pub before: &'a Moment,
    pub after: &'a Moment,
    /// Log offset below which everything must be there.
    pub safe: i64,
}

impl Wanted<'_> {
    /// Compares; returns what was found.
    pub fn check(&self, store: &Store, disk: &Memory) -> Contents {
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

pub fn same(found: &Contents, wanted: &Contents, what: &str) {
    for (name, wanted) in wanted {
        let place = |messages: &Vec<(i64, i64, Vec<u8>)>| {
            messages.iter().map(|m| (m.0, m.1)).collect::<Vec<_>>()
        };
        assert_eq!(place(&found[name]), place(wanted), "{what}: {name:?}");
        assert!(found[name] == *wanted, "{what}: {name:?} has other bodies");
    }
}

/// The store goes on after a crash, and all that is derived is what a rebuild makes of the log.
pub fn check_more(image: &Memory, sync: bool, found: &Contents, clock: &Clock) {
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
        let sent = send_one(&store, name, b"after the crash").expect("send");
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

/// A number from the environment.
pub fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs `job` for 0 up to `count` on all processors. A job that panics ends everything; `repeat`
/// says how to see it again.
pub fn in_parallel(count: u64, job: impl Fn(u64) + Sync, repeat: impl Fn(u64) -> String + Sync) {
    let next = AtomicU64::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return;
            }
            let result = catch_unwind(AssertUnwindSafe(|| job(number)));
            if let Err(panic) = result {
                say(&format!("repeat with {}", repeat(number)));
                next.store(count, Ordering::Relaxed);
                resume_unwind(panic);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
}

/// Prints a line of a test.
#[expect(clippy::print_stdout, reason = "what a person or CI reads of a test")]
pub fn say(line: &str) {
    println!("{line}");
}
