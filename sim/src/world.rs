//! Everything that one simulation shares.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::silence::Acknowledged;
use hydratecache::{Key, Origin, Position, TraceParent};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::database::Database;
use crate::node::{Site, origin};
use crate::oracle::Oracle;
use crate::plan::Plan;

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) keys: Vec<Key>,
    pub(crate) sites: Vec<Arc<Site>>,
    pub(crate) dozing: Vec<watch::Sender<bool>>,
    pub(crate) database: Database,
    pub(crate) oracle: Oracle,
    pub(crate) is_writing: AtomicBool,
    pub(crate) origins: AtomicU64,
    pub(crate) acknowledged: Mutex<Vec<Acknowledgement>>,
}

/// A write whose publish was acknowledged.
#[derive(Debug)]
pub(crate) struct Acknowledgement {
    write: u64,
    position: Position,
    /// When its publish began.
    began: Instant,
}

impl World {
    pub(crate) fn is_writing(&self) -> bool {
        self.is_writing.load(Ordering::Relaxed)
    }

    pub(crate) fn next_origin(&self) -> Origin {
        origin(self.origins.fetch_add(1, Ordering::Relaxed))
    }

    pub(crate) fn acknowledged(&self, write: u64, position: Position, began: Instant) {
        let acknowledgement = Acknowledgement { write, position, began };
        self.acknowledged.lock().expect("nobody panics with the lock").push(acknowledgement);
    }

    /// Where among its publisher's messages an acknowledged write stands.
    pub(crate) fn position_of(&self, write: u64) -> Option<Position> {
        let all = self.acknowledged.lock().expect("nobody panics with the lock");
        all.iter().find(|acknowledged| acknowledged.write == write).map(|it| it.position)
    }

    /// What was acknowledged of all publishes that began at `since` or later.
    pub(crate) fn acknowledged_since(&self, since: Instant) -> Acknowledged {
        let mut since_then = Acknowledged::new();
        let all = self.acknowledged.lock().expect("nobody panics with the lock");
        for Acknowledgement { position, .. } in all.iter().filter(|it| it.began >= since) {
            let sequences: &mut BTreeSet<u64> = since_then.entry(position.origin).or_default();
            sequences.insert(position.sequence.get());
        }
        since_then
    }
}

/// Carries the number of a write with its message.
pub(crate) fn trace_parent(write: u64) -> TraceParent {
    format!("00-{:032x}-00000000000000ff-01", u128::from(write) + (1 << 64))
        .parse()
        .expect("of the right form")
}
