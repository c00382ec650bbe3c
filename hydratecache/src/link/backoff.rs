//! The pauses between attempts to connect.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The pauses, without end: from 50 ms to half a second, so that a restarted server is noticed
/// within a second, and with jitter, so that a fleet does not knock all at once.
pub(super) struct Pauses(ExponentialBackoff);

/// Jitter adds up to as much again.
const LONGEST: Duration = Duration::from_millis(500);

impl Pauses {
    pub(super) fn new() -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(LONGEST / 2)
            .with_jitter()
            .without_max_times();
        Self(builder.build())
    }

    pub(super) fn next(&mut self) -> Duration {
        self.0.next().unwrap_or(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_links_pause_alike() {
        let pauses = || {
            let mut pauses = Pauses::new();
            [(); 4].map(|()| pauses.next())
        };
        assert_ne!(pauses(), pauses());
    }

    #[test]
    fn pauses_grow_to_half_a_second_and_never_end() {
        let mut pauses = Pauses::new();
        assert!((50..=100).contains(&pauses.next().as_millis()));
        for _ in 0..10_000 {
            assert!(pauses.next() <= LONGEST);
        }
        assert!(pauses.next() >= LONGEST / 2);
    }
}
