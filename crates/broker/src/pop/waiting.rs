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

type ByGroup = HashMap<Arc<str>, VecDeque<Arc<ParkedPop>>>;

/// All pops that wait on one topic. It lives as long as a queue of the topic does.
#[derive(Default)]
pub struct PopWaiters {
    /// By queue, -1 for any; so that a message costs nothing for who waits on other queues.
    queues: Mutex<BTreeMap<i32, ByGroup>>,
    count: AtomicUsize,
}

/// Some pops of one group: those that wait on a queue, or with -1 on any.
pub type List = (i32, Arc<str>);

impl PopWaiters {
    /// Whether anybody may wait; cheap, for the way of a send.
    pub fn any(&self) -> bool {
        self.count.load(Ordering::Acquire) > 0
    }

    /// Pops of a group that wait on a queue; -1: on any.
    pub fn len(&self, group: &str, queue_id: i32) -> usize {
        let queues = self.queues.lock();
        let list = queues.get(&queue_id).and_then(|groups| groups.get(group));
        list.map_or(0, |list| list.iter().filter(|parked| !parked.is_done()).count())
    }

    /// Who a message in a queue concerns.
    pub fn on(&self, queue_id: i32) -> Vec<List> {
        let queues = self.queues.lock();
        let lists = |id: i32| {
            let groups = queues.get(&id).into_iter().flat_map(HashMap::keys);
            groups.map(move |group| (id, Arc::clone(group)))
        };
        lists(-1).chain(lists(queue_id)).collect()
    }

    /// Everybody of a group.
    pub fn of(&self, group: &Arc<str>) -> Vec<List> {
        let queues = self.queues.lock();
        let with = queues.iter().filter(|(_, groups)| groups.contains_key(group));
        with.map(|(id, _)| (*id, Arc::clone(group))).collect()
    }

    /// Adds a pop at the end.
    pub fn park(&self, parked: Arc<ParkedPop>) {
        let mut queues = self.queues.lock();
        let groups = queues.entry(parked.work.queue_id).or_default();
        let list = groups.entry(Arc::clone(&parked.work.group)).or_default();
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
    pub fn claim(&self, (queue_id, group): &List) -> Option<Arc<ParkedPop>> {
        let mut queues = self.queues.lock();
        let groups = queues.get_mut(queue_id)?;
        let list = groups.get_mut(group)?;
        while let Some(parked) = list.pop_front() {
            if parked.claim() {
                return Some(parked);
            }
            self.count.fetch_sub(1, Ordering::AcqRel);
        }
        groups.remove(group);
        if groups.is_empty() {
            queues.remove(queue_id);
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
        let mut queues = self.queues.lock();
        let groups = queues.entry(parked.work.queue_id).or_default();
        groups.entry(Arc::clone(&parked.work.group)).or_default().push_front(parked);
    }
}
