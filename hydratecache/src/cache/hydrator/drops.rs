//! Dropping entries that are known, or may be, wrong, and remembering what may not come back.

use tokio::time::Instant;

use super::Hydrator;
use crate::cache::{GapAction, LocalCache};
use crate::{Key, Message, Version};

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

    /// Whether that drops what the cache has, for want of a source.
    pub(super) fn clears(&self, action: GapAction) -> bool {
        action == GapAction::Clear || action == GapAction::Reload && self.settings.source.is_none()
    }

    /// The entry of `key` came with `message`. One that came late may be older than something else that is
    /// missing still.
    pub(super) fn note_news(&mut self, key: &Key, message: &Message) {
        let Some(news) = &mut self.news else { return };
        if self.is_late || message.position().is_none() {
            news.remove(key);
        } else {
            news.insert(key.clone());
        }
    }

    /// Drops all entries but the news, because nobody knows which of them are still right. They may come
    /// back, and nothing older.
    pub(super) async fn drop_all(&mut self) {
        self.counters.cleared.increment();
        let news = self.news.take().unwrap_or_default();
        let mut keys = self.cache.keys();
        keys.retain(|key| !news.contains(key));
        self.ledger.make_room_for(keys.len());
        for key in &keys {
            if let Some(version) = self.cache.version(key).await {
                self.ledger.put(key, version, Instant::now());
            }
        }
        if news.is_empty() {
            return self.cache.clear(None).await;
        }
        for key in &keys {
            self.cache.remove(key, None).await;
        }
    }
}
