//! An instance that starts when all has been written long ago: the topic keeps the latest value of each key, so
//! its cache is filled from there, and there is no database at all. `KAFKA_URL` says where Kafka is.

use std::env;
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::try_join_all;
use hydratecache::Channel;
use hydratecache::cache::Replica;
use hydratecache_kafka::{KafkaConfig, MissingTopics, NewTopic};
use tokio::time::timeout;

const TOPIC: &str = "kafka-warm-start.prices";
const PARTITIONS: NonZeroU16 = NonZeroU16::new(6).unwrap();
const ITEMS: u32 = 5_000;

/// Nothing here takes nearly as long.
const LIMIT: Duration = Duration::from_secs(20);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let url = env::var("KAFKA_URL").context("KAFKA_URL is not set: use kafka://localhost:9092")?;
    let topic = NewTopic::with_partitions(PARTITIONS).compacted();
    let config = KafkaConfig::from_url(&url)?.with_missing_topics(MissingTopics::Create(topic));

    let prices = Channel::<u32>::new(config.clone().connect().await?, TOPIC)?;
    for cents in [100, 250] {
        let publishes = (0..ITEMS).map(|item| prices.publish(format!("item:{item}"), &cents));
        try_join_all(publishes).await?;
    }
    prices.remove("item:0").await?;
    println!("written: {ITEMS} items, twice, and one is removed");

    let begun = Instant::now();
    let transport = config.with_warm_start().connect().await?;
    let replica = Replica::new();
    let hydration = Channel::<u32>::new(transport, TOPIC)?.hydrate(replica.clone()).await?;
    timeout(LIMIT, hydration.caught_up()).await??;
    let (items, gaps, took) = (replica.len(), hydration.stats().gaps, begun.elapsed());
    println!("an instance that starts: {items} items, {gaps} gaps, after {} ms", took.as_millis());

    let receipt = prices.publish("item:1", &300).await?;
    timeout(LIMIT, hydration.wait_for(receipt)).await??;
    let cents = replica.get("item:1").context("it was just published")?;
    println!("and it stays warm: item:1 costs {cents} now");
    Ok(())
}
