//! The transport: one listening and one publishing connection for any number of topics.

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::link::{Connector as _, Link, Subscriber};
use hydratecache::{Fence, FenceScope, Limits, Message, Result, Subscription, Topic, Transport};

use crate::config::PostgresConfig;
use crate::connection::Connector;
use crate::publisher::{self, Batch, PostgresSender};
use crate::subscriber::SubscribingConnector;

/// PostgreSQL's `LISTEN` and `NOTIFY` as a transport. Cloning shares the connections.
///
/// Opens two connections, one to listen and one to publish, for any number of topics. Both are
/// watched, and made anew when they are lost.
#[derive(Clone)]
pub struct PostgresTransport(Arc<Inner>);

struct Inner {
    config: PostgresConfig,
    link: Link<PostgresSender>,
}

/// The server works through one statement at a time, and is idle until the next is there: several
/// that many publishers fill are under way at once.
const BATCH_MESSAGES: usize = 128;

impl PostgresTransport {
    /// Connects to the database at `url`, as [`PostgresConfig::from_url`] and
    /// [`PostgresConfig::connect`] do.
    ///
    /// # Errors
    /// As those.
    ///
    /// # Cancel safety
    /// A dropped future leaves no connection behind.
    pub async fn connect(url: &str) -> Result<Self> {
        PostgresConfig::from_url(url)?.connect().await
    }

    pub(crate) async fn open(config: PostgresConfig) -> Result<Self> {
        let publisher = publisher::own(&config, Connector::new(&config, "publish")?).await?;
        let listening = Connector::new(&config, "listen")?;
        let connector = SubscribingConnector::new(&config, listening, publisher.clone());
        let connection = connector.connect().await?;
        let subscriber = Subscriber::start(config.peer(), config.limits(), connector, connection);
        let link = Link::new(config.peer(), subscriber, publisher);
        Ok(Self(Arc::new(Inner { config, link })))
    }
}

impl Inner {
    fn limits(&self) -> Limits {
        Limits::new(self.config.max_payload_bytes, FenceScope::Database)
            .with_batch_messages(BATCH_MESSAGES)
            .with_system(PostgresConfig::SYSTEM)
    }
}

impl Transport for PostgresTransport {
    fn limits(&self) -> Limits {
        self.0.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.0.limits().check(&batch)?;
            let batch = Batch::new(&topic, &batch);
            if batch.is_empty() {
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

impl fmt::Debug for PostgresTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresTransport")
            .field("config", &self.0.config)
            .field("is_closed", &self.0.link.is_closed())
            .finish()
    }
}
