//! Where files are: the one seam between the store and the operating system.
//!
//! Every read, write, sync and change of a name goes through [`Disk`] and [`File`]. In the product
//! that is the file system; in tests it is a [`Memory`], which remembers what was synced and can
//! show what a kill or a power cut at any point leaves behind. Either may have a [`Watch`] that
//! sees each operation first and delays it, fails it or cuts it short.
//!
//! Files are only ever read and written at explicit positions, never mapped. Locks nothing.

mod memory;
mod os;
mod power;

use std::io;
use std::path::Path;
use std::sync::Arc;

pub use memory::Memory;
pub use power::{Dice, Power};

use crate::api::Wait;
use memory::MemoryFile;
use rustix::fs::Advice;

/// Bytes that are read when one of them is not in memory, at least.
const AHEAD: u64 = 256 << 10;

/// What is about to happen to a file or name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Bytes are written.
    Write,
    /// A file's bytes are brought to the disk.
    Sync,
    /// A directory's names are brought to the disk.
    SyncDir,
    /// Blocks are reserved.
    Reserve,
    /// A file or directory is created, renamed or removed, or a file gets another length.
    Name,
}

/// What becomes of an operation.
#[derive(Debug)]
pub enum Verdict {
    /// It happens.
    Go,
    /// It fails and changes nothing.
    Fail(io::Error),
    /// A write: this many bytes arrive, then it fails.
    Short(usize, io::Error),
}

/// Sees every change before it happens; may sleep. Called without any lock of the disk.
pub type Watch = Arc<dyn Fn(Act, &Path) -> Verdict + Send + Sync>;

/// A sync failed. The kernel may have dropped what was to be written, and will say that all is well
/// when it is asked again: whoever gets this must not go on as if a later sync could mend it.
#[derive(Debug, thiserror::Error)]
#[error("sync failed: {0}")]
pub struct SyncFailed(#[source] io::Error);

fn sync_failed(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), SyncFailed(error))
}

/// Whether an error is a [`SyncFailed`].
pub fn is_sync_failure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<SyncFailed>())
}

/// See the module. Clones are the same disk.
#[derive(Clone, Default)]
pub struct Disk {
    memory: Option<Memory>,
    watch: Option<Watch>,
}

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.memory.is_some() { "Disk(memory)" } else { "Disk" })
    }
}

/// An open file. Readers keep it by an `Arc`, also when its name is gone.
pub struct File {
    kind: Kind,
    watch: Option<(Watch, Arc<Path>)>,
}

enum Kind {
    Os(std::fs::File),
    Memory(MemoryFile),
}

impl std::fmt::Debug for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Os(file) => file.fmt(f),
            Kind::Memory(_) => f.write_str("MemoryFile"),
        }
    }
}

/// One name in a directory.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) is_dir: bool,
    /// Bytes of a file.
    pub(crate) len: u64,
}

/// Bytes of a partition, as `df` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// In use.
    pub(crate) used: u64,
    /// Available to this process.
    pub(crate) free: u64,
}

impl Room {
    /// Percent in use.
    pub(crate) fn used_percent(self) -> f64 {
        let all = self.used as f64 + self.free as f64;
        if all == 0.0 { 0.0 } else { self.used as f64 * 100.0 / all }
    }
}

/// How [`Disk::create`] treats a file that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Present {
    Keep,
    Empty,
}

impl Disk {
    /// A disk in memory.
    pub fn memory(memory: Memory) -> Disk {
        Disk { memory: Some(memory), watch: None }
    }

    /// The same disk, with everything shown to `watch` before it happens.
    pub fn watched(self, watch: Watch) -> Disk {
        Disk { watch: Some(watch), ..self }
    }

    fn ask(&self, act: Act, path: &Path) -> io::Result<()> {
        match self.watch.as_ref().map_or(Verdict::Go, |watch| watch(act, path)) {
            Verdict::Go => Ok(()),
            Verdict::Fail(error) | Verdict::Short(_, error) => Err(error),
        }
    }

    fn file(&self, kind: Kind, path: &Path) -> File {
        File { kind, watch: self.watch.clone().map(|watch| (watch, Arc::from(path))) }
    }

    /// Whether this is a disk that other processes see.
    pub(crate) fn is_shared(&self) -> bool {
        self.memory.is_none()
    }

    /// Opens an existing file for reading and writing.
    pub(crate) fn open(&self, path: &Path) -> io::Result<File> {
        let kind = match &self.memory {
            Some(memory) => Kind::Memory(memory.open(path)?),
            None => Kind::Os(os::open(path)?),
        };
        Ok(self.file(kind, path))
    }

    /// Creates a file, or opens the one that is there.
    pub(crate) fn create(&self, path: &Path, present: Present) -> io::Result<File> {
        self.ask(Act::Name, path)?;
        let kind = match &self.memory {
            Some(memory) => Kind::Memory(memory.create(path, present)?),
            None => Kind::Os(os::create(path, present)?),
        };
        Ok(self.file(kind, path))
    }

    /// Creates or opens a file and gives it its full, sparse length.
    pub(crate) fn create_sized(&self, path: &Path, size: u64) -> io::Result<File> {
        let file = self.create(path, Present::Keep)?;
        if file.len()? != size {
            file.set_len(size)?;
        }
        Ok(file)
    }

    /// All bytes of a file.
    pub(crate) fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        match &self.memory {
            Some(memory) => memory.open(path)?.read_all(),
            None => std::fs::read(path),
        }
    }

    /// The names in a directory, in no order.
    pub(crate) fn list(&self, dir: &Path) -> io::Result<Vec<Found>> {
        match &self.memory {
            Some(memory) => memory.list(dir),
            None => os::list(dir),
        }
    }

    /// Whether there is a file or directory of that name.
    pub(crate) fn exists(&self, path: &Path) -> bool {
        self.memory.as_ref().map_or_else(|| path.exists(), |memory| memory.exists(path))
    }

    /// Creates a directory with those above it. What is new is not durable yet.
    pub(crate) fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.ask(Act::Name, dir)?;
        match &self.memory {
            Some(memory) => memory.create_dir_all(dir),
            None => std::fs::create_dir_all(dir),
        }
    }

    /// Creates a directory with those above it, durably.
    pub(crate) fn create_dirs_durably(&self, dir: &Path) -> io::Result<()> {
        let missing: Vec<_> = dir.ancestors().take_while(|above| !self.exists(above)).collect();
        self.create_dir_all(dir)?;
        for made in missing.iter().rev() {
            let above = made.parent().filter(|above| !above.as_os_str().is_empty());
            let synced = self.sync_dir(above.unwrap_or(Path::new(".")));
            if synced.is_err() {
                // Else the next call would take what is there for durable.
                let topmost = missing.last().unwrap_or(made);
                let _ = self.remove_dir_all(topmost); // empty, and of no use to anybody
                return synced;
            }
        }
        Ok(())
    }

    pub(crate) fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.ask(Act::Name, path)?;
        match &self.memory {
            Some(memory) => memory.remove_file(path),
            None => std::fs::remove_file(path),
        }
    }

    pub(crate) fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.ask(Act::Name, dir)?;
        match &self.memory {
            Some(memory) => memory.remove_dir_all(dir),
            None => std::fs::remove_dir_all(dir),
        }
    }

    /// Gives a file another name, replacing what has it, at once or not at all.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Act::Name, to)?;
        match &self.memory {
            Some(memory) => memory.rename(from, to),
            None => std::fs::rename(from, to),
        }
    }

    /// Makes creations, renames and removals in a directory durable.
    pub(crate) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.ask(Act::SyncDir, dir).map_err(sync_failed)?;
        match &self.memory {
            Some(memory) => memory.sync_dir(dir),
            None => os::sync_dir(dir),
        }
    }

    /// Brings everything on the file system of `dir` to the disk.
    pub(crate) fn sync_everything(&self, dir: &Path) -> io::Result<()> {
        self.ask(Act::SyncDir, dir).map_err(sync_failed)?;
        match &self.memory {
            Some(memory) => memory.sync_everything(),
            None => os::sync_file_system(dir).map_err(sync_failed),
        }
    }

    /// The room on the partition of a directory.
    pub(crate) fn room(&self, dir: &Path) -> io::Result<Room> {
        // What a test wants to see of it comes from elsewhere.
        let endless = Room { used: 0, free: u64::MAX };
        if self.memory.is_some() { Ok(endless) } else { os::room(dir) }
    }
}

impl File {
    fn ask(&self, act: Act) -> Verdict {
        self.watch.as_ref().map_or(Verdict::Go, |(watch, path)| watch(act, path))
    }

    fn allow(&self, act: Act) -> io::Result<()> {
        match self.ask(act) {
            Verdict::Go => Ok(()),
            Verdict::Fail(error) | Verdict::Short(_, error) => Err(error),
        }
    }

    /// Fills `buf` from position `at`; an end of file inside of the range is an error.
    pub(crate) fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        match &self.kind {
            Kind::Os(file) => std::os::unix::fs::FileExt::read_exact_at(file, buf, at),
            Kind::Memory(file) => file.read_exact_at(buf, at),
        }
    }

    /// Fills `buf` from position `at`. `Ok(false)`: waiting was not allowed and a page is not in
    /// memory; `buf` then holds rubbish. An end of file inside the range is an error.
    pub(crate) fn read_at(&self, buf: &mut [u8], at: u64, wait: Wait) -> io::Result<bool> {
        match &self.kind {
            Kind::Os(file) if wait != Wait::MayBlock => os::read_cached(file, buf, at),
            _ => self.read_exact_at(buf, at).map(|()| true),
        }
    }

    /// From now on only [`File::will_need`] reads ahead: what the system takes for right may be
    /// megabytes, during which a processor does nothing else.
    pub(crate) fn read_in_pieces(&self) {
        if let Kind::Os(file) = &self.kind {
            os::advise(file, 0, 0, Advice::Random);
        }
    }

    /// Begins to read a piece of the file before somebody waits for `len` bytes of it.
    pub(crate) fn will_need(&self, at: u64, len: u64) {
        if let Kind::Os(file) = &self.kind {
            os::advise(file, at, len.max(AHEAD), Advice::WillNeed);
        }
    }

    /// Writes all of `bytes` at position `at`.
    pub(crate) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let write = |bytes: &[u8]| match &self.kind {
            Kind::Os(file) => std::os::unix::fs::FileExt::write_all_at(file, bytes, at),
            Kind::Memory(file) => file.write_all_at(bytes, at),
        };
        match self.ask(Act::Write) {
            Verdict::Go => write(bytes),
            Verdict::Fail(error) => Err(error),
            Verdict::Short(len, error) => write(&bytes[..len.min(bytes.len())]).and(Err(error)),
        }
    }

    /// Brings the file's bytes, and the length that they need, to the disk.
    pub fn sync_data(&self) -> io::Result<()> {
        self.allow(Act::Sync).map_err(sync_failed)?;
        match &self.kind {
            Kind::Os(file) => file.sync_data().map_err(sync_failed),
            Kind::Memory(file) => file.sync(),
        }
    }

    /// Bytes of the file.
    pub(crate) fn len(&self) -> io::Result<u64> {
        match &self.kind {
            Kind::Os(file) => Ok(file.metadata()?.len()),
            Kind::Memory(file) => file.len(),
        }
    }

    pub(crate) fn set_len(&self, len: u64) -> io::Result<()> {
        self.allow(Act::Name)?;
        match &self.kind {
            Kind::Os(file) => file.set_len(len),
            Kind::Memory(file) => file.set_len(len),
        }
    }

    /// When the file was last written, epoch milliseconds.
    pub(crate) fn modified_ms(&self) -> io::Result<i64> {
        match &self.kind {
            Kind::Os(file) => os::modified_ms(file),
            Kind::Memory(_) => Ok(0),
        }
    }

    /// Reserves the blocks of a range without changing what is read from it. `Ok(false)`: the file
    /// system cannot reserve.
    pub(crate) fn reserve(&self, at: u64, len: u64) -> io::Result<bool> {
        self.allow(Act::Reserve)?;
        match &self.kind {
            Kind::Os(file) => os::reserve(file, at, len),
            Kind::Memory(_) => Ok(true),
        }
    }

    /// Makes `[at, end)` read as zeros, durably.
    pub(crate) fn zero(&self, at: u64, end: u64) -> io::Result<()> {
        let punched = match &self.kind {
            Kind::Os(file) => os::punch(file, at, end),
            Kind::Memory(_) => false,
        };
        if !punched {
            let zeros = [0; 8192];
            let mut position = at;
            while position < end {
                let step = (end - position).min(zeros.len() as u64);
                self.write_all_at(&zeros[..step as usize], position)?;
                position += step;
            }
        }
        self.sync_data()
    }

    /// The first position at or behind `at` that may hold something but zeros; `None` when there
    /// is none up to the end.
    pub(crate) fn next_data(&self, at: u64) -> Option<u64> {
        match &self.kind {
            Kind::Os(file) => os::next_data(file, at),
            Kind::Memory(file) => file.next_data(at),
        }
    }
}
