//! The `checkpoint` file: progress that is certainly on disk (Java: `StoreCheckpoint`).
//!
//! Owns the file's bytes; the caller serialises writers. Never claims more than what was synced
//! before: the consume queues up to `logics_offset` are complete and on disk, and so is the log.

use std::io;
use std::path::Path;

use crate::disk::Disk;

const SIZE: u64 = 4096;
/// Those in use.
const BYTES: usize = 96;
/// Behind Java's six fields: says that this store wrote the field before it, whose meaning is
/// then exact. Java keeps the bytes but moves the field, which makes the copy differ.
const OWN_MARK: i64 = 0x4150_4F47_4545_0001;

/// How many queue offsets were given away, over all queues: a queue that lost its end, or all of
/// its files, does not show that itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// In front of a record; negative when unknown.
    pub(crate) before: i64,
    /// Behind it.
    pub(crate) through: i64,
}

/// The six fields of Java 5.5, all 0 when unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checkpoint {
    /// Store time of a record up to which the log is on disk, epoch milliseconds.
    pub(crate) physic_ms: i64,
    /// Store time of a record up to which the consume queues are on disk.
    pub(crate) logics_ms: i64,
    /// Store time at which the last complete index file ended.
    pub(crate) index_ms: i64,
    /// Kept for slaves: the master's flushed offset.
    pub(crate) master_flushed: i64,
    /// Kept for controller mode.
    pub(crate) confirm: i64,
    /// Start of the newest record whose consume queue entry is on disk.
    pub(crate) logics_offset: i64,
    /// This store wrote `logics_offset`: the log up to there is on disk too.
    pub(crate) exact: bool,
    /// The next offsets of all queues together, in front of the record at `logics_offset` and
    /// behind it; see [`Taken`]. What their files say must be the same.
    pub(crate) taken: Option<Taken>,
    /// Start of a record up to which the log was on disk, also while the queues prove nothing: a
    /// bad record in front of it is damage and not the end.
    pub(crate) on_disk: i64,
}

impl Taken {
    /// Tells damage from a number.
    fn check(self) -> i64 {
        self.before.rotate_left(32) ^ self.through ^ OWN_MARK
    }
}

impl Checkpoint {
    /// Reads the file; anything unreadable counts as unknown.
    pub(crate) fn load(disk: &Disk, path: &Path) -> Checkpoint {
        let mut raw = [0; BYTES];
        if disk.open(path).and_then(|file| file.read_exact_at(&mut raw, 0)).is_err() {
            return Checkpoint::default();
        }
        let field = |index: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&raw[index * 8..index * 8 + 8]);
            i64::from_be_bytes(long)
        };
        let exact = field(6) == OWN_MARK && field(7) == field(5);
        // Stored with one added, so that a file without these fields says nothing.
        let taken = Taken { before: field(8).wrapping_sub(1), through: field(9).wrapping_sub(1) };
        let known = exact && taken.through >= 0 && field(10) == taken.check();
        Checkpoint {
            physic_ms: field(0),
            logics_ms: field(1),
            index_ms: field(2),
            master_flushed: field(3),
            confirm: field(4),
            logics_offset: field(5),
            exact,
            taken: known.then_some(taken),
            on_disk: field(11),
        }
    }

    /// Writes the file durably.
    pub(crate) fn save(&self, disk: &Disk, path: &Path) -> io::Result<()> {
        let taken = self.taken.unwrap_or(Taken { before: -1, through: -1 });
        let fields = [
            self.physic_ms,
            self.logics_ms,
            self.index_ms,
            self.master_flushed,
            self.confirm,
            self.logics_offset,
            OWN_MARK,
            self.logics_offset,
            taken.before + 1,
            taken.through + 1,
            taken.check(),
            self.on_disk,
        ];
        let mut raw = [0; BYTES];
        for (bytes, field) in raw.chunks_exact_mut(8).zip(fields) {
            bytes.copy_from_slice(&field.to_be_bytes());
        }
        let file = disk.create_sized(path, SIZE)?;
        file.write_all_at(&raw, 0)?;
        file.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn round_trip_and_java_moves_the_field() {
        let dir = TempDir::new("checkpoint");
        let (disk, path) = (Disk::default(), dir.path().join("checkpoint"));
        assert_eq!(Checkpoint::load(&disk, &path), Checkpoint::default());
        let saved =
            Checkpoint { physic_ms: 1, logics_offset: 77, exact: true, ..Default::default() };
        saved.save(&disk, &path).unwrap();
        assert_eq!(Checkpoint::load(&disk, &path), saved);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), SIZE);
        disk.open(&path).unwrap().write_all_at(&78_i64.to_be_bytes(), 40).unwrap();
        assert!(!Checkpoint::load(&disk, &path).exact);
        let taken = Some(Taken { before: 0, through: 3 });
        let saved = Checkpoint { exact: true, taken, ..Default::default() };
        saved.save(&disk, &path).unwrap();
        assert_eq!(Checkpoint::load(&disk, &path), saved);
        disk.open(&path).unwrap().write_all_at(&[1], 70).unwrap();
        assert_eq!(Checkpoint::load(&disk, &path).taken, None);
    }
}
