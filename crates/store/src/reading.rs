//! Reading records: by queue offset, by physical offset, by time, by key.
//!
//! Owns and locks nothing of its own; takes a queue's lock for moments. Never returns a record
//! that ends above the readable watermark, and with [`Wait::OnlyCached`] never waits for a disk.
//! Java: `DefaultMessageStore.getMessage`, `ConsumeQueue.getOffsetInQueueByTime`.

use wire::record::{self, Scanned};
use wire::text::{hash_onto, java_hash};

use crate::api::{At, Edge, Entry, Fetch, FetchStatus, ReadLimit, Wait};
use crate::batch_queue::first_offset;
use crate::commit_log::Got;
use crate::index::key_hash;
use crate::light::{LIGHT_PREFIX, light_offset};
use crate::queue::{BLANK_SIZE, Queue};
use crate::queues::BLOCK;
use crate::store::Store;

/// A fetch looks at this many entries at least before it gives up (Java: `maxFilterMessageSize`
/// of 16,000 bytes).
const SCAN_ENTRIES: i64 = 800;
/// Records read from the log together.
const PICKS: usize = 64;
/// Neighbours are read with one call while the gaps stay below this multiple of the useful bytes …
const WASTE: i64 = 4;
/// … and the whole below this.
const MERGED: i64 = 1 << 20;
/// First guess of a record's size.
const GUESS: i64 = 2048;

/// A page was not in memory.
pub(crate) struct Cold;

impl Store {
    /// Fetches records of a queue from offset `from` on and appends them whole to `out`: those
    /// that `filter` accepts, until a limit is reached, 800 entries (or `max_messages`, if more)
    /// were looked at, or the readable end. From a batch queue come whole batches, the first one
    /// even if it begins below `from`. `filter` may see an entry again when a cold fetch is
    /// repeated. Read errors are logged and look like removed records.
    pub fn get(
        &self,
        queue: &Queue,
        from: i64,
        limit: ReadLimit,
        wait: Wait,
        filter: &mut dyn FnMut(&Entry) -> bool,
        out: &mut Vec<u8>,
    ) -> Fetch {
        let readable = self.log().readable();
        let (min, max) = {
            let state = queue.state.lock();
            (state.min, state.readable_end(readable))
        };
        let mut fetch = Fetch {
            status: FetchStatus::NoMatch,
            next: from,
            min,
            max,
            messages: 0,
            bytes: 0,
            cold: false,
        };
        (fetch.status, fetch.next) = match from {
            _ if max == 0 => (FetchStatus::NoMessageInQueue, 0),
            _ if from < min => (FetchStatus::TooSmall, min),
            _ if from == max => (FetchStatus::OverflowOne, from),
            _ if from > max => (FetchStatus::OverflowBadly, max),
            _ => (FetchStatus::NoMatch, from),
        };
        if fetch.status != FetchStatus::NoMatch {
            return fetch;
        }
        let before = out.len();
        let scanned = if queue.is_batch() {
            self.scan_batches(queue, (from, max), limit, wait, filter, out)
        } else {
            self.scan(queue, (from, max), limit, wait, filter, out)
        };
        match scanned {
            Ok((next, messages, removed)) => {
                fetch.next = next;
                fetch.messages = messages;
                fetch.bytes = out.len() - before;
                if messages > 0 {
                    fetch.status = FetchStatus::Found;
                } else if removed {
                    fetch.status = FetchStatus::Removing;
                }
            }
            Err(Cold) => {
                out.truncate(before);
                fetch.cold = true;
            }
        }
        fetch
    }

    /// The loop of a fetch: next offset, messages, and whether some were gone.
    fn scan(
        &self,
        queue: &Queue,
        (from, max): (i64, i64),
        limit: ReadLimit,
        wait: Wait,
        filter: &mut dyn FnMut(&Entry) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(i64, usize, bool), Cold> {
        let log = self.log().min()..self.log().readable();
        let max_messages = limit.max_messages.max(1);
        let end = max.min(from + SCAN_ENTRIES.max(max_messages as i64));
        let mut block = [Entry::default(); BLOCK];
        let (mut picks, mut offsets) = ([(0, 0); PICKS], [0; PICKS]);
        let (mut in_picks, mut picked, mut bytes, mut messages) = (0, 0, 0, 0);
        let mut removed = false;
        let mut at = from;
        'queue: while at < end && picked < max_messages {
            let wanted = (max_messages - picked).clamp(16, BLOCK).min((end - at) as usize);
            let found = match self.queues().entries(queue, at, &mut block[..wanted], wait) {
                Ok(Some(found)) => found,
                Ok(None) => return Err(Cold),
                Err(error) => {
                    tracing::warn!(topic = queue.topic(), queue = queue.id(), %error, "queue read");
                    0
                }
            };
            if found == 0 {
                // The file is being deleted, or cannot be read: on to the next one.
                removed = true;
                at = self.queues().next_file(at).min(max);
                break;
            }
            for entry in &block[..found] {
                if picked == max_messages {
                    break 'queue;
                }
                if entry.size == BLANK_SIZE || !log.contains(&entry.physical_offset) {
                    removed = true;
                } else if filter(entry) {
                    let len = entry.size as usize;
                    if picked > 0 && bytes + len > limit.max_bytes {
                        break 'queue;
                    }
                    if in_picks == PICKS {
                        messages += self.read_picks(queue, (&picks, &offsets), wait, out)?;
                        in_picks = 0;
                    }
                    picks[in_picks] = (entry.physical_offset, len);
                    offsets[in_picks] = at;
                    in_picks += 1;
                    picked += 1;
                    bytes += len;
                }
                at += 1;
            }
        }
        let rest = (&picks[..in_picks], &offsets[..in_picks]);
        messages += self.read_picks(queue, rest, wait, out)?;
        Ok((at, messages, removed || messages < picked))
    }

    /// Appends a queue's records at ascending positions to `out` and returns how many there were.
    /// Their queue offsets are known too, so that what a damaged entry points to is not shown.
    pub(crate) fn read_picks(
        &self,
        queue: &Queue,
        (picks, offsets): (&[(i64, usize)], &[i64]),
        wait: Wait,
        out: &mut Vec<u8>,
    ) -> Result<usize, Cold> {
        let file_size = self.log().file_size();
        let mut good = 0;
        let mut at = 0;
        // Picks to be read one by one, because one of them is not possible.
        let mut alone = 0;
        loop {
            let hot = self.log().copy_hot(&picks[at..], out);
            good += hot;
            at += hot;
            let Some(&(start, len)) = picks.get(at) else { return Ok(good) };
            let (mut end, mut useful) = (start + len as i64, len as i64);
            let mut until = at + 1;
            while let Some(&(next, len)) = picks.get(until) {
                let span = next + len as i64 - start;
                useful += len as i64;
                if next < end
                    || span > MERGED
                    || span > WASTE * useful
                    || next / file_size != start / file_size
                    || alone > 0
                {
                    break;
                }
                end = next + len as i64;
                until += 1;
            }
            let before = out.len();
            match self.log().read_file(start, (end - start) as usize, wait, out) {
                Got::Cold => return Err(Cold),
                Got::Gone if until > at + 1 => {
                    alone = until - at;
                    continue;
                }
                Got::Gone => {}
                Got::Bytes => {
                    let span = (&picks[at..until], &offsets[at..until]);
                    good += compact(queue, out, before, start, span);
                }
            }
            alone = alone.saturating_sub(until - at);
            at = until;
        }
    }

    /// Appends the record that starts at `physical_offset` to `out`.
    pub fn at(&self, physical_offset: i64, wait: Wait, out: &mut Vec<u8>) -> At {
        let log = self.log();
        // Offsets come from clients too: any number is possible.
        if physical_offset < log.min() || physical_offset >= log.readable() {
            return At::Missing;
        }
        let left = log.file_size() - physical_offset % log.file_size();
        let left = left.min(log.readable() - physical_offset);
        let before = out.len();
        let mut len = left.min(GUESS);
        loop {
            match log.read(physical_offset, len as usize, wait, out) {
                Got::Cold => return At::Cold,
                Got::Gone => return At::Missing,
                Got::Bytes => {}
            }
            let bytes = &out[before..];
            if let Ok(Scanned::Record(record)) = record::scan(bytes)
                && record.physical_offset() == physical_offset
                && record.check_crc().is_ok()
            {
                let total = record.total_len();
                out.truncate(before + total);
                return At::Found;
            }
            let total = bytes.first_chunk().map_or(0, |raw| i64::from(u32::from_be_bytes(*raw)));
            out.truncate(before);
            if total <= len || total > left {
                return At::Missing;
            }
            len = total;
        }
    }

    /// The queue offset that a time stands for, between the minimum and the maximum; see [`Edge`].
    /// Later than the last message: the maximum for `Lower`, the last message for `Upper`. Reads
    /// records, so it may block.
    pub fn offset_by_time(&self, queue: &Queue, timestamp_ms: i64, edge: Edge) -> i64 {
        if queue.is_batch() {
            return self.batch_by_time(queue, timestamp_ms, edge);
        }
        let (min, max) = (queue.min_offset(), queue.max_offset(self));
        let before = |offset: i64| {
            let time = self.time_of(queue, offset);
            if edge == Edge::Lower { time < timestamp_ms } else { time <= timestamp_ms }
        };
        let (mut low, mut high) = (min, max);
        while low < high {
            let middle = low + (high - low) / 2;
            if before(middle) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        if edge == Edge::Lower { low } else { (low - 1).max(min) }
    }

    /// Store time of the record at a queue offset; what is gone counts as very old.
    fn time_of(&self, queue: &Queue, offset: i64) -> i64 {
        let Some(entry) = queue.entry(self, offset) else { return i64::MIN };
        let mut head = Vec::with_capacity(76);
        match self.log().read(entry.physical_offset, 76, Wait::MayBlock, &mut head) {
            Got::Bytes => store_time(&head),
            _ => i64::MIN,
        }
    }

    /// Store time of the message at an offset of a queue, if it is there; may read files.
    pub(crate) fn stored_ms(&self, queue: &Queue, offset: i64) -> Option<i64> {
        let entry = queue.entry(self, offset)?;
        let mut head = Vec::new();
        let got = self.log().read(entry.physical_offset, 76, Wait::MayBlock, &mut head);
        (got == Got::Bytes).then(|| store_time(&head))
    }

    /// Physical offsets, newest first, of readable records between `begin_ms` and `end_ms` that
    /// may have the key; the caller reads them and compares topic and key, because only hashes
    /// were compared here. Keys are UNIQ_KEY, the words of KEYS, and `T#` with the tag. Empty
    /// when the index is off. Reads files, so it may block.
    pub fn query_index(
        &self,
        topic: &str,
        key: &str,
        max: usize,
        begin_ms: i64,
        end_ms: i64,
    ) -> Vec<i64> {
        let Some(index) = self.index() else { return Vec::new() };
        let hash = key_hash(hash_onto(hash_onto(java_hash(topic), "#"), key));
        let readable = self.log().readable();
        let mut found =
            index.query(hash, max, (begin_ms, end_ms), readable).unwrap_or_else(|error| {
                tracing::warn!(%error, "cannot search the index");
                Vec::new()
            });
        found.retain(|offset| (self.log().min()..readable).contains(offset));
        found
    }
}

/// Store time of a record of which at least 76 bytes are given.
pub(crate) fn store_time(head: &[u8]) -> i64 {
    let v6 = i32::from(head[39]) & record::BORN_HOST_V6 != 0;
    let at = if v6 { 68 } else { 56 };
    let mut raw = [0; 8];
    raw.copy_from_slice(&head[at..at + 8]);
    i64::from_be_bytes(raw)
}

/// Moves the picked records of a span, which begins at `start` in the log and at `before` in
/// `out`, together. Returns how many of them are what their entries say and undamaged: what comes
/// from a file may have changed there since it was written.
fn compact(
    queue: &Queue,
    out: &mut Vec<u8>,
    before: usize,
    start: i64,
    (picks, offsets): (&[(i64, usize)], &[i64]),
) -> usize {
    let mut good = 0;
    let mut free = before;
    for (&(at, len), &offset) in picks.iter().zip(offsets) {
        let from = before + (at - start) as usize;
        if is_good(queue, offset, at, &out[from..from + len]) {
            out.copy_within(from..from + len, free);
            free += len;
            good += 1;
        }
    }
    out.truncate(free);
    good
}

/// Whether these bytes are an undamaged record that stands where it says, with this offset in the
/// queue.
fn is_good(queue: &Queue, offset: i64, at: i64, bytes: &[u8]) -> bool {
    let Ok(Scanned::Record(record)) = record::scan(bytes) else { return false };
    let own = if queue.topic().starts_with(LIGHT_PREFIX) {
        light_offset(&record, queue.topic(), offset)
    } else {
        let first = if queue.is_batch() { first_offset(&record) } else { None };
        (record.topic(), record.queue_id()) == (queue.topic(), queue.id())
            && first.unwrap_or(record.queue_offset()) == offset
    };
    let good = record.total_len() == bytes.len()
        && record.physical_offset() == at
        && own
        && record.check_crc().is_ok();
    if !good {
        tracing::error!(at, topic = queue.topic(), queue = queue.id(), "damaged record left out");
    }
    good
}
