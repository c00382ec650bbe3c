//! Settings of a hydration, and its start.

use std::fmt;
use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::hydrator::Hydrator;
use super::verifier::{self, Verifier};
use super::warm::{self, WarmStart};
use super::{GapAction, Hydration, LocalCache, Mode, ReadCache, Source};
use crate::request::MAX_NAME_BYTES;
use crate::transport::Gap;
use crate::{Channel, Error, ErrorKind, Result};

type AskOnGap = Arc<dyn Fn(Gap) -> GapAction + Send + Sync>;

/// A hydration about to start: await it.
///
/// ```
/// # use std::time::Duration;
/// # use hydratecache::{Channel, memory::MemoryTransport};
/// use hydratecache::cache::{Mode, Replica};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let users = Channel::<String>::new(MemoryTransport::new(), "users")?;
/// let hydration = users
///     .hydrate(Replica::new())
///     .with_mode(Mode::UpdateIfPresent)
///     .with_max_ttl(Duration::from_secs(3600))
///     .await?;
/// # Ok(()) }
/// ```
#[must_use = "a hydration does not start until it is awaited"]
pub struct Hydrate<T, C> {
    pub(super) channel: Channel<T>,
    pub(super) cache: C,
    pub(super) settings: Settings<T>,
}

pub(super) struct Settings<T> {
    pub(super) source: Option<Arc<dyn Source<T>>>,
    pub(super) mode: Mode,
    on_gap: Option<AskOnGap>,
    pub(super) max_ttl: Option<Duration>,
    pub(super) reload_jitter: Duration,
    pub(super) source_limit: Duration,
    pub(super) tombstones: usize,
    pub(super) tombstone_age: Duration,
    pub(super) fence_interval: Option<Duration>,
    pub(super) expiry_jitter: f64,
    /// How long entries are kept beyond their end, for readers who know that.
    pub(super) kept_beyond_end: Duration,
    /// What the replica is called when it answers for itself.
    pub(super) name: Option<Arc<str>>,
    /// Whether it answers those who ask which replicas have a write.
    pub(super) is_replica: bool,
    /// Verifies the cache, if that is wanted.
    pub(super) verifying: Option<verifier::Begin<T>>,
    /// Offers copies to other replicas, and has copies asked for, if that is wanted.
    pub(super) offering: Option<(WarmStart, Arc<dyn warm::Contents<T>>)>,
}

impl<T> Settings<T> {
    /// What to do about a gap.
    pub(super) fn action(&self, gap: Gap) -> GapAction {
        match &self.on_gap {
            Some(ask) => ask(gap),
            None if self.source.is_some() && self.mode != Mode::Invalidate => GapAction::Reload,
            None => GapAction::Clear,
        }
    }

    /// Whether entries may end before their publisher's end for them.
    pub(super) fn shortens_lives(&self) -> bool {
        self.max_ttl.is_some() || self.expiry_jitter > 0.0
    }

    /// How long an entry is held that has this long to live.
    pub(super) fn held_for(&self, left: Duration) -> Duration {
        let left = if self.expiry_jitter > 0.0 {
            // A life that is longer has no end for anyone.
            let left = left.min(Duration::from_secs(100 * 365 * 86_400));
            left.mul_f64(1.0 - self.expiry_jitter * fastrand::f64())
        } else {
            left
        };
        left.saturating_add(self.kept_beyond_end)
    }
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrate<T, C> {
    pub(crate) fn new(channel: Channel<T>, cache: C) -> Self {
        let settings = Settings {
            source: None,
            mode: Mode::default(),
            on_gap: None,
            max_ttl: None,
            reload_jitter: Duration::from_millis(250),
            source_limit: Duration::from_secs(30),
            tombstones: 65_536,
            tombstone_age: Duration::from_secs(300),
            fence_interval: None,
            expiry_jitter: 0.0,
            kept_beyond_end: Duration::ZERO,
            name: None,
            is_replica: true,
            verifying: None,
            offering: None,
        };
        Self { channel, cache, settings }
    }

    /// Where the truth can be read: to fill the cache at the start and to repair it after a gap.
    pub fn with_source(mut self, source: impl Source<T>) -> Self {
        self.settings.source = Some(Arc::new(source));
        self
    }

    /// What an arriving value does (default [`Mode::Hydrate`]).
    pub fn with_mode(mut self, mode: Mode) -> Self {
        self.settings.mode = mode;
        self
    }

    /// What is done about every gap that no replay repairs (default [`GapAction::Reload`] with a source, else
    /// [`GapAction::Clear`]: nothing that may be stale is served as if it were not).
    pub fn on_gap(self, action: GapAction) -> Self {
        self.on_gap_with(move |_| action)
    }

    /// What is done about each gap, decided by a callback. It must not block.
    pub fn on_gap_with(mut self, ask: impl Fn(Gap) -> GapAction + Send + Sync + 'static) -> Self {
        self.settings.on_gap = Some(Arc::new(ask));
        self
    }

    /// The longest that any entry lives, whatever its message says (default: no limit).
    pub fn with_max_ttl(mut self, max_ttl: Duration) -> Self {
        self.settings.max_ttl = Some(max_ttl);
        self
    }

    /// Each entry's life is shortened by a random part of it, up to `share` (default 0, at most 1),
    /// so that what was written or loaded together does not end together. Costs that part of the
    /// hits: 0.1 ends entries a twentieth earlier, on average.
    pub fn with_expiry_jitter(mut self, share: f64) -> Self {
        self.settings.expiry_jitter = share;
        self
    }

    /// A reload after a gap begins at a random time within this (default 250 ms), so that a fleet
    /// that lost its broker together does not read the source together. Between two reloads the source
    /// rests nine times as long as the last one took, 30 s at most.
    pub fn with_reload_jitter(mut self, jitter: Duration) -> Self {
        self.settings.reload_jitter = jitter;
        self
    }

    /// How long the source may take for one load, or from one scanned value to the next (default
    /// 30 s). After that the attempt has failed and is repeated with backoff.
    pub fn with_source_limit(mut self, limit: Duration) -> Self {
        self.settings.source_limit = limit;
        self
    }

    /// How many removals are remembered, and for how long, so that a late older put does not undo
    /// them (default 65,536, some 10 MiB when full, and 5 minutes: far longer than a message is
    /// under way). As many puts are remembered where the cache [evicts](LocalCache::evicts).
    pub fn with_tombstones(mut self, most: usize, longest: Duration) -> Self {
        self.settings.tombstones = most;
        self.settings.tombstone_age = longest;
        self
    }

    /// Asks for a fence whenever the latest one is older than `interval`, so that
    /// [`Freshness::proven_within`](super::Freshness::proven_within) is never much more while the
    /// link is whole (default: none but the transport's own signs of life, 3 s).
    ///
    /// All hydrations over one connection share its fences: one small round trip an interval for
    /// the process, however many topics it has. Less than a millisecond is taken as one.
    pub fn with_fence_interval(mut self, interval: Duration) -> Self {
        self.settings.fence_interval =
            Some(interval.clamp(Duration::from_millis(1), Duration::from_secs(365 * 86_400)));
        self
    }

    /// What this replica is called where it answers for itself, as to
    /// [`Channel::applied_by`] (default: it has no name but its channel's random origin). The host's
    /// name is a good one. 1 to 100 bytes.
    pub fn with_name(mut self, name: impl Into<Arc<str>>) -> Self {
        self.settings.name = Some(name.into());
        self
    }

    /// Hydrates the cache of a tool that only looks: it is no replica, so it does not answer
    /// [`Channel::applied_by`] (default: it does, because its reads are those that are asked about).
    pub fn as_observer(mut self) -> Self {
        self.settings.is_replica = false;
        self
    }

    pub(super) async fn start(self) -> Result<Hydration<T>> {
        // Asked once, so that a callback's choice is checked when it is made.
        let reloads = self.settings.action(Gap::Unknown) == GapAction::Reload;
        if reloads && self.settings.source.is_none() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "GapAction::Reload needs a source; give one with with_source, or choose Clear",
            ));
        }
        if self.settings.verifying.is_some() && self.settings.source.is_none() {
            let what = "a verifier compares with a source; give one with with_source";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        if self.settings.offering.is_some() {
            self.check_warm_start()?;
        }
        if !(0.0..=1.0).contains(&self.settings.expiry_jitter) {
            let what = "the jitter of expiry is a part of an entry's life: from 0 to 1";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let is_legal = |name: &Arc<str>| (1..=MAX_NAME_BYTES).contains(&name.len());
        if !self.settings.name.as_ref().is_none_or(is_legal) {
            let what = format!("the name of a replica has 1 to {MAX_NAME_BYTES} bytes");
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        if self.settings.max_ttl == Some(Duration::ZERO) {
            return Err(Error::new(ErrorKind::InvalidTtl, "a longest life of zero keeps nothing"));
        }
        let transport = &self.channel.0.transport;
        let signals = transport.subscribe(self.channel.0.topic.clone()).await?;
        Ok(Hydrator::start(self.channel.0, self.cache, self.settings, signals))
    }
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrate<T, C> {
    fn check_warm_start(&self) -> Result<()> {
        let what = if self.settings.source.is_none() {
            "a warm start needs a source too, for the replica that is the first"
        } else if self.settings.mode != Mode::Hydrate {
            "a warm start is for Mode::Hydrate: in the other modes no replica has everything"
        } else if self.cache.evicts() || self.settings.shortens_lives() {
            "a warm start is for caches that hold every entry to its end: not for one that evicts, or \
             with a longest life or jittered expiry, from which others would miss entries"
        } else if self.channel.0.transport.limits().durable {
            "a warm start from replicas is for brokers that keep nothing; read this one's own copy"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidInput, what))
    }
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Hydrate<T, C> {
    /// Fills and repairs the cache from another replica where there is one, and others from this one (default:
    /// each reads the source). Needs a source and [`Mode::Hydrate`].
    pub fn with_warm_start(mut self, warm_start: WarmStart) -> Self {
        self.settings.offering = Some((warm_start, warm::contents(self.cache.clone())));
        self
    }

    /// Compares the cache with its source in the background (default: nothing does). What it finds is
    /// in [`HydrationStats::agreement`](super::HydrationStats::agreement), and goes to the verifier's
    /// [callback](Verifier::on_divergence). Needs a source.
    pub fn with_verifier(mut self, verifier: Verifier<T>) -> Self {
        self.settings.verifying = Some(verifier::begin(verifier, self.cache.clone()));
        self
    }
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> IntoFuture for Hydrate<T, C> {
    type Output = Result<Hydration<T>>;
    type IntoFuture = BoxFuture<'static, Result<Hydration<T>>>;

    fn into_future(self) -> Self::IntoFuture {
        self.start().boxed()
    }
}

impl<T, C> fmt::Debug for Hydrate<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hydrate")
            .field("channel", &self.channel)
            .field("mode", &self.settings.mode)
            .field("has_source", &self.settings.source.is_some())
            .finish_non_exhaustive()
    }
}
