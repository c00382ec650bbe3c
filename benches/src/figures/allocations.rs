//! What takes memory: measured by another program, whose allocator counts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::options::Bench;
use crate::report::Figure;
use crate::server::REDIS;

pub(super) const NAMES: &[&str] = &[
    "memory_allocations_per_message",
    "envelope_decode_allocations",
    "replica_entry_overhead",
    "topic_overhead",
];

const PROGRAM: &str = "bench-allocations";

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let program = std::env::current_exe()?.with_file_name(PROGRAM);
    ensure!(
        program.is_file(),
        "{PROGRAM} is not beside this program; build both: cargo build --release -p hydratecache-bench"
    );
    let mut child = Command::new(program)
        .env(REDIS.variable, bench.redis()?.url())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {PROGRAM}"))?;
    let lines = BufReader::new(child.stdout.take().context("its output was asked for")?).lines();
    let figures = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<Result<_>>();
    ensure!(child.wait()?.success(), "{PROGRAM} failed");
    figures
}
