//! tokio-postgres.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_postgres::Statement;

use super::super::RAW_TOPIC;
use super::super::arrival::Arrived;
use super::super::measure::Client;
use crate::client::postgres::{Connected, connect};
use crate::transport::{Access, BrokerUrl};

pub(super) struct Raw {
    writer: Connected,
    notify: Statement,
    reader: Connected,
    /// Where the reader's connection tells of notifications.
    arrived: Arc<OnceLock<Arrived>>,
}

impl Raw {
    pub(super) async fn connect(url: &BrokerUrl, access: &Access) -> anyhow::Result<Self> {
        let arrived = Arc::new(OnceLock::<Arrived>::new());
        let told = arrived.clone();
        let notified = move |payload: &str| {
            if let Some(arrived) = told.get() {
                arrived.now(payload.as_bytes());
            }
        };
        let reader = connect(url, access, notified).await?;
        let writer = connect(url, access, |_| ()).await?;
        let notify = writer.client.prepare("SELECT pg_notify($1, $2)").await?;
        Ok(Self { writer, notify, reader, arrived })
    }
}

impl Client for Raw {
    fn publish(&self, body: Bytes) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let text = std::str::from_utf8(&body)?;
            self.writer.client.execute(&self.notify, &[&RAW_TOPIC, &text]).await?;
            Ok(())
        }
        .boxed()
    }

    fn subscribe(&self, arrived: Arrived) -> BoxFuture<'_, anyhow::Result<()>> {
        async move {
            let _ = self.arrived.set(arrived);
            self.reader.client.batch_execute(&format!("LISTEN \"{RAW_TOPIC}\"")).await?;
            Ok(())
        }
        .boxed()
    }
}
