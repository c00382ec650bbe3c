//! Loading one key: from the source, into the cache, and never over anything newer.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::flights::{Flights, Landing};
use super::policy::Policy;
use super::publisher::Loads;
use super::read::Read;
use super::recent::Recent;
use crate::cache::freshness::{Gauge, Sample};
use crate::cache::hydration::{Command, Filled, fill};
use crate::cache::leases::{Lease, Leases};
use crate::cache::stats::Counters;
use crate::cache::{Entry, Loaded, ReadCache, Source};
use crate::{Error, ErrorKind, Key, Result};

/// How often a key is loaded again because an update overtook the load. After that its readers are
/// given what was loaded last, and the cache is not.
const LOAD_AGAIN: usize = 8;

/// Loads keys, one load of a key at a time.
pub(super) struct Loader<T, C> {
    desk: Arc<Desk<T, C>>,
    flights: Arc<Flights<Landed<T>>>,
}

/// What every load needs.
pub(super) struct Desk<T, C> {
    pub(super) cache: C,
    pub(super) source: Option<Arc<dyn Source<T>>>,
    pub(super) source_limit: Duration,
    pub(super) leases: Arc<Leases>,
    pub(super) hydrator: mpsc::Sender<Command<T>>,
    pub(super) gauge: Arc<Gauge>,
    pub(super) counters: Arc<Counters>,
    pub(super) policy: Policy,
    /// Where loaded values are published for others, if they are.
    pub(super) loads: Option<Loads<T>>,
    pub(super) findings: Findings,
}

/// What was lately found out about keys without a value.
pub(super) struct Findings {
    /// The source has none, unless an update broke the lease since.
    absent: Option<Mutex<Recent<Lease>>>,
    /// Loading it failed.
    failed: Mutex<Recent<()>>,
}

impl Findings {
    /// How many keys are remembered: some 10 MiB when full, with keys of 40 bytes.
    const MOST: usize = 65_536;

    /// How long a key that could not be loaded is left alone by those who have another value.
    const REST: Duration = Duration::from_secs(1);

    pub(super) fn new(policy: &Policy) -> Self {
        let absent = policy.negative_time.map(|time| Mutex::new(Recent::new(Self::MOST, time)));
        Self { absent, failed: Mutex::new(Recent::new(Self::MOST, Self::REST)) }
    }
}

/// Why a key is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The cache does not have it.
    Missing,
    /// What the cache has is not good enough.
    NotFresh,
}

pub(super) type Landed<T> = Result<Found<T>>;

/// What a load found.
pub(super) struct Found<T> {
    entry: Option<Entry<T>>,
    sample: Sample,
    /// When the source was asked; none if the cache had it after all.
    began: Option<Instant>,
    /// An update arrived while it was loaded, and every time that it was loaded again.
    is_overtaken: bool,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Loader<T, C> {
    pub(super) fn new(desk: Desk<T, C>) -> Self {
        Self { desk: Arc::new(desk), flights: Flights::new() }
    }

    pub(super) fn has_source(&self) -> bool {
        self.desk.source.is_some()
    }

    /// Whether the source was lately found not to have `key`, and nothing arrived since.
    pub(super) fn is_absent(&self, key: &Key) -> bool {
        let Some(absent) = &self.desk.findings.absent else {
            return false;
        };
        let mut absent = lock(absent);
        let is_intact = absent.get(key, Instant::now()).map(Lease::is_intact);
        if is_intact == Some(false) {
            absent.remove(key);
        }
        is_intact == Some(true)
    }

    /// Whether loading `key` failed within the last second.
    pub(super) fn has_failed(&self, key: &Key) -> bool {
        lock(&self.desk.findings.failed).get(key, Instant::now()).is_some()
    }

    /// Loads `key` again without anyone waiting, unless that is under way or failed lately.
    pub(super) fn refresh(&self, key: &Key) {
        if !self.has_failed(key) && !self.flights.has(key) {
            self.desk.counters.refreshes_ahead.increment();
            drop(self.join(key, Why::NotFresh));
        }
    }

    /// Loads `key`, or waits for the load of it that is under way. Unless `is_enough` for what was
    /// found, it is loaded again.
    pub(super) async fn load(
        &self,
        key: &Key,
        why: Why,
        is_enough: impl Fn(&Found<T>) -> bool + Send,
    ) -> Landed<T> {
        loop {
            let found = self.join(key, why).landed().await??;
            if is_enough(&found) {
                return Ok(found);
            }
        }
    }

    fn join(&self, key: &Key, why: Why) -> Landing<Landed<T>> {
        let landing = self.flights.join(key, || {
            let (desk, key) = (self.desk.clone(), key.clone());
            async move { desk.load(key, why).await }
        });
        if landing.is_shared {
            self.desk.counters.loads_shared.increment();
        }
        landing
    }
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Desk<T, C> {
    async fn load(&self, key: Key, why: Why) -> Landed<T> {
        let mut why = why;
        let mut last = None;
        for _ in 0..LOAD_AGAIN {
            let sample = self.gauge.sample();
            if why == Why::Missing
                && let Some(entry) = self.cache.entry(key.as_str()).await
                && !self.policy.is_over(entry.expires_at(), Instant::now())
            {
                return Ok(Found::cached(entry, sample));
            }
            // Before the load begins, so that what arrives from now on breaks it.
            let lease = self.leases.take(key.clone());
            let absent =
                self.findings.absent.as_ref().map(|list| (list, self.leases.take(key.clone())));
            let began = Instant::now();
            let loaded = self.ask_the_source(&key).await?;
            let found = Found::loaded(loaded.as_ref(), sample, began);
            let ttl = loaded.as_ref().and_then(|loaded| loaded.ttl);
            match fill(&self.hydrator, lease, loaded).await {
                Ok(Filled::Stored(entry)) => {
                    if let Some(loads) = &self.loads {
                        loads.publish(&key, &entry, ttl);
                    }
                    return Ok(Found { entry: Some(entry), ..found });
                }
                Ok(Filled::Gone) => {
                    if let Some((list, lease)) = absent
                        && found.entry.is_none()
                    {
                        lock(list).insert(&key, lease, began);
                    }
                    return Ok(Found { entry: None, ..found });
                }
                Ok(Filled::Resident) => {
                    let sample = self.gauge.sample();
                    let resident = self.cache.entry(key.as_str()).await;
                    // It may have ended since; then what was loaded is as good.
                    return Ok(resident.map_or(found, |entry| {
                        Found::cached(entry, sample.or_proven_at(Some(began)))
                    }));
                }
                // An update arrived: perhaps with a value, which is then in the cache.
                Ok(Filled::Overtaken) => {
                    why = Why::Missing;
                    last = Some(found);
                }
                // The hydration ended and says so in every read. Its readers go on.
                Err(error) if error.kind() == ErrorKind::Closed => return Ok(found),
                Err(error) => return Err(error),
            }
        }
        last.map(|found| Found { is_overtaken: true, ..found }).ok_or_else(no_source)
    }

    async fn ask_the_source(&self, key: &Key) -> Result<Option<Loaded<T>>> {
        let source = self.source.as_ref().ok_or_else(no_source)?;
        self.counters.loads.increment();
        let load = AssertUnwindSafe(async { source.load(key.clone()).await }).catch_unwind();
        let outcome = match timeout(self.source_limit, load).await {
            Ok(Ok(outcome)) => outcome.map_err(|why| loading_failed(key).with_source(why)),
            Ok(Err(_)) => Err(loading_failed(key).with_source("the source panicked")),
            Err(_) => Err(loading_failed(key)
                .with_source(format!("the source gave no answer within {:?}", self.source_limit))),
        };
        let mut failed = lock(&self.findings.failed);
        if outcome.is_err() {
            self.counters.load_failures.increment();
            failed.insert(key, (), Instant::now());
        } else {
            failed.remove(key);
        }
        outcome
    }
}

impl<T> Found<T> {
    fn cached(entry: Entry<T>, sample: Sample) -> Self {
        Self { entry: Some(entry), sample, began: None, is_overtaken: false }
    }

    fn loaded(loaded: Option<&Loaded<T>>, sample: Sample, began: Instant) -> Self {
        let sample = sample.or_proven_at(Some(began));
        let entry = loaded.map(Entry::of_loaded);
        Self { entry, sample, began: Some(began), is_overtaken: false }
    }

    /// Whether it holds for a read that began at `called`: what an update overtook does only if
    /// the source was asked later.
    pub(super) fn holds_since(&self, called: Instant) -> bool {
        !self.is_overtaken || self.began >= Some(called)
    }

    /// When the source was asked; none if the cache had it after all.
    pub(super) fn began(&self) -> Option<Instant> {
        self.began
    }

    /// When it was the truth at the latest, as far as that is proven.
    pub(super) fn proven_at(&self) -> Option<Instant> {
        self.sample.freshness().proven_at()
    }

    pub(super) fn into_read(self) -> Option<Read<T>> {
        self.entry.map(|entry| Read::new(entry, self.sample))
    }
}

impl<T> Clone for Found<T> {
    fn clone(&self) -> Self {
        Self { entry: self.entry.clone(), ..*self }
    }
}

pub(super) fn no_source() -> Error {
    let what = "there is no source to load from; give one with HydratedBuilder::source";
    Error::new(ErrorKind::InvalidInput, what)
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn loading_failed(key: &Key) -> Error {
    Error::new(ErrorKind::Source, format!("loading key {:?} failed; try again", key.as_str()))
}
