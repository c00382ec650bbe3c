//! When the lives of arriving values end, whatever the clocks of their publishers say.
//!
//! A publisher says how old its value was when it was sent, by its own wall clock, and how long it had
//! been running by then, on its monotonic clock. Nobody else has to trust either: the first is a
//! difference of two readings of one clock, and where the second begins is estimated here. The time of
//! an arrival on our monotonic clock, less what its publisher had been running for, is the *offset* of
//! the two clocks plus the time that the message took. That time is never negative, so the least of
//! such samples is the best one, and never below the offset: a life that is dated by it does not end
//! early, and ends late by the shortest time that a message of its publisher took lately.
//!
//! Monotonic clocks do not jump, but they drift, and stand still while their machine is suspended. So
//! the least is that of the last one or two minutes.
//!
//! A state machine without I/O.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::message::{Dating, Sent};
use crate::{Message, Origin};

/// Of how long a time the least sample is taken: at least this, at most twice. Two clocks that drift
/// apart by as much as clocks are slewed (500 ppm each) differ by 0.12 s then.
const WINDOW: Duration = Duration::from_secs(60);

/// A message that may have waited for longer than this dates nothing: a broker that keeps messages
/// brings those of a whole outage behind it. More than the time in which a dead link is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How many publishers are followed, at some 48 bytes each. Messages of others are dated by themselves.
const MOST: usize = 16_384;

/// Estimates the offset of each publisher's monotonic clock.
#[derive(Debug)]
pub(super) struct OriginClocks {
    /// Times are counted from here, in microseconds.
    begin: Instant,
    /// What arrives now was accepted by the broker after this.
    accepted_since: Option<Instant>,
    origins: HashMap<Origin, Window, foldhash::fast::RandomState>,
    capacity: usize,
    swept_at: Micros,
}

/// Microseconds on this process's monotonic clock, or a difference of such times.
type Micros = i64;

/// The samples of one publisher.
#[derive(Debug, Clone, Copy)]
struct Window {
    latest: Least,
    before: Option<Least>,
}

/// The least of the samples of one [`WINDOW`].
#[derive(Debug, Clone, Copy)]
struct Least {
    began_at: Micros,
    offset: Micros,
}

impl OriginClocks {
    pub(super) fn new() -> Self {
        Self::with_capacity(MOST)
    }

    fn with_capacity(capacity: usize) -> Self {
        Self {
            begin: Instant::now(),
            accepted_since: None,
            origins: HashMap::default(),
            capacity,
            swept_at: 0,
        }
    }

    /// What arrives from now on was accepted by the broker after `instant`.
    pub(super) fn accepted_since(&mut self, instant: Instant) {
        self.accepted_since = self.accepted_since.max(Some(instant));
    }

    /// Learns from `message`, which arrives at `now`, and writes the end of its value's life into it,
    /// if that can be told.
    pub(super) fn arrived(&mut self, message: &mut Message, now: Instant) {
        let (Dating::Sent(sent), Some(origin)) = (message.dating, message.origin) else {
            return;
        };
        let (Some(offset), Some(ttl), Some(age)) =
            (self.offset(origin, sent, now), message.ttl, sent.age())
        else {
            return;
        };
        let under_way = self.at(now).saturating_sub(offset).saturating_sub(sent.elapsed_micros());
        // Not below zero: no offset is above the message's own sample.
        let under_way = Duration::from_micros(under_way.unsigned_abs());
        let left = ttl.duration().saturating_sub(age).saturating_sub(under_way);
        // A life that no clock can hold is left to the hydrator.
        if let Some(ends_at) = now.checked_add(left) {
            message.dating = Dating::EndsAt(ends_at);
        }
    }

    /// The least of the publisher's samples, the one that arrives with `sent` included; `None` if
    /// nothing is known of it.
    fn offset(&mut self, origin: Origin, sent: Sent, now: Instant) -> Option<Micros> {
        let is_prompt =
            self.accepted_since.is_some_and(|since| now.duration_since(since) <= LONGEST_WAIT);
        let now = self.at(now);
        let sample = now.saturating_sub(sent.elapsed_micros());
        let known = self.origins.get_mut(&origin).filter(|window| window.is_fresh(now));
        match known {
            Some(window) if is_prompt => Some(window.sample(now, sample)),
            Some(window) => window.least(now).map(|least| least.min(sample)),
            None if is_prompt => {
                self.follow(origin, Window::new(now, sample), now);
                Some(sample)
            }
            None => None,
        }
    }

    fn follow(&mut self, origin: Origin, window: Window, now: Micros) {
        let is_full = self.origins.len() >= self.capacity && !self.origins.contains_key(&origin);
        if is_full && now.saturating_sub(self.swept_at) >= micros(WINDOW) {
            // Once a window at most, so that a flood of publishers costs little each.
            self.swept_at = now;
            self.origins.retain(|_, window| window.is_fresh(now));
        }
        if self.origins.len() < self.capacity || self.origins.contains_key(&origin) {
            self.origins.insert(origin, window);
        }
    }

    fn at(&self, instant: Instant) -> Micros {
        micros(instant.saturating_duration_since(self.begin))
    }
}

impl Window {
    fn new(now: Micros, sample: Micros) -> Self {
        Self { latest: Least { began_at: now, offset: sample }, before: None }
    }

    /// Takes a sample in, and returns the least.
    fn sample(&mut self, now: Micros, sample: Micros) -> Micros {
        if now.saturating_sub(self.latest.began_at) > micros(WINDOW) {
            self.before = Some(self.latest);
            self.latest = Least { began_at: now, offset: sample };
        }
        self.latest.offset = self.latest.offset.min(sample);
        self.least(now).unwrap_or(sample)
    }

    fn least(&self, now: Micros) -> Option<Micros> {
        let fresh = [Some(self.latest), self.before].into_iter().flatten();
        fresh.filter(|least| least.is_fresh(now)).map(|least| least.offset).min()
    }

    fn is_fresh(&self, now: Micros) -> bool {
        self.latest.is_fresh(now)
    }
}

impl Least {
    fn is_fresh(&self, now: Micros) -> bool {
        now.saturating_sub(self.began_at) <= micros(2 * WINDOW)
    }
}

impl Default for OriginClocks {
    fn default() -> Self {
        Self::new()
    }
}

fn micros(duration: Duration) -> Micros {
    Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    use crate::{Key, Ttl};

    const LIFE: Duration = Duration::from_secs(600);
    const SECOND: Duration = Duration::from_secs(1);

    fn origin(number: u64) -> Origin {
        Origin::from_u64(number).expect("not zero")
    }

    fn message(from: u64, elapsed: Duration, age: Duration) -> Message {
        let ttl = Ttl::from_micros(1, micros(LIFE).unsigned_abs()).expect("legal");
        let mut message = Message::put(Key::new("k").expect("legal"), Bytes::new())
            .with_ttl(ttl)
            .with_sent(Sent::new(elapsed, Some(age)));
        message.origin = Some(origin(from));
        message
    }

    /// When the life of a value of age 0 ends that was sent at `elapsed` and arrives at `now`.
    fn end(clocks: &mut OriginClocks, elapsed: Duration, now: Instant) -> Option<Instant> {
        let mut message = message(1, elapsed, Duration::ZERO);
        clocks.arrived(&mut message, now);
        message.ends_at()
    }

    /// Clocks of a subscription that is proven as of its beginning.
    fn clocks() -> (OriginClocks, Instant) {
        let mut clocks = OriginClocks::new();
        let begin = clocks.begin;
        clocks.accepted_since(begin);
        (clocks, begin)
    }

    #[test]
    fn a_message_that_was_held_up_is_dated_by_the_quick_ones_before_it() {
        let (mut clocks, begin) = clocks();
        let running = Duration::from_secs(86_400);
        // One millisecond under way, then five seconds.
        let quick = begin + SECOND;
        let sent = quick - Duration::from_millis(1);
        assert_eq!(end(&mut clocks, running, quick), Some(quick + LIFE));
        let slow = end(&mut clocks, running + SECOND, sent + 6 * SECOND);
        assert_eq!(slow, Some(quick + SECOND + LIFE), "late by the quick one's millisecond");
    }

    #[test]
    fn what_may_have_waited_long_dates_nothing_until_a_fence_has_passed() {
        let (mut clocks, begin) = clocks();
        let now = begin + LONGEST_WAIT + SECOND;
        assert_eq!(end(&mut clocks, SECOND, now), None);
        clocks.accepted_since(now);
        assert_eq!(end(&mut clocks, 2 * SECOND, now + SECOND), Some(now + SECOND + LIFE));
        let later = now + 2 * LONGEST_WAIT;
        let known = end(&mut clocks, 3 * SECOND, later);
        assert_eq!(known, Some(now + 2 * SECOND + LIFE), "the publisher is known by now");
    }

    #[test]
    fn the_age_at_sending_counts_and_a_life_that_is_over_ends_now() {
        let (mut clocks, begin) = clocks();
        for (age, left) in
            [(Duration::ZERO, LIFE), (SECOND, LIFE.saturating_sub(SECOND)), (LIFE, Duration::ZERO)]
        {
            let mut message = message(1, SECOND, age);
            clocks.arrived(&mut message, begin);
            assert_eq!(message.ends_at(), Some(begin + left));
        }
        let mut message = message(1, SECOND, Duration::MAX);
        clocks.arrived(&mut message, begin);
        assert_eq!(message.ends_at(), Some(begin));
    }

    #[test]
    fn a_publisher_whose_machine_was_suspended_is_followed_within_two_windows() {
        let (mut clocks, begin) = clocks();
        let suspended = Duration::from_secs(3600);
        let (mut now, mut elapsed) = (begin, Duration::ZERO);
        let mut off = |pause: Duration, ran: Duration| {
            (now, elapsed) = (now + pause, elapsed + ran);
            clocks.accepted_since(now);
            let end = end(&mut clocks, elapsed, now).expect("known");
            (now + LIFE).duration_since(end)
        };
        assert_eq!(off(SECOND, SECOND), Duration::ZERO);
        // It is an hour older by its own clock after a second of ours, and the reverse.
        assert_eq!(off(SECOND, suspended), Duration::ZERO, "ahead: at once");
        assert_eq!(off(suspended, SECOND), Duration::ZERO, "behind, after two windows: at once");
        assert_eq!(off(30 * SECOND, SECOND), 29 * SECOND, "behind, sooner: for a while");
        let mut waited = Duration::ZERO;
        while off(SECOND, SECOND) > Duration::ZERO {
            waited += SECOND;
        }
        assert!(waited <= 2 * WINDOW, "{waited:?}");
    }

    #[test]
    fn room_is_bounded_and_the_dead_are_forgotten() {
        let mut clocks = OriginClocks::with_capacity(100);
        let begin = clocks.begin;
        clocks.accepted_since(begin);
        for number in 1..=1000 {
            let mut message = message(number, SECOND, Duration::ZERO);
            clocks.arrived(&mut message, begin);
            assert!(message.ends_at().is_some(), "dated by itself");
            assert!(clocks.origins.len() <= 100);
        }
        let later = begin + 3 * WINDOW;
        clocks.accepted_since(later);
        clocks.arrived(&mut message(2000, SECOND, Duration::ZERO), later);
        assert_eq!(clocks.origins.len(), 1);
        assert!(clocks.origins.contains_key(&origin(2000)));
    }

    #[test]
    fn absurd_numbers_neither_panic_nor_prolong_a_life() {
        let (mut clocks, begin) = clocks();
        for elapsed in [Duration::MAX, Duration::ZERO, Duration::MAX] {
            let ends_at = end(&mut clocks, elapsed, begin).expect("prompt");
            assert!(ends_at <= begin + LIFE);
        }
    }

    proptest! {
        /// The claim: never early, and late by no more than the least time that a message took which
        /// arrived within the last window, the value's own included.
        #[test]
        fn a_life_never_ends_early_and_late_by_the_shortest_way_of_late(
            steps in prop::collection::vec((0_u64..40_000_000, 0_u64..20_000_000, 0_u64..700_000_000), 1..60),
            began in 0_u64..4_000_000_000,
        ) {
            let (mut clocks, begin) = clocks();
            let micro = Duration::from_micros;
            let (mut sent_at, mut arrived_at) = (begin, begin);
            let mut arrivals: Vec<(Instant, Duration)> = Vec::new();
            for (pause, took, age) in steps {
                sent_at += micro(pause);
                // In order, as a publisher's messages come.
                arrived_at = arrived_at.max(sent_at + micro(took));
                clocks.accepted_since(arrived_at);
                arrivals.push((arrived_at, arrived_at.duration_since(sent_at)));
                let elapsed = micro(began) + sent_at.duration_since(begin);
                let mut message = message(1, elapsed, micro(age));
                clocks.arrived(&mut message, arrived_at);
                let ends_at = message.ends_at().expect("prompt");
                let Some(truth) = LIFE.checked_sub(micro(age)).map(|left| sent_at + left) else {
                    prop_assert_eq!(ends_at, arrived_at);
                    continue;
                };
                let recent = arrivals.iter().filter(|(at, _)| *at + WINDOW >= arrived_at);
                let shortest = recent.map(|(_, took)| *took).min().expect("its own");
                let rounding = Duration::from_micros(2);
                prop_assert!(ends_at + rounding >= truth.max(arrived_at));
                prop_assert!(ends_at <= (truth + shortest).max(arrived_at) + rounding);
            }
        }
    }
}
