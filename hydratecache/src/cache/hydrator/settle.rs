//! New keys right behind a gap: each may be one that is gone, and is looked up once nothing older can come.

use std::time::Duration;

use tokio::time::Instant;

use super::Hydrator;
use crate::Key;
use crate::cache::LocalCache;

/// How long after a gap a message may still be older than what the gap took with it: twice as long as
/// a publish waits for a lost link by default.
pub(super) const SETTLING: Duration = Duration::from_secs(10);

/// How many keys are looked up by themselves: for more, reading the source is cheaper.
const MOST_CLAIMS: usize = 4_096;

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// A gap was told of: what comes now may be older than what was lost.
    pub(super) fn unsettle(&mut self) {
        self.settled_at = Some(Instant::now() + SETTLING);
    }

    /// Whether a new key is no more than a claim: its removal may have been lost in a gap, or before the
    /// start, and its put have waited for a lost link meanwhile. The source decides, later.
    pub(super) fn may_be_gone(&self, key: &Key) -> bool {
        let has_scanned = self.settings.source.is_some() && self.reload_at.is_none();
        has_scanned
            && self.settled_at.is_some_and(|settled_at| Instant::now() < settled_at)
            && !self.cache.contains(key)
    }

    /// `key` may be one that is gone: it is to be looked up once nothing older can come any more. What was
    /// proven before does not hold for that entry, and nothing is proven until then.
    pub(super) fn claim(&mut self, key: &Key) {
        self.claims.insert(key.clone());
        self.settle_at = self.settled_at;
        self.change(|status| {
            status.is_unsettled = true;
            status.proven_at = None;
        });
    }

    /// When claims are to be looked up. While the link is lost, a look would miss what is written after it.
    pub(super) fn next_settling(&self) -> Option<Instant> {
        self.settle_at.filter(|_| self.status.borrow().disrupted_since.is_none())
    }

    /// Nothing older can come, unless there was another gap: looks the claims up.
    pub(super) fn settle(&mut self) {
        if let Some(later) = self.settled_at.filter(|settled_at| Instant::now() < *settled_at) {
            self.settle_at = Some(later);
            return;
        }
        self.settle_at = None;
        if self.claims.len() > MOST_CLAIMS {
            // Reading all of it looks at each of them.
            return self.reload_soon();
        }
        // In an order that repeats in a simulation.
        let mut claims: Vec<Key> = self.claims.drain().collect();
        claims.sort_unstable();
        if !claims.iter().all(|key| self.refills.ask(key)) {
            self.reload_soon();
        }
        self.settled_by = Some(self.refills.mark());
        self.end_settling();
    }

    /// Nothing is a claim any more, once all is loaded that was to be looked up.
    pub(super) fn end_settling(&mut self) {
        if self.settled_by.is_some_and(|mark| self.refills.has_passed(mark)) {
            self.settled_by = None;
            self.settled();
        }
    }

    /// Claims were looked up.
    pub(super) fn settled(&mut self) {
        if self.claims.is_empty() && self.settled_by.is_none() {
            self.settle_at = None;
            if self.status.borrow().is_unsettled {
                self.change(|status| status.is_unsettled = false);
            }
        }
    }
}
