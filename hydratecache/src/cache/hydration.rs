//! The handle of a running hydration: when it is ready, how fresh it is, what it has done.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::leases::Leases;
use super::stats::Counters;
use super::{HydrationStats, Lease, Loaded};
use crate::transport::{Fence, Transport};
use crate::{Error, ErrorKind, Key, Result};

/// A running hydration. Dropping it stops it; the cache keeps what it holds and is not updated any
/// more.
#[must_use = "dropping a hydration stops it"]
pub struct Hydration<T> {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) can_reload: bool,
    pub(super) status: watch::Receiver<Status>,
    pub(super) commands: mpsc::Sender<Command<T>>,
    pub(super) counters: Arc<Counters>,
    pub(super) leases: Arc<Leases>,
    pub(super) _task: AbortOnDropHandle<()>,
}

/// What readers are asking of the hydrator's task, which alone writes to the cache.
pub(super) enum Command<T> {
    Fill { lease: Lease, loaded: Loaded<T>, stored: oneshot::Sender<Result<bool>> },
    Reload,
    Trust,
}

/// Where the hydrator stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Status {
    /// The cache was filled once, or there is no source to fill it from.
    pub(super) is_warm: bool,
    /// Since when the link is lost.
    pub(super) disrupted_since: Option<Instant>,
    /// Since when a gap is not repaired.
    pub(super) unrepaired_since: Option<Instant>,
    /// A gap was ignored: nothing proves freshness any more.
    pub(super) is_unproven: bool,
    /// Everything accepted before this was applied.
    pub(super) proven_at: Option<Instant>,
    /// The latest fence that was applied.
    pub(super) fence: Option<Fence>,
    /// Why the latest reload failed; none once one succeeds.
    pub(super) source_error: Option<Error>,
}

/// How fresh a hydrated cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    state: State,
    proven_at: Option<Instant>,
}

/// Whether reads of a hydrated cache can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// The cache is being filled for the first time.
    Warming,
    /// Every message has been applied, as far as the broker has delivered.
    Live,
    /// The link is lost, or a gap is not repaired yet: entries may be stale. Since when.
    Suspect(Instant),
    /// The hydration ended: the transport was closed, or the source or a codec panicked.
    Stopped,
}

impl Freshness {
    /// Whether reads can be trusted.
    #[must_use]
    pub fn state(self) -> State {
        self.state
    }

    /// Whether entries may be stale without anyone knowing which.
    #[must_use]
    pub fn is_suspect(self) -> bool {
        matches!(self.state, State::Suspect(_) | State::Stopped)
    }

    /// The proven bound: every write that the broker had accepted longer ago than this is in the
    /// cache. It grows while nothing proves more, and is `None` before the first proof.
    ///
    /// Proofs come with every fence: with every liveness ping of the transport, and with
    /// [`Hydration::caught_up`]. How far they reach is the transport's
    /// [`FenceScope`](crate::FenceScope).
    #[must_use]
    pub fn proven_within(self) -> Option<Duration> {
        self.proven_at.map(|at| at.elapsed())
    }
}

impl<T: Send + Sync + 'static> Hydration<T> {
    /// How long [`caught_up`](Self::caught_up) waits for the hydrator to apply what has arrived.
    const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

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

    /// How fresh the cache is right now. Takes a few tens of nanoseconds.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        let is_stopped = self.commands.is_closed();
        let status = self.status.borrow();
        let suspect = [status.disrupted_since, status.unrepaired_since].into_iter().flatten().min();
        let state = match suspect {
            _ if is_stopped => State::Stopped,
            _ if !status.is_warm => State::Warming,
            Some(since) => State::Suspect(since),
            None => State::Live,
        };
        Freshness { state, proven_at: status.proven_at }
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
    /// Costs one round trip to the broker. A gap that is not repaired yet is not waited for:
    /// look at the returned freshness.
    ///
    /// # Errors
    /// Those of [`Transport::fence`]; `Timeout` if the hydrator is too far behind; `Closed`.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn caught_up(&self) -> Result<Freshness> {
        let fence = self.transport.fence().await?;
        let mut status = self.status.clone();
        let applied = status.wait_for(|status| status.fence >= Some(fence));
        match timeout(Self::CATCH_UP_LIMIT, applied).await {
            Ok(Ok(_)) => Ok(self.freshness()),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "the hydrator is more than 30 s behind; is its runtime blocked?",
            )),
        }
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
        let (stored, answer) = oneshot::channel();
        let fill = Command::Fill { lease, loaded, stored };
        self.commands.send(fill).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
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

fn stopped() -> Error {
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
