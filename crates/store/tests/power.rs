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

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::clock::Clock;
use common::workload::*;
use store::disk::{Dice, Disk, Memory, Power};
use store::{Store, check, config_file};

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
            say(&format!("{kind} at change {}, sync flush: {}", self.power.at(), self.sync));
            say(&format!("the last changes were {:#?}", self.power.last(6)));
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
            run.act().expect("a disk without faults");
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
                // After the recovery, which may be that of a power cut.
                if kind == 0 && last > 1 && dice.once_in(6) {
                    no_damage(&image, run.sync);
                }
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

/// `apogee store verify` must not call what a kill leaves damage.
fn no_damage(image: &Memory, sync: bool) {
    let report = check::verify(&config(image, sync), &mut |_, _| ()).expect("verify");
    assert!(!report.is_damaged(), "{report:#?}");
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
    let images = number("POWER_IMAGES").unwrap_or(100_000);
    let seed = number("APOGEE_SEED").unwrap_or(1);
    say(&format!("APOGEE_SEED={seed}"));
    // One campaign is some hundred disks, so that a failing seed is found again soon.
    let (campaigns, each) = (images.div_ceil(1000), images.min(1000) as usize);
    let total = AtomicUsize::new(0);
    in_parallel(
        campaigns,
        |number| {
            total.fetch_add(campaign(seed + number, each), Ordering::Relaxed);
        },
        |number| format!("APOGEE_SEED={} POWER_IMAGES=1000", seed + number),
    );
    say(&format!("crash images: {}", total.load(Ordering::Relaxed)));
}
