//! From which number on nothing of a publisher is missing here without this replica having been told. A
//! state machine without I/O.
//!
//! A replica that was told of a loss may be repaired by another one only if that one was told as well: one
//! that began to listen behind the loss does not know of it, nor one that read Kafka's log over a hole.

use std::collections::HashMap;
use std::num::NonZeroU64;

use super::Head;
use crate::{Origin, Position, Positions};

/// How many publishers are remembered, at some 40 bytes each. For others this replica does not vouch.
pub(super) const MOST: usize = 65_536;

/// What this replica can vouch for.
#[derive(Debug, Default)]
pub(in crate::cache) struct Coverage {
    heard: HashMap<Origin, Heard, foldhash::fast::RandomState>,
    /// Whose word came last, which is known.
    latest: Option<Origin>,
    /// How many scans of the source have begun.
    scans: u64,
}

/// What is known of a publisher.
#[derive(Debug)]
struct Heard {
    /// Nothing from this number on is missing, but what was told. None: that is not known.
    from: Option<NonZeroU64>,
    /// From this number on its own words tell, so that this holds whoever repairs this replica.
    told: NonZeroU64,
    /// What was sent since its latest word, the next one does not tell.
    is_interrupted: bool,
    /// How many scans had begun when it was heard first.
    scans: u64,
}

impl Coverage {
    /// `origin` was heard. If that is its first word, nothing is known of what is below `from`. So it is after
    /// an interruption, unless all up to there `is_known`.
    pub(in crate::cache) fn heard(
        &mut self,
        origin: Origin,
        from: NonZeroU64,
        is_known: impl FnOnce() -> bool,
    ) {
        if self.latest == Some(origin) {
            return;
        }
        if !self.has_room_for(origin) {
            // Of who is heard later less is vouched for, until the source is read again.
            self.heard.clear();
        }
        let anew =
            || Heard { from: Some(from), told: from, is_interrupted: false, scans: self.scans };
        let heard = self.heard.entry(origin).or_insert_with(anew);
        if heard.is_interrupted {
            match heard.from {
                Some(_) if is_known() => heard.is_interrupted = false,
                _ => *heard = anew(),
            }
        }
        self.latest = Some(origin);
    }

    /// These are missing, as a word of their publisher tells, or its first one behind a copy.
    pub(in crate::cache) fn told(&mut self, lost: Positions, is_known: impl FnOnce() -> bool) {
        self.heard(lost.origin, lost.first, is_known);
        if let Some(heard) = self.heard.get_mut(&lost.origin)
            && (lost.first..=lost.last.saturating_add(1)).contains(&heard.told)
        {
            heard.told = lost.first;
            heard.from = heard.from.map(|from| from.min(lost.first));
        }
    }

    /// Messages were lost that nobody knows by number, or numbers are no longer compared as they were:
    /// what is heard next is as if it were heard for the first time.
    pub(in crate::cache) fn interrupted(&mut self) {
        for heard in self.heard.values_mut() {
            (heard.from, heard.is_interrupted, heard.scans) = (None, true, self.scans);
        }
        self.latest = None;
    }

    /// A scan of the source begins.
    pub(in crate::cache) fn begin_scan(&mut self) {
        self.scans += 1;
    }

    /// The latest scan is complete: it saw all that publishers had written before they were heard, if that
    /// was before it began.
    pub(in crate::cache) fn scanned(&mut self) {
        let scans = self.scans;
        for heard in self.heard.values_mut().filter(|heard| heard.scans < scans) {
            heard.from = Some(NonZeroU64::MIN);
        }
    }

    /// This replica has now what one with these heads has. It vouches for what that one does, and for what it
    /// was told of by itself, because nobody repairs it who was not; not for what an earlier scan saw.
    pub(in crate::cache) fn joined(&mut self, heads: &[Head]) {
        for heard in self.heard.values_mut() {
            heard.from = (!heard.is_interrupted).then_some(heard.told);
        }
        for head in heads {
            self.inherit(*head);
        }
    }

    fn inherit(&mut self, Head { position, from }: Head) {
        if !self.has_room_for(position.origin) {
            return;
        }
        let (next, scans) = (position.sequence.saturating_add(1), self.scans);
        let unheard = || Heard { from: None, told: next, is_interrupted: true, scans };
        let heard = self.heard.entry(position.origin).or_insert_with(unheard);
        if heard.told > next {
            // Of what is between the two, neither was told.
            return;
        }
        if heard.is_interrupted {
            (heard.from, heard.told) = (from, next);
        } else {
            heard.from = heard.from.min(from).or(heard.from);
        }
    }

    fn has_room_for(&self, origin: Origin) -> bool {
        self.heard.len() < MOST || self.heard.contains_key(&origin)
    }

    /// What is vouched for up to `position`, which is the latest of its origin.
    pub(in crate::cache) fn head(&self, position: Position) -> Head {
        let from = self.heard.get(&position.origin).and_then(|heard| heard.from);
        Head { position, from }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::warm::numbers::{id, number};

    /// Whether `coverage`, which came to 9, vouches for what is lost from `first` to `last`.
    fn covers(coverage: &Coverage, first: u64, last: u64) -> bool {
        let missing = Positions::new(id(1), first, last).expect("in order");
        coverage.head(Position { origin: id(1), sequence: number(9) }).covers(missing)
    }

    /// How far another replica came with the first publisher, and from where on it vouches for it.
    fn head(sequence: u64, from: u64) -> Head {
        let position = Position { origin: id(1), sequence: number(sequence) };
        Head { position, from: NonZeroU64::new(from) }
    }

    #[test]
    fn a_replica_vouches_for_what_came_behind_the_first_word_and_not_for_what_is_to_come() {
        let mut coverage = Coverage::default();
        assert!(!covers(&coverage, 5, 5), "it heard nobody");
        coverage.heard(id(1), number(5), || false);
        coverage.heard(id(2), number(1), || false);
        coverage.heard(id(1), number(8), || false);
        assert!(covers(&coverage, 5, 9));
        assert!(!covers(&coverage, 4, 5) && !covers(&coverage, 9, 10));
    }

    #[test]
    fn a_scan_covers_what_was_written_before_the_words_that_came_before_it() {
        let mut coverage = Coverage::default();
        coverage.heard(id(1), number(5), || false);
        coverage.scanned();
        assert!(!covers(&coverage, 4, 5), "none began");
        coverage.begin_scan();
        assert!(!covers(&coverage, 4, 5), "it is not complete");
        coverage.scanned();
        assert!(covers(&coverage, 1, 9));
        let mut coverage = Coverage::default();
        coverage.begin_scan();
        coverage.heard(id(1), number(5), || false);
        coverage.scanned();
        assert!(!covers(&coverage, 4, 5), "the row may have been written behind the scan");
    }

    #[test]
    fn after_losses_without_numbers_all_are_heard_anew() {
        let mut coverage = Coverage::default();
        coverage.heard(id(1), number(1), || false);
        coverage.interrupted();
        assert!(!covers(&coverage, 5, 5));
        coverage.heard(id(1), number(6), || false);
        assert!(covers(&coverage, 6, 6) && !covers(&coverage, 5, 6));
    }

    #[test]
    fn what_was_scanned_after_an_interruption_counts_until_a_word_that_does_not_follow() {
        for (is_known, is_covered) in [(true, true), (false, false)] {
            let mut coverage = Coverage::default();
            coverage.heard(id(1), number(3), || false);
            coverage.interrupted();
            coverage.begin_scan();
            coverage.scanned();
            assert!(covers(&coverage, 1, 5));
            coverage.heard(id(1), number(6), || is_known);
            assert_eq!(covers(&coverage, 1, 5), is_covered);
            assert!(covers(&coverage, 6, 6));
        }
    }

    #[test]
    fn who_is_repaired_by_another_one_inherits_what_that_one_vouches_for() {
        let mut coverage = Coverage::default();
        coverage.joined(&[head(4, 2)]);
        assert!(covers(&coverage, 2, 4) && !covers(&coverage, 1, 4));
        coverage.told(Positions::new(id(1), 5, 6).expect("in order"), || true);
        coverage.heard(id(1), number(7), || true);
        assert!(covers(&coverage, 2, 9) && !covers(&coverage, 1, 9));
        coverage.joined(&[head(9, 8)]);
        assert!(covers(&coverage, 5, 9), "it was told of that by itself");
        assert!(!covers(&coverage, 4, 9), "it has what the other one has");
        coverage.joined(&[head(9, 0)]);
        assert!(covers(&coverage, 5, 9) && !covers(&coverage, 4, 9));
        coverage.joined(&[head(3, 1)]);
        assert!(covers(&coverage, 5, 9) && !covers(&coverage, 4, 9), "neither knows of 4");
        coverage.interrupted();
        coverage.joined(&[head(9, 2)]);
        assert!(covers(&coverage, 2, 9));
        coverage.heard(id(1), number(12), || false);
        assert!(!covers(&coverage, 2, 9));
    }

    #[test]
    fn what_an_earlier_scan_saw_does_not_count_behind_a_repair_by_another_one() {
        for heads in [vec![head(9, 5)], Vec::new()] {
            let mut coverage = Coverage::default();
            coverage.heard(id(1), number(6), || false);
            coverage.begin_scan();
            coverage.scanned();
            coverage.joined(&heads);
            assert!(!covers(&coverage, 4, 9) && covers(&coverage, 6, 9));
            assert_eq!(covers(&coverage, 5, 9), !heads.is_empty());
        }
    }

    #[test]
    fn what_a_copy_lacks_is_told_though_its_publisher_was_heard_before() {
        let mut coverage = Coverage::default();
        coverage.heard(id(1), number(7), || false);
        coverage.told(Positions::new(id(1), 5, 6).expect("in order"), || false);
        coverage.joined(&[head(4, 3)]);
        assert!(covers(&coverage, 3, 9) && !covers(&coverage, 2, 9));
    }
}
