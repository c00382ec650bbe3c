//! The end of an entry's life, in half the room of an `Instant`: a replica holds one for each key.

use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::Instant;

/// Deadlines count from the first one that was made.
static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

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

    pub(super) fn instant(self) -> Instant {
        *BEGIN + Duration::from_nanos(self.0.get())
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
        let soon = Deadline::at(now + Duration::from_millis(1500));
        assert_eq!(Deadline::at(soon.instant()), soon);
        assert!(soon > Deadline::at(now) && !soon.has_passed());
        let later = soon.instant().saturating_duration_since(now);
        assert!(later <= Duration::from_millis(1500), "{later:?}");
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
