//! The handle of a running hydration: when it is ready, how fresh it is, what it has done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::fences::Fences;
use super::freshness::Gauge;
use super::leases::Leases;
use super::stats::Counters;
use super::warm::Head;
use super::witness::Witness;
use super::{Entry, Freshness, HydrationStats, Lease, Loaded, State};
use crate::transport::{Fence, Transport};
use crate::{Error, ErrorKind, Key, Result, Token};

/// A running hydration. Dropping it stops it; the cache keeps what it holds and is not updated any
/// more.
#[must_use = "dropping a hydration stops it"]
pub struct Hydration<T> {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) can_reload: bool,
    /// The cache keeps every entry that it is given, to its end.
    pub(super) keeps_all: bool,
    pub(super) fences: Fences,
    pub(super) gauge: Arc<Gauge>,
    pub(super) witness: Witness,
    pub(super) status: watch::Receiver<Status>,
    pub(super) commands: mpsc::Sender<Command<T>>,
    pub(super) counters: Arc<Counters>,
    pub(super) leases: Arc<Leases>,
    pub(super) _tasks: Vec<AbortOnDropHandle<()>>,
}

/// What readers are asking of the hydrator's task, which alone writes to the cache.
pub(super) enum Command<T> {
    Fill {
        lease: Lease,
        loaded: Option<Loaded<T>>,
        answer: oneshot::Sender<Result<Filled<T>>>,
    },
    /// As `Fill`, where the cache has another value of the same version.
    Repair {
        lease: Lease,
        loaded: Option<Loaded<T>>,
        answer: oneshot::Sender<Result<Filled<T>>>,
    },
    Reload,
    Trust,
    /// How far each publisher has come; none while values of messages are being loaded.
    Heads {
        answer: oneshot::Sender<Option<Vec<Head>>>,
    },
}

/// Where the hydrator stands.
#[derive(Debug, Clone, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each begins and ends on its own")]
pub(super) struct Status {
    /// The cache was filled once, or there is no source to fill it from.
    pub(super) is_warm: bool,
    /// Since when the link is lost.
    pub(super) disrupted_since: Option<Instant>,
    /// Since when a gap is not repaired.
    pub(super) unrepaired_since: Option<Instant>,
    /// Since when messages are missing that their publishers are asked for.
    pub(super) missing_since: Option<Instant>,
    /// A gap was ignored: nothing proves freshness any more.
    pub(super) is_unproven: bool,
    /// An entry may be one that is gone: the source is to be read once more.
    pub(super) is_unsettled: bool,
    /// A fence covers one of several servers only: it proves nothing.
    pub(super) is_partial: bool,
    /// A key was dropped because its message could not be used: the source may have it.
    pub(super) has_holes: bool,
    /// How often entries may have gone that no message took: whoever reads the cache meanwhile may miss
    /// them.
    pub(super) shaken: u64,
    /// Everything accepted before this was applied.
    pub(super) proven_at: Option<Instant>,
    /// The latest fence that was applied.
    pub(super) fence: Option<Fence>,
    /// Why the latest reload failed; none once one succeeds.
    pub(super) source_error: Option<Error>,
}

/// What became of a loaded value.
#[derive(Debug)]
pub(super) enum Filled<T> {
    /// It is in the cache.
    Stored(Entry<T>),
    /// The cache holds the same or a newer version.
    Resident,
    /// An update of its key arrived while it was loaded, or may have been lost.
    Overtaken,
    /// It is older than a write that was applied, of which the cache has no value any more.
    Behind,
    /// What it says was removed, or cleared, at its version or a later one; or its life is over.
    Gone,
}

impl Status {
    /// Whether a fence that is applied now proves anything.
    pub(super) fn can_prove(&self) -> bool {
        self.is_warm
            && self.disrupted_since.is_none()
            && self.unrepaired_since.is_none()
            && self.missing_since.is_none()
            && !self.is_unproven
            && !self.is_unsettled
            && !self.is_partial
    }

    /// Whether the cache has every entry, as far as fences prove it.
    pub(super) fn is_whole(&self) -> bool {
        self.can_prove() && !self.has_holes
    }

    /// Whether it has, but for keys that are about to be looked up.
    pub(super) fn is_soon_whole(&self) -> bool {
        self.is_unsettled && Self { is_unsettled: false, ..self.clone() }.is_whole()
    }

    /// Whether the cache claims that all entries are right, as far as anyone has heard.
    pub(super) fn is_sound(&self) -> bool {
        self.state() == State::Live && !self.is_unsettled
    }

    /// Everything accepted before `at` has been applied, unless something is missing.
    pub(super) fn prove(&mut self, at: Instant) {
        if self.can_prove() {
            self.proven_at = self.proven_at.max(Some(at));
        }
    }

    pub(super) fn suspect(&mut self, since: Instant) {
        self.unrepaired_since = self.unrepaired_since.or(Some(since));
    }

    pub(super) fn repaired(&mut self) {
        self.unrepaired_since = None;
        self.source_error = None;
        self.is_unproven = false;
    }

    pub(super) fn state(&self) -> State {
        let suspect = [self.disrupted_since, self.unrepaired_since, self.missing_since];
        let suspect = suspect.into_iter().flatten().min();
        match suspect {
            _ if !self.is_warm => State::Warming,
            Some(since) => State::Suspect(since),
            None => State::Live,
        }
    }
}

impl<T: Send + Sync + 'static> Hydration<T> {
    /// How long [`wait_for`](Self::wait_for) waits: longer than a broker's restart takes.
    const WRITE_LIMIT: Duration = Duration::from_secs(30);

    /// Waits until the cache has been filled from the source. Without one, or in a mode that fills
    /// on demand, that is so from the start.
    ///
    /// # Errors
    /// `Source` says why the latest attempt failed; attempts go on, and this can be called again.
    /// `Closed` if the hydration ended.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn ready(&self) -> Result<()> {
        let mut status = self.status.clone();
        let known = |status: &Status| status.is_warm || status.source_error.is_some();
        let status = status.wait_for(known).await.map_err(|_| stopped())?;
        match &status.source_error {
            Some(error) if !status.is_warm => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// How fresh the cache is right now. Takes a few nanoseconds.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.gauge.sample().freshness()
    }

    /// Waits until the cache's state satisfies `condition`, as after an outage.
    ///
    /// # Errors
    /// `Closed` if the hydration ended.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait_until(&self, condition: impl Fn(Freshness) -> bool + Send) -> Result<()> {
        let mut status = self.status.clone();
        loop {
            status.borrow_and_update();
            if condition(self.freshness()) {
                return Ok(());
            }
            status.changed().await.map_err(|_| stopped())?;
        }
    }

    /// Waits until every write that the broker had accepted before this call is in the cache.
    ///
    /// Costs one round trip to the broker, which all who wait at the same time share. A gap that is not repaired
    /// yet is not waited for: look at the returned freshness.
    ///
    /// # Errors
    /// Those of [`Transport::fence`]; `Timeout` if the hydrator is too far behind; `Closed`.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn caught_up(&self) -> Result<Freshness> {
        self.fences.ask().await?;
        Ok(self.freshness())
    }

    /// Waits until the write that `token` names is in the cache, or one that replaced it.
    ///
    /// If it is there already, nobody is asked. Else it costs a fence at most, which all who wait
    /// share. If the write was lost on its way here, the repair of that gap is waited for. That it was lost must
    /// show first: at the link, or by a later message or heartbeat of its publisher. A loss that nothing shows before the
    /// fence comes back is not waited for; brokers whose links drop nothing in silence have none.
    ///
    /// # Errors
    /// `Timeout` after 30 s, as when the token is of another topic and the fence covers one server
    /// of a cluster only; `Unproven` if a gap was [ignored](super::GapAction::Ignore); those of
    /// [`Transport::fence`]; `Closed`.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn wait_for(&self, token: impl Into<Token> + Send) -> Result<Freshness> {
        let token = token.into();
        let applied = timeout(Self::WRITE_LIMIT, self.witness.applied(token)).await;
        applied.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Timeout,
                format!(
                    "the write {token} was not seen within {:?}; is it of this topic?",
                    Self::WRITE_LIMIT
                ),
            ))
        })?;
        Ok(self.freshness())
    }

    /// The right to store what is now loaded for `key`. Take it before the load begins.
    ///
    /// This closes the fill race: a value that was loaded before a write, and stored after the
    /// write's message, would be stale for ever.
    #[must_use]
    pub fn lease(&self, key: Key) -> Lease {
        self.leases.take(key)
    }

    /// Stores what was loaded under `lease`, unless something newer arrived meanwhile. `true`: it
    /// was stored.
    ///
    /// # Errors
    /// `InvalidInput` if the lease is of another hydration, `InvalidVersion` if the value has a
    /// version and the channel's clock gives them, `Closed`.
    ///
    /// # Cancel safety
    /// The value may be stored if the future was polled.
    pub async fn fill(&self, lease: Lease, loaded: Loaded<T>) -> Result<bool> {
        if !lease.is_of(&self.leases) {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("the lease of key {:?} belongs to another hydration", lease.key().as_str()),
            ));
        }
        let filled = fill(&self.commands, lease, Some(loaded)).await?;
        Ok(matches!(filled, Filled::Stored(_)))
    }

    /// Reads the source again, as after a gap. Returns at once; the cache is suspect until it is
    /// done. In [`Mode::Invalidate`](super::Mode) every entry is dropped instead.
    ///
    /// # Errors
    /// `InvalidInput` if there is no source; `Closed` if the hydration ended.
    ///
    /// # Cancel safety
    /// Either nothing happens or the reload begins.
    pub async fn reload(&self) -> Result<()> {
        if !self.can_reload {
            let what = "there is no source to reload from; give one with with_source";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        self.commands.send(Command::Reload).await.map_err(|_| stopped())
    }

    /// Takes the cache as repaired, because the caller repaired it.
    ///
    /// # Errors
    /// `Closed` if the hydration ended.
    ///
    /// # Cancel safety
    /// Either nothing happens or the cache is trusted.
    pub async fn trust(&self) -> Result<()> {
        self.commands.send(Command::Trust).await.map_err(|_| stopped())
    }

    /// What the hydration has done so far.
    #[must_use]
    pub fn stats(&self) -> HydrationStats {
        self.counters.stats()
    }
}

/// Gives the hydrator what was loaded under `lease`, or that there is nothing to load.
pub(super) async fn fill<T: Send + Sync>(
    commands: &mpsc::Sender<Command<T>>,
    lease: Lease,
    loaded: Option<Loaded<T>>,
) -> Result<Filled<T>> {
    let (answer, filled) = oneshot::channel();
    let fill = Command::Fill { lease, loaded, answer };
    commands.send(fill).await.map_err(|_| stopped())?;
    filled.await.map_err(|_| stopped())?
}

pub(super) fn stopped() -> Error {
    Error::closed("the hydration, or the transport under it,")
}

impl<T> fmt::Debug for Hydration<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hydration")
            .field("transport", &self.transport)
            .field("status", &*self.status.borrow())
            .finish_non_exhaustive()
    }
}
