//! The round trip over Redis.

use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{EventInterface, PubsubInterface};
use hydratecache_redis::RedisTransport;

use super::{Arrived, RAW_TOPIC, Raw, compare};
use crate::options::Bench;
use crate::raw;
use crate::report::Figure;

pub(in crate::figures) const NAMES: &[&str] = &["redis_round_trip_p50"];

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let connect = |url: String| async move { RedisTransport::connect(&url).await };
    Ok(vec![compare::<Redis, _, _>(bench, NAMES[0], bench.redis()?.url(), connect)?])
}

#[derive(Clone)]
struct Redis {
    client: Client,
    _subscriber: SubscriberClient,
}

impl Raw for Redis {
    async fn connect(url: String, arrived: Arrived) -> Result<Self> {
        let subscriber = raw::redis::subscriber(&url, 8192).await?;
        let mut messages = subscriber.message_rx();
        subscriber.subscribe(RAW_TOPIC).await?;
        tokio::spawn(async move {
            while messages.recv().await.is_ok() {
                if arrived.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { client: raw::redis::client(&url).await?, _subscriber: subscriber })
    }

    async fn publish(self, body: Bytes) -> Result<()> {
        Ok(self.client.publish::<(), _, _>(Str::from_static(RAW_TOPIC), body).await?)
    }
}
