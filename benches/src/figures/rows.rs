//! A million rows, and replicas of them that are filled from one another.

use anyhow::Result;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{Hydrated, Loaded, Replica, Source, SourceError, WarmStart};
use hydratecache::{Channel, Key, VersionDomain};
use hydratecache_redis::RedisTransport;

pub(super) const ENTRIES: u64 = 1_000_000;
pub(super) const ENTRY_BYTES: usize = 100;

pub(super) type Rows = Hydrated<String, Replica<String>>;

/// A replica that begins to fill itself.
pub(super) async fn replica(url: &str, topic: &str) -> Result<Rows> {
    let builder = Hydrated::builder(channel(url, topic).await?, Replica::new()).source(Numbers);
    Ok(builder.with_warm_start(WarmStart::new()).start().await?)
}

pub(super) async fn channel(url: &str, topic: &str) -> Result<Channel<String>> {
    let transport = RedisTransport::connect(url).await?;
    Ok(Channel::builder(transport, topic).with_versions(VersionDomain::Caller).build()?)
}

pub(super) fn key(number: u64) -> String {
    format!("entry:{number}")
}

/// The value of a row, in its first version.
pub(super) fn value(number: u64) -> String {
    format!("{number:0>ENTRY_BYTES$}")
}

/// Rows that are made when they are asked for, so that they take no memory.
struct Numbers;

fn row(number: u64) -> Loaded<String> {
    Loaded::new(value(number)).with_version(1)
}

impl Source<String> for Numbers {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move { Ok(key.as_str().strip_prefix("entry:").and_then(|n| n.parse().ok()).map(row)) }
            .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let row = |number| Ok((Key::new(key(number))?, row(number)));
        stream::iter((0..ENTRIES).map(row)).boxed()
    }
}
