//! `reconnect`: a thousand subscribers whose broker is killed and comes back, two lines a transport.

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use hydratecache_soak::herd::{Herd, READY_GOAL, reconnect};
use hydratecache_soak::options::Kind;

/// A thousand subscribers whose broker is killed and comes back
///
/// First all in one process, then each with connections of its own. Times are in milliseconds and
/// count from the first connection that the broker takes. Exit code 0: all were ready within 5 s.
/// 1: some were not. 2: it could not be carried out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which transports (default: Redis and NATS; every connection to PostgreSQL is a process there, and every
    /// transport to Kafka three clients with threads of their own)
    #[arg(long, value_enum, value_delimiter = ',')]
    transport: Vec<Kind>,
    /// How many subscribers
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u16).range(1..=5000))]
    subscribers: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("reconnect: somebody was not ready within {READY_GOAL:?}");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("reconnect: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let kinds = match arguments.transport.as_slice() {
        [] => &[Kind::Redis, Kind::Nats],
        chosen => chosen,
    };
    let subscribers = usize::from(arguments.subscribers);
    let mut is_in_time = true;
    for kind in kinds.iter().copied() {
        let in_one = Herd { kind, transports: 1, topics: subscribers };
        let of_their_own = Herd { kind, transports: subscribers, topics: 1 };
        for herd in [in_one, of_their_own] {
            let report = reconnect(herd).await?;
            println!("{report}");
            is_in_time &= report.is_in_time();
        }
    }
    Ok(is_in_time)
}
