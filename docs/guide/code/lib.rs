//! The guide's code, compiled and run: every chapter is a documentation test of this crate.
//!
//! Here is what examples stand on and their readers need not see.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::{BoxFuture, ready};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hydratecache::Key;
use hydratecache::cache::{Loaded, Source, SourceError};
use hydratecache_testkit::broker::{Broker, Kind};

pub mod bus;

macro_rules! chapters {
    ($($name:ident)*) => {
        /// The chapters, each with the name of its file and its text.
        pub const CHAPTERS: &[(&str, &str)] = &[
            $((concat!(stringify!($name), ".md"), include_str!(concat!("../src/", stringify!($name), ".md")))),*
        ];

        $(
            #[cfg(doctest)]
            #[doc = include_str!(concat!("../src/", stringify!($name), ".md"))]
            pub mod $name {}
        )*
    };
}

chapters! { index transports freshness publishing moka versions operating testing authors wire moving questions }

/// What the chapter on operating leads to.
#[cfg(doctest)]
#[doc = include_str!("../../OBSERVABILITY.md")]
pub mod observability {}

/// The project's page. Its program is run by the tests of examples/, which start a broker for it.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
pub mod readme {}

/// The blocks of code in this language, chapter by chapter.
#[must_use]
pub fn blocks(language: &str) -> Vec<String> {
    CHAPTERS.iter().flat_map(|(name, _)| blocks_of(name, language)).collect()
}

/// The blocks of code of a chapter in this language.
///
/// # Panics
/// If there is no such chapter.
#[must_use]
pub fn blocks_of(chapter: &str, language: &str) -> Vec<String> {
    let (_, text) = CHAPTERS.iter().find(|(name, _)| *name == chapter).expect("a chapter");
    blocks_in(text, language)
}

/// The blocks of code of a page in this language.
#[must_use]
pub fn blocks_in(text: &str, language: &str) -> Vec<String> {
    let (mut blocks, mut block) = (Vec::new(), None::<String>);
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut block) {
            (Some(_), Some(_)) => blocks.extend(block.take()),
            (Some(opened), None) => block = (opened == language).then(String::new),
            (None, Some(block)) => *block = format!("{block}{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// A Redis of an example's own.
///
/// # Panics
/// If it cannot be started; the panic says why.
pub async fn redis() -> Broker {
    start(Kind::Redis).await
}

/// A NATS of an example's own.
///
/// # Panics
/// As [`redis`].
pub async fn nats() -> Broker {
    start(Kind::Nats).await
}

/// A `PostgreSQL` of an example's own.
///
/// # Panics
/// As [`redis`].
pub async fn postgres() -> Broker {
    start(Kind::Postgres).await
}

async fn start(kind: Kind) -> Broker {
    let broker = Broker::start(kind).await;
    broker.unwrap_or_else(|error| panic!("{kind:?} for an example: {error}"))
}

/// The database of an example: rows that it writes and that a cache reads. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Table<T>(Arc<Rows<T>>);

#[derive(Debug)]
struct Rows<T> {
    by_key: Mutex<BTreeMap<String, (T, u64)>>,
    /// Whether who reads a row is told its version.
    has_versions: bool,
    /// How often all of it was read.
    scans: AtomicUsize,
    loads: AtomicUsize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::of(false)
    }
}

impl<T> Table<T> {
    fn of(has_versions: bool) -> Self {
        let (scans, loads) = (AtomicUsize::default(), AtomicUsize::default());
        Self(Arc::new(Rows { by_key: Mutex::default(), has_versions, scans, loads }))
    }

    /// An empty table whose rows have versions.
    #[must_use]
    pub fn with_versions() -> Self {
        Self::of(true)
    }

    /// Writes a row and returns its version, which grows with every write of its key.
    pub fn write(&self, key: &str, value: impl Into<T>) -> u64 {
        let mut rows = self.rows();
        let version = rows.get(key).map_or(1, |(_, version)| version + 1);
        rows.insert(key.to_owned(), (value.into(), version));
        version
    }

    /// How often all of it was read.
    #[must_use]
    pub fn scans(&self) -> usize {
        self.0.scans.load(Ordering::Relaxed)
    }

    /// How often one row was read.
    #[must_use]
    pub fn loads(&self) -> usize {
        self.0.loads.load(Ordering::Relaxed)
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<String, (T, u64)>> {
        self.0.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn loaded(&self, (value, version): &(T, u64)) -> Loaded<T>
    where
        T: Clone,
    {
        let loaded = Loaded::new(value.clone());
        if self.0.has_versions { loaded.with_version(*version) } else { loaded }
    }
}

impl<T: Clone + Send + Sync + 'static> Source<T> for Table<T> {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<T>>, SourceError>> {
        self.0.loads.fetch_add(1, Ordering::Relaxed);
        let row = self.rows().get(key.as_str()).map(|row| self.loaded(row));
        ready(Ok(row)).boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<T>), SourceError>> {
        self.0.scans.fetch_add(1, Ordering::Relaxed);
        let rows = self.rows();
        let row = |(key, row)| Ok((Key::new(key)?, self.loaded(row)));
        stream::iter(rows.iter().map(row).collect::<Vec<_>>()).boxed()
    }
}
