//! The files of one queue, read slot by slot.

use std::io;
use std::path::{Path, PathBuf};

use super::log;
use crate::api::{Entry, OpenError};
use crate::batch_queue::{BatchEntry, UNIT as BATCH_UNIT};
use crate::disk::Disk;
use crate::files::{self, Listed};
use crate::queue_files::UNIT;

/// Bytes of a queue file read at once.
const BLOCK: usize = 4000;

/// The files of one queue.
#[derive(Debug, Default)]
pub(super) struct Files {
    pub(super) dir: PathBuf,
    listed: Vec<Listed>,
    size: i64,
    unit: i64,
    /// The bytes read last, and where they begin.
    pub(super) block: (i64, Vec<u8>),
}

impl Files {
    pub(super) fn of(disk: &Disk, dir: &Path, unit: i64) -> Result<Files, OpenError> {
        let mut listed = files::found(disk, dir)?.unwrap_or_default();
        files::pop_empty(&mut listed);
        let size = log::usual_size(&listed).unwrap_or(0) as i64;
        Ok(Files { dir: dir.to_path_buf(), listed, size, unit, block: (0, Vec::new()) })
    }

    /// Slots of the first file's begin and the last file's end.
    pub(super) fn span(&self) -> (i64, i64) {
        if self.is_empty() {
            return (0, 0);
        }
        let first = self.listed.first().map_or(0, |file| file.start);
        let last = self.listed.last().map_or(0, |file| file.start + self.size);
        (first / self.unit, last / self.unit)
    }

    /// The bytes of a slot; `None` without them.
    pub(super) fn slot(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<&[u8]>> {
        let unit = self.unit as usize;
        let Some(at) = slot.checked_mul(self.unit).filter(|at| *at >= 0) else { return Ok(None) };
        let inside = |block: &(i64, Vec<u8>)| {
            let skip = usize::try_from(at - block.0).ok()?;
            (skip + unit <= block.1.len()).then_some(skip)
        };
        if inside(&self.block).is_none() {
            let holds = |file: &&Listed| (file.start..file.start + file.len as i64).contains(&at);
            let Some(file) = self.listed.iter().find(holds) else { return Ok(None) };
            let in_file = at - file.start;
            let len = (file.len as i64 - in_file).min(BLOCK as i64 / self.unit * self.unit);
            let mut bytes = vec![0; len as usize];
            disk.open(&file.path)?.read_exact_at(&mut bytes, in_file as u64)?;
            self.block = (at, bytes);
        }
        let found = inside(&self.block);
        Ok(found.map(|skip| &self.block.1[skip..skip + unit]))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Place in the log, first queue offset and the one behind of the message in a slot.
    fn message(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<(i64, i64, i64)>> {
        if self.unit == UNIT {
            let entry = self.entry(disk, slot)?;
            return Ok(entry.map(|entry| (entry.physical_offset, slot, slot + 1)));
        }
        let batch = self.batch(disk, slot)?;
        Ok(batch.map(|batch| (batch.entry.physical_offset, batch.base, batch.end())))
    }

    /// First queue offset with a record at or above `log_min`, and the one behind the last.
    pub(super) fn offsets(&mut self, disk: &Disk, log_min: i64) -> io::Result<(i64, i64)> {
        if self.is_empty() {
            return Ok((0, 0));
        }
        let (first, end) = self.span();
        let mut max = None;
        let per_file = self.size / self.unit;
        let mut start = end;
        while max.is_none() && start > first {
            start -= per_file;
            // Entries fill a file from its front.
            let (mut low, mut high) = (start, start + per_file);
            while low < high {
                let middle = low + (high - low) / 2;
                if self.message(disk, middle)?.is_some() {
                    low = middle + 1;
                } else {
                    high = middle;
                }
            }
            max =
                if low > start { self.message(disk, low - 1)?.map(|found| found.2) } else { None };
        }
        let Some(max) = max else { return Ok((first, first)) };
        for slot in first..end {
            match self.message(disk, slot)? {
                Some((at, offset, _)) if at >= log_min => return Ok((offset, max)),
                _ => {}
            }
        }
        Ok((max, max))
    }

    /// Queue offsets and places of up to `max` messages or batches from `offset` on, or from the
    /// first that the log has.
    pub(super) fn places(
        &mut self,
        disk: &Disk,
        (log_min, offset): (i64, Option<i64>),
        max: usize,
    ) -> io::Result<Vec<(i64, Option<i64>)>> {
        let (min, behind) = self.offsets(disk, log_min)?;
        let from = offset.unwrap_or(min);
        let mut places = Vec::new();
        if self.unit == UNIT {
            for slot in (from..behind.max(from.saturating_add(1))).take(max) {
                places.push((slot, self.message(disk, slot)?.map(|found| found.0)));
            }
            return Ok(places);
        }
        let (first, end) = self.span();
        for slot in first..end {
            if let Some((at, base, next)) = self.message(disk, slot)?
                && next > from
                && places.len() < max
            {
                places.push((base, Some(at)));
            }
        }
        Ok(places)
    }

    /// The entry of an ordinary queue's slot.
    pub(super) fn entry(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<Entry>> {
        let raw = self.slot(disk, slot)?.and_then(<[u8]>::first_chunk);
        Ok(raw.and_then(Entry::decode).filter(|entry| !entry.is_blank()))
    }

    pub(super) fn batch(&mut self, disk: &Disk, slot: i64) -> io::Result<Option<BatchEntry>> {
        let raw = self.slot(disk, slot)?.and_then(<[u8]>::first_chunk::<BATCH_UNIT>);
        Ok(raw.and_then(BatchEntry::decode))
    }

    /// What is odd about the files themselves.
    pub(super) fn layout(&self) -> Option<String> {
        let mut expected = self.listed.first()?.start;
        for file in &self.listed {
            let name = files::name_of(file.start);
            if file.start != expected {
                return Some(format!("a file is missing in front of {name}"));
            }
            if file.len as i64 != self.size || self.size % self.unit != 0 {
                return Some(format!("{name} has {} bytes, not {}", file.len, self.size));
            }
            expected += self.size;
        }
        None
    }
}
