//! NATS.

use std::sync::Arc;

use hydratecache::Transport;
use hydratecache_nats::NatsTransport;

use super::Broker;

pub(in crate::demo) const NATS: Broker = Broker {
    name: "NATS",
    service: "nats",
    connect: |url| {
        Box::pin(
            async move { Ok(Arc::new(NatsTransport::connect(url).await?) as Arc<dyn Transport>) },
        )
    },
};
