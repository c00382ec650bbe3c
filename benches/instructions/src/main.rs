//! How many instructions the hot paths take, counted by callgrind.
//!
//! Unlike a time, a count is the same on a busy machine, so that CI can compare it with a baseline
//! that is checked in. `check` and `write` start this program under valgrind, once for each path,
//! as `path NAME`; only what [`counted::counted`] calls is counted then.

mod baseline;
mod callgrind;
mod counted;
mod paths;
mod setup;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::baseline::Baseline;
use crate::setup::Setup;

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["path", name] => paths::run(name)?,
        ["write", file] => write(Path::new(file))?,
        ["check", file] => return check(Path::new(file)),
        _ => bail!("usage: instructions check FILE | write FILE"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Counts, and keeps that to compare with.
fn write(file: &Path) -> Result<()> {
    let counted = measure()?;
    print!("{counted}");
    let text = counted.to_string();
    std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))
}

/// Counts, and compares that with what was kept.
fn check(file: &Path) -> Result<ExitCode> {
    let kept = std::fs::read_to_string(file)
        .with_context(|| format!("reading {}; `write` makes it", file.display()))?;
    let kept: Baseline = kept.parse().with_context(|| format!("reading {}", file.display()))?;
    let comparison = kept.compare(&measure()?);
    print!("{comparison}");
    Ok(if comparison.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn measure() -> Result<Baseline> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counts = runtime.block_on(callgrind::count_all(paths::NAMES))?;
    Ok(Baseline { setup: Setup::here()?, counts })
}
