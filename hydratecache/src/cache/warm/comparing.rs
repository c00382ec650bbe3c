//! Which parts of a digest are still to come, and when which are asked for. A state machine without I/O.
//!
//! Many may compare themselves by the same digest. Who hears that another one asks for what it needs
//! itself does not ask.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::asking::random;
use super::digest::Level;
use super::taking::{AGAIN, HOLE, PATIENCE};
use crate::Origin;
use crate::request::MOST_PARTS;

/// How many parts are asked for with one request: some 2 KiB at most.
pub(super) const AT_ONCE: usize = MOST_PARTS;

/// Of so many parts, each is asked for when it is due; the others wait.
const WINDOW: usize = 2_048;

/// A digest that is being taken.
pub(super) struct Comparing {
    digest: Origin,
    /// What is to come, and when it is asked for.
    wanted: BTreeMap<(Level, u64), Instant>,
    until: Instant,
}

impl Comparing {
    /// Nothing of `digest` has come yet.
    pub(super) fn begin(digest: Origin, now: Instant) -> Self {
        let wanted = BTreeMap::from([((Level::Groups, 0), now + random(HOLE))]);
        Self { digest, wanted, until: now + PATIENCE }
    }

    pub(super) fn digest(&self) -> Origin {
        self.digest
    }

    /// These are needed as well.
    pub(super) fn wants(
        &mut self,
        level: Level,
        numbers: impl IntoIterator<Item = u64>,
        now: Instant,
    ) {
        let at = now + random(HOLE);
        for number in numbers {
            self.wanted.entry((level, number)).or_insert(at);
        }
        // To find that out took some time.
        self.until = self.until.max(now + PATIENCE);
    }

    /// Whether nothing is to come any more.
    pub(super) fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// When there is something to do.
    pub(super) fn next_due(&self) -> Instant {
        self.wanted.values().take(WINDOW).copied().fold(self.until, Instant::min)
    }

    /// Whether nothing has come for too long.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.until
    }

    /// What is to be asked for at `now`.
    pub(super) fn due(&mut self, now: Instant) -> Option<(Level, Vec<u64>)> {
        let again = now + AGAIN + random(AGAIN);
        let mut asked: Option<(Level, Vec<u64>)> = None;
        for ((level, number), at) in self.wanted.iter_mut().take(WINDOW) {
            if *at > now {
                continue;
            }
            let (of, numbers) = asked.get_or_insert_with(|| (*level, Vec::new()));
            if of != level || numbers.len() == AT_ONCE {
                break;
            }
            numbers.push(*number);
            *at = again;
        }
        asked
    }

    /// Somebody asks for these parts.
    pub(super) fn heard(&mut self, level: Level, numbers: &[u64], now: Instant) {
        let again = now + AGAIN + random(AGAIN);
        for number in numbers {
            if let Some(at) = self.wanted.get_mut(&(level, *number)) {
                *at = (*at).max(again);
            }
        }
    }

    /// A part has come. `false`: it was not needed, or came before.
    pub(super) fn received(&mut self, level: Level, number: u64, now: Instant) -> bool {
        let is_new = self.wanted.remove(&(level, number)).is_some();
        if is_new {
            self.until = now + PATIENCE;
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn begun() -> (Comparing, Instant) {
        let now = Instant::now();
        (Comparing::begin(Origin::from_u64(9).expect("not zero"), now), now)
    }

    /// What is asked for next, and when.
    fn next(comparing: &mut Comparing) -> (Instant, (Level, Vec<u64>)) {
        let now = comparing.next_due();
        assert!(!comparing.is_over(now));
        (now, comparing.due(now).expect("it is due"))
    }

    #[test]
    fn what_is_needed_is_asked_for_until_it_came_and_counts_once() {
        let (mut comparing, now) = begun();
        assert_eq!(next(&mut comparing).1, (Level::Groups, vec![0]));
        let (at, asked) = next(&mut comparing);
        assert_eq!(asked, (Level::Groups, vec![0]), "it was lost");
        assert!(at >= now + AGAIN && at <= now + HOLE + 2 * AGAIN);
        assert!(comparing.received(Level::Groups, 0, at));
        assert!(!comparing.received(Level::Groups, 0, at) && comparing.is_complete());
        comparing.wants(Level::Hashes, [4, 7], at);
        comparing.wants(Level::Entry, [1], at);
        let mut levels = vec![next(&mut comparing).1];
        levels.extend((0..2).filter_map(|_| comparing.due(at + HOLE)));
        levels.sort_unstable();
        assert_eq!(levels, [(Level::Hashes, vec![4, 7]), (Level::Entry, vec![1])]);
        assert!(!comparing.received(Level::Entry, 4, at), "another level");
    }

    #[test]
    fn who_hears_another_one_ask_does_not_ask_soon() {
        let (mut comparing, now) = begun();
        comparing.heard(Level::Groups, &[0, 1], now);
        assert!(comparing.next_due() >= now + AGAIN);
        assert_eq!(next(&mut comparing).1, (Level::Groups, vec![0]), "but nothing came");
    }

    #[test]
    fn nobody_waits_for_a_sender_that_is_silent_nor_asks_for_too_much_at_once() {
        let (mut comparing, now) = begun();
        comparing.received(Level::Groups, 0, now);
        comparing.wants(Level::Entry, 0..10_000, now);
        let mut asked = 0;
        while let Some((_, numbers)) = comparing.due(now + HOLE) {
            assert!(numbers.len() <= AT_ONCE);
            asked += numbers.len();
        }
        assert_eq!(asked, WINDOW);
        comparing.received(Level::Entry, 5, now + PATIENCE / 2);
        assert!(!comparing.is_over(now + PATIENCE) && comparing.is_over(now + 2 * PATIENCE));
    }
}
