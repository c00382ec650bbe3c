//! Our own map for whole-topic copies, with the fastest reads.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use papaya::{HashMapRef, LocalGuard};
use tokio::time::Instant;

use super::deadline::Deadline;
use super::{Entry, LocalCache, ReadCache, ReadNow};
use crate::{Key, Version};

/// A copy of a whole topic in a lock-free map ([`papaya`]), for values that fit into memory.
///
/// Reads take no lock, wait for nobody, and read the clock only for entries with a TTL. Cloning
/// shares the map.
pub struct Replica<T>(Arc<Shared<T>>);

struct Shared<T> {
    map: Map<T>,
    /// Held by whoever writes: one hydrator, as a rule. papaya could compare and write in one step
    /// (`compute`), but a map that grew by that is read 10 to 20 times slower (0.2.5, measured).
    writing: Mutex<()>,
}

type Map<T> = papaya::HashMap<Key, Entry<T>, foldhash::fast::RandomState>;

impl<T> Replica<T> {
    /// An empty replica.
    #[must_use]
    pub fn new() -> Self {
        // Reads need not look into two tables while the map grows; the one writer can wait for it.
        let map = papaya::HashMap::builder()
            .hasher(foldhash::fast::RandomState::default())
            .resize_mode(papaya::ResizeMode::Blocking)
            .build();
        Self(Arc::new(Shared { map, writing: Mutex::new(()) }))
    }

    /// The value of `key`, unless it has expired.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Arc<T>> {
        self.0.map.pin().get(key).and_then(living).map(|entry| entry.value.clone())
    }

    /// The entry of `key`, with its version and its end, unless it has expired.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<Entry<T>> {
        self.0.map.pin().get(key).and_then(living).cloned()
    }

    /// A view for several reads in a row, which borrows values instead of sharing them.
    ///
    /// What is removed meanwhile is freed only when the view is dropped: keep it short.
    #[must_use]
    pub fn pin(&self) -> Pinned<'_, T> {
        Pinned(self.0.map.pin())
    }

    /// How many entries there are. Expired ones count until they are swept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.map.len()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.map.is_empty()
    }

    fn write(&self) -> (PinnedMap<'_, T>, MutexGuard<'_, ()>) {
        (self.0.map.pin(), self.0.writing.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A view of a [`Replica`] for several reads in a row.
pub struct Pinned<'a, T>(PinnedMap<'a, T>);

type PinnedMap<'a, T> = HashMapRef<'a, Key, Entry<T>, foldhash::fast::RandomState, LocalGuard<'a>>;

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

#[inline]
fn living<T>(entry: &Entry<T>) -> Option<&Entry<T>> {
    if entry.is_expired() { None } else { Some(entry) }
}

impl<T: Send + Sync + 'static> LocalCache<T> for Replica<T> {
    async fn put(&self, key: &Key, entry: Entry<T>) -> bool {
        let (map, _writing) = self.write();
        let resident = map.get(key).and_then(Entry::version);
        let is_newer = entry.replaces(resident);
        if is_newer {
            map.insert(key.clone(), entry.not_older_than(resident));
        }
        is_newer
    }

    async fn remove(&self, key: &Key, version: Option<Version>) -> bool {
        let (map, _writing) = self.write();
        let is_removed = map.get(key).is_some_and(|entry| is_removed_by(version, entry));
        if is_removed {
            map.remove(key);
        }
        is_removed
    }

    async fn touch(&self, key: &Key, expires_at: Instant, version: Version) -> bool {
        let (map, _writing) = self.write();
        let older = |entry: &&Entry<T>| version.is_newer_than(entry.version());
        let touched = map.get(key).filter(older).cloned();
        let is_touched = touched.is_some();
        if let Some(entry) = touched {
            map.insert(key.clone(), entry.with_expiry(Some(expires_at)));
        }
        is_touched
    }

    async fn clear(&self, version: Option<Version>) {
        let (map, _writing) = self.write();
        map.retain(|_, entry| !is_removed_by(version, entry));
    }

    fn contains(&self, key: &Key) -> bool {
        self.0.map.pin().get(key).and_then(living).is_some()
    }

    async fn version(&self, key: &Key) -> Option<Version> {
        self.0.map.pin().get(key)?.version()
    }

    fn evicts(&self) -> bool {
        false
    }

    fn keys(&self) -> Vec<Key> {
        self.0.map.pin().keys().cloned().collect()
    }

    async fn evict_expired(&self) {
        let now = Deadline::at(Instant::now());
        let (map, _writing) = self.write();
        map.retain(|_, entry| entry.expires_at.is_none_or(|at| at > now));
    }
}

impl<T: Send + Sync + 'static> ReadCache<T> for Replica<T> {
    async fn entry(&self, key: &str) -> Option<Entry<T>> {
        Self::entry(self, key)
    }
}

impl<T: Send + Sync + 'static> ReadNow<T> for Replica<T> {
    #[inline]
    fn read_now<R>(&self, key: &str, read: impl FnOnce(&Entry<T>) -> R) -> Option<R> {
        self.0.map.pin().get(key).and_then(living).map(read)
    }
}

fn is_removed_by<T>(version: Option<Version>, entry: &Entry<T>) -> bool {
    version.is_none_or(|version| !version.is_older_than(entry.version()))
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
