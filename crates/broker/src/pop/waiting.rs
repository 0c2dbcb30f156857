//! Pops that wait for a message: by group and queue, on the topic that they wait for. A message
//! wakes one of them for each group; it is asked again before the next one is.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::take::Pop;
use crate::waits::Parked;

/// A pop that waits.
pub type ParkedPop = Parked<Pop>;

type Lists = BTreeMap<i32, VecDeque<Arc<ParkedPop>>>;

/// All pops that wait on one topic. It lives as long as a queue of the topic does.
#[derive(Default)]
pub struct PopWaiters {
    groups: Mutex<HashMap<Arc<str>, Lists>>,
    count: AtomicUsize,
}

impl PopWaiters {
    /// Whether anybody may wait; cheap, for the way of a send.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Pops of a group that wait on a queue; -1: on any.
    pub fn len(&self, group: &str, queue_id: i32) -> usize {
        let groups = self.groups.lock();
        let list = groups.get(group).and_then(|lists| lists.get(&queue_id));
        list.map_or(0, |list| list.iter().filter(|parked| !parked.is_done()).count())
    }

    /// Groups with waiting pops.
    pub fn groups(&self) -> Vec<Arc<str>> {
        self.groups.lock().keys().cloned().collect()
    }

    /// Queues that pops of a group wait on.
    pub fn queues(&self, group: &str) -> Vec<i32> {
        self.groups.lock().get(group).map_or_else(Vec::new, |l| l.keys().copied().collect())
    }

    /// Adds a pop at the end.
    pub fn park(&self, parked: Arc<ParkedPop>) {
        let mut groups = self.groups.lock();
        let lists = groups.entry(Arc::clone(&parked.work.group)).or_default();
        let list = lists.entry(parked.work.queue_id).or_default();
        if list.len() >= 8 && list.len().is_power_of_two() {
            let before = list.len();
            list.retain(|known| !known.is_done());
            self.count.fetch_sub(before - list.len(), Ordering::AcqRel);
        }
        list.push_back(parked);
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes the pop that waits longest into the caller's hand: it is claimed, and counted until
    /// [`PopWaiters::answered`] or [`PopWaiters::give_back`].
    pub fn claim(&self, group: &str, queue_id: i32) -> Option<Arc<ParkedPop>> {
        let mut groups = self.groups.lock();
        let lists = groups.get_mut(group)?;
        let list = lists.get_mut(&queue_id)?;
        while let Some(parked) = list.pop_front() {
            if parked.claim() {
                return Some(parked);
            }
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        lists.remove(&queue_id);
        if lists.is_empty() {
            groups.remove(group);
        }
        None
    }

    /// The claimed pop has its answer.
    pub fn answered(&self, parked: &ParkedPop) {
        parked.finish();
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// The claimed pop waits on, first in its list.
    pub fn give_back(&self, parked: Arc<ParkedPop>) {
        parked.release();
        let mut groups = self.groups.lock();
        let lists = groups.entry(Arc::clone(&parked.work.group)).or_default();
        lists.entry(parked.work.queue_id).or_default().push_front(parked);
    }
}
