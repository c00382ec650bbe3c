//! The truth: an embedded database of rows with versions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};
use hydratecache::codec::{Cbor, Codec};
use redb::{Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use tempfile::TempDir;

use super::city::{City, Row};

/// Key to version and city. The version is the number of the commit, so it grows with every write
/// of a row, also over a deletion.
const CITIES: TableDefinition<'_, &str, (u64, &[u8])> = TableDefinition::new("cities");

/// The database of the demo. It lives in a temporary folder and goes with it.
#[derive(Clone)]
pub(super) struct Database(Arc<Inner>);

struct Inner {
    redb: redb::Database,
    last_version: AtomicU64,
    _folder: TempDir,
}

impl Database {
    /// A database with `cities`, whose versions count from 1.
    pub(super) fn create(cities: &[City]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("making a temporary folder for the database")?;
        let redb = redb::Database::create(folder.path().join("cities.redb"))
            .with_context(|| format!("making a database in {}", folder.path().display()))?;
        let inner = Inner { redb, last_version: AtomicU64::new(0), _folder: folder };
        let database = Self(Arc::new(inner));
        let write = database.0.redb.begin_write()?;
        for city in cities {
            database.write(&write, city)?;
        }
        write.commit()?;
        Ok(database)
    }

    /// Writes the row of `city`, commits, and returns its version.
    pub(super) async fn put(&self, city: City) -> anyhow::Result<u64> {
        self.commit(move |database, write| database.write(write, &city)).await
    }

    /// Deletes the row of `key`, commits, and returns the version of the deletion.
    pub(super) async fn remove(&self, key: Key) -> anyhow::Result<u64> {
        self.commit(move |database, write| {
            write.open_table(CITIES)?.remove(key.as_str())?;
            Ok(database.next_version())
        })
        .await
    }

    /// The row of `key`, if there is one.
    pub(super) fn row(&self, key: &str) -> anyhow::Result<Option<Row>> {
        let table = self.0.redb.begin_read()?.open_table(CITIES)?;
        table.get(key)?.map(|row| decode(row.value())).transpose()
    }

    /// Every row, as of one commit.
    pub(super) fn rows(&self) -> anyhow::Result<BTreeMap<Key, Row>> {
        let table = self.0.redb.begin_read()?.open_table(CITIES)?;
        let rows = table.iter()?.map(|row| {
            let (key, row) = row?;
            Ok((Key::new(key.value())?, decode(row.value())?))
        });
        rows.collect()
    }

    fn write(&self, write: &WriteTransaction, city: &City) -> anyhow::Result<u64> {
        let version = self.next_version();
        let bytes = Cbor.encode(city)?;
        write.open_table(CITIES)?.insert(city.key()?.as_str(), (version, &*bytes))?;
        Ok(version)
    }

    /// Called in a write transaction, of which there is one at a time.
    fn next_version(&self) -> u64 {
        self.0.last_version.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn commit(
        &self,
        change: impl FnOnce(&Self, &WriteTransaction) -> anyhow::Result<u64> + Send + 'static,
    ) -> anyhow::Result<u64> {
        /// One commit in so many waits for the disk: the demo's database need not outlive it, and
        /// redb reuses space only behind a durable commit.
        const DURABLE_EVERY: u64 = 1000;
        blocking(self.clone(), move |database| {
            let mut write = database.0.redb.begin_write()?;
            let version = change(&database, &write)?;
            if !version.is_multiple_of(DURABLE_EVERY) {
                write.set_durability(Durability::None)?;
            }
            write.commit().context("committing to the database")?;
            Ok(version)
        })
        .await
    }
}

impl Source<City> for Database {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<City>>, SourceError>> {
        let row = blocking(self.clone(), move |database| database.row(key.as_str()));
        row.map(|row| Ok(row?.map(loaded))).boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<City>), SourceError>> {
        stream::once(blocking(self.clone(), |database| database.rows()))
            .map_ok(|rows| stream::iter(rows).map(|(key, row)| Ok((key, loaded(row)))))
            .map_err(SourceError::from)
            .try_flatten()
            .boxed()
    }
}

pub(super) fn loaded(row: Row) -> Loaded<City> {
    Loaded::new(row.city).with_version(row.version)
}

fn decode((version, bytes): (u64, &[u8])) -> anyhow::Result<Row> {
    Ok(Row { version, city: Cbor.decode(&Bytes::copy_from_slice(bytes))? })
}

/// Does `work` where it may wait for the disk.
async fn blocking<T: Send + 'static>(
    database: Database,
    work: impl FnOnce(Database) -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(move || work(database)).await.context("using the database")?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::city::cities;

    #[tokio::test]
    async fn versions_grow_with_every_write_also_over_a_deletion() {
        let cities = cities(3).expect("readable");
        let database = Database::create(&cities).expect("created");
        let key = cities[0].key().expect("legal");
        assert_eq!(database.rows().expect("readable").len(), 3);
        assert_eq!(database.remove(key.clone()).await.expect("deleted"), 4);
        assert_eq!(database.row(key.as_str()).expect("readable"), None);
        let city = City { population: 7, ..cities[0].clone() };
        assert_eq!(database.put(city.clone()).await.expect("written"), 5);
        let row = database.row(key.as_str()).expect("readable");
        assert_eq!(row, Some(Row { version: 5, city }));
    }
}
