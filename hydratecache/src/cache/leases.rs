//! Leases: whether an update of a key arrived while its value was being loaded.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Key;

/// The keys that are being loaded right now.
#[derive(Default)]
pub(super) struct Leases {
    /// So that a hydrator without leases under way takes no lock.
    held: AtomicUsize,
    keys: Mutex<HashMap<Key, Held, foldhash::fast::RandomState>>,
}

#[derive(Default)]
struct Held {
    holders: usize,
    /// Grows with every update of the key.
    updates: u64,
}

/// The right to store what is now loaded for a key, until an update of that key arrives.
///
/// Take it *before* the load begins, and give it to [`Hydration::fill`](super::Hydration::fill)
/// with the value.
pub struct Lease {
    leases: Arc<Leases>,
    key: Key,
    updates: u64,
}

impl Leases {
    pub(super) fn take(self: &Arc<Self>, key: Key) -> Lease {
        let mut keys = self.lock();
        let held = keys.entry(key.clone()).or_default();
        held.holders += 1;
        self.held.fetch_add(1, Ordering::SeqCst);
        Lease { leases: self.clone(), updates: held.updates, key }
    }

    /// An update of `key` arrived.
    pub(super) fn update(&self, key: &Key) {
        if self.held.load(Ordering::SeqCst) > 0
            && let Some(held) = self.lock().get_mut(key)
        {
            held.updates += 1;
        }
    }

    /// An update of any key arrived, or may have been lost.
    pub(super) fn update_all(&self) {
        for held in self.lock().values_mut() {
            held.updates += 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Held, foldhash::fast::RandomState>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The key.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Whether no update of the key arrived since the lease was taken.
    #[must_use]
    pub fn is_intact(&self) -> bool {
        self.leases.lock().get(&self.key).is_some_and(|held| held.updates == self.updates)
    }

    pub(super) fn is_of(&self, leases: &Arc<Leases>) -> bool {
        Arc::ptr_eq(&self.leases, leases)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut keys = self.leases.lock();
        if let Some(held) = keys.get_mut(&self.key) {
            held.holders -= 1;
            if held.holders == 0 {
                keys.remove(&self.key);
            }
        }
        self.leases.held.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key", &self.key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_breaks_the_leases_taken_before_it_and_no_other() {
        let leases = Arc::new(Leases::default());
        let key = |name| Key::new(name).expect("legal");
        let before = leases.take(key("a"));
        let other = leases.take(key("b"));
        leases.update(&key("a"));
        let after = leases.take(key("a"));
        assert!(!before.is_intact() && other.is_intact() && after.is_intact());
        leases.update_all();
        assert!(!other.is_intact() && !after.is_intact());
        drop((before, other, after));
        assert!(leases.lock().is_empty());
    }
}
