//! Dropping entries that are known, or may be, wrong, and remembering what may not come back.

use tokio::time::Instant;

use super::Hydrator;
use crate::cache::LocalCache;
use crate::{Key, Version};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// A message could not be used: what the cache holds for its key is known to be old.
    pub(super) async fn reject(&mut self, key: &Key, version: Option<Version>) {
        self.counters.rejected.increment();
        self.leases.update(key);
        self.ledger.updated(key, version, None);
        let resident = self.cache.version(key).await;
        for version in [version, resident].into_iter().flatten() {
            self.ledger.put(key, version, Instant::now());
        }
        self.dropped += 1;
        self.change(|status| {
            status.has_holes = true;
            status.shaken += 1;
        });
        self.cache.remove(key, None).await;
    }

    /// The source shows that `key` has no value: what it held, and all that is older, stays out.
    pub(super) async fn drop_gone(&mut self, key: &Key) {
        if let Some(version) = self.cache.version(key).await {
            self.tombstone(key, version);
        }
        self.cache.remove(key, None).await;
    }

    /// Another replica has no `key`, whose life may have ended there: it may come back, and nothing
    /// older.
    pub(super) async fn drop_absent(&mut self, key: &Key) {
        if let Some(version) = self.cache.version(key).await {
            self.ledger.put(key, version, Instant::now());
        }
        self.cache.remove(key, None).await;
    }

    /// Drops all entries, because nobody knows which of them are still right. They may come back,
    /// and nothing older.
    pub(super) async fn drop_all(&mut self) {
        self.counters.cleared.increment();
        let keys = self.cache.keys();
        self.ledger.make_room_for(keys.len());
        for key in keys {
            if let Some(version) = self.cache.version(&key).await {
                self.ledger.put(&key, version, Instant::now());
            }
        }
        self.cache.clear(None).await;
    }
}
