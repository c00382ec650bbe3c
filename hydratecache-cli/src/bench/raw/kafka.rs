//! rdkafka.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, ensure};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use rdkafka::consumer::{Consumer, StreamConsumer};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, Message};
use tokio_util::task::AbortOnDropHandle;

use super::super::RAW_TOPIC;
use super::super::arrival::Arrived;
use super::super::measure::Client;
use crate::transport::{Access, BrokerUrl};

/// How long one question to the brokers may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

pub(super) struct Raw {
    settings: ClientConfig,
    producer: FutureProducer,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Raw {
    pub(super) fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Self> {
        let settings = access.kafka(url.expose())?;
        let mut of_producer = settings.clone();
        // As ours: every replica in sync acknowledges, nothing twice, nothing is held back.
        of_producer.set("enable.idempotence", "true").set("queue.buffering.max.ms", "0");
        let producer = of_producer.create().context("making a producer")?;
        Ok(Self { settings, producer, task: Mutex::new(None) })
    }
}

impl Client for Raw {
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let record = FutureRecord::to(RAW_TOPIC).key("bench").payload(&body[..]);
            let sent = self.producer.send(record, ANSWER_LIMIT).await;
            sent.map(drop).map_err(|(error, _)| error.into())
        }
        .boxed()
    }

    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let settings = self.settings.clone();
            let consumer = tokio::task::spawn_blocking(move || consumer(settings)).await??;
            let task = tokio::spawn(async move {
                while let Ok(message) = consumer.recv().await {
                    arrived.now(message.payload().unwrap_or_default());
                }
            });
            let mut kept = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(AbortOnDropHandle::new(task));
            Ok(())
        }
        .boxed()
    }
}

/// A consumer of all partitions, from where they end now.
fn consumer(mut settings: ClientConfig) -> anyhow::Result<StreamConsumer> {
    settings.set("group.id", "hydratecache.bench").set("enable.auto.commit", "false");
    let consumer: StreamConsumer = settings.create().context("making a consumer")?;
    let metadata = consumer.fetch_metadata(Some(RAW_TOPIC), ANSWER_LIMIT)?;
    let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len());
    ensure!(partitions > 0, "the topic {RAW_TOPIC} has no partitions");
    let mut assigned = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions)? {
        let (_, end) = consumer.fetch_watermarks(RAW_TOPIC, partition, ANSWER_LIMIT)?;
        assigned.add_partition_offset(RAW_TOPIC, partition, Offset::Offset(end))?;
    }
    consumer.assign(&assigned)?;
    Ok(consumer)
}
