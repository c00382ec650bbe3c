//! `hydratecache demo --page`: a fleet to play with, on a page in the browser.
//!
//! ```text
//! writer ── link ──▶ broker ── link ──▶ seat (a replica) ──▶ tally
//!    ▲                 ▲         ▲          ▲                  │
//!    └───────────── model: owns all, and tells ◀───────────────┘
//!                      ▲ Action     │ Snapshot
//!                     http: one page, one stream of events, one address for what is asked
//! ```

#[cfg_attr(
    not(feature = "broker"),
    expect(clippy::unused_async, reason = "the in-process broker is not waited for")
)]
mod broker;
mod http;
mod journal;
#[cfg_attr(
    not(feature = "broker"),
    expect(clippy::unused_async, clippy::unused_self, reason = "its links are alike, and at hand")
)]
mod link;
mod model;
mod seat;
mod snapshot;
mod table;
mod tally;
mod writer;

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context;
use bytes::Bytes;
use hydratecache::Topic;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use super::Arguments;
use super::city::cities;
use crate::output;
use broker::Broker;
use journal::Journal;
use link::Link;
use model::Model;
use seat::{Seat, Topics};
use snapshot::Totals;
use table::Table;
use writer::{Output, Writer};

/// A dozen, as many as are seen at a glance.
const REPLICAS: usize = 12;

/// How many actions may wait to be done.
const WAITING_ACTIONS: usize = 16;

/// Shows the fleet at `address` until Ctrl-C.
pub(crate) async fn run(arguments: Arguments, address: SocketAddr) -> anyhow::Result<ExitCode> {
    tokio::select! {
        // From its first poll on it is listened for, which is before the page's address is told.
        biased;
        () = crate::interruption() => Ok(ExitCode::SUCCESS),
        ended = show(arguments, address) => ended,
    }
}

async fn show(arguments: Arguments, address: SocketAddr) -> anyhow::Result<ExitCode> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| {
        format!("listening on {address} for the page; choose another port with --page")
    })?;
    let address = listener.local_addr()?;
    let (model, writer) = set_up(&arguments).await?;
    let (tell, snapshots) = watch::channel(Bytes::from_static(b"null"));
    let (ask, asked) = mpsc::channel(WAITING_ACTIONS);
    output::write(format!("the page is at http://{address}/ ; Ctrl-C ends it\n").as_bytes())?;
    tokio::select! {
        ended = model.run(asked, tell) => ended,
        served = http::serve(listener, snapshots, ask) => served,
        () = writer => Ok(ExitCode::SUCCESS),
    }
}

/// The fleet, and what its writer does.
async fn set_up(arguments: &Arguments) -> anyhow::Result<(Model, impl Future<Output = ()>)> {
    let table = Table::of(cities(arguments.rows)?)?;
    // The broker may be others' too.
    let name = format!("demo/page/{:016x}", rand::random::<u64>());
    let topics = Topics { rows: Topic::new(&name)?, quiet: Topic::new(format!("{name}/quiet"))? };
    let broker = Broker::up(arguments).await?;
    let writer_link = Link::new(broker.road().await?);
    let channel = seat::channel(writer_link.road().connect().await?, &topics.rows)?;
    // What others miss of it is sent again.
    let answering = channel.answer_requests().await?;
    let mut seats = Vec::new();
    for number in 1..=REPLICAS {
        seats.push(Seat::taken(Link::new(broker.road().await?), number, &table, &topics));
    }
    let (rate, rate_now) = watch::channel(0);
    let output = Output::default();
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let random = Xoshiro256PlusPlus::seed_from_u64(seed);
    let writer =
        Writer { table: table.clone(), channel, random, output: output.clone(), rate: rate_now };
    let writing = async move {
        let _answering = answering;
        writer.write().await;
    };
    let model = Model {
        journal: Journal::of(seats.len()),
        table,
        topics,
        broker,
        writer_link,
        output,
        rate,
        is_begun: false,
        seats,
        retired: Totals::default(),
        figures: model::Figures::default(),
    };
    Ok((model, writing))
}
