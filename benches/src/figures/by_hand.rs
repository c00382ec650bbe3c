//! What a user would write by hand: fred's subscriber into moka.

use std::sync::Arc;

use anyhow::Result;
use fred::clients::{Client, SubscriberClient};
use fred::interfaces::{EventInterface, PubsubInterface};
use moka::future::Cache;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;

use crate::raw::redis as raw;
use crate::values::Product;

/// A cache that is kept warm by hand.
pub(super) struct ByHand {
    pub(super) cache: Cache<String, Arc<Product>>,
    writer: Client,
    topic: String,
    _reader: SubscriberClient,
}

/// What goes over the wire.
#[derive(Serialize, Deserialize)]
struct Written {
    key: String,
    value: Product,
}

impl ByHand {
    /// Writes over one connection and fills the cache over another, which subscribes again when
    /// fred has reconnected.
    pub(super) async fn connect(writer: &str, reader: &str, topic: &str) -> Result<Self> {
        let cache: Cache<String, Arc<Product>> = Cache::new(100_000);
        // 32 is fred's default.
        let reader = raw::subscriber(reader, 32).await?;
        let mut messages = reader.message_rx();
        drop(reader.manage_subscriptions());
        reader.subscribe(topic).await?;
        let filled = cache.clone();
        tokio::spawn(async move {
            loop {
                match messages.recv().await {
                    Ok(message) => {
                        let body = message.value.as_bytes().unwrap_or_default();
                        if let Ok(Written { key, value }) = serde_json::from_slice(body) {
                            filled.insert(key, Arc::new(value)).await;
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        });
        let writer = raw::client(writer).await?;
        Ok(Self { cache, writer, topic: topic.to_owned(), _reader: reader })
    }

    /// Publishes a write.
    pub(super) async fn publish(&self, key: &str, value: &Product) -> Result<()> {
        let written = Written { key: key.to_owned(), value: value.clone() };
        let body = serde_json::to_string(&written)?;
        Ok(self.writer.publish::<(), _, _>(self.topic.as_str(), body).await?)
    }
}
