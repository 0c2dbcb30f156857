//! Making derived files anew from the log, and configurations from their backups.
//!
//! Never deletes the only copy of anything: what is replaced is moved or copied to `repair-<n>/` in
//! the store first.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::clock::Clock;

use super::{Cure, Hold, Progress, Report, log, texts, verify};
use crate::api::{OpenError, StoreConfig};
use crate::commit_log::CommitLog;
use crate::deleted::DeletedTopics;
use crate::disk::{Disk, Present};
use crate::files;
use crate::store::Store;

/// Bytes of a torn end that are kept aside.
const MAX_TAIL: u64 = 64 << 20;

/// What was done, or would be.
#[derive(Debug, Clone)]
pub struct Repair {
    /// In order.
    pub steps: Vec<String>,
    /// Where the replaced files are; `None` when nothing was replaced.
    pub aside: Option<PathBuf>,
    /// How the store is afterwards; of a dry run, how it is now.
    pub after: Report,
}

/// The work, with `dry` only in words.
struct Work<'a> {
    config: &'a StoreConfig,
    disk: Disk,
    aside: PathBuf,
    used: bool,
    dry: bool,
    steps: Vec<String>,
}

/// Repairs a store as far as that is possible. `hold` is given up for the rebuild, which opens the
/// store as a broker does. Errors: files cannot be read, moved or written; what was moved by then
/// stays in `repair-<n>/`.
pub fn repair(
    config: &StoreConfig,
    hold: Hold,
    dry: bool,
    progress: Progress<'_>,
) -> Result<Repair, OpenError> {
    let disk = config.disk.clone();
    let free = (1..).map(|n| config.root.join(format!("repair-{n}")));
    let aside = free.into_iter().find(|path| !disk.exists(path)).unwrap_or_default();
    let mut work = Work { config, disk, aside, used: false, dry, steps: Vec::new() };
    let mut report = verify(config, progress)?;
    work.configs()?;
    if report.part("consumequeue").is_none() {
        work.log_files()?;
        if work.dry {
            work.steps.push("then look at everything again, and repair the rest".to_owned());
            return Ok(work.done(report));
        }
        report = verify(config, progress)?;
    }
    if work.derived(&report)? {
        work.steps.push("make queues and index anew from the log".to_owned());
        if !dry {
            work.forget_deleted(&report)?;
            drop(hold);
            rebuild(config)?;
        }
    }
    if !dry && !work.steps.is_empty() {
        report = verify(config, progress)?;
    }
    Ok(work.done(report))
}

fn rebuild(config: &StoreConfig) -> Result<(), OpenError> {
    let config = StoreConfig { rebuild: true, ..config.clone() };
    let root = config.root.clone();
    let store: Arc<Store> = Store::open_stepped(config, Clock::system())?;
    store.close().map_err(OpenError::io(&root))
}

impl Work<'_> {
    fn done(self, after: Report) -> Repair {
        let aside = Some(self.aside).filter(|_| self.used);
        Repair { steps: self.steps, aside, after }
    }

    /// The place in `repair-<n>/` for a file or directory of the store.
    fn place(&mut self, path: &Path) -> Result<PathBuf, OpenError> {
        self.used = true;
        let inside = path.strip_prefix(&self.config.root).unwrap_or(Path::new("commitlog"));
        let place = self.aside.join(inside);
        let dir = place.parent().unwrap_or(&self.aside);
        self.disk.create_dirs_durably(dir).map_err(OpenError::io(dir))?;
        Ok(place)
    }

    fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.config.root).unwrap_or(path).display().to_string()
    }

    fn move_away(&mut self, path: &Path) -> Result<(), OpenError> {
        let name = self.aside.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.steps.push(format!("move {} to {name}", self.shown(path)));
        if self.dry {
            return Ok(());
        }
        let place = self.place(path)?;
        self.disk.rename(path, &place).map_err(OpenError::io(path))?;
        let dir = path.parent().unwrap_or(&self.config.root);
        self.disk.sync_dir(dir).map_err(OpenError::io(dir))
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), OpenError> {
        let io = OpenError::io(path);
        let write = || -> io::Result<()> {
            let file = self.disk.create(path, Present::Empty)?;
            file.write_all_at(bytes, 0)?;
            file.sync_data()?;
            self.disk.sync_dir(path.parent().unwrap_or(&self.config.root))
        };
        write().map_err(io)
    }

    /// Puts good backups in the place of bad files, and good files in that of bad backups.
    fn configs(&mut self) -> Result<(), OpenError> {
        let dir = self.config.root.join("config");
        let names = texts::config_files(&self.disk, &self.config.root)?;
        let mains = names.iter().map(|name| name.strip_suffix(".bak").unwrap_or(name));
        let mut mains: Vec<&str> = mains.collect();
        mains.dedup();
        for main in mains {
            let backup = format!("{main}.bak");
            let read = |name: &str| {
                let bytes = self.disk.read(&dir.join(name)).ok();
                let good = bytes.as_ref().is_some_and(|bytes| texts::parses(name, bytes).is_ok());
                (bytes.is_some(), bytes.filter(|_| good))
            };
            let (to, from, is_there, bytes) = match (read(main), read(&backup)) {
                ((there, None), (_, Some(bytes))) => (main, backup.as_str(), there, bytes),
                ((_, Some(bytes)), (true, None)) => (backup.as_str(), main, true, bytes),
                _ => continue,
            };
            if is_there {
                self.move_away(&dir.join(to))?;
            }
            self.steps.push(format!("make config/{to} from config/{from}"));
            if !self.dry {
                self.write(&dir.join(to), &bytes)?;
            }
        }
        Ok(())
    }

    /// Gives every log file its length and its place; what is missing in it reads as zeros.
    fn log_files(&mut self) -> Result<(), OpenError> {
        let dir = &self.config.commit_log_dir;
        let mut listed = files::found(&self.disk, dir)?.unwrap_or_default();
        files::pop_empty(&mut listed); // the next start takes it away
        let Some(size) = log::usual_size(&listed) else { return Ok(()) };
        let mut expected = listed.first().map_or(0, |file| file.start);
        for file in &listed {
            while expected < file.start && expected + size as i64 <= file.start {
                let path = dir.join(files::name_of(expected));
                self.steps.push(format!("make an empty {}", self.shown(&path)));
                if !self.dry {
                    self.sized(&path, size)?;
                }
                expected += size as i64;
            }
            if file.len != size {
                let (shown, len) = (self.shown(&file.path), file.len);
                self.steps.push(format!("copy {shown}, then make {size} bytes of its {len}"));
                if !self.dry {
                    let place = self.place(&file.path)?;
                    let bytes = self.disk.read(&file.path).map_err(OpenError::io(&file.path))?;
                    self.write(&place, &bytes)?;
                    self.sized(&file.path, size)?;
                }
            }
            expected = file.start + size as i64;
        }
        Ok(())
    }

    fn sized(&self, path: &Path, size: u64) -> Result<(), OpenError> {
        let file = self.disk.create_sized(path, size).map_err(OpenError::io(path))?;
        file.sync_data().map_err(OpenError::io(path))
    }

    /// Moves derived files that are damaged away; whether anything must be made anew.
    fn derived(&mut self, report: &Report) -> Result<bool, OpenError> {
        let damaged = |name: &str| {
            let findings = report.part(name).map_or(&[][..], |part| &part.findings);
            let wanted = findings.iter().filter(|finding| finding.cure == Cure::Repair);
            let mut paths: Vec<PathBuf> = wanted.map(|finding| finding.path.clone()).collect();
            paths.sort();
            paths.dedup();
            paths
        };
        let mut needed = !damaged("commitlog").is_empty();
        if needed {
            self.keep_tail(report.log.1)?;
        }
        for path in damaged("consumequeue") {
            needed = true;
            if self.disk.exists(&path) {
                self.move_away(&path)?;
            }
        }
        if !damaged("index").is_empty() {
            needed = true;
            self.move_away(&self.config.root.join("index"))?;
        }
        for path in damaged("checkpoint") {
            needed = true;
            self.move_away(&path)?;
        }
        Ok(needed)
    }

    /// Keeps what stands behind the last record: a rebuild zeroes it.
    fn keep_tail(&mut self, end: i64) -> Result<(), OpenError> {
        let mut listed = files::found(&self.disk, &self.config.commit_log_dir)?.unwrap_or_default();
        files::pop_empty(&mut listed);
        let log = CommitLog::of_files(self.config, listed)?;
        let Some(segment) = log.segment_at(end) else { return Ok(()) };
        let from = (end - segment.start) as u64;
        let len = (log.file_size() as u64 - from).min(MAX_TAIL);
        let mut bytes = vec![0; len as usize];
        let read = segment.file.read_exact_at(&mut bytes, from);
        read.map_err(OpenError::io(&segment.path))?;
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if used == 0 {
            return Ok(());
        }
        self.steps.push(format!("copy {used} bytes behind the last record, at {end}"));
        if !self.dry {
            let place = self.place(&self.config.root.join(format!("commitlog-tail-{end}")))?;
            self.write(&place, &bytes[..used])?;
        }
        Ok(())
    }

    /// Topics that a Java broker deleted would come back with a rebuild.
    fn forget_deleted(&mut self, report: &Report) -> Result<(), OpenError> {
        let mut list = DeletedTopics::load(&self.disk, &self.config.root)?;
        for topic in &report.deleted_by_java {
            list.add(topic, report.log.1).map_err(OpenError::io(&self.config.root))?;
        }
        Ok(())
    }
}
