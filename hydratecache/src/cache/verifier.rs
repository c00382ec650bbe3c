//! The verifier: compares entries with the source in the background, and reports those that differ
//! for longer than a write takes from the source to here.

mod agreement;
mod comparison;
mod rounds;
mod settings;

use std::collections::{HashSet, VecDeque};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

pub use agreement::Agreement;
pub use comparison::DivergenceKind;
pub use settings::{Divergence, Verifier};

use super::hydration::{Command, Filled, Status, stopped};
use super::hydrator::reload::{backoff, reading_failed, source_is_slow};
use super::leases::{Lease, Leases};
use super::stats::Counters;
use super::{Entry, Loaded, ReadCache, Source};
use crate::{Key, Result, Topic, Version};
use comparison::{Observed, Verdict};
use rounds::Rounds;
use settings::OnDivergence;

/// How many entries wait for their second comparison at most, and how many keys that the cache does
/// not have for their first.
const MOST_WAITING: usize = 1024;

/// How many keys the source is asked for at once.
const PAGE: usize = 256;

/// How often a key is compared again because an update came between, before it is left for another
/// round.
const COMPARE_AGAIN: usize = 8;

/// What a verifier needs of the hydration.
pub(super) struct Desk<T> {
    pub(super) system: &'static str,
    pub(super) topic: Topic,
    pub(super) source: Arc<dyn Source<T>>,
    pub(super) source_limit: Duration,
    pub(super) leases: Arc<Leases>,
    pub(super) hydrator: mpsc::Sender<Command<T>>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) counters: Arc<Counters>,
    /// Whether every key of the source is to be in the cache.
    pub(super) keeps_all: bool,
    pub(super) kept_beyond_end: Duration,
}

/// Begins to verify a cache.
pub(super) type Begin<T> = Box<dyn FnOnce(Desk<T>) -> BoxFuture<'static, ()> + Send + Sync>;

/// A task that verifies.
struct Verifying<T, C> {
    desk: Desk<T>,
    cache: C,
    verifier: Verifier<T>,
    rounds: Rounds,
    pages: Pages,
    /// Keys of the source that the cache does not have.
    absent: VecDeque<Key>,
    /// Those, and what waits to be compared again: no key is in work twice.
    in_work: HashSet<Key, foldhash::fast::RandomState>,
    /// What differed, in the order in which it is due to be compared again.
    waiting: VecDeque<Waiting<T>>,
    backoff: ExponentialBackoff,
}

/// How far the source's keys were looked for.
enum Pages {
    /// Up to this key, and then on from there.
    After(Option<Key>),
    /// The source has no pages, and is to be scanned then, if ever.
    Scan(Option<Instant>),
}

struct Waiting<T> {
    due: Instant,
    observed: Observed<T>,
    lease: Lease,
    /// How many gaps and disruptions there were.
    disturbances: u64,
    first_at: Instant,
    attempts: usize,
}

/// A key as the cache and the source show it.
struct Look<T> {
    lease: Lease,
    disturbances: u64,
    entry: Option<Entry<T>>,
    loaded: Option<Loaded<T>>,
}

pub(super) fn begin<T, C>(verifier: Verifier<T>, cache: C) -> Begin<T>
where
    T: Send + Sync + 'static,
    C: ReadCache<T>,
{
    Box::new(move |desk| {
        let verifying = Verifying {
            desk,
            cache,
            verifier,
            rounds: Rounds::default(),
            pages: Pages::After(None),
            absent: VecDeque::new(),
            in_work: HashSet::default(),
            waiting: VecDeque::new(),
            backoff: backoff(),
        };
        verifying.run().boxed()
    })
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Verifying<T, C> {
    async fn run(mut self) {
        // Instances that start together do not ask together.
        sleep(self.verifier.interval.mul_f64(fastrand::f64())).await;
        let mut status = self.desk.status.clone();
        let mut turns = 0_u64;
        // What the cache itself calls suspect is no news.
        while status.wait_for(Status::is_sound).await.is_ok() {
            turns += 1;
            let is_for_pages = turns.is_multiple_of(2);
            let turn = AssertUnwindSafe(self.turn(is_for_pages)).catch_unwind().await;
            let mut pause = self.verifier.interval.mul_f64(0.5 + fastrand::f64());
            if let Ok(Ok(())) = turn {
                self.backoff = backoff();
            } else {
                self.desk.counters.verification_failures.increment();
                let topic = &self.desk.topic;
                let why = match turn {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the source, or a callback of the verifier, panicked".to_owned(),
                };
                tracing::warn!(messaging.system = self.desk.system, messaging.destination.name = %topic, %why, "not verified");
                pause = pause.max(self.backoff.next().unwrap_or(Duration::from_secs(30)));
            }
            sleep(pause).await;
        }
    }

    /// One question to the source, if there is one to be asked.
    async fn turn(&mut self, is_for_pages: bool) -> Result<()> {
        let is_due = |waiting: &Waiting<T>| waiting.due <= Instant::now();
        if self.waiting.front().is_some_and(is_due)
            && let Some(waiting) = self.waiting.pop_front()
        {
            self.in_work.remove(waiting.lease.key());
            return self.compare_again(waiting).await;
        }
        if self.waiting.len() >= MOST_WAITING {
            return Ok(());
        }
        if is_for_pages && let Some(key) = self.absent.pop_front() {
            self.in_work.remove(&key);
            return self.compare(&key).await;
        }
        if is_for_pages && self.desk.keeps_all && self.look_for_absent().await? {
            return Ok(());
        }
        match self.rounds.next(|| self.cache.keys()) {
            Some(key) if !self.in_work.contains(&key) => self.compare(&key).await,
            _ => Ok(()),
        }
    }

    async fn compare(&mut self, key: &Key) -> Result<()> {
        if let Some(look) = self.look(key).await? {
            self.observed(look, Instant::now(), 0);
        }
        Ok(())
    }

    /// Notes that a key is right, or that it is to be compared again.
    fn observed(&mut self, look: Look<T>, first_at: Instant, attempts: usize) {
        let Look { lease, disturbances, entry, loaded } = look;
        let version = loaded.as_ref().and_then(|loaded| loaded.version);
        match self.kind(entry.as_ref(), loaded.as_ref()) {
            None => self.is_right(entry.is_some()),
            Some(_) if attempts > COMPARE_AGAIN => {
                self.desk.counters.verifications_unclear.increment();
            }
            Some(_) => {
                self.in_work.insert(lease.key().clone());
                self.waiting.push_back(Waiting {
                    due: Instant::now() + self.verifier.patience,
                    observed: Observed { entry, version },
                    lease,
                    disturbances,
                    first_at,
                    attempts,
                });
            }
        }
    }

    async fn compare_again(&mut self, waiting: Waiting<T>) -> Result<()> {
        let Waiting { observed, lease, disturbances, first_at, attempts, .. } = waiting;
        let Some(look) = self.look(lease.key()).await? else {
            return Ok(());
        };
        // Read last: had it been replaced meanwhile, it would be another one.
        let entry = self.cache.entry(lease.key().as_str()).await;
        let kind = self.kind(entry.as_ref(), look.loaded.as_ref());
        let is_calm = disturbances == self.disturbances() && self.desk.status.borrow().is_sound();
        match observed.verdict(entry.as_ref(), kind, is_calm, lease.is_intact()) {
            Verdict::Right => self.is_right(entry.is_some()),
            Verdict::Unclear => self.observed(look, first_at, attempts + 1),
            Verdict::Divergent(kind) => {
                let key = lease.key().clone();
                drop(lease);
                let divergence = Divergence {
                    key,
                    kind,
                    cached: entry.as_ref().and_then(Entry::version),
                    in_source: look.loaded.as_ref().and_then(|loaded| loaded.version),
                    lasted: first_at.elapsed(),
                    is_repaired: false,
                };
                self.diverges(divergence, look).await?;
            }
        }
        Ok(())
    }

    async fn diverges(&mut self, mut divergence: Divergence, look: Look<T>) -> Result<()> {
        let counters = self.desk.counters.clone();
        if divergence.kind == DivergenceKind::Missing {
            counters.source_keys_missing.increment();
        } else {
            counters.verified.increment();
            counters.divergences.increment();
        }
        let mut repaired = Ok(());
        if self.verifier.on_divergence == OnDivergence::Repair
            && divergence.kind != DivergenceKind::Ahead
        {
            match self.repair(look).await {
                Ok(is_repaired) => divergence.is_repaired = is_repaired,
                Err(error) => repaired = Err(error),
            }
            counters.divergences_repaired.add(u64::from(divergence.is_repaired));
        }
        tracing::error!(
            messaging.system = self.desk.system,
            messaging.destination.name = %self.desk.topic,
            kind = ?divergence.kind,
            is_repaired = divergence.is_repaired,
            "an entry differs from the source"
        );
        if let Some(report) = &self.verifier.report {
            report(divergence);
        }
        repaired
    }

    /// Applies what the source showed. `false`: an update came first, or the cache knows of a later
    /// removal.
    async fn repair(&self, look: Look<T>) -> Result<bool> {
        let is_gone = look.loaded.is_none();
        let (answer, filled) = oneshot::channel();
        let repair = Command::Repair { lease: look.lease, loaded: look.loaded, answer };
        self.desk.hydrator.send(repair).await.map_err(|_| stopped())?;
        Ok(match filled.await.map_err(|_| stopped())?? {
            Filled::Stored(_) => true,
            Filled::Gone => is_gone,
            Filled::Resident | Filled::Overtaken | Filled::Behind => false,
        })
    }

    fn is_right(&self, is_entry: bool) {
        self.desk.counters.verified.add(u64::from(is_entry));
    }

    fn kind(&self, entry: Option<&Entry<T>>, loaded: Option<&Loaded<T>>) -> Option<DivergenceKind> {
        let kind = comparison::compare(entry, loaded, &*self.verifier.is_equal)?;
        // What has an end may have met it here.
        let may_be_missing = loaded.is_some_and(|loaded| loaded.ttl.is_some());
        let counts = kind != DivergenceKind::Missing || (self.desk.keeps_all && !may_be_missing);
        counts.then_some(kind)
    }

    /// `None`: the entry's life is over, and only a fail-safe keeps it.
    async fn look(&self, key: &Key) -> Result<Option<Look<T>>> {
        // Before the source is asked, so that what arrives from now on breaks it.
        let lease = self.desk.leases.take(key.clone());
        let disturbances = self.disturbances();
        let entry = self.cache.entry(key.as_str()).await;
        let end = entry.as_ref().and_then(Entry::expires_at);
        let end = end.and_then(|end| end.checked_sub(self.desk.kept_beyond_end));
        if end.is_some_and(|end| end <= Instant::now()) {
            return Ok(None);
        }
        let limit = self.desk.source_limit;
        let loaded = timeout(limit, self.desk.source.load(key.clone())).await;
        let loaded = loaded.map_err(|_| source_is_slow(limit))?.map_err(reading_failed)?;
        Ok(Some(Look { lease, disturbances, entry, loaded }))
    }

    /// How often updates of any key may have been lost.
    fn disturbances(&self) -> u64 {
        let stats = self.desk.counters.stats();
        stats.gaps + stats.disruptions
    }

    /// Asks the source for some of its keys, to find those that the cache does not have. `false`: it
    /// was not asked.
    async fn look_for_absent(&mut self) -> Result<bool> {
        let (limit, source) = (self.desk.source_limit, self.desk.source.clone());
        match &self.pages {
            Pages::After(after) => {
                let page = timeout(limit, source.keys_after(after.clone(), PAGE)).await;
                let page = page.map_err(|_| source_is_slow(limit))?.map_err(reading_failed)?;
                if let Some(mut keys) = page {
                    keys.truncate(PAGE);
                    self.pages = Pages::After(keys.last().cloned());
                    for key in keys {
                        self.look_at(key);
                    }
                    return Ok(true);
                }
                self.pages = Pages::Scan(self.next_scan(0.0));
                Ok(false)
            }
            Pages::Scan(at) if at.is_some_and(|at| at <= Instant::now()) => {
                self.pages = Pages::Scan(self.next_scan(0.5));
                let mut rows = source.scan();
                loop {
                    let row = timeout(limit, rows.next()).await;
                    match row.map_err(|_| source_is_slow(limit))? {
                        None => return Ok(true),
                        Some(row) => self.look_at(row.map_err(reading_failed)?.0),
                    }
                }
            }
            Pages::Scan(_) => Ok(false),
        }
    }

    /// When the source is scanned next: after a random time, `least` of the interval at least.
    fn next_scan(&self, least: f64) -> Option<Instant> {
        let after = self.verifier.scans?.mul_f64(least + fastrand::f64());
        Instant::now().checked_add(after)
    }

    fn look_at(&mut self, key: Key) {
        self.desk.counters.source_keys_verified.increment();
        let is_absent = self.absent.len() < MOST_WAITING && !self.cache.contains(&key);
        if is_absent && self.in_work.insert(key.clone()) {
            self.absent.push_back(key);
        }
    }
}

/// The version of a loaded value, to compare it with that of an entry.
fn version_of<T>(loaded: &Loaded<T>) -> Option<Version> {
    loaded.version.map(Version::caller)
}
