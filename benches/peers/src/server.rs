//! The Redis server that all share.

use std::time::Duration;

use anyhow::{Context, Result};
use hydratecache_testkit::broker::{Broker, Kind};
use redis::aio::MultiplexedConnection;
use tokio::time::sleep;

/// A server of our own.
#[derive(Debug)]
pub(crate) struct Server(Broker);

impl Server {
    /// One that keeps nothing on disk.
    pub(crate) async fn start() -> Result<Self> {
        Ok(Self(Broker::start(Kind::Redis).await.context("starting a Redis server")?))
    }

    /// One that still has everything after a SIGKILL.
    pub(crate) async fn start_with_log() -> Result<Self> {
        let broker = Broker::builder(Kind::Redis).with_setting("appendonly yes").start().await;
        Ok(Self(broker.context("starting a Redis server with a log")?))
    }

    /// Where clients connect.
    pub(crate) fn url(&self) -> &str {
        self.0.url()
    }

    /// Kills it, and starts it again after `outage` with what it had.
    pub(crate) async fn kill_for(&self, outage: Duration) -> Result<()> {
        self.0.kill9().await?;
        sleep(outage).await;
        Ok(self.0.start_again().await?)
    }

    /// Its version, as it says itself.
    pub(crate) async fn version(&self) -> Result<String> {
        let version = self.meter().await?.field("server", "redis_version").await?;
        Ok(format!("Redis {version}"))
    }

    /// Removes all that is in it.
    pub(crate) async fn flush(&self) -> Result<()> {
        let mut connection = self.meter().await?.connection;
        Ok(redis::cmd("FLUSHALL").query_async(&mut connection).await?)
    }

    /// Counts what goes in and out.
    pub(crate) async fn meter(&self) -> Result<Meter> {
        let client = redis::Client::open(self.url())?;
        let connection = client.get_multiplexed_async_connection().await?;
        let mut meter = Meter { connection, own: 0 };
        let first = meter.reading().await?;
        meter.own = meter.reading().await? - first;
        Ok(meter)
    }
}

/// The server's counters of bytes.
#[derive(Debug)]
pub(crate) struct Meter {
    connection: MultiplexedConnection,
    /// What a reading itself adds.
    own: u64,
}

impl Meter {
    /// All bytes so far, in and out.
    pub(crate) async fn reading(&mut self) -> Result<u64> {
        let info = self.info("stats").await?;
        let bytes = |name| number_of(&info, name)?.parse::<u64>().ok();
        let (input, output) = (bytes("total_net_input_bytes"), bytes("total_net_output_bytes"));
        input.zip(output).map(|(input, output)| input + output).context("INFO tells no bytes")
    }

    /// The bytes since that reading, without those of this one.
    pub(crate) async fn since(&mut self, reading: u64) -> Result<u64> {
        Ok((self.reading().await? - reading).saturating_sub(self.own))
    }

    async fn field(&mut self, section: &str, name: &str) -> Result<String> {
        let info = self.info(section).await?;
        Ok(number_of(&info, name).with_context(|| format!("INFO tells no {name}"))?.to_owned())
    }

    async fn info(&mut self, section: &str) -> Result<String> {
        Ok(redis::cmd("INFO").arg(section).query_async(&mut self.connection).await?)
    }
}

/// What is behind `name:`.
fn number_of<'info>(info: &'info str, name: &str) -> Option<&'info str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
}
