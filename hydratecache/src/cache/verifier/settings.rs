//! Settings of a verifier, and what it reports.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::comparison::DivergenceKind;
use crate::{Key, Version};

/// Compares the entries of a cache with its source, in the background and at a steady rate.
///
/// Nothing should ever differ: a lost message is a gap, which is repaired. This is the independent
/// proof of that in production, and finds what no protocol can: a writer that forgets to publish, a
/// trigger that was dropped, two sources that are not one.
///
/// What differs is not reported at once: the source may have been written just now, and the message
/// be under way. It is compared again after the [patience](Self::with_patience), and reported only if
/// the same entry is still wrong and nothing arrived for its key meanwhile, or, where the source has
/// versions, if the cache still has not what the source had at the first time. So a report says: for
/// at least so long, this entry was not what the source had. While the cache is suspect by itself,
/// nothing is compared.
///
/// **What is covered.** Every entry of the cache, in rounds of random order, each once in a round. In
/// [`Mode::Hydrate`](crate::cache::Mode), and unless the cache evicts or has a longest life, the
/// source's keys that the cache does not have, if the source gives them in
/// [pages](crate::cache::Source::keys_after) or [scans](Self::with_scans) are allowed; keys whose value
/// has a TTL in the source are left out there, as they may have ended here. Values and versions are
/// compared, TTLs are not. A value that is published with a TTL should have it in the source too: else
/// it counts as missing once it ended.
///
/// **What it costs.** One question to the source an [interval](Self::with_interval) and instance,
/// in turn the load of a key and a page of 256 keys. `n` instances ask `n` times as often: give a large
/// fleet a longer interval, as each adds to what all of them have compared. Instances begin at random,
/// and every pause is random by half.
///
/// ```
/// use std::time::Duration;
/// use hydratecache::cache::{Replica, Verifier};
/// use hydratecache::{Channel, Hydrated, memory::MemoryBroker};
/// # use futures::{FutureExt, StreamExt, future::BoxFuture, stream::{self, BoxStream}};
/// # use hydratecache::{Key, cache::{Loaded, Source, SourceError}};
/// # struct Table;
/// # impl Source<String> for Table {
/// #     fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
/// #         async move { Ok(Some(Loaded::new(format!("row of {}", key.as_str())))) }.boxed()
/// #     }
/// #     fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
/// #         stream::empty().boxed()
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let (broker, table) = (MemoryBroker::new(), Table);
/// let channel = Channel::<String>::new(broker.connect(), "users")?;
/// let verifier = Verifier::new()
///     .with_interval(Duration::from_millis(100))
///     .on_divergence(|divergence| eprintln!("{:?}", divergence.kind));
/// let users = Hydrated::builder(channel, Replica::new())
///     .source(table)
///     .with_verifier(verifier)
///     .start()
///     .await?;
/// // "With a confidence of 95 %, at least so many of the entries are right."
/// println!("{:.2} nines", users.stats().agreement().nines(0.95));
/// # Ok(()) }
/// ```
#[must_use = "nothing is verified until a hydration is given the verifier"]
pub struct Verifier<T> {
    pub(super) is_equal: Arc<IsEqual<T>>,
    pub(super) interval: Duration,
    pub(super) patience: Duration,
    pub(super) scans: Option<Duration>,
    pub(super) on_divergence: OnDivergence,
    pub(super) report: Option<Arc<dyn Fn(Divergence) + Send + Sync>>,
}

/// Whether two values are equal.
type IsEqual<T> = dyn Fn(&T, &T) -> bool + Send + Sync;

/// What is done about an entry that differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDivergence {
    Report,
    Repair,
}

/// An entry that was not what the source had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Divergence {
    /// Its key.
    pub key: Key,
    /// What is wrong.
    pub kind: DivergenceKind,
    /// The version of the entry, if there is one and it has a version.
    pub cached: Option<Version>,
    /// The version that the source has, if it has the key and gives versions.
    pub in_source: Option<u64>,
    /// For how long it is known to differ: the patience at least.
    pub lasted: Duration,
    /// Whether the cache has now what the source had.
    pub is_repaired: bool,
}

impl<T: PartialEq + 'static> Verifier<T> {
    /// A verifier that compares values with `==`.
    pub fn new() -> Self {
        Self::comparing(T::eq)
    }
}

impl<T: PartialEq + 'static> Default for Verifier<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Verifier<T> {
    /// A verifier that takes two values as equal where `is_equal` says so. It must not block.
    pub fn comparing(is_equal: impl Fn(&T, &T) -> bool + Send + Sync + 'static) -> Self {
        Self {
            is_equal: Arc::new(is_equal),
            interval: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            scans: None,
            on_divergence: OnDivergence::Report,
            report: None,
        }
    }

    /// The time between two questions to the source, on average (default 1 s, which no database feels
    /// and which compares 43,000 entries a day and instance; at least 1 ms). Each pause is random, from
    /// half of it to one and a half.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(Duration::from_millis(1), Duration::from_secs(365 * 86_400));
        self
    }

    /// How long an entry may differ before it is reported (default 10 s: twice as long as a publish
    /// waits for a lost link by default). Shorter than a write takes from the source to here, it
    /// reports what is only late.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience.min(Duration::from_secs(365 * 86_400));
        self
    }

    /// A source that cannot give its [keys in pages](crate::cache::Source::keys_after) is scanned so
    /// often to find keys that the cache does not have, up to 1,024 a scan (default: never, and then such
    /// keys are not looked for). Costs one scan an interval and instance, at a random time.
    pub fn with_scans(mut self, interval: Duration) -> Self {
        self.scans = Some(interval.min(Duration::from_secs(365 * 86_400)));
        self
    }

    /// What differs is replaced by what the source has, unless an update arrives first (default: it is
    /// only reported). What is [ahead](DivergenceKind::Ahead) of the source stays: a published write
    /// is not undone by a source that may lag. Without versions nothing shows which of two is ahead: then
    /// ask for repairs only where the source reads from the primary, or lags by less than the patience.
    pub fn with_repairs(mut self) -> Self {
        self.on_divergence = OnDivergence::Repair;
        self
    }

    /// Called with each divergence, once in each round that finds it (default: it is counted, and
    /// traced as an error without its key). It must not block.
    pub fn on_divergence(mut self, report: impl Fn(Divergence) + Send + Sync + 'static) -> Self {
        self.report = Some(Arc::new(report));
        self
    }
}

impl<T> fmt::Debug for Verifier<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("interval", &self.interval)
            .field("patience", &self.patience)
            .field("scans", &self.scans)
            .field("on_divergence", &self.on_divergence)
            .finish_non_exhaustive()
    }
}
