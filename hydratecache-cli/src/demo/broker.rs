//! The demo over a broker: the writer here, each replica in a process of its own, and the server
//! killed in the middle.
//!
//! What differs from broker to broker is a [`Broker`], each in a file of its own.

#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "postgres")]
mod postgres;
mod process;
#[cfg(feature = "redis")]
mod redis;
mod rows;
mod server;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use futures::future::BoxFuture;
use hydratecache::Transport;

#[cfg(feature = "kafka")]
pub(super) use kafka::KAFKA;
#[cfg(feature = "nats")]
pub(super) use nats::NATS;
#[cfg(feature = "postgres")]
pub(super) use postgres::POSTGRES;
#[cfg(feature = "redis")]
pub(super) use redis::REDIS;
pub(super) use server::Server;

use super::Arguments;
use super::database::Database;
use super::fleet::Fleet;
use super::member::{Member, channel};
use super::report::Kind;
use super::stage::{Outage, Stage, TransportName};
use rows::RemoteDatabase;

/// A broker that the demo can play on.
#[derive(Clone, Copy)]
pub(super) struct Broker {
    /// Its name, for people.
    pub(super) name: &'static str,
    /// Its name in `scripts/services.sh`.
    service: &'static str,
    /// Connects to the one at a URL.
    pub(super) connect: for<'a> fn(&'a str) -> Connecting<'a>,
}

#[cfg(feature = "page")]
impl Broker {
    /// Whether clients go on to the address that the broker names itself, past any link to it.
    pub(super) fn names_its_own_address(self) -> bool {
        self.service == "kafka"
    }
}

type Connecting<'a> = BoxFuture<'a, hydratecache::Result<Arc<dyn Transport>>>;

/// One replica of the demo in a process of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplicaArguments {
    #[arg(long, value_enum)]
    transport: TransportName,
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    topic: String,
    /// Where the demo answers questions about its database
    #[arg(long)]
    database: SocketAddr,
    #[arg(long)]
    rows: u16,
    /// Where Prometheus may read metrics
    #[cfg(feature = "metrics")]
    #[arg(long)]
    metrics: Option<SocketAddr>,
    /// Not an option: it may hold a password, and arguments are for all to see
    #[arg(env = URL, hide_env_values = true)]
    url: String,
}

/// The environment variable that tells a replica's process the broker's URL.
const URL: &str = "HYDRATECACHE_DEMO_URL";

/// The writer's channel here, replicas in processes, and a broker: the one at the URL that
/// `arguments` give, or our own.
pub(super) async fn stage(arguments: &Arguments, database: &Database) -> anyhow::Result<Stage> {
    let Arguments { transport, rows, .. } = *arguments;
    let broker = broker(transport)?;
    let (url, outage) = if let Some(url) = &arguments.url {
        (url.clone(), Outage::None)
    } else {
        let server = Server::up(broker).await;
        let server = server.with_context(|| format!("starting a {} for the demo", broker.name))?;
        (server.url().to_owned(), Outage::Server(server))
    };
    // The broker may be others' too.
    let topic = format!("demo/cities/{:016x}", rand::random::<u64>());
    let writer = channel((broker.connect)(&url).await?, &topic)?;
    let (address, serving) = rows::serve(database.clone()).await?;
    let demo = arguments;
    let start = |kind: Kind| {
        let (address, rows) = (address.to_string(), rows.to_string());
        let arguments = [
            "demo-replica",
            "--transport",
            broker.service,
            "--kind",
            kind.name(),
            "--topic",
            &topic,
            "--database",
            &address,
            "--rows",
            &rows,
        ];
        let arguments = arguments.into_iter().map(OsString::from);
        process::start(kind, arguments.chain(metrics_of(demo, kind)?), &url)
    };
    let handles = Kind::ALL.into_iter().map(start).collect::<Result<_, _>>()?;
    Ok(Stage { fleet: Fleet { handles, _serving: Some(serving) }, writer, outage })
}

/// What tells the process of a replica where to show metrics, if anybody looks at them.
#[cfg(feature = "metrics")]
fn metrics_of(demo: &Arguments, kind: Kind) -> anyhow::Result<Vec<OsString>> {
    let Some(address) = demo.metrics else {
        return Ok(Vec::new());
    };
    let place = (1..).zip(Kind::ALL).find(|(_, of)| *of == kind).map_or(1, |(place, _)| place);
    let address = crate::metrics::beside(address, place)?;
    Ok(vec!["--metrics".into(), address.to_string().into()])
}

#[cfg(not(feature = "metrics"))]
#[expect(clippy::unnecessary_wraps, reason = "as with the feature")]
fn metrics_of(_: &Arguments, _: Kind) -> anyhow::Result<Vec<OsString>> {
    Ok(Vec::new())
}

/// Runs one replica: orders on stdin, reports on stdout, each a line of JSON.
pub(crate) async fn run_replica(arguments: ReplicaArguments) -> anyhow::Result<ExitCode> {
    #[cfg(feature = "metrics")]
    let _serving = crate::metrics::serve(arguments.metrics).await?;
    let ReplicaArguments { transport, kind, topic, database, rows, url, .. } = arguments;
    let broker = broker(transport)?;
    process::run(async {
        let channel = channel((broker.connect)(&url).await?, &topic)?;
        Member::start(kind, &channel, RemoteDatabase::at(database), rows).await
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}

fn broker(transport: TransportName) -> anyhow::Result<Broker> {
    transport.broker().context("the in-process transport has no broker")
}
