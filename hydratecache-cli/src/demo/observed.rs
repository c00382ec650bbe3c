//! A cache that notes when each write of the writer became visible in it.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use hydratecache::cache::{Entry, LocalCache};
use hydratecache::{Key, Version};
use tokio::time::Instant;

use super::report::Moment;

/// The versions that became visible, and when.
#[derive(Clone, Default)]
pub(super) struct Applied(Arc<Mutex<Vec<(u64, Moment)>>>);

impl Applied {
    /// What was noted since the last call.
    pub(super) fn take(&self) -> Vec<(u64, Moment)> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, version: Option<Version>) {
        if let Some(version) = version {
            let noted = (version.number(), Moment::now());
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
        }
    }
}

/// `cache`, with notes of what changes it.
pub(super) struct Observed<C> {
    pub(super) cache: C,
    pub(super) applied: Applied,
    /// Whether values come from the writer. Where reads load them they are as old as they are.
    pub(super) is_pushed_to: bool,
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> LocalCache<T> for Observed<C> {
    async fn put(&self, key: &Key, entry: Entry<T>) -> bool {
        let version = entry.version();
        let is_stored = self.cache.put(key, entry).await;
        self.applied.note(version.filter(|_| is_stored && self.is_pushed_to));
        is_stored
    }

    async fn remove(&self, key: &Key, version: Option<Version>) -> bool {
        let is_removed = self.cache.remove(key, version).await;
        self.applied.note(version.filter(|_| is_removed));
        is_removed
    }

    async fn touch(&self, key: &Key, expires_at: Instant, version: Version) -> bool {
        self.cache.touch(key, expires_at, version).await
    }

    async fn clear(&self, version: Option<Version>) {
        self.cache.clear(version).await;
    }

    fn contains(&self, key: &Key) -> bool {
        self.cache.contains(key)
    }

    fn evicts(&self) -> bool {
        self.cache.evicts()
    }

    fn keys(&self) -> Vec<Key> {
        self.cache.keys()
    }

    async fn version(&self, key: &Key) -> Option<Version> {
        self.cache.version(key).await
    }

    async fn evict_expired(&self) {
        self.cache.evict_expired().await;
    }
}
