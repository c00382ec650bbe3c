//! What a read makes of an entry. Decisions without I/O.

use std::time::Duration;

use tokio::time::Instant;

use crate::cache::State;
use crate::{Error, ErrorKind, Result};

/// What reads return of suspect entries: of all while the link is lost, and while a gap is not repaired of those
/// that were stored before it. Nobody knows which of these are stale; every read says that the cache is suspect.
///
/// What was stored after the gap is served as ever: its message, a replay or a load brought it. A lost write of the
/// same key that is newer all the same, because its publisher was ahead of another, comes with the repair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhileSuspect {
    /// What the cache has. Costs nothing; entries may be as old as the outage.
    #[default]
    Serve,
    /// What the cache has, for so long after the cache became suspect; then as
    /// [`Miss`](Self::Miss).
    ServeFor(Duration),
    /// What the cache has to [`get`](super::Hydrated::get) and [`read`](super::Hydrated::read);
    /// [`get_or_load`](super::Hydrated::get_or_load) asks the source, and serves what the cache has
    /// only where the source fails. Costs the source every such read, one at a time for each key.
    Revalidate,
    /// Nothing: every read is a miss, and `get_or_load` asks the source. Costs what
    /// [`Revalidate`](Self::Revalidate) does, and an answer where the source fails too.
    Miss,
}

/// What readers are promised.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) read_limit: Duration,
    pub(super) soft_limit: Option<Duration>,
    /// How long entries are kept beyond their end, to be served where the source fails.
    pub(super) fail_safe: Duration,
    pub(super) refresh_ahead: Option<Duration>,
    pub(super) negative_time: Option<Duration>,
    pub(super) publishes_loads: bool,
    pub(super) while_suspect: WhileSuspect,
}

/// What a read makes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is served.
    Serve,
    /// It is served, and loaded again because it ends soon.
    ServeAndRefresh,
    /// It is served to those who do not ask the source.
    Revalidate,
    /// Its life is over; it is kept for where the source fails.
    Over,
    /// It is not served, for it may be stale.
    Withhold,
}

impl Policy {
    pub(super) const fn new() -> Self {
        Self {
            read_limit: Duration::from_secs(30),
            soft_limit: None,
            fail_safe: Duration::ZERO,
            refresh_ahead: None,
            negative_time: None,
            publishes_loads: false,
            while_suspect: WhileSuspect::Serve,
        }
    }

    /// Whether its parts can do what they promise.
    pub(super) fn check(&self, has_source: bool) -> Result<()> {
        let keeps_last =
            !self.fail_safe.is_zero() || self.while_suspect == WhileSuspect::Revalidate;
        let needs_source = self.publishes_loads
            || self.refresh_ahead.is_some()
            || self.negative_time.is_some()
            || keeps_last;
        let what = if needs_source && !has_source {
            "what was set for loads does nothing without a source; give one with source"
        } else if self.soft_limit.is_some() && !keeps_last {
            "a soft limit needs a last value to serve; set with_fail_safe, or \
             WhileSuspect::Revalidate, too"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidInput, what))
    }

    /// Whether every entry is served as it is.
    pub(super) fn serves_all(&self) -> bool {
        self.fail_safe.is_zero()
            && self.refresh_ahead.is_none()
            && self.while_suspect == WhileSuspect::Serve
    }

    /// What to make of an entry that the cache holds until `held_until`.
    pub(super) fn judge(
        &self,
        held_until: Option<Instant>,
        state: State,
        now: impl Fn() -> Instant,
    ) -> Verdict {
        let now = match (held_until, state) {
            // The clock is not needed, and reading it takes as long as reading the cache.
            (None, State::Live | State::Warming) => return Verdict::Serve,
            _ => now(),
        };
        if self.is_over(held_until, now) {
            return Verdict::Over;
        }
        match (self.while_suspect, suspect_for(state, now)) {
            (WhileSuspect::Miss, Some(_)) => return Verdict::Withhold,
            (WhileSuspect::Revalidate, Some(_)) => return Verdict::Revalidate,
            (WhileSuspect::ServeFor(most), Some(time)) if time > most => return Verdict::Withhold,
            _ => {}
        }
        match self.refresh_ahead {
            Some(ahead) if ends_within(held_until, now, self.fail_safe.saturating_add(ahead)) => {
                Verdict::ServeAndRefresh
            }
            _ => Verdict::Serve,
        }
    }

    /// Whether the life of an entry that the cache holds until `held_until` is over at `now`.
    pub(super) fn is_over(&self, held_until: Option<Instant>, now: Instant) -> bool {
        ends_within(held_until, now, self.fail_safe)
    }
}

fn ends_within(held_until: Option<Instant>, now: Instant, time: Duration) -> bool {
    held_until.is_some_and(|until| until.saturating_duration_since(now) <= time)
}

/// For how long entries may have been stale, if they may: a hydration that stopped does not say.
fn suspect_for(state: State, now: Instant) -> Option<Duration> {
    match state {
        State::Suspect(since) => Some(now.saturating_duration_since(since)),
        State::Stopped => Some(Duration::MAX),
        State::Warming | State::Live => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn by_default_every_entry_is_served_until_its_end() {
        let (policy, now) = (Policy::new(), Instant::now());
        assert!(policy.serves_all());
        for state in [State::Live, State::Warming, State::Stopped, State::Suspect(now)] {
            assert_eq!(policy.judge(None, state, || now), Verdict::Serve);
            assert_eq!(policy.judge(Some(now + SECOND), state, || now), Verdict::Serve);
            assert_eq!(policy.judge(Some(now), state, || now), Verdict::Over);
        }
    }

    #[test]
    fn an_entry_that_is_kept_for_a_failing_source_is_over_at_its_own_end() {
        let now = Instant::now();
        let policy = Policy { fail_safe: 10 * SECOND, ..Policy::new() };
        let judge = |until| policy.judge(Some(until), State::Live, || now);
        assert_eq!(judge(now + 11 * SECOND), Verdict::Serve);
        assert_eq!(judge(now + 10 * SECOND), Verdict::Over);
        assert_eq!(judge(now + SECOND), Verdict::Over);
        assert_eq!(policy.judge(None, State::Live, || now), Verdict::Serve);
    }

    #[test]
    fn an_entry_near_its_end_is_served_and_loaded_again() {
        let now = Instant::now();
        let policy =
            Policy { refresh_ahead: Some(SECOND), fail_safe: 10 * SECOND, ..Policy::new() };
        let judge = |until| policy.judge(Some(until), State::Live, || now);
        assert_eq!(judge(now + 12 * SECOND), Verdict::Serve);
        assert_eq!(judge(now + 11 * SECOND), Verdict::ServeAndRefresh);
        assert_eq!(judge(now + 10 * SECOND), Verdict::Over);
    }

    #[test]
    fn while_suspect_each_policy_does_what_it_says() {
        let now = Instant::now();
        let since = now.checked_sub(SECOND).expect("the machine is up");
        let judge = |while_suspect, state| {
            Policy { while_suspect, ..Policy::new() }.judge(None, state, || now)
        };
        let (live, suspect) = (State::Live, State::Suspect(since));
        for policy in [WhileSuspect::Miss, WhileSuspect::Revalidate, WhileSuspect::ServeFor(SECOND)]
        {
            assert_eq!(judge(policy, live), Verdict::Serve, "{policy:?}");
        }
        assert_eq!(judge(WhileSuspect::Miss, suspect), Verdict::Withhold);
        assert_eq!(judge(WhileSuspect::Revalidate, suspect), Verdict::Revalidate);
        assert_eq!(judge(WhileSuspect::ServeFor(SECOND), suspect), Verdict::Serve);
        assert_eq!(judge(WhileSuspect::ServeFor(SECOND / 2), suspect), Verdict::Withhold);
        assert_eq!(judge(WhileSuspect::ServeFor(SECOND), State::Stopped), Verdict::Withhold);
    }
}
