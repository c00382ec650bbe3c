//! What orders the writes of one key.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Origin, WallClock};

/// Where the versions of a channel come from. Fixed when the channel is built, and carried on the
/// wire: numbers of two domains are never compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VersionDomain {
    /// A hybrid logical clock stamps each write. Needs nothing from the caller; writes of one key
    /// that two instances make within their clocks' difference may be ordered either way, the
    /// same way everywhere.
    #[default]
    Clock,
    /// The caller gives a number that grows with every write of the key: a row version, an LSN, a
    /// number drawn in a trigger. Exact, whatever the clocks say.
    Caller,
}

/// Orders the writes of one key.
///
/// At equal versions a removal wins over a put, so both orders of arrival end the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Version {
    domain: VersionDomain,
    number: u64,
    /// Breaks ties between publishers whose clocks gave the same number.
    origin: u64,
}

impl Version {
    /// A version given by the caller.
    #[must_use]
    pub const fn caller(number: u64) -> Self {
        Self { domain: VersionDomain::Caller, number, origin: 0 }
    }

    /// A version stamped by the hybrid logical clock of `origin`.
    ///
    /// `number` holds milliseconds since 1970 in its upper 48 bits and a counter in its lower 16.
    #[must_use]
    pub fn clock(number: u64, origin: Option<Origin>) -> Self {
        let origin = origin.map_or(0, Origin::get);
        Self { domain: VersionDomain::Clock, number, origin }
    }

    /// The domain that this version belongs to.
    #[must_use]
    pub const fn domain(self) -> VersionDomain {
        self.domain
    }

    /// The number that orders versions of one domain.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.number
    }

    /// What breaks ties, 0 where nothing does.
    pub(crate) const fn origin_number(self) -> u64 {
        self.origin
    }

    /// The version that has these parts.
    pub(crate) const fn of_parts(domain: VersionDomain, number: u64, origin_number: u64) -> Self {
        Self { domain, number, origin: origin_number }
    }

    /// Whether this version comes after `other`. Nothing comes after a version of another domain;
    /// everything comes after none.
    #[must_use]
    pub fn is_newer_than(self, other: Option<Self>) -> bool {
        other.is_none_or(|other| {
            self.domain == other.domain && (self.number, self.origin) > (other.number, other.origin)
        })
    }

    /// Whether this version comes before `other`: what a removal must not be, to remove.
    #[must_use]
    pub fn is_older_than(self, other: Option<Self>) -> bool {
        other.is_some_and(|other| self.domain != other.domain || other.is_newer_than(Some(self)))
    }
}

/// A hybrid logical clock: never behind the wall clock, never repeats a number, and never behind
/// a number it has heard.
///
/// Kulkarni et al., "Logical Physical Clocks", 2014, packed into 64 bits: 48 of milliseconds since
/// 1970 (until the year 10,889) and 16 of a counter, which carries into the milliseconds.
#[derive(Debug, Default)]
pub(crate) struct HybridClock {
    wall: WallClock,
    last: AtomicU64,
}

impl HybridClock {
    /// How far ahead of the wall clock a heard number may be. One day passes every clock that is
    /// merely wrong; it stops a garbage number from deciding a key for ever.
    pub(crate) const MAX_AHEAD: Duration = Duration::from_secs(24 * 3600);

    /// A clock on top of `wall`.
    pub(crate) fn new(wall: WallClock) -> Self {
        Self { wall, last: AtomicU64::default() }
    }

    /// What time the wall clock says it is.
    pub(crate) fn now(&self) -> SystemTime {
        self.wall.now()
    }

    /// The first of `count` consecutive numbers, all above what this clock gave or heard.
    pub(crate) fn tick(&self, count: u64) -> u64 {
        let now = packed(self.now());
        let first = |last: u64| now.max(last.saturating_add(1));
        let next = |last: u64| Some(first(last).saturating_add(count.saturating_sub(1)));
        let last = self.last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        first(last.unwrap_or_else(|last| last))
    }

    /// Learns a number that was heard, and returns how long ago it was given, if both wall clocks are
    /// right. `None`: it is too far ahead to be believed.
    pub(crate) fn hear(&self, number: u64) -> Option<Duration> {
        let now = self.now();
        let believable = number <= packed(now + Self::MAX_AHEAD);
        believable.then(|| {
            self.last.fetch_max(number, Ordering::Relaxed);
            let given_at = UNIX_EPOCH + Duration::from_millis(number >> 16);
            now.duration_since(given_at).unwrap_or_default()
        })
    }
}

fn packed(now: SystemTime) -> u64 {
    let millis = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    u64::try_from(millis).unwrap_or(u64::MAX).min(u64::MAX >> 16) << 16
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use proptest::prelude::*;

    /// A clock on a wall clock that shows `seconds` after 1970, and how to set that.
    fn clock() -> (HybridClock, Arc<AtomicU64>) {
        let seconds = Arc::new(AtomicU64::new(10_000));
        let shown = seconds.clone();
        let now = move || UNIX_EPOCH + Duration::from_secs(shown.load(Ordering::Relaxed));
        (HybridClock::new(WallClock::new(now)), seconds)
    }

    #[test]
    fn a_clock_that_stands_still_or_jumps_back_never_repeats_a_number() {
        let (clock, seconds) = clock();
        let ticks: Vec<u64> = [10_000, 10_000, 6_400, 6_400, 10_000]
            .map(|at| {
                seconds.store(at, Ordering::Relaxed);
                clock.tick(3)
            })
            .into();
        assert!(ticks.is_sorted_by(|a, b| a < b), "{ticks:?}");
    }

    #[test]
    fn a_write_after_hearing_a_fast_clock_is_newer_than_what_was_heard() {
        let (clock, _) = clock();
        let heard = packed(clock.now() + Duration::from_secs(3600));
        assert_eq!(clock.hear(heard), Some(Duration::ZERO), "ahead of this one");
        assert!(clock.tick(1) > heard);
    }

    #[test]
    fn a_number_from_the_far_future_is_not_believed() {
        let (clock, _) = clock();
        assert_eq!(clock.hear(u64::MAX), None);
        assert_eq!(clock.tick(1), packed(clock.now()));
    }

    #[test]
    fn versions_of_two_domains_are_never_newer_than_one_another() {
        let clock = Version::clock(u64::MAX, None);
        let caller = Version::caller(1);
        assert!(!clock.is_newer_than(Some(caller)) && !caller.is_newer_than(Some(clock)));
    }

    proptest! {
        #[test]
        fn of_two_different_versions_exactly_one_is_newer(
            a in any::<(u64, u64)>(), b in any::<(u64, u64)>(),
        ) {
            let version = |(number, origin)| Version::clock(number, Origin::from_u64(origin));
            let (a, b) = (version(a), version(b));
            let newer = u8::from(a.is_newer_than(Some(b))) + u8::from(b.is_newer_than(Some(a)));
            prop_assert_eq!(newer, u8::from(a != b));
            prop_assert_eq!(a.is_older_than(Some(b)), b.is_newer_than(Some(a)));
        }
    }
}
