//! The messages of one queue that a group has popped and not yet settled: who may settle them and
//! when they come again. Plain state; knows no store, no clock, no lock.
//!
//! What one pop took from the queue is a batch with one due time, 48 bytes or so for up to 32
//! messages. A message whose time was changed leaves its batch and stands alone. An offset is in
//! flight at most once, so it names the message; the time of the pop in its receipt says whether
//! the receipt is still good.

use std::collections::BTreeMap;

/// Messages of one pop from one queue at most.
pub const MAX_BATCH: usize = 32;

/// When messages were handed out, and when they come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Time of the pop or change, which the receipt carries; epoch milliseconds.
    pub pop_ms: i64,
    /// When they become visible again.
    pub due_ms: i64,
}

/// What one pop took, but for what is settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Times of all of it.
    pub times: Times,
    /// Bit n: the n-th message is in flight.
    pub left: u32,
    /// Distances of the messages from the first one, when they are no plain run.
    pub gaps: Option<Box<[u32]>>,
}

impl Batch {
    /// The bit of a message.
    fn bit(&self, first: i64, offset: i64) -> Option<u32> {
        let distance = u32::try_from(offset - first).ok()?;
        let index = match &self.gaps {
            None => (distance < MAX_BATCH as u32).then_some(distance)?,
            Some(gaps) => gaps.binary_search(&distance).ok()? as u32,
        };
        Some(1 << index).filter(|bit| self.left & bit != 0)
    }

    /// Offsets in flight.
    fn offsets(&self, first: i64) -> impl Iterator<Item = i64> + '_ {
        let set = (0..MAX_BATCH).filter(|index| self.left & (1 << index) != 0);
        set.map(move |index| match &self.gaps {
            None => first + index as i64,
            Some(gaps) => first + i64::from(gaps[index]),
        })
    }
}

/// A message whose time was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Single {
    /// Its own times.
    pub times: Times,
    /// Handed back unread: its redelivery counts no attempt.
    pub suspended: bool,
}

/// A message that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Its queue offset.
    pub offset: i64,
    /// Time of the pop that it comes back from.
    pub pop_ms: i64,
    /// Whether that counts no attempt.
    pub suspended: bool,
}

/// Everything in flight of one queue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InFlight {
    /// By offset of the first message, also when that one is settled.
    pub batches: BTreeMap<i64, Batch>,
    /// By offset.
    pub singles: BTreeMap<i64, Single>,
    count: usize,
}

impl InFlight {
    /// Notes what was popped: 1 to [`MAX_BATCH`] ascending offsets.
    pub fn popped(&mut self, offsets: &[i64], times: Times) {
        let Some(first) = offsets.first().copied() else { return };
        let left = ((1_u64 << offsets.len().min(MAX_BATCH)) - 1) as u32;
        let plain = offsets.iter().zip(first..).all(|(offset, plain)| *offset == plain);
        let gaps = || offsets.iter().map(|offset| (offset - first) as u32).collect();
        self.put_batch(first, Batch { times, left, gaps: (!plain).then(gaps) });
    }

    /// Puts a batch as it is; for replay too.
    pub fn put_batch(&mut self, first: i64, batch: Batch) {
        self.count += batch.left.count_ones() as usize;
        if let Some(old) = self.batches.insert(first, batch) {
            self.count -= old.left.count_ones() as usize;
        }
    }

    /// Puts a message that stands alone; for replay too.
    pub fn put_single(&mut self, offset: i64, single: Single) {
        self.count += usize::from(self.singles.insert(offset, single).is_none());
    }

    /// Messages in flight.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The smallest offset in flight.
    pub fn first(&self) -> Option<i64> {
        let batch = self.batches.first_key_value();
        let batch = batch.and_then(|(first, batch)| batch.offsets(*first).next());
        let single = self.singles.keys().next().copied();
        batch.into_iter().chain(single).min()
    }

    /// Behind the largest offset that may be in flight; 0 when nothing is.
    pub fn end(&self) -> i64 {
        let single = self.singles.keys().next_back().map_or(0, |offset| offset + 1);
        let batch = self.batches.iter().next_back();
        let batch = batch.and_then(|(first, batch)| batch.offsets(*first).last());
        single.max(batch.map_or(0, |offset| offset + 1))
    }

    fn batch_of(&self, offset: i64) -> Option<(i64, &Batch)> {
        let (first, batch) = self.batches.range(..=offset).next_back()?;
        batch.bit(*first, offset).map(|_| (*first, batch))
    }

    /// The time of the pop that a message in flight belongs to.
    pub fn pop_ms_of(&self, offset: i64) -> Option<i64> {
        match self.singles.get(&offset) {
            Some(single) => Some(single.times.pop_ms),
            None => self.batch_of(offset).map(|(_, batch)| batch.times.pop_ms),
        }
    }

    /// Settles a message, whatever its receipt. False when it is not in flight.
    pub fn remove(&mut self, offset: i64) -> bool {
        if self.singles.remove(&offset).is_some() {
            self.count -= 1;
            return true;
        }
        let Some((first, batch)) = self.batches.range_mut(..=offset).next_back() else {
            return false;
        };
        let first = *first;
        let Some(bit) = batch.bit(first, offset) else { return false };
        batch.left &= !bit;
        if batch.left == 0 {
            self.batches.remove(&first);
        }
        self.count -= 1;
        true
    }

    /// Gives a message that is in flight a new time and receipt. False when it is not in flight.
    pub fn change(&mut self, offset: i64, single: Single) -> bool {
        let found = self.remove(offset);
        if found {
            self.put_single(offset, single);
        }
        found
    }

    /// Forgets everything from an offset on: it will be popped anew.
    pub fn truncate(&mut self, from: i64) {
        let dropped = self.singles.split_off(&from).len();
        self.count -= dropped;
        for (_, batch) in self.batches.split_off(&from) {
            self.count -= batch.left.count_ones() as usize;
        }
        let Some((first, batch)) = self.batches.last_key_value() else { return };
        let beyond: Vec<i64> = batch.offsets(*first).filter(|offset| *offset >= from).collect();
        for offset in beyond {
            self.remove(offset);
        }
    }

    /// What has become due of the batch that begins at `key`, or of the message that stands alone
    /// there.
    pub fn due_at(&self, key: i64, now_ms: i64) -> Vec<Due> {
        let mut due = Vec::new();
        if let Some(single) = self.singles.get(&key).filter(|s| s.times.due_ms <= now_ms) {
            let (pop_ms, suspended) = (single.times.pop_ms, single.suspended);
            due.push(Due { offset: key, pop_ms, suspended });
        }
        if let Some(batch) = self.batches.get(&key).filter(|b| b.times.due_ms <= now_ms) {
            let pop_ms = batch.times.pop_ms;
            due.extend(batch.offsets(key).map(|offset| Due { offset, pop_ms, suspended: false }));
        }
        due
    }

    /// Each key of [`InFlight::due_at`] with its time.
    pub fn due_times(&self) -> impl Iterator<Item = (i64, i64)> + '_ {
        let batches = self.batches.iter().map(|(key, batch)| (*key, batch.times.due_ms));
        batches.chain(self.singles.iter().map(|(key, single)| (*key, single.times.due_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The plain model: every message in flight with its times.
    type Model = BTreeMap<i64, (Times, bool)>;

    fn random(seed: &mut u64) -> u64 {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_041);
        *seed >> 33
    }

    fn check(flight: &InFlight, model: &Model) {
        assert_eq!(flight.len(), model.len());
        assert_eq!(flight.is_empty(), model.is_empty());
        assert_eq!(flight.first(), model.keys().next().copied());
        assert_eq!(flight.end(), model.keys().next_back().map_or(0, |offset| offset + 1));
    }

    fn due_of(flight: &InFlight, now_ms: i64) -> Vec<i64> {
        let keys: std::collections::BTreeSet<i64> =
            flight.due_times().map(|(key, _)| key).collect();
        let mut due: Vec<i64> =
            keys.iter().flat_map(|key| flight.due_at(*key, now_ms)).map(|due| due.offset).collect();
        due.sort_unstable();
        due
    }

    #[test]
    fn it_is_a_map_of_messages() {
        let (mut flight, mut model, mut seed) = (InFlight::default(), Model::new(), 7);
        let (mut next, mut now) = (0_i64, 1000_i64);
        for step in 0..100_000 {
            now += (random(&mut seed) % 3) as i64;
            let some = model.keys().copied().nth(random(&mut seed) as usize % (model.len() + 1));
            let target = some.unwrap_or(random(&mut seed) as i64 % (next + 1));
            match random(&mut seed) % 16 {
                0..4 => {
                    let times = Times { pop_ms: now, due_ms: now + random(&mut seed) as i64 % 500 };
                    let mut offsets = Vec::new();
                    for _ in 0..=random(&mut seed) % 3 {
                        next += i64::from(random(&mut seed).is_multiple_of(4));
                        offsets.push(next);
                        next += 1;
                    }
                    flight.popped(&offsets, times);
                    model.extend(offsets.iter().map(|offset| (*offset, (times, false))));
                }
                4..12 => assert_eq!(flight.remove(target), model.remove(&target).is_some()),
                12..15 => {
                    let times = Times { pop_ms: now, due_ms: now + 300 };
                    let single = Single { times, suspended: step % 2 == 0 };
                    let known = model.get_mut(&target).map(|m| *m = (times, step % 2 == 0));
                    assert_eq!(flight.change(target, single), known.is_some());
                }
                _ if step % 64 == 0 => {
                    flight.truncate(target);
                    model.split_off(&target);
                    next = next.min(target);
                }
                _ => {}
            }
            check(&flight, &model);
            assert_eq!(flight.pop_ms_of(target), model.get(&target).map(|(times, _)| times.pop_ms));
            if step % 100 == 0 {
                let due = model.iter().filter(|(_, (times, _))| times.due_ms <= now);
                assert_eq!(due_of(&flight, now), due.map(|(o, _)| *o).collect::<Vec<_>>());
            }
        }
    }
}
