//! The open files of consume queues: at most 64, the least recently used one goes first.
//!
//! Owns the handles; the caller locks. A reader's `Arc` keeps a file open that was let go here.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::disk::File;

const HANDLES: usize = 64;

/// A queue's number and the byte offset in the file's name.
pub(crate) type FileKey = (u64, i64);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    open: HashMap<FileKey, (Arc<File>, u64), RandomState>,
    tick: u64,
}

impl Handles {
    /// The open file, if it is among them.
    pub(crate) fn get(&mut self, key: FileKey) -> Option<Arc<File>> {
        self.tick += 1;
        let (file, used) = self.open.get_mut(&key)?;
        *used = self.tick;
        Some(Arc::clone(file))
    }

    /// Adds a file, closing the one that was not used for the longest time.
    pub(crate) fn put(&mut self, key: FileKey, file: File) -> Arc<File> {
        if self.open.len() >= HANDLES
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest.0;
            self.open.remove(&oldest);
        }
        self.tick += 1;
        let file = Arc::new(file);
        self.open.insert(key, (Arc::clone(&file), self.tick));
        file
    }

    /// Closes the files that `gone` is true for.
    pub(crate) fn forget(&mut self, gone: impl Fn(&FileKey) -> bool) {
        self.open.retain(|key, _| !gone(key));
    }
}
