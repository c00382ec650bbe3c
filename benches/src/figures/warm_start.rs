//! How soon a replica of a million entries is ready that takes its copy from a live one, and how much
//! memory that takes.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::rows::{self, ENTRIES, ENTRY_BYTES};
use crate::options::Bench;
use crate::report::{Figure, Goal};

pub(super) const NAMES: &[&str] = &["redis_warm_start", "redis_warm_start_memory"];

const TOPIC: &str = "bench.warm";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    bench.apart(NAMES, alone)
}

fn alone(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.redis()?.url().to_owned();
    let measured = bench.run(measured(url))?;
    let time = Figure::of_values(NAMES[0], "s", measured.seconds, None);
    let memory = Figure::of_values(NAMES[1], "of one copy", measured.memory, None);
    Ok(vec![
        time.with_goal(Goal::OursAtMost(10.0)).with_note(format!(
            "from the start of a replica until it is ready, with {ENTRIES} entries of {ENTRY_BYTES} \
             bytes copied from another one over Redis on the same machine, both in one process; no \
             row was read from the source"
        )),
        memory.with_goal(Goal::OursAtMost(1.3)).with_note(format!(
            "the most that the process held above what it had before, both replicas' side tables \
             included; one copy is {:.0} MiB, what the first replica took once it was filled",
            measured.copy_mebibytes
        )),
    ])
}

struct Measured {
    seconds: f64,
    memory: f64,
    copy_mebibytes: f64,
}

async fn measured(url: String) -> Result<Measured> {
    let empty = Memory::now()?;
    let first = rows::replica(&url, TOPIC).await?;
    first.ready().await?;
    first.caught_up().await?;
    let filled = Memory::now()?;
    Memory::forget_the_most()?;
    let began = Instant::now();
    let second = rows::replica(&url, TOPIC).await?;
    second.ready().await?;
    let seconds = began.elapsed().as_secs_f64();
    let most = Memory::now()?.most;
    let stats = second.stats();
    ensure!((stats.copies, stats.reloads) == (1, 0), "it was no copy: {stats:?}");
    ensure!(second.cache().len() as u64 == ENTRIES, "{} entries", second.cache().len());
    let copy = filled.held - empty.held;
    for users in [first, second] {
        users.channel().transport().close().await?;
    }
    Ok(Measured { seconds, memory: (most - filled.held) / copy, copy_mebibytes: copy / 1024.0 })
}

/// The process's memory in kibibytes, as the kernel counts it.
struct Memory {
    held: f64,
    /// The most that it held since that was forgotten last.
    most: f64,
}

impl Memory {
    fn now() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status").context("reading the memory held")?;
        let number = |name: &str| -> Result<f64> {
            let rest = status.lines().find_map(|line| line.strip_prefix(name));
            let digits = rest.and_then(|rest| rest.split_whitespace().next());
            Ok(digits.with_context(|| format!("the kernel does not tell {name}"))?.parse()?)
        };
        Ok(Self { held: number("VmRSS:")?, most: number("VmHWM:")? })
    }

    fn forget_the_most() -> Result<()> {
        fs::write("/proc/self/clear_refs", "5").context("resetting the most memory held")
    }
}
