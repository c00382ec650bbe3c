//! The truth over time: every write with the moments at which it was committed and accepted, and
//! what a replica must hold by then.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hydratecache::Key;

use super::report::{Kind, Moment, Snapshot};

/// Every write since the database was filled.
#[derive(Default)]
pub(super) struct Journal(Mutex<History>);

#[derive(Default)]
struct History {
    /// The writes of each key, oldest first.
    writes: HashMap<Key, Vec<Write>>,
    committed_at: HashMap<u64, Moment>,
}

struct Write {
    version: u64,
    is_removal: bool,
    committed_at: Moment,
    /// When the broker was known to have the message; none while it may not.
    accepted_at: Option<Moment>,
}

/// What a snapshot lacks, compared with the truth of its moment.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lacks {
    /// How many entries are older than a write that was committed before the snapshot, or lack
    /// it: writes under way and losses that the replica knows of are among them.
    pub(super) stale: usize,
    /// The keys of entries that the replica has proven fresh and that are not.
    pub(super) silent: HashSet<String>,
}

impl Journal {
    /// The row was there before the demo began.
    pub(super) fn seeded(&self, key: Key, version: u64) {
        let begin = Moment(0);
        let accepted_at = Some(begin);
        let write = Write { version, is_removal: false, committed_at: begin, accepted_at };
        self.lock().writes.entry(key).or_default().push(write);
    }

    /// The database has the write. Called before the message is published, in the order of the
    /// commits.
    pub(super) fn committed(&self, key: Key, version: u64, is_removal: bool, at: Moment) {
        let mut history = self.lock();
        history.committed_at.insert(version, at);
        let write = Write { version, is_removal, committed_at: at, accepted_at: None };
        history.writes.entry(key).or_default().push(write);
    }

    /// The broker has the message of the write.
    pub(super) fn accepted(&self, key: &Key, version: u64, at: Moment) {
        let mut history = self.lock();
        let writes = history.writes.get_mut(key);
        if let Some(write) = writes.into_iter().flatten().find(|write| write.version == version) {
            write.accepted_at = Some(at);
        }
    }

    /// When the write with `version` was committed; none for the rows of the beginning.
    pub(super) fn committed_at(&self, version: u64) -> Option<Moment> {
        self.lock().committed_at.get(&version).copied()
    }

    /// Compares what a replica holds and claims with what it must hold.
    pub(super) fn judge(&self, kind: Kind, snapshot: &Snapshot) -> Lacks {
        let held: HashMap<&str, u64> =
            snapshot.held.iter().map(|(key, version)| (key.as_str(), *version)).collect();
        let history = self.lock();
        let mut lacks = Lacks::default();
        for (key, writes) in &history.writes {
            let held = held.get(key.as_str()).copied();
            let is_committed = |write: &Write| write.committed_at <= snapshot.taken_at;
            lacks.stale += usize::from(lacks_one_of(kind, held, writes, is_committed));
            let is_proven = |write: &Write| match (write.accepted_at, snapshot.proven) {
                (Some(accepted_at), Some(proven)) => accepted_at < proven,
                _ => false,
            };
            if lacks_one_of(kind, held, writes, is_proven) {
                lacks.silent.insert(key.as_str().to_owned());
            }
        }
        lacks.stale += held.keys().filter(|key| !history.writes.contains_key(**key)).count();
        lacks
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether what is `held` for a key is older than the last of its `writes` that is due.
fn lacks_one_of(
    kind: Kind,
    held: Option<u64>,
    writes: &[Write],
    is_due: impl Fn(&Write) -> bool,
) -> bool {
    let Some(due) = writes.iter().rposition(is_due) else {
        return false;
    };
    match held {
        Some(version) => version < writes[due].version || writes[due].removes(version),
        None => kind.holds_all() && !writes[due..].iter().any(|write| write.is_removal),
    }
}

impl Write {
    fn removes(&self, version: u64) -> bool {
        self.is_removal && version <= self.version
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::report::State;

    /// Key `a` was written at 10 (version 2) and removed at 20 (version 3); `b` is as it was.
    fn journal() -> Journal {
        let journal = Journal::default();
        let key = |name| Key::new(name).expect("legal");
        journal.seeded(key("a"), 1);
        journal.seeded(key("b"), 1);
        for (version, is_removal, at) in [(2, false, 10), (3, true, 20)] {
            journal.committed(key("a"), version, is_removal, Moment(at));
            journal.accepted(&key("a"), version, Moment(at + 1));
        }
        journal
    }

    fn snapshot(taken_at: u64, proven: Option<u64>, held: &[(&str, u64)]) -> Snapshot {
        Snapshot {
            state: State::Live,
            proven: proven.map(Moment),
            proven_within: None,
            taken_at: Moment(taken_at),
            held: held.iter().map(|(key, version)| ((*key).to_owned(), *version)).collect(),
            applied: Vec::new(),
            gaps: 0,
            missed: 0,
            reloads: 0,
        }
    }

    fn judge(kind: Kind, snapshot: &Snapshot) -> (usize, usize) {
        let lacks = journal().judge(kind, snapshot);
        (lacks.stale, lacks.silent.len())
    }

    #[test]
    fn what_is_as_new_as_its_moment_or_newer_lacks_nothing() {
        for (taken_at, held) in [(5, 1), (15, 2), (5, 2)] {
            let snapshot = snapshot(taken_at, Some(taken_at), &[("a", held), ("b", 1)]);
            assert_eq!(judge(Kind::Moka, &snapshot), (0, 0), "{held} at {taken_at}");
        }
        assert_eq!(
            judge(Kind::Moka, &snapshot(15, Some(15), &[("b", 1)])),
            (0, 0),
            "removed since"
        );
    }

    #[test]
    fn an_older_entry_is_stale_and_silent_only_if_it_was_proven_fresh() {
        let held = [("a", 1), ("b", 1)];
        assert_eq!(judge(Kind::Replica, &snapshot(15, None, &held)), (1, 0));
        assert_eq!(
            judge(Kind::Replica, &snapshot(15, Some(11), &held)),
            (1, 0),
            "not yet accepted"
        );
        assert_eq!(judge(Kind::Replica, &snapshot(15, Some(12), &held)), (1, 1));
        assert_eq!(judge(Kind::Invalidate, &snapshot(15, Some(12), &held)), (1, 1));
    }

    #[test]
    fn a_removed_entry_that_is_held_and_a_missing_one_are_stale() {
        let snapshot = snapshot(30, Some(30), &[("a", 2)]);
        assert_eq!(judge(Kind::Moka, &snapshot), (2, 2));
        assert_eq!(judge(Kind::Invalidate, &snapshot), (1, 1), "it need not hold what nobody read");
    }

    #[test]
    fn an_entry_that_was_never_written_is_stale() {
        let snapshot = snapshot(5, None, &[("a", 1), ("b", 1), ("x", 1)]);
        assert_eq!(judge(Kind::Moka, &snapshot), (1, 0));
    }
}
