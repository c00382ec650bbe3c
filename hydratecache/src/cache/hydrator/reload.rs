//! Reading the source: when, how it joins what arrives meanwhile, and what a failure means.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use tokio::time::{Instant, timeout_at};

use super::{Ended, Hydrator, replay};
use crate::cache::ledger::{self, Scanned};
use crate::cache::stats::Counters;
use crate::cache::warm::{self, Came, Damage, Head, Losses, Peers, Purpose};
use crate::cache::{Loaded, LocalCache, Mode, Source, SourceError};
use crate::request::MOST_LOST;
use crate::transport::Gap;
use crate::{Error, ErrorKind, Key, Result};

/// How often a key is read again because an update overtook its row, before all is read again.
const READ_AGAIN: usize = 8;

/// The longest rest between two reloads: entries are suspect meanwhile.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// How many loads a reload has under way in [`Mode::UpdateIfPresent`].
const LOADS: usize = 16;

/// How often other replicas are asked, where one goes away amid its copy, or was not told of all that was lost
/// here, before the source is read.
const MOST_ATTEMPTS: usize = 8;

/// How many losses that an answer did not cover are named before all others: so all that gave such answers
/// give no more.
const MOST_NAMED_FIRST: usize = MOST_LOST / MOST_ATTEMPTS;

/// What a reload yields: a key, and its value if it has one.
type Row<T> = Result<(Key, Option<Loaded<T>>), SourceError>;

/// Where a reload came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    Source,
    /// All that another replica has.
    Copy,
    /// What another replica has and this one had not.
    Digest,
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// The source is to be read; until that is done, entries are suspect.
    pub(super) fn reload_soon(&mut self) {
        self.damage.needs_source();
        self.repair_soon();
    }

    /// What was lost is to be had from another replica, or from the source; until then entries are suspect.
    pub(super) fn repair_soon(&mut self) {
        let now = Instant::now();
        let jitter = self.settings.reload_jitter.mul_f64(fastrand::f64());
        self.reload_at = self.reload_at.or(Some(self.rests_until.max(now + jitter)));
        self.change(|status| status.suspect(now));
    }

    /// Reads the source and applies it, and everything that arrives meanwhile.
    pub(super) async fn reload(&mut self) -> Result<(), Ended> {
        self.reload_at = None;
        if self.settled_at.is_none_or(|settled_at| settled_at <= Instant::now()) {
            // This decides on all claims so far.
            self.claims.clear();
            (self.settle_at, self.settled_by) = (None, None);
        }
        // Those that come meanwhile are not in what is being read.
        let dropped = self.dropped;
        self.is_scanning = true;
        let damage = std::mem::take(&mut self.damage);
        let scanned = self.copy_or_scan(&damage).await;
        self.is_scanning = false;
        let (outcome, from) = match scanned {
            ControlFlow::Break(ended) => return Err(ended),
            ControlFlow::Continue(outcome) => outcome,
        };
        let (scanned, gone) = match from {
            From::Digest => self.ledger.end_digest(),
            From::Source | From::Copy if outcome.is_ok() => self.ledger.end_scan(self.cache.keys()),
            From::Source | From::Copy => self.ledger.end_scan(Vec::new()),
        };
        match outcome {
            Err(error) => {
                self.damage.remains(damage);
                self.reload_failed(error);
            }
            Ok(()) if scanned == Scanned::Overtaken => {
                self.damage.remains(damage);
                self.repair_soon();
            }
            Ok(()) => {
                self.damage.remember(damage);
                for key in gone {
                    match from {
                        From::Source => self.drop_gone(&key).await,
                        From::Copy | From::Digest => self.drop_absent(&key).await,
                    }
                }
                let Counters { reloads, copies, digests, .. } = &*self.counters;
                let rung = match from {
                    From::Source => reloads,
                    From::Copy => copies,
                    From::Digest => digests,
                };
                rung.increment();
                self.backoff = backoff();
                let (is_last, is_filled) = (self.reload_at.is_none(), self.dropped == dropped);
                self.change(|status| {
                    status.is_warm = true;
                    status.has_holes &= !is_filled;
                    if is_last {
                        // Older messages may still be queued: how fresh this is, the next fence proves.
                        status.repaired();
                    }
                });
                if from == From::Source {
                    self.coverage.scanned();
                    self.contacts = std::mem::take(&mut self.contacts).or_source();
                }
                self.settled();
            }
        }
        Ok(())
    }

    pub(super) fn reload_failed(&mut self, error: Error) {
        let (system, topic) = (self.channel.system(), &self.channel.topic);
        tracing::warn!(messaging.system = system, messaging.destination.name = %topic, %error, "reload failed");
        self.counters.reload_failures.increment();
        let pause = self.backoff.next().unwrap_or(MAX_BACKOFF);
        self.reload_at = Some(Instant::now() + pause);
        self.change(|status| status.source_error = Some(error));
    }

    /// Applies a copy of another replica if it may and there is one to be had, and else what the source
    /// yields.
    async fn copy_or_scan(&mut self, damage: &Damage) -> ControlFlow<Ended, (Result<()>, From)> {
        let Some(source) = self.settings.source.clone() else {
            let what = "there is no source to reload from; give one with with_source";
            let error = Error::new(ErrorKind::InvalidInput, what);
            return ControlFlow::Continue((Err(error), From::Source));
        };
        let peers = self.peers.clone();
        if let Some(peers) = peers.as_ref().filter(|_| self.may_copy(damage))
            && let Some(from) = self.copy(peers, &source, damage).await?
        {
            return ControlFlow::Continue((Ok(()), from));
        }
        let _announced = peers.map(|peers| peers.announce());
        let began = Instant::now();
        self.ledger.begin_scan();
        self.coverage.begin_scan();
        let rows: BoxStream<'_, Row<T>> = match self.settings.mode {
            Mode::UpdateIfPresent => {
                // In order, as an index is read best, and a simulation repeats.
                let mut keys = self.cache.keys();
                keys.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
                loads(&source, keys)
            }
            _ => source.scan().map(|row| row.map(|(key, row)| (key, Some(row)))).boxed(),
        };
        let outcome = self.scan(&source, rows, Some(self.settings.source_limit)).await?;
        let rest = LONGEST_REST.min(began.elapsed().saturating_mul(9));
        self.rests_until = Instant::now() + rest;
        ControlFlow::Continue((outcome, From::Source))
    }

    /// Whether a copy may be as good as the source: its sender will have heard of all that was lost here,
    /// and its fence covers all that was written.
    fn may_copy(&self, damage: &Damage) -> bool {
        let status = self.status.borrow();
        let is_asked_for = if status.is_warm {
            damage.may_copy()
        } else {
            self.contacts.is_gathering() && self.epoch == 0
        };
        is_asked_for && !status.is_partial
    }

    /// Applies a copy of another replica, or what differs from it. None: there is none, and the source is
    /// to be read.
    async fn copy(
        &mut self,
        peers: &Peers<T>,
        source: &Arc<dyn Source<T>>,
        damage: &Damage,
    ) -> ControlFlow<Ended, Option<From>> {
        let is_filled = !self.contacts.is_gathering();
        let mut purpose = if is_filled { Purpose::Repair } else { Purpose::Fill };
        let mut uncovered = Vec::new();
        for _ in 0..MOST_ATTEMPTS {
            let losses = damage.to_be_covered(&uncovered);
            let came = self.take_copy(peers, source, (purpose, losses)).await?;
            if self.ledger.is_overtaken() {
                return ControlFlow::Continue(Some(From::Copy));
            }
            match came {
                None => break,
                Some(Came::Part) => {}
                Some(Came::TooMuch) => purpose = Purpose::Fill,
                Some(Came::Whole { heads, is_digest }) => {
                    let more = damage.uncovered_by(&heads);
                    if more.is_empty() {
                        self.join(heads).await;
                        let from = if is_digest { From::Digest } else { From::Copy };
                        return ControlFlow::Continue(Some(from));
                    }
                    uncovered.splice(0..0, more.into_iter().take(MOST_NAMED_FIRST));
                }
            }
        }
        ControlFlow::Continue(None)
    }

    /// Applies what comes of another replica, which may not have been told of all these losses. None: nobody is to
    /// be waited for, and the source is to be read.
    async fn take_copy(
        &mut self,
        peers: &Peers<T>,
        source: &Arc<dyn Source<T>>,
        (purpose, losses): (Purpose, Losses),
    ) -> ControlFlow<Ended, Option<Came>> {
        // Before the copy is asked for: what arrived until then is in it. Of what an earlier one said, nothing
        // counts.
        self.ledger.begin_copy();
        let fallback = (source.clone(), self.settings.source_limit);
        let warm::Copy { rows, came } = warm::copy(peers, purpose, losses, Some(fallback));
        let outcome = self.scan(source, rows, None).await?;
        if self.status.borrow().disrupted_since.is_some() {
            // Neither it nor the source is of use now.
            self.ledger.overtaken();
        }
        if self.ledger.is_overtaken() || outcome.is_err() {
            return ControlFlow::Continue(None);
        }
        ControlFlow::Continue(came.await.ok())
    }

    /// This replica has now what one with these heads has.
    async fn join(&mut self, heads: Vec<Head>) {
        if !self.contacts.is_gathering() {
            let Self { contacts, progress, .. } = &mut *self;
            contacts.repaired(&heads, |origin| progress.knows(origin));
        }
        for missing in self.contacts.copied(&heads) {
            self.gap(Gap::Known(missing)).await;
        }
        self.coverage.joined(&heads);
        for head in heads {
            self.progress.handled(Some(head.position));
        }
    }

    /// Applies `rows`, which the source yields within `limit` of one another, or which are of a copy, that
    /// has limits of its own; and everything that arrives meanwhile.
    /// `Break`: the transport was closed.
    async fn scan<'a>(
        &mut self,
        source: &'a Arc<dyn Source<T>>,
        mut rows: BoxStream<'a, Row<T>>,
        mut limit: Option<Duration>,
    ) -> ControlFlow<Ended, Result<()>> {
        // Keys whose update arrived before their row: which of the two is newer is not known.
        let (mut again, mut rounds) = (Vec::new(), READ_AGAIN);
        // Whether whoever sends a copy was told of all that was lost here, is known at its end.
        let epoch = if limit.is_some() { self.epoch } else { 0 };
        let mut deadline = after(limit);
        loop {
            if limit.is_none() && self.epoch > 0 && self.ledger.is_overtaken() {
                // What was lost here, a copy does not bring.
                return ControlFlow::Continue(Ok(()));
            }
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
                        rows = loads(source, std::mem::take(&mut again));
                        limit = Some(self.settings.source_limit);
                        deadline = after(limit);
                    }
                    Ok(Some(row)) => {
                        match self.row(row, epoch).await {
                            Ok(overtaken) => again.extend(overtaken),
                            Err(error) => return ControlFlow::Continue(Err(error)),
                        }
                        deadline = after(limit);
                    }
                    Err(_) => return ControlFlow::Continue(Err(source_is_slow(self.settings.source_limit))),
                },
            }
        }
    }

    /// Applies a row. Returns its key if an update overtook it and it has no version to tell which
    /// is newer.
    async fn row(&mut self, row: Row<T>, epoch: u32) -> Result<Option<Key>> {
        let (key, loaded) = row.map_err(reading_failed)?;
        if !self.claims.is_empty() && loaded.is_some() {
            // It is there, and whatever removes it will be heard.
            self.claims.remove(&key);
        }
        let version = loaded.as_ref().and_then(Loaded::order);
        let Some(loaded) = loaded else {
            // A key that is gone, unless it came back meanwhile; the end of the scan removes it.
            self.ledger.unseen(&key);
            return Ok(None);
        };
        match self.ledger.scanned(&key, version, loaded.snapshot.as_ref()) {
            ledger::Row::Newest => {
                self.store(&key, loaded, epoch).await?;
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

/// Loads each of `keys` from `source`.
fn loads<T: Send + Sync + 'static>(
    source: &Arc<dyn Source<T>>,
    keys: Vec<Key>,
) -> BoxStream<'_, Row<T>> {
    let load = move |key: Key| source.load(key.clone()).map(|row| row.map(|row| (key, row)));
    stream::iter(keys).map(load).buffer_unordered(LOADS).boxed()
}

/// A deadline so far away that no wait meets it stands for one that no clock can hold.
fn after(limit: Option<Duration>) -> Instant {
    let now = Instant::now();
    limit
        .and_then(|limit| now.checked_add(limit))
        .unwrap_or(now + Duration::from_secs(365 * 86_400))
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
