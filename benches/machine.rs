//! Where a figure was measured: the machine, the commit, the versions in a lock file. A module of the benches and of
//! the comparison with peers, which have no crate in common. Neither the machine's name nor a path is told.

use std::fs;
use std::process::Command;

use anyhow::{Context, Result};

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

/// The commit, if it is known, and whether there is more than that.
pub(super) fn commit() -> String {
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

/// The version of a crate in a lock file.
pub(super) fn locked<'lock>(lock: &'lock str, name: &str) -> Option<&'lock str> {
    let named = format!("name = \"{name}\"\nversion = \"");
    lock.split_once(&named)?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told_without_its_name() {
        let machine = machine().expect("Linux tells");
        let host = fs::read_to_string("/proc/sys/kernel/hostname").expect("Linux tells");
        // As a word: a machine may be called what a kernel's name ends in.
        let is_end = |letter: Option<char>| letter.is_none_or(|it| !it.is_alphanumeric());
        let is_named = machine.match_indices(host.trim()).any(|(at, name)| {
            let (before, behind) = (&machine[..at], &machine[at + name.len()..]);
            !name.is_empty() && is_end(before.chars().last()) && is_end(behind.chars().next())
        });
        assert!(machine.contains("cores") && !is_named, "{machine}");
    }
}
