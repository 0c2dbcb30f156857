//! The files that say who has the store: `lock`, and `abort` while it is open.
//!
//! Owns the lock of the directory until dropped. The lock is a POSIX record lock, so that a Java
//! broker and this one exclude each other; unlike Java it is taken before anything is read. A
//! record lock does not exclude the own process, so the process also keeps a list of its stores.
//! The first bytes tell who started last: what is ours alone is stale when it was a Java broker.

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
    file: Option<File>,
    of_java: bool,
}

/// What a Java broker writes at the begin of the file when it starts.
const JAVA_MARK: &[u8; 4] = b"lock";
/// What we write there, so that it can be seen whether one was here since.
const OWN_MARK: &[u8; 4] = b"APOG";

impl StoreLock {
    /// Takes the lock or says who has it.
    pub(crate) fn take(disk: &Disk, root: &Path) -> Result<StoreLock, OpenError> {
        if !disk.is_shared() {
            return Ok(StoreLock { root: PathBuf::new(), file: None, of_java: false });
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
        let mut mark = [0; 4];
        let of_java = file.read_exact_at(&mut mark, 0).is_ok() && mark == *JAVA_MARK;
        here.insert(root.clone());
        Ok(StoreLock { root, file: Some(file), of_java })
    }

    /// Whether a Java broker has had the store since [`StoreLock::claim`].
    pub(crate) fn of_java(&self) -> bool {
        self.of_java
    }

    /// Says durably that the store is ours now.
    pub(crate) fn claim(&self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        file.write_all_at(OWN_MARK, 0)?;
        file.sync_all()
    }
}

impl Drop for StoreLock {
    fn drop(&mut self) {
        OPEN_HERE.lock().remove(&self.root);
    }
}

/// The process that has the store at `root` open; 0 when it is hidden from us. Not for a process
/// that has a store open itself: it would let go of its lock.
pub fn store_holder(root: &Path) -> Option<i32> {
    let file = OpenOptions::new().read(true).open(root.join("lock")).ok()?;
    let holder = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)).ok().flatten()?;
    Some(holder.pid.map_or(0, |pid| pid.as_raw_nonzero().get()))
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
    }

    #[test]
    fn a_java_broker_that_was_here_is_seen_until_the_store_is_claimed() {
        let dir = TempDir::new("lock-mark");
        let take = || StoreLock::take(&Disk::default(), dir.path()).unwrap();
        assert!(!take().of_java(), "a new store");
        take().claim().unwrap();
        assert!(!take().of_java());
        OpenOptions::new()
            .write(true)
            .open(dir.path().join("lock"))
            .and_then(|file| file.write_all_at(b"lock", 0))
            .unwrap();
        assert!(take().of_java() && take().of_java());
        take().claim().unwrap();
        assert!(!take().of_java());
    }
}
