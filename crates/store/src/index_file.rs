//! One index file: header, hash slots, entries (storage.md 4.1).
//!
//! Owns the file's bytes and, while it is being filled or searched as the newest, its slots in
//! memory. Locks nothing; the index serialises. Writes entries first, then slots, then the header,
//! so that after a crash the entries up to the header's count are good.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, File};

const HEADER: u64 = 40;
const ENTRY: usize = 20;
/// Slots are written back in pieces of 4 KiB.
const PAGE_SLOTS: usize = 1024;
/// Entries are collected in memory up to this many bytes.
const BUFFER: usize = 64 << 10;

/// Number of slots and entries of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) slots: u32,
    pub(crate) entries: u32,
}

impl Shape {
    fn file_len(self) -> u64 {
        HEADER + u64::from(self.slots) * 4 + u64::from(self.entries) * ENTRY as u64
    }
    fn entry_at(self, number: u32) -> u64 {
        HEADER + u64::from(self.slots) * 4 + u64::from(number) * ENTRY as u64
    }
}

/// The 40 bytes at the front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) begin_offset: i64,
    pub(crate) end_offset: i64,
    used_slots: i32,
    /// Number that the next entry gets; numbers begin with 1.
    pub(crate) count: u32,
}

impl Default for Header {
    fn default() -> Header {
        Header { begin_ms: 0, end_ms: 0, begin_offset: 0, end_offset: 0, used_slots: 0, count: 1 }
    }
}

impl Header {
    /// What the file after this one begins with.
    pub(crate) fn successor(&self) -> Header {
        let (ms, offset) = (self.end_ms, self.end_offset);
        Header {
            begin_ms: ms,
            end_ms: ms,
            begin_offset: offset,
            end_offset: offset,
            ..Header::default()
        }
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    hash: i32,
    physical_offset: i64,
    seconds: i32,
    previous: u32,
}

impl Entry {
    fn decode(raw: &[u8]) -> Entry {
        let word = |at: usize| {
            let mut word = [0; 4];
            word.copy_from_slice(&raw[at..at + 4]);
            i32::from_be_bytes(word)
        };
        Entry {
            hash: word(0),
            physical_offset: (i64::from(word(4)) << 32) | i64::from(word(8) as u32),
            seconds: word(12),
            previous: word(16) as u32,
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct IndexFile {
    path: PathBuf,
    file: File,
    shape: Shape,
    header: Header,
    /// Slots in memory; empty until needed.
    slots: Vec<u32>,
    dirty: Vec<bool>,
    /// Entries that are not in the file yet; they end at `header.count`.
    buffer: Vec<u8>,
    /// Offset of the last good entry before a rebuild.
    resume_at: i64,
}

impl IndexFile {
    pub(crate) fn create(
        disk: &Disk,
        path: &Path,
        shape: Shape,
        header: Header,
    ) -> io::Result<IndexFile> {
        let file = disk.create_sized(path, shape.file_len())?;
        Ok(IndexFile::with(path, file, shape, header))
    }

    /// Opens an existing file, which must have the shape's length.
    pub(crate) fn open(disk: &Disk, path: &Path, shape: Shape) -> io::Result<IndexFile> {
        let file = disk.open(path)?;
        let len = file.len()?;
        if len != shape.file_len() {
            return Err(io::Error::other(format!("{len} bytes, not {}", shape.file_len())));
        }
        let mut raw = [0; HEADER as usize];
        file.read_exact_at(&mut raw, 0)?;
        let long = |at: usize| raw[at..at + 8].first_chunk().map_or(0, |r| i64::from_be_bytes(*r));
        let word = |at: usize| raw[at..at + 4].first_chunk().map_or(0, |r| i32::from_be_bytes(*r));
        let header = Header {
            begin_ms: long(0),
            end_ms: long(8),
            begin_offset: long(16),
            end_offset: long(24),
            used_slots: word(32),
            count: (word(36).max(1) as u32).min(shape.entries),
        };
        Ok(IndexFile::with(path, file, shape, header))
    }

    fn with(path: &Path, file: File, shape: Shape, header: Header) -> IndexFile {
        IndexFile {
            path: path.to_path_buf(),
            file,
            shape,
            header,
            slots: Vec::new(),
            dirty: Vec::new(),
            buffer: Vec::new(),
            resume_at: 0,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }
    pub(crate) fn is_full(&self) -> bool {
        self.header.count >= self.shape.entries
    }
    /// From where on records must be indexed again after a rebuild that dropped the last one.
    pub(crate) fn resume_at(&self) -> i64 {
        self.resume_at
    }
    /// Gives the memory back; the file must be synced.
    pub(crate) fn release(&mut self) {
        (self.slots, self.dirty, self.buffer) = (Vec::new(), Vec::new(), Vec::new());
    }

    fn load_slots(&mut self) -> io::Result<()> {
        if !self.slots.is_empty() {
            return Ok(());
        }
        let count = self.shape.slots as usize;
        self.dirty = vec![false; count.div_ceil(PAGE_SLOTS)];
        let mut slots = vec![0; count];
        if self.header.count > 1 {
            let mut raw = vec![0; count * 4];
            self.file.read_exact_at(&mut raw, HEADER)?;
            for (slot, raw) in slots.iter_mut().zip(raw.as_chunks::<4>().0) {
                *slot = u32::from_be_bytes(*raw);
            }
        }
        self.slots = slots;
        Ok(())
    }

    /// Adds an entry; the file must not be full.
    pub(crate) fn insert(&mut self, hash: i32, offset: i64, timestamp_ms: i64) -> io::Result<()> {
        self.load_slots()?;
        if self.buffer.len() >= BUFFER {
            self.write_entries()?;
        }
        let number = self.header.count;
        if number == 1 {
            self.header.begin_ms = timestamp_ms;
            self.header.begin_offset = offset;
        }
        let seconds = ((timestamp_ms - self.header.begin_ms) / 1000).clamp(0, i64::from(i32::MAX));
        let slot = hash as u32 as usize % self.slots.len();
        let previous = self.valid(self.slots[slot]);
        self.header.used_slots += i32::from(previous == 0);
        self.slots[slot] = number;
        self.dirty[slot / PAGE_SLOTS] = true;
        self.buffer.extend_from_slice(&hash.to_be_bytes());
        self.buffer.extend_from_slice(&offset.to_be_bytes());
        self.buffer.extend_from_slice(&(seconds as i32).to_be_bytes());
        self.buffer.extend_from_slice(&previous.to_be_bytes());
        self.header.count += 1;
        self.header.end_ms = timestamp_ms;
        self.header.end_offset = offset;
        Ok(())
    }

    /// A chain link, 0 when it leads nowhere.
    fn valid(&self, number: u32) -> u32 {
        if number < self.header.count { number } else { 0 }
    }

    fn write_entries(&mut self) -> io::Result<()> {
        let first = self.header.count - (self.buffer.len() / ENTRY) as u32;
        self.file.write_all_at(&self.buffer, self.shape.entry_at(first))?;
        self.buffer.clear();
        Ok(())
    }

    /// Brings everything to the disk.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.write_entries()?;
        let mut page = 0;
        let mut raw = Vec::new();
        while let Some(skip) = self.dirty[page..].iter().position(|dirty| *dirty) {
            let first = page + skip;
            // Neighbours go in one write, up to 64 KiB.
            let run = self.dirty[first..].iter().take(16).take_while(|dirty| **dirty).count();
            let until = ((first + run) * PAGE_SLOTS).min(self.slots.len());
            raw.clear();
            for slot in &self.slots[first * PAGE_SLOTS..until] {
                raw.extend_from_slice(&slot.to_be_bytes());
            }
            self.file.write_all_at(&raw, HEADER + (first * PAGE_SLOTS * 4) as u64)?;
            self.dirty[first..first + run].fill(false);
            page = first + run;
        }
        let header = &self.header;
        raw.clear();
        for long in [header.begin_ms, header.end_ms, header.begin_offset, header.end_offset] {
            raw.extend_from_slice(&long.to_be_bytes());
        }
        raw.extend_from_slice(&header.used_slots.to_be_bytes());
        raw.extend_from_slice(&header.count.to_be_bytes());
        self.file.write_all_at(&raw, 0)?;
        self.file.sync_data()
    }

    /// Makes slots and header anew from the entries: those of records below `limit` and in log
    /// order are kept; with `drop_last` all of the last such record go, because some of its keys
    /// may be missing. `None`: no entry is left. Call [`IndexFile::sync`] some time later.
    pub(crate) fn rebuild(&mut self, limit: i64, drop_last: bool) -> io::Result<Option<Header>> {
        self.write_entries()?;
        let mut raw = vec![0; (self.header.count as usize - 1) * ENTRY];
        self.file.read_exact_at(&mut raw, self.shape.entry_at(1))?;
        let mut entries: Vec<Entry> = raw.chunks_exact(ENTRY).map(Entry::decode).collect();
        let mut last = self.header.begin_offset;
        let good = entries.iter().position(|entry| {
            let offset = entry.physical_offset;
            let bad = offset < last || offset >= limit;
            last = offset;
            bad
        });
        entries.truncate(good.unwrap_or(entries.len()));
        self.resume_at = entries.last().map_or(0, |entry| entry.physical_offset);
        if drop_last {
            let keep = entries.partition_point(|entry| entry.physical_offset < self.resume_at);
            entries.truncate(keep);
        }
        let begin = self.header;
        self.header = Header { count: 1, used_slots: 0, ..begin };
        self.slots = vec![0; self.shape.slots as usize];
        self.dirty = vec![true; self.slots.len().div_ceil(PAGE_SLOTS)];
        for entry in entries {
            let at = begin.begin_ms + i64::from(entry.seconds) * 1000;
            self.insert(entry.hash, entry.physical_offset, at)?;
        }
        // Entries know whole seconds only; the end must not come before the last record.
        self.header.end_ms = (self.header.end_ms + 999).min(begin.end_ms.max(self.header.end_ms));
        Ok((self.header.count > 1).then_some(self.header))
    }

    /// Shows every entry in order: its number, hash and physical offset. Returns how many links,
    /// from slots and between entries, do not lead where they should.
    pub(crate) fn each(
        &mut self,
        show: &mut dyn FnMut(u32, i32, i64) -> io::Result<()>,
    ) -> io::Result<u64> {
        self.load_slots()?;
        let mut last = vec![0; self.shape.slots as usize];
        let mut wrong = 0;
        let mut raw = Vec::new();
        let mut number = 1;
        while number < self.header.count {
            let until = self.header.count.min(number + BUFFER as u32 / ENTRY as u32);
            raw.resize((until - number) as usize * ENTRY, 0);
            self.file.read_exact_at(&mut raw, self.shape.entry_at(number))?;
            for entry in raw.chunks_exact(ENTRY).map(Entry::decode) {
                let slot = &mut last[entry.hash as u32 as usize % self.shape.slots as usize];
                wrong += u64::from(self.valid(entry.previous) != *slot);
                *slot = number;
                show(number, entry.hash, entry.physical_offset)?;
                number += 1;
            }
        }
        let led = last.iter().zip(&self.slots).filter(|(last, slot)| **last != self.valid(**slot));
        Ok(wrong + led.count() as u64)
    }

    /// Finds entries of a hash, newest first, that are not in `found` yet.
    pub(crate) fn search(
        &mut self,
        hash: i32,
        max: usize,
        (begin_ms, end_ms): (i64, i64),
        found: &mut Vec<i64>,
    ) -> io::Result<()> {
        let header = self.header;
        if header.count <= 1 || header.end_ms < begin_ms || header.begin_ms > end_ms {
            return Ok(());
        }
        if !self.buffer.is_empty() {
            self.write_entries()?;
        }
        let slot = hash as u32 % self.shape.slots;
        let mut number = match self.slots.get(slot as usize) {
            Some(number) => *number,
            None => {
                let mut raw = [0; 4];
                self.file.read_exact_at(&mut raw, HEADER + u64::from(slot) * 4)?;
                u32::from_be_bytes(raw)
            }
        };
        while self.valid(number) > 0 && found.len() < max {
            let mut raw = [0; ENTRY];
            self.file.read_exact_at(&mut raw, self.shape.entry_at(number))?;
            let entry = Entry::decode(&raw);
            // Times are whole seconds, rounded down: nothing at the edge may be missed.
            let at = header.begin_ms + i64::from(entry.seconds) * 1000;
            if entry.hash == hash
                && at <= end_ms
                && at + 999 >= begin_ms
                && !found.contains(&entry.physical_offset)
            {
                found.push(entry.physical_offset);
            }
            if at + 999 < begin_ms || entry.previous >= number {
                break;
            }
            number = entry.previous;
        }
        Ok(())
    }
}
