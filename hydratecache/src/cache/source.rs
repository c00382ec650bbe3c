//! Where the truth can be read.

use std::fmt;

use futures::future::BoxFuture;
use futures::stream::BoxStream;

use crate::{Key, Ttl};

/// Whatever a source fails with.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where the truth can be read: a table, a query, another service.
///
/// Values with versions are ordered by them, exactly. Values without are guarded by leases: what
/// was loaded for a key is dropped if an update of that key arrived after the load began.
pub trait Source<T>: Send + Sync + 'static {
    /// The value of `key`, if there is one.
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<T>>, SourceError>>;

    /// Every key with its value. What is not in it does not exist: after a gap, entries that a
    /// complete scan did not yield are removed.
    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<T>), SourceError>>;
}

/// A value that was read from a [`Source`].
pub struct Loaded<T> {
    pub(super) value: T,
    pub(super) version: Option<u64>,
    pub(super) ttl: Option<Ttl>,
}

impl<T> Loaded<T> {
    /// A value without version and TTL.
    pub const fn new(value: T) -> Self {
        Self { value, version: None, ttl: None }
    }

    /// The value, for the reader that loaded it.
    #[must_use]
    pub const fn value(&self) -> &T {
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
