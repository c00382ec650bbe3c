//! The machine and the versions that figures belong to.

use anyhow::Result;

use super::machine::{commit, locked, machine};
use crate::options::Bench;

const LOCK: &str = include_str!("../../../Cargo.lock");

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
        let versions = versions.chain(bench.brokers()?).chain(clients());
        Ok(Self { machine: machine()?, versions: versions.collect::<Vec<_>>().join(", ") })
    }
}

/// The versions of the clients, as `name version`.
fn clients() -> impl Iterator<Item = String> {
    CLIENTS.into_iter().filter_map(|client| Some(format!("{client} {}", locked(LOCK, client)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_in_the_lock_file() {
        let found: Vec<String> = clients().collect();
        assert_eq!(found.len(), CLIENTS.len(), "{found:?}");
        assert!(found.iter().all(|it| it.ends_with(|last: char| last.is_ascii_digit())));
    }
}
