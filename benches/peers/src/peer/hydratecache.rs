//! hydratecache over its Redis transport.

use anyhow::Result;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryFutureExt};
use hydratecache::cache::{Loaded, Read, Replica, Source, SourceError};
use hydratecache::{Channel, Hydrated, Key};
use hydratecache_redis::RedisTransport;

use super::{About, FLEET, Peer, Place};
use crate::database::Database;

/// A publisher, or a cache that is hydrated.
pub(crate) struct HydrateCache {
    channel: Channel<String>,
    cache: Option<Hydrated<String, Replica<String>>>,
}

/// A value with its freshness.
pub(crate) struct Hit(Read<String>);

impl Peer for HydrateCache {
    const ABOUT: About = About {
        name: "hydratecache",
        crates: &["hydratecache", "hydratecache-redis", "fred"],
        setup: "`Hydrated` with a `Replica` and the database as its source, all defaults; the \
                writer is a `Channel`, which publishes the value in CBOR. Readers are pushed the \
                value and fetch nothing; a read says how fresh it is",
        loss: "every read has the state of its cache, `Suspect` from the moment the link is lost \
               until the source has been compared; events say the gap",
        stores_rows: false,
    };

    type Value = Hit;

    async fn writer(place: &Place) -> Result<Self> {
        let transport = RedisTransport::connect(&place.url).await?;
        Ok(Self { channel: Channel::new(transport, FLEET)?, cache: None })
    }

    async fn reader(place: &Place) -> Result<Self> {
        let Self { channel, .. } = Self::writer(place).await?;
        let table = Table(place.database.clone());
        let cache = Hydrated::builder(channel.clone(), Replica::new()).source(table);
        let cache = cache.start().await?;
        cache.ready().await?;
        Ok(Self { channel, cache: Some(cache) })
    }

    async fn write(&self, key: &str, value: &str) -> Result<()> {
        Ok(self.channel.publish(key, &value.to_owned()).await.map(drop)?)
    }

    async fn read(&self, key: &str) -> Result<Option<Hit>> {
        Ok(self.cache.as_ref().and_then(|cache| cache.get(key)).map(Hit))
    }

    fn told(&self) -> String {
        let Some(cache) = &self.cache else { return String::new() };
        let stats = cache.stats();
        format!(
            "{} disruptions, {} gaps, {} reloads, now {:?}",
            stats.disruptions,
            stats.gaps,
            stats.reloads,
            cache.freshness().state()
        )
    }
}

impl AsRef<[u8]> for Hit {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// The database, as a cache fills itself from it.
struct Table(Database);

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move { Ok(self.0.read(key.as_str()).await?.map(Loaded::new)) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let rows = async {
            let rows = self.0.rows().await?.into_iter();
            let rows = rows.map(|(key, row)| Ok((Key::new(key)?, Loaded::new(row))));
            Ok::<_, SourceError>(stream::iter(rows))
        };
        rows.try_flatten_stream().boxed()
    }
}
