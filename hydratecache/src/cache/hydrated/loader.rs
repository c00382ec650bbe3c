//! Loading one key: from the source, into the cache, and never over anything newer.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
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
use crate::cache::{Entry, Loaded, ReadCache, Source, SourceError};
use crate::{Error, ErrorKind, Key, Result};

/// How often a key is loaded again because an update overtook the load. After that its readers are
/// given what was loaded last, and the cache is not.
const LOAD_AGAIN: usize = 8;

/// How many keys one question to the source is for at most.
const TOGETHER: usize = 1000;

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
    /// When the source was asked; none if the cache had it before that.
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

    /// Loads those of `keys` that nobody loads yet, together, and waits for all of them.
    pub(super) async fn load_many(&self, keys: &[Key]) -> Vec<Result<Landed<T>>> {
        let landings: Vec<_> = keys
            .chunks(TOGETHER)
            .flat_map(|keys| {
                self.flights.join_many(keys, |keys| {
                    let desk = self.desk.clone();
                    async move { desk.load_many(keys).await }
                })
            })
            .collect();
        let shared = landings.iter().filter(|landing| landing.is_shared).count();
        self.desk.counters.loads_shared.add(shared as u64);
        join_all(landings.into_iter().map(Landing::landed)).await
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
            if why == Why::Missing
                && let Some(found) = self.cached(&key).await
            {
                return Ok(found);
            }
            let attempt = self.attempt(&key);
            let loaded = self.ask_the_source(&key).await?;
            match self.settle(&key, attempt, loaded).await? {
                Settled::Found(found) => return Ok(found),
                // An update arrived: perhaps with a value, which is then in the cache.
                Settled::Overtaken(found) => {
                    why = Why::Missing;
                    last = Some(found);
                }
            }
        }
        last.map(|found| Found { is_overtaken: true, ..found }).ok_or_else(no_source)
    }

    /// Loads `keys` that the cache does not have, with one question; an answer for each, in order.
    async fn load_many(&self, keys: Vec<Key>) -> Vec<Landed<T>> {
        let mut landed: Vec<Option<Landed<T>>> = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (place, key) in keys.into_iter().enumerate() {
            let found = self.cached(&key).await;
            if found.is_none() {
                let attempt = self.attempt(&key);
                missing.push((place, key, attempt));
            }
            landed.push(found.map(Ok));
        }
        let wanted = missing.iter().map(|(_, key, _)| key.clone()).collect();
        let mut answer = self.ask_for_many(wanted).await;
        for (place, key, attempt) in missing {
            let loaded = answer.as_mut().map(|rows| rows.remove(&key)).map_err(|why| why.clone());
            let settled = match loaded {
                Ok(loaded) => self.settle(&key, attempt, loaded).await,
                Err(why) => Err(why),
            };
            landed[place] = Some(match settled {
                Ok(Settled::Found(found)) => Ok(found),
                Ok(Settled::Overtaken(_)) => self.load(key, Why::Missing).await,
                Err(why) => Err(why),
            });
        }
        landed.into_iter().flatten().collect()
    }

    /// What the cache has, if its life is not over.
    async fn cached(&self, key: &Key) -> Option<Found<T>> {
        let sample = self.gauge.sample();
        let entry = self.cache.entry(key.as_str()).await?;
        let is_over = self.policy.is_over(entry.expires_at(), Instant::now());
        (!is_over).then(|| Found::cached(entry, sample))
    }

    /// What must be done before the source is asked, so that what arrives from now on breaks it.
    fn attempt(&self, key: &Key) -> Attempt {
        let absence = self.findings.absent.as_ref().map(|_| self.leases.take(key.clone()));
        let (lease, sample) = (self.leases.take(key.clone()), self.gauge.sample());
        Attempt { lease, absence, sample, began: Instant::now() }
    }

    /// Brings what was loaded into the cache.
    async fn settle(
        &self,
        key: &Key,
        attempt: Attempt,
        loaded: Option<Loaded<T>>,
    ) -> Result<Settled<T>> {
        let Attempt { lease, absence, sample, began } = attempt;
        let found = Found::loaded(loaded.as_ref(), sample, began);
        let ttl = loaded.as_ref().and_then(|loaded| loaded.ttl);
        let found = match fill(&self.hydrator, lease, loaded).await {
            Ok(Filled::Stored(entry)) => {
                if let Some(loads) = &self.loads {
                    loads.publish(key, &entry, ttl);
                }
                Found { entry: Some(entry), ..found }
            }
            Ok(Filled::Gone) => {
                if let Some((list, lease)) = self.findings.absent.as_ref().zip(absence)
                    && found.entry.is_none()
                {
                    lock(list).insert(key, lease, began);
                }
                Found { entry: None, ..found }
            }
            // It may have ended since; then what was loaded is as good.
            Ok(Filled::Resident) => {
                self.cached(key).await.map_or(found, |resident| resident.proven_since(began))
            }
            Ok(Filled::Overtaken) => return Ok(Settled::Overtaken(found)),
            Ok(Filled::Behind) => return Err(lags(key)),
            // The hydration ended and says so in every read. Its readers go on.
            Err(error) if error.kind() == ErrorKind::Closed => found,
            Err(error) => return Err(error),
        };
        Ok(Settled::Found(found))
    }

    async fn ask_the_source(&self, key: &Key) -> Result<Option<Loaded<T>>> {
        let source = self.source.as_ref().ok_or_else(no_source)?;
        let outcome = self.ask(1, async { source.load(key.clone()).await }).await;
        let outcome = outcome.map_err(|why| loading_failed(key).with_source(why));
        self.note(key, outcome.is_ok());
        outcome
    }

    async fn ask_for_many(&self, keys: Vec<Key>) -> Result<HashMap<Key, Loaded<T>>> {
        let source = self.source.as_ref().ok_or_else(no_source)?;
        if keys.is_empty() {
            return Ok(HashMap::new());
        }
        let outcome = self.ask(keys.len(), async { source.load_many(keys.clone()).await }).await;
        for key in &keys {
            self.note(key, outcome.is_ok());
        }
        let rows = outcome.map_err(|why| {
            let what = format!("loading {} keys together failed; try again", keys.len());
            Error::new(ErrorKind::Source, what).with_source(why)
        })?;
        Ok(rows.into_iter().collect())
    }

    /// Asks the source for so many keys, within its limit.
    async fn ask<R>(
        &self,
        keys: usize,
        load: impl Future<Output = Result<R, SourceError>> + Send,
    ) -> Result<R, SourceError> {
        self.counters.loads.add(keys as u64);
        let outcome = timeout(self.source_limit, AssertUnwindSafe(load).catch_unwind()).await;
        let outcome = match outcome {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err("the source panicked".into()),
            Err(_) => {
                Err(format!("the source gave no answer within {:?}", self.source_limit).into())
            }
        };
        if outcome.is_err() {
            self.counters.load_failures.add(keys as u64);
        }
        outcome
    }

    /// Remembers for a while that loading `key` failed.
    fn note(&self, key: &Key, is_ok: bool) {
        let mut failed = lock(&self.findings.failed);
        if is_ok {
            failed.remove(key);
        } else {
            failed.insert(key, (), Instant::now());
        }
    }
}

/// One question to the source.
struct Attempt {
    lease: Lease,
    /// For the finding that there is no value, if that is to be remembered.
    absence: Option<Lease>,
    sample: Sample,
    began: Instant,
}

/// What became of an attempt.
enum Settled<T> {
    Found(Found<T>),
    /// An update arrived meanwhile.
    Overtaken(Found<T>),
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

    /// The same, known to be no older than what the source said when it was asked at `began`.
    fn proven_since(self, began: Instant) -> Self {
        Self { sample: self.sample.or_proven_at(Some(began)), began: Some(began), ..self }
    }

    /// Whether it holds for a read that began at `called`: what an update overtook does only if
    /// the source was asked later.
    pub(super) fn holds_since(&self, called: Instant) -> bool {
        !self.is_overtaken || self.began >= Some(called)
    }

    /// When the source was asked; none if the cache had it before that.
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

fn lags(key: &Key) -> Error {
    Error::new(
        ErrorKind::Source,
        format!(
            "the source has an older version of key {:?} than was published; does it lag behind \
             what it publishes?",
            key.as_str()
        ),
    )
}

fn loading_failed(key: &Key) -> Error {
    Error::new(ErrorKind::Source, format!("loading key {:?} failed; try again", key.as_str()))
}
