//! Small metadata files that survive a crash at any point (Java's `config/*.json`).
//!
//! Owns no state and takes no lock; two callers must not save the same file at once. Never leaves
//! a moment in which neither the file nor its `.bak` is complete. Java: `ConfigManager`, which
//! writes in place; the file names are the same, so that either side reads the other's.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Disk, Present};

/// Neither the file nor its backup could be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file is there and cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// What is there does not parse.
    #[error("{}: {reason}", path.display())]
    Bad {
        /// The file that was tried last.
        path: PathBuf,
        /// The parser's words.
        reason: String,
    },
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    name.push(suffix);
    path.with_file_name(name)
}

/// Replaces the file's text durably and keeps the former one as `<name>.bak`. Creates the
/// directory when needed. After an error the former text is still there, as file or as backup.
pub fn save(path: &Path, text: &str) -> io::Result<()> {
    save_on(&Disk::default(), path, text)
}

/// [`save`] on a disk of one's own.
pub fn save_on(disk: &Disk, path: &Path, text: &str) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    disk.create_dirs_durably(dir)?;
    let temporary = beside(path, ".tmp");
    let file = disk.create(&temporary, Present::Empty)?;
    file.write_all_at(text.as_bytes(), 0)?;
    file.sync_data()?;
    if disk.exists(path) {
        disk.rename(path, &beside(path, ".bak"))?;
    }
    disk.rename(&temporary, path)?;
    disk.sync_dir(dir)
}

/// Loads what [`save`] or Java wrote: the file, or its backup when the file is absent, empty or
/// does not parse (then it is kept as `<name>.bad`). `None` when neither exists.
pub fn load<T, E: std::fmt::Display>(
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, LoadError> {
    load_on(&Disk::default(), path, parse)
}

/// [`load`] from a disk of one's own.
pub fn load_on<T, E: std::fmt::Display>(
    disk: &Disk,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Result<Option<T>, LoadError> {
    let mut bad = None;
    for (candidate, backup) in [(path.to_path_buf(), false), (beside(path, ".bak"), true)] {
        let text = match disk.read(&candidate) {
            // What is no text does not parse.
            Ok(bytes) => String::from_utf8(bytes).unwrap_or_else(|_| String::from("\u{0}")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(source) => return Err(LoadError::Io { path: candidate, source }),
        };
        if text.trim().is_empty() {
            continue;
        }
        match parse(&text) {
            Ok(value) => {
                if bad.is_some() {
                    keep_aside(disk, path);
                }
                return Ok(Some(value));
            }
            Err(error) => {
                let reason = error.to_string();
                tracing::warn!(file = %candidate.display(), %reason, backup, "bad config file");
                bad = Some(LoadError::Bad { path: candidate, reason });
            }
        }
    }
    // An unreadable file with no backup must not pass for an empty one: the next save would
    // throw the only copy away.
    bad.map_or(Ok(None), Err)
}

/// [`load_on`] that changes nothing and keeps the reasons to itself.
pub(crate) fn look<T, E>(
    disk: &Disk,
    path: &Path,
    parse: impl Fn(&str) -> Result<T, E>,
) -> Option<T> {
    let candidates = [path.to_path_buf(), beside(path, ".bak")];
    candidates.iter().find_map(|path| {
        let text = String::from_utf8(disk.read(path).ok()?).ok()?;
        parse(&text).ok().filter(|_| !text.trim().is_empty())
    })
}

fn keep_aside(disk: &Disk, path: &Path) {
    let aside = beside(path, ".bad");
    if let Err(error) = disk.rename(path, &aside) {
        tracing::warn!(file = %path.display(), %error, "cannot keep the bad config file aside");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempDir;
    use std::fs;

    fn number(text: &str) -> Result<i32, std::num::ParseIntError> {
        text.trim().parse()
    }

    #[test]
    fn the_backup_stands_in_for_a_lost_or_bad_file() {
        let dir = TempDir::new("config");
        let path = dir.path().join("deep/x.json");
        assert_eq!(load(&path, number).unwrap(), None);
        save(&path, "1").unwrap();
        assert_eq!(load(&path, number).unwrap(), Some(1));
        save(&path, "2").unwrap();
        assert_eq!(load(&path, number).unwrap(), Some(2));
        fs::write(&path, "junk").unwrap();
        assert_eq!(load(&path, number).unwrap(), Some(1));
        assert_eq!(fs::read_to_string(beside(&path, ".bad")).unwrap(), "junk");
        // The main file is gone now, as between Java's rename and its write.
        assert_eq!(load(&path, number).unwrap(), Some(1));
        fs::write(&path, "").unwrap();
        assert_eq!(load(&path, number).unwrap(), Some(1));
        fs::write(&path, "x").unwrap();
        fs::write(beside(&path, ".bak"), "y").unwrap();
        assert!(matches!(load(&path, number), Err(LoadError::Bad { .. })));
    }
}
