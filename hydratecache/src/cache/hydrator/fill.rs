//! Storing what was loaded: for a reader, from a scan, or because a verifier found an entry to be
//! wrong.

use tokio::time::Instant;

use super::{ENDLESS, Hydrator};
use crate::cache::hydration::Filled;
use crate::cache::{Entry, Lease, Loaded, LocalCache};
use crate::{Key, Result, Version};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// Stores what a reader loaded under `lease`, or that there is nothing.
    pub(super) async fn fill(
        &mut self,
        lease: Lease,
        loaded: Option<Loaded<T>>,
    ) -> Result<Filled<T>> {
        // A version is no guard of its own: an update of an absent key leaves none to compare with.
        if !lease.is_intact() {
            self.counters.leases_broken.increment();
            return Ok(Filled::Overtaken);
        }
        let Some(loaded) = loaded else {
            self.drop_gone(lease.key()).await;
            return Ok(Filled::Gone);
        };
        let key = lease.key();
        let (version, ttl) = (loaded.version, loaded.ttl);
        let shared = Entry::of_loaded(&loaded).with_epoch(self.epoch);
        let filled = self.store(key, loaded, self.epoch).await?;
        if let Filled::Stored(_) = &filled {
            self.ledger.stored(key);
        }
        match (&filled, version, self.expiry(ttl)) {
            (Filled::Resident, Some(version), Some(expires_at))
                if self.is_to_be_renewed(key, expires_at) =>
            {
                // The same value lives on, if that is what the cache has: whatever is older than
                // the next version is given its new end.
                let next = Version::caller(version.saturating_add(1));
                let end = expires_at.unwrap_or_else(|| Instant::now() + ENDLESS);
                let is_renewed = self.cache.touch(key, end, next).await;
                let entry = shared.with_expiry(Some(end));
                Ok(if is_renewed { Filled::Stored(entry) } else { filled })
            }
            _ => Ok(filled),
        }
    }

    /// Whether what the cache has of `key` may end before `expires_at`, which is that of the source.
    fn is_to_be_renewed(&self, key: &Key, expires_at: Option<Instant>) -> bool {
        let keeps_ended = !self.settings.kept_beyond_end.is_zero();
        expires_at.is_some() || keeps_ended || !self.cache.contains(key)
    }

    /// Stores what was loaded; one without a version was guarded by the caller. What was lost in `epoch` or
    /// before does not affect it.
    pub(super) async fn store(
        &mut self,
        key: &Key,
        loaded: Loaded<T>,
        epoch: u32,
    ) -> Result<Filled<T>> {
        let version = loaded.order();
        if let Some(version) = version {
            self.channel.check_domain(version)?;
            if !self.ledger.admits(key, version) {
                self.count(false);
                let is_gone = self.ledger.has_removed(key, version);
                return Ok(if is_gone { Filled::Gone } else { Filled::Behind });
            }
        }
        let Some(expires_at) = self.expiry(loaded.ttl) else {
            return Ok(Filled::Gone);
        };
        let entry = Entry::of_shared(loaded.value).with_version(version).with_expiry(expires_at);
        let entry = entry.with_epoch(epoch);
        let is_stored = self.cache.put(key, entry.clone()).await;
        if let Some(version) = version {
            self.leave_behind(key, version, expires_at);
        }
        self.holds_unversioned |= is_stored && version.is_none();
        self.count(is_stored);
        Ok(if is_stored { Filled::Stored(entry) } else { Filled::Resident })
    }

    /// As [`fill`](Self::fill), where the entry has the version that was loaded, and another value, or
    /// was removed with that version: nothing is newer then, and yet it is to be replaced.
    pub(super) async fn replace(
        &mut self,
        lease: Lease,
        loaded: Option<Loaded<T>>,
    ) -> Result<Filled<T>> {
        let version = loaded.as_ref().and_then(Loaded::order);
        if let Some(version) = version.filter(|_| lease.is_intact()) {
            self.ledger.restored(lease.key(), version);
            if self.cache.version(lease.key()).await == Some(version) {
                self.change(|status| status.shaken += 1);
                self.cache.remove(lease.key(), None).await;
            }
        }
        self.fill(lease, loaded).await
    }
}
