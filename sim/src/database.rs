//! The source of truth: rows with versions, which can be slow and can fail.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};
use tokio::time::sleep;

use crate::plan::Truth;

/// The database. Cloning shares it.
#[derive(Debug, Clone)]
pub(crate) struct Database(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Each key's value, and the version of its row.
    rows: BTreeMap<Key, (u64, u64)>,
    commits: u64,
    has_versions: bool,
    is_failing: bool,
    rng: Rng,
}

type Row = Result<(Key, Loaded<u64>), SourceError>;

impl Database {
    pub(crate) fn new(truth: Truth, rng: Rng) -> Self {
        let has_versions = truth == Truth::Versions;
        let (rows, commits, is_failing) = (BTreeMap::new(), 0, false);
        Self(Arc::new(Mutex::new(State { rows, commits, has_versions, is_failing, rng })))
    }

    /// Writes the row of `key`, or removes it, and returns the version of that.
    pub(crate) fn commit(&self, key: &Key, value: Option<u64>) -> u64 {
        let mut state = self.lock();
        state.commits += 1;
        let version = state.commits;
        match value {
            Some(value) => drop(state.rows.insert(key.clone(), (value, version))),
            None => drop(state.rows.remove(key)),
        }
        version
    }

    /// Removes all rows, and returns the version of that.
    pub(crate) fn truncate(&self) -> u64 {
        let mut state = self.lock();
        state.commits += 1;
        state.rows.clear();
        state.commits
    }

    /// The value of `key` right now.
    pub(crate) fn value(&self, key: &Key) -> Option<u64> {
        self.lock().rows.get(key).map(|(value, _)| *value)
    }

    /// From now on reading fails, or does not.
    pub(crate) fn set_failing(&self, is_failing: bool) {
        self.lock().is_failing = is_failing;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nobody panics with the lock")
    }

    async fn read(&self, key: &Key) -> Result<Option<Loaded<u64>>, SourceError> {
        // The row is seen somewhere between the question and the answer.
        self.pause().await;
        let loaded = {
            let state = self.lock();
            if state.is_failing {
                return Err("the simulated database fails".into());
            }
            state.rows.get(key).map(|(value, version)| {
                let loaded = Loaded::new(*value);
                if state.has_versions { loaded.with_version(*version) } else { loaded }
            })
        };
        self.pause().await;
        Ok(loaded)
    }

    fn pause(&self) -> impl Future<Output = ()> + use<> {
        let millis = self.lock().rng.u64(0..=20);
        sleep(Duration::from_millis(millis))
    }
}

impl Source<u64> for Database {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<u64>>, SourceError>> {
        async move { self.read(&key).await }.boxed()
    }

    /// Row by row, as a table is read in pages: each row as it is when its turn comes.
    fn scan(&self) -> BoxStream<'_, Row> {
        let keys: Vec<Key> = self.lock().rows.keys().cloned().collect();
        let row = async move |key: Key| -> Option<Row> {
            self.read(&key).await.map(|loaded| Some((key, loaded?))).transpose()
        };
        stream::iter(keys).then(row).filter_map(std::future::ready).boxed()
    }

    fn keys_after(
        &self,
        after: Option<Key>,
        most: usize,
    ) -> BoxFuture<'_, Result<Option<Vec<Key>>, SourceError>> {
        async move {
            self.pause().await;
            let state = self.lock();
            if state.is_failing {
                return Err("the simulated database fails".into());
            }
            let is_behind = |key: &&Key| after.as_ref().is_none_or(|after| *key > after);
            Ok(Some(state.rows.keys().filter(is_behind).take(most).cloned().collect()))
        }
        .boxed()
    }
}
