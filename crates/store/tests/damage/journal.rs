//! Damaged journals.

use std::collections::BTreeSet;
use std::path::Path;

use store::Journal;
use store::disk::{Dice, Disk, Memory};

use crate::harm::Harm;

/// Damages a journal: what is replayed was written, and up to the damage all of it.
pub(crate) fn one_journal(dice: &mut Dice) {
    let dir = Path::new("/data/journal");
    let memory = Memory::default();
    let disk = Disk::memory(memory.clone());
    let mut written: Vec<(u64, Vec<u8>)> = Vec::new();
    for generation in 1..=3 {
        let mut journal = Journal::open(&disk, dir, |_, _| {}).unwrap();
        for number in 0..dice.below(6) + 1 {
            let block = format!("{generation} {number} {}", "x".repeat(dice.below(90) as usize));
            journal.block().extend_from_slice(block.as_bytes());
            journal.write().unwrap();
            written.push((generation, block.into_bytes()));
        }
    }
    let image = memory.copy();
    let harm = Harm::to_journal(&memory, &image, dice);
    let mut seen: Vec<(u64, Vec<u8>)> = Vec::new();
    let disk = Disk::memory(image.clone());
    let replay = |generation: u64, block: &[u8]| seen.push((generation, block.to_vec()));
    let mut journal = Journal::open(&disk, dir, replay).unwrap();
    let blocks: BTreeSet<&Vec<u8>> = written.iter().map(|(_, block)| block).collect();
    assert!(seen.iter().all(|(_, block)| blocks.contains(block)), "a block that nobody wrote");
    for generation in 1..=3 {
        let path = dir.join(format!("{generation:020}"));
        let wanted: Vec<_> = written.iter().filter(|(g, _)| *g == generation).collect();
        let mut at = 0;
        let whole = wanted.iter().take_while(|(_, block)| {
            at += 8 + block.len();
            !harm.touches(&path, at - 8 - block.len(), 8 + block.len())
        });
        let whole = whole.count();
        let found: Vec<_> = seen.iter().filter(|(g, _)| *g == generation).collect();
        assert!(found.len() >= whole && found[..whole] == wanted[..whole], "{generation}");
    }
    journal.block().extend_from_slice(b"more");
    journal.write().unwrap();
    let mut last = Vec::new();
    Journal::open(&disk, dir, |_, block| last = block.to_vec()).unwrap();
    assert_eq!(last, b"more");
}
