//! rdkafka.

use std::time::Duration;

use anyhow::{Context, Result};
use rdkafka::ClientConfig;
use rdkafka::config::FromClientConfig;
use rdkafka::consumer::Consumer;
use rdkafka::producer::FutureProducer;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const LIMIT: Duration = Duration::from_secs(10);

/// Where a consumer begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At the first record.
    Beginning,
    /// Behind the last one.
    End,
}

/// A producer with the promises that ours has: every replica in sync acknowledges, nothing twice.
///
/// # Errors
/// If its settings are wrong.
pub fn producer(url: &str, linger: Duration) -> Result<FutureProducer> {
    let mut settings = settings(url);
    settings.set("enable.idempotence", "true");
    settings.set("queue.buffering.max.ms", linger.as_millis().to_string());
    settings.create().context("making a producer")
}

/// A consumer of all partitions of `topic`, which begins there, and where they end now, summed up.
///
/// # Errors
/// If the broker cannot be asked.
pub fn consumer<C: Consumer + FromClientConfig>(
    url: &str,
    topic: &str,
    start: Start,
) -> Result<(C, i64)> {
    let mut settings = settings(url);
    settings.set("group.id", "bench").set("enable.auto.commit", "false");
    let consumer: C = settings.create().context("making a consumer")?;
    let metadata = consumer.fetch_metadata(Some(topic), LIMIT).context("asking for a topic")?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    let (mut assigned, mut ends) = (TopicPartitionList::new(), 0);
    for partition in 0..i32::try_from(partitions)? {
        let (_, end) = consumer.fetch_watermarks(topic, partition, LIMIT)?;
        ends += end;
        let offset = match start {
            Start::Beginning => Offset::Beginning,
            Start::End => Offset::Offset(end),
        };
        assigned.add_partition_offset(topic, partition, offset)?;
    }
    consumer.assign(&assigned).context("assigning partitions")?;
    Ok((consumer, ends))
}

fn settings(url: &str) -> ClientConfig {
    let mut settings = ClientConfig::new();
    let servers = url.strip_prefix("kafka://").unwrap_or(url).trim_end_matches('/');
    settings.set("bootstrap.servers", servers);
    settings
}
