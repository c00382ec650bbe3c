//! The machine and the versions that figures belong to. Neither the machine's name nor a path is told.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

use crate::options::Bench;

/// What runs beside or below ours, as the lock file names it.
const CLIENTS: [&str; 8] =
    ["tokio", "fred", "async-nats", "tokio-postgres", "rdkafka", "moka", "papaya", "ciborium"];

/// What figures belong to.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) machine: String,
    pub(super) versions: String,
}

impl Setup {
    /// Here, with the brokers that were used so far.
    pub(super) fn of(bench: &Bench) -> Result<Self> {
        let versions = [format!("hydratecache {}{}", env!("CARGO_PKG_VERSION"), commit())];
        let versions = versions.into_iter().chain([env!("BUILT_BY").to_owned()]);
        let versions = versions.chain(bench.brokers()?).chain(clients(LOCK));
        Ok(Self { machine: machine()?, versions: versions.collect::<Vec<_>>().join(", ") })
    }
}

fn machine() -> Result<String> {
    let read =
        |path: &str| fs::read_to_string(path).with_context(|| format!("reading {path} of Linux"));
    let processors = read("/proc/cpuinfo")?;
    let model = field(&processors, "model name").unwrap_or(std::env::consts::ARCH);
    let memory = read("/proc/meminfo")?;
    let kibibytes = field(&memory, "MemTotal").and_then(|it| it.split(' ').next()?.parse().ok());
    let kibibytes: u64 = kibibytes.context("the kernel does not tell MemTotal")?;
    let cores = std::thread::available_parallelism()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let gibibytes = (kibibytes + (1 << 19)) >> 20;
    Ok(format!("{model}, {cores} cores, {gibibytes} GiB, Linux {}", kernel.trim()))
}

/// What is behind `name:`, in the first line that has it.
fn field<'text>(text: &'text str, name: &str) -> Option<&'text str> {
    let named = |line: &'text str| {
        let (found, value) = line.split_once(':')?;
        (found.trim() == name).then_some(value.trim())
    };
    text.lines().find_map(named)
}

/// The commit, if it is known, and whether there is more than that.
fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=10", "HEAD"]) else { return String::new() };
    // What a run writes is no change of what it measures.
    let changed = git(&["status", "--porcelain", "--", ".", ":!docs"]);
    let more = if changed.is_some_and(|it| it.is_empty()) { "" } else { " with changes" };
    format!(" ({commit}{more})")
}

const LOCK: &str = include_str!("../../../Cargo.lock");

/// The versions of the clients, as `name version`.
fn clients(lock: &str) -> impl Iterator<Item = String> {
    CLIENTS.into_iter().filter_map(|client| {
        let named = format!("name = \"{client}\"\nversion = \"");
        let (_, rest) = lock.split_once(&named)?;
        Some(format!("{client} {}", rest.split('"').next()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_in_the_lock_file() {
        let found: Vec<String> = clients(LOCK).collect();
        assert_eq!(found.len(), CLIENTS.len(), "{found:?}");
        assert!(found.iter().all(|it| it.ends_with(|last: char| last.is_ascii_digit())));
    }

    #[test]
    fn the_machine_is_told_without_its_name() {
        let machine = machine().expect("Linux tells");
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux tells");
        assert!(machine.contains("cores") && !machine.contains(host.trim()), "{machine}");
    }
}
