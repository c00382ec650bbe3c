//! Publishing over NATS.

use std::time::{Duration, Instant};

use anyhow::Result;
use async_nats::{Client, Subject};
use bytes::Bytes;
use hydratecache_nats::NatsTransport;

use super::{Ours, TOPIC, compare};
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal};
use crate::rounds::rate;

pub(in crate::figures) const NAMES: &[&str] = &["nats_publish_512"];

/// Raw messages between two looks at the clock.
const STRIDE: u64 = 64;

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.nats()?.url().to_owned();
    let (sides, client) = bench.run(async move {
        let ours = Ours::over(NatsTransport::connect(&url).await?)?;
        Ok((ours, raw::nats::client(&url).await?))
    })?;
    let ours = |round| sides.clone().in_flight(round);
    let raw = |round| raw_until_flushed(client.clone(), sides.body.clone(), round);
    let note = "512 in flight, each acknowledged by a round trip; raw waits for nothing and \
                flushes its socket once, at the end";
    Ok(vec![compare(bench, NAMES[0], ours, raw, note)?.with_goal(Goal::RatioAtLeast(0.6))])
}

async fn raw_until_flushed(client: Client, body: Bytes, round: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut published = 0;
    while began.elapsed() < round {
        for _ in 0..STRIDE {
            client.publish(Subject::from_static(TOPIC), body.clone()).await?;
        }
        published += STRIDE;
    }
    client.flush().await?;
    Ok(rate(published, began.elapsed()))
}
