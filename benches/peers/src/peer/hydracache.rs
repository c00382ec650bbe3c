//! hydracache with its Redis transport.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hydracache::{
    CacheOptions, InMemoryFramedInvalidationBus, InvalidationRelay, InvalidationRelayHandle,
    TransportConfig,
};
use hydracache_transport_redis::{RedisInvalidationTransport, RedisTransportConfig};

use super::{About, FLEET, Peer, Place};
use crate::database::Database;

/// Room for all rows.
const CAPACITY_BYTES: u64 = 64 << 20;

/// A local cache, and the relay that tells others of what is invalid.
pub(crate) struct HydraCache {
    cache: hydracache::HydraCache,
    relay: InvalidationRelayHandle,
    database: Database,
}

impl Peer for HydraCache {
    const ABOUT: About = About {
        name: "hydracache",
        crates: &["hydracache", "hydracache-transport-redis", "redis"],
        setup: "`HydraCache::local` on a framed bus of its own, which `InvalidationRelay` joins to \
                Redis by `RedisInvalidationTransport`, with the default configuration and a TTL of 5 \
                minutes as in its quick start; written by `invalidate_key` and read by \
                `get_or_load`. It sends no values: readers drop the key and load the row. The relay \
                publishes in the background and connects anew for each message",
        loss: "counters of the relay (`TransportMetrics`); nothing is dropped or loaded again, \
               because its ring has only what this process put there, and entries stay until their \
               TTL",
        stores_rows: false,
    };

    type Value = String;

    async fn writer(place: &Place) -> Result<Self> {
        let core = TransportConfig::new(FLEET, &place.instance);
        let transport = RedisTransportConfig::new(&place.url, core.clone());
        let transport = RedisInvalidationTransport::connect(transport).await?;
        let bus = Arc::new(InMemoryFramedInvalidationBus::for_cluster(FLEET, 1024));
        let cache = hydracache::HydraCache::local()
            .default_ttl(Duration::from_mins(5))
            .max_capacity(CAPACITY_BYTES)
            .shared_invalidation_bus(bus.clone())
            .invalidation_node_id(&place.instance)
            .build();
        let relay = InvalidationRelay::spawn_with_metrics(bus, transport, None, core);
        Ok(Self { cache, relay, database: place.database.clone() })
    }

    async fn reader(place: &Place) -> Result<Self> {
        Self::writer(place).await
    }

    async fn write(&self, key: &str, _value: &str) -> Result<()> {
        Ok(self.cache.invalidate_key(key).await.map(drop)?)
    }

    async fn read(&self, key: &str) -> Result<Option<String>> {
        // `get_or_load` would do so, but only after its loader was made, which a hit need not pay for.
        if let Some(value) = self.cache.get(key).await? {
            return Ok(Some(value));
        }
        let (database, row) = (self.database.clone(), key.to_owned());
        let load = || async move {
            let row = database.read(&row).await.map_err(io::Error::other)?;
            row.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
        };
        Ok(Some(self.cache.get_or_load(key, CacheOptions::new(), load).await?))
    }

    fn told(&self) -> String {
        let seen = self.relay.snapshot();
        format!(
            "{} transport errors, {} publish errors, {} resumes that no ring could serve",
            seen.transport_error_total, seen.publish_error_total, seen.resume_unavailable_total
        )
    }
}

impl Drop for HydraCache {
    fn drop(&mut self) {
        self.relay.abort();
    }
}
