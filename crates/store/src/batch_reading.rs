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
/// Neighbours on either side by which an entry is judged.
const BESIDE: usize = 2;
/// A fetch looks at this many offsets at least before it gives up (Java: `maxFilterMessageSize`
/// of 16,000 bytes by 46).
const SCAN_OFFSETS: i64 = 347;

impl Queues {
    /// Copies batches from the one that holds queue offset `from` on, or from the first behind a
    /// hole there, as many as are near each other in memory or one file. `None`: not in memory,
    /// and waiting was not allowed.
    pub(crate) fn batches(
        &self,
        queue: &Queue,
        from: i64,
        out: &mut [BatchEntry],
        wait: Wait,
    ) -> io::Result<Option<usize>> {
        match self.search(queue, wait, |batch| batch.end() <= from)? {
            Some((slot, Some(_))) => {
                let sound = self.sound_at(queue, slot, out, wait)?;
                Ok(sound.map(|sound| sound.found))
            }
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
    /// entry; the slot behind the last one without. Damaged entries are passed over. `None`: as
    /// above.
    pub(crate) fn search(
        &self,
        queue: &Queue,
        wait: Wait,
        before: impl Fn(&BatchEntry) -> bool,
    ) -> io::Result<Option<(i64, Option<BatchEntry>)>> {
        let (mut low, mut high, end) = {
            let state = queue.state.lock();
            let Some(batches) = &state.batches else { return Ok(Some((0, None))) };
            let first = state.first_file.map_or(batches.tail_base(), |at| at / UNIT as i64);
            let found = batches.search(&before);
            let (low, high) = found.map_or((first, batches.tail_base()), |slot| (slot, slot));
            (low, high, batches.next)
        };
        let mut best = None;
        while low < high {
            let middle = low + (high - low) / 2;
            match self.first_sound(queue, middle, high, wait)? {
                None => return Ok(None),
                Some(Some((slot, batch))) if before(&batch) => low = slot + 1,
                Some(found) => {
                    best = found.or(best);
                    high = middle;
                }
            }
        }
        if best.is_none() {
            let Some(found) = self.first_sound(queue, high, end, wait)? else { return Ok(None) };
            best = found;
        }
        Ok(Some(best.map_or((end, None), |(slot, batch)| (slot, Some(batch)))))
    }

    /// The first entry at or behind a slot, and in front of `end`, that is no damage.
    fn first_sound(
        &self,
        queue: &Queue,
        mut slot: i64,
        end: i64,
        wait: Wait,
    ) -> io::Result<Option<Option<(i64, BatchEntry)>>> {
        let mut one = [BatchEntry::default()];
        while slot < end {
            let Some(sound) = self.sound_at(queue, slot, &mut one, wait)? else { return Ok(None) };
            if sound.found == 1 {
                return Ok(Some((sound.first < end).then_some((sound.first, one[0]))));
            }
            slot = sound.next;
        }
        Ok(Some(None))
    }

    /// Copies the entries from a slot on that are no damage: those that stand between their
    /// neighbours in the log and in the queue.
    fn sound_at(
        &self,
        queue: &Queue,
        slot: i64,
        out: &mut [BatchEntry],
        wait: Wait,
    ) -> io::Result<Option<Sound>> {
        let base = {
            let state = queue.state.lock();
            let Some(batches) = &state.batches else { return Ok(Some(Sound::none(slot + 1))) };
            if let Some(found) = batches.copy(slot, out) {
                return Ok(Some(Sound { found, first: slot, next: slot + found.max(1) as i64 }));
            }
            batches.tail_base()
        };
        let per_file = self.layout(queue).per_file();
        let next_file = slot - slot % per_file + per_file;
        let wanted = (out.len().min(BLOCK) as i64).min(base.min(next_file) - slot) as usize;
        // With two neighbours on either side.
        let mut near = [None; BLOCK + 2 * BESIDE];
        let first = slot - BESIDE as i64;
        let Some(files) = self.decode(queue, first, &mut near[..wanted + 2 * BESIDE], wait)? else {
            return Ok(None);
        };
        if !files {
            return Ok(Some(Sound::none(next_file)));
        }
        let mut sound = Sound::none(slot + wanted as i64);
        for number in 0..wanted {
            let window = &near[number..=number + 2 * BESIDE];
            if let Some(batch) = near[number + BESIDE]
                && batch.fits(window)
            {
                if sound.found == 0 {
                    sound.first = slot + number as i64;
                }
                out[sound.found] = batch;
                sound.found += 1;
            }
        }
        Ok(Some(sound))
    }

    /// What stands in the slots from `first` on, over the borders of files and up to memory.
    /// `Ok(Some(false))`: there is nothing at all.
    fn decode(
        &self,
        queue: &Queue,
        first: i64,
        out: &mut [Option<BatchEntry>],
        wait: Wait,
    ) -> io::Result<Option<bool>> {
        let mut raw = [0; (BLOCK + 2 * BESIDE) * UNIT];
        let mut at = (-first).max(0) as usize;
        let mut any = false;
        while at < out.len() {
            let slot = first + at as i64;
            let mut one = [BatchEntry::default()];
            let (hot, base) = {
                let state = queue.state.lock();
                let hot = state.batches.as_ref().and_then(|b| b.copy(slot, &mut one));
                (hot, state.tail_base())
            };
            if let Some(found) = hot {
                out[at] = (found == 1).then_some(one[0]);
                at += 1;
                continue;
            }
            // What is not in a file yet reads as nothing there.
            let in_files = usize::try_from(base - slot).unwrap_or(0);
            let left = (out.len() - at).min(in_files).max(1) * UNIT;
            let Some(read) = self.slots(queue, slot, &mut raw[..left], wait)? else {
                return Ok(None);
            };
            let units = raw.as_chunks::<UNIT>().0.iter().take(read);
            for (place, raw) in out[at..].iter_mut().zip(units) {
                *place = BatchEntry::decode(raw);
            }
            any |= read > 0;
            at += read.max(1);
        }
        Ok(Some(any))
    }
}

/// What [`Queues::sound_at`] found.
struct Sound {
    /// Entries copied.
    found: usize,
    /// Slot of the first of them.
    first: i64,
    /// Slot to look at next.
    next: i64,
}

impl Sound {
    fn none(next: i64) -> Sound {
        Sound { found: 0, first: next, next }
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
                    removed = true;
                    break;
                }
            };
            if found == 0 {
                // Damage up to the end.
                (removed, at) = (true, max);
                break;
            }
            let before_block = at;
            for batch in &block[..found] {
                let (len, count) = (batch.entry.size as usize, batch.count as usize);
                let full =
                    messages + count > max_messages || out.len() - before + len > limit.max_bytes;
                if batch.end() <= at {
                    continue; // damage: an entry of another place
                }
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
                    let start = out.len();
                    let one = (&[(batch.entry.physical_offset, len)][..], &[batch.base][..]);
                    let good = self.read_picks(queue, one, wait, out)?;
                    removed |= good == 0;
                    // The record knows better than the entry how many it holds.
                    let stored = BatchEntry::of_bytes(&out[start..], batch.entry);
                    if let Some(stored) = stored.filter(|_| good == 1) {
                        if stored.end() <= at {
                            out.truncate(start);
                            continue;
                        }
                        messages += stored.count as usize;
                        at = stored.end();
                        continue;
                    }
                }
                at = batch.end();
            }
            if at == before_block {
                // Entries and records do not agree on how many messages there are: on behind them.
                at = block[found - 1].end().min(max).max(at + 1);
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
