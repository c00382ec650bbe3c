//! The round trip over NATS.

use std::time::Instant;

use anyhow::Result;
use async_nats::{Client, Subject};
use bytes::Bytes;
use futures::StreamExt;
use hydratecache_nats::NatsTransport;

use super::{Arrived, RAW_TOPIC, Raw, compare};
use crate::options::Bench;
use crate::raw;
use crate::report::Figure;

pub(in crate::figures) const NAMES: &[&str] = &["nats_round_trip_p50"];

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let connect = |url: String| async move { NatsTransport::connect(&url).await };
    Ok(vec![compare::<Nats, _, _>(bench, NAMES[0], bench.nats()?.url(), connect)?])
}

#[derive(Clone)]
struct Nats(Client);

impl Raw for Nats {
    async fn connect(url: String, arrived: Arrived) -> Result<Self> {
        let listening = raw::nats::client(&url).await?;
        let mut messages = listening.subscribe(RAW_TOPIC).await?;
        // Sent, and before anything is published, for a server takes it in at once.
        listening.flush().await?;
        tokio::spawn(async move {
            while messages.next().await.is_some() {
                if arrived.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self(raw::nats::client(&url).await?))
    }

    async fn publish(self, body: Bytes) -> Result<()> {
        Ok(self.0.publish(Subject::from_static(RAW_TOPIC), body).await?)
    }
}
