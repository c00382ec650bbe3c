//! The publishing side: a connection that is kept up by a task of its own and used by everyone in
//! order.

mod upkeep;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::future::{Either, ready};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tokio::task::coop::{consume_budget, unconstrained};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use super::{Connector, Peer, Publishing, Sender, Settings};
use crate::{Error, ErrorKind, Result};
use upkeep::keep_up;

/// How long a close waits for the answers to what was sent.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Where publishes go.
pub struct Publisher<S: Sender> {
    way: watch::Receiver<Option<Way<S>>>,
    peer: Peer,
    limit: Duration,
    /// Those who found no connection wait here in order; who comes after them queues behind.
    waiting: AtomicUsize,
    turns: Arc<Mutex<()>>,
    under_way: TaskTracker,
    /// From then on nobody waits for a connection.
    closing: CancellationToken,
    /// From then on there is none.
    closed: CancellationToken,
    _keeper: AbortOnDropHandle<()>,
}

/// A sender whose connection is there, as far as is known.
#[derive(Clone)]
struct Way<S> {
    sender: S,
    /// Clients answer what is under way when a connection ends, but not all what is asked after.
    lost: CancellationToken,
}

/// Says over what is published now: for those who keep a connection up themselves.
pub struct Current<S: Sender> {
    way: watch::Sender<Option<Way<S>>>,
    closed: CancellationToken,
}

impl<S: Sender> Publisher<S> {
    /// Publishes over `connection`, and over new ones of `connector` once it is lost.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn own<C>(
        peer: Peer,
        settings: &Settings,
        connector: C,
        connection: C::Connection,
    ) -> Arc<Self>
    where
        C: Connector<Connection: Publishing<Sender = S>>,
    {
        let (upkeep_peer, limits) = (peer.clone(), settings.clone());
        Self::kept_by(peer, settings.publish_limit, move |current| {
            // From the start, so that nobody waits for what is there.
            current.made(connection.sender());
            keep_up(upkeep_peer, limits, connector, connection, current)
        })
    }

    /// Publishes over what `keep` says, whose future goes on until the publisher is closed. What it
    /// says before it returns the future holds from the start.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn kept_by<F>(
        peer: Peer,
        publish_limit: Duration,
        keep: impl FnOnce(Current<S>) -> F,
    ) -> Arc<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let closed = CancellationToken::new();
        let (sender, way) = watch::channel(None);
        let keeping = keep(Current { way: sender, closed: closed.clone() });
        let until_closed = closed.clone();
        let keeper = async move {
            let _ = until_closed.run_until_cancelled(keeping).await;
        };
        Arc::new(Self {
            way,
            peer,
            limit: publish_limit,
            waiting: AtomicUsize::new(0),
            turns: Arc::default(),
            under_way: TaskTracker::new(),
            closing: CancellationToken::new(),
            closed,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        })
    }

    /// Publishes `batch` in order. With a connection it is on its way after the first poll.
    ///
    /// # Errors
    /// What the sender says; `Unavailable` if there was no connection within the limit,
    /// `UnknownOutcome` if it was lost or the answer took too long, `Closed`.
    ///
    /// # Cancel safety
    /// A dropped future leaks nothing. The batch may still be sent if the future was polled.
    pub async fn publish(self: &Arc<Self>, batch: S::Batch) -> Result<()> {
        let _under_way = self.under_way.token();
        // From here on a close waits for this one, unless it has begun: then the connection may be
        // gone already, and a sender would say so instead.
        if self.closing.is_cancelled() {
            return Err(self.was_closed());
        }
        // The first poll decides the order, so Tokio's budget must not turn it into a pause; a
        // loop of publishes that fail at once still has to let others run.
        let answer = unconstrained(self.publish_now(batch)).await;
        consume_budget().await;
        answer
    }

    /// Waits for the answers to what was sent, for a second at most, and ends the connection.
    ///
    /// # Cancel safety
    /// Once polled, the connection ends even if the future is dropped.
    pub(super) async fn close(&self) {
        let _ends = self.closed.clone().drop_guard();
        self.closing.cancel();
        self.under_way.close();
        // Whoever is still under way then is answered by the end of the connection.
        let _ = timeout(ANSWER_LIMIT, self.under_way.wait()).await;
    }

    async fn publish_now(self: &Arc<Self>, batch: S::Batch) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        let way = self.way.borrow().clone();
        let nobody_waits = self.waiting.load(Ordering::SeqCst) == 0;
        let Some(way) = way.filter(|_| nobody_waits) else {
            return self.wait_in_turn(batch, deadline).await;
        };
        self.answer(deadline, &way.lost, way.sender.send(batch)).await
    }

    /// Takes its place behind those who wait already, with the first poll, and then waits in a task:
    /// a caller who stops polling holds up nobody behind it.
    async fn wait_in_turn(self: &Arc<Self>, batch: S::Batch, deadline: Instant) -> Result<()> {
        let waiting = Waiting::begin(self.clone());
        let mut turn = Box::pin(self.turns.clone().lock_owned());
        let turn = match futures::poll!(&mut turn) {
            Poll::Ready(turn) => Either::Left(ready(turn)),
            Poll::Pending => Either::Right(turn),
        };
        let publisher = self.clone();
        let task = async move { publisher.publish_in_turn(waiting, turn, batch, deadline).await };
        // Tokio's budget must not tear a large batch apart either, while it is handed over.
        let task = AbortOnDropHandle::new(tokio::spawn(unconstrained(task)));
        task.await.unwrap_or_else(|_| Err(self.was_closed()))
    }

    /// Waits for its turn and for a connection, and hands over before the next one's turn.
    async fn publish_in_turn(
        &self,
        waiting: Waiting<S>,
        turn: impl Future<Output = OwnedMutexGuard<()>>,
        batch: S::Batch,
        deadline: Instant,
    ) -> Result<()> {
        let connected = async {
            let turn = turn.await;
            let way = self.way.clone().wait_for(Option::is_some).await.ok()?.clone()?;
            Some((turn, way))
        };
        let connected = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(self.was_closed()),
            connected = timeout_at(deadline, connected) => connected.ok().flatten(),
        };
        let (turn, way) = connected.ok_or_else(|| self.unavailable())?;
        let mut sending = Box::pin(way.sender.send(batch));
        // Handed over by the first poll; the answer is not waited for in turn.
        if let Poll::Ready(answer) = futures::poll!(&mut sending) {
            return answer;
        }
        drop(turn);
        drop(waiting);
        self.answer(deadline, &way.lost, sending).await
    }

    async fn answer(
        &self,
        deadline: Instant,
        lost: &CancellationToken,
        sending: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        tokio::select! {
            biased;
            answer = sending => answer,
            () = lost.cancelled() => Err(self.unknown_outcome("the link was lost before the answer")),
            () = sleep_until(deadline) => {
                Err(self.unknown_outcome(format_args!("no answer within {:?}", self.limit)))
            }
        }
    }

    fn unknown_outcome(&self, what: impl fmt::Display) -> Error {
        let advice = "it may have been sent, and sending it again is harmless";
        self.error(ErrorKind::UnknownOutcome, format_args!("{what}; {advice}"))
    }

    fn unavailable(&self) -> Error {
        let what = format_args!("no connection within {:?}; nothing was sent", self.limit);
        self.error(ErrorKind::Unavailable, what)
    }

    fn was_closed(&self) -> Error {
        let what = "the transport was closed; nothing was sent";
        self.error(ErrorKind::Closed, what)
    }

    fn error(&self, kind: ErrorKind, what: impl fmt::Display) -> Error {
        Error::new(kind, format!("publishing to {}: {what}", self.peer))
    }
}

impl<S: Sender> fmt::Debug for Publisher<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publisher")
            .field("peer", &self.peer)
            .field("is_connected", &self.way.borrow().is_some())
            .finish_non_exhaustive()
    }
}

impl<S: Sender> Current<S> {
    /// From now on publishes go over `sender`, those first that wait.
    pub fn made(&self, sender: S) {
        self.way.send_replace(Some(Way { sender, lost: self.closed.child_token() }));
    }

    /// The connection is away, and its client will answer what is under way: new publishes wait.
    pub fn away(&self) {
        self.way.send_replace(None);
    }

    /// The connection is gone: new publishes wait. What is under way is of unknown outcome once the
    /// returned guard is dropped; until then its client may still answer.
    pub fn lost(&self) -> impl Drop + Send + use<S> {
        let way = self.way.send_replace(None);
        way.map_or_else(CancellationToken::new, |way| way.lost).drop_guard()
    }
}

impl<S: Sender> fmt::Debug for Current<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

/// One who waits for a connection.
struct Waiting<S: Sender>(Arc<Publisher<S>>);

impl<S: Sender> Waiting<S> {
    fn begin(publisher: Arc<Publisher<S>>) -> Self {
        publisher.waiting.fetch_add(1, Ordering::SeqCst);
        Self(publisher)
    }
}

impl<S: Sender> Drop for Waiting<S> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Publishes over a connection that has just gone.
    #[derive(Clone)]
    struct Gone;

    impl Sender for Gone {
        type Batch = ();

        async fn send(self, (): ()) -> Result<()> {
            Err(Error::new(ErrorKind::Unavailable, "the connection ended"))
        }
    }

    #[tokio::test]
    async fn a_publish_that_a_close_overtook_is_closed_whatever_its_sender_says() {
        let peer = Peer { name: "nobody", system: "nobody", address: "nowhere".into() };
        let publisher = Publisher::kept_by(peer, Duration::from_secs(5), |current| {
            current.made(Gone);
            async move {
                let _current = current;
                std::future::pending::<()>().await;
            }
        });
        let kind = async || publisher.publish(()).await.map_err(|error| error.kind());
        assert_eq!(kind().await, Err(ErrorKind::Unavailable));
        publisher.close().await;
        assert_eq!(kind().await, Err(ErrorKind::Closed));
    }
}
