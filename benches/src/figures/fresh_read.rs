//! How long it takes from a write to a fresh local read in moka.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;
use hydratecache::cache::Hydration;
use hydratecache::{Channel, Key};
use hydratecache_moka::MokaCache;
use hydratecache_redis::RedisTransport;

use super::by_hand::ByHand;
use super::round_trip::microseconds;
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::values::{Product, Sample};

pub(super) const NAMES: &[&str] = &["moka_fresh_read_p50", "moka_fresh_read_p99"];

const KEY: &str = "product:1";
/// A write that stays unseen for longer was lost.
const LIMIT: Duration = Duration::from_secs(5);

/// A hydrated cache and its writer, over the two connections of one transport.
struct Ours {
    channel: Channel<Product>,
    cache: MokaCache<Product, Key>,
    _hydration: Hydration<Product>,
}

impl Ours {
    async fn connect(url: &str) -> Result<Self> {
        let transport = RedisTransport::connect(url).await?;
        let channel = Channel::new(transport, "bench.fresh_read")?;
        let cache = MokaCache::from(hydratecache_moka::builder().max_capacity(100_000).build());
        let hydration = channel.hydrate(cache.clone()).await?;
        Ok(Self { channel, cache, _hydration: hydration })
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.redis()?.url().to_owned();
    let (ours, by_hand) = bench.run(async move {
        let by_hand = ByHand::connect(&url, &url, "bench.fresh_read.by_hand").await?;
        Ok((Arc::new(Ours::connect(&url).await?), Arc::new(by_hand)))
    })?;
    [(NAMES[0], 0.5), (NAMES[1], 0.99)]
        .into_iter()
        .map(|(name, quantile)| {
            let ours = |round| bench.run(with_ours(ours.clone(), round, quantile));
            let raw = |round| bench.run(with_by_hand(by_hand.clone(), round, quantile));
            let rounds = bench.plan.interleave(ours, raw)?;
            Ok(Figure::of_rounds(name, "us", &rounds, Ratio::OursToRaw)
                .with_goal(Goal::RatioAtMost(1.1))
                .with_note(
                    "from the call of publish until a task that polls the cache sees the value",
                ))
        })
        .collect()
}

async fn with_ours(ours: Arc<Ours>, round: Duration, quantile: f64) -> Result<f64> {
    let Ours { channel, cache, .. } = &*ours;
    let publish = |value: Product| {
        let publish = channel.publish(KEY, &value);
        async move { Ok(publish.await.map(drop)?) }
    };
    let read = || async { cache.get(KEY).await.map_or(0, |value| value.revision) };
    fresh_reads(round, quantile, publish, read).await
}

async fn with_by_hand(by_hand: Arc<ByHand>, round: Duration, quantile: f64) -> Result<f64> {
    let by_hand = &*by_hand;
    let publish = |value: Product| async move { by_hand.publish(KEY, &value).await };
    let read = || async { by_hand.cache.get(KEY).await.map_or(0, |value| value.revision) };
    fresh_reads(round, quantile, publish, read).await
}

/// A quantile of one round, in microseconds.
async fn fresh_reads<P, R>(
    round: Duration,
    quantile: f64,
    publish: impl Fn(Product) -> P + Send,
    read: impl Fn() -> R + Send + Sync,
) -> Result<f64>
where
    P: Future<Output = Result<()>> + Send,
    R: Future<Output = u64> + Send,
{
    let mut histogram = Histogram::<u64>::new(3)?;
    let mut revision = read().await;
    let end = Instant::now() + round;
    while Instant::now() < end {
        revision += 1;
        let value = Product::nth(1).with_revision(revision);
        let began = Instant::now();
        let (answer, fresh) = futures::join!(publish(value), wait_for(revision, &read));
        answer?;
        histogram.record(u64::try_from((fresh? - began).as_nanos())?)?;
    }
    Ok(microseconds(&histogram, quantile))
}

/// When the cache showed `revision`.
async fn wait_for<R>(revision: u64, read: impl Fn() -> R + Send + Sync) -> Result<Instant>
where
    R: Future<Output = u64> + Send,
{
    let began = Instant::now();
    loop {
        if read().await >= revision {
            return Ok(Instant::now());
        }
        ensure!(began.elapsed() < LIMIT, "a write was not seen within {LIMIT:?}");
        tokio::task::yield_now().await;
    }
}
