//! Settings of a [`Hydrated`], and its start.

use std::fmt;
use std::time::Duration;

use super::Hydrated;
use super::loader::{Desk, Loader};
use crate::cache::{Hydrate, ReadCache, Source};
use crate::{Channel, Result};

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

/// What readers are promised.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) read_limit: Duration,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> HydratedBuilder<T, C> {
    /// How old the latest proof of freshness may become before a fence is asked for.
    const FENCE_INTERVAL: Duration = Duration::from_secs(1);

    pub(super) fn new(channel: &Channel<T>, cache: C) -> Self {
        let hydrate = channel.hydrate(cache).with_fence_interval(Self::FENCE_INTERVAL);
        Self { hydrate, policy: Policy { read_limit: Duration::from_secs(30) } }
    }

    /// Where the truth can be read: to fill the cache at the start, to repair it after a gap, and
    /// to load what a read misses.
    pub fn source(self, source: impl Source<T>) -> Self {
        self.with_hydration(|hydrate| hydrate.with_source(source))
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
        let Self { hydrate, policy } = self;
        let (channel, cache) = (hydrate.channel.clone(), hydrate.cache.clone());
        let (source, source_limit) =
            (hydrate.settings.source.clone(), hydrate.settings.source_limit);
        let hydration = hydrate.start().await?;
        let loader = Loader::new(Desk {
            cache: cache.clone(),
            source,
            source_limit,
            leases: hydration.leases.clone(),
            hydrator: hydration.commands.clone(),
            gauge: hydration.gauge.clone(),
            counters: hydration.counters.clone(),
        });
        Ok(Hydrated::new(channel, cache, hydration, loader, policy))
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
