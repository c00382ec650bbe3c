//! Settings of a [`Hydrated`], and its start.

use std::fmt;
use std::time::Duration;

use tokio_util::task::AbortOnDropHandle;

use super::loader::{Desk, Findings, Loader};
use super::policy::{Policy, WhileSuspect};
use super::publisher::Loads;
use super::{Hydrated, Shared};
use crate::cache::{Hydrate, ReadCache, Source, Verifier, WarmStart};
use crate::{Channel, Result, Version};

/// A [`Hydrated`] about to start.
///
/// ```
/// # use std::time::Duration;
/// # use hydratecache::{Channel, memory::MemoryTransport};
/// use hydratecache::cache::{Hydrated, Mode, Replica};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let channel = Channel::<String>::new(MemoryTransport::new(), "users")?;
/// let users = Hydrated::builder(channel, Replica::new())
///     .with_hydration(|hydrate| hydrate.with_mode(Mode::UpdateIfPresent))
///     .with_read_limit(Duration::from_secs(2))
///     .start()
///     .await?;
/// # let _ = users;
/// # Ok(()) }
/// ```
#[must_use = "nothing is hydrated until `start` is awaited"]
pub struct HydratedBuilder<T, C> {
    hydrate: Hydrate<T, C>,
    policy: Policy,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> HydratedBuilder<T, C> {
    /// How old the latest proof of freshness may become before a fence is asked for.
    const FENCE_INTERVAL: Duration = Duration::from_secs(1);

    pub(super) fn new(channel: &Channel<T>, cache: C) -> Self {
        let hydrate = channel.hydrate(cache).with_fence_interval(Self::FENCE_INTERVAL);
        Self { hydrate, policy: Policy::new() }
    }

    /// Where the truth can be read: to fill the cache at the start, to repair it after a gap, and
    /// to load what a read misses.
    pub fn source(self, source: impl Source<T>) -> Self {
        self.with_hydration(|hydrate| hydrate.with_source(source))
    }

    /// Compares the cache with its source in the background; as
    /// [`Hydrate::with_verifier`](crate::cache::Hydrate::with_verifier).
    pub fn with_verifier(self, verifier: Verifier<T>) -> Self {
        self.with_hydration(|hydrate| hydrate.with_verifier(verifier))
    }

    /// Fills the cache from another replica where there is one, and others from this one; as
    /// [`Hydrate::with_warm_start`](crate::cache::Hydrate::with_warm_start).
    pub fn with_warm_start(self, warm_start: WarmStart) -> Self {
        self.with_hydration(|hydrate| hydrate.with_warm_start(warm_start))
    }

    /// Settings of the hydration underneath: its mode, its answer to gaps, its limits. They begin
    /// with the defaults of [`Hydrate`], and one fence a second.
    pub fn with_hydration(self, set: impl FnOnce(Hydrate<T, C>) -> Hydrate<T, C>) -> Self {
        Self { hydrate: set(self.hydrate), ..self }
    }

    /// How long a read may wait for the source or for a proof (default 30 s, as long as the source
    /// may take for one load). Then it fails with `Timeout`; the load goes on and fills the cache.
    pub fn with_read_limit(mut self, limit: Duration) -> Self {
        self.policy.read_limit = limit;
        self
    }

    /// What reads return while the cache is suspect (default [`WhileSuspect::Serve`]).
    pub fn with_suspect_reads(mut self, reads: WhileSuspect) -> Self {
        self.policy.while_suspect = reads;
        self
    }

    /// A key that the source was found not to have is not asked for again for `time`, unless an
    /// update of it arrives or messages are lost (default: it is asked for by every read).
    ///
    /// Costs some 150 bytes for each such key, for 65,536 of them at most; a lookup for each
    /// message while there are any; and a key that comes to the source without a message stays
    /// unseen for `time`.
    pub fn with_negative_caching(mut self, time: Duration) -> Self {
        self.policy.negative_time = Some(time);
        self
    }

    /// An entry that is read within `time` of its end is loaded again while it is served, so that
    /// reads of hot keys never wait for the source (default: they wait once in each life).
    ///
    /// Costs one load for each such key and life, as a miss would, and a look at the clock for each
    /// read of an entry that has an end. Keys that nobody reads are left to end.
    pub fn with_refresh_ahead(mut self, time: Duration) -> Self {
        self.policy.refresh_ahead = Some(time);
        self
    }

    /// Where the source fails, [`Hydrated::get_or_load`] returns the last value of a key whose life
    /// is over, for up to `time` beyond its end (default: the error). Such a read says
    /// [`is_last_resort`](super::Read::is_last_resort). A key whose load failed is left alone for a
    /// second. A value that was removed or replaced is never returned.
    ///
    /// Costs the memory of entries for `time` beyond their end, ten years at most. The cache itself
    /// shows them that long: read through [`Hydrated`].
    pub fn with_fail_safe(mut self, time: Duration) -> Self {
        // An end that no clock can hold would be none.
        self.policy.fail_safe = time.min(Duration::from_secs(10 * 365 * 86_400));
        self
    }

    /// Where a fail-safe or [`WhileSuspect::Revalidate`] has a last value to return, reads wait for
    /// the source no longer than this (default: as long as others); the load goes on and fills
    /// the cache. Costs the freshness of what a slow source would have answered.
    pub fn with_soft_limit(mut self, limit: Duration) -> Self {
        self.policy.soft_limit = Some(limit);
        self
    }

    /// What is loaded is published too, so that one instance's load fills the others, as their
    /// [`Mode`](super::super::Mode) says (default: each loads for itself). Never waited for; up to 1,024 values wait, and what is more is left out.
    ///
    /// Only for channels built with [`VersionDomain::Caller`](crate::VersionDomain::Caller) and a
    /// source that gives versions: a clock's version would be newer than writes that the load did
    /// not see. Costs a message to every instance for each load, which those that hold the same
    /// version drop.
    pub fn with_published_loads(mut self) -> Self {
        self.policy.publishes_loads = true;
        self
    }

    /// Subscribes, and returns when the subscription is proven: whatever is published from then on
    /// reaches the cache, or is reported as a gap. Then the cache is filled from the source, which
    /// [`Hydrated::ready`] waits for.
    ///
    /// # Errors
    /// Those of [`Transport::subscribe`](crate::Transport::subscribe); `InvalidInput` and
    /// `InvalidTtl` where settings contradict each other.
    ///
    /// # Cancel safety
    /// A dropped future leaves nothing behind.
    pub async fn start(self) -> Result<Hydrated<T, C>> {
        let Self { mut hydrate, policy } = self;
        let (channel, cache) = (hydrate.channel.clone(), hydrate.cache.clone());
        policy.check(hydrate.settings.source.is_some())?;
        if policy.publishes_loads {
            channel.0.check_domain(Version::caller(0))?;
        }
        hydrate.settings.kept_beyond_end = policy.fail_safe;
        let (source, source_limit) =
            (hydrate.settings.source.clone(), hydrate.settings.source_limit);
        let hydration = hydrate.start().await?;
        let publishing =
            policy.publishes_loads.then(|| Loads::new(channel.clone(), hydration.counters.clone()));
        let (loads, publishing) = publishing.unzip();
        let loader = Loader::new(Desk {
            cache: cache.clone(),
            source,
            source_limit,
            leases: hydration.leases.clone(),
            hydrator: hydration.commands.clone(),
            gauge: hydration.gauge.clone(),
            counters: hydration.counters.clone(),
            findings: Findings::new(&policy),
            policy: policy.clone(),
            loads,
        });
        let publishing = publishing.map(|task| AbortOnDropHandle::new(tokio::spawn(task)));
        Ok(Hydrated::new(
            cache,
            Shared { channel, hydration, loader, policy, _publishing: publishing },
        ))
    }
}

impl<T, C> fmt::Debug for HydratedBuilder<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HydratedBuilder")
            .field("hydrate", &self.hydrate)
            .field("policy", &self.policy)
            .finish()
    }
}
