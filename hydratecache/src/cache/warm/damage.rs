//! What is to be repaired, and what this replica was told to be lost since it began. A state machine without
//! I/O.
//!
//! A loss that was repaired is remembered: a later repair by a replica that was not told of it would take back
//! what the source said of it.

use std::collections::{BTreeMap, HashSet};

use super::Head;
use super::coverage::MOST;
use crate::request::MOST_LOST;
use crate::{Origin, Positions};

/// What is to be repaired, and what cannot be repaired by another replica.
#[derive(Debug, Default)]
pub(in crate::cache) struct Damage {
    /// Only the source is sure to help.
    needs_source: bool,
    /// Of some loss nobody knows any more whether others were told.
    is_forgotten: bool,
    /// Messages that were lost, and will not come any more.
    lost: BTreeMap<Origin, Lost>,
}

/// What was lost of a publisher: whoever was told of the first and of the last was told of all between.
#[derive(Debug, Clone, Copy)]
struct Lost {
    positions: Positions,
    is_repaired: bool,
}

/// Of how many publishers losses are told apart, at some 40 bytes each: of as many as are remembered. For more,
/// the source is read, now and later.
const MOST_LOSSES: usize = MOST;

impl Damage {
    /// What is wrong, nobody else may know of.
    pub(in crate::cache) fn needs_source(&mut self) {
        self.needs_source = true;
    }

    /// These messages were lost. Perhaps they never were, and their publisher wrote what they would have
    /// said.
    pub(in crate::cache) fn lost(&mut self, positions: impl IntoIterator<Item = Positions>) {
        for positions in positions {
            self.add(Lost { positions, is_repaired: false });
        }
    }

    /// These were lost, and what they would have said is known from the source.
    pub(in crate::cache) fn was_lost(&mut self, positions: Positions) {
        self.add(Lost { positions, is_repaired: true });
    }

    fn add(&mut self, lost: Lost) {
        let Positions { origin, first, last } = lost.positions;
        if self.lost.len() >= MOST_LOSSES && !self.lost.contains_key(&origin) {
            self.is_forgotten = true;
            return;
        }
        let all = self.lost.entry(origin).or_insert(lost);
        all.positions.first = all.positions.first.min(first);
        all.positions.last = all.positions.last.max(last);
        all.is_repaired &= lost.is_repaired;
    }

    /// That was not repaired after all.
    pub(in crate::cache) fn remains(&mut self, earlier: Self) {
        self.needs_source |= earlier.needs_source;
        self.is_forgotten |= earlier.is_forgotten;
        for lost in earlier.lost.into_values() {
            self.add(lost);
        }
    }

    /// That was repaired. Whoever repairs anything later has to know of it all the same.
    pub(in crate::cache) fn remember(&mut self, mut earlier: Self) {
        earlier.needs_source = false;
        for lost in earlier.lost.values_mut() {
            lost.is_repaired = true;
        }
        self.remains(earlier);
    }

    /// Whether another replica may help.
    pub(in crate::cache) fn may_copy(&self) -> bool {
        !self.needs_source && !self.is_forgotten
    }

    /// What a replica with these heads was not told of, in the same order everywhere.
    pub(in crate::cache) fn uncovered_by(&self, heads: &[Head]) -> Vec<Positions> {
        let lost: Vec<Positions> = self.lost.values().map(|lost| lost.positions).collect();
        uncovered(&lost, heads)
    }

    /// What whoever answers must have been told of: of more than there is room for in a question, the first,
    /// in the same order everywhere, behind those that are `named_first`, and what is repaired last. Whoever was
    /// told of these usually was of the rest, which is seen by its heads.
    pub(in crate::cache) fn to_be_covered(&self, named_first: &[Positions]) -> Vec<Positions> {
        let named: HashSet<Positions> = named_first.iter().copied().collect();
        let rest = self.lost.values().filter(|lost| !named.contains(&lost.positions));
        let (repaired, open): (Vec<Lost>, Vec<Lost>) = rest.partition(|lost| lost.is_repaired);
        let rest = open.into_iter().chain(repaired).map(|lost| lost.positions);
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
    use crate::Position;
    use proptest::prelude::*;
    use std::num::NonZeroU64;

    fn id(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    fn number(number: u64) -> NonZeroU64 {
        NonZeroU64::new(number).expect("not zero")
    }

    #[test]
    fn what_only_the_source_knows_and_too_many_losses_are_for_the_source() {
        let mut damage = Damage::default();
        damage.lost((1..=MOST_LOSSES as u64).filter_map(|n| Positions::new(id(n), 1, 1)));
        assert!(damage.may_copy() && damage.uncovered_by(&[]).len() == MOST_LOSSES);
        let mut more = Damage::default();
        more.lost(Positions::new(id(MOST_LOSSES as u64 + 1), 2, 2));
        more.remains(damage);
        assert!(!more.may_copy());
        let (mut damage, mut none) = (Damage::default(), Damage::default());
        damage.needs_source();
        none.remains(damage);
        assert!(!none.may_copy() && none.uncovered_by(&[]).is_empty());
        let mut later = Damage::default();
        later.remember(more);
        assert!(!later.may_copy(), "what was forgotten is not known again");
    }

    #[test]
    fn what_was_repaired_is_to_be_covered_too_and_named_last() {
        let lost = |n, first, last| Positions::new(id(n), first, last).expect("in order");
        let mut earlier = Damage::default();
        earlier.needs_source();
        earlier.lost([lost(1, 5, 5), lost(2, 3, 4)]);
        let mut damage = Damage::default();
        damage.lost([lost(2, 8, 9)]);
        damage.was_lost(lost(3, 6, 6));
        damage.remember(earlier);
        assert!(damage.may_copy(), "the source was read");
        let all = [lost(1, 5, 5), lost(2, 3, 9), lost(3, 6, 6)];
        assert_eq!(damage.uncovered_by(&[]), all);
        assert_eq!(damage.to_be_covered(&[]), [all[1], all[0], all[2]]);
        assert_eq!(damage.to_be_covered(&all[2..]), [all[2], all[1], all[0]]);
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
