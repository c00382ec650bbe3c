//! The gap tracker: which messages of each origin were seen, and what is missing between them.
//!
//! A state machine without I/O. Messages and link events go in; what to do with each message
//! comes out. `docs/ARCHITECTURE.md` says where it stands.

use std::collections::{HashMap, VecDeque};

use crate::message::Position;
use crate::transport::Gap;
use crate::{Origin, Positions};

/// What to do with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is missing before it: deliver it.
    Next,
    /// Messages are missing before it: report the gap, then deliver it.
    After(Gap),
    /// It was reported missing, as one of those of a [`Gap::Known`], and is not missing any more; or its
    /// origin sent it before the first one that was heard: perhaps nobody received it until now.
    Late,
    /// It was delivered, or nobody misses it: drop it.
    Duplicate,
}

/// What a message is that the link lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing else is missing before it.
    Next,
    /// Other messages are missing before it.
    After(Gap),
    /// It was delivered, or is known to be lost.
    Duplicate,
}

/// Tracks the sequences of every origin of one topic.
///
/// An origin that is heard for the first time is taken as it comes: what it sent before belongs
/// to the time before this subscription, or to a disruption, which the link reports.
#[derive(Debug)]
pub struct Tracker {
    heard: HashMap<Origin, Heard, foldhash::fast::RandomState>,
    capacity: usize,
    /// Grows with every message, to find who was silent the longest.
    now: u64,
    /// Grows when the broker has replaced messages.
    epoch: u32,
    /// How many it has replaced that no origin is known to lack yet: so many may be missing before the first
    /// messages of origins in this epoch.
    replaced: u64,
    /// What was reported missing and may still come, the oldest first: of each origin ascending.
    missing: VecDeque<Positions>,
    forgot: bool,
}

#[derive(Debug)]
struct Heard {
    first: u64,
    last: u64,
    epoch: u32,
    at: u64,
}

impl Tracker {
    /// How many origins are remembered. 2,000 instances that restart daily for a month; about
    /// 3 MiB when full.
    pub const DEFAULT_CAPACITY: usize = 65_536;

    /// How many ranges are remembered as missing, in case that their messages come after all; one that
    /// comes out of the middle of a range leaves two. The oldest are dropped first, and whoever waits
    /// for them repairs itself in another way.
    const MOST_MISSING: usize = 256;

    /// A tracker that has heard nobody.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(Self::DEFAULT_CAPACITY)
    }

    /// A tracker that remembers at most `capacity` origins, at least one.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            heard: HashMap::default(),
            capacity: capacity.max(1),
            now: 0,
            epoch: 0,
            replaced: 0,
            missing: VecDeque::new(),
            forgot: false,
        }
    }

    /// Whether `origin` was seen, and not forgotten since.
    #[must_use]
    pub fn knows(&self, origin: Origin) -> bool {
        self.heard.contains_key(&origin)
    }

    /// A message at `position` was seen.
    pub fn message(&mut self, position: Position) -> Verdict {
        let sequence = position.sequence.get();
        match self.advance(position.origin, sequence, sequence - 1) {
            Advance::Missing(missing) => missing.map_or(Verdict::Next, Verdict::After),
            Advance::Before => Verdict::Late,
            Advance::Not if self.take_missing(position) => Verdict::Late,
            Advance::Not => Verdict::Duplicate,
        }
    }

    /// A heartbeat was seen: `position` is the last message that its origin sent. Returns which
    /// messages are missing up to and including that one.
    pub fn heartbeat(&mut self, position: Position) -> Option<Gap> {
        if let Some(heard) = self.heard.get_mut(&position.origin)
            && heard.last == position.sequence.get()
        {
            // Nothing of this origin was replaced up to here.
            heard.epoch = self.epoch;
        }
        let sequence = position.sequence.get();
        match self.advance(position.origin, sequence, sequence) {
            Advance::Missing(missing) => missing,
            Advance::Before | Advance::Not => None,
        }
    }

    /// The link lost the message at `position`, and reports that itself: its number is used. An origin that
    /// was never heard stays so.
    pub fn lost(&mut self, position: Position) -> Lost {
        if !self.knows(position.origin) {
            return Lost::Next;
        }
        let sequence = position.sequence.get();
        match self.advance(position.origin, sequence, sequence - 1) {
            Advance::Missing(missing) => missing.map_or(Lost::Next, Lost::After),
            Advance::Before => Lost::Next,
            Advance::Not => Lost::Duplicate,
        }
    }

    /// The broker no longer has what stood here, up to `count` messages, because something newer replaced it: so
    /// many that are missing before the next messages of origins are no loss. Whose they were it cannot say, so
    /// if more are missing before one, all of those are reported.
    pub fn replaced(&mut self, count: u64) {
        self.epoch = self.epoch.wrapping_add(1);
        self.replaced = self.replaced.saturating_add(count);
    }

    /// The link reported a gap. What is missing before the next message of an origin may be of it, or a
    /// publish that failed behind it: nobody can tell, so it is reported too.
    pub fn reported_by_the_link(&mut self) {
        self.replaced = 0;
    }

    /// Whether an origin was forgotten, for want of room, since this was last asked: from then on
    /// its losses may go unseen, which is a gap of unknown size.
    #[must_use]
    pub fn take_forgotten(&mut self) -> bool {
        std::mem::take(&mut self.forgot)
    }

    /// Moves `origin` on to `sequence`. All up to `complete` must have been seen before.
    fn advance(&mut self, origin: Origin, sequence: u64, complete: u64) -> Advance {
        self.now += 1;
        let (epoch, at) = (self.epoch, self.now);
        if let Some(heard) = self.heard.get_mut(&origin) {
            heard.at = at;
            if sequence <= heard.last {
                return if sequence < heard.first { Advance::Before } else { Advance::Not };
            }
            let before = std::mem::replace(&mut heard.last, sequence);
            let is_first_since = std::mem::replace(&mut heard.epoch, epoch) != epoch;
            if complete <= before {
                return Advance::Missing(None);
            }
            if is_first_since && complete - before <= self.replaced {
                self.replaced -= complete - before;
                return Advance::Missing(None);
            }
            let missing = Positions::new(origin, before + 1, complete);
            return Advance::Missing(missing.map(|missing| self.miss(missing)));
        }
        if self.heard.len() >= self.capacity {
            self.forget_the_silent_half();
        }
        self.heard.insert(origin, Heard { first: sequence, last: sequence, epoch, at });
        Advance::Missing(None)
    }

    /// These are missing, and may still come.
    fn miss(&mut self, missing: Positions) -> Gap {
        self.missing.push_back(missing);
        self.bound_missing();
        Gap::Known(missing)
    }

    fn bound_missing(&mut self) {
        while self.missing.len() > Self::MOST_MISSING {
            self.missing.pop_front();
        }
    }

    /// Whether `position` is missing. From now on it is not.
    fn take_missing(&mut self, position: Position) -> bool {
        let Some(at) = self.missing.iter().position(|missing| missing.contains(position)) else {
            return false;
        };
        let Positions { origin, first, last } = self.missing[at];
        let number = position.sequence.get();
        let before = Positions::new(origin, first.get(), number - 1);
        let behind =
            number.checked_add(1).and_then(|next| Positions::new(origin, next, last.get()));
        match (before, behind) {
            (Some(before), Some(behind)) => {
                self.missing[at] = before;
                self.missing.insert(at + 1, behind);
                self.bound_missing();
            }
            (Some(rest), None) | (None, Some(rest)) => self.missing[at] = rest,
            (None, None) => drop(self.missing.remove(at)),
        }
        true
    }

    /// Half at a time, so that a flood of origins costs little each.
    fn forget_the_silent_half(&mut self) {
        let mut times: Vec<u64> = self.heard.values().map(|heard| heard.at).collect();
        let half = times.len() / 2;
        let median = *times.select_nth_unstable(half).1;
        self.heard.retain(|_, heard| heard.at > median);
        self.forgot = true;
    }
}

impl Default for Tracker {
    fn default() -> Self {
        Self::new()
    }
}

enum Advance {
    /// Onwards, with these missing before.
    Missing(Option<Gap>),
    /// Not at all: it is before the first one heard.
    Before,
    /// Not at all: it is not after the last one heard.
    Not,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::num::NonZeroU64;

    use super::*;
    use proptest::prelude::*;

    fn at(origin: u64, sequence: u64) -> Position {
        Position {
            origin: Origin::from_u64(origin).expect("not zero"),
            sequence: NonZeroU64::new(sequence).expect("not zero"),
        }
    }

    fn count(gap: Gap) -> u64 {
        gap.exact().expect("jumps are counted")
    }

    fn missing(origin: u64, first: u64, last: u64) -> Positions {
        let origin = Origin::from_u64(origin).expect("not zero");
        Positions::new(origin, first, last).expect("in order")
    }

    fn known(first: u64, last: u64) -> Gap {
        Gap::Known(missing(1, first, last))
    }

    /// What a tracker reported, against what was sent.
    #[derive(Default)]
    struct Ledger {
        delivered: Vec<u64>,
        late: Vec<u64>,
        missing: u64,
    }

    impl Ledger {
        fn message(&mut self, tracker: &mut Tracker, sequence: u64) {
            match tracker.message(at(1, sequence)) {
                Verdict::Next => self.delivered.push(sequence),
                Verdict::After(gap) => {
                    self.missing += count(gap);
                    self.delivered.push(sequence);
                }
                Verdict::Late => {
                    self.missing -= 1;
                    self.late.push(sequence);
                }
                Verdict::Duplicate => {}
            }
        }
    }

    /// All ways in which each of `count` messages is lost, arrives once, or arrives twice.
    fn histories(count: u32) -> impl Iterator<Item = Vec<u64>> {
        (0..3_u64.pow(count)).map(move |history| {
            let copies = |sequence: u32| (history / 3_u64.pow(sequence)) % 3;
            (0..count)
                .flat_map(|n| {
                    std::iter::repeat_n(
                        u64::from(n) + 1,
                        usize::try_from(copies(n)).expect("small"),
                    )
                })
                .collect()
        })
    }

    #[test]
    fn what_came_before_the_first_that_was_heard_may_be_new_and_comes_late() {
        let mut tracker = Tracker::new();
        assert_eq!(tracker.message(at(1, 5)), Verdict::Next);
        assert_eq!(tracker.message(at(1, 6)), Verdict::Next);
        assert_eq!(tracker.message(at(1, 4)), Verdict::Late);
        assert_eq!(tracker.message(at(1, 5)), Verdict::Duplicate, "it was delivered");
        assert_eq!(tracker.heartbeat(at(1, 3)), None);
    }

    #[test]
    fn every_small_history_is_delivered_once_in_order_and_every_loss_is_counted() {
        const SENT: u64 = 8;
        for arrivals in histories(8) {
            let (mut tracker, mut ledger) = (Tracker::new(), Ledger::default());
            // The message before the history makes the origin known.
            tracker.message(at(1, 1));
            for sequence in &arrivals {
                ledger.message(&mut tracker, sequence + 1);
            }
            let tail = tracker.heartbeat(at(1, SENT + 1)).map_or(0, count);
            let delivered = ledger.delivered.len() as u64;
            assert!(ledger.delivered.is_sorted_by(|a, b| a < b), "{arrivals:?}");
            assert_eq!(delivered + ledger.missing + tail, SENT, "{arrivals:?}");
        }
    }

    #[test]
    fn every_order_of_a_small_history_accounts_for_every_message() {
        // All 5,040 orders of seven messages, by Heap's algorithm.
        fn orders(items: &mut Vec<u64>, k: usize, visit: &mut impl FnMut(&[u64])) {
            if k <= 1 {
                return visit(items);
            }
            for i in 0..k {
                orders(items, k - 1, visit);
                items.swap(if k.is_multiple_of(2) { i } else { 0 }, k - 1);
            }
        }
        let mut count = 0;
        orders(&mut (2..=8).collect(), 7, &mut |arrivals| {
            let (mut tracker, mut ledger) = (Tracker::new(), Ledger::default());
            tracker.message(at(1, 1));
            for sequence in arrivals {
                ledger.message(&mut tracker, *sequence);
            }
            assert_eq!(tracker.heartbeat(at(1, 8)), None, "8 itself arrived");
            // A late message was reported missing before it came: it is never delivered as if in order.
            assert!(ledger.delivered.is_sorted_by(|a, b| a < b), "{arrivals:?}");
            let both =
                ledger.delivered.iter().chain(&ledger.late).copied().collect::<BTreeSet<_>>();
            assert_eq!((both.len(), ledger.missing), (7, 0), "{arrivals:?}");
            count += 1;
        });
        assert_eq!(count, 5040);
    }

    #[test]
    fn a_lost_last_message_is_noticed_by_the_heartbeat_once() {
        let mut tracker = Tracker::new();
        assert_eq!(tracker.message(at(1, 1)), Verdict::Next);
        assert_eq!(tracker.heartbeat(at(1, 3)), Some(known(2, 3)));
        assert_eq!(tracker.heartbeat(at(1, 3)), None);
        assert_eq!(tracker.message(at(1, 4)), Verdict::Next);
    }

    #[test]
    fn what_is_missing_behind_a_gap_of_the_link_is_told_too() {
        let mut tracker = Tracker::new();
        tracker.message(at(1, 5));
        tracker.reported_by_the_link();
        assert_eq!(tracker.message(at(1, 5)), Verdict::Duplicate);
        assert_eq!(tracker.message(at(1, 9)), Verdict::After(known(6, 8)));
        tracker.reported_by_the_link();
        assert_eq!(tracker.heartbeat(at(1, 10)), Some(known(10, 10)));
    }

    #[test]
    fn what_the_link_names_as_lost_is_not_told_again_but_what_is_missing_before_it() {
        let mut tracker = Tracker::new();
        assert_eq!(tracker.lost(at(2, 4)), Lost::Next);
        tracker.message(at(1, 5));
        assert_eq!(tracker.lost(at(1, 6)), Lost::Next);
        assert_eq!(tracker.lost(at(1, 6)), Lost::Duplicate);
        assert_eq!(tracker.lost(at(1, 5)), Lost::Duplicate, "it was delivered");
        assert_eq!(tracker.lost(at(1, 8)), Lost::After(known(7, 7)), "its publish failed");
        assert_eq!(tracker.message(at(1, 9)), Verdict::Next);
        assert_eq!(tracker.message(at(1, 7)), Verdict::Late);
        assert_eq!(tracker.message(at(1, 6)), Verdict::Duplicate, "nobody was told which");
        assert_eq!(tracker.message(at(2, 8)), Verdict::Next, "an origin is taken as it comes");
    }

    #[test]
    fn what_was_replaced_is_no_loss_until_its_origin_is_heard_or_the_link_has_a_gap() {
        let mut tracker = Tracker::new();
        for origin in 1..=3 {
            tracker.message(at(origin, 5));
        }
        tracker.replaced(10);
        assert_eq!(tracker.message(at(1, 9)), Verdict::Next);
        assert_eq!(tracker.message(at(1, 7)), Verdict::Duplicate, "nobody misses it");
        assert_eq!(tracker.message(at(1, 11)), Verdict::After(known(10, 10)));
        assert_eq!(tracker.heartbeat(at(2, 5)), None, "nothing of this origin was replaced");
        assert!(matches!(tracker.message(at(2, 7)), Verdict::After(Gap::Known(_))));
        tracker.reported_by_the_link();
        assert!(matches!(tracker.message(at(3, 7)), Verdict::After(Gap::Known(_))));
    }

    #[test]
    fn no_more_is_excused_than_was_replaced() {
        let mut tracker = Tracker::new();
        for origin in 1..=4 {
            tracker.message(at(origin, 5));
        }
        tracker.replaced(3);
        assert_eq!(tracker.message(at(1, 7)), Verdict::Next);
        assert_eq!(tracker.message(at(2, 9)), Verdict::After(Gap::Known(missing(2, 6, 8))));
        assert_eq!(tracker.message(at(3, 8)), Verdict::Next, "two were left");
        assert_eq!(tracker.message(at(4, 7)), Verdict::After(Gap::Known(missing(4, 6, 6))));
        tracker.replaced(1);
        assert_eq!(tracker.message(at(4, 9)), Verdict::Next, "behind another hole");
    }

    #[test]
    fn what_is_missing_is_taken_late_once_in_any_order_and_nothing_else_is() {
        let mut tracker = Tracker::new();
        tracker.message(at(1, 1));
        assert_eq!(tracker.message(at(1, 6)), Verdict::After(known(2, 5)));
        for (sequence, verdict) in [
            (4, Verdict::Late),
            (4, Verdict::Duplicate),
            (2, Verdict::Late),
            (5, Verdict::Late),
            (1, Verdict::Duplicate),
            (6, Verdict::Duplicate),
            (3, Verdict::Late),
            (3, Verdict::Duplicate),
            (7, Verdict::Next),
        ] {
            assert_eq!(tracker.message(at(1, sequence)), verdict, "{sequence}");
        }
        assert!(tracker.missing.is_empty());
    }

    #[test]
    fn only_so_many_gaps_are_remembered() {
        let mut tracker = Tracker::new();
        let gaps = 2 * Tracker::MOST_MISSING as u64;
        for number in 0..=gaps {
            tracker.message(at(1, 2 * number + 1));
        }
        assert!(tracker.missing.len() <= Tracker::MOST_MISSING);
        assert_eq!(tracker.message(at(1, 2)), Verdict::Duplicate, "nobody waits so long");
        assert_eq!(tracker.message(at(1, 2 * gaps)), Verdict::Late);
    }

    #[test]
    fn a_gap_is_remembered_in_only_so_many_parts() {
        let mut tracker = Tracker::new();
        tracker.message(at(1, 1));
        let last = 4 * Tracker::MOST_MISSING as u64;
        assert_eq!(tracker.message(at(1, last + 1)), Verdict::After(known(2, last)));
        for sequence in (3..last).step_by(2) {
            assert_eq!(tracker.message(at(1, sequence)), Verdict::Late);
            assert!(tracker.missing.len() <= Tracker::MOST_MISSING);
        }
        assert_eq!(tracker.message(at(1, 2)), Verdict::Duplicate, "nobody waits so long");
        assert_eq!(tracker.message(at(1, last)), Verdict::Late);
    }

    #[test]
    fn room_is_bounded_and_forgetting_is_said() {
        let mut tracker = Tracker::with_capacity(100);
        for origin in 1..=1000 {
            tracker.message(at(origin, 1));
            assert!(tracker.heard.len() <= 100);
        }
        assert!(tracker.take_forgotten());
        assert!(!tracker.take_forgotten());
        assert_eq!(tracker.message(at(1000, 2)), Verdict::Next, "the latest are remembered");
        assert!(matches!(tracker.message(at(1000, 4)), Verdict::After(Gap::Known(_))));
    }

    proptest! {
        #[test]
        fn interleaved_origins_with_losses_account_for_every_message(
            steps in prop::collection::vec((1_u64..5, any::<bool>()), 1..400),
        ) {
            let mut tracker = Tracker::new();
            let (mut sent, mut delivered, mut missing) = ([1_u64; 5], 0, 0);
            for origin in 1..5 {
                tracker.message(at(origin, 1));
            }
            for (origin, lost) in &steps {
                let sequence = &mut sent[usize::try_from(*origin).expect("small")];
                *sequence += 1;
                if !lost {
                    delivered += 1;
                    if let Verdict::After(n) = tracker.message(at(*origin, *sequence)) {
                        missing += count(n);
                    }
                }
            }
            for origin in 1..5 {
                let last = at(origin, sent[usize::try_from(origin).expect("small")]);
                missing += tracker.heartbeat(last).map_or(0, count);
            }
            prop_assert_eq!(delivered + missing, steps.len() as u64);
        }
    }
}
