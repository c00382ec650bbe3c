//! How fresh a hydrated cache is, kept where every read can ask for the price of two loads.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::deadline::Deadline;
use crate::count::{Labels, States};

/// How fresh a hydrated cache is, or was when it was read.
///
/// Shown, it is for people: `live, proven within 74 ms`. What it says changes with time, as
/// [`Freshness::proven_within`] does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    state: State,
    proven_at: Option<Instant>,
}

/// Whether reads of a hydrated cache can be trusted.
///
/// Shown, it is for people: `live`, or `suspect for 1.3 s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The cache is being filled for the first time.
    Warming,
    /// Every message has been applied, as far as the broker has delivered.
    Live,
    /// The link is lost, or a gap is not repaired yet: entries may be stale. Since when.
    Suspect(Instant),
    /// The hydration ended: the transport was closed, or the source or a codec panicked.
    Stopped,
}

impl Freshness {
    /// Whether reads can be trusted.
    #[must_use]
    pub fn state(self) -> State {
        self.state
    }

    /// Whether entries may be stale without anyone knowing which.
    #[must_use]
    pub fn is_suspect(self) -> bool {
        matches!(self.state, State::Suspect(_) | State::Stopped)
    }

    /// The proven bound: every write that the broker had accepted longer ago than this is in the
    /// cache. It grows while nothing proves more, and is `None` before the first proof.
    ///
    /// Without a source this speaks of what was accepted since the start, or since the latest gap:
    /// nobody tells the cache of older writes, one of which may be newer, by its version, than an
    /// entry whose message was long under way. Nor does it say that a key without an entry has no value: a gap
    /// may have taken the entry along.
    ///
    /// Proofs come with every fence: with every liveness ping of the transport, on an interval
    /// ([`Hydrate::with_fence_interval`](super::Hydrate::with_fence_interval)), and with
    /// [`Hydration::caught_up`](super::Hydration::caught_up). They reach as far as the transport's
    /// [`FenceScope`](crate::FenceScope); where that is one server among several, there is none.
    #[must_use]
    pub fn proven_within(self) -> Option<Duration> {
        self.proven_at.map(|at| at.elapsed())
    }

    /// When the latest proof was asked for: every write that the broker had accepted before is in
    /// the cache.
    #[must_use]
    pub fn proven_at(self) -> Option<Instant> {
        self.proven_at
    }
}

impl fmt::Display for Freshness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.proven_within() {
            Some(bound) => write!(f, "{}, proven within {}", self.state, Shown(bound)),
            None => write!(f, "{}, nothing proven yet", self.state),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Warming => f.write_str("warming"),
            Self::Live => f.write_str("live"),
            Self::Suspect(since) => write!(f, "suspect for {}", Shown(since.elapsed())),
            Self::Stopped => f.write_str("stopped"),
        }
    }
}

/// A time span, for people: `74 ms`, `1.3 s`. Rounded up, as it is an upper bound.
struct Shown(Duration);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_nanos().div_ceil(1_000_000) {
            millis @ ..1000 => write!(f, "{millis} ms"),
            millis => {
                let tenths = millis.div_ceil(100);
                write!(f, "{}.{} s", tenths / 10, tenths % 10)
            }
        }
    }
}

/// Where a hydrator stands, for readers that take no lock.
pub(super) struct Gauge {
    state: AtomicU64,
    proven_at: AtomicU64,
    /// While the cache is suspect, entries of an earlier epoch are.
    trusted_from: AtomicU32,
    states: States,
}

/// What a [`Gauge`] showed: taken *before* the cache is read, it holds for what is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    state: u64,
    proven_at: u64,
}

const WARMING: u64 = 0;
const LIVE: u64 = 1;
const STOPPED: u64 = 2;
/// From here on a state is since when it is suspect, in nanoseconds.
const SUSPECT: u64 = 3;

impl Gauge {
    pub(super) fn new(labels: &Labels) -> Self {
        Self {
            state: AtomicU64::new(WARMING),
            proven_at: AtomicU64::default(),
            trusted_from: AtomicU32::default(),
            states: States::of(labels),
        }
    }

    /// The latest proof is shown only once all that it proves is in the cache.
    pub(super) fn show(&self, state: State, proven_at: Option<Instant>) {
        self.states.show(state);
        let state = match state {
            State::Warming => WARMING,
            State::Live => LIVE,
            State::Stopped => STOPPED,
            State::Suspect(since) => Deadline::at(since).nanoseconds().max(SUSPECT),
        };
        let proven_at = nanoseconds(proven_at);
        self.state.store(state, Ordering::Release);
        self.proven_at.store(proven_at, Ordering::Release);
    }

    /// Entries that were stored before this epoch may be affected by what was lost; none: all, because
    /// more is being lost. To be shown before the state that it belongs to.
    pub(super) fn trust_from(&self, epoch: Option<u32>) {
        self.trusted_from.store(epoch.unwrap_or(u32::MAX), Ordering::Release);
    }

    /// Whether what was stored in `epoch` came after all that was lost. To be asked after the entry was
    /// read: a gap that came in between makes it one of those before.
    pub(super) fn trusts(&self, epoch: u32) -> bool {
        epoch >= self.trusted_from.load(Ordering::Acquire)
    }

    pub(super) fn stop(&self) {
        self.states.show(State::Stopped);
        self.state.store(STOPPED, Ordering::Release);
    }

    #[inline]
    pub(super) fn sample(&self) -> Sample {
        let proven_at = self.proven_at.load(Ordering::Acquire);
        Sample { proven_at, state: self.state.load(Ordering::Acquire) }
    }
}

impl Sample {
    /// The same, for a value that was read from the source, beginning at `at`.
    pub(super) fn or_proven_at(self, at: Option<Instant>) -> Self {
        Self { proven_at: self.proven_at.max(nanoseconds(at)), ..self }
    }

    pub(super) fn freshness(self) -> Freshness {
        let state = match self.state {
            WARMING => State::Warming,
            LIVE => State::Live,
            STOPPED => State::Stopped,
            since => Deadline::from_nanoseconds(since)
                .map_or(State::Warming, |since| State::Suspect(since.instant())),
        };
        let proven_at = Deadline::from_nanoseconds(self.proven_at).map(Deadline::instant);
        Freshness { state, proven_at }
    }
}

/// A time of asking, never as a later one than it is.
fn nanoseconds(at: Option<Instant>) -> u64 {
    at.and_then(Deadline::of).map_or(0, Deadline::nanoseconds)
}

impl fmt::Debug for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.freshness().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Topic;
    use crate::memory::MemoryTransport;

    fn gauge() -> Gauge {
        let topic = Topic::new("users").expect("legal");
        Gauge::new(&Labels::new(&topic, &MemoryTransport::new()))
    }

    #[test]
    fn a_gauge_shows_what_it_was_given() {
        let gauge = gauge();
        let nothing = Freshness { state: State::Warming, proven_at: None };
        assert_eq!(gauge.sample().freshness(), nothing);
        let now = Instant::now();
        for state in [State::Live, State::Warming, State::Suspect(now), State::Stopped] {
            gauge.show(state, Some(now));
            let shown = Freshness { state, proven_at: Some(now) };
            assert_eq!(gauge.sample().freshness(), shown);
        }
        gauge.show(State::Live, Some(now));
        gauge.stop();
        assert_eq!(gauge.sample().freshness().state(), State::Stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn freshness_is_shown_for_people() {
        let (began, late) = (Instant::now(), Duration::from_millis(74));
        tokio::time::advance(late).await;
        let shown = |state, proven_at| Freshness { state, proven_at }.to_string();
        assert_eq!(shown(State::Live, Some(began)), "live, proven within 74 ms");
        assert_eq!(shown(State::Warming, None), "warming, nothing proven yet");
        tokio::time::advance(Duration::from_millis(1250)).await;
        let suspect = State::Suspect(began + late);
        assert_eq!(shown(suspect, Some(began)), "suspect for 1.3 s, proven within 1.4 s");
        assert_eq!(State::Stopped.to_string(), "stopped");
    }

    #[test]
    fn a_proof_is_never_shown_as_younger_than_it_is() {
        let gauge = gauge();
        let now = Instant::now();
        let _later = Deadline::at(now + Duration::from_secs(5));
        for ago in [0, 1, 999, 1_000_000_007] {
            let asked_at = now.checked_sub(Duration::from_nanos(ago)).unwrap_or(now);
            gauge.show(State::Live, Some(asked_at));
            assert!(gauge.sample().freshness().proven_at() <= Some(asked_at));
        }
    }
}
