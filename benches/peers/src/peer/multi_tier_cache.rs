//! multi-tier-cache over Redis.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use multi_tier_cache::error::CacheError;
use multi_tier_cache::{
    CacheManager, CacheStrategy, InvalidationConfig, L1Cache, L2Cache, MokaCacheConfig,
};

use super::{About, Peer, Place};
use crate::database::Database;

/// A cache of two tiers.
pub(crate) struct MultiTierCache {
    manager: CacheManager,
    database: Database,
}

impl Peer for MultiTierCache {
    const ABOUT: About = About {
        name: "multi-tier-cache",
        crates: &["multi-tier-cache", "redis", "moka"],
        setup: "moka (its README's sizes) before Redis, `new_with_invalidation` with the default \
                configuration; written by `set_with_broadcast`, the strategy that its README has for \
                small values that are read often, and read by `get_or_compute_with`. The value goes \
                to Redis and, in hex within JSON, to every instance, the writer included; each \
                reader writes it to Redis once more",
        loss: "a log line and a counter of errors at best; it connects again after 5 s, what was \
               written until then is missed, nothing is dropped or loaded again, and entries stay \
               until their TTL (30 minutes here)",
        stores_rows: true,
    };

    type Value = Bytes;

    async fn writer(place: &Place) -> Result<Self> {
        let near = L1Cache::new(MokaCacheConfig {
            max_capacity: 10_000,
            time_to_live: Duration::from_mins(30),
            time_to_idle: Duration::from_mins(5),
        })?;
        let far = Arc::new(L2Cache::with_url(&place.url).await?);
        let config = InvalidationConfig::default();
        let manager =
            CacheManager::new_with_invalidation(Arc::new(near), far, &place.url, config).await?;
        Ok(Self { manager, database: place.database.clone() })
    }

    async fn reader(place: &Place) -> Result<Self> {
        Self::writer(place).await
    }

    async fn write(&self, key: &str, value: &str) -> Result<()> {
        let value = Bytes::copy_from_slice(value.as_bytes());
        Ok(self.manager.set_with_broadcast(key, value, CacheStrategy::MediumTerm).await?)
    }

    async fn read(&self, key: &str) -> Result<Option<Bytes>> {
        let load = || async {
            let row = self.database.read(key).await;
            let row = row.map_err(|error| CacheError::InternalError(error.to_string()))?;
            row.map(Bytes::from).ok_or(CacheError::NotFound)
        };
        Ok(Some(self.manager.get_or_compute_with(key, CacheStrategy::MediumTerm, load).await?))
    }

    fn told(&self) -> String {
        let errors = self.manager.invalidation_stats().map(|stats| stats.processing_errors);
        format!("{} processing errors", errors.unwrap_or_default())
    }
}
