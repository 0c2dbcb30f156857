//! The file system's side of the seam: what the standard library does not have.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::UNIX_EPOCH;

use rustix::fs::{Advice, FallocateFlags};
use rustix::io::{Errno, ReadWriteFlags};

use super::{Found, Present, Room};

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

pub(super) fn create(path: &Path, present: Present) -> io::Result<File> {
    let empty = present == Present::Empty;
    OpenOptions::new().read(true).write(true).create(true).truncate(empty).open(path)
}

pub(super) fn list(dir: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A directory's length is nothing: of many queues' directories each call counts.
        let is_dir = entry.file_type()?.is_dir();
        let len = if is_dir { 0 } else { entry.metadata()?.len() };
        if let Ok(name) = entry.file_name().into_string() {
            found.push(Found { name, is_dir, len });
        }
    }
    Ok(found)
}

pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all().map_err(super::sync_failed)
}

pub(super) fn sync_file_system(dir: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(dir)?)?)
}

/// A read that only the page cache may answer; `Ok(false)` when it cannot.
pub(super) fn read_cached(file: &File, buf: &mut [u8], at: u64) -> io::Result<bool> {
    loop {
        let mut slices = [IoSliceMut::new(buf)];
        match rustix::io::preadv2(file, &mut slices, at, ReadWriteFlags::NOWAIT) {
            Ok(n) => return Ok(n == buf.len()),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            // File systems that cannot tell: then a read may wait, as it always could.
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                file.read_exact_at(buf, at)?;
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Tells the system what will be read; `len` 0 for the whole file. It may not care.
pub(super) fn advise(file: &File, at: u64, len: u64, advice: Advice) {
    let _ = rustix::fs::fadvise(file, at, std::num::NonZeroU64::new(len), advice);
}

pub(super) fn reserve(file: &File, at: u64, len: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Whether the file system could take the blocks of a range away.
pub(super) fn punch(file: &File, at: u64, end: u64) -> bool {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    at >= end || rustix::fs::fallocate(file, punch, at, end - at).is_ok()
}

pub(super) fn next_data(file: &File, at: u64) -> Option<u64> {
    match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Ok(data) => Some(data),
        Err(Errno::NXIO) => None,
        // File systems that cannot tell have no holes.
        Err(_) => Some(at),
    }
}

pub(super) fn modified_ms(file: &File) -> io::Result<i64> {
    let since = file.metadata()?.modified()?.duration_since(UNIX_EPOCH);
    Ok(since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX)))
}

pub(super) fn room(dir: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(dir)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Ok(Room { used: used * stat.f_frsize, free: stat.f_bavail * stat.f_frsize })
}
