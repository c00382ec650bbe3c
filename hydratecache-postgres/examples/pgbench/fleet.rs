//! The replicas, each as another process would have them, and what they are compared with.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::try_join_all;
use hydratecache::cache::{Hydration, Replica, State};
use hydratecache::codec::Json;
use hydratecache::{Channel, VersionDomain};
use hydratecache_postgres::{PostgresConfig, PostgresSource};
use serde_json::Value;
use tokio::time::timeout;
use tokio_postgres::Client;

use crate::{Outcome, TABLES};

/// How long a replica may take to repair itself after the last kill.
const REPAIR_LIMIT: Duration = Duration::from_secs(60);

pub(crate) struct Fleet(Vec<Copy>);

/// One table in one replica.
struct Copy {
    table: &'static str,
    replica: Replica<Value>,
    hydration: Hydration<Value>,
}

/// What a comparison found, over all replicas.
pub(crate) struct Found {
    pub(crate) rows: usize,
    pub(crate) differences: usize,
}

impl Fleet {
    pub(crate) async fn start(config: &PostgresConfig, replicas: usize) -> Outcome<Self> {
        let mut copies = Vec::new();
        for _ in 0..replicas {
            let transport = config.clone().connect().await?;
            for table in TABLES {
                let source = PostgresSource::table(config, &format!("public.{table}")).await?;
                let channel = Channel::builder_with_codec(transport.clone(), table, Json)
                    .with_versions(VersionDomain::Caller)
                    .build()?;
                let replica = Replica::new();
                let hydration = channel.hydrate(replica.clone()).with_source(source).await?;
                copies.push(Copy { table, replica, hydration });
            }
        }
        try_join_all(copies.iter().map(|copy| copy.hydration.ready())).await?;
        Ok(Self(copies))
    }

    /// Waits until every replica says that it is whole, and compares it with its table, row by row.
    pub(crate) async fn compare(&self, admin: &Client) -> Outcome<Found> {
        for copy in &self.0 {
            let is_live = copy.hydration.wait_until(|fresh| fresh.state() == State::Live);
            timeout(REPAIR_LIMIT, is_live).await.map_err(|_| "a replica stays suspect")??;
            let fresh = copy.hydration.caught_up().await?;
            if fresh.state() != State::Live {
                return Err(format!("a replica of {} is {:?}", copy.table, fresh.state()).into());
            }
        }
        let mut found = Found { rows: 0, differences: 0 };
        for table in TABLES {
            let truth = rows(admin, table).await?;
            found.rows += truth.len();
            for copy in self.0.iter().filter(|copy| copy.table == table) {
                let differs =
                    |(key, row): &(&String, &Value)| copy.replica.get(key).as_deref() != Some(*row);
                let different = truth.iter().filter(differs).count();
                let surplus = copy.replica.len().saturating_sub(truth.len());
                found.differences += different + surplus;
            }
        }
        Ok(found)
    }

    /// How many of `writes` reached a replica as a value, in per cent over all replicas; the others
    /// were loaded from the table, one by one or after a gap.
    pub(crate) fn by_value_percent(&self, writes: u64) -> f64 {
        let arrived = |copy: &Copy| {
            let stats = copy.hydration.stats();
            stats.received.saturating_sub(stats.refilled)
        };
        let arrived: u64 = self.0.iter().map(arrived).sum();
        let replicas = (self.0.len() / TABLES.len()) as u64;
        // In tenths of a per cent, which is as fine as it is printed.
        let tenths = arrived.saturating_mul(1000) / writes.saturating_mul(replicas).max(1);
        f64::from(u32::try_from(tenths).unwrap_or(u32::MAX)) / 10.0
    }
}

async fn rows(admin: &Client, table: &str) -> Outcome<HashMap<String, Value>> {
    let key = &table["pgbench_".len()..][..1];
    let select = format!("SELECT {key}id::text, row_to_json(t)::text FROM public.{table} AS t");
    let rows = admin.query(&select, &[]).await?;
    let row = |row: &tokio_postgres::Row| Ok((row.get(0), serde_json::from_str(row.get(1))?));
    rows.iter().map(row).collect()
}
