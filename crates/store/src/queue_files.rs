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
        let head = self.head(disk, &listed[0])?;
        let End { slot: next, last, is_clean } =
            self.good_end(disk, listed, &head, entry_of, valid)?;
        let first_file = listed[0].start;
        let first = self.first_entry(&head)?;
        let state = State {
            min: first_file / self.unit,
            next,
            flushed: next,
            first_file: Some(first_file),
            ..State::default()
        };
        let (is_live, first) = (first.is_some_and(|(at, _)| at == 0), first.map(|(_, e)| e));
        Ok(Loaded { state, first, last, begins_with_first: is_live, is_clean })
    }

    /// The first real entry of a file, certain or not, with its place: leading blanks have no
    /// record.
    fn first_entry(&self, head: &Head) -> io::Result<Option<(i64, Entry)>> {
        for at in 0..self.per_file() {
            match self.entry_at(head, at, entry_of)? {
                Some(entry) if entry.is_blank() => {}
                found => return Ok(found.map(|entry| (at, entry))),
            }
        }
        Ok(None)
    }

    fn load_batches(&self, disk: &Disk, listed: &[Listed], cut: i64) -> io::Result<Loaded> {
        let valid = |batch: &BatchEntry| batch.entry.physical_offset < cut;
        let head = self.head(disk, &listed[0])?;
        let End { slot, last, is_clean } = self.good_end(disk, listed, &head, batch_of, valid)?;
        let first = self.entry_at(&head, 0, batch_of)?;
        let next = last.map_or(0, |batch| batch.end());
        // The minimum follows from the log's; see `Queues::raise_min`.
        let state = State {
            next,
            flushed: next,
            first_file: Some(listed[0].start),
            batches: Some(Box::new(Batches::in_files(slot))),
            ..State::default()
        };
        let (first, last) = (first.map(|batch| batch.entry), last.map(|batch| batch.entry));
        Ok(Loaded { state, first, last, begins_with_first: false, is_clean })
    }

    /// A file with its first page, which is all there is of most of many queues.
    fn head(&self, disk: &Disk, listed: &Listed) -> io::Result<Head> {
        let file = disk.open(&listed.path)?;
        let mut page = vec![0; PAGE.min(self.file_size) as usize];
        file.read_exact_at(&mut page, 0)?;
        Ok(Head { file, page })
    }

    fn entry_at<E>(
        &self,
        head: &Head,
        at: i64,
        decode: impl Fn(&[u8]) -> Option<E>,
    ) -> io::Result<Option<E>> {
        let (from, unit) = ((at * self.unit) as usize, self.unit as usize);
        if let Some(raw) = head.page.get(from..from + unit) {
            return Ok(decode(raw));
        }
        let mut raw = [0; batch_queue::UNIT];
        head.file.read_exact_at(&mut raw[..unit], from as u64)?;
        Ok(decode(&raw[..unit]))
    }

    /// Where the leading entries that are `valid` end. `head` is of the first file.
    fn good_end<E>(
        &self,
        disk: &Disk,
        listed: &[Listed],
        head: &Head,
        decode: impl Fn(&[u8]) -> Option<E>,
        valid: impl Fn(&E) -> bool,
    ) -> io::Result<End<E>> {
        let count = listed.len();
        for (number, listed) in listed.iter().enumerate().rev() {
            let is_last = number + 1 == count;
            let own = if number == 0 { None } else { Some(self.head(disk, listed)?) };
            let head = own.as_ref().unwrap_or(head);
            let good =
                |at: i64| Ok::<_, io::Error>(self.entry_at(head, at, &decode)?.filter(&valid));
            if good(0)?.is_some() {
                let in_page = head.page.len() as i64 / self.unit;
                let (mut low, mut high) = (1, self.per_file());
                // The page answers without a look at the file.
                if good(in_page - 1)?.is_some() {
                    low = in_page;
                } else {
                    high = in_page - 1;
                }
                while low < high {
                    let middle = low + (high - low) / 2;
                    if good(middle)?.is_some() {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                let last = good(low - 1)?;
                let is_clean = is_last && head.is_zero_from((low * self.unit) as usize);
                return Ok(End { slot: listed.start / self.unit + low, last, is_clean });
            }
        }
        let slot = listed.first().map_or(0, |file| file.start) / self.unit;
        Ok(End { slot, last: None, is_clean: false })
    }
}

/// Bytes that are read of a file at first.
const PAGE: i64 = 4096;

/// See [`Layout::head`].
struct Head {
    file: File,
    page: Vec<u8>,
}

impl Head {
    /// Whether the file has nothing but zeros from a position in the page on; false when only a
    /// longer look could tell.
    fn is_zero_from(&self, at: usize) -> bool {
        let rest = self.page.get(at..);
        rest.is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
            && self.file.next_data(self.page.len() as u64).is_none()
    }
}

/// See [`Layout::good_end`].
struct End<E> {
    /// Behind the last entry.
    slot: i64,
    last: Option<E>,
    /// See [`Loaded`].
    is_clean: bool,
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
    /// `first` is the entry of the state's minimum.
    pub(crate) begins_with_first: bool,
    /// The files have nothing behind the last entry.
    pub(crate) is_clean: bool,
}

fn entry_of(raw: &[u8]) -> Option<Entry> {
    Entry::decode(raw.first_chunk()?)
}

fn batch_of(raw: &[u8]) -> Option<BatchEntry> {
    BatchEntry::decode(raw.first_chunk()?)
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
