//! The end of an entry's life, in half the room of an `Instant`: a replica holds one for each key.

use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// Deadlines count from a day before the first one that was made. Not from that one: Tokio's clock
/// can be paused and set forward, in each test by itself, and then others are behind.
static BEGIN: LazyLock<Instant> = LazyLock::new(|| {
    let now = std::time::Instant::now();
    Instant::from_std(now.checked_sub(Duration::from_secs(86_400)).unwrap_or(now))
});

/// A point on the monotonic clock: nanoseconds since [`BEGIN`], for up to 584 years.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline(NonZeroU64);

impl Deadline {
    /// The deadline at `instant`. What lies before all deadlines has passed, as the first one has.
    pub(super) fn at(instant: Instant) -> Self {
        let since = instant.saturating_duration_since(*BEGIN).as_nanos();
        let nanoseconds = u64::try_from(since).unwrap_or(u64::MAX);
        Self(NonZeroU64::new(nanoseconds).unwrap_or(NonZeroU64::MIN))
    }

    /// As [`at`](Self::at); none for what lies before all deadlines.
    pub(super) fn of(instant: Instant) -> Option<Self> {
        instant.checked_duration_since(*BEGIN).map(|_| Self::at(instant))
    }

    pub(super) fn instant(self) -> Instant {
        *BEGIN + Duration::from_nanos(self.0.get())
    }

    /// The same point, to be stored in an atomic.
    pub(super) fn nanoseconds(self) -> u64 {
        self.0.get()
    }

    /// The point that [`nanoseconds`](Self::nanoseconds) gave; none for 0.
    pub(super) fn from_nanoseconds(nanoseconds: u64) -> Option<Self> {
        NonZeroU64::new(nanoseconds).map(Self)
    }

    pub(super) fn has_passed(self) -> bool {
        self.instant() <= Instant::now()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_is_the_instant_that_it_was_made_of() {
        let now = Instant::now();
        let soon = Deadline::at(now + Duration::from_secs(60));
        assert_eq!(Deadline::at(soon.instant()), soon);
        assert!(soon > Deadline::at(now) && !soon.has_passed());
        let later = soon.instant().saturating_duration_since(now);
        assert!(later <= Duration::from_secs(60), "{later:?}");
    }

    #[test]
    fn what_lies_before_all_deadlines_has_passed() {
        let past = Instant::now().checked_sub(Duration::from_secs(1)).unwrap_or_else(Instant::now);
        assert!(Deadline::at(past).has_passed());
    }

    #[test]
    fn an_end_takes_eight_bytes() {
        assert_eq!(size_of::<Option<Deadline>>(), 8);
    }
}
