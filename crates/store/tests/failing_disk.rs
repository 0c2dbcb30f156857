//! A disk that fails at any of its operations: writes that fail or are cut short, syncs that fail,
//! no room. Nothing that was acknowledged is lost, the store says so and takes nothing more when it
//! cannot know, and the next start finds what a kill or a power cut leaves.
//!
//! `FAULTS` says how many faults are tried; `APOGEE_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use base::clock::Clock;
use common::workload::*;
use parking_lot::Mutex;
use store::disk::{Act, Dice, Disk, Memory, Power, Verdict, Watch};
use store::{AppendRefused, Store};

/// One fault: the operation that fails, how, and whether all after it fail, too.
#[derive(Debug, Clone, Copy)]
struct Fault {
    at: u64,
    how: u64,
    lasts: bool,
}

/// What operation failed, if any did.
#[derive(Default)]
struct Seen {
    operations: AtomicU64,
    failed: Mutex<Option<(Act, String)>>,
}

fn watch(fault: Fault, seen: Arc<Seen>) -> Watch {
    Arc::new(move |act: Act, path: &Path| {
        let number = seen.operations.fetch_add(1, Ordering::Relaxed);
        if number < fault.at || (number > fault.at && !fault.lasts) {
            return Verdict::Go;
        }
        let name = path.display().to_string();
        seen.failed.lock().get_or_insert((act, name));
        let error = |errno| io::Error::from_raw_os_error(errno);
        const EIO: i32 = 5;
        const ENOSPC: i32 = 28;
        match (act, fault.how) {
            (Act::Write, 0) => Verdict::Short(17, error(ENOSPC)),
            (_, 0 | 1) => Verdict::Fail(error(ENOSPC)),
            _ => Verdict::Fail(error(EIO)),
        }
    })
}

/// Runs the workload until the fault, then looks at what is left. Returns whether there was one.
fn run(seed: u64, fault: Fault) -> Option<(Act, String)> {
    let memory = Memory::default();
    let seen = Arc::new(Seen::default());
    let disk = Disk::memory(memory.clone()).watched(watch(fault, Arc::clone(&seen)));
    let begun = Run::begin_on(disk, memory.clone(), Vec::new(), Moment::default(), Dice::new(seed));
    let Ok(mut run) = begun else {
        // It did not open. It does when the disk is well again.
        let store = Store::open_stepped(config(&memory, false), Clock::manual(T0)).expect("open");
        assert!(read(&store).values().all(Vec::is_empty));
        return seen.failed.lock().clone();
    };
    let mut failed = false;
    for _ in 0..ACTIONS {
        if run.act().is_err() {
            failed = true;
            break;
        }
    }
    let poisoned = run.store.is_poisoned();
    if poisoned {
        refuses_everything(&run.store);
    }
    let marks = run.store.watermarks();
    let before = run.moments.last().expect("a moment").clone();
    let after = Moment { min: marks.min, ..run.now.clone() };
    let by_place = run.sent.iter().enumerate().map(|(n, sent)| (sent.physical, n)).collect();
    let seen = seen.failed.lock().clone();
    // A failed sync of the log is the end, unless it was that of a start.
    if let Some((Act::Sync, path)) = &seen
        && failed
        && path.contains("commitlog")
        && !run.is_closed
    {
        assert!(poisoned, "{path} was not synced, and the store goes on");
    }
    let sync = run.sync;
    let mut power = Power::new(&Memory::default(), &memory);
    while power.step() {}
    let mut dice = Dice::new(seed);
    let images = [
        (power.killed(), marks.written),
        (power.cut(&mut dice), marks.flushed),
        (power.cut(&mut dice), marks.flushed),
    ];
    for (image, safe) in images {
        let (before, after) = (&before, &after);
        let wanted = Wanted { sent: &run.sent, by_place: &by_place, before, after, safe };
        let clock = Clock::manual(T0 + 10_000_000);
        let store = Store::open_stepped(config(&image, sync), clock.clone()).expect("open");
        let found = wanted.check(&store, &image);
        drop(store);
        if dice.once_in(3) {
            check_more(&image, sync, &found, &clock);
        }
    }
    seen
}

/// Nothing comes in, and nothing is acknowledged.
fn refuses_everything(store: &Store) {
    let queue = store.queue_or_create("A", 0);
    let refused = common::append(store, &queue, b"x", "");
    assert!(matches!(refused, Err(AppendRefused::Poisoned | AppendRefused::Closed)), "{refused:?}");
    let before = store.watermarks();
    assert!(store.commit().is_err() && store.flush().is_err());
    assert_eq!(store.watermarks(), before);
    assert!(refused == Err(AppendRefused::Closed) || store.close().is_err());
}

#[test]
fn a_fault_at_any_operation_loses_nothing_and_is_not_hidden() {
    let faults = number("FAULTS").unwrap_or(2000);
    let seed = number("APOGEE_SEED").unwrap_or(1);
    say(&format!("APOGEE_SEED={seed}"));
    let kinds = Mutex::new(BTreeMap::new());
    in_parallel(
        faults,
        |number| {
            let mut dice = Dice::new(seed + number);
            let fault = Fault { at: dice.below(150), how: dice.below(3), lasts: dice.once_in(2) };
            if let Some((act, _)) = run(seed + number, fault) {
                *kinds.lock().entry(format!("{act:?}")).or_insert(0) += 1;
            }
        },
        |number| format!("APOGEE_SEED={} FAULTS=1", seed + number),
    );
    let kinds = kinds.into_inner();
    say(&format!("faults: {kinds:?}"));
    assert!(faults < 1000 || kinds.len() == 5, "not every kind of operation failed: {kinds:?}");
}
