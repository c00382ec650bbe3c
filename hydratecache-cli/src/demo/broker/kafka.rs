//! Kafka.

use std::sync::Arc;

use hydratecache::Transport;
use hydratecache_kafka::KafkaTransport;

use super::Broker;

pub(in crate::demo) const KAFKA: Broker = Broker {
    name: "Kafka",
    service: "kafka",
    connect: |url| {
        Box::pin(
            async move { Ok(Arc::new(KafkaTransport::connect(url).await?) as Arc<dyn Transport>) },
        )
    },
};
