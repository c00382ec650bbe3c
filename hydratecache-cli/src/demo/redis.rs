//! The demo over Redis: the writer here, each replica in a process of its own, and the server
//! killed in the middle.

mod process;
mod rows;
mod server;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use hydratecache_redis::RedisTransport;

pub(super) use server::Server;

use super::database::Database;
use super::fleet::Fleet;
use super::member::{Member, channel};
use super::report::Kind;
use super::stage::{Outage, Stage};
use rows::RemoteDatabase;

/// One replica of the demo in a process of its own.
#[derive(Debug, clap::Args)]
pub(crate) struct ReplicaArguments {
    #[arg(long, value_enum)]
    kind: Kind,
    #[arg(long)]
    topic: String,
    /// Where the demo answers questions about its database
    #[arg(long)]
    database: SocketAddr,
    #[arg(long)]
    rows: u16,
    /// Not an option: it may hold a password, and arguments are for all to see
    #[arg(env = URL, hide_env_values = true)]
    url: String,
}

/// The environment variable that tells a replica's process the broker's URL.
const URL: &str = "HYDRATECACHE_DEMO_URL";

/// The writer's channel here, replicas in processes, and a Redis: the one at `url`, or our own.
pub(super) async fn stage(
    url: Option<&str>,
    database: &Database,
    rows: u16,
) -> anyhow::Result<Stage> {
    let (url, outage) = if let Some(url) = url {
        (url.to_owned(), Outage::None)
    } else {
        let server = Server::up().await.context("starting a Redis for the demo")?;
        (server.url().to_owned(), Outage::Server(server))
    };
    // The broker may be others' too.
    let topic = format!("demo/cities/{:016x}", rand::random::<u64>());
    let writer = channel(RedisTransport::connect(&url).await?, &topic)?;
    let (address, serving) = rows::serve(database.clone()).await?;
    let start = |kind: Kind| {
        let (address, rows) = (address.to_string(), rows.to_string());
        let named =
            ["--kind", kind.name(), "--topic", &topic, "--database", &address, "--rows", &rows];
        let arguments = ["demo-replica"].into_iter().chain(named).map(OsString::from);
        process::start(kind, arguments, &url)
    };
    let handles = Kind::ALL.into_iter().map(start).collect::<Result<_, _>>()?;
    Ok(Stage { fleet: Fleet { handles, _serving: Some(serving) }, writer, outage })
}

/// Runs one replica: orders on stdin, reports on stdout, each a line of JSON.
pub(crate) async fn run_replica(arguments: ReplicaArguments) -> anyhow::Result<ExitCode> {
    let ReplicaArguments { kind, topic, database, rows, url } = arguments;
    process::run(async {
        let transport = RedisTransport::connect(&url).await?;
        let channel = channel(transport, &topic)?;
        Member::start(kind, &channel, RemoteDatabase::at(database), rows).await
    })
    .await?;
    Ok(ExitCode::SUCCESS)
}
