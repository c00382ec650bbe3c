//! The library.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use hydratecache::codec::FnCodec;
use hydratecache::{Change, Channel, Event, Transport};
use tokio_util::task::AbortOnDropHandle;

use super::TOPIC;
use super::arrival::Arrived;
use super::measure::Client;
use crate::transport::failure;

pub(super) struct Ours {
    /// Of bytes that are ready to go: neither side encodes.
    channel: Channel<Bytes>,
    reader: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Ours {
    pub(super) fn over(transport: Arc<dyn Transport>) -> anyhow::Result<Self> {
        let codec =
            FnCodec::new(|value: &Bytes| Ok(value.clone()), |payload: &Bytes| Ok(payload.clone()));
        let channel = Channel::builder_with_codec(transport, TOPIC, codec).build();
        Ok(Self { channel: channel.map_err(failure)?, reader: Mutex::new(None) })
    }
}

impl Client for Ours {
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>> {
        let publish = self.channel.publish("bench", &body);
        async move { publish.await.map(drop).map_err(failure) }.boxed()
    }

    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let mut updates = self.channel.subscribe().await.map_err(failure)?;
            let reader = tokio::spawn(async move {
                while let Some(event) = updates.next().await {
                    if let Event::Update(update) = event
                        && let Change::Put(_, value) = update.change
                    {
                        arrived.now(&value);
                    }
                }
            });
            let mut kept = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(AbortOnDropHandle::new(reader));
            Ok(())
        }
        .boxed()
    }
}
