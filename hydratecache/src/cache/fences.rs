//! Fences on demand, each shared by all who asked before it went out, and fences on an interval.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared, WeakShared};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::hydration::{Status, stopped};
use super::stats::Counters;
use crate::count::Stopwatch;
use crate::transport::{Fence, Transport};
use crate::{Error, ErrorKind, Result};

/// How long a fence that came back may wait until the hydrator has applied what is before it.
const CATCH_UP_LIMIT: Duration = Duration::from_secs(30);

/// Asks for fences, one at a time, each over when the hydrator has applied everything before it.
///
/// Who asks while one is under way waits for the next: the one under way may have gone out before
/// what the caller wants to be proven.
#[derive(Clone)]
pub(super) struct Fences {
    transport: Arc<dyn Transport>,
    status: watch::Receiver<Status>,
    counters: Arc<Counters>,
    rounds: Arc<Mutex<Rounds>>,
}

type Asking = BoxFuture<'static, Result<Fence>>;

/// Held by those who wait, and by nobody else: a fence that nobody waits for is not asked for.
#[derive(Default)]
struct Rounds {
    /// It went out, not before this.
    under_way: Option<(Instant, WeakShared<Asking>)>,
    /// It will go out when the one under way is back.
    next: Option<WeakShared<Asking>>,
}

impl Fences {
    pub(super) fn new(
        transport: Arc<dyn Transport>,
        status: watch::Receiver<Status>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { transport, status, counters, rounds: Arc::default() }
    }

    /// A fence that goes out after this call. Dropping it takes it from nobody else.
    pub(super) fn ask(&self) -> Shared<Asking> {
        self.next(&mut self.lock())
    }

    /// The fence under way, if it went out at `earliest` or later; else as [`ask`](Self::ask).
    pub(super) fn ask_since(&self, earliest: Instant) -> Shared<Asking> {
        let mut rounds = self.lock();
        let young = rounds.under_way.as_ref().filter(|(at, _)| *at >= earliest);
        let young = young.and_then(|(_, under_way)| under_way.upgrade());
        young.unwrap_or_else(|| self.next(&mut rounds))
    }

    fn next(&self, rounds: &mut Rounds) -> Shared<Asking> {
        if let Some(next) = rounds.next.as_ref().and_then(WeakShared::upgrade) {
            return next;
        }
        let before = rounds.under_way.as_ref().and_then(|(_, under_way)| under_way.upgrade());
        let fences = self.clone();
        let next = async move {
            if let Some(before) = before {
                // Its answer goes to those who waited for it; here only the end matters.
                let _ = before.await;
            }
            fences.goes_out();
            fences.counters.fences.increment();
            let fence = fences.asked().await;
            fences.counters.fence_failures.add(u64::from(fence.is_err()));
            fence
        };
        let next = next.boxed().shared();
        rounds.next = next.downgrade();
        next
    }

    /// Who asks from now on waits for another one.
    fn goes_out(&self) {
        let mut rounds = self.lock();
        rounds.under_way = rounds.next.take().map(|next| (Instant::now(), next));
    }

    /// A fence that is asked for now, when everything before it is applied.
    async fn asked(&self) -> Result<Fence> {
        let seconds = &self.counters.fence_seconds;
        let begun = Stopwatch::start();
        let asking = AssertUnwindSafe(async { self.transport.fence().await }).catch_unwind();
        let fence = asking.await.unwrap_or_else(|_| {
            let what = "the transport panicked while it was asked for a fence";
            Err(Error::new(ErrorKind::Broker, what))
        })?;
        seconds.stop(begun);
        self.applied(fence).await
    }

    /// Waits until everything before `fence` is applied.
    async fn applied(&self, fence: Fence) -> Result<Fence> {
        let mut status = self.status.clone();
        let applied = status.wait_for(|status| status.fence >= Some(fence));
        match timeout(CATCH_UP_LIMIT, applied).await {
            Ok(Ok(_)) => Ok(fence),
            Ok(Err(_)) => Err(stopped()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "the hydrator is more than 30 s behind; is its runtime blocked?",
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for a fence whenever the latest one, whoever asked for it, is older than `interval`.
///
/// All hydrations of one transport see all of its fences, so there is about one an interval for
/// all of them; a jitter of a tenth lets one be the first.
pub(super) async fn on_interval(fences: Fences, interval: Duration) {
    let mut status = fences.status.clone();
    loop {
        let jitter = interval.mul_f64(0.1 * rand::random::<f64>());
        let due = status.borrow_and_update().fence_due(Instant::now(), interval + jitter);
        tokio::select! {
            () = sleep_until(due) => {}
            changed = status.changed() => match changed {
                Ok(()) => continue,
                Err(_) => return,
            }
        }
        match fences.ask().await {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Closed => return,
            // Whoever reads sees the proof grow old; the link says why.
            Err(_) => sleep(interval).await,
        }
    }
}

impl Status {
    /// When the next fence is to be asked for: at once where the latest one came too early to
    /// prove anything.
    fn fence_due(&self, now: Instant, interval: Duration) -> Instant {
        match self.fence.map(Fence::asked_at) {
            Some(latest) if !self.can_prove() || self.proven_at >= Some(latest) => {
                latest.checked_add(interval).unwrap_or(now + Duration::from_secs(365 * 86_400))
            }
            _ => now,
        }
    }
}

impl fmt::Debug for Fences {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fences").field("transport", &self.transport).finish_non_exhaustive()
    }
}
