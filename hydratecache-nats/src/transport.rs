//! The transport: one subscribing and one publishing connection for any number of topics.

use std::fmt;
use std::sync::Arc;

use async_nats::Client;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::link::{Connector, Link, Subscriber};
use hydratecache::{
    Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport, wire,
};

use crate::config::NatsConfig;
use crate::events::NatsEvents;
use crate::life::Origin;
use crate::publisher::{self, Batch, NatsSender};
use crate::subject::subject;
use crate::subscriber::SubscribingConnector;

/// NATS as a transport. Cloning shares the connections.
///
/// Opens two connections, one to subscribe and one to publish, for any number of topics. Both are
/// watched, and made anew when they are lost.
#[derive(Clone)]
pub struct NatsTransport(Arc<Inner>);

struct Inner {
    config: NatsConfig,
    link: Link<NatsSender>,
}

impl NatsTransport {
    /// Connects to the server at `url`, as [`NatsConfig::from_url`] and [`NatsConfig::connect`] do.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(url: &str) -> Result<Self> {
        NatsConfig::from_url(url)?.connect().await
    }

    /// Publishes and subscribes over `client`, which the caller connected, keeps up and closes.
    /// `events` is told of its events: see [`NatsEvents`].
    ///
    /// # Errors
    /// As [`NatsConfig::connect`], also if the client is not connected within 4 s.
    ///
    /// # Cancel safety
    /// A dropped future leaves the client as it was.
    pub async fn from_client(client: Client, events: NatsEvents) -> Result<Self> {
        let config = NatsConfig::of_client(&client);
        let origin = Origin::Borrowed { client, events, config: config.clone() };
        // Its future is large.
        Box::pin(Self::open(origin, config)).await
    }

    pub(crate) async fn open(origin: Origin, config: NatsConfig) -> Result<Self> {
        let subscribe_limit = config.limits().subscribe_limit;
        let connector = SubscribingConnector { origin: origin.clone(), subscribe_limit };
        let connection = connector.connect().await?;
        let publisher = match &origin {
            Origin::Own { config, .. } => publisher::own(config).await?,
            Origin::Borrowed { .. } => publisher::borrowed(&config, origin.clone()).await?,
        };
        let subscriber = Subscriber::start(config.peer(), config.limits(), connector, connection);
        let link = Link::new(config.peer(), subscriber, publisher);
        Ok(Self(Arc::new(Inner { config, link })))
    }
}

impl Inner {
    fn limits(&self) -> Limits {
        Limits::new(self.config.max_payload_bytes(), FenceScope::Server)
            .with_system(NatsConfig::SYSTEM)
    }

    fn encode(&self, topic: &Topic, batch: &[Message]) -> Result<Batch> {
        self.limits().check(batch)?;
        let bodies = wire::encode_all(batch);
        Ok(Batch { subject: subject(topic), bodies })
    }
}

impl Transport for NatsTransport {
    /// The largest payload is what the server says when it is connected to, less the envelope.
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            let batch = self.0.encode(&topic, &batch)?;
            if batch.bodies.is_empty() {
                return self.0.link.check_open();
            }
            self.0.link.publish(batch).await
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

impl fmt::Debug for NatsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsTransport")
            .field("config", &self.0.config)
            .field("is_closed", &self.0.link.is_closed())
            .finish()
    }
}
