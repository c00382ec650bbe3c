//! What a cache must remember beyond its entries, so that nothing older comes back: removals, the
//! latest clear, and what was updated during a scan. A state machine without I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::Snapshot;
use crate::{Key, Version};

/// Removals and clears, and the keys that were updated during a scan.
pub(super) struct Ledger {
    /// The version that removed each key.
    removals: Marks,
    /// The version that each key had, where its entry cannot say so any more.
    puts: Marks,
    /// Nothing that is not newer than the latest clear comes back.
    cleared: Option<Version>,
    scan: Option<Scan>,
    /// What the latest complete scan saw, where it says so.
    applied: Option<Snapshot>,
}

/// The latest version of each of a bounded number of keys, for a bounded time.
struct Marks {
    versions: HashMap<Key, Mark, foldhash::fast::RandomState>,
    /// In the order of their making. One that was made anew since has another `at` in the map.
    oldest: VecDeque<(Instant, Key)>,
    most: usize,
    longest: Duration,
}

struct Mark {
    version: Version,
    at: Instant,
}

#[derive(Default)]
struct Scan {
    updated: HashMap<Key, Updated, foldhash::fast::RandomState>,
    /// What the scan sees, where it says so.
    snapshot: Option<Snapshot>,
    seen: HashSet<Key, foldhash::fast::RandomState>,
    /// Keys whose entry was written meanwhile: what it was before the scan says nothing of them.
    stored: HashSet<Key, foldhash::fast::RandomState>,
    /// Something arrived that no key stands for: a clear, or a gap.
    overtaken: bool,
    /// Keys that have no value where the scan looked.
    absent: Vec<Key>,
    /// In a copy of another replica: keys whose end was moved meanwhile.
    touched: Option<HashSet<Key, foldhash::fast::RandomState>>,
}

/// What arrived for a key during a scan.
#[derive(Clone, Copy)]
struct Updated {
    /// The newest version; none if one of them could not be read.
    version: Option<Version>,
    /// The database transaction of the latest arrival, where it says so.
    transaction: Option<u64>,
}

/// What a scanned row is beside the updates of its key that arrived during the scan.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Row {
    /// At least as new as all of them.
    Newest,
    /// Older than one of them.
    Overtaken,
    /// That is not known.
    Unclear,
}

/// How a scan ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Scanned {
    /// What it yielded and what was updated meanwhile is the truth.
    Complete,
    /// A clear or a gap overtook it: scan again.
    Overtaken,
}

impl Ledger {
    /// A ledger that remembers `most` removals, and as many puts, for `longest`.
    pub(super) fn new(most: usize, longest: Duration) -> Self {
        let [removals, puts] = [(); 2].map(|()| Marks::new(most, longest));
        Self { removals, puts, cleared: None, scan: None, applied: None }
    }

    /// Whether a put of `key` with `version` is newer than its removal, and not older than a put
    /// that the cache may have evicted since.
    pub(super) fn admits(&self, key: &Key, version: Version) -> bool {
        !self.has_removed(key, version) && !version.is_older_than(self.puts.version(key))
    }

    /// Whether a removal or a clear that is not older than `version` was applied.
    pub(super) fn has_removed(&self, key: &Key, version: Version) -> bool {
        !version.is_newer_than(self.removals.version(key)) || !version.is_newer_than(self.cleared)
    }

    /// `key` has `version`, and its entry may not be there to say so.
    pub(super) fn put(&mut self, key: &Key, version: Version, now: Instant) {
        self.puts.set(key, version, now);
    }

    /// As many keys as this get a version at once: all that a cache held, which took more room.
    pub(super) fn make_room_for(&mut self, keys: usize) {
        self.puts.most = self.puts.most.max(keys);
    }

    /// Whether what a message of `transaction` says of `key`, or of all keys, is in what was scanned
    /// already, or is replaced by it before the scan is over.
    pub(super) fn knows(&self, key: Option<&Key>, transaction: Option<u64>) -> bool {
        let sees = |snapshot: &Option<Snapshot>| {
            snapshot.as_ref().zip(transaction).is_some_and(|(seen, number)| seen.contains(number))
        };
        let scanned =
            |scan: &Scan| key.is_none_or(|key| scan.seen.contains(key)) && sees(&scan.snapshot);
        sees(&self.applied) || self.scan.as_ref().is_some_and(scanned)
    }

    /// An update of `key` arrived, with a version if that could be read, and the database
    /// transaction that it belongs to, if it says so.
    pub(super) fn updated(
        &mut self,
        key: &Key,
        version: Option<Version>,
        transaction: Option<u64>,
    ) {
        if let Some(scan) = &mut self.scan {
            let update = Updated { version, transaction };
            let newest = scan.updated.entry(key.clone()).or_insert(update);
            newest.transaction = transaction;
            if version.is_none_or(|version| version.is_newer_than(newest.version))
                && newest.version.is_some()
            {
                newest.version = version;
            }
        }
    }

    /// The entry of `key` was written just now.
    pub(super) fn stored(&mut self, key: &Key) {
        if let Some(scan) = &mut self.scan {
            scan.stored.insert(key.clone());
        }
    }

    /// `key` was removed. Returns how many other removals were forgotten for want of room.
    pub(super) fn removed(&mut self, key: &Key, version: Version, now: Instant) -> u64 {
        self.removals.set(key, version, now)
    }

    /// `key` is there after all, with the version that removed it.
    pub(super) fn restored(&mut self, key: &Key, version: Version) {
        if self.removals.version(key) == Some(version) {
            self.removals.versions.remove(key);
        }
    }

    /// Everything not newer than `version` was removed.
    pub(super) fn cleared(&mut self, version: Version) {
        if version.is_newer_than(self.cleared) {
            self.cleared = Some(version);
            self.removals.keep_newer_than(version);
            self.puts.keep_newer_than(version);
        }
        self.overtaken();
    }

    /// Something arrived, or was lost, that no key stands for.
    pub(super) fn overtaken(&mut self) {
        if let Some(scan) = &mut self.scan {
            scan.overtaken = true;
        }
    }

    /// Whether that was so during this scan.
    pub(super) fn is_overtaken(&self) -> bool {
        self.scan.as_ref().is_some_and(|scan| scan.overtaken)
    }

    /// Whether a message of `transaction` can be compared with what was scanned.
    pub(super) fn compares(&self, transaction: Option<u64>) -> bool {
        let snapshot = self.scan.as_ref().and_then(|scan| scan.snapshot.as_ref());
        transaction.is_some() && (snapshot.is_some() || self.applied.is_some())
    }

    /// A scan begins now.
    pub(super) fn begin_scan(&mut self) {
        self.scan = Some(Scan::default());
    }

    /// A copy of another replica begins now.
    pub(super) fn begin_copy(&mut self) {
        self.scan = Some(Scan { touched: Some(HashSet::default()), ..Scan::default() });
    }

    /// The end of `key` was moved, which has no version of its own to be compared by. A source knows of
    /// it; whether the sender of a copy did is not known.
    pub(super) fn touched(&mut self, key: &Key) {
        if let Some(touched) = self.scan.as_mut().and_then(|scan| scan.touched.as_mut()) {
            touched.insert(key.clone());
        }
    }

    /// The scan yielded `key`, in `snapshot` if it says so.
    ///
    /// The cache cannot tell: it may have evicted what an update brought.
    pub(super) fn scanned(
        &mut self,
        key: &Key,
        version: Option<Version>,
        snapshot: Option<&Snapshot>,
    ) -> Row {
        let Some(scan) = &mut self.scan else {
            return Row::Overtaken;
        };
        scan.seen.insert(key.clone());
        if let Some(snapshot) = snapshot {
            scan.snapshot = Some(snapshot.clone());
        }
        scan.compare(key, version, snapshot)
    }

    /// `key` is read again: only what arrives from now on overtakes its row.
    pub(super) fn read_again(&mut self, key: &Key) {
        if let Some(scan) = &mut self.scan {
            scan.updated.remove(key);
            scan.stored.remove(key);
            if let Some(touched) = &mut scan.touched {
                touched.remove(key);
            }
        }
    }

    /// The source has no value for `key` any more.
    pub(super) fn unseen(&mut self, key: &Key) {
        if let Some(scan) = &mut self.scan {
            scan.seen.remove(key);
            if scan.touched.is_some() {
                scan.absent.push(key.clone());
            }
        }
    }

    /// What differed from another replica is taken over, and all else was the same. Returns those keys
    /// that the other one does not have.
    pub(super) fn end_digest(&mut self) -> (Scanned, Vec<Key>) {
        let absent = self.scan.as_mut().map(|scan| std::mem::take(&mut scan.absent));
        self.end_scan(absent.unwrap_or_default())
    }

    /// The scan is over. Returns those of `resident` that it shows to be gone.
    pub(super) fn end_scan(&mut self, resident: Vec<Key>) -> (Scanned, Vec<Key>) {
        match self.scan.take() {
            Some(scan) if !scan.overtaken => {
                let gone = resident.into_iter().filter(|key| !scan.has(key)).collect();
                self.applied = scan.snapshot.or(self.applied.take());
                (Scanned::Complete, gone)
            }
            _ => (Scanned::Overtaken, Vec::new()),
        }
    }
}

impl Scan {
    fn compare(&self, key: &Key, version: Option<Version>, snapshot: Option<&Snapshot>) -> Row {
        if self.touched.as_ref().is_some_and(|touched| touched.contains(key)) {
            return Row::Unclear;
        }
        let Some(update) = self.updated.get(key) else {
            let is_void = version.is_none() && self.overtaken;
            return if is_void { Row::Unclear } else { Row::Newest };
        };
        match (update.is_in(snapshot), version, update.version) {
            // Updates of a row arrive in the order of its transactions, each of which saw the one
            // before: what saw the latest saw all.
            (Some(true), _, _) if !self.overtaken => Row::Newest,
            (Some(_), None, _) | (_, Some(_), None) => Row::Overtaken,
            (_, Some(row), newest) if row.is_older_than(newest) => Row::Overtaken,
            (_, Some(_), Some(_)) => Row::Newest,
            (None, None, _) => Row::Unclear,
        }
    }

    /// Whether a resident `key` exists after the scan, as far as it knows. An update that arrived and
    /// was older than the entry is no sign of that.
    fn has(&self, key: &Key) -> bool {
        let is_seen = |update: &Updated| update.is_in(self.snapshot.as_ref()) == Some(true);
        let is_newer = || !self.updated.get(key).is_some_and(is_seen);
        self.seen.contains(key) || (self.stored.contains(key) && is_newer())
    }
}

impl Updated {
    /// Whether `snapshot` saw it, where that is known.
    fn is_in(&self, snapshot: Option<&Snapshot>) -> Option<bool> {
        let (snapshot, transaction) = snapshot.zip(self.transaction)?;
        Some(snapshot.contains(transaction))
    }
}

impl Marks {
    fn new(most: usize, longest: Duration) -> Self {
        let (versions, oldest) = (HashMap::default(), VecDeque::new());
        Self { versions, oldest, most: most.max(1), longest }
    }

    fn version(&self, key: &Key) -> Option<Version> {
        self.versions.get(key).map(|mark| mark.version)
    }

    /// Marks `key`, unless it has a newer mark. Returns how many were forgotten for want of room.
    fn set(&mut self, key: &Key, version: Version, now: Instant) -> u64 {
        if version.is_newer_than(self.version(key)) {
            self.versions.insert(key.clone(), Mark { version, at: now });
            self.oldest.push_back((now, key.clone()));
        }
        self.forget(now)
    }

    fn keep_newer_than(&mut self, version: Version) {
        self.versions.retain(|_, mark| mark.version.is_newer_than(Some(version)));
    }

    /// Drops what is too old, and the oldest of what is too many; counts the latter.
    fn forget(&mut self, now: Instant) -> u64 {
        let mut dropped = 0;
        while let Some((at, _)) = self.oldest.front() {
            let expired = now.duration_since(*at) > self.longest;
            // Entries of `oldest` that were made anew hold room too, hence its length.
            if !expired && self.oldest.len() <= self.most {
                break;
            }
            let Some((at, key)) = self.oldest.pop_front() else {
                break;
            };
            if self.versions.get(&key).is_some_and(|mark| mark.at == at) {
                self.versions.remove(&key);
                dropped += u64::from(!expired);
            }
        }
        dropped
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(number: u64) -> Key {
        Key::new(format!("k{number}")).expect("legal")
    }

    fn ledger() -> Ledger {
        Ledger::new(100, Duration::from_secs(60))
    }

    #[test]
    fn a_copied_entry_whose_end_was_moved_meanwhile_is_read_from_the_source() {
        let key = Key::new("a").expect("legal");
        let row = |ledger: &mut Ledger| ledger.scanned(&key, Some(Version::caller(7)), None);
        let mut ledger = Ledger::new(9, Duration::from_secs(9));
        ledger.begin_copy();
        ledger.touched(&key);
        assert_eq!(row(&mut ledger), Row::Unclear);
        ledger.read_again(&key);
        assert_eq!(row(&mut ledger), Row::Newest);
        ledger.begin_scan();
        ledger.touched(&key);
        assert_eq!(row(&mut ledger), Row::Newest, "the source knows of it");
    }

    #[test]
    fn an_older_put_does_not_undo_a_removal_or_a_clear() {
        let mut ledger = ledger();
        ledger.removed(&key(1), Version::caller(5), Instant::now());
        ledger.removed(&key(1), Version::caller(3), Instant::now());
        assert!(!ledger.admits(&key(1), Version::caller(4)));
        assert!(!ledger.admits(&key(1), Version::caller(5)), "a removal wins a tie");
        assert!(ledger.admits(&key(1), Version::caller(6)));
        ledger.cleared(Version::caller(9));
        assert!(!ledger.admits(&key(2), Version::caller(9)));
        assert!(ledger.admits(&key(2), Version::caller(10)));
        assert!(ledger.removals.versions.is_empty(), "the clear covers it");
    }

    #[test]
    fn an_older_put_does_not_replace_one_that_was_evicted_but_the_same_one_may_come_back() {
        let mut ledger = ledger();
        ledger.put(&key(1), Version::caller(5), Instant::now());
        assert!(!ledger.admits(&key(1), Version::caller(4)));
        assert!(ledger.admits(&key(1), Version::caller(5)), "loaded again");
        assert!(ledger.admits(&key(1), Version::caller(6)));
    }

    #[test]
    fn removals_are_bounded_in_number_and_in_age() {
        let mut ledger = ledger();
        let start = Instant::now();
        let dropped: u64 =
            (0..1000).map(|n| ledger.removed(&key(n), Version::caller(1), start)).sum();
        assert_eq!((dropped, ledger.removals.versions.len()), (900, 100));
        let later = start + Duration::from_secs(61);
        assert_eq!(ledger.removed(&key(1000), Version::caller(1), later), 0);
        assert_eq!(ledger.removals.versions.len(), 1);
    }

    #[test]
    fn a_scan_shows_what_is_gone_and_yields_to_what_arrived_meanwhile() {
        let mut ledger = ledger();
        ledger.begin_scan();
        assert_eq!(ledger.scanned(&key(1), None, None), Row::Newest);
        ledger.updated(&key(2), Some(Version::caller(1)), None);
        assert_eq!(ledger.scanned(&key(2), None, None), Row::Unclear, "which came first?");
        ledger.updated(&key(3), Some(Version::caller(1)), None);
        ledger.stored(&key(3));
        ledger.updated(&key(5), Some(Version::caller(1)), None);
        let ended = ledger.end_scan((1..=5).map(key).collect());
        let gone = vec![key(4), key(5)];
        assert_eq!(ended, (Scanned::Complete, gone), "what arrived for 5 was older than its entry");
    }

    #[test]
    fn a_scanned_version_yields_to_newer_updates_and_to_unreadable_ones() {
        let mut ledger = ledger();
        ledger.begin_scan();
        let version = |number| Some(Version::caller(number));
        for number in [5, 4] {
            ledger.updated(&key(1), version(number), None);
        }
        let verdicts = [4, 5, 6].map(|number| ledger.scanned(&key(1), version(number), None));
        assert_eq!(verdicts, [Row::Overtaken, Row::Newest, Row::Newest]);
        ledger.updated(&key(1), None, None);
        ledger.updated(&key(1), version(7), None);
        let unreadable = ledger.scanned(&key(1), version(8), None);
        assert_eq!(unreadable, Row::Overtaken, "the unreadable one may be newer");
    }

    #[test]
    fn a_gap_during_a_scan_overtakes_it() {
        let mut ledger = ledger();
        ledger.begin_scan();
        ledger.overtaken();
        assert_eq!(ledger.scanned(&key(1), None, None), Row::Unclear);
        assert_eq!(ledger.end_scan(vec![key(1)]), (Scanned::Overtaken, vec![]));
    }

    #[test]
    fn a_snapshot_tells_exactly_which_updates_a_scan_contains() {
        let mut ledger = ledger();
        let seen = Snapshot::new(|transaction| transaction < 10);
        ledger.begin_scan();
        for (number, transaction) in [(1, 9), (2, 10), (3, 9), (5, 9), (6, 11)] {
            ledger.updated(&key(number), Some(Version::caller(1)), Some(transaction));
            ledger.stored(&key(number));
        }
        ledger.updated(&key(3), Some(Version::caller(2)), None);
        let rows = [1, 2, 3, 4].map(|number| ledger.scanned(&key(number), None, Some(&seen)));
        assert_eq!(rows, [Row::Newest, Row::Overtaken, Row::Unclear, Row::Newest]);
        assert!(ledger.knows(Some(&key(1)), Some(9)), "its row was applied");
        assert!(!ledger.knows(Some(&key(5)), Some(9)), "its row may yet come");
        assert!(!ledger.knows(Some(&key(1)), Some(10)) && !ledger.knows(Some(&key(1)), None));
        let ended = ledger.end_scan((1..=7).map(key).collect());
        assert_eq!(ended, (Scanned::Complete, vec![key(5), key(7)]), "5 was put, and removed");
        assert!(ledger.knows(Some(&key(5)), Some(9)) && ledger.knows(None, Some(9)));
        ledger.begin_scan();
        assert!(ledger.knows(Some(&key(8)), Some(9)), "the earlier scan was applied");
    }

    proptest! {
        /// Puts and removals of one key in any order of arrival end the same: with the newest.
        #[test]
        fn every_order_of_arrival_ends_the_same(
            writes in prop::collection::vec((1_u64..20, any::<bool>()), 1..12),
            seed in any::<prop::sample::Index>(),
        ) {
            let outcome = |writes: &[(u64, bool)]| {
                let mut ledger = ledger();
                let mut resident: Option<u64> = None;
                for (number, is_removal) in writes {
                    let version = Version::caller(*number);
                    let held = resident.map(Version::caller);
                    if *is_removal {
                        ledger.removed(&key(1), version, Instant::now());
                        resident = resident.filter(|_| version.is_older_than(held));
                    } else if ledger.admits(&key(1), version) && version.is_newer_than(held) {
                        resident = Some(*number);
                    }
                }
                resident
            };
            let mut rotated = writes.clone();
            rotated.rotate_left(seed.index(writes.len()));
            let reversed: Vec<_> = writes.iter().rev().copied().collect();
            prop_assert_eq!(outcome(&writes), outcome(&rotated));
            prop_assert_eq!(outcome(&writes), outcome(&reversed));
        }
    }
}
