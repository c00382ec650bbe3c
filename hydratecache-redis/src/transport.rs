//! The transport: one subscribing and one publishing connection for any number of topics.

use std::fmt;
use std::sync::Arc;

use fred::clients::Client;
use fred::interfaces::ClientLike;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::link::{Connector, Link, Subscriber};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport,
    wire,
};

use crate::channel_name::channel_name;
use crate::config::RedisConfig;
use crate::publisher::{self, Batch, RedisSender};
use crate::subscriber::SubscribingConnector;

/// With 512 publishes in flight, batches of 512 make this side and the server take turns, which costs
/// an eighth of the rate (measured, loopback): several smaller ones are under way at once.
const BATCH_MESSAGES: usize = 128;

/// Redis Pub/Sub as a transport. Cloning shares the connections.
///
/// Opens two connections, one to subscribe and one to publish, for any number of topics. Both are
/// watched, and made anew when they are lost.
#[derive(Clone)]
pub struct RedisTransport(Arc<Inner>);

struct Inner {
    config: RedisConfig,
    link: Link<RedisSender>,
}

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
        let publisher = match client {
            Some(client) => publisher::borrowed(&config, client),
            None => publisher::own(&config).await?,
        };
        let connector = SubscribingConnector::new(&config, publisher.clone())?;
        let connection = connector.connect().await?;
        let subscriber = Subscriber::start(config.peer(), config.limits(), connector, connection);
        let link = Link::new(config.peer(), subscriber, publisher);
        Ok(Self(Arc::new(Inner { config, link })))
    }
}

impl Inner {
    fn limits(&self) -> Limits {
        Limits::new(self.config.max_payload_bytes, FenceScope::Server)
            .with_batch_messages(BATCH_MESSAGES)
            .with_system(RedisConfig::SYSTEM)
    }

    fn encode(&self, topic: &Topic, batch: &[Message]) -> Result<Batch> {
        self.limits().check(batch)?;
        let bodies = wire::encode_all(batch);
        Ok(Batch { channel: channel_name(topic), bodies })
    }
}

impl Transport for RedisTransport {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            let batch = self.0.encode(&topic, &batch)?;
            if batch.bodies.is_empty() {
                self.0.link.check_open()
            } else {
                self.0.link.publish(batch).await
            }
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.0.link.subscribe(topic).boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.0.link.fence().boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.link.close().map(Ok).boxed()
    }
}

impl fmt::Debug for RedisTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisTransport")
            .field("config", &self.0.config)
            .field("is_closed", &self.0.link.is_closed())
            .finish()
    }
}
