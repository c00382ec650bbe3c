//! What the demo and its replicas say to each other, between tasks or between processes.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::city::Row;

/// Microseconds since 1970: one clock for all processes of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Moment(pub(super) u64);

impl Moment {
    pub(super) fn now() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(u64::try_from(since_epoch.as_micros()).unwrap_or(u64::MAX))
    }

    pub(super) fn micros_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a replica keeps its entries in, and what a message does to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Kind {
    /// A moka cache that stores every value.
    Moka,
    /// A `Replica`, the copy of the whole topic.
    Replica,
    /// A moka cache that drops the key and reads through to the database.
    Invalidate,
}

impl Kind {
    pub(super) const ALL: [Self; 3] = [Self::Moka, Self::Replica, Self::Invalidate];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Moka => "moka",
            Self::Replica => "replica",
            Self::Invalidate => "invalidate",
        }
    }

    /// Whether it is to hold every row, not only those that were read.
    pub(super) const fn holds_all(self) -> bool {
        !matches!(self, Self::Invalidate)
    }
}

/// What a replica is asked for.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) enum Order {
    /// What it holds right now.
    Snapshot,
    /// Everything, once it has caught up and repaired what it must.
    Settle,
}

/// What a replica answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    /// It has been filled.
    Ready,
    /// To [`Order::Snapshot`].
    Snapshot(Snapshot),
    /// To [`Order::Settle`].
    Contents(Contents),
    /// It cannot go on.
    Failed(String),
}

/// What a replica holds at one moment, and what it claims.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Snapshot {
    pub(super) state: State,
    /// Everything accepted by the broker before this is in the cache, as the replica claims.
    pub(super) proven: Option<Moment>,
    /// Everything that the broker accepted longer ago than so many microseconds is in the cache; none
    /// before the first proof.
    pub(super) proven_within: Option<u64>,
    /// Before the first entry was looked at.
    pub(super) taken_at: Moment,
    /// Each key with the version of its entry.
    pub(super) held: Vec<(String, u64)>,
    /// Which versions became visible when, since the last snapshot.
    pub(super) applied: Vec<(u64, Moment)>,
    pub(super) gaps: u64,
    pub(super) missed: u64,
    pub(super) reloads: u64,
}

/// Everything that a replica holds at the end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Contents {
    pub(super) state: State,
    /// Whether it is live and has proven that nothing is missing.
    pub(super) is_proven: bool,
    pub(super) held: Vec<Row>,
    /// What reading every key through it gave, where reads go through.
    pub(super) read: Option<Vec<Row>>,
}

/// [`hydratecache::cache::State`], as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    Warming,
    Live,
    Suspect,
    Stopped,
}

impl State {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Warming => "warming",
            Self::Live => "live",
            Self::Suspect => "suspect",
            Self::Stopped => "stopped",
        }
    }
}

impl From<hydratecache::cache::State> for State {
    fn from(state: hydratecache::cache::State) -> Self {
        use hydratecache::cache::State as Theirs;
        match state {
            Theirs::Warming => Self::Warming,
            Theirs::Live => Self::Live,
            Theirs::Suspect(_) => Self::Suspect,
            _ => Self::Stopped,
        }
    }
}
