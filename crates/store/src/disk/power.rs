//! What a kill or a power cut leaves behind, at every change that a [`Memory`] has seen.
//!
//! A kill leaves everything that was written. A power cut leaves what was synced, and of the rest
//! whatever the dice say: each sector of an unsynced write may have reached the disk or not, in
//! any order; names that were made or removed since the last sync of their directory come about
//! in their order up to some point. Nothing is assumed that a file system does not promise.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::memory::{Inode, Memory, Op, Tree};

/// Bytes that reach a disk together.
const SECTOR: usize = 512;

/// Numbers without pattern from a seed.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The same numbers for the same seed.
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end.max(1)
    }

    /// True once in `of` times.
    pub fn once_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// A walk through the changes of a disk; see the module.
#[derive(Debug, Default)]
pub struct Power {
    ops: Vec<Op>,
    next: usize,
    live: Tree,
    durable: Tree,
    /// Changes of bytes since the last sync of their file.
    data: BTreeMap<Inode, Vec<Op>>,
    /// Changes of names since the last sync of their directory.
    names: Vec<Op>,
}

impl Power {
    /// Stands before the first change of `disk`, which began as `start` and whose record is taken
    /// out.
    pub fn new(start: &Memory, disk: &Memory) -> Power {
        let (live, durable) = (start.tree(), start.tree());
        Power { ops: disk.take_log(), live, durable, ..Power::default() }
    }

    /// Goes behind the next change; false at the end.
    pub fn step(&mut self) -> bool {
        let Some(op) = self.ops.get(self.next) else { return false };
        self.next += 1;
        self.live.apply(op);
        match op {
            Op::Write(inode, ..) | Op::SetLen(inode, _) => {
                self.data.entry(*inode).or_default().push(op.clone());
            }
            Op::Link(..) | Op::Unlink(_) | Op::Rename(..) => self.names.push(op.clone()),
            Op::Sync(inode) => {
                let inode = *inode;
                self.settle(inode);
            }
            Op::SyncDir(dir) => {
                let mut rest = Vec::new();
                for op in self.names.drain(..) {
                    if !directories(&op).contains(&Some(dir)) {
                        rest.push(op);
                        continue;
                    }
                    if let Op::Unlink(gone) = &op {
                        // With a directory goes all that was in it until then.
                        let below =
                            |op: &Op| directories(op)[0].is_some_and(|d| d.starts_with(gone));
                        rest.retain(|op| !below(op));
                    }
                    self.durable.apply(&op);
                }
                self.names = rest;
            }
            Op::SyncEverything => {
                let inodes: Vec<Inode> = self.data.keys().copied().collect();
                inodes.into_iter().for_each(|inode| self.settle(inode));
                self.names.drain(..).for_each(|op| self.durable.apply(&op));
            }
        }
        true
    }

    fn settle(&mut self, inode: Inode) {
        self.data.remove(&inode);
        if self.durable.files.len() <= inode {
            self.durable.files.resize(inode + 1, Vec::new());
        }
        self.durable.files[inode].clone_from(&self.live.files[inode]);
    }

    /// Changes passed.
    pub fn at(&self) -> usize {
        self.next
    }

    /// The last changes, in short.
    pub fn last(&self, count: usize) -> Vec<String> {
        let short = |op: &Op| format!("{op:?}").chars().take(120).collect();
        self.ops[self.next.saturating_sub(count)..self.next].iter().map(short).collect()
    }

    /// What a kill at this point leaves.
    pub fn killed(&self) -> Memory {
        Memory::with(self.live.clone())
    }

    /// What a power cut at this point may leave.
    pub fn cut(&self, dice: &mut Dice) -> Memory {
        let mut tree = self.durable.clone();
        tree.files.resize(self.live.files.len(), Vec::new());
        let mut over = BTreeSet::new();
        let stop = [1, 3, u64::MAX][dice.below(3) as usize];
        for op in &self.names {
            let dirs = directories(op);
            if dice.once_in(stop) || dirs.iter().any(|dir| over.contains(dir)) {
                over.extend(dirs);
            } else {
                tree.apply(op);
            }
        }
        tree.drop_orphans();
        for (inode, ops) in &self.data {
            let lost = [0, 1, 2, 10][dice.below(4) as usize];
            let mut gone = BTreeSet::new();
            for op in ops {
                survive(&mut tree, *inode, op, lost, &mut gone, dice);
            }
        }
        Memory::with(tree)
    }
}

/// The directories of which either's sync makes a change of names durable.
fn directories(op: &Op) -> [Option<&Path>; 2] {
    match op {
        Op::Link(path, _) | Op::Unlink(path) => [path.parent(); 2],
        Op::Rename(from, to) => [from.parent(), to.parent()],
        _ => [None; 2],
    }
}

/// Makes a change of bytes as far as it survives; `lost`: nothing for 0, all for 1, else one
/// sector in so many is lost. A sector that did not arrive once, in `gone`, has no later bytes.
fn survive(
    tree: &mut Tree,
    inode: Inode,
    op: &Op,
    lost: u64,
    gone: &mut BTreeSet<usize>,
    dice: &mut Dice,
) {
    let mut survives = || match lost {
        0 => false,
        1 => true,
        one_in => !dice.once_in(one_in),
    };
    match op {
        Op::Write(_, at, bytes) => {
            let (mut from, mut done) = (*at as usize, 0);
            while done < bytes.len() {
                let len = (SECTOR - from % SECTOR).min(bytes.len() - done);
                if gone.contains(&(from / SECTOR)) || !survives() {
                    gone.insert(from / SECTOR);
                } else {
                    let part = bytes[done..done + len].to_vec();
                    tree.apply(&Op::Write(inode, from as u64, part));
                }
                from += len;
                done += len;
            }
        }
        op if survives() => tree.apply(op),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Disk, Present};
    use super::*;

    #[test]
    fn what_was_synced_survives_and_the_rest_may() {
        let memory = Memory::default();
        let disk = Disk::memory(memory.clone());
        let (dir, path) = (Path::new("/d"), Path::new("/d/f"));
        disk.create_dirs_durably(dir).expect("dir");
        let file = disk.create(path, Present::Keep).expect("create");
        disk.sync_dir(dir).expect("sync");
        file.write_all_at(&[1; 2000], 0).expect("write");
        file.sync_data().expect("sync");
        let synced = memory.changes();
        file.write_all_at(&[2; 1000], 1500).expect("write");
        disk.rename(path, Path::new("/d/g")).expect("rename");
        let mut power = Power::new(&Memory::default(), &memory);
        while power.at() < synced {
            assert!(power.step());
        }
        let mut dice = Dice::new(1);
        assert_eq!(power.cut(&mut dice).files(), [(path.to_path_buf(), vec![1; 2000])]);
        while power.step() {}
        let mut seen = BTreeSet::new();
        for _ in 0..200 {
            let files = power.cut(&mut dice).files();
            let (path, bytes) = &files[0];
            assert!(bytes[..1500].iter().all(|byte| *byte == 1));
            seen.insert((path.clone(), bytes.len(), bytes[1500..].first() == Some(&2)));
        }
        // Both names, the old length and several new ones, with and without the first sector.
        assert!(seen.len() >= 8, "{seen:?}");
        assert_eq!(power.killed().files()[0].1[1500..], [2; 1000]);
    }
}
