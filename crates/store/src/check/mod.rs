//! Offline looks into a store directory: everything against everything, single records, repair.
//!
//! Owns nothing and prints nothing: results are plain data. The caller holds the directory with
//! [`hold`], so that no broker works in it. `verify` and `inspect` change nothing.

mod index;
mod inspect;
mod log;
mod queues;
mod repair;
mod span;
mod texts;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::api::{OpenError, StoreConfig};
use crate::checkpoint::Checkpoint;
use crate::config_file;
use crate::deleted;
use crate::disk::Disk;
use crate::files;
use crate::lock_file::{self, StoreLock};

pub use inspect::{Found, Overview, QueueSpan, TopicSpan, at_offset, at_physical, inspect};
pub use repair::{Repair, repair};

/// Findings of one part that are kept; the others are counted.
const MAX_KEPT: usize = 100;

/// What helps against a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cure {
    /// Nothing is wrong: a start after a kill does this anyway.
    NextStart,
    /// `repair` makes it anew, or puts the backup in its place.
    Repair,
    /// The bytes are lost; everything else goes on without them.
    None,
}

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The file or directory.
    pub path: PathBuf,
    /// What is wrong, with the place.
    pub what: String,
    /// What helps.
    pub cure: Cure,
}

/// One part of a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name: `commitlog`, `consumequeue`, `index`, `checkpoint`, `config`.
    pub name: &'static str,
    /// How many things are good.
    pub good: u64,
    /// What they are.
    pub unit: &'static str,
    /// The first hundred findings of each cure, in order.
    pub findings: Vec<Finding>,
    /// Findings by cure, all of them: next start, repair, none.
    pub counts: [u64; 3],
    /// What is odd and no damage.
    pub notes: Vec<String>,
}

impl Part {
    fn new(name: &'static str, unit: &'static str) -> Part {
        let (findings, notes) = (Vec::new(), Vec::new());
        Part { name, good: 0, unit, findings, counts: [0; 3], notes }
    }

    fn find(&mut self, path: &Path, cure: Cure, what: String) {
        self.counts[cure as usize] += 1;
        // By cure: a thousand that the next start mends hide none that it does not.
        if self.counts[cure as usize] <= MAX_KEPT as u64 {
            self.findings.push(Finding { path: path.to_path_buf(), what, cure });
        }
    }

    /// Whether anything is damaged.
    pub fn is_damaged(&self) -> bool {
        self.counts[Cure::Repair as usize] + self.counts[Cure::None as usize] > 0
    }
}

/// Everything that [`verify`] found.
#[derive(Debug, Clone)]
pub struct Report {
    /// The store.
    pub root: PathBuf,
    /// Whether the last user stopped cleanly.
    pub clean: bool,
    /// Whether this program wrote the checkpoint; else a Java broker did, or nobody.
    pub own: bool,
    /// Start of the oldest log file, and the end behind the last record.
    pub log: (i64, i64),
    /// Its parts.
    pub parts: Vec<Part>,
    /// Start of the last good record.
    pub(crate) last_record: i64,
    /// Topics with records and without queues that no configuration names either.
    pub(crate) deleted_by_java: Vec<String>,
}

impl Report {
    /// Whether any part is damaged.
    pub fn is_damaged(&self) -> bool {
        self.parts.iter().any(Part::is_damaged)
    }

    /// The part of that name.
    pub fn part(&self, name: &str) -> Option<&Part> {
        self.parts.iter().find(|part| part.name == name)
    }
}

/// How far a look is: bytes of the log done and in all.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64);

/// The exclusive right to a store; nobody else opens it until it is dropped.
#[derive(Debug)]
pub struct Hold {
    _lock: StoreLock,
}

/// Takes a store for oneself. Errors: it is not there, or somebody has it, by process id.
pub fn hold(root: &Path) -> Result<Hold, OpenError> {
    if !root.join("commitlog").is_dir() {
        let reason = "no store is here: there is no commitlog directory".to_owned();
        return Err(OpenError::Layout { path: root.to_path_buf(), reason });
    }
    Ok(Hold { _lock: StoreLock::take(&Disk::default(), root)? })
}

/// The configuration by which a store is looked at: the sizes that its files have, and the batch
/// topics that `topics.json` and directories tell.
pub fn config_of(root: &Path) -> Result<StoreConfig, OpenError> {
    let mut config = StoreConfig::new(root);
    let listed = files::found(&config.disk, &config.commit_log_dir)?.unwrap_or_default();
    config.commit_log_file_size = log::usual_size(&listed).unwrap_or(config.commit_log_file_size);
    for (dir, unit, size) in [
        ("consumequeue", 20, &mut config.consume_queue_file_size),
        ("batchconsumequeue", 46, &mut config.batch_queue_file_size),
    ] {
        if let Some(found) = queues::usual_size(&config.disk, &root.join(dir), unit)? {
            *size = found;
        }
    }
    config.batch_topics = texts::batch_topics(&config.disk, root)?;
    // Light queues of a store that has them go on.
    config.multi_dispatch = queues::has_light(&config.disk, root)?;
    config.file_reserved_hours = -1;
    Ok(config)
}

/// What all looks begin with.
struct Ground {
    config: StoreConfig,
    checkpoint: Checkpoint,
    clean: bool,
    deleted: BTreeMap<String, i64>,
}

impl Ground {
    fn of(config: &StoreConfig) -> Ground {
        let path = config.root.join(deleted::FILE);
        let deleted = config_file::look(&config.disk, &path, deleted::parse);
        Ground {
            checkpoint: Checkpoint::load(&config.disk, &config.root.join("checkpoint")),
            clean: !lock_file::was_aborted(&config.disk, &config.root),
            deleted: deleted.unwrap_or_default(),
            config: config.clone(),
        }
    }

    /// Whether the next start makes what is missing of a record at this place by itself.
    fn is_news(&self, physical: i64) -> bool {
        !self.clean && physical >= self.checkpoint.logics_offset
    }
}

/// Reads everything and compares it. Errors: something cannot be read at all.
pub fn verify(config: &StoreConfig, progress: Progress<'_>) -> Result<Report, OpenError> {
    let ground = Ground::of(config);
    let mut report = Report {
        root: config.root.clone(),
        clean: ground.clean,
        own: ground.checkpoint.exact,
        log: (0, 0),
        parts: Vec::new(),
        last_record: 0,
        deleted_by_java: Vec::new(),
    };
    let mut part = Part::new("commitlog", "records");
    let Some(log) = log::open(config, &mut part)? else {
        // Without its files in order nothing else can be told.
        report.parts = vec![part, texts::verify(&ground)?];
        return Ok(report);
    };
    let io = OpenError::io(&config.root);
    let mut queues = queues::Check::new(&ground)?;
    let mut index = index::Check::new(&ground)?;
    let mut each = |record: &wire::record::Record<'_>| -> io::Result<()> {
        index.count(record);
        queues.record(record)
    };
    let walked = log::walk(&ground, &log, &mut part, progress, &mut each).map_err(io)?;
    report.log = (log.min(), walked.end);
    report.last_record = walked.last;
    let (queue_part, gone) = queues.finish(&report.log)?;
    report.deleted_by_java = gone;
    let index_part = index.finish(&log, walked.end).map_err(OpenError::io(&config.root))?;
    let checkpoint = texts::checkpoint(&ground, &walked);
    report.parts = vec![part, queue_part, index_part, checkpoint, texts::verify(&ground)?];
    Ok(report)
}
