//! async-nats.

use std::sync::{Mutex, PoisonError};

use async_nats::{Client as Nats, Subject};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use super::super::RAW_TOPIC;
use super::super::arrival::Arrived;
use super::super::measure::Client;
use crate::client;
use crate::transport::{Access, BrokerUrl};

pub(super) struct Raw {
    writer: Nats,
    reader: Nats,
    task: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl Raw {
    pub(super) async fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Self> {
        let writer = client::nats::connect(url, access).await?;
        let reader = client::nats::connect(url, access).await?;
        Ok(Self { writer, reader, task: Mutex::new(None) })
    }
}

impl Client for Raw {
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { Ok(self.writer.publish(Subject::from_static(RAW_TOPIC), body).await?) }.boxed()
    }

    fn flush(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        async move { Ok(self.writer.flush().await?) }.boxed()
    }

    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let mut messages = self.reader.subscribe(Subject::from_static(RAW_TOPIC)).await?;
            // A server takes in what it has received before what others publish later.
            self.reader.flush().await?;
            let task = tokio::spawn(async move {
                while let Some(message) = messages.next().await {
                    arrived.now(&message.payload);
                }
            });
            let mut kept = self.task.lock().unwrap_or_else(PoisonError::into_inner);
            *kept = Some(AbortOnDropHandle::new(task));
            Ok(())
        }
        .boxed()
    }
}
