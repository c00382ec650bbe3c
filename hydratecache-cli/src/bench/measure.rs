//! Rounds, in which ours and raw take turns.

use std::future::ready;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use hdrhistogram::Histogram;
use tokio::time::{Instant, timeout, timeout_at};

use super::arrival::{Arrived, Awaiting, awaiting};

/// A message that takes longer was lost, and a broker that does has stopped to answer.
const LIMIT: Duration = Duration::from_secs(10);
/// Pairs of rounds of each kind.
pub(super) const ROUNDS: u32 = 5;

/// What a side does. Ours and raw are used alike.
pub(super) trait Client: Send + Sync {
    /// Publishes one value. It is under way from the first poll on.
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>>;

    /// Waits until the broker has all that was published (default: a publish waits for that itself).
    fn flush(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        ready(Ok(())).boxed()
    }

    /// Tells of every value that arrives from now on.
    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>>;
}

/// How long, and how much at a time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) round: Duration,
    pub(super) in_flight: u16,
}

/// Of both sides.
#[derive(Debug, Clone, Default)]
pub(super) struct Pair<T> {
    pub(super) ours: T,
    pub(super) raw: T,
}

/// Latencies of one side in nanoseconds, of each round.
pub(super) type Latencies = Vec<Histogram<u64>>;

/// Values that are all different, also from those of other runs.
pub(super) struct Bodies {
    run: u64,
    next: AtomicU64,
    size: usize,
}

impl Bodies {
    /// Of `size` bytes, at least 32: text, because PostgreSQL carries nothing else.
    pub(super) fn of(size: usize) -> Self {
        Self { run: rand::random(), next: AtomicU64::new(0), size }
    }

    fn next(&self) -> Bytes {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let Self { run, size, .. } = self;
        format!("{:x<size$}", format!("{run:016x}{number:016x}")).into()
    }
}

impl Plan {
    /// Rounds of both kinds and both sides that take `time` together.
    pub(super) fn lasting(time: Duration, in_flight: u16) -> Self {
        Self { round: time / (4 * ROUNDS), in_flight }
    }

    /// Publishes a second, of each round.
    pub(super) async fn rates(
        self,
        ours: &Arc<dyn Client>,
        raw: &Arc<dyn Client>,
        bodies: &Bodies,
    ) -> anyhow::Result<Pair<Vec<f64>>> {
        // The first publish may make a topic, or wait for one.
        for (side, name) in [(ours, "ours"), (raw, "raw")] {
            within(LIMIT, side.publish(bodies.next())).await.with_context(|| first(name))?;
        }
        let mut rates: Pair<Vec<f64>> = Pair::default();
        for _ in 0..ROUNDS {
            rates.ours.push(self.rate(&**ours, bodies).await.context("publishing by ours")?);
            rates.raw.push(self.rate(&**raw, bodies).await.context("publishing by raw")?);
        }
        Ok(rates)
    }

    async fn rate(self, side: &dyn Client, bodies: &Bodies) -> anyhow::Result<f64> {
        let began = Instant::now();
        let until = stream::iter(0..).take_while(|_: &u64| ready(began.elapsed() < self.round));
        let answers = until.map(|_| side.publish(bodies.next()));
        let mut answers = answers.buffer_unordered(usize::from(self.in_flight));
        let mut published = 0.0;
        while let Some(answer) = within(LIMIT, async { Ok(answers.next().await) }).await? {
            answer?;
            published += 1.0;
        }
        within(LIMIT, side.flush()).await?;
        Ok(published / began.elapsed().as_secs_f64())
    }

    /// From the call of publish until the value is received, one at a time.
    pub(super) async fn latencies(
        self,
        ours: &Arc<dyn Client>,
        raw: &Arc<dyn Client>,
        bodies: &Bodies,
    ) -> anyhow::Result<Pair<Latencies>> {
        let mut subscribed = Vec::new();
        for (side, name) in [(ours, "ours"), (raw, "raw")] {
            let (arrived, awaiting) = awaiting();
            let subscribing = within(LIMIT, side.subscribe(arrived)).await;
            subscribing.with_context(|| format!("subscribing by {name}"))?;
            subscribed.push(awaiting);
        }
        let [of_ours, of_raw] = &subscribed[..] else { unreachable!("there are two sides") };
        let mut latencies: Pair<Latencies> = Pair::default();
        // The first ones come before everything is warm.
        let warm_up = Self { round: self.round / 4, ..self };
        warm_up.latency(&**ours, of_ours, bodies).await.context("a message by ours")?;
        warm_up.latency(&**raw, of_raw, bodies).await.context("a message by raw")?;
        for _ in 0..ROUNDS {
            let one = self.latency(&**ours, of_ours, bodies).await;
            latencies.ours.push(one.context("a message by ours")?);
            let one = self.latency(&**raw, of_raw, bodies).await;
            latencies.raw.push(one.context("a message by raw")?);
        }
        Ok(latencies)
    }

    async fn latency(
        self,
        side: &dyn Client,
        awaiting: &Awaiting,
        bodies: &Bodies,
    ) -> anyhow::Result<Histogram<u64>> {
        let mut histogram = Histogram::new(3)?;
        let began = Instant::now();
        // A round has one at least.
        while histogram.is_empty() || began.elapsed() < self.round {
            let body = bodies.next();
            let arrival = awaiting.next(body.clone());
            let sent = Instant::now();
            let publish = within(LIMIT, side.publish(body));
            let (answer, arrived) = futures::join!(publish, before(sent + LIMIT, arrival));
            answer?;
            let took = arrived?.duration_since(sent).as_nanos();
            histogram.record(u64::try_from(took)?)?;
        }
        Ok(histogram)
    }
}

/// When it arrived.
async fn before(
    limit: Instant,
    arrival: impl Future<Output = anyhow::Result<Instant>>,
) -> anyhow::Result<Instant> {
    let arrived = timeout_at(limit, arrival).await;
    arrived.with_context(|| format!("it did not arrive within {LIMIT:?}"))?
}

async fn within<T>(
    limit: Duration,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let done = timeout(limit, work).await;
    done.with_context(|| format!("the broker did not answer within {limit:?}"))?
}

fn first(name: &str) -> String {
    format!("the first publish by {name}")
}
