//! hydratecache beside the libraries that one would pick instead to keep local caches right over Redis.
//!
//! All run in turns on the same server, round after round, and every figure is the median of the rounds.

mod database;
mod figure;
mod fleet;
mod measure;
mod peer;
mod record;
mod server;

use std::path::PathBuf;
use std::pin::Pin;

use anyhow::{Result, ensure};
use clap::Parser;

use self::measure::{Outage, Values};
use self::peer::{About, ClientSideCaching, HydraCache, HydrateCache, MultiTierCache, Peer};
use self::record::Record;
use self::server::Server;

/// Compares hydratecache with its peers.
#[derive(Debug, Parser)]
struct Options {
    /// So many rounds of everything but outages.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// So many outages of each peer.
    #[arg(long, default_value_t = 3)]
    outages: usize,
    /// Writes peers.csv, peers.md and plots into this folder.
    #[arg(long, value_name = "FOLDER")]
    write: Option<PathBuf>,
}

type Measuring<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// A peer without its type.
struct Contender {
    about: About,
    round: for<'a> fn(&'a Server) -> Measuring<'a, Values>,
    outage: fn() -> Measuring<'static, Outage>,
}

impl Contender {
    fn of<P: Peer>() -> Self {
        Self {
            about: P::ABOUT,
            round: |server| Box::pin(measure::round::<P>(server)),
            outage: || Box::pin(measure::outage::<P>()),
        }
    }

    /// Ours first.
    fn all() -> [Self; 4] {
        [
            Self::of::<HydrateCache>(),
            Self::of::<ClientSideCaching>(),
            Self::of::<HydraCache>(),
            Self::of::<MultiTierCache>(),
        ]
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<()> {
    let options = Options::parse();
    ensure!(options.rounds > 0, "no rounds, no figures");
    let contenders = Contender::all();
    let server = Server::start().await?;
    let mut record = Record::new(contenders.each_ref().map(|it| it.about), server.version().await?);
    println!("{}", record.versions());
    for round in 1..=options.rounds {
        // Nobody is always the first.
        for number in round..round + contenders.len() {
            let Contender { about, round, .. } = &contenders[number % contenders.len()];
            let values = match round(&server).await {
                Ok(values) => values,
                Err(error) => {
                    eprintln!("{}: {error}; once more", about.name);
                    round(&server).await?
                }
            };
            record.add(about.name, &values);
        }
        println!("round {round} of {}", options.rounds);
    }
    for outage in 1..=options.outages {
        // Each has a server of its own, and most of the time they wait.
        let outages = contenders.iter().map(|contender| tokio::spawn((contender.outage)()));
        for (about, outage) in contenders.iter().map(|it| it.about).zip(outages.collect::<Vec<_>>())
        {
            let Outage { values, told } = outage.await??;
            record.add(about.name, &values);
            record.tell(about.name, &told);
        }
        println!("outage {outage} of {}", options.outages);
    }
    print!("\n{}", record.table());
    if let Some(folder) = &options.write {
        record.write(folder)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::database::{Database, key, value};
    use crate::fleet::Fleet;

    async fn shows_what_was_written<P: Peer>(server: &Server) {
        server.flush().await.expect("the server answers");
        let database = Database::in_redis(server.url()).await.expect("the server answers");
        let fleet = Fleet::<P>::start(server.url(), 2, database).await.expect("a fleet");
        let (key, value) = (key(7), value(7, 77));
        fleet.database.write(&key, &value).await.expect("a row");
        fleet.writer.write(&key, &value).await.expect("a write");
        let shown = fleet.shown(&key, &value, Instant::now()).await;
        assert!(shown.iter().all(Option::is_some), "{}: {shown:?}", P::ABOUT.name);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_reader_of_every_peer_shows_what_was_written() {
        let server = Server::start().await.expect("a server");
        shows_what_was_written::<HydrateCache>(&server).await;
        shows_what_was_written::<ClientSideCaching>(&server).await;
        shows_what_was_written::<HydraCache>(&server).await;
        shows_what_was_written::<MultiTierCache>(&server).await;
    }
}
