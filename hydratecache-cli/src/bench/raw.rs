//! The raw clients, each set up as well as we know: one publish a message, as ours is asked for.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;

use std::sync::Arc;

use super::measure::Client;
use crate::transport::{Access, Broker, BrokerUrl};

/// Connects the raw client of a broker.
#[cfg_attr(
    not(any(feature = "nats", feature = "postgres", feature = "redis")),
    expect(clippy::unused_async, reason = "Kafka's client connects by itself")
)]
pub(super) async fn connect(
    broker: Broker,
    url: &BrokerUrl,
    access: &Access,
) -> anyhow::Result<Arc<dyn Client>> {
    match broker {
        #[cfg(feature = "redis")]
        Broker::Redis => Ok(Arc::new(redis::Raw::connect(url, access).await?)),
        #[cfg(feature = "nats")]
        Broker::Nats => Ok(Arc::new(nats::Raw::connect(url, access).await?)),
        #[cfg(feature = "postgres")]
        Broker::Postgres => Ok(Arc::new(postgres::Raw::connect(url, access).await?)),
        #[cfg(feature = "kafka")]
        Broker::Kafka => Ok(Arc::new(kafka::Raw::connect(url, access)?)),
        #[allow(unreachable_patterns, reason = "only if a feature is off")]
        _ => unreachable!("what is not built in was refused before"),
    }
}

/// What raw is, and what its publish waits for.
pub(super) fn client_name(broker: Broker) -> &'static str {
    match broker {
        Broker::Redis => "fred, which waits for the server's answer to each PUBLISH",
        Broker::Nats => "async-nats, which waits for no answer and flushes at the end of a round",
        Broker::Postgres => "tokio-postgres, which waits for the answer to a prepared pg_notify",
        Broker::Kafka => "rdkafka's FutureProducer with idempotence and without linger",
    }
}

/// The largest value that the raw client can publish as it is.
pub(super) fn most_bytes(broker: Broker) -> usize {
    match broker {
        // PostgreSQL takes payloads below 8000 bytes.
        Broker::Postgres => 7_999,
        _ => usize::MAX,
    }
}
