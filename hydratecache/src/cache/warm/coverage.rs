//! From which number on nothing of a publisher is missing here without this replica having been told. A
//! state machine without I/O.
//!
//! A replica that was told of a loss may be repaired by another one only if that one was told as well: one
//! that began to listen behind the loss, or whose link excused it, does not know of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU64;

use super::Head;
use crate::request::MOST_LOST;
use crate::{Origin, Position, Positions};

/// How many publishers are remembered, at some 30 bytes each. For others this replica does not vouch.
const MOST: usize = 65_536;

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
    /// Nothing from this number on is missing, but what was told.
    from: NonZeroU64,
    /// How many scans had begun when it was heard first.
    scans: u64,
}

impl Coverage {
    /// `origin` was heard. If that is its first word, nothing is known of what is below `from`.
    pub(in crate::cache) fn heard(&mut self, origin: Origin, from: NonZeroU64) {
        if self.latest == Some(origin) {
            return;
        }
        let scans = self.scans;
        if self.heard.len() < MOST || self.heard.contains_key(&origin) {
            self.heard.entry(origin).or_insert(Heard { from, scans });
            self.latest = Some(origin);
        }
    }

    /// Messages were lost that nobody knows by number, or numbers are no longer compared as they were:
    /// what is heard next is as if it were heard for the first time.
    pub(in crate::cache) fn interrupted(&mut self) {
        self.heard.clear();
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
            heard.from = NonZeroU64::MIN;
        }
    }

    /// What is vouched for up to `position`, which is the latest of its origin.
    pub(in crate::cache) fn head(&self, position: Position) -> Head {
        let from = self.heard.get(&position.origin).map(|heard| heard.from);
        Head { position, from }
    }
}

/// What is to be repaired, and what cannot be repaired by another replica.
#[derive(Debug, Default)]
pub(in crate::cache) struct Damage {
    /// Only the source is sure to help.
    needs_source: bool,
    /// Messages that were lost, and will not come any more.
    lost: Vec<Positions>,
}

/// How many losses are told apart, at 24 bytes each: one for each publisher that is remembered. For more, the
/// source is read.
const MOST_LOSSES: usize = MOST;

impl Damage {
    /// What is wrong, nobody else may know of.
    pub(in crate::cache) fn needs_source(&mut self) {
        self.needs_source = true;
    }

    /// These messages were lost. Perhaps they never were, and their publisher wrote what they would have
    /// said.
    pub(in crate::cache) fn lost(&mut self, positions: impl IntoIterator<Item = Positions>) {
        self.lost.extend(positions);
        self.needs_source |= self.lost.len() > MOST_LOSSES;
        self.lost.truncate(MOST_LOSSES);
    }

    /// That was not repaired after all.
    pub(in crate::cache) fn remains(&mut self, earlier: Self) {
        self.needs_source |= earlier.needs_source;
        self.lost(earlier.lost);
    }

    /// Whether another replica may help.
    pub(in crate::cache) fn may_copy(&self) -> bool {
        !self.needs_source
    }

    /// What a replica with these heads was not told of, in the same order everywhere.
    pub(in crate::cache) fn uncovered_by(&self, heads: &[Head]) -> Vec<Positions> {
        uncovered(&self.lost, heads)
    }

    /// What whoever answers must have been told of: of more than there is room for in a question, the first,
    /// in the same order everywhere, behind those that are `named_first`. Whoever was told of these usually was
    /// of the rest, which is seen by its heads.
    pub(in crate::cache) fn to_be_covered(&self, named_first: &[Positions]) -> Vec<Positions> {
        let named: HashSet<Positions> = named_first.iter().copied().collect();
        let mut rest: Vec<Positions> =
            self.lost.iter().filter(|lost| !named.contains(lost)).copied().collect();
        rest.sort_unstable_by_key(|lost| (lost.origin.get(), lost.first));
        named_first.iter().copied().chain(rest).take(MOST_LOST).collect()
    }
}

/// Whether a replica with these heads was told of the loss of all that is `lost`.
pub(super) fn are_covered(lost: &[Positions], heads: &[Head]) -> bool {
    uncovered(lost, heads).is_empty()
}

/// What of that it was not told of, by publishers.
fn uncovered(lost: &[Positions], heads: &[Head]) -> Vec<Positions> {
    let mut uncovered: BTreeMap<Origin, Vec<Positions>> = BTreeMap::new();
    for lost in lost {
        uncovered.entry(lost.origin).or_default().push(*lost);
    }
    for head in heads {
        if let Some(lost) = uncovered.get_mut(&head.position.origin) {
            lost.retain(|lost| !head.covers(*lost));
        }
    }
    uncovered.into_values().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    fn number(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).expect("not zero")
    }

    /// Whether `coverage`, which came to 9, vouches for what is lost from `first` to `last`.
    fn covers(coverage: &Coverage, first: u64, last: u64) -> bool {
        let mut damage = Damage::default();
        damage.lost(Positions::new(id(1), first, last));
        let other = coverage.head(Position { origin: id(2), sequence: number(20) });
        let head = coverage.head(Position { origin: id(1), sequence: number(9) });
        damage.uncovered_by(&[other, head]).is_empty()
    }

    #[test]
    fn a_replica_vouches_for_what_came_behind_the_first_word_and_not_for_what_is_to_come() {
        let mut coverage = Coverage::default();
        assert!(!covers(&coverage, 5, 5), "it heard nobody");
        coverage.heard(id(1), number(5));
        coverage.heard(id(2), number(1));
        coverage.heard(id(1), number(8));
        assert!(covers(&coverage, 5, 9));
        assert!(!covers(&coverage, 4, 5) && !covers(&coverage, 9, 10));
    }

    #[test]
    fn a_scan_covers_what_was_written_before_the_words_that_came_before_it() {
        let mut coverage = Coverage::default();
        coverage.heard(id(1), number(5));
        coverage.scanned();
        assert!(!covers(&coverage, 4, 5), "none began");
        coverage.begin_scan();
        assert!(!covers(&coverage, 4, 5), "it is not complete");
        coverage.scanned();
        assert!(covers(&coverage, 1, 9));
        let mut coverage = Coverage::default();
        coverage.begin_scan();
        coverage.heard(id(1), number(5));
        coverage.scanned();
        assert!(!covers(&coverage, 4, 5), "the row may have been written behind the scan");
    }

    #[test]
    fn after_losses_without_numbers_all_are_heard_anew() {
        let mut coverage = Coverage::default();
        coverage.heard(id(1), number(1));
        coverage.interrupted();
        assert!(!covers(&coverage, 5, 5));
        coverage.heard(id(1), number(6));
        assert!(covers(&coverage, 6, 6) && !covers(&coverage, 5, 6));
    }

    #[test]
    fn what_only_the_source_knows_and_too_many_losses_are_for_the_source() {
        let mut damage = Damage::default();
        damage.lost((1..=MOST_LOSSES as u64).filter_map(|n| Positions::new(id(n), 1, 1)));
        assert!(damage.may_copy() && damage.uncovered_by(&[]).len() == MOST_LOSSES);
        let mut more = Damage::default();
        more.lost(Positions::new(id(9), 2, 2));
        more.remains(damage);
        assert!(!more.may_copy());
        let (mut damage, mut none) = (Damage::default(), Damage::default());
        damage.needs_source();
        none.remains(damage);
        assert!(!none.may_copy() && none.uncovered_by(&[]).is_empty());
    }

    #[test]
    fn a_question_names_what_earlier_answers_did_not_cover_before_the_rest() {
        let lost = |n: u64| Positions::new(id(n), 4, 5).expect("in order");
        let head = |n: u64| {
            let position = Position { origin: id(n), sequence: number(5) };
            Head { position, from: Some(number(4)) }
        };
        let mut damage = Damage::default();
        damage.lost((1..=200).rev().map(lost));
        let named = damage.to_be_covered(&[]);
        assert!(named.iter().copied().eq((1..=MOST_LOST as u64).map(lost)));
        let heads: Vec<Head> = (1..=150).map(head).collect();
        assert!(are_covered(&named, &heads));
        let uncovered = damage.uncovered_by(&heads);
        assert!(uncovered.iter().copied().eq((151..=200).map(lost)));
        let named = damage.to_be_covered(&uncovered);
        assert!(named.iter().copied().eq((151..=200).chain(1..=35).map(lost)));
        assert!(!are_covered(&named, &heads));
    }

    proptest! {
        #[test]
        fn what_no_head_covers_is_uncovered(
            lost in prop::collection::vec((1_u64..5, 1_u64..6, 0_u64..3), 0..20),
            heads in prop::collection::vec((1_u64..5, 1_u64..8, 0_u64..6), 0..20),
        ) {
            let lost: Vec<Positions> = lost
                .into_iter()
                .filter_map(|(origin, first, more)| Positions::new(id(origin), first, first + more))
                .collect();
            let head = |(origin, sequence, from): (u64, u64, u64)| Head {
                position: Position { origin: id(origin), sequence: number(sequence) },
                from: NonZeroU64::new(from),
            };
            let heads: Vec<Head> = heads.into_iter().map(head).collect();
            let mut expected = lost.clone();
            expected.retain(|lost| !heads.iter().any(|head| head.covers(*lost)));
            expected.sort_by_key(|lost| lost.origin.get());
            prop_assert_eq!(uncovered(&lost, &heads), expected);
        }
    }
}
