//! The round trip over Kafka.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use hydratecache_kafka::KafkaTransport;
use rdkafka::consumer::StreamConsumer;
use rdkafka::producer::{FutureProducer, FutureRecord};

use super::{Arrived, RAW_TOPIC, Raw, compare};
use crate::options::Bench;
use crate::raw::kafka::{self as raw, Start};
use crate::report::Figure;

pub(in crate::figures) const NAMES: &[&str] = &["kafka_round_trip_p50"];

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let connect = |url: String| async move { KafkaTransport::connect(&url).await };
    Ok(vec![compare::<Kafka, _, _>(bench, NAMES[0], bench.kafka()?.url(), connect)?])
}

#[derive(Clone)]
struct Kafka(FutureProducer);

impl Raw for Kafka {
    async fn connect(url: String, arrived: Arrived) -> Result<Self> {
        let raw = Self(raw::producer(&url, Duration::ZERO)?);
        // The first one makes the topic.
        raw.clone().publish(Bytes::new()).await?;
        let (consumer, _): (StreamConsumer, _) = raw::consumer(&url, RAW_TOPIC, Start::End)?;
        tokio::spawn(async move {
            while consumer.recv().await.is_ok() {
                if arrived.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(raw)
    }

    async fn publish(self, body: Bytes) -> Result<()> {
        let record = FutureRecord::to(RAW_TOPIC).key("product:1").payload(&body[..]);
        self.0.send(record, Duration::from_secs(5)).await.map_err(|(error, _)| error)?;
        Ok(())
    }
}
