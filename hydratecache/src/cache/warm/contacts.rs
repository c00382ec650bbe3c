//! What a copy knows of publishers, beside what was heard of them since the start: whatever is behind the
//! one or between the two is missing. A state machine without I/O.
//!
//! A row may have been written whose publish failed, and the sender of a copy not know of it yet. Its
//! publisher tells by its next number, which those notice who know the one before. A replica that is filled by
//! a copy knows of publishers what the sender knew when it was proven.

use std::collections::HashMap;

use super::Head;
use crate::{Origin, Position, Positions};

/// How far publishers have come, before the first word of theirs that was heard here.
type Numbers = HashMap<Origin, u64, foldhash::fast::RandomState>;

/// How many publishers are remembered until the copy is there, at some 20 bytes each. Of others more seems to
/// be missing than is.
const MOST: usize = 65_536;

/// Where the cache comes from, and what that says of publishers.
#[derive(Debug, Default)]
pub(in crate::cache) enum Contacts {
    /// From the source, which knows what was written: as every publisher is heard first.
    #[default]
    Source,
    /// It is to be a copy. Of each publisher that was heard: what was missed before that.
    Gathering(Numbers),
    /// A copy. Of each publisher that was not heard since: how far the copy has come.
    Copied(Numbers),
}

impl Contacts {
    /// Before a copy.
    pub(in crate::cache) fn gathering() -> Self {
        Self::Gathering(Numbers::default())
    }

    pub(in crate::cache) fn is_gathering(&self) -> bool {
        matches!(self, Self::Gathering(_))
    }

    /// The source was read instead of a copy. Of a copy that came before, all holds.
    pub(in crate::cache) fn or_source(self) -> Self {
        if self.is_gathering() { Self::Source } else { self }
    }

    /// `origin` was heard; all up to `before`, or none for 0, was sent earlier. Returns what of that is
    /// missing in the copy.
    pub(in crate::cache) fn heard(&mut self, origin: Origin, before: u64) -> Option<Positions> {
        match self {
            Self::Source => None,
            Self::Gathering(first) => {
                if first.len() < MOST {
                    first.entry(origin).or_insert(before);
                }
                None
            }
            Self::Copied(heads) => {
                let head = heads.remove(&origin)?;
                Positions::new(origin, head.saturating_add(1), before)
            }
        }
    }

    /// The copy is there, and has come so far. Returns what is missing between that and what was heard.
    pub(in crate::cache) fn copied(&mut self, heads: &[Head]) -> Vec<Positions> {
        let Self::Gathering(first) = self else {
            return Vec::new();
        };
        let (mut missing, mut unheard) = (Vec::new(), Numbers::default());
        for Position { origin, sequence } in heads.iter().map(|head| head.position) {
            match first.get(&origin) {
                Some(before) => {
                    missing.extend(Positions::new(
                        origin,
                        sequence.saturating_add(1).get(),
                        *before,
                    ));
                }
                None => drop(unheard.insert(origin, sequence.get())),
            }
        }
        *self = Self::Copied(unheard);
        missing
    }

    /// The cache was repaired by a replica that has come so far. What this one has heard by itself
    /// it goes on to compare by itself.
    pub(in crate::cache) fn repaired(&mut self, heads: &[Head], is_heard: impl Fn(Origin) -> bool) {
        let mut unheard = match std::mem::take(self) {
            Self::Copied(unheard) => unheard,
            Self::Source | Self::Gathering(_) => Numbers::default(),
        };
        for Position { origin, sequence } in heads.iter().map(|head| head.position) {
            if unheard.contains_key(&origin) || !is_heard(origin) {
                unheard.insert(origin, sequence.get());
            }
        }
        *self = Self::Copied(unheard);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::warm::numbers::id;
    use std::num::NonZeroU64;

    fn head(origin: u64, sequence: u64) -> Head {
        let sequence = NonZeroU64::new(sequence).expect("not zero");
        Head { position: Position { origin: id(origin), sequence }, from: None }
    }

    fn missing(origin: u64, first: u64, last: u64) -> Positions {
        Positions::new(id(origin), first, last).expect("in order")
    }

    #[test]
    fn what_is_between_a_copy_and_the_first_word_of_a_publisher_is_missing() {
        let mut contacts = Contacts::gathering();
        for (origin, before) in [(1, 4), (1, 5), (2, 4), (3, 4), (4, 0)] {
            assert_eq!(contacts.heard(id(origin), before), None);
        }
        let heads = [head(1, 4), head(2, 2), head(3, 9), head(5, 7), head(6, 7)];
        assert_eq!(contacts.copied(&heads), [missing(2, 3, 4)]);
        assert_eq!(contacts.heard(id(5), 8), Some(missing(5, 8, 8)), "behind the copy");
        assert_eq!(contacts.heard(id(5), 20), None, "from now on it is tracked");
        assert_eq!(contacts.heard(id(6), 7), None);
        assert_eq!(contacts.heard(id(1), 90), None);
    }

    #[test]
    fn of_what_a_repair_told_of_those_count_who_were_not_heard_here() {
        let mut contacts = Contacts::Copied([(id(1), 4), (id(2), 4)].into_iter().collect());
        let is_heard = |origin: Origin| origin != id(4);
        contacts.repaired(&[head(1, 6), head(3, 6), head(4, 6)], is_heard);
        assert_eq!(contacts.heard(id(1), 7), Some(missing(1, 7, 7)));
        assert_eq!(contacts.heard(id(2), 7), Some(missing(2, 5, 7)), "nothing new is known");
        assert_eq!(contacts.heard(id(3), 7), None, "it is tracked");
        assert_eq!(contacts.heard(id(4), 7), Some(missing(4, 7, 7)));
    }

    #[test]
    fn what_was_read_from_the_source_begins_with_the_first_word() {
        let mut contacts = Contacts::default();
        assert_eq!(contacts.heard(id(1), 9), None);
        assert_eq!(contacts.copied(&[head(1, 2)]), []);
    }
}
