//! Log files that nobody will read again, on their way off the disk.
//!
//! Owns them in a directory of its own beside the log, which Java skips. A file goes in steps, so
//! that a gigabyte never stalls the file system that sends are written to, and only when no reader
//! holds it any more. What a kill left here goes with the next start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::commit_log::Segment;
use crate::disk::Disk;
use crate::files::name_of;

/// Bytes that are given back at once.
const STEP: u64 = 64 << 20;
/// Milliseconds from one step to the next.
pub(crate) const STEP_MS: i64 = 20;

/// See the module.
#[derive(Debug)]
pub(crate) struct Trash {
    disk: Disk,
    dir: PathBuf,
    files: Mutex<Vec<(PathBuf, Arc<Segment>)>>,
}

impl Trash {
    /// The trash of the log in `log_dir`, with what an earlier process left in it.
    pub(crate) fn open(disk: &Disk, log_dir: &Path) -> io::Result<Trash> {
        let dir = log_dir.join("apogee-deleted");
        let mut files = Vec::new();
        if disk.exists(&dir) {
            for found in disk.list(&dir)? {
                let path = dir.join(found.name);
                let file = disk.open(&path)?;
                files.push((path.clone(), Arc::new(Segment { start: 0, file, path })));
            }
        }
        Ok(Trash { disk: disk.clone(), dir, files: Mutex::new(files) })
    }

    /// Takes a log file over; its name is free at once.
    pub(crate) fn put(&self, segment: Arc<Segment>) -> io::Result<()> {
        let path = self.dir.join(name_of(segment.start));
        let made = self.disk.create_dir_all(&self.dir);
        if made.and_then(|()| self.disk.rename(&segment.path, &path)).is_err() {
            // A full disk may have no room for a name; then the file goes at once.
            return self.disk.remove_file(&segment.path);
        }
        self.files.lock().push((path, segment));
        Ok(())
    }

    /// Takes the next step; whether there is more to do.
    pub(crate) fn step(&self) -> io::Result<bool> {
        let mut files = self.files.lock();
        let free = files.iter().position(|(_, segment)| Arc::strong_count(segment) == 1);
        let Some(at) = free else { return Ok(!files.is_empty()) };
        let (path, segment) = &files[at];
        let left = segment.file.len()?;
        if left > STEP {
            segment.file.set_len(left - STEP)?;
            return Ok(true);
        }
        let removed = self.disk.remove_file(path);
        files.remove(at);
        removed.map(|()| !files.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Act, Memory, Verdict};

    #[test]
    fn a_file_goes_in_steps_when_no_reader_holds_it_and_after_a_kill() {
        let memory = Memory::default();
        let disk = Disk::memory(memory.clone());
        let dir = Path::new("/log");
        disk.create_dirs_durably(dir).unwrap();
        let segment = |start| {
            let path = dir.join(name_of(start));
            let file = disk.create_sized(&path, 3 * STEP).unwrap();
            Arc::new(Segment { start, file, path })
        };
        let trash = Trash::open(&disk, dir).unwrap();
        assert!(!trash.step().unwrap());
        let (held, free) = (segment(0), segment(1));
        let reader = Arc::clone(&held);
        trash.put(held).unwrap();
        trash.put(free).unwrap();
        assert!(!disk.exists(&dir.join(name_of(0))));
        assert!((0..5).all(|_| trash.step().unwrap()));
        assert_eq!(memory.files().len(), 1, "the free one is gone");
        assert_eq!(reader.file.len().unwrap(), 3 * STEP);
        drop((reader, trash));
        // Where there is no room for the directory the file goes at once.
        let full = disk.clone().watched(Arc::new(|act, path: &Path| {
            let named = act == Act::Name && path.ends_with("apogee-deleted");
            if named { Verdict::Fail(io::ErrorKind::StorageFull.into()) } else { Verdict::Go }
        }));
        let last = segment(2);
        Trash::open(&full, dir).unwrap().put(last).unwrap();
        assert_eq!(memory.files().len(), 1);
        let trash = Trash::open(&disk, dir).unwrap();
        while trash.step().unwrap() {}
        assert!(memory.files().is_empty());
    }
}
