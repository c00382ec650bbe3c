//! `soak`: kills and flaps at random for a stated time, one line a transport.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use hydratecache_soak::options::{Kind, Options};
use hydratecache_soak::run::soak;

/// Kills and flaps at random, and an oracle that no loss gets past in silence
///
/// Exit code 0: nothing was lost in silence, nothing came twice or out of order. 1: something was;
/// run it again with the seed that was printed. 2: the soak itself could not be carried out.
#[derive(Debug, Parser)]
struct Arguments {
    /// Which transports (default: all)
    #[arg(long, value_enum, value_delimiter = ',')]
    transport: Vec<Kind>,
    /// How long faults happen, in seconds, for each transport
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=864_000))]
    seconds: u64,
    /// Decides the faults and their times (default: a random one)
    #[arg(long)]
    seed: Option<u64>,
    /// Publishers, each with a connection of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    writers: u16,
    /// Subscribers, each with a connection of its own
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=100))]
    readers: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<bool> {
    let seed = arguments.seed.unwrap_or_else(rand::random);
    let kinds = match arguments.transport.as_slice() {
        [] => &Kind::ALL[..],
        chosen => chosen,
    };
    let mut is_clean = true;
    for kind in kinds {
        eprintln!("soaking {kind} for {} s, seed {seed}", arguments.seconds);
        let report = soak(Options {
            kind: *kind,
            time: Duration::from_secs(arguments.seconds),
            seed,
            writers: arguments.writers.into(),
            readers: arguments.readers.into(),
        })
        .await?;
        println!("{report}");
        is_clean &= report.is_clean();
    }
    Ok(is_clean)
}
