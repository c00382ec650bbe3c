//! The publishing connection.

use std::collections::HashSet;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::{BoxFuture, try_join_all};
use hydratecache::link::{self, End, Publisher, Publishing, Sender};
use hydratecache::{Message, Result, Topic};
use tokio_postgres::{Client, Statement};

use crate::channel_name::channel_name;
use crate::config::PostgresConfig;
use crate::connection::{Connection, Connector};
use crate::error::{Attempt, from_postgres};
use crate::text::{self, LONGEST, pieces};

/// Publishes over one connection.
#[derive(Clone)]
pub(crate) struct PostgresSender {
    client: Arc<Client>,
    address: Arc<str>,
    one: Statement,
    many: Statement,
}

/// Texts for one channel, in order.
pub(crate) struct Batch {
    channel: String,
    /// Each is one transaction, because PostgreSQL delivers equal texts of a transaction once.
    transactions: Vec<Vec<String>>,
}

impl Batch {
    /// The texts of `messages`, those in pieces that are too long for a notification.
    pub(crate) fn new(topic: &Topic, messages: &[Message]) -> Self {
        let mut batch = Self::empty(channel_name(topic), messages.len());
        let mut texts = text::Writer::for_topic(topic);
        let mut unnumbered = HashSet::new();
        for message in messages {
            let text = texts.write(message);
            if message.position().is_none() && !unnumbered.insert(text.clone()) {
                unnumbered = HashSet::from([text.clone()]);
                batch.transactions.push(Vec::new());
            }
            batch.push(text);
        }
        batch
    }

    /// One text, for a channel that is no topic's.
    pub(crate) fn of(channel: String, text: String) -> Self {
        Self { channel, transactions: vec![vec![text]] }
    }

    fn empty(channel: String, capacity: usize) -> Self {
        Self { channel, transactions: vec![Vec::with_capacity(capacity)] }
    }

    fn push(&mut self, text: String) {
        if let Some(texts) = self.transactions.last_mut() {
            if text.len() <= LONGEST {
                texts.push(text);
            } else {
                texts.extend(pieces(&text, rand::random()));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.transactions.iter().all(Vec::is_empty)
    }
}

/// Publishes over a connection of our own.
pub(crate) async fn own(
    config: &PostgresConfig,
    connector: Connector,
) -> Result<Arc<Publisher<PostgresSender>>> {
    let connector = PublishingConnector(connector);
    let connection = link::Connector::connect(&connector).await?;
    Ok(Publisher::own(config.peer(), &config.limits(), connector, connection))
}

struct PublishingConnector(Connector);

struct PublishingConnection {
    connection: Connection,
    sender: PostgresSender,
}

impl link::Connector for PublishingConnector {
    type Connection = PublishingConnection;

    async fn connect(&self) -> Result<PublishingConnection> {
        let (connection, sender) = self.0.connect(prepare).await?;
        Ok(PublishingConnection { connection, sender })
    }
}

async fn prepare(connection: &mut Connection) -> Result<PostgresSender> {
    let (client, address) = (connection.client.clone(), connection.address.clone());
    let prepared = connection.until(async {
        let one = client.prepare("SELECT pg_notify($1, $2)").await?;
        let many = "SELECT count(pg_notify($1, text)) FROM unnest($2::text[]) AS text";
        Ok((one, client.prepare(many).await?))
    });
    match prepared.await {
        Ok((one, many)) => Ok(PostgresSender { client: client.clone(), address, one, many }),
        Err(error) => Err(from_postgres(Attempt::Connect, &address, &error)),
    }
}

impl Publishing for PublishingConnection {
    type Sender = PostgresSender;

    fn sender(&self) -> PostgresSender {
        self.sender.clone()
    }

    async fn ended(&mut self) -> End {
        loop {
            if let Err(why) = self.connection.notification().await {
                return End::Lost(why);
            }
        }
    }

    fn ping(&self) -> BoxFuture<'static, Result<()>> {
        let PostgresSender { client, address, .. } = self.sender.clone();
        async move {
            let alive = client.check_connection().await;
            alive.map_err(|error| from_postgres(Attempt::Fence, &address, &error))
        }
        .boxed()
    }
}

impl Sender for PostgresSender {
    type Batch = Batch;

    async fn send(self, batch: Batch) -> Result<()> {
        let Batch { channel, transactions } = batch;
        // All are handed to the driver in the first poll, in order.
        let sent = match transactions.as_slice() {
            [texts] => self.publish(&channel, texts).await,
            several => {
                let each = several.iter().map(|texts| self.publish(&channel, texts));
                try_join_all(each).await.map(drop)
            }
        };
        sent.map_err(|error| from_postgres(Attempt::Publish, &self.address, &error))
    }
}

impl PostgresSender {
    /// Publishes `texts` in one statement, which is one transaction.
    async fn publish(&self, channel: &str, texts: &[String]) -> Result<(), tokio_postgres::Error> {
        let sent = match texts {
            [text] => self.client.execute(&self.one, &[&channel, text]).await,
            texts => self.client.execute(&self.many, &[&channel, &texts]).await,
        };
        sent.map(drop)
    }
}
