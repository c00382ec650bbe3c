//! What is counted in one replica: writes that became visible, how long that took, and reads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use hydratecache::cache::{Entry, LocalCache, ReadCache, Replica};
use hydratecache::{Key, Version};
use tokio::time::Instant;

use super::table::{Population, Table};
use crate::demo::observed::{Observed, Observer};
use crate::demo::report::Moment;

/// What is counted in one life of a replica. Clones share the counts.
#[derive(Clone)]
pub(super) struct Tally(Arc<Inner>);

struct Inner {
    table: Table,
    began_at: Moment,
    rows: Vec<Row>,
    applied: AtomicU64,
    reads: AtomicU64,
    avoided: AtomicU64,
    propagation: Mutex<Recent>,
}

/// What the replica has of a row.
#[derive(Default)]
struct Row {
    /// 0: nothing.
    version: AtomicU64,
    /// A write of it has arrived and was not read yet.
    is_unread: AtomicBool,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Writes that became visible since the replica began, each once. Not those that were there when
    /// it was filled, nor those that a later one overtook while the replica did not hear them.
    pub(super) applied: u64,
    /// Reads by its users, none of which asked the database.
    pub(super) reads: u64,
    /// Those of them that were the first of a value that a message had brought: each would have asked
    /// the database if messages only invalidated.
    pub(super) avoided: u64,
}

impl Tally {
    pub(super) fn of(table: Table) -> Self {
        let rows = table.keys().iter().map(|_| Row::default()).collect();
        Self(Arc::new(Inner {
            table,
            began_at: Moment::now(),
            rows,
            applied: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            avoided: AtomicU64::new(0),
            propagation: Mutex::new(Recent::new()),
        }))
    }

    /// A cache that is counted here.
    pub(super) fn watching(
        &self,
        cache: Replica<Population>,
    ) -> Observed<Replica<Population>, Self> {
        Observed { cache, observer: self.clone() }
    }

    /// Reads the row with `number` from `cache`, as a user would.
    pub(super) fn read(&self, cache: &Replica<Population>, number: usize) {
        if cache.pin().get(self.0.table.keys()[number].as_str()).is_none() {
            return;
        }
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        let was_unread = self.0.rows[number].is_unread.swap(false, Ordering::Relaxed);
        self.0.avoided.fetch_add(u64::from(was_unread), Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Inner { applied, reads, avoided, .. } = &*self.0;
        Counts { applied: count(applied), reads: count(reads), avoided: count(avoided) }
    }

    /// How many rows the replica lacks, or has in another version than the table right now.
    pub(super) fn behind(&self) -> usize {
        let held = self.0.rows.iter().map(|row| row.version.load(Ordering::Acquire));
        held.zip(self.0.table.versions()).filter(|(held, true_one)| held != true_one).count()
    }

    /// Adds the microseconds from written to visible of the last seconds to `all`.
    pub(super) fn add_propagation_to(&self, all: &mut Histogram<u64>) {
        self.propagation().add_to(all);
    }

    fn propagation(&self) -> MutexGuard<'_, Recent> {
        self.0.propagation.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer<Population> for Tally {
    fn stored(&self, key: &Key, entry: &Entry<Population>) {
        let Some(number) = self.0.table.number(key) else {
            return;
        };
        let row = &self.0.rows[number];
        row.version.store(entry.version().map_or(0, Version::number), Ordering::Release);
        let written_at = entry.value().written_at;
        if written_at >= self.0.began_at {
            row.is_unread.store(true, Ordering::Relaxed);
            self.0.applied.fetch_add(1, Ordering::Relaxed);
            self.propagation().record(Moment::now().micros_since(written_at));
        }
    }

    fn removed(&self, key: &Key, _: Option<Version>) {
        if let Some(number) = self.0.table.number(key) {
            self.0.rows[number].version.store(0, Ordering::Release);
        }
    }
}

impl ReadCache<Population> for Observed<Replica<Population>, Tally>
where
    Self: LocalCache<Population>,
{
    async fn entry(&self, key: &str) -> Option<Entry<Population>> {
        self.cache.entry(key)
    }
}

/// Microseconds, to two digits, up to ten minutes.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 2).expect("the bounds are legal")
}

/// What was recorded in the last five to ten seconds.
struct Recent {
    now: Histogram<u64>,
    before: Histogram<u64>,
    since: Instant,
}

impl Recent {
    const HALF: Duration = Duration::from_secs(5);

    fn new() -> Self {
        Self { now: histogram(), before: histogram(), since: Instant::now() }
    }

    fn record(&mut self, micros: u64) {
        self.forget();
        self.now.saturating_record(micros.max(1));
    }

    fn add_to(&mut self, all: &mut Histogram<u64>) {
        self.forget();
        for part in [&self.now, &self.before] {
            all.add(part).expect("all have the same bounds");
        }
    }

    fn forget(&mut self) {
        let age = self.since.elapsed();
        if age < Self::HALF {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.reset();
        if age >= 2 * Self::HALF {
            self.before.reset();
        }
        self.since = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::cities;
    use hydratecache::cache::Source;
    use rand::SeedableRng;
    use rand::rngs::Xoshiro256PlusPlus;

    #[tokio::test(start_paused = true)]
    async fn propagation_is_that_of_the_last_seconds() {
        let mut recent = Recent::new();
        let count = |recent: &mut Recent| {
            let mut all = histogram();
            recent.add_to(&mut all);
            all.len()
        };
        recent.record(1);
        tokio::time::advance(Recent::HALF).await;
        recent.record(2);
        assert_eq!(count(&mut recent), 2);
        tokio::time::advance(Recent::HALF).await;
        assert_eq!(count(&mut recent), 1);
        tokio::time::advance(2 * Recent::HALF).await;
        assert_eq!(count(&mut recent), 0);
    }

    #[tokio::test]
    async fn a_write_counts_once_a_filled_row_not_and_its_first_read_was_avoided() {
        let table = Table::of(cities(2).expect("readable")).expect("legal");
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let before = table.write(&mut random);
        tokio::time::sleep(Duration::from_millis(2)).await; // the clock must show another time
        let tally = Tally::of(table.clone());
        assert_eq!(tally.behind(), 2);
        let cache = tally.watching(Replica::new());
        let load = |key: Key| {
            let table = &table;
            async move { table.load(key).await.expect("works").expect("there") }
        };
        let put = async |key: &Key| {
            let loaded = load(key.clone()).await;
            let version = loaded.version().map(Version::caller);
            cache.put(key, Entry::new(loaded.value().clone()).with_version(version)).await
        };
        for key in table.keys() {
            assert!(put(key).await);
        }
        assert_eq!((tally.behind(), tally.counts()), (0, Counts::default()));
        let mut written = table.write(&mut random);
        while written.key != before.key {
            assert!(put(&written.key).await);
            written = table.write(&mut random);
        }
        let applied = tally.counts().applied;
        assert_eq!(tally.behind(), 1);
        assert!(put(&written.key).await);
        assert!(!put(&written.key).await, "the same version");
        assert_eq!((tally.behind(), tally.counts().applied), (0, applied + 1));
        let number = table.number(&written.key).expect("there");
        for reads in 1..3 {
            tally.read(&cache.cache, number);
            let expected = Counts { applied: applied + 1, reads, avoided: 1 };
            assert_eq!(tally.counts(), expected);
        }
    }
}
