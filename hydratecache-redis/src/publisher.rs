//! The publishing connection: kept up by a task of its own, used by everyone in order.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::PubsubInterface;
use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio::sync::{Mutex, watch};
use tokio::task::coop::unconstrained;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use crate::channel_name::channel_name;
use crate::connection::{Connection, Connector, LONGEST_PAUSE, backoff, ping};
use crate::error::{Attempt, from_fred};

/// Where publishes go.
pub(crate) struct Publisher {
    /// The connected client, while there is one.
    client: watch::Receiver<Option<Client>>,
    address: Arc<str>,
    limit: Duration,
    /// Those who found no connection wait here in order; who comes after them queues behind.
    waiting: AtomicUsize,
    turns: Mutex<()>,
    _keeper: Option<AbortOnDropHandle<()>>,
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
        let (sender, client) = watch::channel(Some(connection.client.clone()));
        let keeper = keep_up(connection, upkeep, address.clone(), sender);
        Self::new(client, address, limit, Some(AbortOnDropHandle::new(tokio::spawn(keeper))))
    }

    /// Publishes over a client whose connection is somebody else's care.
    pub(crate) fn borrowed(client: Client, address: Arc<str>, limit: Duration) -> Self {
        Self::new(watch::channel(Some(client)).1, address, limit, None)
    }

    fn new(
        client: watch::Receiver<Option<Client>>,
        address: Arc<str>,
        limit: Duration,
        keeper: Option<AbortOnDropHandle<()>>,
    ) -> Self {
        let (waiting, turns) = (AtomicUsize::new(0), Mutex::new(()));
        Self { client, address, limit, waiting, turns, _keeper: keeper }
    }

    /// Publishes `bodies` in order. With a connection they are on their way after the first poll.
    pub(crate) async fn publish(&self, topic: &Topic, bodies: Vec<Bytes>) -> Result<()> {
        let channel = channel_name(topic);
        let deadline = Instant::now() + self.limit;
        let client = self.client.borrow().clone();
        let nobody_waits = self.waiting.load(Ordering::SeqCst) == 0;
        let Some(client) = client.filter(|_| nobody_waits) else {
            return self.publish_in_turn(channel, bodies, deadline).await;
        };
        self.answer(deadline, send(client, channel, bodies)).await
    }

    /// Waits for a connection behind those who wait already, and hands over in that order.
    async fn publish_in_turn(
        &self,
        channel: String,
        bodies: Vec<Bytes>,
        deadline: Instant,
    ) -> Result<()> {
        let waiting = Waiting::begin(&self.waiting);
        let turn = timeout_at(deadline, self.turns.lock()).await.map_err(|_| self.unavailable())?;
        let mut connected = self.client.clone();
        let client = timeout_at(deadline, connected.wait_for(Option::is_some)).await;
        let client = client.ok().and_then(|client| client.ok().and_then(|client| client.clone()));
        let mut sending =
            Box::pin(send(client.ok_or_else(|| self.unavailable())?, channel, bodies));
        // Handed over by the first poll; the answer is not waited for in turn.
        if let std::task::Poll::Ready(answer) = futures::poll!(&mut sending) {
            return answer.map_err(|error| self.failed(&error));
        }
        drop(turn);
        drop(waiting);
        self.answer(deadline, sending).await
    }

    async fn answer(
        &self,
        deadline: Instant,
        sending: impl Future<Output = Result<(), FredError>>,
    ) -> Result<()> {
        match timeout_at(deadline, sending).await {
            Ok(answer) => answer.map_err(|error| self.failed(&error)),
            Err(_) => Err(Error::new(
                ErrorKind::UnknownOutcome,
                format!(
                    "publishing to Redis at {}: no answer within {:?}; it may have been sent, and \
                     sending it again is harmless",
                    self.address, self.limit
                ),
            )),
        }
    }

    fn failed(&self, error: &FredError) -> Error {
        from_fred(Attempt::Publish, &self.address, error)
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
}

/// Hands every body to fred in the first poll, then waits for the answers.
async fn send(client: Client, channel: String, mut bodies: Vec<Bytes>) -> Result<(), FredError> {
    if bodies.len() == 1 {
        let body = bodies.swap_remove(0);
        return client.publish::<(), _, _>(channel, body).await;
    }
    let pipeline = client.pipeline();
    for body in bodies {
        // Resolves at once, for it only queues; Tokio's budget must not turn that into a pause,
        // in which a later batch could overtake this one.
        unconstrained(pipeline.publish::<(), _, _>(channel.as_str(), body)).await?;
    }
    let answers = pipeline.try_all::<i64>().await;
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Watches the connection and makes a new one when it is lost, without end.
async fn keep_up(
    mut connection: Connection,
    upkeep: Upkeep,
    address: Arc<str>,
    current: watch::Sender<Option<Client>>,
) {
    loop {
        let why = watch_over(&mut connection, &upkeep, &address).await;
        tracing::warn!(messaging.system = "redis", %why, "publishing connection lost");
        current.send_replace(None);
        drop(connection);
        connection = reconnect(&upkeep.connector).await;
        current.send_replace(Some(connection.client.clone()));
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
