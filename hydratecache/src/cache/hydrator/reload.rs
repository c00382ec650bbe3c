//! Reading the source: when, how it joins what arrives meanwhile, and what a failure means.

use std::ops::ControlFlow;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Ended, Hydrator, replay};
use crate::cache::ledger::{self, Scanned};
use crate::cache::{Loaded, LocalCache, Mode, SourceError};
use crate::{Error, ErrorKind, Key, Result, Version};

/// How often a key is read again because an update overtook its row, before all is read again.
const READ_AGAIN: usize = 8;

/// The longest rest between two reloads: entries are suspect meanwhile.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How many loads a reload has under way in [`Mode::UpdateIfPresent`].
const LOADS: usize = 16;

/// How long after a gap a message may still be older than what the gap took with it: twice as long as
/// a publish waits for a lost link by default.
pub(super) const SETTLING: Duration = Duration::from_secs(10);

/// What a reload yields: a key, and its value if it has one.
type Row<T> = Result<(Key, Option<Loaded<T>>), SourceError>;

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// The source is to be read; until that is done, entries are suspect.
    pub(super) fn reload_soon(&mut self) {
        let now = Instant::now();
        let jitter = self.settings.reload_jitter.mul_f64(fastrand::f64());
        self.reload_at = self.reload_at.or(Some(self.rests_until.max(now + jitter)));
        self.change(|status| status.suspect(now));
    }

    /// When the source is to be read, if it is.
    pub(super) fn next_reload(&self) -> Option<Instant> {
        [self.reload_at, self.settle_at].into_iter().flatten().min()
    }

    /// A gap was told of: what comes now may be older than what was lost.
    pub(super) fn unsettle(&mut self) {
        self.settled_at = Some(Instant::now() + SETTLING);
    }

    /// Whether a new key is no more than a claim: its removal may have been lost in a gap, or before the
    /// start, and its put have waited for a lost link meanwhile. A scan that begins later decides.
    pub(super) fn may_be_gone(&self, key: &Key) -> bool {
        let has_scanned = self.settings.source.is_some() && self.reload_at.is_none();
        has_scanned
            && self.settled_at.is_some_and(|settled_at| Instant::now() < settled_at)
            && !self.cache.contains(key)
    }

    /// An entry may be one that is gone: the source is to be read once nothing older can come any
    /// more. What was proven before does not hold for that entry, and nothing is proven until then.
    pub(super) fn reload_when_settled(&mut self) {
        self.settle_at = Some(self.rests_until).max(self.settled_at);
        self.change(|status| {
            status.is_unsettled = true;
            status.proven_at = None;
        });
    }

    /// Reads the source and applies it, and everything that arrives meanwhile.
    pub(super) async fn reload(&mut self) -> Result<(), Ended> {
        let began = Instant::now();
        self.reload_at = None;
        self.settle_at =
            self.settle_at.and(self.settled_at).filter(|settled_at| began < *settled_at);
        self.ledger.begin_scan();
        self.is_scanning = true;
        let scan = self.scan().await;
        self.is_scanning = false;
        let outcome = match scan {
            ControlFlow::Break(ended) => return Err(ended),
            ControlFlow::Continue(outcome) => outcome,
        };
        let rest = LONGEST_REST.min(began.elapsed().saturating_mul(9));
        self.rests_until = Instant::now() + rest;
        let resident = if outcome.is_ok() { self.cache.keys() } else { Vec::new() };
        let (scanned, gone) = self.ledger.end_scan(resident);
        match outcome {
            Err(error) => self.reload_failed(error),
            Ok(()) if scanned == Scanned::Overtaken => self.reload_soon(),
            Ok(()) => {
                for key in gone {
                    self.drop_gone(&key).await;
                }
                self.counters.reloads.increment();
                self.backoff = backoff();
                let (is_last, is_settled) = (self.reload_at.is_none(), self.settle_at.is_none());
                self.change(|status| {
                    status.is_warm = true;
                    status.is_unsettled &= !is_settled;
                    if is_last {
                        // Older messages may still be queued: how fresh this is, the next fence proves.
                        status.repaired();
                    }
                });
            }
        }
        Ok(())
    }

    pub(super) fn reload_failed(&mut self, error: Error) {
        tracing::warn!(messaging.destination.name = %self.channel.topic, %error, "reload failed");
        self.counters.reload_failures.increment();
        let pause = self.backoff.next().unwrap_or(MAX_BACKOFF);
        self.reload_at = Some(Instant::now() + pause);
        self.change(|status| status.source_error = Some(error));
    }

    /// Applies what the source yields. `Break`: the transport was closed.
    async fn scan(&mut self) -> ControlFlow<Ended, Result<()>> {
        let Some(source) = self.settings.source.clone() else {
            let what = "there is no source to reload from; give one with with_source";
            return ControlFlow::Continue(Err(Error::new(ErrorKind::InvalidInput, what)));
        };
        let loads = |keys: Vec<Key>| {
            let load = |key: Key| source.load(key.clone()).map(|row| row.map(|row| (key, row)));
            stream::iter(keys).map(load).buffer_unordered(LOADS).boxed()
        };
        let mut rows: BoxStream<'_, Row<T>> = match self.settings.mode {
            Mode::UpdateIfPresent => {
                // In order, as an index is read best, and a simulation repeats.
                let mut keys = self.cache.keys();
                keys.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
                loads(keys)
            }
            _ => source.scan().map(|row| row.map(|(key, row)| (key, Some(row)))).boxed(),
        };
        // Keys whose update arrived before their row: which of the two is newer is not known.
        let (mut again, mut rounds) = (Vec::new(), READ_AGAIN);
        let limit = self.settings.source_limit;
        let mut deadline = after(limit);
        loop {
            tokio::select! {
                signal = self.signals.next() => {
                    if let Err(ended) = self.round(signal).await {
                        return ControlFlow::Break(ended);
                    }
                }
                Some(command) = self.commands.recv() => self.command(command).await,
                Some(refill) = self.refills.next() => self.refilled(refill).await,
                () = replay::due(self.repair.next_due()) => self.go_on_repairing().await,
                row = timeout_at(deadline, rows.next()) => match row {
                    Ok(None) if again.is_empty() || rounds == 0 => {
                        if !again.is_empty() {
                            self.ledger.overtaken();
                        }
                        return ControlFlow::Continue(Ok(()));
                    }
                    Ok(None) => {
                        rounds -= 1;
                        for key in &again {
                            self.ledger.read_again(key);
                        }
                        rows = loads(std::mem::take(&mut again));
                        deadline = after(limit);
                    }
                    Ok(Some(row)) => {
                        match self.row(row).await {
                            Ok(overtaken) => again.extend(overtaken),
                            Err(error) => return ControlFlow::Continue(Err(error)),
                        }
                        deadline = after(limit);
                    }
                    Err(_) => return ControlFlow::Continue(Err(source_is_slow(limit))),
                },
            }
        }
    }

    /// Applies a row. Returns its key if an update overtook it and it has no version to tell which
    /// is newer.
    async fn row(&mut self, row: Row<T>) -> Result<Option<Key>> {
        let (key, loaded) = row.map_err(reading_failed)?;
        let version = loaded.as_ref().and_then(|loaded| loaded.version).map(Version::caller);
        let Some(loaded) = loaded else {
            // A key that is gone, unless it came back meanwhile; the end of the scan removes it.
            self.ledger.unseen(&key);
            return Ok(None);
        };
        match self.ledger.scanned(&key, version, loaded.snapshot.as_ref()) {
            ledger::Row::Newest => {
                self.store(&key, loaded).await?;
                Ok(None)
            }
            ledger::Row::Overtaken => Ok(None),
            ledger::Row::Unclear => {
                self.counters.leases_broken.increment();
                Ok(Some(key))
            }
        }
    }
}

/// A deadline so far away that no wait meets it stands for one that no clock can hold.
fn after(limit: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(limit).unwrap_or(now + Duration::from_secs(365 * 86_400))
}

const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A source that fails is usually a database that everyone is asking: back off far.
pub(in crate::cache) fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(MAX_BACKOFF)
        .with_jitter()
        .without_max_times()
        .build()
}

pub(in crate::cache) fn reading_failed(error: SourceError) -> Error {
    Error::new(ErrorKind::Source, "reading the source failed; it is tried again").with_source(error)
}

pub(in crate::cache) fn source_is_slow(limit: Duration) -> Error {
    Error::new(
        ErrorKind::Source,
        format!("the source yielded nothing for {limit:?}; it is tried again, or raise the limit"),
    )
}
