//! Commit log, consume queues and index in Java's layout.
//!
//! One [`Store`] owns one store directory. The way of a message: [`Store::append`] gives it its
//! offsets and encodes it into memory, [`Store::commit`] writes everything appended so far with one
//! `pwrite` per file, and only then may it be acknowledged (asynchronous flush); with synchronous
//! flush the acknowledgement also waits for `flushed` of [`Store::watermarks`] to pass its end.
//! Readers never see a record whose end is above `readable`.
//!
//! Who calls what: appenders must call `commit` at the end of their turn, nobody else does. Reads
//! with [`Wait::OnlyCached`] never wait for a disk and may run on an event loop; a fetch that says
//! `cold` is to be asked again with [`Wait::MayBlock`] on a thread that may block.
//!
//! Nothing is memory-mapped: reads go to the ring of newest bytes, then to the page cache
//! (`preadv2` with `RWF_NOWAIT`), then to the disk. So the crate has no unsafe code, and a page
//! fault never stops a loop.
//!
//! Locks, in the order in which they may be taken: queues' `flushing` -> `deleted` -> log's
//! `flushing` -> `writer` (commit) -> `pending` (append) -> one queue's state -> `grow` ->
//! `segments`. Inside of those and for moments only: the table and the list of queues, open
//! handles, the ring, the index's `pending` (whose `files` come before it), the checkpoint, the
//! limits of topics. Their `tallies` come before a queue's state and are the background thread's.

mod api;
mod batch_queue;
mod batch_reading;
pub mod check;
mod checkpoint;
mod commit_log;
pub mod config_file;
pub mod config_journal;
mod deleted;
pub mod disk;
mod dispatch;
mod files;
mod flusher;
mod foreign;
mod gaps;
mod handles;
mod index;
mod index_file;
mod journal;
mod keep;
mod light;
mod lock_file;
mod maintenance;
mod queue;
mod queue_files;
mod queue_upkeep;
mod queues;
mod reading;
mod recovery;
mod retention;
mod ring;
mod scan;
mod store;
mod sync;
#[cfg(test)]
mod testing;
mod timer_files;
mod trash;

pub use api::{
    AppendRefused, Appended, At, Edge, Entry, Fetch, FetchStatus, FlushMode, OpenError, Poisoned,
    ReadLimit, SCHEDULE_TOPIC, StoreConfig, TIMER_DELETE, TIMER_TOPIC, Wait, Watermarks,
    timer_due_ms,
};
pub use foreign::{RocksPart, rocksdb_parts};
pub use journal::Journal;
pub use keep::Keep;
pub use light::{LIGHT_PREFIX, allows_light, light_names};
pub use lock_file::store_holder;
pub use store::{Queue, Store};
pub use timer_files::{TimerCheck, TimerFiles, WaitingTimer};
