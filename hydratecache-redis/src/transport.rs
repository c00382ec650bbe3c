//! The transport: one subscribing and one publishing connection for any number of topics.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use futures::FutureExt;
use futures::future::{BoxFuture, join};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport,
    wire,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::config::RedisConfig;
use crate::connection::Connector;
use crate::publisher::{Publisher, Upkeep};
use crate::subscriber::{Command, EVENT_QUEUE, Settings, Subscriber};

/// Redis Pub/Sub as a transport. Cloning shares the connections.
///
/// Opens two connections, one to subscribe and one to publish, for any number of topics. Both are
/// watched, and made anew when they are lost.
#[derive(Clone)]
pub struct RedisTransport(Arc<Inner>);

struct Inner {
    config: RedisConfig,
    /// Gone once the transport is closed.
    open: Mutex<Option<Open>>,
}

#[derive(Clone)]
struct Open {
    commands: mpsc::UnboundedSender<Command>,
    publisher: Arc<Publisher>,
    task: Arc<Task>,
}

/// The subscriber's task, which ends with the transport.
struct Task(Mutex<Option<JoinHandle<()>>>);

/// How long closing waits for tasks to end by themselves.
const CLOSE_LIMIT: Duration = Duration::from_millis(1500);

impl RedisTransport {
    /// Connects to the server at `url`, as [`RedisConfig::from_url`] and
    /// [`RedisConfig::connect`] do.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(url: &str) -> Result<Self> {
        RedisConfig::from_url(url)?.connect().await
    }

    /// Publishes over `client`, which the caller connected, keeps up and closes; subscribes over a
    /// connection of its own to the same server.
    ///
    /// fred sends a command again after a reconnect unless `max_command_attempts` is 1; a message
    /// that arrives twice for that is dropped by its sequence.
    ///
    /// # Errors
    /// As [`RedisConfig::connect`]; `InvalidInput` if the client is for a cluster or sentinels.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn from_client(client: Client) -> Result<Self> {
        let fred = client.client_config();
        if !fred.server.is_centralized() {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the client is for a cluster or sentinels; give one for a single server",
            ));
        }
        Self::open(RedisConfig::from_fred(fred), Some(client)).await
    }

    pub(crate) async fn open(config: RedisConfig, client: Option<Client>) -> Result<Self> {
        let connector = Connector::new(&config, EVENT_QUEUE)?;
        let connection = connector.connect().await?;
        let publisher = Arc::new(publisher(&config, client).await?);
        let (commands, receiver) = mpsc::unbounded_channel();
        let settings = Settings {
            connector,
            address: config.address.clone(),
            ping_interval: config.ping_interval,
            ping_limit: config.ping_limit,
            subscribe_limit: config.subscribe_limit,
            queue_bytes: config.queue_bytes,
            max_payload_bytes: config.max_payload_bytes,
        };
        let subscriber =
            Subscriber::new(settings, publisher.clone(), commands.downgrade(), receiver);
        let task = Task(Mutex::new(Some(tokio::spawn(subscriber.run(connection)))));
        let open = Open { commands, publisher, task: Arc::new(task) };
        Ok(Self(Arc::new(Inner { config, open: Mutex::new(Some(open)) })))
    }
}

async fn publisher(config: &RedisConfig, client: Option<Client>) -> Result<Publisher> {
    let (address, limit) = (config.address.clone(), config.publish_limit);
    if let Some(client) = client {
        return Ok(Publisher::borrowed(client, address, limit));
    }
    // fred allocates its event queues at once, and nothing is pushed on this connection.
    let connector = Connector::new(config, 1)?;
    let connection = connector.connect().await?;
    let (ping_interval, ping_limit) = (config.ping_interval, config.ping_limit);
    let upkeep = Upkeep { connector, ping_interval, ping_limit };
    Ok(Publisher::own(connection, upkeep, address, limit))
}

impl Inner {
    fn open(&self) -> Result<Open> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clone().ok_or_else(|| self.closed())
    }

    fn closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!(
                "the transport to Redis at {} was closed; connect a new one",
                self.config.address
            ),
        )
    }

    /// Asks the subscriber's task and waits for its answer, within a limit.
    async fn ask<T>(
        &self,
        what: &str,
        limit: Duration,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let commands = self.open()?.commands;
        commands.send(command(reply)).map_err(|_| self.closed())?;
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(self.closed())),
            // What is sent while the task ends may lie in its queue as long as the queue is there.
            () = commands.closed() => Err(self.closed()),
            () = sleep(limit) => Err(Error::new(
                ErrorKind::Unavailable,
                format!(
                    "{what} on Redis at {}: no connection or no answer within {limit:?}",
                    self.config.address
                ),
            )),
        }
    }

    fn encode(&self, batch: &[Message]) -> Result<Vec<bytes::Bytes>> {
        self.limits().check(batch)?;
        Ok(batch.iter().map(|message| wire::encode(message, None)).collect())
    }

    fn limits(&self) -> Limits {
        Limits::new(self.config.max_payload_bytes, FenceScope::Server)
    }
}

impl Transport for RedisTransport {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            let bodies = self.0.encode(&batch)?;
            let publisher = self.0.open()?.publisher;
            if bodies.is_empty() { Ok(()) } else { publisher.publish(&topic, bodies).await }
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        let limit = self.0.config.subscribe_limit;
        self.0.ask("subscribing", limit, |reply| Command::Subscribe { topic, reply }).boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        // The echo itself has a limit, and one may be under way before this one's.
        let limit = self.0.config.ping_limit * 2;
        self.0.ask("asking for a fence", limit, Command::Fence).boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        async move {
            let open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(open) = open {
                join(open.task.end(&open.commands), open.publisher.close()).await;
            }
            Ok(())
        }
        .boxed()
    }
}

impl Task {
    async fn end(&self, commands: &mpsc::UnboundedSender<Command>) {
        // A task that is gone already has ended.
        let _ = commands.send(Command::Close);
        let task = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut task) = task
            && timeout(CLOSE_LIMIT, &mut task).await.is_err()
        {
            task.abort();
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        let task = self.0.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

impl fmt::Debug for RedisTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTransport")
            .field("config", &self.0.config)
            .field("is_closed", &self.0.open().is_err())
            .finish()
    }
}
