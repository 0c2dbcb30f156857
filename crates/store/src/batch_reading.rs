//! Finding and reading what batch queues hold: by queue offset, by time.
//!
//! Owns nothing; takes one queue's lock for moments. Entries that left memory are found by halving
//! over the slots in files, 46 bytes a look. Java: `BatchConsumeQueue.getBatchMsgIndexBuffer`,
//! `getOffsetInQueueByTime`.

use std::io;

use crate::api::{Edge, Entry, ReadLimit, Wait};
use crate::batch_queue::{BatchEntry, UNIT};
use crate::queue::Queue;
use crate::queues::Queues;
use crate::reading::Cold;
use crate::store::Store;

/// Entries read from a file at once.
const BLOCK: usize = 32;
/// A fetch looks at this many offsets at least before it gives up (Java: `maxFilterMessageSize`
/// of 16,000 bytes by 46).
const SCAN_OFFSETS: i64 = 347;

impl Queues {
    /// Copies batches from the one that holds queue offset `from` on, or from the first behind a
    /// hole there, as many as are next to each other in memory or one file. `None`: not in
    /// memory, and waiting was not allowed.
    pub(crate) fn batches(
        &self,
        queue: &Queue,
        from: i64,
        out: &mut [BatchEntry],
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        match self.search(queue, wait, |batch| batch.end() <= from)? {
            Some((slot, Some(_))) => self.batches_at(queue, slot, out, wait),
            Some((_, None)) => Ok(Some(0)),
            None => Ok(None),
        }
    }

    /// Some batches from the one that holds queue offset `from` on; may read a file. None at the
    /// end and after a read error.
    pub(crate) fn some_batches(&self, queue: &Queue, from: i64) -> Vec<BatchEntry> {
        let mut block = [BatchEntry::default(); BLOCK];
        let found = self.batches(queue, from, &mut block, Wait::MayBlock).ok().flatten();
        block[..found.unwrap_or(0)].to_vec()
    }

    /// The first slot whose entry is not `before` something that grows along the queue, with its
    /// entry; the slot behind the last one without. `None`: as above.
    pub(crate) fn search(
        &self,
        queue: &Queue,
        wait: Wait,
        before: impl Fn(&BatchEntry) -> bool,
    ) -> io::Result<Option<(i64, Option<BatchEntry>)>> {
        let (mut low, mut high) = {
            let state = queue.state.lock();
            let Some(batches) = &state.batches else { return Ok(Some((0, None))) };
            let first = state.first_file.map_or(batches.tail_base(), |at| at / UNIT as i64);
            let found = batches.search(&before);
            found.map_or((first, batches.tail_base()), |slot| (slot, slot))
        };
        let mut one = [BatchEntry::default()];
        while low < high {
            let middle = low + (high - low) / 2;
            match self.batches_at(queue, middle, &mut one, wait)? {
                None => return Ok(None),
                Some(1) if !before(&one[0]) => high = middle,
                // Without a file, which retention has just taken, it is before everything.
                Some(_) => low = middle + 1,
            }
        }
        let found = self.batches_at(queue, low, &mut one, wait)?;
        Ok(found.map(|found| (low, (found == 1).then_some(one[0]))))
    }

    /// Copies the entries from a slot on; otherwise as [`Queues::batches`].
    fn batches_at(
        &self,
        queue: &Queue,
        slot: i64,
        out: &mut [BatchEntry],
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        let base = {
            let state = queue.state.lock();
            let Some(batches) = &state.batches else { return Ok(Some(0)) };
            if let Some(found) = batches.copy(slot, out) {
                return Ok(Some(found));
            }
            batches.tail_base()
        };
        let wanted = (out.len().min(BLOCK) as i64).min(base - slot) as usize;
        let mut raw = [0; BLOCK * UNIT];
        let Some(read) = self.slots(queue, slot, &mut raw[..wanted * UNIT], wait)? else {
            return Ok(None);
        };
        let mut found = 0;
        for (place, raw) in out.iter_mut().zip(&raw.as_chunks::<UNIT>().0[..read]) {
            let Some(batch) = BatchEntry::decode(raw) else { break };
            *place = batch;
            found += 1;
        }
        Ok(Some(found))
    }
}

impl Store {
    /// The loop of a fetch from a batch queue: next offset, messages, and whether some were gone.
    /// Whole records are read, so the first may begin below `from`, and more messages than asked
    /// for come only if the first record alone holds them.
    pub(crate) fn scan_batches(
        &self,
        queue: &Queue,
        (from, max): (i64, i64),
        limit: ReadLimit,
        wait: Wait,
        filter: &mut dyn FnMut(&Entry) -> bool,
        out: &mut Vec<u8>,
    ) -> Result<(i64, usize, bool), Cold> {
        let log_min = self.log().min();
        let max_messages = limit.max_messages.max(1);
        let end = max.min(from + SCAN_OFFSETS.max(max_messages as i64));
        let before = out.len();
        let mut block = [BatchEntry::default(); BLOCK];
        let (mut at, mut messages, mut removed) = (from, 0, false);
        'queue: while at < end {
            let found = match self.queues().batches(queue, at, &mut block, wait) {
                Ok(Some(found)) => found,
                Ok(None) => return Err(Cold),
                Err(error) => {
                    tracing::warn!(topic = queue.topic(), queue = queue.id(), %error, "queue read");
                    0
                }
            };
            if found == 0 {
                removed = true;
                break;
            }
            for batch in &block[..found] {
                let (len, count) = (batch.entry.size as usize, batch.count as usize);
                let full =
                    messages + count > max_messages || out.len() - before + len > limit.max_bytes;
                if batch.base >= max {
                    // Only a hole is in front of what may not be read yet.
                    at = max;
                    break 'queue;
                }
                if at >= end || messages > 0 && full {
                    break 'queue;
                }
                if batch.entry.physical_offset < log_min {
                    removed = true;
                } else if filter(&batch.entry) {
                    let good =
                        self.read_picks(queue, &[(batch.entry.physical_offset, len)], wait, out)?;
                    removed |= good == 0;
                    messages += good * count;
                }
                at = batch.end();
            }
        }
        Ok((at, messages, removed))
    }

    /// The offset of a batch queue that a time stands for; see [`Store::offset_by_time`]. All
    /// messages of a record have one time. Read errors count as the beginning.
    pub(crate) fn batch_by_time(&self, queue: &Queue, timestamp_ms: i64, edge: Edge) -> i64 {
        let bounds = (queue.min_offset(), queue.max_offset(self));
        let before = |batch: &BatchEntry| match edge {
            Edge::Lower => batch.timestamp_ms < timestamp_ms,
            Edge::Upper => batch.timestamp_ms <= timestamp_ms,
        };
        let found = self.queues().search(queue, Wait::MayBlock, before);
        let (_, found) = found.ok().flatten().unwrap_or((0, None));
        let at = found.map_or(bounds.1, |batch| batch.base);
        let at = if edge == Edge::Lower { at } else { at - 1 };
        at.min(bounds.1).max(bounds.0)
    }
}
