//! A cache that tells what changes it.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use hydratecache::cache::{Entry, LocalCache};
use hydratecache::{Key, Version};
use tokio::time::Instant;

use super::report::Moment;

/// Who is told what changes a cache, right after it did. Not of [`LocalCache::clear`]: nobody in the
/// demo publishes that.
pub(super) trait Observer<T>: Send + Sync + 'static {
    /// `entry` is visible.
    fn stored(&self, key: &Key, entry: &Entry<T>);

    /// The entry of `key` is gone, because of a message with `version` if it had one.
    fn removed(&self, key: &Key, version: Option<Version>);
}

/// The versions that became visible, and when.
#[derive(Clone)]
pub(super) struct Applied {
    noted: Arc<Mutex<Vec<(u64, Moment)>>>,
    /// Whether values come from the writer. Where reads load them they are as old as they are.
    is_pushed_to: bool,
}

impl Applied {
    pub(super) fn new(is_pushed_to: bool) -> Self {
        Self { noted: Arc::default(), is_pushed_to }
    }

    /// What was noted since the last call.
    pub(super) fn take(&self) -> Vec<(u64, Moment)> {
        mem::take(&mut self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn note(&self, version: Option<Version>) {
        if let Some(version) = version {
            let noted = (version.number(), Moment::now());
            self.noted.lock().unwrap_or_else(PoisonError::into_inner).push(noted);
        }
    }
}

impl<T> Observer<T> for Applied {
    fn stored(&self, _: &Key, entry: &Entry<T>) {
        self.note(entry.version().filter(|_| self.is_pushed_to));
    }

    fn removed(&self, _: &Key, version: Option<Version>) {
        self.note(version);
    }
}

/// `cache`, whose changes `observer` is told of.
#[derive(Clone)]
pub(super) struct Observed<C, O> {
    pub(super) cache: C,
    pub(super) observer: O,
}

impl<T, C, O> LocalCache<T> for Observed<C, O>
where
    T: Send + Sync + 'static,
    C: LocalCache<T>,
    O: Observer<T>,
{
    async fn put(&self, key: &Key, entry: Entry<T>) -> bool {
        let is_stored = self.cache.put(key, entry.clone()).await;
        if is_stored {
            self.observer.stored(key, &entry);
        }
        is_stored
    }

    async fn remove(&self, key: &Key, version: Option<Version>) -> bool {
        let is_removed = self.cache.remove(key, version).await;
        if is_removed {
            self.observer.removed(key, version);
        }
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
