//! Keys that something was lately found out about. A state machine without I/O.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::Key;

/// A bounded number of keys, each remembered for the same time. Where there are too many, the
/// oldest go first.
pub(super) struct Recent<V> {
    by_key: HashMap<Key, Finding<V>, foldhash::fast::RandomState>,
    /// In the order of their ends. One that was found out about anew has another number in the map.
    oldest: VecDeque<(Instant, u64, Key)>,
    next: u64,
    most: usize,
    time: Duration,
}

struct Finding<V> {
    end: Instant,
    number: u64,
    value: V,
}

impl<V> Recent<V> {
    pub(super) fn new(most: usize, time: Duration) -> Self {
        let (by_key, oldest) = (HashMap::default(), VecDeque::new());
        Self { by_key, oldest, next: 0, most: most.max(1), time }
    }

    pub(super) fn insert(&mut self, key: &Key, value: V, now: Instant) {
        let Some(end) = now.checked_add(self.time) else {
            return;
        };
        let number = self.next;
        self.next += 1;
        self.by_key.insert(key.clone(), Finding { end, number, value });
        self.oldest.push_back((end, number, key.clone()));
        self.forget(now);
    }

    pub(super) fn get(&self, key: &Key, now: Instant) -> Option<&V> {
        self.by_key.get(key).filter(|found| found.end > now).map(|found| &found.value)
    }

    pub(super) fn remove(&mut self, key: &Key) {
        self.by_key.remove(key);
    }

    fn forget(&mut self, now: Instant) {
        // Entries of `oldest` that were made anew hold room too, hence its length.
        while self.oldest.len() > self.most
            || self.oldest.front().is_some_and(|(end, ..)| *end <= now)
        {
            let Some((_, number, key)) = self.oldest.pop_front() else {
                return;
            };
            if self.by_key.get(&key).is_some_and(|found| found.number == number) {
                self.by_key.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn key(number: usize) -> Key {
        Key::new(format!("k{number}")).expect("legal")
    }

    #[test]
    fn a_key_is_remembered_until_its_time_is_over_and_from_the_latest_time_on() {
        let (mut recent, now) = (Recent::new(10, MINUTE), Instant::now());
        recent.insert(&key(1), "first", now);
        let later = now + MINUTE / 2;
        recent.insert(&key(1), "second", later);
        assert_eq!(recent.get(&key(1), now + MINUTE), Some(&"second"));
        assert_eq!(recent.get(&key(1), later + MINUTE), None);
        recent.insert(&key(2), "other", now + MINUTE);
        assert_eq!(recent.get(&key(1), now + MINUTE), Some(&"second"), "its older end is no end");
        recent.remove(&key(1));
        assert_eq!(recent.get(&key(1), now), None);
    }

    #[test]
    fn there_are_never_more_than_there_is_room_for() {
        let (mut recent, now) = (Recent::new(10, MINUTE), Instant::now());
        for number in 0..1000 {
            recent.insert(&key(number), number, now);
            recent.insert(&key(7), number, now);
        }
        assert!(recent.by_key.len() <= 10 && recent.oldest.len() <= 10);
        assert_eq!(recent.get(&key(7), now), Some(&999));
        recent.insert(&key(1), 1, now + 2 * MINUTE);
        assert_eq!((recent.by_key.len(), recent.oldest.len()), (1, 1), "the rest is over");
    }
}
