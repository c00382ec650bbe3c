//! The versions that figures belong to.

use super::machine::{commit, locked};

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
