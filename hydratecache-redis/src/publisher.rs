//! Publishing over fred: over a connection of our own, or over the caller's client.

use std::sync::Arc;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientLike, EventInterface, PubsubInterface};
use fred::types::Value;
use fred::types::config::Server;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::Result;
use hydratecache::link::{Current, End, Publisher, Publishing, Sender};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::config::RedisConfig;
use crate::connection::{Connection, Connector, Purpose};
use crate::error::{Attempt, from_fred, is_denied};

/// Publishes over one client.
#[derive(Clone)]
pub(crate) struct RedisSender {
    client: Client,
    address: Arc<str>,
}

/// Messages of one topic.
pub(crate) struct Batch {
    pub(crate) channel: String,
    pub(crate) bodies: Vec<Bytes>,
}

/// Publishes over a connection of our own.
pub(crate) async fn own(config: &RedisConfig) -> Result<Arc<Publisher<RedisSender>>> {
    let connector = PublishingConnector(Connector::new(config, Purpose::Publishing)?);
    let connection = hydratecache::link::Connector::connect(&connector).await?;
    Ok(Publisher::own(config.peer(), &config.limits(), connector, connection))
}

/// Publishes over a client whose connection is somebody else's care.
pub(crate) fn borrowed(config: &RedisConfig, client: Client) -> Arc<Publisher<RedisSender>> {
    let (lost, made) = (client.error_rx(), client.reconnect_rx());
    let sender = RedisSender { client, address: config.address.clone() };
    Publisher::kept_by(config.peer(), config.limits().publish_limit, |current| {
        if sender.client.is_connected() {
            current.made(sender.clone());
        }
        follow(sender, lost, made, current)
    })
}

struct PublishingConnector(Connector);

/// A connection on which every command has a reply of its own.
struct PublishingConnection(Connection);

impl hydratecache::link::Connector for PublishingConnector {
    type Connection = PublishingConnection;

    async fn connect(&self) -> Result<PublishingConnection> {
        self.0.connect().await.map(PublishingConnection)
    }
}

impl Publishing for PublishingConnection {
    type Sender = RedisSender;

    fn sender(&self) -> RedisSender {
        RedisSender { client: self.0.client.clone(), address: self.0.address.clone() }
    }

    async fn ended(&mut self) -> End {
        End::Lost(self.0.ended().await)
    }

    fn ping(&self) -> BoxFuture<'static, Result<()>> {
        let RedisSender { client, address } = self.sender();
        async move {
            match client.ping::<Value>(None).await {
                Ok(_) => Ok(()),
                // A user who may not PING is told so, in order: as good a sign as PONG.
                Err(error) if is_denied(&error) => Ok(()),
                Err(error) => Err(from_fred(Attempt::Fence, &address, &error)),
            }
        }
        .boxed()
    }
}

impl Sender for RedisSender {
    type Batch = Batch;

    async fn send(self, batch: Batch) -> Result<()> {
        let sent = send(self.client, batch).await;
        sent.map_err(|error| from_fred(Attempt::Publish, &self.address, &error))
    }
}

/// Hands every body to fred in the first poll, then waits for the answers.
async fn send(client: Client, batch: Batch) -> Result<(), FredError> {
    let Batch { channel, mut bodies } = batch;
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

/// Follows a client that somebody else keeps connected. What is published while it is not would
/// wait in the client, without a bound, and be sent long after its publisher gave up. fred sends
/// what was under way again, and answers it then: only a close ends that wait.
async fn follow(
    sender: RedisSender,
    mut lost: broadcast::Receiver<(FredError, Option<Server>)>,
    mut made: broadcast::Receiver<Server>,
    current: Current<RedisSender>,
) {
    loop {
        tokio::select! {
            biased;
            error = lost.recv() => match error {
                Err(RecvError::Closed) => return,
                _ => current.away(),
            },
            server = made.recv() => match server {
                Err(RecvError::Closed) => return,
                _ => current.made(sender.clone()),
            },
        };
    }
}
