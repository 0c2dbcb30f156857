//! Changes of a configuration file that are not in it yet, so that one change of a large file
//! costs one small record.
//!
//! Owns a [`Journal`] beside the file (`config/apogee-<name>.journal/`) whose blocks are synced
//! before a change counts. From time to time the whole is exported: a generation begins, the text
//! of that moment is named in the journal by length and CRC, and then it becomes the file. So a
//! start knows where to go on for whichever text it finds; a text that the journal does not know
//! was written by somebody else (a Java broker), and then the journal is stale. One lock for
//! moments and for the sync of a change; the text is written without it.

use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use wire::text::crc31;

use crate::config_file::{self, LoadError};
use crate::disk::Disk;
use crate::journal::Journal;
use crate::queue_files::ignore_absent;

/// A change waits for its export so long, in milliseconds, and as much again for each so many bytes
/// of the file: a Java broker that comes after a kill sees the last export only.
const EXPORT_MS: i64 = 1000;
const BYTES_A_WAIT: u64 = 100 << 10;
/// It waits so long at most.
const MAX_EXPORT_MS: i64 = 60_000;
/// Or until the journal has this many bytes, or as many as the file.
const EXPORT_BYTES: u64 = 1 << 20;
/// Pause after an export that failed.
const RETRY_MS: i64 = 10_000;

/// What tells one text from another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Print {
    len: u64,
    crc: i32,
}

impl Print {
    fn of(text: &str) -> Print {
        Print { len: text.len() as u64, crc: crc31(text.as_bytes()) }
    }
}

/// A block of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Block {
    /// The file with this print has everything before that generation.
    Named(u64, Print),
    /// A change.
    Change(String),
    /// Nothing from that block of that generation up to the present one counts: it was refused.
    Refused(u64, u32),
}

impl Block {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Block::Named(generation, print) => {
                out.push(b'N');
                out.extend_from_slice(&generation.to_be_bytes());
                out.extend_from_slice(&print.len.to_be_bytes());
                out.extend_from_slice(&print.crc.to_be_bytes());
            }
            Block::Change(text) => {
                out.push(b'C');
                out.extend_from_slice(text.as_bytes());
            }
            Block::Refused(generation, block) => {
                out.push(b'R');
                out.extend_from_slice(&generation.to_be_bytes());
                out.extend_from_slice(&block.to_be_bytes());
            }
        }
    }

    fn decode(bytes: &[u8]) -> Option<Block> {
        let (kind, rest) = bytes.split_first()?;
        let long = |at: usize| Some(u64::from_be_bytes(rest.get(at..at + 8)?.try_into().ok()?));
        let int = |at: usize| Some(u32::from_be_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        match kind {
            b'N' => {
                Some(Block::Named(long(0)?, Print { len: long(8)?, crc: int(16)?.cast_signed() }))
            }
            b'C' => Some(Block::Change(String::from_utf8(rest.to_vec()).ok()?)),
            b'R' => Some(Block::Refused(long(0)?, int(8)?)),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct ConfigJournal {
    disk: Disk,
    path: PathBuf,
    dir: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    journal: Journal,
    /// What the journal goes on from, unless one of its blocks says so already.
    unnamed: Option<Print>,
    /// The directory is there, durably.
    has_dir: bool,
    /// Blocks of this generation.
    blocks: u32,
    /// Where refused blocks begin that the journal does not call so yet.
    refused: Option<(u64, u32)>,
    waiting: Waiting,
    /// Bytes of the file.
    file_len: u64,
    exporting: bool,
    not_before_ms: i64,
}

/// Changes that are not in the file.
#[derive(Debug, Clone, Copy, Default)]
struct Waiting {
    bytes: u64,
    since_ms: Option<i64>,
}

/// An export in the making; see [`ConfigJournal::begin_export`].
#[derive(Debug)]
#[must_use]
pub struct Export {
    generation: u64,
    waiting: Waiting,
}

/// A configuration file with its journal.
#[derive(Debug)]
pub struct Opened<T> {
    /// What the file has; `None` without a file.
    pub file: Option<T>,
    /// Changes since, oldest first, as [`ConfigJournal::append`] got them.
    pub changes: Vec<String>,
    /// For changes to come.
    pub journal: ConfigJournal,
}

/// What a start would read, by one that changes nothing: the file, or its backup, and the changes
/// since.
pub(crate) fn look<T, E>(
    disk: &Disk,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
) -> (Option<T>, Vec<String>) {
    let parse = |text: &str| parse(text).map(|value| (value, Print::of(text)));
    let (file, print) = config_file::look(disk, path, parse).unzip();
    let mut replay = Replay::default();
    let read = Journal::open(disk, &dir_of(path), |generation, block| {
        replay.add(generation, block);
    });
    let changes = read.ok().and_then(|_| replay.since(print.unwrap_or_default()));
    (file, changes.unwrap_or_default())
}

/// Where the journal of a file is.
fn dir_of(path: &Path) -> PathBuf {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!("apogee-{stem}.journal"))
}

impl ConfigJournal {
    /// Reads the file at `path` as [`config_file::load`] does, and the changes since. A journal
    /// that belongs to another text is dropped with a warning. Errors: files that cannot be read.
    pub fn open<T, E: std::fmt::Display>(
        disk: &Disk,
        path: &Path,
        parse: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Opened<T>, LoadError> {
        let parse = |text: &str| parse(text).map(|value| (value, Print::of(text)));
        let (file, print) = config_file::load_on(disk, path, parse)?.unzip();
        let print = print.unwrap_or_default();
        let dir = dir_of(path);
        let failed = |source| LoadError::Io { path: dir.clone(), source };
        let mut replay = Replay::default();
        let journal = Journal::open(disk, &dir, |generation, block| {
            replay.add(generation, block);
        });
        let journal = journal.map_err(failed)?;
        let found = replay.since(print);
        let known = found.is_some();
        if !known && replay.changes() > 0 {
            tracing::warn!(file = %path.display(), changes = replay.changes(),
                "the file was written by another program after this broker: changes that were \
                 not in it then are dropped; make them again if they are missing");
            journal.drop_older().map_err(failed)?;
        }
        if known {
            // A kill may have left what was written and not synced; from now on it is seen.
            journal.sync_older().map_err(failed)?;
        }
        let changes = found.unwrap_or_default();
        let bytes = changes.iter().map(|change| change.len() as u64).sum();
        let waiting = Waiting { bytes, since_ms: (!changes.is_empty()).then_some(0) };
        let inner = Mutex::new(Inner {
            journal,
            unnamed: (!known).then_some(print),
            has_dir: false,
            blocks: 0,
            refused: None,
            waiting,
            file_len: print.len,
            exporting: false,
            not_before_ms: 0,
        });
        let journal = ConfigJournal { disk: disk.clone(), path: path.to_path_buf(), dir, inner };
        Ok(Opened { file, changes, journal })
    }

    /// The configuration file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a change; it is on disk when this returns. After an error a kill may bring it back,
    /// unless another change was made before.
    pub fn append(&self, change: String, now_ms: i64) -> io::Result<()> {
        let bytes = change.len() as u64;
        let inner = &mut *self.inner.lock();
        self.add(inner, Block::Change(change))?;
        inner.waiting.bytes += bytes;
        inner.waiting.since_ms.get_or_insert(now_ms);
        Ok(())
    }

    fn add(&self, inner: &mut Inner, block: Block) -> io::Result<()> {
        let mut blocks = Vec::with_capacity(3);
        blocks.extend(inner.refused.map(|(generation, at)| Block::Refused(generation, at)));
        let generation = inner.journal.generation();
        blocks.extend(inner.unnamed.map(|print| Block::Named(generation, print)));
        blocks.push(block);
        if let Err(error) = self.write(inner, &blocks) {
            inner.refused.get_or_insert((generation, inner.blocks));
            if inner.journal.generation() == generation {
                inner.journal.begin();
            }
            inner.blocks = 0;
            return Err(error);
        }
        inner.blocks += blocks.len() as u32;
        (inner.refused, inner.unnamed) = (None, None);
        Ok(())
    }

    fn write(&self, inner: &mut Inner, blocks: &[Block]) -> io::Result<()> {
        let journal = &mut inner.journal;
        let is_new = journal.current_file().is_none();
        if !inner.has_dir {
            self.disk.create_dirs_durably(&self.dir)?;
            // Also what is there: it may be of an attempt whose sync failed.
            for above in self.dir.ancestors().skip(1).take(2) {
                self.disk.sync_dir(above)?;
            }
            inner.has_dir = true;
        }
        for block in blocks {
            block.encode(journal.block());
            journal.write()?;
        }
        if let Some(file) = journal.current_file() {
            file.sync_data()?;
        }
        if is_new { self.disk.sync_dir(&self.dir) } else { Ok(()) }
    }

    /// Whether changes have waited long enough for an export, or are many.
    pub fn wants_export(&self, now_ms: i64) -> bool {
        let inner = self.inner.lock();
        let Some(since_ms) = inner.waiting.since_ms else { return false };
        // A time ahead means that the clock was set back.
        let waits = 1 + (inner.file_len / BYTES_A_WAIT).min(100) as i64;
        let wait_ms = (waits * EXPORT_MS).min(MAX_EXPORT_MS);
        let old = now_ms - since_ms >= wait_ms || since_ms > now_ms;
        let many = inner.waiting.bytes >= EXPORT_BYTES.max(inner.file_len);
        (old || many) && now_ms >= inner.not_before_ms
    }

    /// Whether there are changes that the file does not have.
    pub fn has_changes(&self) -> bool {
        self.inner.lock().waiting.since_ms.is_some()
    }

    /// Begins an export of the state of this moment: no change may be appended between this call
    /// and the caller's copy of the state. [`ConfigJournal::export`] must follow. `None`: one is
    /// under way.
    pub fn begin_export(&self) -> Option<Export> {
        let inner = &mut *self.inner.lock();
        if std::mem::replace(&mut inner.exporting, true) {
            return None;
        }
        inner.journal.begin();
        inner.blocks = 0;
        let waiting = std::mem::take(&mut inner.waiting);
        Some(Export { generation: inner.journal.generation(), waiting })
    }

    /// Makes `text`, the state at the beginning of the export, the file. After an error the
    /// journal still has everything, and the export is wanted again after a pause.
    pub fn export(&self, export: Export, text: &str, now_ms: i64) -> io::Result<()> {
        let named = Block::Named(export.generation, Print::of(text));
        let result = self.add(&mut self.inner.lock(), named);
        let result = result.and_then(|()| config_file::save_on(&self.disk, &self.path, text));
        let inner = &mut *self.inner.lock();
        inner.exporting = false;
        if result.is_err() {
            inner.waiting.bytes += export.waiting.bytes;
            inner.waiting.since_ms = export.waiting.since_ms.or(inner.waiting.since_ms);
            inner.not_before_ms = now_ms + RETRY_MS;
            return result;
        }
        inner.file_len = text.len() as u64;
        inner.journal.drop_before(export.generation)
    }

    /// Removes a journal whose changes are all in the file; for a clean stop. Nothing may be
    /// appended any more.
    pub fn remove(&self) -> io::Result<()> {
        if self.has_changes() {
            return Ok(());
        }
        // The oldest first: what is left by a kill in between must end with what is true now.
        self.inner.lock().journal.drop_before(u64::MAX)?;
        ignore_absent(self.disk.sync_dir(&self.dir))?;
        ignore_absent(self.disk.remove_dir_all(&self.dir))?;
        self.dir.parent().map_or(Ok(()), |above| ignore_absent(self.disk.sync_dir(above)))
    }
}

/// The blocks of a journal, while it is read.
#[derive(Debug, Default)]
struct Replay {
    /// Generation, number in it, block.
    blocks: Vec<(u64, u32, Block)>,
    counted: (u64, u32),
}

impl Replay {
    fn add(&mut self, generation: u64, bytes: &[u8]) {
        if self.counted.0 != generation {
            self.counted = (generation, 0);
        }
        let number = self.counted.1;
        self.counted.1 += 1;
        match Block::decode(bytes) {
            Some(Block::Refused(from, at)) => self
                .blocks
                .retain(|(of, number, _)| *of == generation || (*of, *number) < (from, at)),
            Some(block) => self.blocks.push((generation, number, block)),
            None => tracing::error!(generation, number, "a block of no known kind, left out"),
        }
    }

    fn changes(&self) -> usize {
        self.blocks.iter().filter(|(.., block)| matches!(block, Block::Change(_))).count()
    }

    /// The changes since the text of that print; `None` when no block names it.
    fn since(&self, print: Print) -> Option<Vec<String>> {
        let start = self.blocks.iter().rev().find_map(|(.., block)| match block {
            Block::Named(start, named) if *named == print => Some(*start),
            _ => None,
        })?;
        let changes = self.blocks.iter().filter_map(|(generation, _, block)| match block {
            Block::Change(text) if *generation >= start => Some(text.clone()),
            _ => None,
        });
        Some(changes.collect())
    }
}
