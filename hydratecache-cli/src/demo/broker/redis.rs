//! Redis.

use std::sync::Arc;

use hydratecache::Transport;
use hydratecache_redis::RedisTransport;

use super::Broker;

pub(in crate::demo) const REDIS: Broker = Broker {
    name: "Redis",
    service: "redis",
    connect: |url| {
        Box::pin(
            async move { Ok(Arc::new(RedisTransport::connect(url).await?) as Arc<dyn Transport>) },
        )
    },
};
