//! Publishing over Kafka.

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use futures::StreamExt;
use hydratecache_kafka::KafkaConfig;
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::util::Timeout;

use super::{FLIGHTS, Ours, TOPIC, compare, count_answers, until};
use crate::options::Bench;
use crate::report::{Figure, Goal};
use crate::{raw, values};

pub(in crate::figures) const NAMES: &[&str] =
    &["kafka_publish_512", "kafka_publish_512_linger_1ms"];

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let lingers = [Duration::ZERO, Duration::from_millis(1)];
    NAMES.iter().zip(lingers).map(|(name, linger)| figure(bench, name, linger)).collect()
}

fn figure(bench: &Bench, name: &str, linger: Duration) -> Result<Figure> {
    let url = bench.kafka()?.url().to_owned();
    let (sides, producer) = bench.run(async move {
        let config = KafkaConfig::from_url(&url)?.with_linger(linger);
        Ok((Ours::over(config.connect().await?)?, raw::kafka::producer(&url, linger)?))
    })?;
    let ours = |round| sides.clone().in_flight(round);
    let raw = |round| raw_in_flight(producer.clone(), sides.body.clone(), round);
    let note = "512 in flight, every one acknowledged; raw is a FutureProducer with idempotence and \
                the same linger, and sends no headers";
    Ok(compare(bench, name, ours, raw, note)?.with_goal(Goal::RatioAtLeast(0.9)))
}

async fn raw_in_flight(producer: FutureProducer, body: Bytes, round: Duration) -> Result<f64> {
    let keys = values::keys(10_000);
    let began = Instant::now();
    let publishes = until(began, round).map(|number| {
        let record = FutureRecord::to(TOPIC).key(&keys[number % keys.len()]).payload(&body[..]);
        let sent = producer.send(record, Timeout::After(Duration::from_secs(5)));
        async move { sent.await.map_err(|(error, _)| error) }
    });
    count_answers(publishes.buffer_unordered(FLIGHTS), 1, began).await
}
