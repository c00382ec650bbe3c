//! The publishing connection: kept up by a task of its own, used by everyone in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::config::Server;
use futures::future::{Either, ready};
use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Mutex, OwnedMutexGuard, broadcast, watch};
use tokio::task::coop::{consume_budget, unconstrained};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::channel_name::channel_name;
use crate::connection::{Connection, Connector, LONGEST_PAUSE, backoff, ping};
use crate::error::{Attempt, from_fred};

/// How long a close waits for the answers to what was sent.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Where publishes go.
pub(crate) struct Publisher {
    link: watch::Receiver<Option<Link>>,
    address: Arc<str>,
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

/// A client that is connected, as far as is known.
#[derive(Clone)]
struct Link {
    client: Client,
    /// fred answers what is under way when a connection ends, but not what is asked after that.
    lost: CancellationToken,
}

/// How the publishing connection is kept.
pub(crate) struct Upkeep {
    pub(crate) connector: Connector,
    pub(crate) ping_interval: Duration,
    pub(crate) ping_limit: Duration,
}

impl Publisher {
    /// Publishes over `connection`, and over new ones once it is lost.
    pub(crate) fn own(
        connection: Connection,
        upkeep: Upkeep,
        address: Arc<str>,
        limit: Duration,
    ) -> Self {
        let closed = CancellationToken::new();
        let link = Link { client: connection.client.clone(), lost: closed.child_token() };
        let (sender, link) = watch::channel(Some(link));
        let keeper = keep_up(connection, upkeep, address.clone(), sender, closed.clone());
        Self::new(link, address, limit, closed, keeper)
    }

    /// Publishes over a client whose connection is somebody else's care.
    pub(crate) fn borrowed(client: Client, address: Arc<str>, limit: Duration) -> Self {
        let closed = CancellationToken::new();
        let (lost, made) = (client.error_rx(), client.reconnect_rx());
        let is_connected = client.is_connected();
        // fred sends what was under way again, and answers it then: only a close ends the wait.
        let link = Link { client, lost: closed.child_token() };
        let (sender, receiver) = watch::channel(is_connected.then(|| link.clone()));
        Self::new(receiver, address, limit, closed, follow(link, lost, made, sender))
    }

    fn new(
        link: watch::Receiver<Option<Link>>,
        address: Arc<str>,
        limit: Duration,
        closed: CancellationToken,
        keeper: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let until_closed = closed.clone();
        let keeper = async move {
            let _ = until_closed.run_until_cancelled(keeper).await;
        };
        Self {
            link,
            address,
            limit,
            waiting: AtomicUsize::new(0),
            turns: Arc::default(),
            under_way: TaskTracker::new(),
            closing: CancellationToken::new(),
            closed,
            _keeper: AbortOnDropHandle::new(tokio::spawn(keeper)),
        }
    }

    /// Publishes `bodies` in order. With a connection they are on their way after the first poll.
    pub(crate) async fn publish(self: &Arc<Self>, topic: &Topic, bodies: Vec<Bytes>) -> Result<()> {
        let _under_way = self.under_way.token();
        // The first poll decides the order, so Tokio's budget must not turn it into a pause; a
        // loop of publishes that fail at once still has to let others run.
        let answer = unconstrained(self.publish_now(topic, bodies)).await;
        consume_budget().await;
        answer
    }

    /// Waits for the answers to what was sent, for a second at most, and ends the connection.
    ///
    /// # Cancel safety
    /// Once polled, the connection ends even if the future is dropped.
    pub(crate) async fn close(&self) {
        let _ends = self.closed.clone().drop_guard();
        self.closing.cancel();
        self.under_way.close();
        // Whoever is still under way then is answered by the end of the connection.
        let _ = timeout(ANSWER_LIMIT, self.under_way.wait()).await;
    }

    async fn publish_now(self: &Arc<Self>, topic: &Topic, bodies: Vec<Bytes>) -> Result<()> {
        let channel = channel_name(topic);
        let deadline = Instant::now() + self.limit;
        let link = self.link.borrow().clone();
        let nobody_waits = self.waiting.load(Ordering::SeqCst) == 0;
        let Some(link) = link.filter(|_| nobody_waits) else {
            return self.wait_in_turn(channel, bodies, deadline).await;
        };
        self.answer(deadline, &link.lost, send(link.client, channel, bodies)).await
    }

    /// Takes its place behind those who wait already, with the first poll, and then waits in a task:
    /// a caller who stops polling holds up nobody behind it.
    async fn wait_in_turn(
        self: &Arc<Self>,
        channel: String,
        bodies: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<()> {
        let waiting = Waiting::begin(self.clone());
        let mut turn = Box::pin(self.turns.clone().lock_owned());
        let turn = match futures::poll!(&mut turn) {
            Poll::Ready(turn) => Either::Left(ready(turn)),
            Poll::Pending => Either::Right(turn),
        };
        let publisher = self.clone();
        let task = async move {
            publisher.publish_in_turn(waiting, turn, (channel, bodies), deadline).await
        };
        // Tokio's budget must not tear a large batch apart either, while it is handed over.
        let task = AbortOnDropHandle::new(tokio::spawn(unconstrained(task)));
        task.await.unwrap_or_else(|_| Err(self.was_closed()))
    }

    /// Waits for its turn and for a connection, and hands over before the next one's turn.
    async fn publish_in_turn(
        &self,
        waiting: Waiting,
        turn: impl Future<Output = OwnedMutexGuard<()>>,
        (channel, bodies): (String, Vec<Bytes>),
        deadline: Instant,
    ) -> Result<()> {
        let connected = async {
            let turn = turn.await;
            let link = self.link.clone().wait_for(Option::is_some).await.ok()?.clone()?;
            Some((turn, link))
        };
        let connected = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(self.was_closed()),
            connected = timeout_at(deadline, connected) => connected.ok().flatten(),
        };
        let (turn, link) = connected.ok_or_else(|| self.unavailable())?;
        let mut sending = Box::pin(send(link.client, channel, bodies));
        // Handed over by the first poll; the answer is not waited for in turn.
        if let Poll::Ready(answer) = futures::poll!(&mut sending) {
            return answer.map_err(|error| self.failed(&error));
        }
        drop(turn);
        drop(waiting);
        self.answer(deadline, &link.lost, sending).await
    }

    async fn answer(
        &self,
        deadline: Instant,
        lost: &CancellationToken,
        sending: impl Future<Output = Result<(), FredError>>,
    ) -> Result<()> {
        tokio::select! {
            biased;
            answer = sending => answer.map_err(|error| self.failed(&error)),
            () = lost.cancelled() => Err(self.unknown_outcome("the link was lost before the answer")),
            () = sleep_until(deadline) => {
                Err(self.unknown_outcome(format_args!("no answer within {:?}", self.limit)))
            }
        }
    }

    fn failed(&self, error: &FredError) -> Error {
        from_fred(Attempt::Publish, &self.address, error)
    }

    fn unknown_outcome(&self, what: impl std::fmt::Display) -> Error {
        let address = &self.address;
        Error::new(
            ErrorKind::UnknownOutcome,
            format!(
                "publishing to Redis at {address}: {what}; it may have been sent, and sending it \
                 again is harmless"
            ),
        )
    }

    fn unavailable(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "publishing to Redis at {}: no connection within {:?}; nothing was sent",
                self.address, self.limit
            ),
        )
    }

    fn was_closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!(
                "publishing to Redis at {}: the transport was closed while there was no \
                 connection; nothing was sent",
                self.address
            ),
        )
    }
}

/// Hands every body to fred in the first poll, then waits for the answers.
async fn send(client: Client, channel: String, mut bodies: Vec<Bytes>) -> Result<(), FredError> {
    if bodies.len() == 1 {
        let body = bodies.swap_remove(0);
        return client.publish::<(), _, _>(channel, body).await;
    }
    let pipeline = client.pipeline();
    for body in bodies {
        // Resolves at once, for it only queues.
        pipeline.publish::<(), _, _>(channel.as_str(), body).await?;
    }
    let answers = pipeline.try_all::<i64>().await;
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

/// One who waits for a connection.
struct Waiting(Arc<Publisher>);

impl Waiting {
    fn begin(publisher: Arc<Publisher>) -> Self {
        publisher.waiting.fetch_add(1, Ordering::SeqCst);
        Self(publisher)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Watches the connection and makes a new one when it is lost, without end.
async fn keep_up(
    mut connection: Connection,
    upkeep: Upkeep,
    address: Arc<str>,
    current: watch::Sender<Option<Link>>,
    closed: CancellationToken,
) {
    loop {
        let why = watch_over(&mut connection, &upkeep, &address).await;
        tracing::warn!(messaging.system = "redis", %why, "publishing connection lost");
        let lost = current.send_replace(None);
        drop(connection);
        if let Some(link) = lost {
            link.lost.cancel();
        }
        connection = reconnect(&upkeep.connector).await;
        let (client, lost) = (connection.client.clone(), closed.child_token());
        current.send_replace(Some(Link { client, lost }));
    }
}

/// Follows a client that somebody else keeps connected. What is published while it is not would
/// wait in the client, without a bound, and be sent long after its publisher gave up.
async fn follow(
    link: Link,
    mut lost: broadcast::Receiver<(FredError, Option<Server>)>,
    mut made: broadcast::Receiver<Server>,
    current: watch::Sender<Option<Link>>,
) {
    loop {
        tokio::select! {
            biased;
            error = lost.recv() => match error {
                Err(RecvError::Closed) => return,
                _ => current.send_replace(None),
            },
            server = made.recv() => match server {
                Err(RecvError::Closed) => return,
                _ => current.send_replace(Some(link.clone())),
            },
        };
    }
}

async fn watch_over(connection: &mut Connection, upkeep: &Upkeep, address: &Arc<str>) -> Error {
    loop {
        let client = connection.client.clone();
        tokio::select! {
            why = connection.ended() => return why,
            () = sleep(upkeep.ping_interval) => {}
        }
        tokio::select! {
            why = connection.ended() => return why,
            alive = ping(client, address.clone(), upkeep.ping_limit) => {
                if let Err(why) = alive {
                    return why;
                }
            }
        }
    }
}

async fn reconnect(connector: &Connector) -> Connection {
    let mut pauses = backoff();
    loop {
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
        match connector.connect().await {
            Ok(connection) => return connection,
            Err(error) => tracing::debug!(messaging.system = "redis", %error, "not connected yet"),
        }
    }
}
