//! Values that did not come with their messages, and are loaded by their keys.

use tokio::time::Instant;

use super::Hydrator;
use super::reload::reading_failed;
use crate::cache::LocalCache;
use crate::cache::Mode;
use crate::cache::refills::Refill;
use crate::{Key, Version};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// Whether a value that is not in its message is to be loaded.
    pub(super) fn can_refill(&self, key: &Key) -> bool {
        let is_wanted = match self.settings.mode {
            Mode::Hydrate => true,
            Mode::UpdateIfPresent => self.cache.contains(key),
            Mode::Invalidate => false,
        };
        is_wanted && self.settings.source.is_some()
    }

    /// `key` has a new value with `version`, which is to be loaded. Until then its older value can be
    /// read, and no fence passes.
    pub(super) fn refill(&mut self, key: &Key, version: Version) {
        if !self.ledger.admits(key, version) {
            return self.counters.stale.increment();
        }
        self.ledger.put(key, version, Instant::now());
        if !self.refills.ask(key) {
            self.reload_soon();
        }
    }

    /// A value was loaded, unless that failed: then all is read again.
    pub(super) async fn refilled(&mut self, refill: Refill<T>) {
        let Refill { lease, outcome, passed } = refill;
        match outcome {
            _ if !lease.is_intact() => {
                self.counters.leases_broken.increment();
                // Updates overtook it again and again. They may all be older than what was to be loaded.
                let resident = self.cache.version(lease.key()).await;
                if !resident.is_some_and(|version| self.ledger.admits(lease.key(), version)) {
                    self.reload_soon();
                }
            }
            Ok(Some(loaded)) => {
                self.counters.refilled.increment();
                match self.store(lease.key(), loaded, self.epoch).await {
                    Ok(_) => self.ledger.stored(lease.key()),
                    Err(error) => {
                        self.damage.needs_source();
                        self.reload_failed(error);
                    }
                }
            }
            Ok(None) => self.drop_gone(lease.key()).await,
            Err(error) => {
                self.change(|status| status.suspect(Instant::now()));
                self.damage.needs_source();
                self.reload_failed(reading_failed(error));
            }
        }
        self.proven(passed);
        self.show_progress();
        self.end_repair();
        self.end_settling();
    }
}
