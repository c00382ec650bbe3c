//! Publishing over async-nats.

use std::sync::Arc;

use async_nats::Subject;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use hydratecache::link::{Connector, Current, Publisher, Publishing, Sender};
use hydratecache::{Error, ErrorKind, Result};

use crate::config::NatsConfig;
use crate::echo::{Echo, Mark};
use crate::error::denied;
use crate::events::Use;
use crate::life::{Life, Origin};

/// Publishes over one life of a connection.
#[derive(Clone)]
pub(crate) struct NatsSender(Life);

/// Messages of one topic.
pub(crate) struct Batch {
    pub(crate) subject: Subject,
    pub(crate) bodies: Vec<Bytes>,
}

/// Publishes over a connection of our own.
pub(crate) async fn own(config: &NatsConfig) -> Result<Arc<Publisher<NatsSender>>> {
    let connector = PublishingConnector(Origin::Own(config.clone()));
    let connection = connector.connect().await?;
    Ok(Publisher::own(config.peer(), &config.limits(), connector, connection))
}

/// Publishes over a client whose connection is somebody else's care.
pub(crate) async fn borrowed(
    config: &NatsConfig,
    origin: Origin,
) -> Result<Arc<Publisher<NatsSender>>> {
    let life = origin.begin().await?;
    let limit = config.limits().publish_limit;
    Ok(Publisher::kept_by(config.peer(), limit, move |current| {
        current.made(NatsSender(life.clone()));
        follow(origin, life, current)
    }))
}

struct PublishingConnector(Origin);

struct PublishingConnection {
    life: Life,
    ended: BoxFuture<'static, ()>,
}

impl Connector for PublishingConnector {
    type Connection = PublishingConnection;

    async fn connect(&self) -> Result<PublishingConnection> {
        let life = self.0.begin().await?;
        let ended = life.happening(|_| false).boxed();
        Ok(PublishingConnection { life, ended })
    }
}

impl Publishing for PublishingConnection {
    type Sender = NatsSender;

    fn sender(&self) -> NatsSender {
        NatsSender(self.life.clone())
    }

    async fn ended(&mut self) -> Error {
        (&mut self.ended).await;
        self.life.lost("it was closed")
    }

    fn ping(&self) -> BoxFuture<'static, Result<()>> {
        let echo = self.life.begin_echo();
        async move { echo?.back().await }.boxed()
    }
}

/// Follows a client that somebody else keeps connected. What is published while it is not would be
/// sent long after its publisher gave up.
async fn follow(origin: Origin, mut life: Life, current: Current<NatsSender>) {
    loop {
        life.happening(|_| false).await;
        drop(current.lost());
        life = loop {
            if let Ok(life) = origin.begin().await {
                break life;
            }
        };
        current.made(NatsSender(life.clone()));
    }
}

impl Sender for NatsSender {
    type Batch = Batch;

    async fn send(self, batch: Batch) -> Result<()> {
        let sent = self.hand_over(batch)?;
        sent.answered(self.0).await
    }
}

/// What is on its way.
struct Sent {
    subject: Subject,
    echo: Echo,
    /// Asked for where it is not known yet whether the subject is permitted.
    mark: Option<Mark>,
    /// How many events there were before.
    seen: u64,
}

impl NatsSender {
    /// Hands every body to the client, and behind them what will be the answer.
    fn hand_over(&self, batch: Batch) -> Result<Sent> {
        let Batch { subject, bodies } = batch;
        let client = self.0.client();
        let seen = self.0.events().log().seen;
        let most = client.max_payload();
        if let Some(body) = bodies.iter().find(|body| body.len() > most) {
            return Err(self.too_large(body.len(), most));
        }
        for (position, body) in bodies.into_iter().enumerate() {
            self.0
                .taken(client.publish(subject.clone(), body))
                .map_err(|error| self.not_taken(position, &error))?;
        }
        let is_permitted = self.0.permitted().contains(subject.as_str());
        let echoing = || {
            let mark = (!is_permitted).then(|| self.0.begin_mark(seen)).transpose()?;
            Ok((mark, self.0.begin_echo()?))
        };
        let (mark, echo) = echoing().map_err(|error: Error| self.not_taken(1, &error))?;
        Ok(Sent { subject, echo, mark, seen })
    }

    /// The server has become smaller since the batch was checked.
    fn too_large(&self, bytes: usize, most: usize) -> Error {
        let address = self.0.address();
        Error::new(
            ErrorKind::PayloadTooLarge,
            format!(
                "publishing to NATS at {address}: an envelope takes {bytes} bytes, the server \
                 carries {most}; raise its max_payload, or publish less"
            ),
        )
    }

    /// `position` bodies were taken before.
    fn not_taken(&self, position: usize, error: &Error) -> Error {
        let kind =
            if position == 0 { ErrorKind::Unavailable } else { ErrorKind::UnknownOutcome };
        Error::new(kind, format!("publishing to NATS at {}: {error}", self.0.address()))
    }
}

impl Sent {
    async fn answered(self, life: Life) -> Result<()> {
        let Self { subject, echo, mark, seen } = self;
        echo.back().map_err(|error| unknown_outcome(&life, &error)).await?;
        let is_refused = if let Some(mark) = mark {
            mark.come(|log| log.is_refused_since(seen, Use::Publish, &subject))
                .map_err(|error| unknown_outcome(&life, &error))
                .await?
        } else {
            let log = life.events().log();
            log.seen != seen && log.is_refused_since(seen, Use::Publish, &subject)
        };
        let mut permitted = life.permitted();
        if is_refused {
            permitted.remove(subject.as_str());
            let advice = "grant the user to publish to the subject";
            return Err(denied(life.address(), "publishing to subject", &subject, advice));
        }
        if !permitted.contains(subject.as_str()) {
            permitted.insert(subject.as_str().into());
        }
        Ok(())
    }
}

/// A denial stays one: it is that of the subjects of our own, and says so.
fn unknown_outcome(life: &Life, error: &Error) -> Error {
    if error.kind() == ErrorKind::Denied {
        return error.clone();
    }
    Error::new(
        ErrorKind::UnknownOutcome,
        format!(
            "publishing to NATS at {}: {error}; it may have been sent, and sending it again is \
             harmless",
            life.address()
        ),
    )
}
