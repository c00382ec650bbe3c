//! Which entry is compared next. A state machine without I/O.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;

use crate::Key;

/// How many keys are remembered at once: asking the cache for its keys costs as much as it has.
const BATCH: usize = 1024;

/// Rounds through all keys, each in another random order. A key that stays is met once in each round,
/// whatever comes and goes meanwhile.
pub(super) struct Rounds {
    /// Orders the keys of this round.
    order: FixedState,
    /// How far this round is.
    after: Option<u64>,
    /// The next keys, last first.
    batch: Vec<Key>,
}

impl Default for Rounds {
    fn default() -> Self {
        Self { order: FixedState::with_seed(fastrand::u64(..)), after: None, batch: Vec::new() }
    }
}

impl Rounds {
    /// The next key of those that are `resident`; none if there are none.
    pub(super) fn next(&mut self, resident: impl Fn() -> Vec<Key>) -> Option<Key> {
        if self.batch.is_empty() {
            self.gather(resident());
        }
        if self.batch.is_empty() && self.after.is_some() {
            *self = Self::default();
            self.gather(resident());
        }
        self.batch.pop()
    }

    /// Gathers those of `resident` that come next.
    fn gather(&mut self, resident: Vec<Key>) {
        let place = |key: Key| (self.order.hash_one(&key), key);
        let is_ahead = |(place, _): &(u64, Key)| self.after.is_none_or(|after| *place > after);
        let mut ahead: Vec<(u64, Key)> = resident.into_iter().map(place).filter(is_ahead).collect();
        if ahead.len() > BATCH {
            ahead.select_nth_unstable(BATCH);
            ahead.truncate(BATCH);
        }
        ahead.sort_unstable_by(|a, b| b.cmp(a));
        if let Some((place, _)) = ahead.first() {
            self.after = Some(*place);
        }
        self.batch = ahead.into_iter().map(|(_, key)| key).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn keys(count: usize) -> Vec<Key> {
        (0..count).map(|number| Key::new(format!("k{number}")).expect("legal")).collect()
    }

    #[test]
    fn each_round_meets_every_key_once_and_in_another_order() {
        let (mut rounds, all) = (Rounds::default(), keys(5000));
        let mut round =
            || -> Vec<Key> { (0..all.len()).filter_map(|_| rounds.next(|| all.clone())).collect() };
        let (first, second) = (round(), round());
        for round in [&first, &second] {
            assert_eq!(round.iter().collect::<HashSet<_>>().len(), all.len());
        }
        assert_ne!(first, second);
    }

    #[test]
    fn a_key_that_stays_is_met_whatever_comes_and_goes() {
        let (mut rounds, stays) = (Rounds::default(), keys(1).remove(0));
        let all = keys(4000);
        let mut met = 0;
        for turn in 0..3 * 4000 {
            let resident =
                || all[turn % 1000..turn % 1000 + 3000].iter().chain([&stays]).cloned().collect();
            met += usize::from(rounds.next(resident).as_ref() == Some(&stays));
        }
        assert!((2..=6).contains(&met), "{met} times");
    }

    #[test]
    fn an_empty_cache_has_no_next_key() {
        let mut rounds = Rounds::default();
        assert_eq!(rounds.next(Vec::new), None);
        assert!(rounds.next(|| keys(1)).is_some() && rounds.next(|| keys(1)).is_some());
        assert_eq!(rounds.next(Vec::new), None);
    }
}
