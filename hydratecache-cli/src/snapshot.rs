//! `hydratecache snapshot`: all that the replicas of a topic hold, as lines that `publish --from` takes,
//! or compared with a source.

mod comparison;
mod holdings;
mod source;

use std::io::{self, BufWriter, Write};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;
use tokio::time::sleep;

use crate::output;
use crate::text::escaped;
use crate::transport::Way;
use crate::ttl::duration;
use comparison::{Comparison, Missing};
use holdings::Holdings;
use source::{Opened, Source};

/// What to look at.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    holdings: Holdings,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    source: Source,
    /// How long a difference has to last: what is only under way is none (as 500ms, 10s or 1m)
    #[arg(
        long,
        env = "HYDRATECACHE_SNAPSHOT_PATIENCE",
        value_name = "TIME",
        default_value = "10s",
        value_parser = duration
    )]
    patience: Duration,
    /// Keys that no replica holds are no differences: for topics whose entries end
    #[arg(long, env = "HYDRATECACHE_SNAPSHOT_HELD_ONLY")]
    held_only: bool,
    /// Print differences as JSON objects, one a line, and the summary as the last one
    #[arg(long, env = "HYDRATECACHE_JSON")]
    json: bool,
}

impl Arguments {
    fn missing(&self) -> Missing {
        if self.held_only { Missing::IsNoDifference } else { Missing::Differs }
    }
}

/// Shows what replicas hold, or what of it differs from the source.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    match arguments.source.open().await? {
        Some(source) => compare(&arguments, &source).await,
        None => dump(&arguments).await,
    }
}

async fn dump(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let all = arguments.holdings.read(&arguments.way).await?;
    let shown = all.values().filter(|held| held.json.is_some()).count();
    print(all.iter().filter_map(|(key, held)| held.line(key)))?;
    eprintln!("{shown} entries");
    if shown == all.len() {
        return Ok(ExitCode::SUCCESS);
    }
    let left_out = all.len() - shown;
    eprintln!("{left_out} more have values without a JSON form, or too large for a message");
    Ok(ExitCode::from(1))
}

async fn compare(arguments: &Arguments, source: &Opened) -> anyhow::Result<ExitCode> {
    let mut comparison = look(arguments, source).await?;
    if comparison.finds_any() {
        // A write may have been under way.
        sleep(arguments.patience).await;
        comparison = look(arguments, source).await?.lasting_since(&comparison);
    }
    let summary = comparison.summary();
    if arguments.json {
        let differences = comparison.differences().map(|one| json(&one).map(|one| escaped(&one)));
        let lines = differences.chain([json(&summary)]).collect::<anyhow::Result<Vec<_>>>();
        print(lines?.into_iter())?;
    } else {
        print(comparison.differences().map(|difference| difference.to_string()))?;
    }
    eprintln!("{summary}");
    Ok(ExitCode::from(u8::from(comparison.finds_any())))
}

fn json(shown: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string(shown)?)
}

/// Prints lines up to where nobody reads them any more, as with `head`.
fn print(mut lines: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    let printed = lines.try_for_each(|line| writeln!(stdout, "{line}"));
    output::written(printed.and_then(|()| stdout.flush())).map(drop)
}

async fn look(arguments: &Arguments, source: &Opened) -> anyhow::Result<Comparison> {
    let held = arguments.holdings.read(&arguments.way).await?;
    let mut rows = source.read().await?;
    rows.retain(|key, _| key.starts_with(arguments.holdings.key_prefix()));
    Ok(Comparison::of(held, &rows, arguments.missing()))
}
