//! Where the truth can be read.

use std::fmt;
use std::sync::Arc;

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt, TryStreamExt};

use crate::{Key, Ttl, Version};

/// Whatever a source fails with.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Keys with their values.
type Rows<T> = Vec<(Key, Loaded<T>)>;

/// Where the truth can be read: a table, a query, another service.
///
/// Values with versions are ordered by them, exactly. Values without are guarded by leases: what
/// was loaded for a key is dropped if an update of that key arrived after the load began.
pub trait Source<T>: Send + Sync + 'static {
    /// The value of `key`, if there is one.
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<T>>, SourceError>>;

    /// The values of `keys`, in any order, without keys that have none. By default each is loaded
    /// by itself, 16 at once; a database can answer with one query.
    fn load_many(&self, keys: Vec<Key>) -> BoxFuture<'_, Result<Rows<T>, SourceError>>
    where
        T: Send + Sync + 'static,
    {
        let load = move |key: Key| async move {
            let row = self.load(key.clone()).await?;
            Ok(row.map(|row| (key, row)))
        };
        let rows = stream::iter(keys).map(load).buffer_unordered(16);
        rows.try_filter_map(|row| ready(Ok(row))).try_collect().boxed()
    }

    /// Every key with its value. What is not in it does not exist: after a gap, entries that a
    /// complete scan did not yield are removed.
    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<T>), SourceError>>;

    /// Up to `most` keys that come after `after` in an order of the source's own that stays the same,
    /// or the first ones; none where there are no more. By default `None`: the source cannot.
    ///
    /// A [`Verifier`](super::Verifier) asks for them to find keys that a cache does not have. In SQL:
    /// `SELECT key FROM t WHERE key > $1 ORDER BY key LIMIT $2`.
    fn keys_after(
        &self,
        after: Option<Key>,
        most: usize,
    ) -> BoxFuture<'_, Result<Option<Vec<Key>>, SourceError>> {
        let _ = (after, most);
        ready(Ok(None)).boxed()
    }
}

/// Which transactions of a database a scan saw, all rows at once.
///
/// Where a message says which transaction it was published in, this tells whether the scan contains
/// what the message says, exactly: a message that it contains is skipped, one that it does not is
/// applied over the scanned row. Nothing has to be read again, and no reader sees time go back.
#[derive(Clone)]
pub struct Snapshot(Arc<dyn Fn(u64) -> bool + Send + Sync>);

impl Snapshot {
    /// A snapshot that saw the transactions for whose numbers `contains` is true.
    pub fn new(contains: impl Fn(u64) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(contains))
    }

    /// Whether it saw the transaction with this number.
    #[must_use]
    pub fn contains(&self, transaction: u64) -> bool {
        (self.0)(transaction)
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot")
    }
}

/// A value that was read from a [`Source`].
pub struct Loaded<T> {
    pub(super) value: Arc<T>,
    pub(super) version: Option<u64>,
    /// The version that another replica has, which may be a clock's.
    exact: Option<Version>,
    pub(super) ttl: Option<Ttl>,
    pub(super) snapshot: Option<Snapshot>,
}

impl<T> Loaded<T> {
    /// A value without version and TTL.
    pub fn new(value: T) -> Self {
        Self { value: Arc::new(value), version: None, exact: None, ttl: None, snapshot: None }
    }

    /// The value, for the reader that loaded it.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// The value's version, if the source has versions.
    #[must_use]
    pub const fn version(&self) -> Option<u64> {
        self.version
    }

    /// The same value with its version, for channels built with
    /// [`VersionDomain::Caller`](crate::VersionDomain::Caller).
    #[must_use]
    pub fn with_version(self, version: u64) -> Self {
        Self { version: Some(version), ..self }
    }

    /// The same value with the version that another replica has.
    pub(super) fn with_exact_version(self, exact: Option<Version>) -> Self {
        Self { exact, ..self }
    }

    /// What orders the value among the writes of its key, if anything does.
    pub(super) fn order(&self) -> Option<Version> {
        self.exact.or(self.version.map(Version::caller))
    }

    /// The same value with the snapshot that it was scanned in: one for all rows of a scan. A value
    /// that was loaded by its key has none.
    #[must_use]
    pub fn with_snapshot(self, snapshot: Snapshot) -> Self {
        Self { snapshot: Some(snapshot), ..self }
    }

    /// The same value with a TTL.
    #[must_use]
    pub fn with_ttl(self, ttl: Ttl) -> Self {
        Self { ttl: Some(ttl), ..self }
    }
}

impl<T> fmt::Debug for Loaded<T> {
    /// Shows everything but the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Loaded")
            .field("version", &self.version)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}
