//! The rows, which are true whatever a cache holds.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

/// So many rows.
pub(crate) const ROWS: usize = 2_000;
/// Of each value.
pub(crate) const VALUE_BYTES: usize = 100;

/// A database of its own, with one row a key.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// In Redis, apart from what caches keep there, for a database that answers over the network as
    /// quickly as Redis does.
    Redis(MultiplexedConnection),
    /// In this process, for one that works on while Redis does not.
    Memory(Arc<Mutex<HashMap<String, String>>>),
}

impl Database {
    /// In the server at `url`.
    pub(crate) async fn in_redis(url: &str) -> Result<Self> {
        let client = redis::Client::open(url)?;
        Ok(Self::Redis(client.get_multiplexed_async_connection().await?))
    }

    /// In this process.
    pub(crate) fn in_memory() -> Self {
        Self::Memory(Arc::default())
    }

    /// The row of `key`.
    pub(crate) async fn read(&self, key: &str) -> Result<Option<String>> {
        match self {
            Self::Redis(connection) => Ok(connection.clone().get(row_key(key)).await?),
            Self::Memory(rows) => Ok(lock(rows).get(key).cloned()),
        }
    }

    /// Gives `key` a row.
    pub(crate) async fn write(&self, key: &str, value: &str) -> Result<()> {
        match self {
            Self::Redis(connection) => Ok(connection.clone().set(row_key(key), value).await?),
            Self::Memory(rows) => {
                lock(rows).insert(key.to_owned(), value.to_owned());
                Ok(())
            }
        }
    }

    /// Every key with its row.
    pub(crate) async fn rows(&self) -> Result<Vec<(String, String)>> {
        match self {
            Self::Redis(connection) => {
                let keys: Vec<String> = (0..ROWS).map(key).collect();
                let rows: Vec<String> = keys.iter().map(|key| row_key(key)).collect();
                let rows: Vec<Option<String>> = connection.clone().mget(rows).await?;
                let rows = keys.into_iter().zip(rows);
                Ok(rows.filter_map(|(key, row)| Some((key, row?))).collect())
            }
            Self::Memory(rows) => {
                Ok(lock(rows).iter().map(|(key, row)| (key.clone(), row.clone())).collect())
            }
        }
    }
}

/// As long as the key itself, so that its bytes are those of a row that is the cache's entry.
fn row_key(key: &str) -> String {
    key.replacen("product", "storage", 1)
}

fn lock(rows: &Mutex<HashMap<String, String>>) -> MutexGuard<'_, HashMap<String, String>> {
    rows.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The key of row `number`.
pub(crate) fn key(number: usize) -> String {
    format!("product:{number:04}")
}

/// What row `number` has in its `edition`.
pub(crate) fn value(number: usize, edition: usize) -> String {
    format!("{number:020}{edition:0>width$}", width = VALUE_BYTES - 20)
}
