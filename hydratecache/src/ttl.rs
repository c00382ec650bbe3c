//! How long a value may live, counted from when its source data was born.

use std::num::NonZeroU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::{Error, ErrorKind, Result};

/// When the source data was born and how long it may live.
///
/// A TTL travels with its message, so that a value which spent time in a queue does not start its
/// life anew at each receiver. Both parts have microsecond precision; smaller parts are cut off.
///
/// ```
/// use std::time::Duration;
/// use hydratecache::Ttl;
///
/// let ttl = Ttl::starting_now(Duration::from_secs(1800))?;
/// assert_eq!(ttl.duration(), Duration::from_secs(1800));
/// assert!(Ttl::starting_now(Duration::ZERO).is_err());
/// # Ok::<(), hydratecache::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ttl {
    start_micros: u64,
    duration_micros: NonZeroU64,
}

impl Ttl {
    /// A life of `duration` that began at `start`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTtl`] if `duration` is under one microsecond, if `start` lies before
    /// 1970, or if the end does not fit into 63 bits of microseconds (about the year 294,000).
    pub fn new(start: SystemTime, duration: Duration) -> Result<Self> {
        let since_epoch = start.duration_since(UNIX_EPOCH).map_err(|_| {
            invalid("starts before 1970; give the time at which the source data was born")
        })?;
        let too_large = |_| invalid("is too large; leave it out for a value without an end");
        let start = u64::try_from(since_epoch.as_micros()).map_err(too_large)?;
        let duration = u64::try_from(duration.as_micros()).map_err(too_large)?;
        Self::from_micros(start, duration)
    }

    /// A life of `duration` that begins now.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn starting_now(duration: Duration) -> Result<Self> {
        Self::new(SystemTime::now(), duration)
    }

    /// From the wire's form: microseconds since 1970, and microseconds. For authors of transports.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn from_micros(start_micros: u64, duration_micros: u64) -> Result<Self> {
        let Some(duration_micros) = NonZeroU64::new(duration_micros) else {
            return Err(invalid("is zero; to drop a value, remove its key"));
        };
        match start_micros.checked_add(duration_micros.get()) {
            Some(end) if i64::try_from(end).is_ok() => Ok(Self { start_micros, duration_micros }),
            _ => Err(invalid("ends after the end of time; leave it out for a value without one")),
        }
    }

    /// The wire's form: when it starts in microseconds since 1970, and its duration in microseconds.
    #[must_use]
    pub const fn to_micros(self) -> (u64, u64) {
        (self.start_micros, self.duration_micros.get())
    }

    /// When the source data was born, by the publisher's clock.
    #[must_use]
    pub fn start(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.start_micros)
    }

    /// How long the value may live from its start.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.duration_micros.get())
    }

    /// What is left at a receiver whose clock says `now`: `min(duration, start + duration - now)`.
    ///
    /// A start in the receiver's future counts as `now`: a publisher's clock that is ahead cannot
    /// lengthen a life.
    #[must_use]
    pub fn remaining(&self, now: SystemTime) -> Remaining {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_micros();
        let now = u64::try_from(now).unwrap_or(u64::MAX);
        let age = now.saturating_sub(self.start_micros);
        match self.duration_micros.get().checked_sub(age) {
            None | Some(0) => Remaining::Expired,
            Some(left) => Remaining::Alive {
                left: Duration::from_micros(left),
                from_the_future: now < self.start_micros,
            },
        }
    }
}

fn invalid(what: &str) -> Error {
    Error::new(ErrorKind::InvalidTtl, format!("the TTL {what}"))
}

/// What is left of a [`Ttl`] at a receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remaining {
    /// The value lives on.
    Alive {
        /// For this long.
        left: Duration,
        /// The start lay in the receiver's future and was taken as now: one of the two clocks is
        /// wrong.
        from_the_future: bool,
    },
    /// The value's life was over before it arrived.
    Expired,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn zero_too_early_and_overflowing_lives_are_refused() {
        let now = SystemTime::now();
        for (start, duration) in [
            (now, Duration::ZERO),
            (now, Duration::from_nanos(999)),
            (UNIX_EPOCH.checked_sub(HOUR).expect("before 1970"), HOUR),
            (now, Duration::MAX),
            (now, Duration::from_micros(i64::MAX as u64)),
        ] {
            let error = Ttl::new(start, duration).expect_err("must be refused");
            assert_eq!(error.kind(), ErrorKind::InvalidTtl);
        }
    }

    #[test]
    fn a_start_in_the_future_is_clamped_and_said() {
        let now = SystemTime::now();
        let ttl = Ttl::new(now + HOUR, HOUR).expect("legal");
        assert_eq!(ttl.remaining(now), Remaining::Alive { left: HOUR, from_the_future: true });
    }

    #[test]
    fn a_life_that_ended_in_flight_is_expired() {
        let now = SystemTime::now();
        let ttl = Ttl::new(now - HOUR, Duration::from_millis(3_599_999)).expect("legal");
        assert_eq!(ttl.remaining(now), Remaining::Expired);
    }

    proptest! {
        #[test]
        fn remaining_never_exceeds_the_duration_and_never_grows(
            start in 0_u64..1 << 62, duration in 1_u64..1 << 61, now in 0_u64..1 << 62, later in 0_u64..1 << 40,
        ) {
            let ttl = Ttl::from_micros(start, duration).expect("legal");
            let left = |at: u64| match ttl.remaining(UNIX_EPOCH + Duration::from_micros(at)) {
                Remaining::Alive { left, .. } => left,
                Remaining::Expired => Duration::ZERO,
            };
            prop_assert!(left(now) <= ttl.duration());
            prop_assert!(left(now + later) <= left(now));
        }
    }
}
