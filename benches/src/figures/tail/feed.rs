//! What is followed: messages of the library, each with a key of its own.

use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::Result;
use futures::{Stream, StreamExt, stream};
use hydratecache::Channel;
use hydratecache_kafka::{KafkaConfig, MissingTopics, NewTopic};
use tokio::time::{MissedTickBehavior, interval};

use super::PARTITIONS;
use crate::values::{Product, Sample};

const TICK: Duration = Duration::from_millis(5);

/// The key of the `number`-th message.
pub(super) const KEY: &str = "product:";

/// Fills the topic, which is made if it does not exist, as fast as possible.
pub(super) async fn fill(url: String, topic: String, messages: u64) -> Result<()> {
    publish(&url, &topic, stream::iter(0..messages)).await
}

/// The same at a steady rate.
pub(super) async fn steady(
    url: String,
    topic: String,
    messages: u64,
    messages_a_second: u64,
) -> Result<()> {
    let mut ticks = interval(TICK);
    // What was late is caught up with.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let of_a_tick = messages_a_second * u64::try_from(TICK.as_millis())? / 1000;
    let ticks = stream::unfold(ticks, |mut ticks| async {
        ticks.tick().await;
        Some(((), ticks))
    });
    let numbers = ticks.enumerate().flat_map(|(tick, ())| {
        let first = tick as u64 * of_a_tick;
        stream::iter(first..first + of_a_tick)
    });
    publish(&url, &topic, numbers.take(usize::try_from(messages)?)).await
}

async fn publish(url: &str, topic: &str, numbers: impl Stream<Item = u64> + Send) -> Result<()> {
    let partitions = NonZeroU16::new(PARTITIONS).expect("it is not zero");
    let missing = MissingTopics::Create(NewTopic::with_partitions(partitions));
    let transport = KafkaConfig::from_url(url)?.with_missing_topics(missing).connect().await?;
    let channel = Channel::<Product>::new(transport, topic)?;
    let product = Product::nth(1);
    channel.publish_all(numbers.map(|number| (format!("{KEY}{number}"), &product))).await?;
    Ok(())
}
