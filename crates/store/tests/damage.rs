//! Damaged stores: flipped bits, cut, zeroed, lost and stale files, against what was written.
//!
//! A few stores are made on disks in memory. Copies of them are damaged at random and opened.
//! Nothing may panic, hang or take memory without bound; nothing is served that was not written;
//! what the damage did not touch is served; numbering goes on where it was; and the store works
//! afterwards. What "touched" means is read off the bytes, not told by what did the damage.
//!
//! `DAMAGE_IMAGES` says how many; `APOGEE_SEED` repeats one.
#![allow(unsafe_code)] // the counting allocator, which only this test uses
#![allow(clippy::print_stderr)] // a failing image says what was done to it
#![allow(clippy::unwrap_used)]

#[path = "damage/base.rs"]
mod base_stores;
mod common;
#[path = "damage/harm.rs"]
mod harm;
#[path = "damage/journal.rs"]
mod journal;
#[path = "damage/taken.rs"]
mod taken;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::clock::{Clock, Stopwatch};
use base_stores::{Base, Name, PROGRESS, Sent, T0, config, parse_progress, send_one};
use common::*;
use harm::Harm;
use journal::one_journal;
use parking_lot::Mutex;
use store::disk::{Dice, Disk, Memory};
use store::{At, Edge, OpenError, Store, Wait, check, config_file};
use taken::{PEAK, TAKEN};
use wire::record::{self, Record, Scanned};

/// Memory that a damaged store of a few KiB may take at most.
const MAX_MEMORY: usize = 64 << 20;
/// Time that one image may take at most, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// Failing images after which the others are left alone.
const MAX_FAILURES: usize = 10;

/// What became of the images.
#[derive(Debug, Default)]
struct Tally {
    /// There is one image only: say what was done to it.
    loud: bool,
    opened: AtomicUsize,
    refused: Mutex<BTreeMap<String, usize>>,
    journals: AtomicUsize,
}

/// Records by queue and queue offset: place and bytes.
type Contents = BTreeMap<(Name, i64), (i64, Vec<u8>)>;

/// One record of a queue as it was served: its first queue offset there.
fn offset_in(name: &Name, record: &Record<'_>) -> i64 {
    base_stores::offset_in(name, record).expect("a record that names its offset")
}

/// Everything in all queues, read as a consumer does.
fn read(store: &Store) -> Contents {
    let mut all = Contents::new();
    for (topic, ids) in store.topics() {
        for id in ids {
            let queue = store.queue(&topic, id).unwrap();
            let name = (topic.clone(), id);
            let mut from = queue.min_offset();
            while from < queue.max_offset(store) {
                let (fetch, out) = fetch(store, &queue, from, 64);
                assert!(fetch.next > from, "{name:?}: no progress at {from}: {fetch:?}");
                for record in record::records(&out) {
                    let record = record.expect("record");
                    record.check_crc().expect("crc");
                    let offset = offset_in(&name, &record);
                    assert!(offset < fetch.next, "{name:?}: {offset} out of turn");
                    let value = (record.physical_offset(), record.bytes().to_vec());
                    let twice = all.insert((name.clone(), offset), value);
                    assert!(twice.is_none(), "{name:?}: {offset} twice");
                }
                from = fetch.next;
            }
        }
    }
    all
}

/// An image and what is known of it.
struct Case<'a> {
    base: &'a Base,
    image: Memory,
    harm: Harm,
    /// Records and markers of the log whose own bytes are not what was written.
    hurt: BTreeSet<i64>,
    /// Places that hurt records name as theirs.
    claims: Vec<(Name, i64, i64)>,
    /// Batches are found by halving, which one bad entry does not mislead, but several may.
    bad_batches: bool,
    /// What would show that queues are not whole was damaged with them.
    blind: bool,
    /// `store verify` found nothing wrong: then nothing may be missing.
    spotless: bool,
}

impl<'a> Case<'a> {
    fn new(base: &'a Base, image: Memory, harm: Harm) -> Case<'a> {
        let is_hurt = |(at, len): &(i64, usize)| {
            let in_file = (*at - base.file_start(*at)) as usize;
            harm.touches(&base.log_file(*at), in_file, *len)
        };
        let hurt: BTreeSet<i64> = base.places().into_iter().filter(is_hurt).map(|p| p.0).collect();
        let mut claims = Vec::new();
        for sent in base.sent.iter().filter(|sent| hurt.contains(&sent.physical)) {
            if let Some(bytes) = harm.bytes(base, sent)
                && let Ok(Scanned::Record(record)) = record::scan(&bytes)
            {
                claims.extend(base_stores::places_of(&record));
            }
        }
        let bad_batches = harm.units_in("batchconsumequeue/B/0", 46) > 1;
        let queues = ["consumequeue", "batchconsumequeue"];
        let blind = harm.any_in("checkpoint") && queues.iter().any(|part| harm.any_in(part));
        // One queue may have gained as many entries as another one lost.
        // The CRC of a list with several flipped bits may be damaged away.
        let list = "config/apogee-deleted-topics.txt";
        let blind = blind || harm.units_in(list, 1) > 1;
        let blind = blind || queues.iter().map(|part| harm.dirs_in(part)).sum::<usize>() > 1;
        Case { base, image, harm, hurt, claims, bad_batches, blind, spotless: false }
    }

    fn is_hurt(&self, sent: &Sent) -> bool {
        self.hurt.contains(&sent.physical)
    }

    /// Behind here the log may have been cut: the first bad place that recovery cannot know to
    /// be damage instead of the end.
    fn may_end_at(&self) -> i64 {
        let vague = self.harm.any_in("checkpoint") || self.harm.any_in("abort");
        let known = if vague { 0 } else { self.base.checkpoint };
        let known =
            if self.base.clean && !self.harm.any_outside("commitlog") { i64::MAX } else { known };
        self.hurt.range(known..).next().copied().unwrap_or(i64::MAX)
    }

    /// Whether the queue's files may fail to show a message: its entry was touched where it
    /// stands, or they look as if the oldest had been deleted with their records.
    fn lost_entry(&self, name: &Name, offset: i64) -> bool {
        let Some((path, at, len)) = self.base.entry_place(name, offset) else { return true };
        self.harm.touches_in_place(&path, at, len)
            || self.harm.is_gone(&path)
            || self.bad_batches && name.0 == "B"
    }

    /// A record that names a queue and offset that are not its own, which nothing can tell.
    fn claimed(&self, name: &Name, offset: i64) -> bool {
        let holds = |c: &(Name, i64, i64)| c.0 == *name && (c.1..c.1 + c.2).contains(&offset);
        self.claims.iter().any(holds)
    }

    /// Everything served was written; returns what was found.
    fn check(&self, store: &Store) -> Contents {
        let contents = read(store);
        for ((name, offset), (physical, bytes)) in &contents {
            let sent = self.base.by_place.get(physical).map(|n| &self.base.sent[*n]);
            let sent = sent.unwrap_or_else(|| panic!("{name:?} {offset}: nobody wrote that"));
            if sent.bytes == *bytes {
                let own = sent.places.iter().any(|place| (&place.0, place.1) == (name, *offset));
                assert!(own, "{name:?} {offset}: a record of {:?}", sent.places);
            } else {
                // What no CRC covers: the header and the properties.
                let now = self.harm.bytes(self.base, sent);
                assert!(now.as_ref() == Some(bytes), "{name:?} {offset}: other bytes");
                let (Ok(Scanned::Record(old)), Ok(Scanned::Record(new))) =
                    (record::scan(&sent.bytes), record::scan(bytes))
                else {
                    panic!("not a record")
                };
                assert!(old.body() == new.body(), "{name:?} {offset}: another body");
            }
        }
        let (end, min) = (self.may_end_at(), store.watermarks().min);
        for sent in &self.base.sent {
            if self.is_hurt(sent) || sent.physical >= end || sent.physical < min {
                continue;
            }
            let mut out = Vec::new();
            assert_eq!(store.at(sent.physical, Wait::MayBlock, &mut out), At::Found);
            assert!(out == sent.bytes, "other bytes at {}", sent.physical);
            for (name, offset, count) in &sent.places {
                if self.base.is_deleted(name) {
                    continue;
                }
                let claimed = self.claimed(name, *offset);
                let next = store.queue(&name.0, name.1).map_or(0, |queue| queue.next_offset());
                let claimed = claimed || self.blind;
                assert!(claimed || next >= offset + count, "{name:?} goes on at {next}");
                let found = contents.contains_key(&(name.clone(), *offset));
                assert!(
                    found || !self.spotless,
                    "verify did not see that {name:?} {offset} is lost"
                );
                let excused = || self.blind || claimed || self.lost_entry(name, *offset);
                assert!(found || excused(), "{name:?} {offset} at {} is lost", sent.physical);
            }
        }
        self.check_lookups(store, end);
        contents
    }

    /// Times, keys and any offset at all.
    fn check_lookups(&self, store: &Store, end: i64) {
        for (topic, ids) in store.topics() {
            for id in ids {
                let queue = store.queue(&topic, id).unwrap();
                let (min, max) = (queue.min_offset(), queue.max_offset(store));
                for time in [i64::MIN, 0, T0, T0 + 50_000, i64::MAX] {
                    for edge in [Edge::Lower, Edge::Upper] {
                        let at = store.offset_by_time(&queue, time, edge);
                        assert!((min..=max).contains(&at), "{topic} {id}: {at} of {min}..{max}");
                    }
                }
                for at in [i64::MIN, -1, min, max - 1, max, i64::MAX] {
                    let _ = queue.entry(store, at);
                }
            }
        }
        // Without both a killed store looks like one that was stopped cleanly.
        let killed = self.harm.any_in("abort") && self.harm.any_in("checkpoint");
        let intact = !self.harm.any_in("index") && !killed;
        for key in ["k0", "k3", "none"] {
            let found = store.query_index("T", key, 1000, 0, i64::MAX);
            let marks = store.watermarks();
            assert!(found.iter().all(|at| (marks.min..marks.readable).contains(at)));
            for sent in self.base.sent.iter().filter(|sent| sent.has_key("T", key)) {
                let there = !self.is_hurt(sent) && sent.physical < end;
                let there = there && sent.physical >= marks.min;
                assert!(!intact || !there || found.contains(&sent.physical), "{key} is not found");
            }
        }
        let mut out = Vec::new();
        for at in [i64::MIN, -1, 1, 4095, i64::MAX] {
            let _ = store.at(at, Wait::MayBlock, &mut out);
        }
    }

    /// The store goes on, and says the same after a clean stop.
    fn goes_on(&self, store: &Store, found: &Contents, clock: &Clock) {
        let mut wanted = found.clone();
        for name in self.base.names() {
            let next = store.queue(&name.0, name.1).map_or(0, |queue| queue.next_offset());
            let sent = send_one(store, &name, b"after the damage", "k0");
            for (place, offset, _) in &sent.places {
                wanted.insert((place.clone(), *offset), (sent.physical, sent.bytes.clone()));
            }
            assert_eq!(sent.places[0].1, next, "{name:?}");
        }
        store.flush().unwrap();
        store.close().unwrap();
        let store = Store::open_stepped(config(&self.image), clock.clone()).expect("open again");
        let now = read(&store);
        let missed = |name: &Name, offset: i64| {
            self.bad_batches && name.0 == "B"
                || self.base.entry_place(name, offset).is_some() && self.lost_entry(name, offset)
        };
        for (place, value) in wanted.iter().filter(|(place, _)| !missed(&place.0, place.1)) {
            assert!(now.get(place) == Some(value), "{place:?} is gone after a clean stop");
        }
        store.close().unwrap();
    }

    /// Looks at the image as `apogee store verify` does, which changes nothing; whether it is
    /// clean.
    fn verify(&self) -> bool {
        let before = self.image.files();
        let report = check::verify(&config(&self.image), &mut |_, _| {}).expect("verify");
        assert!(self.image.files() == before, "verify changed something");
        let in_log = report.part("commitlog").is_some_and(|part| part.is_damaged());
        let seen = in_log || report.log.1 < self.base.end();
        // Oldest files that are gone are what retention does.
        let mut left = self.base.sent.iter().filter(|sent| sent.physical >= report.log.0);
        let body = left.any(|sent| self.is_hurt(sent) && self.is_bad(sent));
        assert!(seen || !body, "verify did not see a damaged record");
        let early = |part: &check::Part| part.notes.iter().any(|note| note.contains("in front of"));
        !report.is_damaged() && !seen && !report.parts.iter().any(early)
    }

    /// Whether what stands in the place of a record is none.
    fn is_bad(&self, sent: &Sent) -> bool {
        let Some(bytes) = self.harm.bytes(self.base, sent) else { return true };
        let Ok(Scanned::Record(record)) = record::scan(&bytes) else { return true };
        record.check_crc().is_err() || record.physical_offset() != sent.physical
    }

    fn check_config(&self) {
        let disk = Disk::memory(self.image.clone());
        let hurt = |path: &str| self.harm.any_in(path.strip_prefix("/data/store/").unwrap());
        let backup = format!("{PROGRESS}.bak");
        match config_file::load_on(&disk, Path::new(PROGRESS), parse_progress) {
            Ok(Some(2)) => {}
            Ok(Some(1)) => assert!(hurt(PROGRESS), "the backup without need"),
            Ok(other) => assert!(hurt(PROGRESS) && hurt(&backup), "{other:?}"),
            Err(error) => {
                assert!(hurt(PROGRESS) && hurt(&backup), "{error}");
                assert!(error.to_string().contains("progress.json"), "{error}");
            }
        }
    }
}

/// Damages a copy of a store and looks at what it is then.
fn one_store(base: &Base, dice: &mut Dice, tally: &Tally) {
    let image = base.memory.copy();
    let harm = Harm::to_store(base, &image, dice);
    let clock = Clock::manual(T0 + 10_000_000);
    if tally.loud {
        eprintln!("{} {harm:?}", base.describe());
    }
    let case = Case::new(base, image, harm);
    if tally.loud {
        let hurt = base.sent.iter().filter(|sent| case.is_hurt(sent)).map(|sent| &sent.places);
        eprintln!("hurt: {:?}, which now claim {:?}", hurt.collect::<Vec<_>>(), case.claims);
    }
    let verified = dice.once_in(4) && case.verify();
    let case = Case { spotless: verified && base.clean, ..case };
    match Store::open_stepped(config(&case.image), clock.clone()) {
        Ok(store) => {
            tally.opened.fetch_add(1, Ordering::Relaxed);
            let found = case.check(&store);
            case.goes_on(&store, &found, &clock);
        }
        Err(OpenError::Layout { path, reason }) => {
            assert!(case.harm.is_of_layout(&path), "refused {}: {reason}", path.display());
            let kind = path.parent().and_then(Path::file_name).unwrap_or_default();
            *tally.refused.lock().entry(kind.to_string_lossy().into_owned()).or_default() += 1;
        }
        Err(error) => panic!("refused without a reason: {error}"),
    }
    case.check_config();
}

/// Looks at one image, within its limits of time and memory.
fn one(seed: u64, bases: &[Base], tally: &Tally) {
    let mut dice = Dice::new(seed);
    let before = TAKEN.get();
    PEAK.set(before);
    if dice.once_in(20) {
        tally.journals.fetch_add(1, Ordering::Relaxed);
        one_journal(&mut dice);
    } else {
        let base = &bases[dice.below(bases.len() as u64) as usize];
        one_store(base, &mut dice, tally);
    }
    let peak = PEAK.get().wrapping_sub(before);
    assert!(peak < MAX_MEMORY, "took {peak} bytes of memory");
}

#[test]
fn a_damaged_store_serves_what_is_left_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let images = number("DAMAGE_IMAGES").unwrap_or(10_000_u64);
    let seed = number("APOGEE_SEED").unwrap_or(1_u64);
    println!("APOGEE_SEED={seed}");
    let bases = Base::all();
    let tally = Tally { loud: images == 1, ..Tally::default() };
    let next = AtomicUsize::new(0);
    let running: Mutex<HashMap<u64, Stopwatch>> = Mutex::default();
    let (finished, failures) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed) as u64;
                    if number >= images {
                        break;
                    }
                    let seed = seed + number;
                    running.lock().insert(seed, Stopwatch::start());
                    let look = AssertUnwindSafe(|| one(seed, &bases, &tally));
                    if std::panic::catch_unwind(look).is_err() {
                        eprintln!("repeat with APOGEE_SEED={seed} DAMAGE_IMAGES=1");
                        // A few of them show more than one does.
                        if failures.fetch_add(1, Ordering::Relaxed) >= MAX_FAILURES {
                            next.fetch_add(images as usize, Ordering::Relaxed);
                        }
                    }
                    running.lock().remove(&seed);
                }
                finished.fetch_add(1, Ordering::Relaxed);
            });
        }
        // A loop without end would hold the test up for ever and say nothing.
        while finished.load(Ordering::Relaxed) < threads {
            std::thread::sleep(Duration::from_millis(20));
            let late =
                running.lock().iter().find(|(_, at)| at.elapsed() > PATIENCE).map(|late| *late.0);
            if let Some(seed) = late {
                eprintln!("hangs: repeat with APOGEE_SEED={seed} DAMAGE_IMAGES=1");
                std::process::abort();
            }
        }
    });
    println!("damage images: {tally:?}");
    assert_eq!(failures.load(Ordering::Relaxed), 0, "images failed; their seeds are above");
}
