//! Local caches and what fills them: [`LocalCache`], the [`Replica`], the hydrator.
//!
//! ```
//! use hydratecache::cache::Replica;
//! use hydratecache::{Channel, memory::MemoryBroker};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
//! let broker = MemoryBroker::new();
//! let writer = Channel::<String>::new(broker.connect(), "users")?;
//! let reader = Channel::<String>::new(broker.connect(), "users")?;
//!
//! let users = Replica::new();
//! let hydration = reader.hydrate(users.clone()).await?;
//! hydration.ready().await?;
//!
//! writer.publish("user:1", &"Ada".to_owned()).await?;
//! hydration.caught_up().await?;
//! assert_eq!(users.get("user:1").as_deref().map(String::as_str), Some("Ada"));
//! assert!(!hydration.freshness().is_suspect());
//! # Ok(()) }
//! ```

mod deadline;
#[cfg(feature = "metrics")]
mod exposure;
mod fences;
mod freshness;
mod heads;
mod hydrate;
mod hydrated;
mod hydration;
mod hydrator;
mod leases;
mod ledger;
mod policy;
mod refills;
mod repair;
mod replica;
mod rollcall;
mod source;
mod stats;
mod verifier;
mod warm;
mod witness;

use std::fmt;
use std::sync::Arc;

use tokio::time::Instant;

pub use freshness::{Freshness, State};
pub use hydrate::Hydrate;
pub use hydrated::{Hydrated, HydratedBuilder, Read, WhileSuspect};
pub use hydration::Hydration;
pub use leases::Lease;
pub use policy::{GapAction, Mode};
pub use replica::{Pinned, Replica};
pub use source::{Loaded, Snapshot, Source, SourceError};
pub use stats::HydrationStats;
pub use verifier::{Agreement, Divergence, DivergenceKind, Verifier};
pub use warm::{ReplicaCopy, WarmStart};

use crate::{Key, Version, VersionDomain};
use deadline::Deadline;

/// What a cache must offer to be hydrated.
///
/// All calls for one cache come from one task, in order; what users do to their cache meanwhile
/// runs beside it, so each call must be atomic for its key.
pub trait LocalCache<T>: Send + Sync + 'static {
    /// Stores `entry`, if it [replaces](Entry::replaces) what is there, and then as one that is
    /// [not older](Entry::not_older_than) than that. `true`: it was stored.
    fn put(&self, key: &Key, entry: Entry<T>) -> impl Future<Output = bool> + Send;

    /// Removes the entry of `key`, unless its version is newer than `version`. Without a version:
    /// whatever is there. `true`: something was removed.
    fn remove(&self, key: &Key, version: Option<Version>) -> impl Future<Output = bool> + Send;

    /// Sets when the entry of `key` expires, if it is there and older than `version`. The entry
    /// keeps its own version: a value that was overtaken by the touch may still replace it.
    /// `true`: it was set.
    fn touch(
        &self,
        key: &Key,
        expires_at: Instant,
        version: Version,
    ) -> impl Future<Output = bool> + Send;

    /// Removes every entry whose version is not newer than `version`; without one, all.
    fn clear(&self, version: Option<Version>) -> impl Future<Output = ()> + Send;

    /// Whether `key` has an entry that has not expired.
    fn contains(&self, key: &Key) -> bool;

    /// Whether entries can go before their end, as in a cache with a size limit. Their versions
    /// are then remembered beside the cache for a while, so that a late older put does not take
    /// the place of a newer one that was evicted.
    fn evicts(&self) -> bool;

    /// The keys that have entries.
    fn keys(&self) -> Vec<Key>;

    /// The version of the entry of `key`, if there is an entry and it has one. Asked before the
    /// entry is dropped for another reason than a newer write, so that nothing older comes back.
    fn version(&self, key: &Key) -> impl Future<Output = Option<Version>> + Send;

    /// Gives back the memory of expired entries, which no read returns any more. Called every few
    /// seconds.
    fn evict_expired(&self) -> impl Future<Output = ()> + Send;
}

/// A cache that [`Hydrated`] can read: a handle to it, whose clones share it.
pub trait ReadCache<T>: LocalCache<T> + Clone {
    /// The entry of `key`, unless it has expired.
    fn entry(&self, key: &str) -> impl Future<Output = Option<Entry<T>>> + Send;
}

/// A cache whose reads never wait.
pub trait ReadNow<T>: ReadCache<T> {
    /// What `read` makes of the entry of `key`, where it lies: a copy that is taken along costs more than
    /// finding it. `None`: there is none, or it has expired.
    fn read_now<R>(&self, key: &str, read: impl FnOnce(&Entry<T>) -> R) -> Option<R>;
}

/// A cached value with what orders and dates it. Cloning shares the value.
pub struct Entry<T> {
    value: Arc<T>,
    expires_at: Option<Deadline>,
    // The version in parts: an `Option<Version>` would make an entry 48 bytes large and not 40, and with
    // its key, as maps keep it, more than one cache line.
    version_domain: Option<VersionDomain>,
    version_number: u64,
    version_origin: u64,
    /// How many gaps there had been when it was stored.
    epoch: u32,
    /// The version is that of the entry that it replaced.
    is_version_borrowed: bool,
}

impl<T> Entry<T> {
    /// A value without version and without an end.
    pub fn new(value: T) -> Self {
        Self::of_shared(Arc::new(value))
    }

    fn of_shared(value: Arc<T>) -> Self {
        Self {
            value,
            expires_at: None,
            version_domain: None,
            version_number: 0,
            version_origin: 0,
            epoch: 0,
            is_version_borrowed: false,
        }
    }

    /// What was loaded, as long as nothing is known of its end.
    fn of_loaded(loaded: &Loaded<T>) -> Self {
        Self::of_shared(loaded.value.clone()).with_version(loaded.order())
    }

    /// The same value with a version.
    #[must_use]
    pub fn with_version(self, version: Option<Version>) -> Self {
        Self {
            version_domain: version.map(Version::domain),
            version_number: version.map_or(0, Version::number),
            version_origin: version.map_or(0, Version::origin_number),
            is_version_borrowed: false,
            ..self
        }
    }

    /// The same value with an end, on the monotonic clock: a jump of the wall clock neither kills
    /// nor revives it.
    #[must_use]
    pub fn with_expiry(self, expires_at: Option<Instant>) -> Self {
        Self { expires_at: expires_at.map(Deadline::at), ..self }
    }

    fn with_epoch(self, epoch: u32) -> Self {
        Self { epoch, ..self }
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &Arc<T> {
        &self.value
    }

    /// What orders the value among the writes of its key; none if it was loaded from a source
    /// without versions.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        let domain = self.version_domain?;
        Some(Version::of_parts(domain, self.version_number, self.version_origin))
    }

    /// When the value expires.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.expires_at.map(Deadline::instant)
    }

    /// Whether the value has expired.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_at.is_some_and(Deadline::has_passed)
    }

    /// The same entry, with `resident` as its version if it has none of its own: what was loaded
    /// under a lease is at least as new as what it replaces, so nothing older than that may
    /// replace it.
    #[must_use]
    pub fn not_older_than(self, resident: Option<Version>) -> Self {
        if self.version_domain.is_some() || resident.is_none() {
            return self;
        }
        Self { is_version_borrowed: true, ..self.with_version(resident) }
    }

    /// The version that says which of the key's values this is. That of a value which it replaced says
    /// only that it is newer.
    fn own_version(&self) -> Option<Version> {
        self.version().filter(|_| !self.is_version_borrowed)
    }

    /// Whether this entry takes the place of one with the version `resident`. One without a version
    /// does: a lease showed that nothing newer arrived while it was loaded.
    #[must_use]
    pub fn replaces(&self, resident: Option<Version>) -> bool {
        self.version().is_none_or(|version| version.is_newer_than(resident))
    }
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), ..*self }
    }
}

impl<T> std::ops::Deref for Entry<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> fmt::Debug for Entry<T> {
    /// Shows everything but the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry")
            .field("version", &self.version())
            .field("expires_at", &self.expires_at())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_borrowed_version_orders_an_entry_and_is_not_its_own() {
        let (older, newer) = (Version::clock(1, None), Version::caller(2));
        let entry = Entry::new("loaded");
        assert_eq!(entry.version(), None);
        assert_eq!(entry.clone().not_older_than(None).version(), None);
        let entry = entry.not_older_than(Some(older)).not_older_than(Some(newer));
        assert_eq!((entry.version(), entry.own_version()), (Some(older), None));
        let entry = entry.with_version(Some(newer)).not_older_than(Some(older));
        assert_eq!((entry.version(), entry.own_version()), (Some(newer), Some(newer)));
    }

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn an_entry_and_its_key_have_room_in_a_cache_line_beside_the_header_of_an_allocation() {
        assert!(size_of::<(Key, Entry<String>)>() <= 64 - size_of::<usize>());
    }
}
