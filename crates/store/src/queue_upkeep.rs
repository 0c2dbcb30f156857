//! What queues do when the log ends or begins elsewhere: stale entries, minimum, old files.
//!
//! Owns nothing; locks one queue's state for moments and the open files. Called by recovery and
//! by retention, which run one at a time.

use std::io;

use crate::api::{Entry, Wait};
use crate::batch_queue::BatchEntry;
use crate::queue::Queue;
use crate::queue_files::{has_data, ignore_absent};
use crate::queues::{BLOCK, Queues};

impl Queues {
    /// Makes everything in the files of a queue behind its entries there read as zeros, durably;
    /// for recovery, which has found those bytes to be of no record or of one that is in memory.
    pub(crate) fn clear_stale(&self, queue: &Queue) -> io::Result<()> {
        let (flushed, first) = {
            let state = queue.state.lock();
            (state.flushed_slot(), state.first_file)
        };
        let Some(first) = first else { return Ok(()) };
        let layout = self.layout(queue);
        let begin = layout.file_of(flushed);
        let mut starts = vec![begin];
        while self.file(queue, begin + starts.len() as i64 * layout.file_size)?.is_some() {
            starts.push(begin + starts.len() as i64 * layout.file_size);
        }
        // The last one first: what a kill leaves of them must begin where the queue does.
        for start in starts.into_iter().rev() {
            let from = if start == begin { flushed * layout.unit - start } else { 0 };
            let Some(file) = self.file(queue, start)? else { continue };
            if from == 0 && (start > first || start == 0) {
                // A whole file: Java fails on a last file without entries. Only the first one may
                // be needed, because its name keeps the numbering.
                if start == first {
                    queue.state.lock().first_file = None;
                }
                self.handles.lock().forget(|key| *key == (queue.uid, start));
                self.disk.remove_file(&layout.path(queue, start))?;
                // Before new records end above its stale entries: those would pass for certain.
                self.disk.sync_dir(&layout.queue_dir(queue))?;
            } else if has_data(&file, from, layout.file_size)? {
                file.zero(from as u64, layout.file_size as u64)?;
            }
        }
        Ok(())
    }

    /// Raises a queue's minimum to the first entry whose record is at or above `log_min`, and
    /// deletes the leading files that are then below it (never the last one).
    pub(crate) fn raise_min(&self, queue: &Queue, log_min: i64) -> io::Result<()> {
        let next = queue.next_offset();
        let (slot, min) = if queue.is_batch() {
            let before = |batch: &BatchEntry| batch.entry.physical_offset < log_min;
            let found = self.search(queue, Wait::MayBlock, before)?;
            let Some((slot, found)) = found else { return Ok(()) };
            (slot, found.map(|batch| batch.base))
        } else {
            let min = self.first_live(queue, log_min)?;
            (min.unwrap_or(next), min)
        };
        self.forget_below(queue, slot, min.unwrap_or(next))
    }

    /// Raises a queue's minimum to an offset, with all that comes with it. In a batch queue to the
    /// batch that holds the offset.
    pub(crate) fn raise_min_to(&self, queue: &Queue, offset: i64) -> io::Result<()> {
        if !queue.is_batch() {
            return self.forget_below(queue, offset, offset);
        }
        let before = |batch: &BatchEntry| batch.end() <= offset;
        let Some((slot, found)) = self.search(queue, Wait::MayBlock, before)? else {
            return Ok(());
        };
        self.forget_below(queue, slot, found.map_or(queue.next_offset(), |batch| batch.base))
    }

    /// Makes `min`, which stands in `slot`, the minimum, and deletes the leading files below it.
    fn forget_below(&self, queue: &Queue, slot: i64, min: i64) -> io::Result<()> {
        let mut state = queue.state.lock();
        state.min = state.min.max(min).min(state.next);
        let layout = self.layout(queue);
        let last_file = layout.file_of((state.flushed_slot() - 1).max(0));
        let mut gone = Vec::new();
        while let Some(first) = state.first_file
            && first < last_file
            && first + layout.file_size <= slot * layout.unit
        {
            gone.push(first);
            state.first_file = Some(first + layout.file_size);
        }
        drop(state);
        for start in gone {
            self.handles.lock().forget(|key| *key == (queue.uid, start));
            ignore_absent(self.disk.remove_file(&layout.path(queue, start)))?;
        }
        Ok(())
    }

    /// The first offset of an ordinary queue, at or above its minimum, with a record at or above
    /// `log_min`.
    fn first_live(&self, queue: &Queue, log_min: i64) -> io::Result<Option<i64>> {
        let (mut low, mut high) = {
            let state = queue.state.lock();
            (state.min, state.next)
        };
        let live = |at: i64| {
            let first = self.first_real(queue, at)?;
            Ok::<_, io::Error>(first.filter(|(_, entry)| entry.physical_offset >= log_min))
        };
        if let Some((at, _)) = live(low)? {
            return Ok(Some(at));
        }
        // Blanks answer for the entry behind them, so the order holds.
        while low < high {
            let middle = low + (high - low) / 2;
            if live(middle)?.is_some() {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let Some((mut min, _)) = live(low)? else { return Ok(None) };
        // A damaged entry may have misled the halving: what is in front is looked at as well.
        let (lowest, per_file) = (queue.min_offset(), self.layout(queue).per_file());
        let mut block = [Entry::default(); BLOCK];
        let mut at = min;
        while at > lowest && min - at < BLOCK as i64 {
            // Entries come from one file at a time.
            let file = (at - 1) / per_file * per_file;
            let from = (at - BLOCK as i64).max(lowest).max(file);
            let wanted = (at - from) as usize;
            let found = self.entries(queue, from, &mut block[..wanted], Wait::MayBlock)?;
            let is_live = |e: &Entry| !e.is_blank() && e.physical_offset >= log_min;
            if let Some(first) = block[..found.unwrap_or(0)].iter().position(is_live) {
                min = from + first as i64;
            }
            at = from;
        }
        Ok(Some(min))
    }

    /// The first entry at or after `from` that has a record; reads files.
    fn first_real(&self, queue: &Queue, mut from: i64) -> io::Result<Option<(i64, Entry)>> {
        let mut block = [Entry::default(); BLOCK];
        loop {
            let found = self.entries(queue, from, &mut block, Wait::MayBlock)?.unwrap_or(0);
            if found == 0 {
                return Ok(None);
            }
            if let Some(at) = block[..found].iter().position(|entry| !entry.is_blank()) {
                return Ok(Some((from + at as i64, block[at])));
            }
            from += found as i64;
        }
    }
}
