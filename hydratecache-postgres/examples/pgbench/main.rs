//! Real, foreign load: pgbench writes to its own tables, triggers publish, and replicas follow while
//! their connections are killed. In the end every replica is compared with the tables, row by row.
//!
//! `make pgbench` runs it. The environment sets how much: `PGBENCH_SECONDS` (20), `PGBENCH_SCALE` (2:
//! 200,000 accounts), `PGBENCH_CLIENTS` (8) and `PGBENCH_REPLICAS` (3). It prints one line of what was
//! done and one of what the triggers cost, and fails if a row differs.

mod cost;
mod fleet;
#[path = "../shared/pgbench.rs"]
mod pgbench;
mod staleness;
mod workload;

use std::error::Error as StdError;
use std::process::ExitCode;
use std::time::Duration;

use hydratecache::Topic;
use hydratecache_postgres::{Attachment, Migration, PostgresConfig};
use hydratecache_testkit::broker::{Broker, Kind};
use tokio_postgres::Client;

use fleet::Fleet;
use pgbench::{connect, make_tables, setting};
use staleness::Staleness;
use workload::Workload;

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

/// pgbench's tables that have a key; `pgbench_history` has none, so no cache could hold its rows.
const TABLES: [&str; 3] = ["pgbench_accounts", "pgbench_tellers", "pgbench_branches"];

/// How long pgbench writes between two kills of the replicas' connections.
const KILL_EVERY: Duration = Duration::from_secs(3);

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("pgbench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// `true`: no row differs.
async fn run() -> Outcome<bool> {
    let workload = Workload::from_environment()?;
    let replicas = setting("PGBENCH_REPLICAS", 3)?;
    let broker = Broker::start(Kind::Postgres).await?;
    let admin = connect(broker.url()).await?;
    Migration::install(&admin).await?;
    make_tables(&broker, workload.scale).await?;
    for table in TABLES {
        attach(&admin, table).await?;
    }
    let staleness = Staleness::prepare(&admin).await?;

    let config = PostgresConfig::from_url(broker.url())?;
    let fleet = Fleet::start(&config, replicas).await?;
    let sampling = staleness.sample(&broker, &config).await?;
    let running = workload.start(&broker)?;
    let mut kills: i64 = 0;
    let writes = tokio::select! {
        transactions = running.transactions() => transactions? * TABLES.len() as u64,
        error = kill_connections(&admin, &mut kills) => return Err(error),
    };
    let samples = sampling.end().await?;
    let found = fleet.compare(&admin).await?;

    println!(
        "pgbench: replicas={replicas} rows={} writes={writes} kills={kills} differences={} \
         staleness_p50={:.1} staleness_p99={:.1} by_value={:.1}",
        found.rows,
        found.differences,
        samples.percentile_millis(50),
        samples.percentile_millis(99),
        fleet.by_value_percent(writes),
    );
    drop(fleet);
    cost::print(&workload, &broker, &admin).await?;
    let is_meant = writes > 0 && kills > 0 && found.rows > 0;
    if !is_meant {
        eprintln!("pgbench: nothing was written, compared or killed; raise PGBENCH_SECONDS");
    }
    Ok(found.differences == 0 && is_meant)
}

async fn attach(admin: &Client, table: &str) -> Outcome<()> {
    let attachment = Attachment::new(format!("public.{table}"), Topic::new(table)?);
    Ok(attachment.attach(admin).await?)
}

/// Ends the replicas' listening and publishing connections, again and again.
async fn kill_connections(admin: &Client, kills: &mut i64) -> Box<dyn StdError + Send + Sync> {
    loop {
        tokio::time::sleep(KILL_EVERY).await;
        let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                    WHERE application_name IN ('hydratecache listen', 'hydratecache publish')";
        match admin.query_one(kill, &[]).await {
            Ok(row) => *kills += row.get::<_, i64>(0),
            Err(error) => return error.into(),
        }
    }
}
