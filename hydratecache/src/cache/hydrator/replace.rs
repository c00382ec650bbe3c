//! Replacing an entry that a verifier found to be wrong.

use super::Hydrator;
use crate::cache::hydration::Filled;
use crate::cache::{Lease, Loaded, LocalCache};
use crate::{Result, Version};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// As [`fill`](Self::fill), where the entry has the version that was loaded, and another value:
    /// nothing is newer then, and yet it is to be replaced.
    pub(super) async fn replace(
        &mut self,
        lease: Lease,
        loaded: Option<Loaded<T>>,
    ) -> Result<Filled<T>> {
        let version = loaded.as_ref().and_then(|loaded| loaded.version).map(Version::caller);
        if lease.is_intact()
            && version.is_some()
            && self.cache.version(lease.key()).await == version
        {
            self.cache.remove(lease.key(), None).await;
        }
        self.fill(lease, loaded).await
    }
}
