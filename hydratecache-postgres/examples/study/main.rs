//! Three ways to keep caches, beside each other under the same load: cache-aside with a TTL of 30 s,
//! invalidation only, and hydration. How many reads reach the database, and how many are stale?
//!
//! `make study` runs it. pgbench itself writes, with its built-in `simple-update` (all accounts alike) and with
//! the same update and its own `random_zipfian` (few accounts are hot); the readers ask for accounts
//! with the same distribution. Each read asks all three caches of a replica, at the same moment. In the
//! middle of each run the connections of all replicas are killed once.
//!
//! The environment sets how much: `STUDY_SECONDS` (60 for each distribution), `STUDY_REPLICAS` (4), `STUDY_READS` (200 a
//! second and replica), `STUDY_WRITES` (200 a second) and `STUDY_SCALE` (1: 100,000 accounts). It writes
//! `study.md`, `study.csv` and `study.svg` into the folder that it is given.

mod caches;
mod load;
#[path = "../shared/pgbench.rs"]
mod pgbench;
mod report;

use std::error::Error as StdError;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hydratecache::Topic;
use hydratecache_postgres::{Attachment, Migration, PostgresConfig};
use hydratecache_testkit::broker::{Broker, Kind};
use tokio_postgres::Client;

use caches::Fleet;
use load::{Distribution, Load};
use pgbench::{connect, make_tables};
use report::Run;

type Outcome<T> = Result<T, Box<dyn StdError + Send + Sync>>;

const TABLE: &str = "pgbench_accounts";

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("study: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Outcome<()> {
    let folder = std::env::args().nth(1).ok_or("name the folder that the results go to")?;
    let folder = PathBuf::from(folder);
    if !folder.is_dir() {
        return Err(format!("{} is not a folder", folder.display()).into());
    }
    let load = Load::from_environment()?;
    let mut runs = Vec::new();
    for distribution in [Distribution::Uniform, Distribution::Zipfian] {
        runs.push(measure(&load, distribution).await?);
    }
    report::write(&folder, &load, &runs)?;
    print!("{}", report::table(&runs));
    Ok(())
}

/// One run on a server of its own.
async fn measure(load: &Load, distribution: Distribution) -> Outcome<Run> {
    // Each replica has six connections, and two more for each of its readers.
    let broker =
        Broker::builder(Kind::Postgres).with_setting("max_connections=300").start().await?;
    let admin = connect(broker.url()).await?;
    Migration::install(&admin).await?;
    make_tables(&broker, load.scale.into()).await?;
    Attachment::new(format!("public.{TABLE}"), Topic::new(TABLE)?).attach(&admin).await?;
    let fleet = Fleet::start(&broker, load.replicas).await?;
    let writing = load.write(&broker, distribution)?;
    let end = tokio::time::Instant::now() + load.time;
    let (asked, killed) =
        tokio::try_join!(fleet.read(load, distribution, end), kill_once(&admin, load.time / 2))?;
    let writes = writing.transactions().await?;
    if killed == 0 {
        return Err("no connection was killed; is anything connected?".into());
    }
    Ok(Run { distribution, writes, killed, asked })
}

/// Ends every connection that the replicas listen on. The others find their way back.
async fn kill_once(admin: &Client, after: Duration) -> Outcome<i64> {
    tokio::time::sleep(after).await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE application_name = 'hydratecache listen'";
    Ok(admin.query_one(kill, &[]).await?.get(0))
}

/// What the replicas connect with.
fn config(broker: &Broker) -> Outcome<PostgresConfig> {
    Ok(PostgresConfig::from_url(broker.url())?)
}
