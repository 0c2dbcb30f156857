//! A compact log of a component's state, beside the commit log: for what changes often and is
//! worth a few bytes, not a message.
//!
//! Owns a directory of generations. A generation is a file of blocks, each with length and CRC;
//! replay stops at the first block that is not whole, so that a crash takes away the end and
//! nothing else. Every start begins a generation. The user writes the whole state of a thing when
//! it first touches it in a generation, so that each generation stands for itself as far as it
//! goes; once all things are in the newest one the older files are deleted. A failed write also
//! begins a generation: what came before the failure counts, what was lost with it is the end.
//!
//! Nothing here is synced but on request: users must be able to live with the loss of the end.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wire::text::crc31;

use crate::disk::{Disk, File, Present};

/// Length and CRC in front of a block.
const HEAD: usize = 8;
/// A longer block is damage.
const MAX_BLOCK: usize = 1 << 30;

/// An open journal. Not shared: its owner locks it.
#[derive(Debug)]
pub struct Journal {
    disk: Disk,
    dir: PathBuf,
    generation: u64,
    file: Option<Arc<File>>,
    len: u64,
    total: u64,
    block: Vec<u8>,
}

impl Journal {
    /// Reads what is there, oldest first, and begins a generation. `replay` gets the number of a
    /// generation and a block of it. Errors: files that cannot be read; damage is no error.
    pub fn open(
        disk: &Disk,
        dir: &Path,
        mut replay: impl FnMut(u64, &[u8]),
    ) -> io::Result<Journal> {
        let mut newest = 0;
        for generation in generations(disk, dir)? {
            let bytes = disk.read(&dir.join(name_of(generation)))?;
            let mut rest = bytes.as_slice();
            while let Some((block, after)) = split(rest) {
                replay(generation, block);
                rest = after;
            }
            if rest.iter().any(|byte| *byte != 0) {
                tracing::warn!(dir = %dir.display(), generation, bytes = rest.len(),
                    "the end of a journal is not whole and is left out");
            }
            newest = generation;
        }
        let block = vec![0; HEAD];
        Ok(Journal {
            disk: disk.clone(),
            dir: dir.to_path_buf(),
            generation: newest + 1,
            file: None,
            len: 0,
            total: 0,
            block,
        })
    }

    /// The generation that is written now.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Bytes of this generation.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Bytes written since the start, over all generations.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// Whether nothing was written in this generation and nothing waits to be.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.block.len() == HEAD
    }

    /// The block in the making; append to it only.
    pub fn block(&mut self) -> &mut Vec<u8> {
        &mut self.block
    }

    /// Writes the block in the making, if there is anything in it, with one call. On an error the
    /// block is lost and a generation begins.
    pub fn write(&mut self) -> io::Result<()> {
        if self.block.len() == HEAD {
            return Ok(());
        }
        let len = (self.block.len() - HEAD) as u32;
        let crc = crc31(&self.block[HEAD..]);
        self.block[..4].copy_from_slice(&len.to_be_bytes());
        self.block[4..HEAD].copy_from_slice(&crc.to_be_bytes());
        let written = self.file().and_then(|file| file.write_all_at(&self.block, self.len));
        match written {
            Ok(()) => {
                self.len += self.block.len() as u64;
                self.total += self.block.len() as u64;
            }
            Err(_) => self.begin(),
        }
        self.block.truncate(HEAD);
        self.block.shrink_to(1 << 20);
        written
    }

    fn file(&mut self) -> io::Result<Arc<File>> {
        if let Some(file) = &self.file {
            return Ok(Arc::clone(file));
        }
        self.disk.create_dir_all(&self.dir)?;
        let path = self.dir.join(name_of(self.generation));
        let file = Arc::new(self.disk.create(&path, Present::Empty)?);
        self.file = Some(Arc::clone(&file));
        Ok(file)
    }

    /// Begins a generation. Write what waits before, else it is part of the new one.
    pub fn begin(&mut self) {
        self.generation += 1;
        self.file = None;
        self.len = 0;
    }

    /// The file of this generation, to be synced without holding the journal.
    pub fn current_file(&self) -> Option<Arc<File>> {
        self.file.clone()
    }

    /// Brings the older generations to the disk, so that what was replayed stays.
    pub fn sync_older(&self) -> io::Result<()> {
        for generation in generations(&self.disk, &self.dir)? {
            self.disk.open(&self.dir.join(name_of(generation)))?.sync_data()?;
        }
        self.disk.sync_dir(&self.dir)
    }

    /// Deletes every older generation. Everything must be in this one, and synced.
    pub fn drop_older(&self) -> io::Result<()> {
        self.drop_before(self.generation)
    }

    /// Deletes the generations before `first`, whose content must be in safety elsewhere.
    pub fn drop_before(&self, first: u64) -> io::Result<()> {
        for generation in generations(&self.disk, &self.dir)?.into_iter().filter(|g| *g < first) {
            self.disk.remove_file(&self.dir.join(name_of(generation)))?;
        }
        Ok(())
    }
}

fn name_of(generation: u64) -> String {
    format!("{generation:020}")
}

fn generations(disk: &Disk, dir: &Path) -> io::Result<Vec<u64>> {
    let entries = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        found => found?,
    };
    let named = |name: String| name.parse::<u64>().ok();
    let mut found: Vec<u64> = entries.into_iter().filter_map(|entry| named(entry.name)).collect();
    found.sort_unstable();
    Ok(found)
}

/// The first block and what follows; `None` at the end of what is whole.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let len = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
    let crc = i32::from_be_bytes(bytes.get(4..HEAD)?.try_into().ok()?);
    if len == 0 || len > MAX_BLOCK {
        return None;
    }
    let block = bytes.get(HEAD..HEAD + len)?;
    (crc31(block) == crc).then(|| (block, &bytes[HEAD + len..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;

    fn read(dir: &Path) -> (Journal, Vec<(u64, Vec<u8>)>) {
        let mut seen = Vec::new();
        let disk = Disk::default();
        let journal =
            Journal::open(&disk, dir, |g, block| seen.push((g, block.to_vec()))).expect("open");
        (journal, seen)
    }

    fn put(journal: &mut Journal, text: &str) {
        journal.block().extend_from_slice(text.as_bytes());
        journal.write().expect("write");
    }

    #[test]
    fn generations_are_replayed_in_order_up_to_what_is_whole() {
        let temp = TempDir::new("journal");
        let dir = temp.path().to_path_buf();
        let (mut journal, seen) = read(&dir);
        assert!(seen.is_empty() && journal.is_empty());
        journal.write().expect("nothing to write");
        assert_eq!(
            generations(&Disk::default(), &dir).expect("list"),
            Vec::<u64>::new(),
            "no file without a block"
        );
        put(&mut journal, "one");
        put(&mut journal, "two");
        let (mut journal, seen) = read(&dir);
        assert_eq!(seen, [(1, b"one".to_vec()), (1, b"two".to_vec())]);
        put(&mut journal, "three");
        // The last byte of the second block is lost.
        let path = dir.join(name_of(1));
        let whole = fs::read(&path).expect("read");
        for cut in 1..HEAD + 3 {
            fs::write(&path, &whole[..whole.len() - cut]).expect("cut");
            let (_, seen) = read(&dir);
            assert_eq!(seen, [(1, b"one".to_vec()), (2, b"three".to_vec())], "cut {cut}");
        }
        journal.begin();
        put(&mut journal, "four");
        journal.drop_older().expect("drop");
        let (journal, seen) = read(&dir);
        assert_eq!(seen, [(3, b"four".to_vec())]);
        assert_eq!(journal.generation(), 4);
    }

    #[test]
    fn a_failed_write_begins_a_generation() {
        let temp = TempDir::new("journal-fails");
        let dir = temp.path().to_path_buf();
        let (mut journal, _) = read(&dir);
        put(&mut journal, "one");
        // A file where the directory should be: the next generation cannot be created.
        journal.begin();
        journal.dir = dir.join(name_of(1)).join("x");
        journal.block().extend_from_slice(b"lost");
        assert!(journal.write().is_err());
        assert_eq!(journal.generation(), 3);
        journal.dir.clone_from(&dir);
        put(&mut journal, "kept");
        assert_eq!(read(&dir).1, [(1, b"one".to_vec()), (3, b"kept".to_vec())]);
    }
}
