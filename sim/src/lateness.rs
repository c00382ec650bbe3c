//! How late the lives of values may end at one node: what the library claims of its estimates.

use std::collections::HashMap;
use std::time::Duration;

use hydratecache::Origin;
use tokio::time::Instant;

/// The shortest way of a message within so long a time is the most by which a life ends late.
const WINDOW: Duration = Duration::from_secs(60);

/// What one process may know of the publishers' clocks.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lateness {
    is_listening: bool,
    /// When what arrived of each publisher, and how long it took.
    arrivals: HashMap<Origin, Vec<(Instant, Duration)>>,
    /// Of each write that arrived, by how much its life may be late.
    writes: HashMap<u64, Duration>,
}

impl Lateness {
    pub(crate) fn listens(&mut self) {
        self.is_listening = true;
    }

    /// Something of `origin` arrives that it sent at `sent_at`: this write, or a sign of life.
    pub(crate) fn arrived(&mut self, origin: Origin, sent_at: Instant, write: Option<u64>) {
        let now = Instant::now();
        let took = now.saturating_duration_since(sent_at);
        let arrivals = self.arrivals.entry(origin).or_default();
        arrivals.retain(|(at, _)| *at + WINDOW >= now);
        let shortest = arrivals.iter().map(|(_, took)| *took).fold(took, Duration::min);
        if self.is_listening {
            arrivals.push((now, took));
        }
        if let Some(write) = write {
            self.writes.entry(write).or_insert(shortest);
        }
    }

    /// By how much the life of the value of `write` may be late; `None` if it has not arrived.
    pub(crate) fn of(&self, write: u64) -> Option<Duration> {
        self.writes.get(&write).copied()
    }
}
