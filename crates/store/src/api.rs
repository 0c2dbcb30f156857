//! The words that callers exchange with the store: configuration, results, refusals.
//!
//! Plain data; owns nothing, locks nothing.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use wire::record::Place;

use crate::disk::Disk;

/// Topic of messages that wait for a delay level. Java: `TopicValidator.RMQ_SYS_SCHEDULE_TOPIC`.
pub const SCHEDULE_TOPIC: &str = "SCHEDULE_TOPIC_XXXX";

/// Topic of messages that wait for a time of their own. Java: `TimerMessageStore.TIMER_TOPIC`.
pub const TIMER_TOPIC: &str = "rmq_sys_wheel_timer";
/// Bit of a tag code on [`TIMER_TOPIC`]: the record recalls a message instead of being one.
pub const TIMER_DELETE: i64 = 1 << 62;

/// When a message is due whose `TIMER_OUT_MS` is this. Whole seconds come from a Java broker, which
/// rounds down and delivers when the second is over; ours are a millisecond early and never whole.
pub fn timer_due_ms(out_ms: i64) -> i64 {
    if out_ms % 1000 == 0 { out_ms.saturating_add(1000) } else { out_ms.saturating_add(1) }
}

/// When an appended record counts as safe, and when it becomes readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FlushMode {
    /// Written to the page cache is enough; the disk follows every `flush_interval_ms`.
    Async,
    /// Readable only when on disk. Java: `SYNC_FLUSH`.
    Sync,
}

/// Everything that a store needs to know. Start from [`StoreConfig::new`].
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Where the files are; the file system unless a test wants another one.
    pub disk: Disk,
    /// Directory of the store. Java: `storePathRootDir`.
    pub root: PathBuf,
    /// Directory of the commit log files. Java: `storePathCommitLog`.
    pub commit_log_dir: PathBuf,
    /// Bytes of one commit log file; an existing store's own size wins.
    pub commit_log_file_size: u64,
    /// Bytes of one consume queue file, rounded up to entries; an existing queue's own size wins.
    pub consume_queue_file_size: u64,
    /// The same for a batch queue. Java: `mapperFileSizeBatchConsumeQueue`.
    pub batch_queue_file_size: u64,
    /// Topics whose queues are batch queues. Java: topic attribute `queue.type=BatchCQ`.
    pub batch_topics: HashSet<String>,
    /// Whether messages are shown in the light queues that they name. Java: `enableMultiDispatch`.
    pub multi_dispatch: bool,
    /// Java: `flushDiskType`.
    pub flush: FlushMode,
    /// Milliseconds between two syncs of the log with [`FlushMode::Async`].
    pub flush_interval_ms: u64,
    /// Bytes of newest log kept in memory; 0 switches the ring off.
    pub ring_bytes: usize,
    /// Milliseconds of the delay levels, level 1 first. Java: `messageDelayLevel`.
    pub delay_levels_ms: Vec<i64>,
    /// Whether keys are indexed. Java: `messageIndexEnable`.
    pub index: bool,
    /// Hash slots of one index file. Java: `maxHashSlotNum`.
    pub max_index_slots: u32,
    /// Entries of one index file. Java: `maxIndexNum`.
    pub max_index_entries: u32,
    /// Hours after which a log file may be deleted; negative: never by age.
    pub file_reserved_hours: i64,
    /// Hours of the day (UTC offset `utc_offset_minutes`) in which expired files are deleted.
    pub delete_when: Vec<u8>,
    /// Local time's distance from UTC, for `delete_when`.
    pub utc_offset_minutes: i32,
    /// Percent of the disk in use above which expired files are deleted at any hour.
    pub disk_max_used_ratio: u8,
    /// With fewer free bytes messages are refused and the oldest files go, whatever the percentage.
    pub min_free_bytes: u64,
    /// Makes queues and index anew from the log, whatever they say, and passes over damage in the
    /// log as long as a good record follows; for [`crate::check::repair`].
    pub rebuild: bool,
}

impl StoreConfig {
    /// Java's defaults for a store at `root`.
    pub fn new(root: impl AsRef<Path>) -> StoreConfig {
        const S: i64 = 1000;
        const M: i64 = 60 * S;
        const H: i64 = 60 * M;
        let root = root.as_ref().to_path_buf();
        let mut levels = vec![S, 5 * S, 10 * S, 30 * S];
        levels.extend((1..=10).map(|minutes| minutes * M));
        levels.extend([20 * M, 30 * M, H, 2 * H]);
        StoreConfig {
            disk: Disk::default(),
            commit_log_dir: root.join("commitlog"),
            root,
            commit_log_file_size: 1 << 30,
            consume_queue_file_size: 6_000_000,
            batch_queue_file_size: 13_800_000,
            batch_topics: HashSet::new(),
            multi_dispatch: false,
            flush: FlushMode::Async,
            flush_interval_ms: 500,
            ring_bytes: 16 << 20,
            delay_levels_ms: levels,
            index: true,
            max_index_slots: 5_000_000,
            max_index_entries: 20_000_000,
            file_reserved_hours: 72,
            delete_when: vec![4],
            utc_offset_minutes: 0,
            disk_max_used_ratio: 75,
            min_free_bytes: 32 << 20,
            rebuild: false,
        }
    }
}

/// What an append gave to a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Offsets and time of the (first) record.
    pub place: Place,
    /// Physical offset behind the (last) record: safe once a watermark reaches it.
    pub end: i64,
    /// Bytes of the (first) record.
    pub len: usize,
}

/// Why nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AppendRefused {
    /// An earlier write or sync failed; only a restart helps.
    #[error("the store is poisoned by a failed write")]
    Poisoned,
    /// The disk has no room, or is over the warning level.
    #[error("the disk is full")]
    DiskFull,
    /// The record or batch does not fit into one commit log file, or a field into its length.
    #[error("record of {len} bytes is larger than {max}")]
    TooLarge {
        /// Bytes asked for.
        len: usize,
        /// Bytes that fit.
        max: usize,
    },
    /// The queue was removed with its topic; look it up again.
    #[error("the queue was deleted")]
    QueueDeleted,
    /// A record that holds several messages belongs into a batch queue, by
    /// [`crate::Store::append_inner_batch`].
    #[error("an inner batch belongs into a batch queue")]
    InnerBatch,
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// A write or sync of the log failed: nothing later may be acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the store is poisoned by a failed write")]
pub struct Poisoned;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process, or this one, has the store open.
    #[error("store {} is in use by process {pid}", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// The holder's process id; 0 when unknown.
        pid: i32,
    },
    /// A file is not what its name and neighbours say.
    #[error("{}: {reason}", path.display())]
    Layout {
        /// The offending file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl OpenError {
    /// Makes an `Io` of a cause, for `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + '_ {
        move |source| OpenError::Io { path: path.to_path_buf(), source }
    }
}

/// Positions of the log, all physical offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// Behind the last appended record.
    pub appended: i64,
    /// Behind the last record that is in the page cache.
    pub written: i64,
    /// Behind the last record that is on disk.
    pub flushed: i64,
    /// What readers may see: `flushed` with synchronous flush, else `written`.
    pub readable: i64,
    /// Start of the oldest file.
    pub min: i64,
}

/// One consume queue entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry {
    /// Offset of the record in the commit log.
    pub physical_offset: i64,
    /// Bytes of the record.
    pub size: i32,
    /// Tag hash, or the due time on [`SCHEDULE_TOPIC`] and [`TIMER_TOPIC`].
    pub tags_code: i64,
}

/// Whether a read may wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Like `OnlyCached`, but of the log only what is in the ring of its newest bytes counts as in
    /// memory: nothing that takes long.
    OnlyNew,
    /// Answer from memory or report `cold`.
    OnlyCached,
    /// Read the disk when needed.
    MayBlock,
}

/// How much one fetch returns at most; at least one record always fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLimit {
    /// Messages.
    pub max_messages: usize,
    /// Bytes of records.
    pub max_bytes: usize,
}

/// Outcome of a fetch. Java: `GetMessageStatus`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchStatus {
    /// At least one message.
    Found,
    /// All scanned entries were filtered out.
    NoMatch,
    /// The scanned entries point to deleted log files.
    Removing,
    /// Asked for the offset that comes next.
    OverflowOne,
    /// Asked for more than that.
    OverflowBadly,
    /// Asked below the minimum.
    TooSmall,
    /// The queue never had a message.
    NoMessageInQueue,
}

/// Result of [`crate::Store::get`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// What happened.
    pub status: FetchStatus,
    /// Queue offset to ask for next.
    pub next: i64,
    /// Smallest offset of the queue.
    pub min: i64,
    /// Behind the largest readable offset of the queue.
    pub max: i64,
    /// Messages appended to the caller's buffer; a record of a batch queue may hold several.
    pub messages: usize,
    /// Bytes appended to it.
    pub bytes: usize,
    /// A page was not in memory and waiting was not allowed: nothing was appended, ask again with
    /// [`Wait::MayBlock`].
    pub cold: bool,
}

/// Result of [`crate::Store::at`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    /// The record was appended to the caller's buffer.
    Found,
    /// No readable record starts there.
    Missing,
    /// It is not in memory; ask again with [`Wait::MayBlock`].
    Cold,
}

/// Which of several entries a time stands for. Java: `BoundaryType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edge {
    /// The first one at or after the time.
    Lower,
    /// The last one at or before the time.
    Upper,
}
