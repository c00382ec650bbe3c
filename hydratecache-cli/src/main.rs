//! The `hydratecache` command.

mod demo;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes:
  0    done; for `demo`: every replica converged and nothing was lost silently
  1    `demo` only: the check failed, as its last line says
  2    wrong usage
  3    it could not be done, for instance because the broker cannot be reached; stderr says why
  130  interrupted";

/// Keeps local caches warm across a fleet, and never loses a message silently.
#[derive(Debug, Parser)]
#[command(name = "hydratecache", version, about, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch three replicas converge while one link, or the broker, is lost.
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Arguments),
    /// One replica of the demo in a process of its own, started by the demo.
    #[cfg(feature = "broker")]
    #[command(hide = true)]
    DemoReplica(demo::ReplicaArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(Cli::parse().command) => outcome,
        _ = tokio::signal::ctrl_c() => return ExitCode::from(130),
    };
    outcome.unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(arguments) => demo::run(arguments).await,
        #[cfg(feature = "broker")]
        Command::DemoReplica(arguments) => demo::run_replica(arguments).await,
    }
}
