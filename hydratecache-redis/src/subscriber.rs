//! The subscribing connection on fred.

mod exchange;
mod proof;

use std::sync::Arc;
use std::time::Duration;

use fred::bytes_utils::Str;
use fred::interfaces::EventInterface;
use fred::types::Message as Push;
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::link::{self, Incoming, Proof, Publisher, Subscribing};
use hydratecache::wire::{Rejection, RejectionReason};
use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::channel_name::channel_name;
use crate::config::RedisConfig;
use crate::connection::{Connection, Connector, Purpose};
use crate::error::{Attempt, from_fred};
use crate::publisher::RedisSender;
use exchange::Exchange;
use proof::Way;

/// Makes connections that subscribe.
pub(crate) struct SubscribingConnector {
    connector: Connector,
    publisher: Arc<Publisher<RedisSender>>,
    subscribe_limit: Duration,
}

/// One life of the connection that subscribes.
pub(crate) struct SubscribingConnection {
    connection: Connection,
    pushes: broadcast::Receiver<Push>,
    way: Way,
}

impl SubscribingConnector {
    /// `publisher` sends probes.
    pub(crate) fn new(
        config: &RedisConfig,
        publisher: Arc<Publisher<RedisSender>>,
    ) -> Result<Self> {
        let connector = Connector::new(config, Purpose::Subscribing)?;
        let subscribe_limit = config.limits().subscribe_limit;
        Ok(Self { connector, publisher, subscribe_limit })
    }
}

impl link::Connector for SubscribingConnector {
    type Connection = SubscribingConnection;

    async fn connect(&self) -> Result<SubscribingConnection> {
        let connection = self.connector.connect().await?;
        let way = Way {
            exchange: Arc::new(Exchange::on(connection.client.clone())),
            publisher: self.publisher.clone(),
            address: connection.address.clone(),
            limit: self.subscribe_limit,
        };
        // Before anything is subscribed, so that no message is missed.
        let pushes = connection.client.message_rx();
        Ok(SubscribingConnection { connection, pushes, way })
    }
}

impl Subscribing for SubscribingConnection {
    type Name = Str;

    fn name(topic: &Topic) -> String {
        channel_name(topic)
    }

    async fn next(&mut self) -> Incoming<Str> {
        tokio::select! {
            why = self.connection.ended() => Incoming::Ended(why),
            push = self.pushes.recv() => match push {
                Ok(push) => incoming(push),
                Err(RecvError::Lagged(missed)) => Incoming::Lagged(missed),
                Err(RecvError::Closed) => Incoming::Ended(client_closed()),
            },
        }
    }

    fn try_next(&mut self) -> Option<Incoming<Str>> {
        match self.pushes.try_recv() {
            Ok(push) => Some(incoming(push)),
            Err(TryRecvError::Lagged(missed)) => Some(Incoming::Lagged(missed)),
            Err(TryRecvError::Empty | TryRecvError::Closed) => None,
        }
    }

    fn backlog(&self) -> usize {
        self.pushes.len()
    }

    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>> {
        self.way.clone().subscribe(topics).boxed()
    }

    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>> {
        self.way.clone().unsubscribe(topics).boxed()
    }

    fn echo(&mut self) -> BoxFuture<'static, Result<()>> {
        let (exchange, address) = (self.way.exchange.clone(), self.way.address.clone());
        let echo = async move { exchange.echo().await };
        echo.map(move |echo| echo.map_err(|error| from_fred(Attempt::Fence, &address, &error)))
            .boxed()
    }
}

fn incoming(push: Push) -> Incoming<Str> {
    let name = push.channel;
    match push.value.into_bytes() {
        Some(body) => Incoming::Body { name, body },
        None => {
            Incoming::Rejected { name, rejection: Rejection::new(RejectionReason::NotAnEnvelope) }
        }
    }
}

fn client_closed() -> Error {
    Error::new(ErrorKind::Unavailable, "lost the connection to Redis: its client was closed")
}
