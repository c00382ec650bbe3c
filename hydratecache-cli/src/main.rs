//! The `hydratecache` command.

#[cfg(feature = "broker")]
mod bench;
#[cfg(feature = "broker")]
mod client;
mod completions;
mod demo;
#[cfg(feature = "broker")]
mod doctor;
mod environment;
#[cfg(feature = "broker")]
mod lines;
#[cfg(feature = "metrics")]
mod metrics;
mod output;
#[cfg(feature = "broker")]
mod payload;
#[cfg(feature = "broker")]
mod publish;
#[cfg(feature = "broker")]
mod snapshot;
#[cfg(feature = "broker")]
mod tail;
#[cfg_attr(not(feature = "broker"), allow(dead_code, reason = "only brokers' words are quoted"))]
mod text;
#[cfg(feature = "broker")]
mod transport;
#[cfg(feature = "broker")]
mod ttl;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

const EXIT_CODES: &str = "Exit codes:
  0    done; for `demo`: every replica converged and nothing was lost silently
  1    `demo`: the check failed, as its last line says; `publish`, `remove`, `touch`: some lines
       cannot be published, as stderr says, and all others were; `doctor`: something does not work;
       `snapshot`: what replicas hold differs from the source
  2    wrong usage
  3    it could not be done, for instance because the broker cannot be reached; stderr says why
  4    `doctor`: it works, with warnings
  130  interrupted, or `demo` before its check by a closed output; `tail` and `demo --page` end with 0 then, because that is how they end";

/// Keeps local caches warm across a fleet, and never loses a message silently.
///
/// Every option can be given as the environment variable that its help names. A URL with a password
/// belongs there: arguments are for all users of the machine to see.
#[derive(Debug, Parser)]
#[command(name = "hydratecache", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

impl Cli {
    fn read() -> Result<Self, clap::Error> {
        let mut command = environment::read_by(Self::command());
        let matches = command.try_get_matches_from_mut(std::env::args_os());
        let read = matches.and_then(|matches| Self::from_arg_matches(&matches));
        read.map_err(|error| environment::explained(error.format(&mut command)))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch three replicas converge while one link, or the broker, is lost.
    #[command(after_help = EXIT_CODES)]
    Demo(demo::Arguments),
    /// Follow topics: every message with all that it says, and every gap and disruption.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Tail(tail::Arguments),
    /// Publish values.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Publish(publish::PublishArguments),
    /// Say that keys have no value any more.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Remove(publish::RemoveArguments),
    /// Say that a whole topic has no value any more.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Clear(publish::ClearArguments),
    /// Give keys a new time to live, with the same value.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Touch(publish::TouchArguments),
    /// Find out why a setup does not work, or will not.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Doctor(doctor::Arguments),
    /// Show all that the replicas of a topic hold, or compare it with a source.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Snapshot(snapshot::Arguments),
    /// Measure rate and latency of the library beside the broker's raw client.
    #[cfg(feature = "broker")]
    #[command(after_help = EXIT_CODES)]
    Bench(bench::Arguments),
    /// Print the completions of a shell.
    #[command(after_help = EXIT_CODES)]
    Completions(completions::Arguments),
    /// One replica of the demo in a process of its own, started by the demo.
    #[cfg(feature = "broker")]
    #[command(hide = true)]
    DemoReplica(demo::ReplicaArguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let command = Cli::read().unwrap_or_else(|usage| usage.exit()).command;
    // As large as the largest command.
    Box::pin(run(command)).await.unwrap_or_else(|error| match error.downcast::<clap::Error>() {
        Ok(usage) => usage.exit(),
        Err(error) => {
            // It may repeat what a broker said.
            eprintln!("error: {}", text::escaped(&format!("{error:#}")));
            ExitCode::from(3)
        }
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Demo(arguments) => demo::run(arguments).await,
        #[cfg(feature = "broker")]
        Command::Tail(arguments) => tail::run(arguments).await,
        #[cfg(feature = "broker")]
        Command::Publish(arguments) => publish::publish(arguments).await,
        #[cfg(feature = "broker")]
        Command::Remove(arguments) => publish::remove(arguments).await,
        #[cfg(feature = "broker")]
        Command::Clear(arguments) => publish::clear(arguments).await,
        #[cfg(feature = "broker")]
        Command::Touch(arguments) => publish::touch(arguments).await,
        #[cfg(feature = "broker")]
        Command::Doctor(arguments) => until_interrupted(doctor::run(arguments)).await,
        #[cfg(feature = "broker")]
        Command::Snapshot(arguments) => until_interrupted(snapshot::run(arguments)).await,
        #[cfg(feature = "broker")]
        Command::Bench(arguments) => until_interrupted(bench::run(arguments)).await,
        Command::Completions(arguments) => completions::run(&arguments),
        #[cfg(feature = "broker")]
        Command::DemoReplica(arguments) => until_interrupted(demo::run_replica(arguments)).await,
    }
}

/// That a broker's client is missing, and how it comes.
fn not_built_in(broker: &str, feature: &str) -> String {
    format!(
        "this command was built without {broker}; build it with the feature that brings it: \
         cargo install hydratecache-cli --features {feature}"
    )
}

/// Runs a command that an interruption breaks off.
async fn until_interrupted(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        // From its first poll on it is listened for, which is before the command has said anything.
        biased;
        () = interruption() => Ok(ExitCode::from(130)),
        outcome = command => outcome,
    }
}

/// Ctrl-C, or the signal that `kill`, `timeout` and container engines send.
async fn interruption() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = tokio::signal::ctrl_c() => (),
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
