//! What every program here does that puts pgbench to work: its tables, its command, its counts.

use std::process::Stdio;
use std::str::FromStr;

use hydratecache_testkit::broker::Broker;
use tokio::process::Command;
use tokio_postgres::{Client, NoTls};

use crate::Outcome;

/// Makes pgbench's own tables, with 100,000 accounts for each step of `scale`.
pub(crate) async fn make_tables(broker: &Broker, scale: u64) -> Outcome<()> {
    let scale = scale.to_string();
    let made = command(broker).args(["-i", "-q", "-s", &scale]).output().await;
    let made = made.map_err(|error| format!("pgbench does not run: {error}"))?;
    if made.status.success() {
        return Ok(());
    }
    Err(format!("pgbench -i failed: {}", String::from_utf8_lossy(&made.stderr)).into())
}

/// pgbench against `broker`; dropping what it starts ends it.
pub(crate) fn command(broker: &Broker) -> Command {
    let mut command = Command::new("pgbench");
    command
        .env("PGOPTIONS", "-c search_path=public")
        .env("PGDATABASE", broker.url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A connection of this program's own. The test server's role is named as our schema, which would
/// therefore come first.
pub(crate) async fn connect(url: &str) -> Outcome<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute("SET search_path = public").await?;
    Ok(client)
}

/// A whole number from the environment.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> Outcome<T> {
    match std::env::var(name) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|_| format!("{name} is not a whole number").into()),
    }
}
