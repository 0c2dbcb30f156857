//! The journal of a configuration file against a plain map, with kills, power cuts and failing
//! disks at every change that it makes to its disk.
//!
//! `APOGEE_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use store::config_file;
use store::config_journal::{ConfigJournal, Opened};
use store::disk::{Act, Dice, Disk, Memory, Power, Verdict, Watch};

const FILE: &str = "/data/store/config/topics.json";
const JOURNAL: &str = "/data/store/config/apogee-topics.journal";

type Map = BTreeMap<String, String>;

/// The file is a mark and lines of `name=value`; a change is such a line, an empty value removes.
fn text_of(map: &Map) -> String {
    let lines = map.iter().map(|(name, value)| format!("{name}={value}\n"));
    std::iter::once("#\n".to_owned()).chain(lines).collect()
}

fn apply(map: &mut Map, text: &str) {
    for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
        if value.is_empty() {
            map.remove(name);
        } else {
            map.insert(name.to_owned(), value.to_owned());
        }
    }
}

fn parse(text: &str) -> Result<Map, String> {
    let mut map = Map::new();
    let is_whole = text.starts_with("#\n") && text.ends_with('\n');
    apply(&mut map, text);
    if is_whole { Ok(map) } else { Err(format!("half a file: {text:?}")) }
}

fn open(disk: &Disk) -> (Map, ConfigJournal) {
    let Opened { file, changes, journal } =
        ConfigJournal::open(disk, Path::new(FILE), parse).expect("open");
    let mut map = file.unwrap_or_default();
    changes.iter().for_each(|change| apply(&mut map, change));
    (map, journal)
}

/// What a disk may hold behind a number of changes.
#[derive(Debug, Clone)]
struct Moment {
    changes: usize,
    /// What was acknowledged.
    map: Map,
    /// What it may be as well: changes that were refused since the last one that was not.
    refused: Vec<Map>,
}

struct Run {
    memory: Memory,
    disk: Disk,
    journal: ConfigJournal,
    dice: Dice,
    /// 0: the disk is well, else one operation in so many fails.
    failing: Arc<AtomicU64>,
    map: Map,
    refused: Vec<Map>,
    moments: Vec<Moment>,
    now_ms: i64,
    exports: u64,
}

/// A disk on which now and then something fails, or arrives in part.
fn failing_disk(memory: &Memory, seed: u64) -> (Disk, Arc<AtomicU64>) {
    let failing = Arc::new(AtomicU64::new(0));
    let (one_in, count) = (Arc::clone(&failing), AtomicU64::new(seed));
    let watch: Watch = Arc::new(move |act: Act, _: &Path| {
        let one_in = one_in.load(Ordering::Relaxed);
        let mut dice = Dice::new(count.fetch_add(1, Ordering::Relaxed));
        if one_in == 0 || !dice.once_in(one_in) {
            return Verdict::Go;
        }
        let error = || io::Error::other("the disk is ill");
        match act {
            Act::Write => Verdict::Short(dice.below(60) as usize, error()),
            _ => Verdict::Fail(error()),
        }
    });
    (Disk::memory(memory.clone()).watched(watch), failing)
}

impl Run {
    fn begin(memory: Memory, expected: &Map, mut dice: Dice) -> Run {
        let (disk, failing) = failing_disk(&memory, dice.below(u64::MAX));
        let (map, journal) = open(&disk);
        assert_eq!(&map, expected);
        let moments = vec![Moment { changes: 0, map: map.clone(), refused: Vec::new() }];
        let refused = Vec::new();
        let (now_ms, exports) = (1_700_000_000_000, 0);
        Run { memory, disk, journal, dice, failing, map, refused, moments, now_ms, exports }
    }

    fn note(&mut self) {
        let (map, refused) = (self.map.clone(), self.refused.clone());
        self.moments.push(Moment { changes: self.memory.changes(), map, refused });
    }

    fn change(&mut self) {
        let name = format!("t{}", self.dice.below(8));
        let remove = self.map.contains_key(&name) && self.dice.once_in(3);
        let len = [1, 700][self.dice.below(2) as usize];
        let value = if remove { String::new() } else { format!("{:01$}", self.now_ms, len) };
        let change = format!("{name}={value}\n");
        let mut next = self.map.clone();
        apply(&mut next, &change);
        // Until it returns both are possible, and whatever was refused before.
        self.refused.push(next.clone());
        self.note();
        if self.journal.append(change, self.now_ms).is_ok() {
            self.map = next;
            self.refused.clear();
        } else {
            assert!(self.failing.load(Ordering::Relaxed) > 0);
        }
        self.note();
    }

    fn export(&mut self) {
        let export = self.journal.begin_export().expect("one at a time");
        assert!(self.journal.begin_export().is_none());
        let text = text_of(&self.map);
        if self.dice.once_in(2) {
            self.change(); // comes in while the text is made
        }
        if self.journal.export(export, &text, self.now_ms).is_ok() {
            self.exports += 1;
        }
        self.note();
    }

    fn restart(&mut self, clean: bool) {
        self.failing.store(0, Ordering::Relaxed);
        if clean {
            self.now_ms += 100_000; // over the pause after an export that failed
            assert_eq!(self.journal.has_changes(), self.journal.wants_export(self.now_ms));
            while self.journal.has_changes() {
                self.export();
            }
            self.journal.remove().unwrap();
            let left = self.memory.files();
            assert!(left.iter().all(|(path, _)| !path.starts_with(JOURNAL)), "{left:?}");
            if self.dice.once_in(3) {
                self.other_program();
            }
        }
        let (map, journal) = open(&self.disk);
        assert!(map == self.map || self.refused.contains(&map), "{map:?} {:?}", self.map);
        (self.map, self.journal) = (map, journal);
        self.refused.clear();
        self.note();
    }

    /// A Java broker takes the store over, changes something, and stops.
    fn other_program(&mut self) {
        let mut map = self.map.clone();
        apply(&mut map, &format!("java={}\n", self.now_ms));
        self.refused = vec![map.clone()];
        self.note();
        config_file::save_on(&self.disk, Path::new(FILE), &text_of(&map)).unwrap();
        self.map = map;
        self.refused.clear();
    }

    fn act(&mut self) {
        self.now_ms += 1 + self.dice.below(3000) as i64;
        match self.dice.below(20) {
            0 => self.restart(self.now_ms % 2 == 0),
            1..4 => self.export(),
            4 => self.failing.store([0, 0, 3, 10][self.dice.below(4) as usize], Ordering::Relaxed),
            _ => self.change(),
        }
    }
}

/// Opens what is left of a disk and compares.
fn judge(image: Memory, moments: &[Moment], at: usize, what: &str) -> (Memory, Map) {
    let (map, journal) = open(&Disk::memory(image.clone()));
    drop(journal);
    let last = moments.iter().rposition(|moment| moment.changes <= at).unwrap();
    let moment = &moments[last];
    let fits = moment.map == map || moment.refused.contains(&map);
    assert!(fits, "{what} at {at}: {map:#?}, allowed {moment:#?}");
    (image, map)
}

#[test]
fn what_was_acknowledged_is_there_after_any_end() {
    let seed = std::env::var("APOGEE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| std::process::id().into());
    println!("APOGEE_SEED={seed}");
    let mut dice = Dice::new(seed);
    let (mut memory, mut expected) = (Memory::default(), Map::new());
    let (mut images, mut exports) = (0, 0);
    // The store's directory is there before its configuration is.
    config_file::save_on(&Disk::memory(memory.clone()), Path::new("/data/store/x"), "").unwrap();
    for _ in 0..60 {
        let start = memory.copy();
        let mut run = Run::begin(memory, &expected, Dice::new(dice.below(u64::MAX)));
        (0..40).for_each(|_| run.act());
        exports += run.exports;
        let Run { memory: disk, moments, .. } = run;
        let changes = disk.changes();
        let go_on = dice.below(changes as u64 + 1) as usize;
        let mut power = Power::new(&start, &disk);
        let mut next = None;
        loop {
            for _ in 0..2 {
                let cut = power.cut(&mut dice);
                let judged = judge(cut, &moments, power.at(), "power cut");
                images += 1;
                if power.at() == go_on {
                    next = Some(judged);
                }
            }
            judge(power.killed(), &moments, power.at(), "kill");
            images += 1;
            if !power.step() {
                break;
            }
        }
        (memory, expected) = next.unwrap();
    }
    println!("{images} disks, {exports} exports");
    assert!(exports > 20);
}

#[test]
fn a_journal_of_another_file_is_dropped() {
    let disk = Disk::memory(Memory::default());
    let (_, journal) = open(&disk);
    journal.append("a=1\n".into(), 0).unwrap();
    let export = journal.begin_export().unwrap();
    journal.export(export, "#\na=1\n", 0).unwrap();
    journal.append("b=2\n".into(), 0).unwrap();
    assert_eq!(open(&disk).0.len(), 2);
    // As a Java broker does: it knows the file only.
    config_file::save_on(&disk, Path::new(FILE), "#\na=1\nc=3\n").unwrap();
    let (map, journal) = open(&disk);
    assert_eq!(text_of(&map), "#\na=1\nc=3\n");
    journal.append("d=4\n".into(), 0).unwrap();
    assert_eq!(text_of(&open(&disk).0), "#\na=1\nc=3\nd=4\n");
    // The former text again: what went on from it is gone for good.
    config_file::save_on(&disk, Path::new(FILE), "#\na=1\n").unwrap();
    assert_eq!(text_of(&open(&disk).0), "#\na=1\n");
}

#[test]
fn a_change_costs_its_own_bytes() {
    let memory = Memory::default();
    let disk = Disk::memory(memory.clone());
    let written = Arc::new(AtomicU64::new(0));
    let (_, journal) = open(&disk);
    for number in 0..10_000 {
        let change = format!("topic{number}=a configuration of some length\n");
        written.fetch_add(change.len() as u64, Ordering::Relaxed);
        journal.append(change, number).unwrap();
    }
    let on_disk: usize = memory.files().iter().map(|(_, bytes)| bytes.len()).sum();
    let overhead = on_disk as u64 - written.load(Ordering::Relaxed);
    assert!(overhead <= 10_000 * 9 + 40, "{overhead}");
    // A write and a sync for each, and what a new file needs.
    assert!(memory.changes() <= 2 * 10_000 + 20, "{}", memory.changes());
    // The first change was at 0.
    assert!(!journal.wants_export(999) && journal.wants_export(1000));
}
