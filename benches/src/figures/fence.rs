//! What a fence costs beside the raw client's round trip.

use std::time::{Duration, Instant};

use anyhow::Result;
use fred::clients::Client;
use fred::interfaces::ClientLike;
use hdrhistogram::Histogram;
use hydratecache::cache::{Hydrated, Replica};
use hydratecache::{Channel, Transport};
use hydratecache_redis::RedisTransport;

use super::round_trip::microseconds;
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal, Ratio};

pub(super) const NAMES: &[&str] = &["redis_fence_p50", "redis_caught_up_p50"];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.redis()?.url().to_owned();
    let (transport, users, client) = bench.run(async move {
        let transport = RedisTransport::connect(&url).await?;
        let channel = Channel::<String>::new(transport.clone(), "bench.fence")?;
        let users = Hydrated::builder(channel, Replica::new()).start().await?;
        Ok((transport, users, raw::redis::client(&url).await?))
    })?;
    let raw = |round| bench.run(pings(client.clone(), round));
    let fences = |round| {
        let transport = transport.clone();
        let once = move || {
            let transport = transport.clone();
            async move { Ok(transport.fence().await.map(drop)?) }
        };
        bench.run(p50(round, once))
    };
    let caught_up = |round| {
        let users = users.clone();
        let once = move || {
            let users = users.clone();
            async move { Ok(users.caught_up().await.map(drop)?) }
        };
        bench.run(p50(round, once))
    };
    let fence =
        Figure::of_rounds(NAMES[0], "us", &bench.plan.interleave(fences, raw)?, Ratio::OursToRaw);
    let caught_up = Figure::of_rounds(
        NAMES[1],
        "us",
        &bench.plan.interleave(caught_up, raw)?,
        Ratio::OursToRaw,
    );
    Ok(vec![
        fence.with_goal(Goal::RatioAtMost(1.1)).with_note("raw is fred's PING, one at a time"),
        caught_up.with_note("a fence, and until the hydrator has applied all before it"),
    ])
}

async fn pings(client: Client, round: Duration) -> Result<f64> {
    let once = move || {
        let client = client.clone();
        async move { Ok(client.ping::<()>(None).await?) }
    };
    p50(round, once).await
}

/// The median of one round, in microseconds.
async fn p50<F>(round: Duration, once: impl Fn() -> F + Send) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let mut histogram = Histogram::<u64>::new(3)?;
    let end = Instant::now() + round;
    while Instant::now() < end {
        let began = Instant::now();
        once().await?;
        histogram.record(u64::try_from(began.elapsed().as_nanos())?)?;
    }
    Ok(microseconds(&histogram, 0.5))
}
