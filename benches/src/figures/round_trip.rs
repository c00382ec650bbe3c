//! How long a message takes from the publisher to a subscriber, one at a time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{EventInterface, PubsubInterface};
use futures::StreamExt;
use hdrhistogram::Histogram;
use hydratecache::{Channel, Event};
use hydratecache_redis::RedisTransport;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::publish::bytes_channel;
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal, Ratio};

pub(super) const NAMES: &[&str] = &["redis_round_trip_p50"];

const TOPIC: &str = "bench.round_trip";
const RAW_TOPIC: &str = "bench.round_trip.raw";
/// A message that takes longer was lost.
const LIMIT: Duration = Duration::from_secs(5);

/// When each message reached the subscriber's task.
type Arrivals = Arc<Mutex<UnboundedReceiver<Instant>>>;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.server()?.url().to_owned();
    let body = Bytes::from(vec![b'x'; 256]);
    let ours_url = url.clone();
    let (channel, ours_arrivals) = bench.run(async move { ours(&ours_url).await })?;
    let (client, _subscriber, raw_arrivals) = bench.run(async move { raw_sides(&url).await })?;

    let ours = |round| {
        let (channel, body) = (channel.clone(), body.clone());
        let publish = move || {
            let publish = channel.publish("product:1", &body);
            async move { Ok(publish.await.map(drop)?) }
        };
        bench.run(p50(round, publish, ours_arrivals.clone()))
    };
    let raw = |round| {
        let (client, body) = (client.clone(), body.clone());
        let publish = move || {
            let (client, body) = (client.clone(), body.clone());
            async move { Ok(client.publish::<(), _, _>(Str::from_static(RAW_TOPIC), body).await?) }
        };
        bench.run(p50(round, publish, raw_arrivals.clone()))
    };
    let rounds = bench.plan.interleave(ours, raw)?;
    let figure = Figure::of_rounds(NAMES[0], "us", &rounds, Ratio::OursToRaw)
        .with_goal(Goal::RatioAtMost(1.15))
        .with_note("from the call of publish to the subscriber's task, 256-byte values");
    Ok(vec![figure])
}

async fn ours(url: &str) -> Result<(Channel<Bytes>, Arrivals)> {
    let channel = bytes_channel(RedisTransport::connect(url).await?, TOPIC)?;
    let mut updates = channel.subscribe().await?;
    let (sender, arrivals) = unbounded_channel();
    tokio::spawn(async move {
        while let Some(event) = updates.next().await {
            if let Event::Update(_) = event
                && sender.send(Instant::now()).is_err()
            {
                return;
            }
        }
    });
    Ok((channel, Arc::new(Mutex::new(arrivals))))
}

async fn raw_sides(url: &str) -> Result<(Client, SubscriberClient, Arrivals)> {
    let subscriber = raw::subscriber(url, 8192).await?;
    let mut messages = subscriber.message_rx();
    subscriber.subscribe(RAW_TOPIC).await?;
    let (sender, arrivals) = unbounded_channel();
    tokio::spawn(async move {
        while messages.recv().await.is_ok() {
            if sender.send(Instant::now()).is_err() {
                return;
            }
        }
    });
    Ok((raw::client(url).await?, subscriber, Arc::new(Mutex::new(arrivals))))
}

/// The median of one round, in microseconds.
async fn p50<F>(round: Duration, publish: impl Fn() -> F + Send, arrivals: Arrivals) -> Result<f64>
where
    F: Future<Output = Result<()>> + Send,
{
    let mut arrivals = arrivals.lock().await;
    let mut histogram = Histogram::<u64>::new(3)?;
    let end = Instant::now() + round;
    while Instant::now() < end {
        let began = Instant::now();
        let (answer, arrived) = futures::join!(publish(), timeout(LIMIT, arrivals.recv()));
        answer?;
        let arrived = arrived.context("a message did not arrive")?.context("nobody listens")?;
        histogram.record(u64::try_from((arrived - began).as_nanos())?)?;
    }
    Ok(microseconds(&histogram, 0.5))
}

/// A quantile of nanoseconds, in microseconds.
pub(super) fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "a latency is far below 2^53 ns")]
    let nanoseconds = histogram.value_at_quantile(quantile) as f64;
    nanoseconds / 1000.0
}
