//! Runs this program under callgrind.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt, stream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::counted::SYMBOL;
use crate::paths::TIMES;

/// More than any path takes under valgrind, on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// The instructions of each path, each time that it is taken.
pub(crate) async fn count_all(names: &[&'static str]) -> Result<Vec<(String, f64)>> {
    let folder = tempfile::tempdir().context("making a folder for callgrind")?;
    let beside_each_other = std::thread::available_parallelism().map_or(1, usize::from);
    let folder = folder.path();
    let counts =
        stream::iter(names)
            .map(|name| async move {
                count(name, folder).await.with_context(|| format!("counting {name}"))
            })
            .buffered(beside_each_other);
    counts.try_collect().await
}

async fn count(name: &str, folder: &Path) -> Result<(String, f64)> {
    let profile = folder.join(name);
    let mut command = Command::new("valgrind");
    command
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--toggle-collect={SYMBOL}"))
        .arg(format!("--callgrind-out-file={}", profile.display()))
        .arg(std::env::current_exe()?)
        .args(["path", name])
        // The environment lies on the stack: it moves what is there, and glibc's settings are in it.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = timeout(LIMIT, command.output()).await;
    let output = output.with_context(|| format!("valgrind took longer than {LIMIT:?}"))?;
    let output = output.context("starting valgrind; Debian's package is called so")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "it failed under valgrind: {said}");
    let profile = std::fs::read_to_string(profile).context("reading what callgrind wrote")?;
    let total = total(&profile)?;
    // Each path takes hundreds of instructions; one that is not found takes none.
    ensure!(total > TIMES, "callgrind counted {total} instructions: it did not find {SYMBOL}");
    #[expect(clippy::cast_precision_loss, reason = "no path takes 2^52 instructions")]
    Ok((name.to_owned(), total as f64 / TIMES as f64))
}

/// The instructions in a profile: the first number behind `totals:`.
fn total(profile: &str) -> Result<u64> {
    let totals = profile.lines().find_map(|line| line.strip_prefix("totals:"));
    let first = totals.and_then(|numbers| numbers.split_whitespace().next());
    first.context("callgrind wrote no totals")?.parse().context("callgrind's totals are no number")
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn the_total_is_read_and_a_profile_without_one_is_an_error() {
        let profile = "events: Ir\nfn=(1) main\n7 100\n\ntotals: 1234567\n";
        assert_eq!(total(profile).expect("a total"), 1_234_567);
        assert!(total("events: Ir\n").is_err() && total("totals: x\n").is_err());
    }
}
