//! The few file operations that everything here is made of.
//!
//! Owns nothing, locks nothing. Files are only ever read and written at explicit positions, never
//! mapped, and are named by the offset of their first byte as Java names them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use rustix::io::{Errno, ReadWriteFlags};

use crate::api::{OpenError, Wait};

/// Java's file name for a first byte at `offset`.
pub(crate) fn name_of(offset: i64) -> String {
    format!("{offset:020}")
}

/// Opens an existing file for reading and writing.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Creates or opens a file and gives it its full, sparse length.
pub(crate) fn create_sized(path: &Path, size: u64) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.len() != size {
        file.set_len(size)?;
    }
    Ok(file)
}

/// Fills `buf` from position `at`. `Ok(false)`: waiting was not allowed and a page is not in
/// memory; `buf` then holds rubbish. An end of file inside the range is an error.
pub(crate) fn read_at(file: &File, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<bool> {
    if wait == Wait::MayBlock {
        file.read_exact_at(buf, at)?;
        return Ok(true);
    }
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

/// Reserves the blocks of a range without changing what is read from it. `Ok(false)`: the file
/// system cannot reserve.
pub(crate) fn reserve(file: &File, at: u64, len: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), at, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes `[at, end)` read as zeros, durably.
pub(crate) fn zero(file: &File, at: u64, end: u64) -> io::Result<()> {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    if at < end && rustix::fs::fallocate(file, punch, at, end - at).is_err() {
        let zeros = [0; 8192];
        let mut position = at;
        while position < end {
            let step = (end - position).min(zeros.len() as u64);
            file.write_all_at(&zeros[..step as usize], position)?;
            position += step;
        }
    }
    file.sync_data()
}

/// The files of one directory that are named by offset, in order. Sub-directories and names that
/// are not numbers are skipped; a last file of length 0 is deleted, as Java does. `None` when the
/// directory is absent.
pub(crate) fn list(dir: &Path) -> Result<Option<Vec<Listed>>, OpenError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(dir)(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(OpenError::io(dir))?;
        let path = entry.path();
        let meta = entry.metadata().map_err(OpenError::io(&path))?;
        let name = entry.file_name();
        let Some(start) = name.to_str().filter(|n| n.len() == 20).and_then(|n| n.parse().ok())
        else {
            continue;
        };
        if meta.is_file() {
            files.push(Listed { start, len: meta.len(), path });
        }
    }
    files.sort_by_key(|file| file.start);
    if let Some(last) = files.pop_if(|file| file.len == 0) {
        fs::remove_file(&last.path).map_err(OpenError::io(&last.path))?;
    }
    Ok(Some(files))
}

/// One file found by [`list`].
#[derive(Debug)]
pub(crate) struct Listed {
    /// Offset in its name.
    pub(crate) start: i64,
    /// Its length in bytes.
    pub(crate) len: u64,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Checks that listed files have one size and follow each other, and returns the size.
pub(crate) fn common_size(files: &[Listed]) -> Result<Option<u64>, OpenError> {
    let Some(first) = files.first() else { return Ok(None) };
    // With several files the names tell the size, so that the odd file is the one named.
    let size = files.get(1).map_or(first.len as i64, |second| second.start - first.start);
    for (index, file) in files.iter().enumerate() {
        let expected = first.start + index as i64 * size;
        if file.len as i64 != size || file.start != expected || size <= 0 || file.start % size != 0
        {
            return Err(OpenError::Layout {
                path: file.path.clone(),
                reason: format!(
                    "{} bytes at offset {}: expected {size} bytes at offset {expected}",
                    file.len, file.start
                ),
            });
        }
    }
    Ok(Some(size as u64))
}

/// Percent of the blocks of a partition in use, as `df` counts them.
pub(crate) fn disk_used_percent(dir: &Path) -> io::Result<f64> {
    let stat = rustix::fs::statvfs(dir)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    let all = used + stat.f_bavail;
    Ok(if all == 0 { 0.0 } else { used as f64 * 100.0 / all as f64 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn listing_orders_checks_and_drops_an_empty_last_file() {
        let dir = TempDir::new("files");
        assert!(list(&dir.path().join("absent")).unwrap().is_none());
        for start in [200, 100, 0, 300] {
            let len = if start == 300 { 0 } else { 100 };
            create_sized(&dir.path().join(name_of(start)), len).unwrap();
        }
        fs::write(dir.path().join("notes"), "x").unwrap();
        let files = list(dir.path()).unwrap().unwrap();
        assert_eq!(files.iter().map(|f| f.start).collect::<Vec<_>>(), [0, 100, 200]);
        assert_eq!(common_size(&files).unwrap(), Some(100));
        assert!(!dir.path().join(name_of(300)).exists());
        fs::remove_file(&files[1].path).unwrap();
        let files = list(dir.path()).unwrap().unwrap();
        assert!(matches!(common_size(&files), Err(OpenError::Layout { .. })));
    }

    #[test]
    fn reads_and_zeroes() {
        let dir = TempDir::new("zero");
        let file = create_sized(&dir.path().join("f"), 10_000).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        zero(&file, 100, 9_900).unwrap();
        let mut buf = vec![1; 10_000];
        assert!(read_at(&file, &mut buf, 0, Wait::OnlyCached).unwrap());
        assert!(buf[..100].iter().chain(&buf[9_900..]).all(|b| *b == 7));
        assert!(buf[100..9_900].iter().all(|b| *b == 0));
        assert!(read_at(&file, &mut buf, 1, Wait::MayBlock).is_err());
        assert!(reserve(&file, 0, 10_000).is_ok());
    }
}
