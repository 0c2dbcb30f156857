//! What a Java broker may have left in RocksDB, which this store does not read.
//!
//! Looks at names and lengths only and changes nothing. Version 5.4 and later make an empty
//! `rocksdbstore/` with default settings; that one holds nothing and is let alone.

use std::path::{Path, PathBuf};

use crate::api::OpenError;
use crate::disk::Disk;

/// A part of a store that is in RocksDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RocksPart {
    /// Its directory.
    pub path: PathBuf,
    /// What is in it, by Java's setting.
    pub holds: &'static str,
    /// What an operator does first.
    pub first: &'static str,
}

const QUEUES: &str = "consume queues (storeType=defaultRocksDB)";
const QUEUES_FIRST: &str = "stop the Java broker and move this directory aside: the queues are \
    made anew from the commit log; leave storeType=defaultRocksDB out of the configuration";
const METADATA: &str = "topics, groups or offsets (metadata in RocksDB)";
const METADATA_FIRST: &str = "write config/topics.json, config/subscriptionGroup.json and \
    config/consumerOffset.json with mqadmin rocksDBConfigToJson and move this directory aside";
const FEATURES: &str = "timers, half messages or index entries (timerRocksDBEnable, \
    transRocksDBEnable, indexRocksDBEnable)";
const FEATURES_FIRST: &str = "switch the three settings off in the Java broker, wait until nothing \
    is pending any more, stop it, and remove this directory";
const POPS: &str = "pops in flight (popConsumerKVServiceEnable)";
const POPS_FIRST: &str = "switch popConsumerKVServiceEnable off in the Java broker, wait until \
    nothing is in flight any more, stop it, and remove this directory";

/// Directories below the root; whether a database there counts also when it is empty.
const PLACES: [(&str, bool, &str, &str); 9] = [
    ("consumequeue", true, QUEUES, QUEUES_FIRST),
    ("consumequeue_rocksdb", true, QUEUES, QUEUES_FIRST),
    ("config/metadata", true, METADATA, METADATA_FIRST),
    ("config/topics", true, METADATA, METADATA_FIRST),
    ("config/subscriptionGroups", true, METADATA, METADATA_FIRST),
    ("config/consumerOffsets", true, METADATA, METADATA_FIRST),
    ("config/rdb", true, METADATA, METADATA_FIRST),
    ("rocksdbstore", false, FEATURES, FEATURES_FIRST),
    ("kvStore", false, POPS, POPS_FIRST),
];

/// What of the store at `root` is in RocksDB.
pub fn rocksdb_parts(disk: &Disk, root: &Path) -> Vec<RocksPart> {
    let mut parts = Vec::new();
    for (name, also_empty, holds, first) in PLACES {
        let path = root.join(name);
        if disk.exists(&path.join("CURRENT")) && (also_empty || has_keys(disk, &path)) {
            parts.push(RocksPart { path, holds, first });
        }
    }
    parts
}

/// Whether a database holds anything: sorted tables, or a log of writes with something in it.
fn has_keys(disk: &Disk, dir: &Path) -> bool {
    let files = disk.list(dir).unwrap_or_default();
    files.iter().any(|file| {
        let is = |end: &str| file.name.ends_with(end);
        is(".sst") || is(".log") && file.len > 0
    })
}

/// Refuses a store of which something is in RocksDB.
pub(crate) fn refuse_rocksdb(disk: &Disk, root: &Path) -> Result<(), OpenError> {
    match rocksdb_parts(disk, root).into_iter().next() {
        None => Ok(()),
        Some(RocksPart { path, holds, first }) => {
            let reason = format!("RocksDB with {holds}, which is not read; {first}");
            Err(OpenError::Layout { path, reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Memory, Present};

    fn disk_with(files: &[(&str, &[u8])]) -> Disk {
        let disk = Disk::memory(Memory::default());
        for (name, bytes) in files {
            let path = Path::new("/s").join(name);
            disk.create_dir_all(path.parent().unwrap()).unwrap();
            let file = disk.create(&path, Present::Empty).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
        disk
    }

    #[test]
    fn the_empty_database_of_every_new_broker_is_none() {
        let found = |files| rocksdb_parts(&disk_with(files), Path::new("/s")).len();
        assert_eq!(found(&[]), 0);
        let empty: [(&str, &[u8]); 3] = [
            ("rocksdbstore/CURRENT", b"MANIFEST-000005\n"),
            ("rocksdbstore/000004.log", b""),
            ("rocksdbstore/MANIFEST-000005", b"1"),
        ];
        assert_eq!(found(&empty), 0);
        let log: [(&str, &[u8]); 2] =
            [("rocksdbstore/CURRENT", b"M"), ("rocksdbstore/000004.log", b"1")];
        assert_eq!(found(&log), 1);
        let table: [(&str, &[u8]); 2] = [("kvStore/CURRENT", b"M"), ("kvStore/000009.sst", b"")];
        assert_eq!(found(&table), 1);
    }

    #[test]
    fn queues_and_metadata_in_rocksdb_are_refused_with_what_to_do() {
        for name in ["consumequeue", "consumequeue_rocksdb", "config/topics", "config/metadata"] {
            let current = format!("{name}/CURRENT");
            let disk = disk_with(&[(current.as_str(), b"M")]);
            let error = refuse_rocksdb(&disk, Path::new("/s")).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("aside"), "{error}");
        }
    }
}
