//! Values that are loaded because their message did not carry them, and the fences that wait for
//! them: what a fence proves is in the cache only when they are.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use tokio::time::timeout;

use super::hydrator::reload::source_is_slow;
use super::leases::{Lease, Leases};
use super::{Loaded, Source, SourceError};
use crate::Key;
use crate::transport::Fence;

/// How many loads are under way at once.
const LOADS: usize = 16;

/// How many keys may wait: where more have changed, reading everything is cheaper.
const MOST_WAITING: usize = 10_000;

/// How often a load is begun again that an update of its key overtook. What the update brought may be
/// older than what is to be loaded, or no value at all; a key that changes faster than it can be loaded is
/// read with all others.
const MOST_TRIES: u32 = 8;

/// Loads values by their keys, and holds back fences meanwhile.
pub(super) struct Refills<T> {
    source: Option<Arc<dyn Source<T>>>,
    leases: Arc<Leases>,
    limit: Duration,
    loading: FuturesUnordered<BoxFuture<'static, Load<T>>>,
    queue: Queue,
}

/// A load whose answer is there.
struct Load<T> {
    /// Of the key among those that were asked for.
    number: u64,
    tries: u32,
    lease: Lease,
    outcome: Outcome<T>,
}

type Outcome<T> = Result<Option<Loaded<T>>, SourceError>;

/// A load that is over.
pub(super) struct Refill<T> {
    pub(super) lease: Lease,
    pub(super) outcome: Outcome<T>,
    /// The latest fence that waited for it, and for nothing else, to be told once it is applied.
    pub(super) passed: Option<Fence>,
}

impl<T: Send + Sync + 'static> Refills<T> {
    pub(super) fn new(
        source: Option<Arc<dyn Source<T>>>,
        leases: Arc<Leases>,
        limit: Duration,
    ) -> Self {
        let (loading, queue) = (FuturesUnordered::new(), Queue::default());
        Self { source, leases, limit, loading, queue }
    }

    /// Whether nothing is being loaded or waits to be.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_idle()
    }

    /// Asks for a load of `key`. `false`: too many wait already.
    pub(super) fn ask(&mut self, key: &Key) -> bool {
        let is_taken = self.queue.ask(key);
        self.start();
        is_taken
    }

    /// The fence, if nothing is being loaded; else it comes with the last load that it waits for.
    pub(super) fn hold(&mut self, fence: Fence) -> Option<Fence> {
        self.queue.hold(fence)
    }

    /// What was asked for so far.
    pub(super) fn mark(&self) -> Mark {
        Mark(self.queue.next)
    }

    /// Whether nothing is left of what was asked for before the mark.
    pub(super) fn has_passed(&self, mark: Mark) -> bool {
        self.queue.oldest() >= mark.0
    }

    /// Waits for the next load that is over; `None` at once if there is none. A dropped future loses
    /// nothing.
    pub(super) async fn next(&mut self) -> Option<Refill<T>> {
        loop {
            let Load { number, tries, lease, outcome } = self.loading.next().await?;
            if !lease.is_intact() && tries < MOST_TRIES {
                // Under the same number: fences that wait for it still do.
                self.load(number, lease.key().clone(), tries + 1);
                continue;
            }
            let passed = self.queue.done(number);
            self.start();
            return Some(Refill { lease, outcome, passed });
        }
    }

    fn start(&mut self) {
        while self.source.is_some()
            && self.loading.len() < LOADS
            && let Some((number, key)) = self.queue.start()
        {
            self.load(number, key, 1);
        }
    }

    fn load(&mut self, number: u64, key: Key, tries: u32) {
        let Some(source) = self.source.clone() else { return };
        // Before the load begins, so that what arrives from now on breaks it.
        let lease = self.leases.take(key.clone());
        let limit = self.limit;
        self.loading.push(Box::pin(async move {
            let loaded = timeout(limit, source.load(key)).await;
            let outcome = loaded.unwrap_or_else(|_| Err(source_is_slow(limit).into()));
            Load { number, tries, lease, outcome }
        }));
    }
}

/// A moment in the order in which loads were asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark(u64);

/// The order of keys and fences. Each key that is asked for has a number, in order.
#[derive(Default)]
struct Queue {
    next: u64,
    waiting: VecDeque<(u64, Key)>,
    waiting_keys: HashSet<Key, foldhash::fast::RandomState>,
    under_way: BTreeSet<u64>,
    /// Fences, each with the number that all loads below must be done for.
    held: VecDeque<(u64, Fence)>,
}

impl Queue {
    fn ask(&mut self, key: &Key) -> bool {
        if self.waiting_keys.contains(key) {
            return true;
        }
        if self.waiting.len() >= MOST_WAITING {
            return false;
        }
        self.waiting.push_back((self.next, key.clone()));
        self.waiting_keys.insert(key.clone());
        self.next += 1;
        true
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_empty() && self.waiting.is_empty()
    }

    fn start(&mut self) -> Option<(u64, Key)> {
        let (number, key) = self.waiting.pop_front()?;
        self.waiting_keys.remove(&key);
        self.under_way.insert(number);
        Some((number, key))
    }

    fn hold(&mut self, fence: Fence) -> Option<Fence> {
        if self.is_idle() {
            return Some(fence);
        }
        // Two fences with nothing to load between them pass together.
        if let Some((number, last)) = self.held.back_mut()
            && *number == self.next
        {
            *last = fence;
        } else {
            self.held.push_back((self.next, fence));
        }
        None
    }

    /// The number of the oldest load that is not over; the next one's, if all are.
    fn oldest(&self) -> u64 {
        let waiting = self.waiting.front().map(|(number, _)| *number);
        let oldest = self.under_way.first().copied().into_iter().chain(waiting).min();
        oldest.unwrap_or(self.next)
    }

    /// The load with this number is over. Returns the latest fence that waits for nothing more.
    fn done(&mut self, number: u64) -> Option<Fence> {
        self.under_way.remove(&number);
        let oldest = self.oldest();
        let mut passed = None;
        while self.held.front().is_some_and(|(number, _)| *number <= oldest) {
            passed = self.held.pop_front().map(|(_, fence)| fence);
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    fn key(number: u64) -> Key {
        Key::new(format!("k{number}")).expect("legal")
    }

    fn fence(number: u64) -> Fence {
        Fence::new(number, Instant::now())
    }

    fn is(passed: Option<Fence>, number: u64) -> bool {
        // Of two fences with one time, the number decides.
        passed.is_some_and(|passed| format!("{passed:?}").contains(&format!("number: {number}")))
    }

    #[test]
    fn a_fence_waits_for_the_loads_that_were_asked_for_before_it_and_for_no_others() {
        let mut queue = Queue::default();
        assert!(is(queue.hold(fence(1)), 1), "nothing is loaded");
        assert!(queue.ask(&key(1)) && queue.ask(&key(2)));
        assert_eq!(queue.hold(fence(2)), None);
        assert_eq!(queue.hold(fence(3)), None);
        assert!(queue.ask(&key(3)));
        assert_eq!(queue.hold(fence(4)), None);
        let numbers: Vec<u64> =
            std::iter::from_fn(|| queue.start().map(|(number, _)| number)).collect();
        assert_eq!(queue.done(numbers[1]), None);
        assert!(is(queue.done(numbers[0]), 3));
        assert!(is(queue.done(numbers[2]), 4));
        assert!(is(queue.hold(fence(5)), 5));
    }

    #[test]
    fn a_key_that_waits_is_not_asked_for_twice_and_one_that_is_loaded_is() {
        let mut queue = Queue::default();
        assert!(queue.ask(&key(1)) && queue.ask(&key(1)));
        assert!(queue.start().is_some() && queue.start().is_none());
        assert!(queue.ask(&key(1)), "the load may have begun before the change");
        assert!(queue.start().is_some());
    }

    #[test]
    fn no_more_keys_wait_than_reading_everything_is_worth() {
        let mut queue = Queue::default();
        let taken = (0..20_000).filter(|number| queue.ask(&key(*number))).count();
        assert_eq!(taken, MOST_WAITING);
    }
}
