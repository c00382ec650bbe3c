//! How fast a subscriber takes in what a broker holds: from Kafka's log, decoded, into a cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::stream;
use hydratecache::Channel;
use hydratecache::cache::{LocalCache, Replica};
use hydratecache::codec::{Cbor, Codec};
use hydratecache_kafka::{KafkaConfig, KafkaTransport};
use hydratecache_moka::MokaCache;
use rdkafka::Message;
use rdkafka::consumer::BaseConsumer;

use crate::in_process::Map;
use crate::options::Bench;
use crate::raw::kafka::{self as raw, Start};
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::rate;
use crate::values::{self, Product, Sample};

pub(super) const NAMES: &[&str] = &["kafka_subscribe_replica", "kafka_subscribe_moka"];

const TOPIC: &str = "bench.subscribe";
const KEYS: usize = 10_000;
/// How many messages the log has for each second of a round: as many as the goal asks for.
const MESSAGES_A_SECOND: u32 = 300_000;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url: Arc<str> = bench.kafka()?.url().into();
    let messages =
        u64::from(MESSAGES_A_SECOND / 1000) * u64::try_from(bench.plan.round.as_millis())?;
    bench.run(fill(url.clone(), messages))?;

    let by_hand = |_| {
        let url = url.clone();
        bench.run(async move { tokio::task::spawn_blocking(move || by_hand(&url)).await? })
    };
    let replica = |_| bench.run(hydrate(url.clone(), messages, Replica::<Product>::new()));
    let rounds = bench.plan.interleave(replica, by_hand)?;
    let note = format!(
        "{messages} messages of 256 bytes from the subscription to the fence behind the last one, the \
         broker on the same machine; raw is a BaseConsumer, ciborium and papaya in one loop"
    );
    let replica = Figure::of_rounds(NAMES[0], "msg/s", &rounds, Ratio::OursToRaw)
        .with_goal(Goal::OursAtLeast(300_000.0))
        .with_note(note.clone());

    let moka = |_| {
        let cache = hydratecache_moka::builder::<String, Product>().max_capacity(100_000).build();
        bench.run(hydrate(url.clone(), messages, MokaCache::from(cache)))
    };
    let rounds = bench.plan.interleave(moka, by_hand)?;
    let moka = Figure::of_rounds(NAMES[1], "msg/s", &rounds, Ratio::OursToRaw)
        .with_goal(Goal::OursAtLeast(150_000.0))
        .with_note(note);
    Ok(vec![replica, moka])
}

/// Fills the log.
async fn fill(url: Arc<str>, messages: u64) -> Result<()> {
    let channel = Channel::<Product>::new(KafkaTransport::connect(&url).await?, TOPIC)?;
    let keys = values::keys(KEYS);
    let products: Vec<Product> = (0..KEYS as u64).map(Product::nth).collect();
    let rows = keys.iter().map(String::as_str).zip(&products).cycle();
    channel.publish_all(stream::iter(rows.take(usize::try_from(messages)?))).await?;
    Ok(())
}

/// Fills `cache` with all that the log holds.
async fn hydrate<C: LocalCache<Product>>(url: Arc<str>, messages: u64, cache: C) -> Result<f64> {
    let transport = KafkaConfig::from_url(&url)?.with_warm_start().connect().await?;
    let channel = Channel::<Product>::new(transport.clone(), TOPIC)?;
    let began = Instant::now();
    let hydration = channel.hydrate(cache).await?;
    hydration.caught_up().await?;
    let rate = rate(messages, began.elapsed());
    let stats = hydration.stats();
    ensure!(stats.applied == messages, "{} of {messages} messages were applied", stats.applied);
    ensure!(stats.gaps == 0, "{} messages were lost", stats.missed);
    hydratecache::Transport::close(&transport).await?;
    Ok(rate)
}

/// The same with what one would write first.
fn by_hand(url: &str) -> Result<f64> {
    let map = Map::<Product>::default();
    let began = Instant::now();
    let (consumer, end): (BaseConsumer, _) = raw::consumer(url, TOPIC, Start::Beginning)?;
    let end = u64::try_from(end)?;
    let mut read = 0;
    while read < end {
        let Some(record) = consumer.poll(Duration::from_secs(10)) else {
            bail!("the log ended after {read} of {end} records");
        };
        let record = record?;
        let key = record.key_view::<str>().context("a record without a key")??;
        let payload = record.payload().context("a record without a value")?;
        let product: Product = Cbor.decode(&payload.to_vec().into())?;
        map.pin().insert(Arc::from(key), Arc::new(product));
        read += 1;
    }
    Ok(rate(read, began.elapsed()))
}
