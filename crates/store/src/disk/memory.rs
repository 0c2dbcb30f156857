//! A disk in memory, for tests: what processes see, and a record of how it came about.
//!
//! Owns names and bytes behind one lock. Every change is remembered in order, so that
//! [`Power`](super::Power) can make the disk that a kill or a power cut leaves behind at any of
//! them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Found, Present};

/// Number of a file, which it keeps under every name.
pub(super) type Inode = usize;

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(Inode),
}

/// One change, in the order in which they happened.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A name begins to stand for something.
    Link(PathBuf, Node),
    /// A name is gone.
    Unlink(PathBuf),
    /// A name, with all below it, becomes another.
    Rename(PathBuf, PathBuf),
    Write(Inode, u64, Vec<u8>),
    SetLen(Inode, u64),
    Sync(Inode),
    SyncDir(PathBuf),
    SyncEverything,
}

/// Names and bytes at one moment.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) names: BTreeMap<PathBuf, Node>,
    pub(super) files: Vec<Vec<u8>>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { names: [(PathBuf::from("/"), Node::Dir)].into(), files: Vec::new() }
    }
}

impl Tree {
    /// Makes a change. Syncs change nothing that a process sees.
    pub(super) fn apply(&mut self, op: &Op) {
        match op {
            Op::Link(path, node) => {
                if let Node::File(inode) = node
                    && self.files.len() <= *inode
                {
                    self.files.resize(*inode + 1, Vec::new());
                }
                self.names.insert(path.clone(), *node);
            }
            Op::Unlink(path) => self.names.retain(|name, _| !name.starts_with(path)),
            Op::Rename(from, to) => {
                if let Some(node) = self.names.remove(from) {
                    self.names.insert(to.clone(), node);
                }
            }
            Op::Write(inode, at, bytes) => {
                let (file, at) = (&mut self.files[*inode], *at as usize);
                if file.len() < at + bytes.len() {
                    file.resize(at + bytes.len(), 0);
                }
                file[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Op::SetLen(inode, len) => self.files[*inode].resize(*len as usize, 0),
            Op::Sync(_) | Op::SyncDir(_) | Op::SyncEverything => {}
        }
    }

    /// Takes away the names in directories that are not there.
    pub(super) fn drop_orphans(&mut self) {
        let names = std::mem::take(&mut self.names);
        // Above comes before below.
        for (path, node) in names {
            if path.parent().is_none_or(|dir| self.names.get(dir) == Some(&Node::Dir)) {
                self.names.insert(path, node);
            }
        }
    }

    fn file(&self, path: &Path) -> io::Result<Inode> {
        match self.names.get(path) {
            Some(Node::File(inode)) => Ok(*inode),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    tree: Tree,
    /// Every change since the beginning.
    log: Vec<Op>,
}

impl Shared {
    fn make(&mut self, op: Op) {
        self.tree.apply(&op);
        self.log.push(op);
    }
}

/// See the module. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Memory(Arc<Mutex<Shared>>);

/// An open file of a [`Memory`].
pub(super) struct MemoryFile {
    memory: Memory,
    inode: Inode,
}

impl Memory {
    /// A disk with these names and bytes, all of them durable.
    pub(super) fn with(tree: Tree) -> Memory {
        Memory(Arc::new(Mutex::new(Shared { tree, log: Vec::new() })))
    }

    /// A disk of its own with what is on this one now, all of it durable.
    pub fn copy(&self) -> Memory {
        Memory::with(self.tree())
    }

    /// What is there now.
    pub(super) fn tree(&self) -> Tree {
        self.0.lock().tree.clone()
    }

    /// Changes so far.
    pub fn changes(&self) -> usize {
        self.0.lock().log.len()
    }

    /// Takes the record of all changes out.
    pub(super) fn take_log(&self) -> Vec<Op> {
        std::mem::take(&mut self.0.lock().log)
    }

    /// Paths and bytes of all files, in order.
    pub fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let shared = self.0.lock();
        let file = |(path, node): (&PathBuf, &Node)| match node {
            Node::File(inode) => Some((path.clone(), shared.tree.files[*inode].clone())),
            Node::Dir => None,
        };
        shared.tree.names.iter().filter_map(file).collect()
    }

    /// Changes the bytes of a file behind everybody's back.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut shared = self.0.lock();
        let inode = shared.tree.file(path)?;
        edit(&mut shared.tree.files[inode]);
        Ok(())
    }

    /// Removes a file, or a directory with all that is in it, behind everybody's back.
    pub fn forget(&self, path: &Path) {
        self.0.lock().tree.names.retain(|name, _| !name.starts_with(path));
    }

    pub(super) fn open(&self, path: &Path) -> io::Result<MemoryFile> {
        let inode = self.0.lock().tree.file(path)?;
        Ok(MemoryFile { memory: self.clone(), inode })
    }

    pub(super) fn create(&self, path: &Path, present: Present) -> io::Result<MemoryFile> {
        let mut shared = self.0.lock();
        let inode = match shared.tree.file(path) {
            Ok(inode) => {
                if present == Present::Empty {
                    shared.make(Op::SetLen(inode, 0));
                }
                inode
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let above = path.parent().and_then(|dir| shared.tree.names.get(dir));
                if above != Some(&Node::Dir) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let inode = shared.tree.files.len();
                shared.make(Op::Link(path.to_path_buf(), Node::File(inode)));
                inode
            }
            Err(error) => return Err(error),
        };
        Ok(MemoryFile { memory: self.clone(), inode })
    }

    pub(super) fn list(&self, dir: &Path) -> io::Result<Vec<Found>> {
        let shared = self.0.lock();
        if shared.tree.names.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut found = Vec::new();
        for (path, node) in &shared.tree.names {
            if path.parent() == Some(dir) {
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let len = match node {
                    Node::Dir => 0,
                    Node::File(inode) => shared.tree.files[*inode].len() as u64,
                };
                found.push(Found { name, is_dir: *node == Node::Dir, len });
            }
        }
        Ok(found)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.0.lock().tree.names.contains_key(path)
    }

    pub(super) fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut shared = self.0.lock();
        let above: Vec<_> = dir.ancestors().filter(|above| !above.as_os_str().is_empty()).collect();
        for above in above.into_iter().rev() {
            match shared.tree.names.get(above) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => shared.make(Op::Link(above.to_path_buf(), Node::Dir)),
            }
        }
        Ok(())
    }

    pub(super) fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut shared = self.0.lock();
        shared.tree.file(path)?;
        shared.make(Op::Unlink(path.to_path_buf()));
        Ok(())
    }

    pub(super) fn remove_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut shared = self.0.lock();
        if !shared.tree.names.contains_key(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below: Vec<PathBuf> = shared.tree.names.keys().rev().cloned().collect();
        for path in below.into_iter().filter(|path| path.starts_with(dir)) {
            shared.make(Op::Unlink(path));
        }
        Ok(())
    }

    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut shared = self.0.lock();
        if !shared.tree.names.contains_key(from) {
            return Err(io::ErrorKind::NotFound.into());
        }
        shared.make(Op::Rename(from.to_path_buf(), to.to_path_buf()));
        Ok(())
    }

    pub(super) fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut shared = self.0.lock();
        if shared.tree.names.get(dir) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        shared.make(Op::SyncDir(dir.to_path_buf()));
        Ok(())
    }

    pub(super) fn sync_everything(&self) -> io::Result<()> {
        self.0.lock().make(Op::SyncEverything);
        Ok(())
    }
}

impl MemoryFile {
    fn make(&self, op: Op) -> io::Result<()> {
        self.memory.0.lock().make(op);
        Ok(())
    }

    pub(super) fn read_all(&self) -> io::Result<Vec<u8>> {
        Ok(self.memory.0.lock().tree.files[self.inode].clone())
    }

    pub(super) fn read_exact_at(&self, buf: &mut [u8], at: u64) -> io::Result<()> {
        let shared = self.memory.0.lock();
        let file = &shared.tree.files[self.inode];
        let at = at as usize;
        let bytes = file.get(at..at + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    pub(super) fn write_all_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.make(Op::Write(self.inode, at, bytes.to_vec()))
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.make(Op::Sync(self.inode))
    }

    pub(super) fn len(&self) -> io::Result<u64> {
        Ok(self.memory.0.lock().tree.files[self.inode].len() as u64)
    }

    pub(super) fn next_data(&self, at: u64) -> Option<u64> {
        let shared = self.memory.0.lock();
        let rest = shared.tree.files[self.inode].get(at as usize..)?;
        rest.iter().position(|byte| *byte != 0).map(|found| at + found as u64)
    }

    pub(super) fn set_len(&self, len: u64) -> io::Result<()> {
        self.make(Op::SetLen(self.inode, len))
    }
}
