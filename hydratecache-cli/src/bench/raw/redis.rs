//! fred.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::Client as Fred;
use fred::interfaces::{EventInterface, PubsubInterface};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::AbortOnDropHandle;

use super::super::RAW_TOPIC;
use super::super::arrival::Arrived;
use super::super::measure::Client;
use crate::client;
use crate::transport::{Access, BrokerUrl};

pub(super) struct Raw {
    writer: Fred,
    reader: Fred,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Raw {
    pub(super) async fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Self> {
        let writer = client::redis::connect(url, access).await?;
        let reader = client::redis::connect(url, access).await?;
        Ok(Self { writer, reader, task: Mutex::new(None) })
    }
}

impl Client for Raw {
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let _heard: i64 = self.writer.publish(Str::from_static(RAW_TOPIC), body).await?;
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let mut messages = self.reader.message_rx();
            self.reader.subscribe(RAW_TOPIC).await?;
            let task = tokio::spawn(async move {
                loop {
                    match messages.recv().await {
                        Ok(message) => {
                            arrived.now(&message.value.into_bytes().unwrap_or_default());
                        }
                        // What was skipped is missed by its limit.
                        Err(RecvError::Lagged(_)) => (),
                        Err(RecvError::Closed) => return,
                    }
                }
            });
            let mut kept = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(AbortOnDropHandle::new(task));
            Ok(())
        }
        .boxed()
    }
}
