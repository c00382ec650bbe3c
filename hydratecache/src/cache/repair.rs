//! Which messages of which publishers are missing, when these are asked for them, and when nobody waits
//! any longer. A state machine without I/O.
//!
//! All who miss the same messages hear one another's requests and the answer, so that one request and one
//! answer serve a fleet: each waits for a random time before it asks, and does not ask if another did
//! meanwhile. So it is each time that they ask: an ask that was heard counts like one's own (Floyd et al., "A Reliable Multicast Framework for Light-weight Sessions and Application
//! Level Framing", 1997).

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Gap;
use crate::{Origin, Position, Positions};

/// Nobody asks later than this after a gap. Some fifty times a round trip, so that of thousands who miss
/// the same, some tens ask before they hear of each other.
const JITTER: Duration = Duration::from_millis(50);

/// How long an answer may take to begin, or to go on: some hundred round trips, and a fraction of what
/// reading a source takes.
const PATIENCE: Duration = Duration::from_millis(500);

/// Those who were not answered ask again over so long after that, not all at once: of thousands, some
/// ask before they hear of each other.
const SPREAD: Duration = Duration::from_millis(500);

/// How often a publisher is asked, whoever asks it.
const ASKED_AT_MOST: u32 = 2;

/// The longest repair, however it goes on.
const LONGEST: Duration = Duration::from_secs(10);

/// A publisher that did not answer is not asked again for so long: it has ended, or keeps nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// How many publishers that did not answer are remembered.
const MOST_SILENT: usize = 256;

/// How many gaps are repaired at once; for more, reading the source is cheaper.
const MOST_LOSSES: usize = 256;

/// How many messages of one gap are asked for: more than a publisher keeps.
const MOST_MESSAGES: u64 = 65_536;

/// The gaps that are being repaired by replay.
#[derive(Default)]
pub(super) struct Repair {
    losses: Vec<Loss>,
    silent: VecDeque<(Origin, Instant)>,
}

/// A gap.
struct Loss {
    origin: Origin,
    /// What is still missing: first and last, ascending.
    missing: Vec<(u64, u64)>,
    since: Instant,
    /// When its publisher is asked, or asked again, or not waited for any longer.
    due: Instant,
    /// How often it was asked, by anyone, and when last.
    asked: u32,
    asked_at: Instant,
    goes_on: bool,
}

/// What is to be done now.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Due {
    /// These are to be asked for.
    pub(super) ask: Vec<Positions>,
    /// For one of the gaps nobody waits any longer: all of them are to be repaired in another way, and
    /// then forgotten. Until then they count as missing.
    pub(super) is_over: bool,
}

impl Repair {
    /// Whether nothing is missing.
    pub(super) fn is_idle(&self) -> bool {
        self.losses.is_empty()
    }

    /// How many gaps are being repaired.
    pub(super) fn gaps(&self) -> usize {
        self.losses.len()
    }

    /// What is still missing, as one gap.
    pub(super) fn gap(&self) -> Option<Gap> {
        let all = self.losses.iter().flat_map(|loss| &loss.missing);
        let count = all.map(|(first, last)| last - first + 1).sum();
        NonZeroU64::new(count).map(Gap::Exact)
    }

    /// What is still missing, by number.
    pub(super) fn missing(&self) -> impl Iterator<Item = Positions> {
        let of = |loss: &Loss| (loss.origin, loss.missing.clone());
        let all = self.losses.iter().map(of);
        let positions = |(origin, missing): (Origin, Vec<(u64, u64)>)| {
            missing.into_iter().filter_map(move |(first, last)| Positions::new(origin, first, last))
        };
        all.flat_map(positions)
    }

    /// `positions` are missing. `false`: no replay can be expected of them. `chance` is from 0 to 1.
    pub(super) fn missed(&mut self, positions: Positions, now: Instant, chance: f64) -> bool {
        let has_room = self.losses.len() < MOST_LOSSES;
        let is_short = positions.count().get() <= MOST_MESSAGES;
        if !has_room || !is_short || self.is_silent(positions.origin, now) {
            return false;
        }
        self.losses.push(Loss {
            origin: positions.origin,
            missing: vec![(positions.first.get(), positions.last.get())],
            since: now,
            due: now + JITTER.mul_f64(chance),
            asked: 0,
            asked_at: now,
            goes_on: false,
        });
        true
    }

    /// Whether `position` is missing.
    pub(super) fn misses(&self, position: Position) -> bool {
        self.losses.iter().any(|loss| loss.misses(position))
    }

    /// `position` is in the cache now, or will never come.
    pub(super) fn arrived(&mut self, position: Position) {
        for loss in &mut self.losses {
            loss.arrived(position);
        }
        self.losses.retain(|loss| !loss.missing.is_empty());
    }

    /// Someone else asks for `positions`. `chance` is from 0 to 1.
    pub(super) fn heard(&mut self, positions: Positions, now: Instant, chance: f64) {
        let is_for = |loss: &&mut Loss| {
            let (first, last) = loss.bounds();
            loss.origin == positions.origin
                && (positions.first.get()..=positions.last.get()).contains(&first)
                && last <= positions.last.get()
        };
        for loss in self.losses.iter_mut().filter(is_for).filter(|loss| loss.is_to_ask(now)) {
            loss.was_asked_for(now, chance);
        }
    }

    /// Whether some of `positions`, which will not be published again, are missing.
    pub(super) fn misses_any(&self, positions: Positions) -> bool {
        let (first, last) = (positions.first.get(), positions.last.get());
        let overlaps = |(begin, end): &(u64, u64)| *begin <= last && first <= *end;
        let of_it = self.losses.iter().filter(|loss| loss.origin == positions.origin);
        of_it.flat_map(|loss| &loss.missing).any(overlaps)
    }

    /// When there is something to do.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.losses.iter().map(|loss| loss.due).min()
    }

    /// What is to be done at `now`. `chance` is from 0 to 1.
    pub(super) fn due(&mut self, now: Instant, chance: f64) -> Due {
        let mut due = Due::default();
        for loss in &mut self.losses {
            match loss.turn(now, chance) {
                Turn::Wait => {}
                Turn::Ask(positions) => due.ask.push(positions),
                Turn::Over { is_silent } => {
                    due.is_over = true;
                    self.silent.extend(is_silent.then_some((loss.origin, now + SILENCE)));
                }
            }
        }
        if due.is_over {
            // What brings one of them brings all.
            due.ask.clear();
        }
        while self.silent.len() > MOST_SILENT || self.silent.front().is_some_and(|it| it.1 <= now) {
            self.silent.pop_front();
        }
        due
    }

    /// All of it is repaired in another way.
    pub(super) fn forget(&mut self) {
        self.losses.clear();
    }

    fn is_silent(&self, origin: Origin, now: Instant) -> bool {
        self.silent.iter().any(|(silent, until)| *silent == origin && now < *until)
    }
}

/// What becomes of a gap.
enum Turn {
    Wait,
    Ask(Positions),
    Over { is_silent: bool },
}

impl Loss {
    /// The first and the last that are missing.
    fn bounds(&self) -> (u64, u64) {
        match &self.missing[..] {
            [(first, _), .., (_, last)] | [(first, last)] => (*first, *last),
            [] => (1, 0),
        }
    }

    fn misses(&self, position: Position) -> bool {
        let number = position.sequence.get();
        self.origin == position.origin
            && self.missing.iter().any(|(first, last)| (*first..=*last).contains(&number))
    }

    fn arrived(&mut self, position: Position) {
        let number = position.sequence.get();
        if self.origin != position.origin {
            return;
        }
        let Some(at) = self.missing.iter().position(|(a, b)| (*a..=*b).contains(&number)) else {
            return;
        };
        self.goes_on = true;
        let (first, last) = self.missing[at];
        let rest = [(first, number - 1), (number + 1, last)];
        let rest = rest.into_iter().filter(|(first, last)| first <= last);
        self.missing.splice(at..=at, rest);
    }

    /// Whether an ask at `now` is a further one: some ask together with the last one, before they heard it.
    fn is_to_ask(&self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.asked_at);
        self.asked == 0 || self.asked < ASKED_AT_MOST && since >= PATIENCE / 2
    }

    fn was_asked_for(&mut self, now: Instant, chance: f64) {
        self.asked += 1;
        self.asked_at = now;
        let is_last = self.asked >= ASKED_AT_MOST;
        let spread = if is_last { Duration::ZERO } else { SPREAD.mul_f64(chance) };
        self.due = now + PATIENCE + spread;
    }

    fn turn(&mut self, now: Instant, chance: f64) -> Turn {
        if now < self.due {
            return Turn::Wait;
        }
        if now.saturating_duration_since(self.since) >= LONGEST {
            return Turn::Over { is_silent: false };
        }
        if std::mem::take(&mut self.goes_on) {
            self.due = now + PATIENCE;
            return Turn::Wait;
        }
        if self.asked >= ASKED_AT_MOST {
            return Turn::Over { is_silent: true };
        }
        self.was_asked_for(now, chance);
        let (first, last) = self.bounds();
        Positions::new(self.origin, first, last).map_or(Turn::Wait, Turn::Ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn origin(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    fn positions(first: u64, last: u64) -> Positions {
        Positions::new(origin(1), first, last).expect("in order")
    }

    fn at(number: u64) -> Position {
        Position { origin: origin(1), sequence: NonZeroU64::new(number).expect("not zero") }
    }

    fn missing(first: u64, last: u64) -> (Repair, Instant) {
        let (mut repair, now) = (Repair::default(), Instant::now());
        assert!(repair.missed(positions(first, last), now, 0.0));
        (repair, now)
    }

    #[test]
    fn a_gap_is_repaired_by_all_of_its_messages_in_any_order_and_by_no_other() {
        let (mut repair, now) = missing(3, 6);
        assert_eq!(repair.due(now, 0.0).ask, [positions(3, 6)]);
        for number in [2, 7, 4, 4, 6, 3] {
            repair.arrived(at(number));
            assert!(!repair.is_idle(), "{number}");
        }
        repair.arrived(Position { origin: origin(2), ..at(5) });
        assert!(repair.misses(at(5)) && !repair.misses(at(4)));
        repair.arrived(at(5));
        assert!(repair.is_idle() && repair.next_due().is_none());
    }

    #[test]
    fn whoever_heard_another_ask_does_not_and_asks_itself_if_no_answer_comes() {
        let (mut repair, now) = (Repair::default(), Instant::now());
        repair.missed(positions(3, 6), now, 1.0);
        repair.heard(positions(4, 6), now, 0.0);
        assert_eq!(repair.next_due(), Some(now + JITTER), "that was for a part of it");
        repair.heard(positions(1, 9), now, 0.5);
        repair.heard(positions(1, 9), now + JITTER, 1.0);
        assert_eq!(repair.due(now + JITTER, 0.0), Due::default());
        let again = now + PATIENCE + SPREAD / 2;
        assert_eq!(repair.next_due(), Some(again), "two that ask together count as one");
        assert_eq!(repair.due(again, 1.0).ask, [positions(3, 6)]);
        assert_eq!(repair.next_due(), Some(again + PATIENCE));
        repair.heard(positions(1, 9), again + PATIENCE / 2, 1.0);
        assert!(repair.due(again + PATIENCE, 0.0).is_over, "nobody prolongs it");
    }

    /// How often `replicas` that miss the same ask a publisher that is silent, if they hear each other
    /// after a millisecond; and when the last of them gives up. Someone else asks first, if so wanted.
    fn asks_of(replicas: usize, seed: u64, is_asked_before: bool) -> (usize, Duration) {
        let mut random = fastrand::Rng::with_seed(seed);
        let began = Instant::now();
        let mut fleet: Vec<Repair> = (0..replicas).map(|_| Repair::default()).collect();
        for repair in &mut fleet {
            assert!(repair.missed(positions(3, 6), began, random.f64()));
            if is_asked_before {
                repair.heard(positions(3, 6), began, random.f64());
            }
        }
        let (mut asks, mut now, mut said) = (0, began, Vec::new());
        while fleet.iter().any(|repair| !repair.is_idle()) {
            now += Duration::from_millis(1);
            let heard = std::mem::take(&mut said);
            for (number, repair) in fleet.iter_mut().enumerate() {
                for _ask in heard.iter().filter(|asker| **asker != number) {
                    repair.heard(positions(3, 6), now, random.f64());
                }
                let due = repair.due(now, random.f64());
                said.extend(due.ask.iter().map(|_| number));
                if due.is_over {
                    repair.forget();
                }
            }
            asks += said.len();
        }
        (asks, now - began)
    }

    #[test]
    fn however_many_miss_the_same_only_some_ask_a_publisher_that_is_silent() {
        for (seed, is_asked_before) in [(0, false), (1, true)] {
            let (asks, took) = asks_of(2000, seed, is_asked_before);
            assert!((1..200).contains(&asks), "{asks}");
            assert!(took <= JITTER + 2 * PATIENCE + SPREAD, "{took:?}");
        }
        assert_eq!(asks_of(1, 0, false).0, 2);
    }

    #[test]
    fn nobody_waits_for_long_for_a_publisher_that_is_silent_nor_asks_it_again_soon() {
        let (mut repair, now) = missing(1, 1);
        let mut asked = 0;
        let over = loop {
            let due_at = repair.next_due().expect("missing");
            let due = repair.due(due_at, 1.0);
            asked += due.ask.len();
            if due.is_over {
                break due_at;
            }
        };
        assert_eq!(asked, 2);
        repair.forget();
        assert!(over - now <= 3 * PATIENCE, "{:?}", over - now);
        assert!(repair.is_idle() && !repair.missed(positions(5, 5), over, 0.0));
        assert!(repair.missed(positions(5, 5), over + SILENCE, 0.0));
    }

    #[test]
    fn whoever_waits_no_longer_gives_up_all_that_is_missing() {
        let (mut repair, now) = missing(1, 5);
        for _ask in 0..2 {
            let due_at = repair.next_due().unwrap_or(now);
            assert_eq!(repair.due(due_at, 0.0).ask, [positions(1, 5)]);
        }
        let over = repair.next_due().expect("missing");
        assert!(repair.missed(positions(8, 9), over, 0.0));
        assert_eq!(repair.due(over, 0.0), Due { ask: Vec::new(), is_over: true });
        assert_eq!(repair.gap(), NonZeroU64::new(7).map(Gap::Exact));
        repair.forget();
        assert!(repair.is_idle() && repair.next_due().is_none());
    }

    #[test]
    fn an_answer_that_goes_on_is_waited_for_but_not_for_ever() {
        let (mut repair, now) = missing(1, 60_000);
        let mut number = 0;
        let over = loop {
            let due_at = repair.next_due().expect("missing");
            number += 1;
            repair.arrived(at(number));
            if repair.due(due_at, 0.0).is_over {
                break due_at;
            }
        };
        assert!(over - now >= LONGEST && over - now < LONGEST + 2 * PATIENCE);
    }

    #[test]
    fn what_no_publisher_can_keep_is_not_asked_for() {
        let mut repair = Repair::default();
        assert!(!repair.missed(positions(1, u64::MAX), Instant::now(), 0.0));
        assert!(!repair.missed(positions(1, MOST_MESSAGES + 1), Instant::now(), 0.0));
        for number in 0..=MOST_LOSSES as u64 {
            let is_taken =
                repair.missed(positions(2 * number + 1, 2 * number + 1), Instant::now(), 0.0);
            assert_eq!(is_taken, number < MOST_LOSSES as u64);
        }
    }

    #[test]
    fn what_is_gone_concerns_those_who_miss_a_part_of_it() {
        let (mut repair, _) = missing(3, 6);
        repair.arrived(at(4));
        assert!(repair.misses_any(positions(1, 3)) && repair.misses_any(positions(5, 9)));
        assert!(!repair.misses_any(positions(4, 4)) && !repair.misses_any(positions(7, 9)));
    }

    proptest! {
        #[test]
        fn nothing_is_repaired_before_all_of_it_arrived(
            gaps in prop::collection::vec((1_u64..40, 0_u64..8), 1..6),
            order in prop::collection::vec(1_u64..50, 0..400),
        ) {
            let (mut repair, now) = (Repair::default(), Instant::now());
            let mut left = std::collections::BTreeSet::new();
            for (first, more) in gaps {
                repair.missed(positions(first, first + more), now, 0.0);
                left.extend(first..=first + more);
            }
            for number in order {
                prop_assert_eq!(repair.misses(at(number)), left.remove(&number));
                repair.arrived(at(number));
                prop_assert_eq!(repair.is_idle(), left.is_empty());
            }
        }
    }
}
