//! Which chunks of a copy have come, and when which are asked for. A state machine without I/O.
//!
//! Many may take the same copy. Who hears that another one asks for what it needs itself does not ask.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use super::asking::random;
use crate::Origin;

/// How many chunks are asked for at once. Half of them are still to come when the next are asked for.
const WINDOW: u64 = 64;

/// A copy has halted after so long without a chunk.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Nobody asks for more chunks later than this: a fraction of the time that half a window takes.
const SOON: Duration = Duration::from_millis(5);

/// A chunk that is missing before others is asked for within this, which is random in order that
/// of many who miss it some ask before they hear of each other.
pub(super) const HOLE: Duration = Duration::from_millis(50);

/// What was asked for and did not come is asked for again after this, and as long again at random.
pub(super) const AGAIN: Duration = Duration::from_millis(500);

/// How many chunks may come before one that is missing.
const MOST_BEYOND: usize = 65_536;

/// A copy that is being taken.
pub(super) struct Taking {
    copy: Origin,
    /// All before this one have come.
    next: u64,
    /// These have come as well.
    beyond: BTreeSet<u64>,
    /// The last one, once that has come.
    last: Option<u64>,
    /// All up to this one were asked for, by anyone.
    asked: u64,
    more_at: Option<Instant>,
    again_at: Instant,
    until: Instant,
}

/// What a chunk is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// One that had not come yet.
    New,
    /// With it, all have come.
    Complete,
    /// One that had.
    Old,
}

impl Taking {
    /// Nothing of `copy` has come yet.
    pub(super) fn begin(copy: Origin, now: Instant) -> Self {
        Self {
            copy,
            next: 1,
            beyond: BTreeSet::new(),
            last: None,
            asked: 0,
            more_at: Some(now + random(SOON)),
            again_at: now + AGAIN + random(AGAIN),
            until: now + PATIENCE,
        }
    }

    pub(super) fn copy(&self) -> Origin {
        self.copy
    }

    /// When there is something to do.
    pub(super) fn next_due(&self) -> Instant {
        self.more_at.into_iter().fold(self.again_at.min(self.until), Instant::min)
    }

    /// Whether nothing has come for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// Which chunks are to be asked for at `now`: first and last.
    pub(super) fn due(&mut self, now: Instant) -> Option<(u64, u64)> {
        if self.more_at.is_some_and(|at| now >= at) {
            let first = self.asked + 1;
            self.asked += WINDOW;
            self.more_at = None;
            return Some((first, self.asked));
        }
        if now < self.again_at {
            return None;
        }
        self.again_at = now + AGAIN + random(AGAIN);
        let end = self.beyond.first().map_or(u64::MAX, |beyond| beyond - 1);
        let last = end.min(self.next + WINDOW - 1);
        self.asked = self.asked.max(last);
        Some((self.next, last))
    }

    /// Somebody asks for these chunks.
    pub(super) fn heard(&mut self, first: u64, last: u64, now: Instant) {
        self.asked = self.asked.max(last);
        if !self.is_short() {
            self.more_at = None;
        }
        if (first..=last).contains(&self.next) {
            self.again_at = self.again_at.max(now + AGAIN + random(AGAIN));
        }
    }

    /// A chunk has come.
    pub(super) fn received(&mut self, number: u64, is_last: bool, now: Instant) -> Received {
        let is_old = number < self.next || self.beyond.contains(&number);
        if is_old || self.beyond.len() >= MOST_BEYOND {
            return Received::Old;
        }
        self.beyond.insert(number);
        while self.beyond.first() == Some(&self.next) {
            self.beyond.pop_first();
            self.next += 1;
        }
        self.last = self.last.or(is_last.then_some(number));
        if self.last.is_some_and(|last| last < self.next) {
            return Received::Complete;
        }
        self.until = now + PATIENCE;
        self.again_at = if self.beyond.is_empty() {
            now + AGAIN + random(AGAIN)
        } else {
            self.again_at.min(now + HOLE + random(HOLE))
        };
        if self.more_at.is_none() && self.is_short() {
            self.more_at = Some(now + random(SOON));
        }
        Received::New
    }

    /// Whether more are to be asked for, so that the sender need not wait.
    fn is_short(&self) -> bool {
        let highest = self.beyond.last().copied().unwrap_or(self.next - 1);
        self.last.is_none() && highest + WINDOW / 2 >= self.asked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn begun() -> (Taking, Instant) {
        let now = Instant::now();
        (Taking::begin(Origin::from_u64(9).expect("not zero"), now), now)
    }

    /// What is asked for next, and when.
    fn next(taking: &mut Taking) -> (Instant, (u64, u64)) {
        loop {
            let now = taking.next_due();
            assert!(!taking.is_over(now));
            if let Some(asked) = taking.due(now) {
                return (now, asked);
            }
        }
    }

    #[test]
    fn what_comes_in_order_is_asked_for_ahead() {
        let (mut taking, now) = begun();
        assert_eq!(next(&mut taking).1, (1, WINDOW));
        for number in 1..WINDOW / 2 {
            assert_eq!(taking.received(number, false, now), Received::New);
        }
        assert!(taking.next_due() >= now + AGAIN);
        taking.received(WINDOW / 2, false, now);
        let (at, asked) = next(&mut taking);
        assert_eq!(asked, (WINDOW + 1, 2 * WINDOW));
        assert!(at <= now + SOON);
        for number in WINDOW / 2 + 1..=99 {
            assert_eq!(taking.received(number, false, now), Received::New);
            assert_eq!(taking.received(number, false, now), Received::Old);
        }
        assert_eq!(taking.received(100, true, now), Received::Complete);
    }

    #[test]
    fn a_lost_chunk_is_asked_for_by_its_number_and_the_copy_is_not_complete_without_it() {
        let (mut taking, now) = begun();
        next(&mut taking);
        for number in [1, 2, 5, 6, 8] {
            taking.received(number, false, now);
        }
        let (at, asked) = next(&mut taking);
        assert_eq!(asked, (3, 4));
        assert!(at <= now + 2 * HOLE);
        assert_eq!(taking.received(9, true, at), Received::New);
        assert_eq!(taking.received(4, false, at), Received::New);
        assert_eq!(next(&mut taking).1, (3, 3));
        assert_eq!(taking.received(3, false, at), Received::New);
        assert_eq!(next(&mut taking).1, (7, 7));
        assert_eq!(taking.received(7, false, at), Received::Complete);
    }

    #[test]
    fn who_hears_another_one_ask_does_not_ask() {
        let (mut taking, now) = begun();
        taking.heard(1, WINDOW, now);
        assert!(taking.next_due() >= now + AGAIN);
        for number in [1, 2, 4] {
            taking.received(number, false, now);
        }
        assert!(taking.next_due() <= now + 2 * HOLE);
        taking.heard(3, 3, now);
        assert!(taking.next_due() >= now + AGAIN);
        let (_, asked) = next(&mut taking);
        assert_eq!(asked, (3, 3), "but it was lost again");
    }

    #[test]
    fn a_question_or_a_tail_that_was_lost_is_asked_for_again_until_nobody_sends() {
        let (mut taking, now) = begun();
        next(&mut taking);
        let (at, asked) = next(&mut taking);
        assert_eq!(asked, (1, WINDOW));
        assert!(at <= now + SECOND);
        taking.received(1, false, at);
        assert_eq!(next(&mut taking).1, (2, WINDOW + 1));
        assert!(taking.is_over(at + PATIENCE) && !taking.is_over(at));
    }
}
