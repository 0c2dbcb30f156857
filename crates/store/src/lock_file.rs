//! The files that say who has the store: `lock`, and `abort` while it is open.
//!
//! Owns the lock of the directory until dropped. The lock is a POSIX record lock, so that a Java
//! broker and this one exclude each other; unlike Java it is taken before anything is read. A
//! record lock does not exclude the own process, so the process also keeps a list of its stores.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::api::OpenError;
use crate::disk::{Disk, Present};

static OPEN_HERE: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// The exclusive right to a store directory.
#[derive(Debug)]
pub(crate) struct StoreLock {
    root: PathBuf,
    // Closing any descriptor of the file in this process would drop the lock: nothing else may
    // open it. None on a disk that no other process has.
    _file: Option<File>,
}

impl StoreLock {
    /// Takes the lock or says who has it.
    pub(crate) fn take(disk: &Disk, root: &Path) -> Result<StoreLock, OpenError> {
        if !disk.is_shared() {
            return Ok(StoreLock { root: PathBuf::new(), _file: None });
        }
        let path = root.join("lock");
        let root = fs::canonicalize(root).map_err(OpenError::io(root))?;
        let mut here = OPEN_HERE.lock();
        if here.contains(&root) {
            return Err(OpenError::Locked { path, pid: std::process::id() as i32 });
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(OpenError::io(&path))?;
        if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok().flatten();
            let pid = holder.and_then(|lock| lock.pid).map_or(0, |pid| pid.as_raw_nonzero().get());
            return Err(OpenError::Locked { path, pid });
        }
        file.write_all_at(b"lock", 0).map_err(OpenError::io(&path))?;
        here.insert(root.clone());
        Ok(StoreLock { root, _file: Some(file) })
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        OPEN_HERE.lock().remove(&self.root);
    }
}

/// Whether the last user of the store did not stop cleanly.
pub(crate) fn was_aborted(disk: &Disk, root: &Path) -> bool {
    disk.exists(&root.join("abort"))
}

/// Marks the store as in use.
pub(crate) fn set_abort(disk: &Disk, root: &Path) -> io::Result<()> {
    let file = disk.create(&root.join("abort"), Present::Empty)?;
    file.write_all_at(std::process::id().to_string().as_bytes(), 0)?;
    disk.sync_dir(root)
}

/// Says that the store was left complete and on disk.
pub(crate) fn clear_abort(disk: &Disk, root: &Path) -> io::Result<()> {
    disk.remove_file(&root.join("abort"))?;
    disk.sync_dir(root)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn a_second_taker_is_refused_until_the_first_lets_go() {
        let dir = TempDir::new("lock");
        let first = StoreLock::take(&Disk::default(), dir.path()).unwrap();
        let second = StoreLock::take(&Disk::default(), dir.path());
        assert!(matches!(second, Err(OpenError::Locked { pid, .. }) if pid > 0));
        drop(first);
        StoreLock::take(&Disk::default(), dir.path()).unwrap();
        assert_eq!(fs::read(dir.path().join("lock")).unwrap(), b"lock");
    }
}
