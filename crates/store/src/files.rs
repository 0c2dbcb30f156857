//! Files that are named by the offset of their first byte, as Java names them.
//!
//! Owns nothing, locks nothing.

use std::io;
use std::path::{Path, PathBuf};

use crate::api::OpenError;
use crate::disk::Disk;

/// Java's file name for a first byte at `offset`.
pub(crate) fn name_of(offset: i64) -> String {
    format!("{offset:020}")
}

/// The files of one directory that are named by offset, in order. Sub-directories and names that
/// are not numbers are skipped. `None` when the directory is absent.
pub(crate) fn found(disk: &Disk, dir: &Path) -> Result<Option<Vec<Listed>>, OpenError> {
    let found = match disk.list(dir) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(dir)(error)),
    };
    let named = found.into_iter().filter(|found| !found.is_dir && found.name.len() == 20);
    let mut files: Vec<Listed> = named
        .filter_map(|found| {
            let start = found.name.parse().ok()?;
            Some(Listed { start, len: found.len, path: dir.join(found.name) })
        })
        .collect();
    files.sort_by_key(|file| file.start);
    Ok(Some(files))
}

/// The same; a last file of length 0 is deleted, as Java does.
pub(crate) fn list(disk: &Disk, dir: &Path) -> Result<Option<Vec<Listed>>, OpenError> {
    let Some(mut files) = found(disk, dir)? else { return Ok(None) };
    if let Some(last) = pop_empty(&mut files) {
        disk.remove_file(&last.path).map_err(OpenError::io(&last.path))?;
    }
    Ok(Some(files))
}

/// Takes away a last file of length 0: whoever was making it was killed.
pub(crate) fn pop_empty(files: &mut Vec<Listed>) -> Option<Listed> {
    files.pop_if(|file| file.len == 0)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Wait;
    use crate::testing::TempDir;

    #[test]
    fn listing_orders_checks_and_drops_an_empty_last_file() {
        let dir = TempDir::new("files");
        let disk = Disk::default();
        assert!(list(&disk, &dir.path().join("absent")).unwrap().is_none());
        for start in [200, 100, 0, 300] {
            let len = if start == 300 { 0 } else { 100 };
            disk.create_sized(&dir.path().join(name_of(start)), len).unwrap();
        }
        std::fs::write(dir.path().join("notes"), "x").unwrap();
        let files = list(&disk, dir.path()).unwrap().unwrap();
        assert_eq!(files.iter().map(|f| f.start).collect::<Vec<_>>(), [0, 100, 200]);
        assert_eq!(common_size(&files).unwrap(), Some(100));
        assert!(!dir.path().join(name_of(300)).exists());
        disk.remove_file(&files[1].path).unwrap();
        let files = list(&disk, dir.path()).unwrap().unwrap();
        assert!(matches!(common_size(&files), Err(OpenError::Layout { .. })));
    }

    #[test]
    fn reads_and_zeroes() {
        let dir = TempDir::new("zero");
        let file = Disk::default().create_sized(&dir.path().join("f"), 10_000).unwrap();
        file.write_all_at(&[7; 10_000], 0).unwrap();
        file.zero(100, 9_900).unwrap();
        let mut buf = vec![1; 10_000];
        assert!(file.read_at(&mut buf, 0, Wait::OnlyCached).unwrap());
        assert!(buf[..100].iter().chain(&buf[9_900..]).all(|b| *b == 7));
        assert!(buf[100..9_900].iter().all(|b| *b == 0));
        assert!(file.read_at(&mut buf, 1, Wait::MayBlock).is_err());
        assert!(file.reserve(0, 10_000).is_ok());
    }
}
