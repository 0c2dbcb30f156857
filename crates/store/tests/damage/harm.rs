//! What is done to the files of a copy, and what it changed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use store::disk::{Dice, Memory};

use crate::base_stores::{Base, ROOT, Sent};

/// The bytes before and after.
pub(crate) struct Harm {
    root: PathBuf,
    before: BTreeMap<PathBuf, Vec<u8>>,
    after: BTreeMap<PathBuf, Vec<u8>>,
}

impl std::fmt::Debug for Harm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for path in self.changed() {
            let (old, new) = (self.before.get(path), self.after.get(path));
            let len = |bytes: Option<&Vec<u8>>| bytes.map(Vec::len);
            write!(f, "\n{} {:?} -> {:?} bytes", path.display(), len(old), len(new))?;
            if let (Some(old), Some(new)) = (old, new) {
                let differs = |n: &usize| old.get(*n) != new.get(*n);
                let places: Vec<usize> = (0..old.len().max(new.len())).filter(differs).collect();
                let (first, last) = (places.first(), places.last());
                write!(f, ": {} differ, {first:?} to {last:?}", places.len())?;
            }
        }
        Ok(())
    }
}

/// Parts of a store that are damaged equally often, however large they are.
const PARTS: [&str; 9] = [
    "commitlog",
    "commitlog",
    "consumequeue",
    "consumequeue",
    "batchconsumequeue",
    "index",
    "checkpoint",
    "abort",
    "config",
];

impl Harm {
    /// Damages one part of a store in one way; now and then more than that.
    pub(crate) fn to_store(base: &Base, image: &Memory, dice: &mut Dice) -> Harm {
        let before: BTreeMap<_, _> = image.files().into_iter().collect();
        let older: BTreeMap<_, _> = base.older.files().into_iter().collect();
        let times = if dice.once_in(5) { 2 + dice.below(3) } else { 1 };
        for _ in 0..times {
            let part = Path::new(ROOT).join(PARTS[dice.below(PARTS.len() as u64) as usize]);
            let of_part: Vec<PathBuf> =
                image.files().into_iter().map(|f| f.0).filter(|p| p.starts_with(&part)).collect();
            if of_part.is_empty() {
                continue;
            }
            if part.ends_with("commitlog") && dice.once_in(3) {
                flip_in_header(base, image, dice);
            } else {
                damage(image, &of_part, &older, dice);
            }
        }
        Harm { root: ROOT.into(), before, after: image.files().into_iter().collect() }
    }

    /// The same for a journal.
    pub(crate) fn to_journal(memory: &Memory, image: &Memory, dice: &mut Dice) -> Harm {
        let before: BTreeMap<_, _> = memory.files().into_iter().collect();
        let files: Vec<PathBuf> = before.keys().cloned().collect();
        damage(image, &files, &BTreeMap::new(), dice);
        Harm { root: "/data".into(), before, after: image.files().into_iter().collect() }
    }

    /// Whether any of these bytes changed or went away.
    pub(crate) fn touches(&self, path: &Path, at: usize, len: usize) -> bool {
        let part = |files: &BTreeMap<PathBuf, Vec<u8>>| {
            let bytes = files.get(path)?;
            bytes.get(at..at.checked_add(len)?).map(<[u8]>::to_vec)
        };
        part(&self.before) != part(&self.after)
    }

    /// Whether these bytes changed in a file that still has its length.
    pub(crate) fn touches_in_place(&self, path: &Path, at: usize, len: usize) -> bool {
        let len_of = |files: &BTreeMap<PathBuf, Vec<u8>>| files.get(path).map(Vec::len);
        self.touches(path, at, len) && len_of(&self.before) == len_of(&self.after)
    }

    /// Whether a file and all in front of it in its directory are gone, and a later one is not.
    pub(crate) fn is_gone(&self, path: &Path) -> bool {
        let mut left = self.after.keys().filter(|left| left.parent() == path.parent());
        left.clone().next().is_some() && left.all(|left| left.as_path() > path)
    }

    /// Units of so many bytes that changed in the files of a directory.
    pub(crate) fn units_in(&self, dir: &str, unit: usize) -> usize {
        let dir = self.root.join(dir);
        let of_dir = self.before.iter().filter(|(path, _)| path.starts_with(&dir));
        let changed = of_dir.map(|(path, old)| {
            let new = self.after.get(path).map_or(&[][..], Vec::as_slice);
            let starts = (0..old.len()).step_by(unit);
            starts.filter(|at| old.get(*at..at + unit) != new.get(*at..at + unit)).count()
        });
        changed.sum()
    }

    /// Directories below a part of the store in which something changed.
    pub(crate) fn dirs_in(&self, part: &str) -> usize {
        let part = self.root.join(part);
        let changed = self.changed().filter(|path| path.starts_with(&part));
        changed.filter_map(|path| path.parent()).collect::<BTreeSet<_>>().len()
    }

    fn changed(&self) -> impl Iterator<Item = &PathBuf> {
        let all = self.before.keys().chain(self.after.keys());
        all.filter(|path| self.before.get(*path) != self.after.get(*path))
    }

    /// Whether anything changed below a path in the store.
    pub(crate) fn any_in(&self, part: &str) -> bool {
        let part = self.root.join(part);
        self.changed().any(|path| path.starts_with(&part))
    }

    /// Whether anything changed elsewhere.
    pub(crate) fn any_outside(&self, part: &str) -> bool {
        let part = self.root.join(part);
        self.changed().any(|path| !path.starts_with(&part))
    }

    /// Whether a file may be refused: lengths and names in the log changed, or text that says what
    /// no other file says.
    pub(crate) fn is_of_layout(&self, path: &Path) -> bool {
        let len_changed = |path: &Path| {
            let len_of = |files: &BTreeMap<PathBuf, Vec<u8>>| files.get(path).map(Vec::len);
            len_of(&self.before) != len_of(&self.after)
        };
        let log = self.root.join("commitlog");
        let log_changed = self.changed().any(|p| p.starts_with(&log) && len_changed(p));
        let deleted = self.root.join("config/apogee-deleted-topics.txt");
        (path.starts_with(&log) && log_changed)
            || (path == deleted && self.changed().any(|p| p.starts_with(&deleted)))
    }

    /// What stands in the place of a record now.
    pub(crate) fn bytes(&self, base: &Base, sent: &Sent) -> Option<Vec<u8>> {
        let at = (sent.physical - base.file_start(sent.physical)) as usize;
        let file = self.after.get(&base.log_file(sent.physical))?;
        file.get(at..at + sent.bytes.len()).map(<[u8]>::to_vec)
    }
}

/// Flips a bit where records say whose they are, which no CRC covers.
fn flip_in_header(base: &Base, image: &Memory, dice: &mut Dice) {
    let sent = &base.sent[dice.below(base.sent.len() as u64) as usize];
    let start = (sent.physical - base.file_start(sent.physical)) as usize;
    let in_record = match dice.below(3) {
        // Queue id, flag, queue offset, physical offset, sysFlag.
        0 => 12 + dice.below(28) as usize,
        // Topic and properties.
        1 => sent.bytes.len() - 1 - dice.below(60) as usize,
        _ => dice.below(88) as usize,
    };
    let bit = dice.below(8);
    let flip = |bytes: &mut Vec<u8>| {
        if let Some(byte) = bytes.get_mut(start + in_record) {
            *byte ^= 1 << bit;
        }
    };
    let _ = image.edit(&base.log_file(sent.physical), flip);
}

/// One damage to one of these files, or to all in a directory of them.
fn damage(image: &Memory, files: &[PathBuf], older: &BTreeMap<PathBuf, Vec<u8>>, dice: &mut Dice) {
    let path = &files[dice.below(files.len() as u64) as usize];
    let other = &files[dice.below(files.len() as u64) as usize];
    let bytes_of = |path: &Path| image.files().into_iter().find(|file| file.0 == path);
    let len = bytes_of(path).map_or(0, |file| file.1.len());
    let place = |dice: &mut Dice| dice.below(len.max(1) as u64) as usize;
    match dice.below(10) {
        0..=3 => {
            let bits = 1 + dice.below(3);
            for _ in 0..bits {
                let (at, bit) = (place(dice), dice.below(8));
                let _ = image.edit(path, |bytes| {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << bit;
                    }
                });
            }
        }
        4 | 5 => {
            let (at, run) = (place(dice), [1, 20, 300, 4096][dice.below(4) as usize]);
            let with = if dice.once_in(3) { 0xFF } else { 0 };
            let _ = image.edit(path, |bytes| {
                let end = (at + run).min(bytes.len());
                bytes[at.min(end)..end].fill(with);
            });
        }
        6 => {
            let keep = if dice.once_in(3) { 0 } else { place(dice) };
            let _ = image.edit(path, |bytes| bytes.truncate(keep));
        }
        7 => {
            let above = path.parent().filter(|_| dice.once_in(3)).unwrap_or(path);
            // The whole store is not a damaged store.
            image.forget(if above == Path::new(ROOT) { path } else { above });
        }
        8 => {
            // Bytes of another file, here or at another place.
            let from = bytes_of(other).map_or_else(Vec::new, |file| file.1);
            let (at, run) = (place(dice), 1 + dice.below(600) as usize);
            let start = if dice.once_in(2) { at } else { place(dice) };
            let _ = image.edit(path, |bytes| {
                let run = run.min(bytes.len() - at.min(bytes.len()));
                if let Some(stale) = from.get(start..start + run) {
                    bytes[at..at + run].copy_from_slice(stale);
                }
            });
        }
        _ => {
            // The file as it was some time ago.
            if let Some(old) = older.get(path) {
                let _ = image.edit(path, |bytes| bytes.clone_from(old));
            }
        }
    }
}
