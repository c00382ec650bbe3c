//! The truth: a table in memory, which counts how often it is asked.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};
use rand::RngExt;
use rand::rngs::Xoshiro256PlusPlus;
use serde::{Deserialize, Serialize};

use crate::demo::city::City;
use crate::demo::report::Moment;

/// How many people live in a city, and since when the table says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Population {
    pub(super) city: String,
    pub(super) country: String,
    pub(super) people: u64,
    pub(super) written_at: Moment,
}

/// A table of populations with versions: the number of the write, among all of the table. Clones
/// share it.
#[derive(Clone)]
pub(super) struct Table(Arc<Inner>);

struct Inner {
    keys: Vec<Key>,
    numbers: HashMap<Key, usize>,
    rows: Mutex<Vec<Population>>,
    /// The version of each row. Changed and read under the lock of `rows`, where that matters.
    versions: Vec<AtomicU64>,
    last_version: AtomicU64,
    loads: AtomicU64,
    scans: AtomicU64,
}

/// A row that was just written.
pub(super) struct Written {
    pub(super) key: Key,
    pub(super) version: u64,
    pub(super) row: Population,
}

/// How often the table was asked since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Asked {
    /// For one row.
    pub(super) loads: u64,
    /// For all rows.
    pub(super) scans: u64,
}

impl Table {
    /// A table of `cities`, whose versions count from 1.
    pub(super) fn of(cities: Vec<City>) -> anyhow::Result<Self> {
        let keys = cities.iter().map(City::key).collect::<anyhow::Result<Vec<_>>>()?;
        let numbers = keys.iter().cloned().enumerate().map(|(number, key)| (key, number)).collect();
        let versions = (1..).take(keys.len()).map(AtomicU64::new).collect();
        let last_version = AtomicU64::new(keys.len() as u64);
        let written_at = Moment::now();
        let row = |city: City| {
            let City { name, country, population, .. } = city;
            Population { city: name, country, people: population, written_at }
        };
        let rows = Mutex::new(cities.into_iter().map(row).collect());
        let (loads, scans) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self(Arc::new(Inner { keys, numbers, rows, versions, last_version, loads, scans })))
    }

    /// The keys of all rows, by their numbers.
    pub(super) fn keys(&self) -> &[Key] {
        &self.0.keys
    }

    /// The number of the row of `key`.
    pub(super) fn number(&self, key: &Key) -> Option<usize> {
        self.0.numbers.get(key).copied()
    }

    /// The version of each row right now.
    pub(super) fn versions(&self) -> impl Iterator<Item = u64> {
        self.0.versions.iter().map(|version| version.load(Ordering::Acquire))
    }

    /// Writes a row that `random` draws.
    pub(super) fn write(&self, random: &mut Xoshiro256PlusPlus) -> Written {
        let number = random.random_range(0..self.0.keys.len());
        let mut rows = self.rows();
        let row = &mut rows[number];
        row.people += random.random_range(1..1000);
        row.written_at = Moment::now();
        let version = self.0.last_version.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.versions[number].store(version, Ordering::Release);
        Written { key: self.0.keys[number].clone(), version, row: row.clone() }
    }

    pub(super) fn asked(&self) -> Asked {
        let count = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Asked { loads: count(&self.0.loads), scans: count(&self.0.scans) }
    }

    fn loaded(&self, rows: &[Population], number: usize) -> Loaded<Population> {
        let version = self.0.versions[number].load(Ordering::Acquire);
        Loaded::new(rows[number].clone()).with_version(version)
    }

    fn rows(&self) -> MutexGuard<'_, Vec<Population>> {
        self.0.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source<Population> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<Population>>, SourceError>> {
        async move {
            self.0.loads.fetch_add(1, Ordering::Relaxed);
            let rows = self.rows();
            Ok(self.number(&key).map(|number| self.loaded(&rows, number)))
        }
        .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<Population>), SourceError>> {
        stream::once(async move {
            self.0.scans.fetch_add(1, Ordering::Relaxed);
            let rows = self.rows();
            let row = |(number, key): (usize, &Key)| Ok((key.clone(), self.loaded(&rows, number)));
            let rows: Vec<_> = self.0.keys.iter().enumerate().map(row).collect();
            stream::iter(rows)
        })
        .flatten()
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::cities;
    use rand::SeedableRng;

    #[tokio::test]
    async fn a_write_has_the_next_version_and_every_question_is_counted() {
        let table = Table::of(cities(3).expect("readable")).expect("legal");
        let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
        let written = table.write(&mut random);
        assert_eq!(written.version, 4);
        let loaded = table.load(written.key.clone()).await.expect("works").expect("there");
        assert_eq!((loaded.version(), loaded.value()), (Some(4), &written.row));
        let scanned: Vec<_> = table.scan().map(|row| row.expect("works").1).collect().await;
        let mut versions: Vec<_> = scanned.iter().filter_map(Loaded::version).collect();
        assert_eq!(versions, table.versions().collect::<Vec<_>>());
        versions.sort_unstable();
        assert_eq!((versions.len(), versions[2]), (3, 4));
        assert_eq!(table.asked(), Asked { loads: 1, scans: 1 });
    }
}
