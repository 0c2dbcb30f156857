//! The commit log: files of one size that hold every record one after the other.
//!
//! Owns the log files, the bytes that are appended but not yet written, the ring of newest bytes
//! and the watermarks. Locks: `pending` while a record is given its place and encoded, `writer`
//! while pending bytes go to the files (appenders are not held up by that), `flushing` while files
//! are synced, `grow` while files are created and blocks reserved, `segments` for moments.
//!
//! Never writes a byte twice, never moves a watermark before the bytes are where it says, and
//! after a failed write or sync never accepts or acknowledges anything again. Java: `CommitLog`,
//! `MappedFileQueue`; the files are the same bytes.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use parking_lot::{Mutex, MutexGuard, RwLock};
use wire::record::{BLANK_LEN, MAGIC_BLANK};

use crate::api::{AppendRefused, OpenError, Poisoned, StoreConfig, Wait};
use crate::checkpoint::Taken;
use crate::disk::{Disk, File, is_sync_failure};
use crate::files::{self, Listed};
use crate::ring::Ring;
use crate::trash::Trash;

/// Blocks are reserved this far ahead at a time.
const RESERVE_STEP: i64 = 64 << 20;
/// A buffer that one huge turn has grown past this is given back.
const KEEP_BUFFER: usize = 32 << 20;
/// What a send or a few write at once.
const FEW_BYTES: usize = 8 << 10;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// After a failed reservation appends are refused this long before the next try.
const RETRY_FULL_MS: i64 = 1000;

/// One file of the log.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Physical offset of its first byte.
    pub(crate) start: i64,
    /// Readers keep it open by their `Arc` when the file is deleted.
    pub(crate) file: File,
    /// Where it is.
    pub(crate) path: PathBuf,
}

/// Start and store time of a record, what the checkpoint remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LastRecord {
    pub(crate) start: i64,
    pub(crate) timestamp_ms: i64,
    /// Queue offsets given away in front of it and behind it.
    pub(crate) taken: Taken,
}

/// Bytes that have their place but are not written. Behind the append lock.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// The encoded records and blank markers.
    pub(crate) bytes: Vec<u8>,
    /// Contiguous parts of `bytes`: physical offset, and where the part begins. A part is within
    /// one file.
    pieces: Vec<(i64, usize)>,
    /// Behind the last record; the next one goes here or to the next file.
    end: i64,
    /// The last record.
    pub(crate) last: LastRecord,
}

#[derive(Debug, Default)]
struct Writer {
    bytes: Vec<u8>,
    pieces: Vec<(i64, usize)>,
    last: LastRecord,
    /// Up to where the file holds zeros that were written; see [`CommitLog::zero_ahead`].
    zeroed: i64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct CommitLog {
    disk: Disk,
    dir: PathBuf,
    file_size: i64,
    sync_mode: bool,
    segments: RwLock<VecDeque<Arc<Segment>>>,
    pending: Mutex<Pending>,
    writer: Mutex<Writer>,
    flushing: Mutex<()>,
    grow: Mutex<()>,
    ring: Ring,
    pub(crate) trash: Trash,
    appended: AtomicI64,
    written: AtomicI64,
    flushed: AtomicI64,
    reserved: AtomicI64,
    min: AtomicI64,
    poisoned: AtomicBool,
    retry_full_at_ms: AtomicI64,
    refused: AtomicBool,
}

/// How a read of the log ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Got {
    /// All bytes were appended.
    Bytes,
    /// Not in memory, and waiting was not allowed.
    Cold,
    /// The file is gone, or cannot be read.
    Gone,
}

impl CommitLog {
    /// Opens the files in `dir`; the positions are unset until [`CommitLog::start_at`].
    pub(crate) fn open(
        disk: &Disk,
        dir: &Path,
        configured_size: u64,
        ring_bytes: usize,
        sync_mode: bool,
    ) -> Result<CommitLog, OpenError> {
        disk.create_dirs_durably(dir).map_err(OpenError::io(dir))?;
        let listed = files::list(disk, dir)?.unwrap_or_default();
        CommitLog::of(disk, dir, (configured_size, listed), ring_bytes, sync_mode)
    }

    /// A log to be read only, of files that were listed before.
    pub(crate) fn of_files(
        config: &StoreConfig,
        listed: Vec<Listed>,
    ) -> Result<CommitLog, OpenError> {
        let sized = (config.commit_log_file_size, listed);
        CommitLog::of(&config.disk, &config.commit_log_dir, sized, 0, false)
    }

    fn of(
        disk: &Disk,
        dir: &Path,
        (configured_size, listed): (u64, Vec<Listed>),
        ring_bytes: usize,
        sync_mode: bool,
    ) -> Result<CommitLog, OpenError> {
        let size = files::common_size(&listed)?;
        if let Some(size) = size.filter(|size| *size != configured_size) {
            if listed.len() == 1 && size % 4096 != 0 {
                // A cut file, not another size: one alone does not tell the difference.
                let reason = format!("{size} bytes, not {configured_size}");
                return Err(OpenError::Layout { path: listed[0].path.clone(), reason });
            }
            tracing::warn!(size, configured_size, "commit log files keep the size they have");
        }
        let mut segments = VecDeque::new();
        for found in listed {
            let file = disk.open(&found.path).map_err(OpenError::io(&found.path))?;
            file.read_in_pieces();
            segments.push_back(Arc::new(Segment { start: found.start, file, path: found.path }));
        }
        let min = segments.front().map_or(0, |segment: &Arc<Segment>| segment.start);
        Ok(CommitLog {
            disk: disk.clone(),
            dir: dir.to_path_buf(),
            file_size: size.unwrap_or(configured_size) as i64,
            sync_mode,
            segments: RwLock::new(segments),
            pending: Mutex::default(),
            writer: Mutex::default(),
            flushing: Mutex::default(),
            grow: Mutex::default(),
            ring: Ring::new(ring_bytes),
            trash: Trash::open(disk, dir).map_err(OpenError::io(dir))?,
            appended: AtomicI64::new(0),
            written: AtomicI64::new(0),
            flushed: AtomicI64::new(0),
            reserved: AtomicI64::new(0),
            min: AtomicI64::new(min),
            poisoned: AtomicBool::new(false),
            retry_full_at_ms: AtomicI64::new(0),
            refused: AtomicBool::new(false),
        })
    }

    /// Sets all positions to the end that recovery found; everything before is on disk.
    pub(crate) fn start_at(&self, end: i64, last: LastRecord) {
        self.writer.lock().last = last;
        let mut pending = self.pending.lock();
        pending.end = end;
        pending.last = last;
        self.ring.reset(end);
        for mark in [&self.appended, &self.written, &self.flushed, &self.reserved] {
            mark.store(end, Ordering::SeqCst);
        }
    }

    pub(crate) fn file_size(&self) -> i64 {
        self.file_size
    }
    pub(crate) fn appended(&self) -> i64 {
        self.appended.load(Ordering::SeqCst)
    }
    pub(crate) fn written(&self) -> i64 {
        self.written.load(Ordering::SeqCst)
    }
    pub(crate) fn flushed(&self) -> i64 {
        self.flushed.load(Ordering::SeqCst)
    }
    /// Readers see nothing that ends above. Java: the confirm offset.
    pub(crate) fn readable(&self) -> i64 {
        if self.sync_mode { self.flushed() } else { self.written() }
    }
    /// Start of the oldest file.
    pub(crate) fn min(&self) -> i64 {
        self.min.load(Ordering::SeqCst)
    }
    pub(crate) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::SeqCst)
    }
    /// The newest written record.
    pub(crate) fn last_written(&self) -> LastRecord {
        self.writer.lock().last
    }
    /// Whether the reserved blocks should be extended before an append has to do it itself.
    pub(crate) fn wants_reserve(&self, end: i64) -> bool {
        self.reserved.load(Ordering::SeqCst) - end < RESERVE_STEP.min(self.file_size) / 2
    }
    /// Whether no room could be had since the last question.
    pub(crate) fn take_refused(&self) -> bool {
        self.refused.swap(false, Ordering::Relaxed)
    }
    /// Reserves ahead of the append position. A failure is told to the append that needs the
    /// room.
    pub(crate) fn reserve_ahead(&self) {
        if let Err(error) = self.reserve(self.appended() + RESERVE_STEP.min(self.file_size))
            && is_sync_failure(&error)
        {
            self.poison("sync of a new file", &error);
        }
    }

    /// Refuses everything from now on.
    pub(crate) fn poison(&self, what: &'static str, error: &io::Error) -> Poisoned {
        self.poisoned.store(true, Ordering::SeqCst);
        tracing::error!(what, %error, "the commit log failed; refusing everything until a restart");
        Poisoned
    }

    /// The lock under which records get their place.
    pub(crate) fn lock_pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock()
    }

    /// Finds room for `len` bytes in one file, ending the present file with a blank marker when
    /// they do not fit, and returns where they start. The caller appends exactly `len` bytes to
    /// `pending.bytes` and then calls [`CommitLog::publish`].
    pub(crate) fn place(
        &self,
        pending: &mut Pending,
        len: usize,
        now_ms: i64,
    ) -> Result<i64, AppendRefused> {
        let max = self.file_size as usize - BLANK_LEN;
        if len > max {
            return Err(AppendRefused::TooLarge { len, max });
        }
        let mut at = pending.end;
        let left = self.file_size - at % self.file_size;
        let rolls = (len + BLANK_LEN) as i64 > left;
        if rolls {
            at += left;
        }
        if at + len as i64 > self.reserved.load(Ordering::SeqCst) {
            self.reserve_now(at + len as i64, now_ms)?;
        }
        if rolls {
            if pending.pieces.is_empty() {
                pending.pieces.push((pending.end, 0));
            }
            pending.bytes.extend_from_slice(&(left as u32).to_be_bytes());
            pending.bytes.extend_from_slice(&MAGIC_BLANK.to_be_bytes());
        }
        if rolls || pending.pieces.is_empty() {
            pending.pieces.push((at, pending.bytes.len()));
        }
        Ok(at)
    }

    /// Ends what [`CommitLog::place`] began: the log now reaches to `end`.
    pub(crate) fn publish(&self, pending: &mut Pending, end: i64, last: LastRecord) {
        pending.end = end;
        pending.last = last;
        self.appended.store(end, Ordering::SeqCst);
    }

    /// Says that queues go away, with as many offsets as `gone` returns; no record gets its place
    /// meanwhile. Returns the end of the log.
    pub(crate) fn forget_taken(&self, gone: impl FnOnce() -> i64) -> i64 {
        let mut writer = self.writer.lock();
        let mut pending = self.pending.lock();
        let gone = gone();
        for last in [&mut writer.last, &mut pending.last] {
            last.taken = Taken { before: -1, through: last.taken.through - gone };
        }
        self.appended()
    }

    fn reserve_now(&self, upto: i64, now_ms: i64) -> Result<(), AppendRefused> {
        if now_ms < self.retry_full_at_ms.load(Ordering::Relaxed) {
            return Err(AppendRefused::DiskFull);
        }
        self.reserve(upto).map_err(|error| {
            if is_sync_failure(&error) {
                self.poison("sync of a new file", &error);
                return AppendRefused::Poisoned;
            }
            tracing::error!(%error, "cannot reserve room for the commit log");
            self.retry_full_at_ms.store(now_ms + RETRY_FULL_MS, Ordering::Relaxed);
            self.refused.store(true, Ordering::Relaxed);
            AppendRefused::DiskFull
        })
    }

    /// Creates files and reserves blocks until `upto` is covered.
    fn reserve(&self, upto: i64) -> io::Result<()> {
        let _grow = self.grow.lock();
        loop {
            let from = self.reserved.load(Ordering::SeqCst);
            if from >= upto {
                return Ok(());
            }
            let start = from - from % self.file_size;
            let segment = match self.segment_at(from) {
                Some(segment) => segment,
                None => self.create_segment(start)?,
            };
            let mut end = (from + RESERVE_STEP).min(start + self.file_size);
            let needed = upto.min(end);
            let reserved = loop {
                match segment.file.reserve((from - start) as u64, (end - from) as u64) {
                    // The last room is used, too.
                    Err(error) if error.kind() == ErrorKind::StorageFull && end > needed => {
                        end = (from + (end - from) / 2).max(needed);
                    }
                    reserved => break reserved?,
                }
            };
            let covered = if reserved { end } else { start + self.file_size };
            self.reserved.store(covered, Ordering::SeqCst);
        }
    }

    fn create_segment(&self, start: i64) -> io::Result<Arc<Segment>> {
        let path = self.dir.join(files::name_of(start));
        let file = self.disk.create_sized(&path, self.file_size as u64)?;
        // Its length first: a file that is there has all of it, also when a later one is, too.
        file.sync_data()?;
        self.disk.sync_dir(&self.dir)?;
        file.read_in_pieces();
        let segment = Arc::new(Segment { start, file, path });
        let mut segments = self.segments.write();
        if segments.is_empty() {
            self.min.store(start, Ordering::SeqCst);
        }
        segments.push_back(Arc::clone(&segment));
        Ok(segment)
    }

    /// Writes everything appended so far. Whoever gets the lock writes for all the others; the
    /// result is behind everything that the caller appended before the call.
    pub(crate) fn commit(&self) -> Result<i64, Poisoned> {
        let wanted = self.appended();
        let written = self.written();
        if written >= wanted && !self.is_poisoned() {
            return Ok(written);
        }
        let mut writer = self.writer.lock();
        if self.is_poisoned() {
            return Err(Poisoned);
        }
        let written = self.written();
        if written >= wanted {
            return Ok(written);
        }
        let writer = &mut *writer;
        let end = {
            let mut pending = self.pending.lock();
            std::mem::swap(&mut pending.bytes, &mut writer.bytes);
            std::mem::swap(&mut pending.pieces, &mut writer.pieces);
            writer.last = pending.last;
            pending.end
        };
        for (index, &(at, from)) in writer.pieces.iter().enumerate() {
            let until = writer.pieces.get(index + 1).map_or(writer.bytes.len(), |next| next.1);
            let bytes = &writer.bytes[from..until];
            self.write_piece(at, bytes).map_err(|error| self.poison("write", &error))?;
            self.ring.put(at, bytes);
        }
        if self.sync_mode && writer.bytes.len() < FEW_BYTES {
            self.zero_ahead(writer, end).map_err(|error| self.poison("write", &error))?;
        }
        writer.pieces.clear();
        writer.bytes.clear();
        if writer.bytes.capacity() > KEEP_BUFFER {
            writer.bytes = Vec::new();
        }
        self.written.store(end, Ordering::SeqCst);
        Ok(end)
    }

    /// Writes zeros behind the end. The first write to a reserved block changes the file's
    /// metadata, which costs the next sync a commit of the file system's journal; who waits for
    /// each sync meets that once in 64 KiB this way, and not at each block.
    fn zero_ahead(&self, writer: &mut Writer, end: i64) -> io::Result<()> {
        if end + FEW_BYTES as i64 <= writer.zeroed {
            return Ok(());
        }
        let from = end.max(writer.zeroed);
        let file_end = end - end % self.file_size + self.file_size;
        let until =
            (end + ZEROS.len() as i64).min(file_end).min(self.reserved.load(Ordering::SeqCst));
        if from < until {
            self.write_piece(from, &ZEROS[..(until - from) as usize])?;
            writer.zeroed = until;
        }
        Ok(())
    }

    fn write_piece(&self, at: i64, bytes: &[u8]) -> io::Result<()> {
        let segment = self.segment_at(at).ok_or_else(|| io::Error::other("no file reserved"))?;
        segment.file.write_all_at(bytes, (at - segment.start) as u64)
    }

    /// Brings everything written to the disk and returns up to where.
    pub(crate) fn flush(&self) -> Result<i64, Poisoned> {
        let _flushing = self.flushing.lock();
        if self.is_poisoned() {
            return Err(Poisoned);
        }
        let upto = self.written();
        let from = self.flushed();
        if upto > from {
            self.sync_files(from, upto).map_err(|error| self.poison("sync", &error))?;
            self.flushed.store(upto, Ordering::SeqCst);
        }
        Ok(upto.max(from))
    }

    /// Syncs the files that hold `[from, upto)`.
    pub(crate) fn sync_files(&self, from: i64, upto: i64) -> io::Result<()> {
        let mut start = from - from % self.file_size;
        while start < upto {
            if let Some(segment) = self.segment_at(start) {
                segment.file.sync_data()?;
            }
            start += self.file_size;
        }
        Ok(())
    }

    /// The file that holds `offset`.
    pub(crate) fn segment_at(&self, offset: i64) -> Option<Arc<Segment>> {
        let segments = self.segments.read();
        let first = segments.front()?.start;
        let index = usize::try_from((offset - first).div_euclid(self.file_size)).ok()?;
        segments.get(index).cloned()
    }

    /// All files, oldest first.
    pub(crate) fn segments(&self) -> Vec<Arc<Segment>> {
        self.segments.read().iter().cloned().collect()
    }

    /// Copies the leading `ranges` that are still in the ring; see [`Ring::copy`].
    pub(crate) fn copy_hot(&self, ranges: &[(i64, usize)], out: &mut Vec<u8>) -> usize {
        self.ring.copy(ranges, out)
    }

    /// Appends `[at, at + len)`, which lies in one file, to `out` from that file.
    pub(crate) fn read_file(&self, at: i64, len: usize, wait: Wait, out: &mut Vec<u8>) -> Got {
        let Some(segment) = self.segment_at(at) else { return Got::Gone };
        // A damaged queue entry may say any length.
        if len as i64 > self.file_size - (at - segment.start) {
            return Got::Gone;
        }
        if wait == Wait::OnlyNew {
            return Got::Cold;
        }
        let before = out.len();
        out.resize(before + len, 0);
        if wait == Wait::MayBlock {
            segment.file.will_need((at - segment.start) as u64, len as u64);
        }
        match segment.file.read_at(&mut out[before..], (at - segment.start) as u64, wait) {
            Ok(true) => return Got::Bytes,
            Ok(false) => {
                out.truncate(before);
                return Got::Cold;
            }
            Err(error) => {
                tracing::warn!(at, len, %error, "cannot read the commit log");
            }
        }
        out.truncate(before);
        Got::Gone
    }

    /// Like [`CommitLog::read_file`], but looks into the ring first.
    pub(crate) fn read(&self, at: i64, len: usize, wait: Wait, out: &mut Vec<u8>) -> Got {
        if self.ring.copy(&[(at, len)], out) == 1 {
            return Got::Bytes;
        }
        self.read_file(at, len, wait, out)
    }

    /// Takes the oldest file out, which is never the newest or one that is written to; see
    /// [`Trash`].
    pub(crate) fn remove_oldest(&self) -> io::Result<bool> {
        let _grow = self.grow.lock();
        let Some(oldest) = self.segments.read().front().cloned() else { return Ok(false) };
        if oldest.start + self.file_size > self.flushed() {
            return Ok(false);
        }
        // First out of sight, then off the disk: a reader gets "gone", not an error.
        self.min.store(oldest.start + self.file_size, Ordering::SeqCst);
        self.segments.write().pop_front();
        self.trash.put(oldest)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(true)
    }

    /// Takes the files that begin at or above `offset` out of the log; for recovery.
    pub(crate) fn detach_from(&self, offset: i64) -> Vec<Arc<Segment>> {
        let mut segments = self.segments.write();
        let keep = segments.partition_point(|segment| segment.start < offset);
        segments.split_off(keep).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{FlushMode, StoreConfig};
    use crate::disk::{Act, Verdict};
    use crate::store::Store;
    use crate::testing::{TempDir, send};
    use base::clock::Clock;
    use wire::properties::Known;

    #[test]
    fn after_a_failed_write_nothing_is_accepted_acknowledged_or_shown() {
        let dir = TempDir::new("poison");
        let fails = Arc::new(AtomicBool::new(false));
        let disk = Disk::default().watched(Arc::new({
            let fails = Arc::clone(&fails);
            move |act, path: &Path| {
                let of_log = act == Act::Write && path.to_string_lossy().contains("commitlog");
                match of_log && fails.load(Ordering::SeqCst) {
                    true => Verdict::Fail(io::Error::other("a test's fault")),
                    false => Verdict::Go,
                }
            }
        }));
        let config = StoreConfig { flush: FlushMode::Sync, disk, ..StoreConfig::new(dir.path()) };
        let store = Store::open(config.clone(), Clock::system()).unwrap();
        let good = send(&store, "T", 0, b"good").unwrap();
        while store.watermarks().flushed < good.end {
            std::thread::yield_now();
        }
        fails.store(true, Ordering::SeqCst);
        let queue = store.queue("T", 0).unwrap();
        let record = wire::record::NewRecord {
            topic: "T",
            queue_id: 0,
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: "127.0.0.1:1".parse().unwrap(),
            store_host: "127.0.0.1:1".parse().unwrap(),
            reconsume_times: 0,
            prepared_offset: 0,
            body: b"lost",
            body_crc: 0,
            properties: "",
        };
        store.append(&queue, &record, &Known::default()).unwrap();
        assert_eq!(store.commit(), Err(Poisoned));
        fails.store(false, Ordering::SeqCst);
        assert_eq!(store.commit(), Err(Poisoned));
        let refused = store.append(&queue, &record, &Known::default());
        assert_eq!(refused, Err(AppendRefused::Poisoned));
        assert!(store.is_poisoned() && store.close().is_err());
        assert_eq!((queue.max_offset(&store), store.watermarks().written), (1, good.end));
        let store = Store::open(config, Clock::system()).unwrap();
        assert_eq!(store.queue("T", 0).unwrap().next_offset(), 1);
    }
}
