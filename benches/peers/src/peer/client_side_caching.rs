//! Redis's own client-side caching, in the `redis` crate.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::caching::CacheConfig;
use redis::{AsyncCommands, Client, PushInfo, PushKind};

use super::{About, Peer, Place};
use crate::database::Database;

/// A connection that keeps what it reads until Redis says that it changed.
pub(crate) struct ClientSideCaching {
    connection: ConnectionManager,
    database: Database,
    disconnections: Arc<AtomicU64>,
}

impl Peer for ClientSideCaching {
    const ABOUT: About = About {
        name: "redis client-side caching",
        crates: &["redis"],
        setup: "`ConnectionManager` over RESP3 with `CacheConfig::default`; written by `SET`, which \
                is row and signal in one, and read by `GET`. Redis remembers what each connection \
                read and tells it once that the key changed; the next read asks for value and TTL",
        loss: "a push of the kind `Disconnection`; the whole local cache is dropped at the \
               reconnect",
        stores_rows: true,
    };

    type Value = Vec<u8>;

    async fn writer(place: &Place) -> Result<Self> {
        let url = format!("{}/?protocol=resp3", place.url.trim_end_matches('/'));
        let disconnections = Arc::new(AtomicU64::new(0));
        let counted = disconnections.clone();
        let count = move |push: PushInfo| {
            counted.fetch_add(u64::from(push.kind == PushKind::Disconnection), Ordering::Relaxed);
            Ok::<_, Infallible>(())
        };
        let config = ConnectionManagerConfig::new()
            .set_cache_config(CacheConfig::default())
            .set_push_sender(count);
        let connection = ConnectionManager::new_with_config(Client::open(url)?, config).await?;
        Ok(Self { connection, database: place.database.clone(), disconnections })
    }

    async fn reader(place: &Place) -> Result<Self> {
        Self::writer(place).await
    }

    async fn write(&self, key: &str, value: &str) -> Result<()> {
        Ok(self.connection.clone().set(key, value).await?)
    }

    async fn read(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let mut connection = self.connection.clone();
        if let Some(value) = connection.get(key).await? {
            return Ok(Some(value));
        }
        let row = self.database.read(key).await?;
        if let Some(row) = &row {
            let () = connection.set(key, row).await?;
        }
        Ok(row.map(Vec::from))
    }

    fn told(&self) -> String {
        format!("{} disconnections pushed", self.disconnections.load(Ordering::Relaxed))
    }
}
