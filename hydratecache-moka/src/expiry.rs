//! Tells moka when each entry ends.

use std::hash::Hash;
use std::time::{Duration, Instant};

use hydratecache::cache::Entry;
use moka::Expiry;
use moka::future::{Cache, CacheBuilder};

/// Settings of a moka cache for entries that end when their message said: the rest is yours.
///
/// ```
/// use hydratecache::{Key, cache::Entry};
/// use moka::future::Cache;
///
/// let users: Cache<Key, Entry<String>> = hydratecache_moka::builder()
///     .max_capacity(64 << 20)
///     .weigher(|key: &Key, user: &Entry<String>| (key.as_str().len() + user.len()) as u32)
///     .build();
/// # let _ = users;
/// ```
pub fn builder<K, T>() -> CacheBuilder<K, Entry<T>, Cache<K, Entry<T>>>
where
    K: Hash + Eq + Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    Cache::builder().expire_after(EntryExpiry)
}

/// Ends each entry of a moka cache at [`Entry::expires_at`], for a builder of your own:
/// `Cache::builder().expire_after(EntryExpiry)`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntryExpiry;

impl<K, T> Expiry<K, Entry<T>> for EntryExpiry {
    fn expire_after_create(&self, _: &K, entry: &Entry<T>, at: Instant) -> Option<Duration> {
        left(entry, at)
    }

    fn expire_after_update(
        &self,
        _: &K,
        entry: &Entry<T>,
        at: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        left(entry, at)
    }
}

/// What is left of the entry's life at `at`, by moka's clock.
fn left<T>(entry: &Entry<T>, at: Instant) -> Option<Duration> {
    entry.expires_at().map(|end| end.into_std().saturating_duration_since(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_ends_at_its_deadline_and_one_without_never() {
        let now = tokio::time::Instant::now();
        let minute = Duration::from_secs(60);
        let entry = Entry::new(1).with_expiry(Some(now + minute));
        let created = EntryExpiry.expire_after_create(&"k", &entry, now.into_std());
        assert_eq!(created, Some(minute));
        let later = now.into_std() + 2 * minute;
        let updated = EntryExpiry.expire_after_update(&"k", &entry, later, Some(minute));
        assert_eq!(updated, Some(Duration::ZERO), "the old deadline does not count");
        let endless = Entry::new(1);
        assert_eq!(EntryExpiry.expire_after_update(&"k", &endless, later, Some(minute)), None);
    }
}
