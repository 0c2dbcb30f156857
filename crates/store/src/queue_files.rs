//! The files of consume queues on disk: where they are, and how far one queue's files are good.
//!
//! Owns nothing and locks nothing. There are two kinds of queues, 20 bytes an entry in
//! `consumequeue/`, 46 bytes in `batchconsumequeue/`; entries are counted in slots, which are the
//! queue offsets of the first kind.

use std::io;
use std::path::{Path, PathBuf};

use crate::api::{Entry, OpenError, StoreConfig};
use crate::batch_queue::{self, BatchEntry, Batches};
use crate::disk::{Disk, File};
use crate::files::{self, Listed};
use crate::queue::{Queue, State};

/// Files that are asked for the size of all.
const ENOUGH_FILES: usize = 64;

/// Bytes of an entry of an ordinary queue.
pub(crate) const UNIT: i64 = 20;

/// Place and sizes of the files of one kind of queues.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) dir: PathBuf,
    pub(crate) file_size: i64,
    /// Bytes of an entry.
    pub(crate) unit: i64,
}

impl Layout {
    /// The layouts of ordinary and of batch queues, with the sizes that existing files have.
    pub(crate) fn both(config: &StoreConfig) -> Result<[Layout; 2], OpenError> {
        let (ordinary, batch) = (config.consume_queue_file_size, config.batch_queue_file_size);
        let batch_unit = batch_queue::UNIT as i64;
        Ok([
            Layout::of(&config.disk, config.root.join("consumequeue"), ordinary, UNIT)?,
            Layout::of(&config.disk, config.root.join("batchconsumequeue"), batch, batch_unit)?,
        ])
    }

    /// Existing files tell their size; where they differ, which damage can do, the configured one
    /// is right if any has it, else the largest.
    fn of(disk: &Disk, dir: PathBuf, configured: u64, unit: i64) -> Result<Layout, OpenError> {
        let configured = configured.div_ceil(unit as u64) as i64 * unit;
        let mut sizes = Vec::new();
        'all: for (_, topic) in sub_dirs(disk, &dir).map_err(OpenError::io(&dir))? {
            for (_, queue) in sub_dirs(disk, &topic).map_err(OpenError::io(&topic))? {
                let files = files::list(disk, &queue)?.unwrap_or_default();
                let whole = files.iter().map(|file| file.len as i64).filter(|len| len % unit == 0);
                sizes.extend(whole.filter(|len| *len > 0));
                if sizes.len() >= ENOUGH_FILES {
                    break 'all;
                }
            }
        }
        let known = sizes.contains(&configured);
        let size = sizes.into_iter().max().filter(|_| !known).unwrap_or(configured);
        if size != configured {
            tracing::warn!(size, configured, "queue files keep the size they have");
        }
        Ok(Layout { dir, file_size: size, unit })
    }

    /// Whether its queues are batch queues.
    pub(crate) fn is_batch(&self) -> bool {
        self.unit != UNIT
    }

    /// Entries of one file.
    pub(crate) fn per_file(&self) -> i64 {
        self.file_size / self.unit
    }

    /// Byte offset in the name of the file that holds a slot.
    pub(crate) fn file_of(&self, slot: i64) -> i64 {
        slot / self.per_file() * self.file_size
    }

    pub(crate) fn queue_dir(&self, queue: &Queue) -> PathBuf {
        self.dir.join(queue.topic()).join(queue.id().to_string())
    }

    /// Path of the queue's file that begins at byte `start`.
    pub(crate) fn path(&self, queue: &Queue, start: i64) -> PathBuf {
        self.queue_dir(queue).join(files::name_of(start))
    }

    /// What the files of one queue directory hold; see [`Loaded`]. `None`: there are none.
    pub(crate) fn load(
        &self,
        disk: &Disk,
        dir: &Path,
        cut: i64,
    ) -> Result<Option<Loaded>, OpenError> {
        let files = files::list(disk, dir)?.unwrap_or_default();
        match files::common_size(&files)? {
            None => Ok(None),
            Some(size) if size as i64 != self.file_size => {
                let reason = format!("files of {size} bytes, not {}", self.file_size);
                Err(OpenError::Layout { path: dir.to_path_buf(), reason })
            }
            Some(_) if self.is_batch() => {
                self.load_batches(disk, &files, cut).map(Some).map_err(OpenError::io(dir))
            }
            Some(_) => self.load_entries(disk, &files, cut).map(Some).map_err(OpenError::io(dir)),
        }
    }

    fn load_entries(&self, disk: &Disk, listed: &[Listed], cut: i64) -> io::Result<Loaded> {
        let valid = |entry: &Entry| entry.physical_offset < cut;
        let (next, last) = self.good_end(disk, listed, entry_in, valid)?;
        // The first real one, certain or not: leading blanks have no record.
        let mut first = None;
        let file = disk.open(&listed[0].path)?;
        let mut at = 0;
        while at < self.per_file() && first.is_none() {
            let Some(entry) = entry_in(&file, at)? else { break };
            first = Some(entry).filter(|entry| !entry.is_blank());
            at += 1;
        }
        let first_file = listed[0].start;
        let state = State {
            min: first_file / self.unit,
            next,
            flushed: next,
            first_file: Some(first_file),
            ..State::default()
        };
        Ok(Loaded { state, first, last })
    }

    fn load_batches(&self, disk: &Disk, listed: &[Listed], cut: i64) -> io::Result<Loaded> {
        let valid = |batch: &BatchEntry| batch.entry.physical_offset < cut;
        let (slot, last) = self.good_end(disk, listed, batch_in, valid)?;
        let first = batch_in(&disk.open(&listed[0].path)?, 0)?;
        let next = last.map_or(0, |batch| batch.end());
        // The minimum follows from the log's; see `Queues::raise_min`.
        let state = State {
            next,
            flushed: next,
            first_file: Some(listed[0].start),
            batches: Some(Box::new(Batches::in_files(slot))),
            ..State::default()
        };
        let entry_of = |batch: BatchEntry| batch.entry;
        Ok(Loaded { state, first: first.map(entry_of), last: last.map(entry_of) })
    }

    /// The slot behind the leading entries that are `valid`, and the last of these.
    fn good_end<E>(
        &self,
        disk: &Disk,
        listed: &[Listed],
        read: impl Fn(&File, i64) -> io::Result<Option<E>>,
        valid: impl Fn(&E) -> bool,
    ) -> io::Result<(i64, Option<E>)> {
        let good = |file: &File, at: i64| Ok::<_, io::Error>(read(file, at)?.filter(&valid));
        for listed in listed.iter().rev() {
            let file = disk.open(&listed.path)?;
            if good(&file, 0)?.is_some() {
                let (mut low, mut high) = (1, self.per_file());
                while low < high {
                    let middle = low + (high - low) / 2;
                    if good(&file, middle)?.is_some() {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                return Ok((listed.start / self.unit + low, good(&file, low - 1)?));
            }
        }
        Ok((listed.first().map_or(0, |file| file.start) / self.unit, None))
    }
}

/// What the files of a queue say up to an offset of the log that is certain.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The queue with all leading entries that are valid and below that offset.
    pub(crate) state: State,
    /// The first entry with a record, certain or not.
    pub(crate) first: Option<Entry>,
    /// The last certain one.
    pub(crate) last: Option<Entry>,
}

fn entry_in(file: &File, index: i64) -> io::Result<Option<Entry>> {
    let mut raw = [0; UNIT as usize];
    file.read_exact_at(&mut raw, (index * UNIT) as u64)?;
    Ok(Entry::decode(&raw))
}

fn batch_in(file: &File, index: i64) -> io::Result<Option<BatchEntry>> {
    let mut raw = [0; batch_queue::UNIT];
    file.read_exact_at(&mut raw, index as u64 * batch_queue::UNIT as u64)?;
    Ok(BatchEntry::decode(&raw))
}

/// Whether a file of `end` bytes has anything but zeros at or behind `from`, without reading its
/// holes.
pub(crate) fn has_data(file: &File, from: i64, end: i64) -> io::Result<bool> {
    let (mut at, end) = (from as u64, end as u64);
    let mut page = [0; 4096];
    while at < end {
        at = match file.next_data(at) {
            Some(data) if data < end => data,
            _ => return Ok(false),
        };
        let len = (end - at).min(page.len() as u64) as usize;
        file.read_exact_at(&mut page[..len], at)?;
        if page[..len].iter().any(|byte| *byte != 0) {
            return Ok(true);
        }
        at += len as u64;
    }
    Ok(false)
}

/// Takes "there is no such file" for success.
pub(crate) fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Sub-directories of `dir`, none when it is absent.
pub(crate) fn sub_dirs(disk: &Disk, dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let found = match disk.list(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        found => found?,
    };
    let dirs = found.into_iter().filter(|found| found.is_dir);
    Ok(dirs.map(|found| (found.name.clone(), dir.join(found.name))).collect())
}
