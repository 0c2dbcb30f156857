//! Topics that were deleted while their records are still in the log.
//!
//! Owns `config/apogee-deleted-topics.txt`: a line with a CRC, then one line per topic, the log's
//! end at its deletion and the name. Recovery ignores records of such a topic below that offset;
//! without it a rebuild of the queues would bring them back, as Java's does (field case B07).
//! Locks nothing; the store serialises. Java ignores the file.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use wire::text::crc31;

use crate::api::OpenError;
use crate::config_file;
use crate::disk::Disk;

/// Topic to the physical offset of its deletion.
#[derive(Debug)]
pub(crate) struct DeletedTopics {
    disk: Disk,
    path: PathBuf,
    offsets: BTreeMap<String, i64>,
}

/// The file in the store.
pub(crate) const FILE: &str = "config/apogee-deleted-topics.txt";

/// What no topic's name begins with: the name in the first line is the CRC of the others.
const CRC: &str = "0 #";

/// Reads the file. A damaged name or offset would take another topic's messages away.
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, i64>, String> {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let lines = match first.strip_prefix(CRC) {
        Some(crc) if crc.parse() == Ok(crc31(rest.as_bytes())) => rest,
        None if first == "0 " || !first.starts_with("0 ") => text,
        _ => return Err("the text does not have the CRC of its first line".to_owned()),
    };
    lines
        .lines()
        .map(|line| {
            let (offset, topic) = line.split_once(' ').ok_or("a line without a blank")?;
            if topic.starts_with('#') {
                return Err("the CRC is not in the first line".to_owned());
            }
            let offset = offset.parse().map_err(|_| format!("not an offset: {offset}"))?;
            Ok((topic.to_string(), offset))
        })
        .collect()
}

impl DeletedTopics {
    /// Loads the list of the store at `root`.
    pub(crate) fn load(disk: &Disk, root: &Path) -> Result<DeletedTopics, OpenError> {
        let path = root.join(FILE);
        let offsets =
            config_file::load_on(disk, &path, parse).map_err(|error| OpenError::Layout {
                path: path.clone(),
                reason: format!("{error}; `apogee store repair` tells more"),
            })?;
        Ok(DeletedTopics { disk: disk.clone(), path, offsets: offsets.unwrap_or_default() })
    }

    /// Records of `topic` below the result do not exist; 0 when it was never deleted.
    pub(crate) fn offset(&self, topic: &str) -> i64 {
        // Nearly always empty, and asked for every record of a recovery.
        if self.offsets.is_empty() { 0 } else { self.offsets.get(topic).copied().unwrap_or(0) }
    }

    /// Remembers a deletion durably.
    pub(crate) fn add(&mut self, topic: &str, offset: i64) -> io::Result<()> {
        self.offsets.insert(topic.to_string(), offset);
        self.save()
    }

    /// Forgets topics whose old records have left the log.
    pub(crate) fn prune(&mut self, log_min: i64) -> io::Result<()> {
        let before = self.offsets.len();
        self.offsets.retain(|_, offset| *offset > log_min);
        if self.offsets.len() < before { self.save() } else { Ok(()) }
    }

    /// Lowers offsets above the recovered end of the log: the deleted records there are lost, and
    /// new ones take their place.
    pub(crate) fn clamp(&mut self, log_end: i64) -> io::Result<()> {
        if self.offsets.values().all(|offset| *offset <= log_end) {
            return Ok(());
        }
        self.offsets.values_mut().for_each(|offset| *offset = (*offset).min(log_end));
        self.save()
    }

    fn save(&self) -> io::Result<()> {
        let lines: Vec<_> =
            self.offsets.iter().map(|(topic, offset)| format!("{offset} {topic}\n")).collect();
        let lines = lines.concat();
        let text = format!("{CRC}{}\n{lines}", crc31(lines.as_bytes()));
        config_file::save_on(&self.disk, &self.path, &text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn deletions_are_remembered_until_the_log_has_passed() {
        let dir = TempDir::new("deleted");
        let mut deleted = DeletedTopics::load(&Disk::default(), dir.path()).unwrap();
        deleted.add("%RETRY%a b", 500).unwrap();
        deleted.add("t", 900).unwrap();
        let mut deleted = DeletedTopics::load(&Disk::default(), dir.path()).unwrap();
        assert_eq!((deleted.offset("%RETRY%a b"), deleted.offset("t")), (500, 900));
        deleted.prune(600).unwrap();
        deleted.prune(900).unwrap();
        let deleted = DeletedTopics::load(&Disk::default(), dir.path()).unwrap();
        assert_eq!((deleted.offset("t"), deleted.offset("x")), (0, 0));
        assert!(parse("0 #77\n5 a\n").is_err());
        assert_eq!(parse("5 a\n").unwrap().len(), 1);
    }
}
