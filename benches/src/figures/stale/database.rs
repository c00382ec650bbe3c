//! The truth: a table of rows with versions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};

use crate::values::{self, Product, Sample};

/// A table; a row's revision is its version.
pub(super) struct Database {
    keys: Vec<String>,
    rows: Mutex<Vec<Product>>,
}

/// A row with its key.
pub(super) type Row = (String, Product);

impl Database {
    pub(super) fn with_rows(count: usize) -> Arc<Self> {
        let rows = (0..count as u64).map(Product::nth).collect();
        Arc::new(Self { keys: values::keys(count), rows: Mutex::new(rows) })
    }

    /// Writes a row anew.
    pub(super) fn write(&self, number: usize) -> Row {
        let row = &mut self.lock()[number];
        row.revision += 1;
        (self.keys[number].clone(), row.clone())
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.keys.iter().cloned().zip(self.lock().iter().cloned()).collect()
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.keys
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Product>> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The table, as readers reach it.
pub(super) struct Table(pub(super) Arc<Database>);

fn loaded(row: Product) -> Loaded<Product> {
    let version = row.revision;
    Loaded::new(row).with_version(version)
}

impl Source<Product> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<Product>>, SourceError>> {
        let row = self.0.rows().into_iter().find(|(name, _)| name == key.as_str());
        async move { Ok(row.map(|(_, row)| loaded(row))) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<Product>), SourceError>> {
        let rows = self.0.rows().into_iter();
        stream::iter(rows.map(|(key, row)| Ok((Key::new(key)?, loaded(row))))).boxed()
    }
}
