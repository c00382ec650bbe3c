//! How long a committed write takes to be seen in a replica, under the load and through the kills.
//!
//! A row of a table of its own is written every few milliseconds. Its notification waits in the same
//! queue, behind pgbench's.

use std::time::Duration;

use hydratecache::cache::{Hydration, Replica};
use hydratecache::codec::Json;
use hydratecache::{Channel, VersionDomain};
use hydratecache_postgres::{PostgresConfig, PostgresSource};
use hydratecache_testkit::broker::Broker;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::{Outcome, attach, connect};

const TABLE: &str = "pgbench_clock";
const EVERY: Duration = Duration::from_millis(10);

#[derive(serde::Serialize, serde::Deserialize)]
struct Tick {
    id: i64,
    turn: i64,
}

/// A table whose one row is written.
pub(crate) struct Staleness(());

pub(crate) struct Sampling {
    over: CancellationToken,
    task: JoinHandle<Outcome<Vec<Duration>>>,
}

pub(crate) struct Samples(Vec<Duration>);

impl Staleness {
    pub(crate) async fn prepare(admin: &Client) -> Outcome<Self> {
        let create = format!(
            "CREATE TABLE public.{TABLE} (id bigint PRIMARY KEY, turn bigint NOT NULL);
             INSERT INTO public.{TABLE} VALUES (1, 0)"
        );
        admin.batch_execute(&create).await?;
        attach(admin, TABLE).await?;
        Ok(Self(()))
    }

    pub(crate) async fn sample(
        self,
        broker: &Broker,
        config: &PostgresConfig,
    ) -> Outcome<Sampling> {
        let source = PostgresSource::table(config, &format!("public.{TABLE}")).await?;
        let channel =
            Channel::<Tick>::builder_with_codec(config.clone().connect().await?, TABLE, Json)
                .with_versions(VersionDomain::Caller)
                .build()?;
        let replica = Replica::new();
        let hydration = channel.hydrate(replica.clone()).with_source(source).await?;
        hydration.ready().await?;
        let (client, over) = (connect(broker.url()).await?, CancellationToken::new());
        let task = tokio::spawn(sample(client, replica, hydration, over.clone()));
        Ok(Sampling { over, task })
    }
}

async fn sample(
    client: Client,
    replica: Replica<Tick>,
    _hydration: Hydration<Tick>,
    over: CancellationToken,
) -> Outcome<Vec<Duration>> {
    let write = client.prepare(&format!("UPDATE public.{TABLE} SET turn = $1")).await?;
    let (mut samples, mut turn) = (Vec::new(), 0);
    while !over.is_cancelled() {
        turn += 1;
        client.execute(&write, &[&turn]).await?;
        let committed = Instant::now();
        while replica.get("1").is_none_or(|tick| tick.turn < turn) {
            if committed.elapsed() > Duration::from_secs(30) {
                return Err("a write was not seen within 30 s".into());
            }
            // Fine enough for a tenth of a millisecond, and leaves the processor to the others.
            sleep(Duration::from_micros(200)).await;
        }
        samples.push(committed.elapsed());
        sleep(EVERY).await;
    }
    Ok(samples)
}

impl Sampling {
    pub(crate) async fn end(self) -> Outcome<Samples> {
        self.over.cancel();
        let mut samples = self.task.await??;
        samples.sort_unstable();
        if samples.is_empty() {
            return Err("no staleness was measured; raise PGBENCH_SECONDS".into());
        }
        Ok(Samples(samples))
    }
}

impl Samples {
    pub(crate) fn percentile_millis(&self, percentile: usize) -> f64 {
        let index = (self.0.len() * percentile / 100).min(self.0.len() - 1);
        self.0[index].as_secs_f64() * 1000.0
    }
}
