//! Our own map for whole-topic copies, with the fastest reads.

use std::fmt;
use std::sync::Arc;

use papaya::{HashMapRef, LocalGuard, Operation};
use tokio::time::Instant;

use super::{Entry, LocalCache};
use crate::{Key, Version};

/// A copy of a whole topic in a lock-free map ([`papaya`]), for values that fit into memory.
///
/// Reads take no lock, wait for nobody, and read the clock only for entries with a TTL. Cloning
/// shares the map.
pub struct Replica<T>(Arc<papaya::HashMap<Key, Entry<T>, foldhash::fast::RandomState>>);

impl<T> Replica<T> {
    /// An empty replica.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(papaya::HashMap::with_hasher(foldhash::fast::RandomState::default())))
    }

    /// The value of `key`, unless it has expired.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.0.pin().get(key).and_then(living).map(|entry| entry.value.clone())
    }

    /// The entry of `key`, with its version and its end, unless it has expired.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<Entry<T>> {
        self.0.pin().get(key).and_then(living).cloned()
    }

    /// A view for several reads in a row, which borrows values instead of sharing them.
    ///
    /// What is removed meanwhile is freed only when the view is dropped: keep it short.
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, T> {
        Pinned(self.0.pin())
    }

    /// How many entries there are. Expired ones count until they are swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A view of a [`Replica`] for several reads in a row.
pub struct Pinned<'a, T>(
    HashMapRef<'a, Key, Entry<T>, foldhash::fast::RandomState, LocalGuard<'a>>,
);

impl<T> Pinned<'_, T> {
    /// The value of `key`, unless it has expired.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.get(key).and_then(living).map(|entry| &*entry.value)
    }

    /// Every key and entry that has not expired, in no order. What is written meanwhile may or may
    /// not be among them.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry<T>)> {
        self.0.iter().filter(|(_, entry)| living(entry).is_some())
    }
}

fn living<T>(entry: &Entry<T>) -> Option<&Entry<T>> {
    if entry.is_expired() { None } else { Some(entry) }
}

impl<T: Send + Sync + 'static> LocalCache<T> for Replica<T> {
    async fn put(&self, key: &Key, entry: Entry<T>) -> bool {
        let map = self.0.pin();
        let outcome = map.compute(key.clone(), |resident| {
            if entry.replaces(resident.and_then(|(_, resident)| resident.version)) {
                Operation::Insert(entry.clone())
            } else {
                Operation::Abort(())
            }
        });
        !matches!(outcome, papaya::Compute::Aborted(()))
    }

    async fn remove(&self, key: &Key, version: Option<Version>) -> bool {
        let not_newer = |_: &Key, entry: &Entry<T>| is_removed_by(version, entry);
        matches!(self.0.pin().remove_if(key, not_newer), Ok(Some(_)))
    }

    async fn touch(&self, key: &Key, expires_at: Instant, version: Version) -> bool {
        let map = self.0.pin();
        let outcome = map.compute(key.clone(), |resident| match resident {
            Some((_, entry)) if version.is_newer_than(entry.version) => {
                Operation::Insert(entry.clone().with_expiry(Some(expires_at)))
            }
            _ => Operation::Abort(()),
        });
        !matches!(outcome, papaya::Compute::Aborted(()))
    }

    async fn clear(&self, version: Option<Version>) {
        self.0.pin().retain(|_, entry| !is_removed_by(version, entry));
    }

    fn contains(&self, key: &Key) -> bool {
        self.0.pin().get(key).and_then(living).is_some()
    }

    fn evicts(&self) -> bool {
        false
    }

    fn keys(&self) -> Vec<Key> {
        self.0.pin().keys().cloned().collect()
    }

    async fn evict_expired(&self) {
        let now = Instant::now();
        self.0.pin().retain(|_, entry| entry.expires_at.is_none_or(|at| at > now));
    }
}

fn is_removed_by<T>(version: Option<Version>, entry: &Entry<T>) -> bool {
    version.is_none_or(|version| !version.is_older_than(entry.version))
}

impl<T> Clone for Replica<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Default for Replica<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> fmt::Debug for Replica<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replica").field("len", &self.len()).finish()
    }
}

impl<T> fmt::Debug for Pinned<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pinned")
    }
}
