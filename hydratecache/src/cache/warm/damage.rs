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
    all: Positions,
    /// Of these, what is not repaired.
    open: Option<Positions>,
}

/// What a question asks for: losses that whoever answers must have been told of.
#[derive(Debug, Clone, Default)]
pub(in crate::cache) struct Losses {
    all: Vec<Positions>,
    /// As many of them as there is room for.
    pub(super) named: Vec<Positions>,
    /// What of these others have to name for the digest that they get to be of use here. The rest was repaired, and
    /// is not the same everywhere: whoever answers was usually told of it, which is seen by its heads.
    needed: Vec<Positions>,
}

impl Losses {
    /// Whether a replica with these heads was told of all of them.
    pub(super) fn are_covered_by(&self, heads: &[Head]) -> bool {
        are_covered(&self.all, heads)
    }

    /// Whether a copy for somebody who lost that is of use here, too: its heads come with its entries.
    pub(super) fn are_named_in(&self, lost: &[Positions]) -> bool {
        are_named(&self.named, lost)
    }

    /// Whether a digest for somebody who lost that is of use here, too: its heads are known before an entry is taken.
    pub(super) fn open_are_named_in(&self, lost: &[Positions]) -> bool {
        are_named(&self.needed, lost)
    }
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
            self.add(Lost { all: positions, open: Some(positions) });
        }
    }

    /// These were lost, and what they would have said is known from the source.
    pub(in crate::cache) fn was_lost(&mut self, positions: Positions) {
        self.add(Lost { all: positions, open: None });
    }

    fn add(&mut self, lost: Lost) {
        let origin = lost.all.origin;
        if self.lost.len() >= MOST_LOSSES && !self.lost.contains_key(&origin) {
            self.is_forgotten = true;
            return;
        }
        let known = self.lost.entry(origin).or_insert(lost);
        known.all = span(known.all, lost.all);
        known.open = match (known.open, lost.open) {
            (Some(open), Some(more)) => Some(span(open, more)),
            (open, more) => open.or(more),
        };
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
            lost.open = None;
        }
        self.remains(earlier);
    }

    /// Whether another replica may help.
    pub(in crate::cache) fn may_copy(&self) -> bool {
        !self.needs_source && !self.is_forgotten
    }

    /// What a replica with these heads was not told of, in the same order everywhere.
    pub(in crate::cache) fn uncovered_by(&self, heads: &[Head]) -> Vec<Positions> {
        let lost: Vec<Positions> = self.lost.values().map(|lost| lost.all).collect();
        uncovered(&lost, heads)
    }

    /// What whoever answers must have been told of: of more than there is room for in a question, the first,
    /// in the same order everywhere, behind those that are `named_first`, and what is repaired last. Whoever was
    /// told of these usually was of the rest, which is seen by its heads.
    pub(in crate::cache) fn to_be_covered(&self, named_first: &[Positions]) -> Losses {
        let named: HashSet<Positions> = named_first.iter().copied().collect();
        let rest = self.lost.values().filter(|lost| !named.contains(&lost.all));
        let (open, repaired): (Vec<Lost>, Vec<Lost>) = rest.partition(|lost| lost.open.is_some());
        let named_first = named_first.iter().copied();
        let needed = named_first.clone().chain(open.iter().filter_map(|lost| lost.open));
        let lost = named_first.chain(open.iter().chain(&repaired).map(|lost| lost.all));
        Losses {
            all: self.lost.values().map(|lost| lost.all).collect(),
            named: lost.take(MOST_LOST).collect(),
            needed: needed.take(MOST_LOST).collect(),
        }
    }
}

/// Both, and all between.
fn span(a: Positions, b: Positions) -> Positions {
    Positions { origin: a.origin, first: a.first.min(b.first), last: a.last.max(b.last) }
}

/// Whether each of `ours` is part of one of `theirs`.
fn are_named(ours: &[Positions], theirs: &[Positions]) -> bool {
    let contains = |theirs: &Positions, ours: &Positions| {
        theirs.origin == ours.origin && theirs.first <= ours.first && ours.last <= theirs.last
    };
    ours.iter().all(|ours| theirs.iter().any(|theirs| contains(theirs, ours)))
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
    use crate::cache::warm::numbers::{id, number};
    use proptest::prelude::*;
    use std::num::NonZeroU64;

    fn head(n: u64) -> Head {
        let position = Position { origin: id(n), sequence: number(5) };
        Head { position, from: Some(number(4)) }
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
        let (first, second) = (damage.to_be_covered(&[]), damage.to_be_covered(&all[2..]));
        assert_eq!(first.named, [all[1], all[0], all[2]]);
        assert_eq!(second.named, [all[2], all[1], all[0]]);
        let open = lost(2, 8, 9);
        assert!(first.open_are_named_in(&[open]) && first.open_are_named_in(&all[1..2]));
        assert!(!first.open_are_named_in(&[all[0], lost(2, 3, 8)]), "not the last one");
        assert!(second.open_are_named_in(&[open, all[2]]) && !second.open_are_named_in(&all[1..2]));
        assert!(first.are_named_in(&all) && !first.are_named_in(&all[1..]), "all is all");
    }

    #[test]
    fn more_than_a_question_has_room_for_is_named_alike_by_all_who_lost_it() {
        let lost = |n: u64| Positions::new(id(n), 4, 5).expect("in order");
        let (mut few, mut many) = (Damage::default(), Damage::default());
        few.lost((2..=200).map(lost));
        many.lost((2..=200).map(lost));
        many.was_lost(lost(1));
        let (few, many) = (few.to_be_covered(&[]), many.to_be_covered(&[]));
        assert!(few.open_are_named_in(&many.named) && many.open_are_named_in(&few.named));
        let heads: Vec<Head> = (2..=200).map(head).collect();
        assert!(few.are_covered_by(&heads) && !many.are_covered_by(&heads));
    }

    #[test]
    fn a_question_names_what_earlier_answers_did_not_cover_before_the_rest() {
        let lost = |n: u64| Positions::new(id(n), 4, 5).expect("in order");
        let mut damage = Damage::default();
        damage.lost((1..=200).rev().map(lost));
        let named = damage.to_be_covered(&[]).named;
        assert!(named.iter().copied().eq((1..=MOST_LOST as u64).map(lost)));
        let heads: Vec<Head> = (1..=150).map(head).collect();
        assert!(are_covered(&named, &heads));
        let uncovered = damage.uncovered_by(&heads);
        assert!(uncovered.iter().copied().eq((151..=200).map(lost)));
        let named = damage.to_be_covered(&uncovered).named;
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
