//! How long a message takes from the publisher to a subscriber, one at a time.

pub(super) mod kafka;
pub(super) mod nats;
pub(super) mod postgres;
pub(super) mod redis;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::StreamExt;
use hdrhistogram::Histogram;
use hydratecache::{Channel, Event, Transport};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::publish::bytes_channel;
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};

const TOPIC: &str = "bench.round_trip";
const RAW_TOPIC: &str = "bench.round_trip.raw";
const VALUE_BYTES: usize = 256;
/// A message that takes longer was lost.
const LIMIT: Duration = Duration::from_secs(5);

/// Tells when a message reached the subscriber's task.
type Arrived = UnboundedSender<Instant>;

/// When each message reached the subscriber's task.
type Arrivals = Arc<Mutex<UnboundedReceiver<Instant>>>;

/// A raw publisher, and a raw subscriber beside it.
trait Raw: Clone + Send + Sync + Sized + 'static {
    /// Connects both and tells of what arrives.
    fn connect(url: String, arrived: Arrived) -> impl Future<Output = Result<Self>> + Send;

    /// Publishes one message.
    fn publish(self, body: Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// Measures ours, over the transport that `connect` makes, beside raw.
fn compare<R, T, C>(
    bench: &Bench,
    name: &str,
    url: &str,
    connect: impl FnOnce(String) -> C,
) -> Result<Figure>
where
    R: Raw,
    T: Transport,
    C: Future<Output = hydratecache::Result<T>> + Send + 'static,
{
    let body = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let (arrived, ours_arrivals) = arrivals();
    let connecting = connect(url.to_owned());
    let channel = bench.run(async move { subscribed(connecting.await?, arrived).await })?;
    let (arrived, raw_arrivals) = arrivals();
    let raw_client = bench.run(R::connect(url.to_owned(), arrived))?;

    let ours = |round| {
        let (channel, body) = (channel.clone(), body.clone());
        let publish = move || {
            let publish = channel.publish("product:1", &body);
            async move { Ok(publish.await.map(drop)?) }
        };
        bench.run(p50(round, publish, ours_arrivals.clone()))
    };
    let raw = |round| {
        let (raw_client, body) = (raw_client.clone(), body.clone());
        let publish = move || raw_client.clone().publish(body.clone());
        bench.run(p50(round, publish, raw_arrivals.clone()))
    };
    let rounds = bench.plan.interleave(ours, raw)?;
    Ok(Figure::of_rounds(name, "us", &rounds, Ratio::OursToRaw)
        .with_goal(Goal::RatioAtMost(1.15))
        .with_note("from the call of publish to the subscriber's task, 256-byte values"))
}

fn arrivals() -> (Arrived, Arrivals) {
    let (arrived, arrivals) = unbounded_channel();
    (arrived, Arc::new(Mutex::new(arrivals)))
}

/// A channel whose own updates are told of.
async fn subscribed(transport: impl Transport, arrived: Arrived) -> Result<Channel<Bytes>> {
    let channel = bytes_channel(transport, TOPIC)?;
    let mut updates = channel.subscribe().await?;
    tokio::spawn(async move {
        while let Some(event) = updates.next().await {
            if let Event::Update(_) = event
                && arrived.send(Instant::now()).is_err()
            {
                return;
            }
        }
    });
    Ok(channel)
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
