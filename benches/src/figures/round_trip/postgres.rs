//! The round trip over PostgreSQL.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use bytes::Bytes;
use hydratecache_postgres::PostgresTransport;
use tokio_postgres::{Client, Statement};

use super::{Arrived, RAW_TOPIC, Raw, compare};
use crate::options::Bench;
use crate::raw;
use crate::report::Figure;

pub(in crate::figures) const NAMES: &[&str] = &["postgres_round_trip_p50"];

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let connect = |url: String| async move { PostgresTransport::connect(&url).await };
    Ok(vec![compare::<Postgres, _, _>(bench, NAMES[0], bench.postgres()?.url(), connect)?])
}

#[derive(Clone)]
struct Postgres {
    client: Arc<Client>,
    notify: Statement,
    _listening: Arc<Client>,
}

impl Raw for Postgres {
    async fn connect(url: String, arrived: Arrived) -> Result<Self> {
        let notified = move || {
            // Fails when the bench is over.
            let _ = arrived.send(Instant::now());
        };
        let listening = raw::postgres::client(&url, notified).await?;
        listening.batch_execute(&format!("LISTEN \"{RAW_TOPIC}\"")).await?;
        let client = raw::postgres::client(&url, || ()).await?;
        let notify = client.prepare("SELECT pg_notify($1, $2)").await?;
        Ok(Self { client: Arc::new(client), notify, _listening: Arc::new(listening) })
    }

    async fn publish(self, body: Bytes) -> Result<()> {
        let text = std::str::from_utf8(&body)?;
        self.client.execute(&self.notify, &[&RAW_TOPIC, &text]).await?;
        Ok(())
    }
}
