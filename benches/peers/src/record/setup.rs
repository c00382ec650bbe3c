//! The machine and the versions. Neither the machine's name nor a path is told.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

const LOCK: &str = include_str!("../../Cargo.lock");

/// Of the compiler, the server and `crates`, each once.
pub(super) fn versions<'a>(crates: impl Iterator<Item = &'a &'a str>, server: &str) -> String {
    let mut versions = vec![env!("BUILT_BY").to_owned(), server.to_owned()];
    for name in crates {
        let Some(version) = locked(LOCK, name) else { continue };
        let commit = if *name == "hydratecache" { commit() } else { String::new() };
        let version = format!("{name} {version}{commit}");
        if !versions.contains(&version) {
            versions.push(version);
        }
    }
    versions.join(", ")
}

/// The version of a crate in a lock file.
fn locked<'lock>(lock: &'lock str, name: &str) -> Option<&'lock str> {
    let named = format!("name = \"{name}\"\nversion = \"");
    lock.split_once(&named)?.1.split('"').next()
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

/// Its processor, memory and kernel.
pub(super) fn machine() -> Result<String> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_peer_is_in_the_lock_file() {
        let peers = ["hydratecache", "multi-tier-cache", "hydracache", "redis"];
        let versions = versions(peers.iter(), "Redis 7");
        for peer in peers {
            assert!(versions.contains(&format!("{peer} ")), "{peer} is missing in {versions}");
        }
    }
}
