//! [`LocalCache`] for moka.

use std::borrow::Borrow;
use std::fmt;
use std::future::ready;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::Arc;

use hydratecache::cache::{Entry, LocalCache, ReadCache};
use hydratecache::{Key, Version};
use moka::future::Cache;
use moka::ops::compute::{CompResult, Op};
use tokio::time::Instant;

/// Your own moka cache, as something that can be hydrated. Cloning shares the cache.
///
/// ```
/// use hydratecache::{Key, cache::Entry};
/// use hydratecache_moka::MokaCache;
/// use moka::future::Cache;
///
/// let cache: Cache<Key, Entry<u64>> = hydratecache_moka::builder().max_capacity(10_000).build();
/// let hydrated = MokaCache::from(cache.clone());
/// # let _ = hydrated;
/// ```
pub struct MokaCache<T, K = Key, S = RandomState>(Cache<K, Entry<T>, S>);

/// What a key of the cache must be: `String` and [`Key`] are.
pub trait CacheKey:
    for<'a> From<&'a Key> + Borrow<str> + Hash + Eq + Clone + Send + Sync + 'static
{
}

impl<K> CacheKey for K where
    K: for<'a> From<&'a Key> + Borrow<str> + Hash + Eq + Clone + Send + Sync + 'static
{
}

impl<T, K, S> MokaCache<T, K, S>
where
    T: Send + Sync + 'static,
    K: CacheKey,
    S: BuildHasher + Clone + Send + Sync + 'static,
{
    /// The value of `key`, unless it has expired; so even if the cache was built without
    /// [`EntryExpiry`](crate::EntryExpiry).
    pub async fn get(&self, key: &str) -> Option<Arc<T>> {
        self.entry(key).await.map(|entry| entry.value().clone())
    }

    /// The entry of `key`, with its version and its end, unless it has expired.
    pub async fn entry(&self, key: &str) -> Option<Entry<T>> {
        self.0.get(key).await.filter(|entry| !entry.is_expired())
    }

    /// The cache itself.
    #[must_use]
    pub fn as_moka(&self) -> &Cache<K, Entry<T>, S> {
        &self.0
    }

    /// Does what `choose` says about the entry of `key`, with moka's lock of the key held.
    /// `true`: something changed.
    async fn compute(
        &self,
        key: K,
        choose: impl FnOnce(Option<&Entry<T>>) -> Op<Entry<T>> + Send,
    ) -> bool {
        let resident = |entry: Option<moka::Entry<K, Entry<T>>>| {
            ready(choose(entry.as_ref().map(moka::Entry::value)))
        };
        let outcome = self.0.entry(key).and_compute_with(resident).await;
        !matches!(outcome, CompResult::Unchanged(_) | CompResult::StillNone(_))
    }

    async fn remove_not_newer(&self, key: K, version: Option<Version>) -> bool {
        self.compute(key, |resident| match resident {
            Some(entry) if is_removed_by(version, entry) => Op::Remove,
            _ => Op::Nop,
        })
        .await
    }
}

impl<T, K, S> LocalCache<T> for MokaCache<T, K, S>
where
    T: Send + Sync + 'static,
    K: CacheKey,
    S: BuildHasher + Clone + Send + Sync + 'static,
{
    async fn put(&self, key: &Key, entry: Entry<T>) -> bool {
        self.compute(K::from(key), |resident| {
            let resident = resident.and_then(Entry::version);
            let replaces = entry.replaces(resident);
            if replaces { Op::Put(entry.not_older_than(resident)) } else { Op::Nop }
        })
        .await
    }

    async fn remove(&self, key: &Key, version: Option<Version>) -> bool {
        // Looking takes 30 ns, the lock 700, and most invalidations meet nothing.
        self.0.contains_key(key.as_str()) && self.remove_not_newer(K::from(key), version).await
    }

    async fn touch(&self, key: &Key, expires_at: Instant, version: Version) -> bool {
        self.compute(K::from(key), |resident| match resident {
            Some(entry) if !entry.is_expired() && version.is_newer_than(entry.version()) => {
                Op::Put(entry.clone().with_expiry(Some(expires_at)))
            }
            _ => Op::Nop,
        })
        .await
    }

    async fn clear(&self, version: Option<Version>) {
        let Some(version) = version else {
            return invalidate_all(&self.0);
        };
        let keys = self.0.iter().filter(|(_, entry)| is_removed_by(Some(version), entry));
        let keys: Vec<Arc<K>> = keys.map(|(key, _)| key).collect();
        for key in keys {
            self.remove_not_newer(K::clone(&key), Some(version)).await;
        }
    }

    fn contains(&self, key: &Key) -> bool {
        // Not `get`: that counts as a use of the entry, which an update is not. Without
        // `EntryExpiry` this finds an expired entry too; updating that one is no harm.
        self.0.contains_key(key.as_str())
    }

    fn evicts(&self) -> bool {
        true
    }

    fn keys(&self) -> Vec<Key> {
        // A key that breaks the rules of `Key` is the user's own and no update's.
        self.0.iter().filter_map(|(key, _)| Key::new((*key).borrow()).ok()).collect()
    }

    async fn version(&self, key: &Key) -> Option<Version> {
        self.0.get(key.as_str()).await?.version()
    }

    async fn evict_expired(&self) {
        self.0.run_pending_tasks().await;
    }
}

impl<T, K, S> ReadCache<T> for MokaCache<T, K, S>
where
    T: Send + Sync + 'static,
    K: CacheKey,
    S: BuildHasher + Clone + Send + Sync + 'static,
{
    async fn entry(&self, key: &str) -> Option<Entry<T>> {
        Self::entry(self, key).await
    }
}

/// Hides every entry that was inserted before this call.
///
/// Moka 0.12 keeps an entry that was inserted at the very instant of `invalidate_all`, and some
/// clocks tick only every 100 ns: let it tick first.
fn invalidate_all<K, V, S>(cache: &Cache<K, V, S>)
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
    S: BuildHasher + Clone + Send + Sync + 'static,
{
    let called = std::time::Instant::now();
    while std::time::Instant::now() <= called {
        std::hint::spin_loop();
    }
    cache.invalidate_all();
}

fn is_removed_by<T>(version: Option<Version>, entry: &Entry<T>) -> bool {
    version.is_none_or(|version| !version.is_older_than(entry.version()))
}

impl<T, K, S> From<Cache<K, Entry<T>, S>> for MokaCache<T, K, S> {
    fn from(cache: Cache<K, Entry<T>, S>) -> Self {
        Self(cache)
    }
}

impl<T, K, S> Clone for MokaCache<T, K, S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T, K, S> fmt::Debug for MokaCache<T, K, S> {
    /// Shows no entry: keys may be personal data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MokaCache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    type Words = MokaCache<&'static str, String>;

    fn words() -> Words {
        MokaCache::from(crate::builder().build())
    }

    fn key(name: &str) -> Key {
        Key::new(name).expect("legal")
    }

    fn version(number: u64) -> Version {
        Version::caller(number)
    }

    fn entry(word: &'static str, number: u64) -> Entry<&'static str> {
        Entry::new(word).with_version(Some(version(number)))
    }

    async fn value(words: &Words, name: &str) -> Option<&'static str> {
        words.get(name).await.map(|word| *word)
    }

    #[tokio::test]
    async fn an_older_value_never_replaces_a_newer_one() {
        let words = words();
        assert!(words.put(&key("a"), entry("second", 2)).await);
        assert!(!words.put(&key("a"), entry("first", 1)).await);
        assert!(!words.put(&key("a"), entry("again", 2)).await);
        assert_eq!(value(&words, "a").await, Some("second"));
        assert!(words.put(&key("a"), entry("third", 3)).await);
        assert_eq!(value(&words, "a").await, Some("third"));
    }

    #[tokio::test]
    async fn a_removal_takes_what_is_not_newer() {
        let words = words();
        words.put(&key("a"), entry("second", 2)).await;
        assert!(!words.remove(&key("a"), Some(version(1))).await);
        assert!(words.remove(&key("a"), Some(version(2))).await);
        assert!(!words.remove(&key("a"), None).await, "it is gone");
        words.put(&key("b"), entry("any", 9)).await;
        assert!(words.remove(&key("b"), None).await);
        assert!(words.keys().is_empty());
    }

    #[tokio::test]
    async fn a_touch_changes_the_end_and_neither_value_nor_version() {
        let words = words();
        let end = Instant::now() + Duration::from_secs(60);
        assert!(!words.touch(&key("a"), end, version(9)).await, "nothing is there");
        words.put(&key("a"), entry("second", 2)).await;
        assert!(!words.touch(&key("a"), end, version(2)).await);
        assert!(words.touch(&key("a"), end, version(3)).await);
        let touched = words.entry("a").await.expect("it lives");
        assert_eq!((*touched, touched.version()), ("second", Some(version(2))));
        assert_eq!(touched.expires_at(), Some(end));
    }

    #[tokio::test]
    async fn a_clear_takes_what_is_not_newer() {
        let words = words();
        words.put(&key("a"), entry("old", 1)).await;
        words.put(&key("b"), entry("new", 3)).await;
        words.clear(Some(version(2))).await;
        assert_eq!(words.keys(), [key("b")]);
        words.put(&key("c"), entry("just now", 4)).await;
        words.clear(None).await;
        assert!(words.keys().is_empty() && !words.contains(&key("c")));
        assert!(words.put(&key("a"), entry("old", 1)).await, "a put right behind it stays");
        assert_eq!(value(&words, "a").await, Some("old"));
    }

    #[tokio::test]
    async fn an_entry_ends_to_the_millisecond_and_its_memory_is_given_back() {
        let words = words();
        let end = Instant::now() + Duration::from_millis(40);
        words.put(&key("a"), entry("brief", 1).with_expiry(Some(end))).await;
        let is_there = words.contains(&key("a"));
        assert!(is_there || Instant::now() >= end);
        tokio::time::sleep_until(end).await;
        assert!(words.as_moka().get("a").await.is_none() && !words.contains(&key("a")));
        let is_freed = async {
            loop {
                words.evict_expired().await;
                if words.as_moka().entry_count() == 0 {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), is_freed).await.expect("moka frees it");
    }

    #[tokio::test]
    async fn a_cache_without_entry_expiry_never_returns_an_expired_entry_unsaid() {
        let words = Words::from(Cache::builder().build());
        let past = Instant::now();
        words.put(&key("a"), entry("over", 1).with_expiry(Some(past))).await;
        assert_eq!(words.get("a").await, None);
        let resident = words.as_moka().get("a").await.expect("moka does not know");
        assert!(resident.is_expired());
        let later = past + Duration::from_secs(60);
        assert!(!words.touch(&key("a"), later, version(2)).await, "a touch revives nothing");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn concurrent_puts_of_one_key_end_with_the_newest() {
        for _ in 0..50 {
            let words = words();
            let puts = (1..=64).map(|number| {
                let words = words.clone();
                tokio::spawn(async move { words.put(&key("a"), entry("some", number)).await })
            });
            for put in puts.collect::<Vec<_>>() {
                put.await.expect("no panic");
            }
            let newest = words.entry("a").await.and_then(|entry| entry.version());
            assert_eq!(newest, Some(version(64)));
        }
    }
}
