//! Publishing over async-nats.

use std::sync::{Arc, Weak};

use async_nats::Subject;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, TryFutureExt};
use hydratecache::link::{Connector, Current, End, Publisher, Publishing, Sender};
use hydratecache::{Error, ErrorKind, Result};

use crate::config::NatsConfig;
use crate::echo::{Echo, Mark};
use crate::error::{denied, lost};
use crate::events::{Log, Use};
use crate::life::{Inner, Life, Origin};

/// Publishes over one life of a connection, which it does not keep.
#[derive(Clone)]
pub(crate) struct NatsSender {
    life: Weak<Inner>,
    address: Arc<str>,
}

/// Messages of one topic.
pub(crate) struct Batch {
    pub(crate) subject: Subject,
    pub(crate) bodies: Vec<Bytes>,
}

/// Publishes over a connection of our own.
pub(crate) async fn own(config: &NatsConfig) -> Result<Arc<Publisher<NatsSender>>> {
    let origin = Origin::Own { config: config.clone(), name: "hydratecache publisher" };
    let connector = PublishingConnector(origin);
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
        current.made(NatsSender::over(&life));
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
        let ended = life.happening(|log| log.is_leaving).boxed();
        Ok(PublishingConnection { life, ended })
    }
}

impl Publishing for PublishingConnection {
    type Sender = NatsSender;

    fn sender(&self) -> NatsSender {
        NatsSender::over(&self.life)
    }

    async fn ended(&mut self) -> End {
        loop {
            (&mut self.ended).await;
            if self.life.has_ended() {
                return End::Lost(self.life.lost("it was closed"));
            }
            // From here on only its end is of interest.
            self.ended = self.life.happening(|_| false).boxed();
            if self.life.is_leaving() {
                return End::Leaving;
            }
        }
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
        current.made(NatsSender::over(&life));
    }
}

impl Sender for NatsSender {
    type Batch = Batch;

    async fn send(self, batch: Batch) -> Result<()> {
        let sent = {
            let life = self.life.upgrade().map(Life::from);
            let life = life.ok_or_else(|| self.cut_off(lost(&self.address, "it was closed")))?;
            self.hand_over(&life, batch)?
        };
        sent.answered(&self).await
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
    fn over(life: &Life) -> Self {
        Self { life: life.downgrade(), address: life.address() }
    }

    /// Hands every body to the client, and behind them what will be the answer.
    fn hand_over(&self, life: &Life, batch: Batch) -> Result<Sent> {
        let Batch { subject, bodies } = batch;
        let client = life.client();
        let seen = life.events().log().seen;
        let most = client.max_payload();
        if let Some(body) = bodies.iter().find(|body| body.len() > most) {
            return Err(self.too_large(body.len(), most));
        }
        for body in bodies {
            life.taken(client.publish(subject.clone(), body))
                .map_err(|error| self.cut_off(error))?;
        }
        let is_permitted = life.permitted().contains(subject.as_str());
        let echoing = || {
            let mark = (!is_permitted).then(|| life.begin_mark(seen)).transpose()?;
            Ok((mark, life.begin_echo()?))
        };
        let (mark, echo) = echoing().map_err(|error: Error| self.cut_off(error))?;
        Ok(Sent { subject, echo, mark, seen })
    }

    /// The server has become smaller since the batch was checked.
    fn too_large(&self, bytes: usize, most: usize) -> Error {
        let address = &self.address;
        Error::new(
            ErrorKind::PayloadTooLarge,
            format!(
                "publishing to NATS at {address}: an envelope takes {bytes} bytes, the server \
                 carries {most}; raise its max_payload, or publish less"
            ),
        )
    }

    /// The connection has ended, and that is about to be known. Even where nothing was taken yet this is
    /// no `Unavailable`, which says that a connection was waited for.
    fn cut_off(&self, error: Error) -> Error {
        unknown_outcome(&self.address, error)
    }
}

impl Sent {
    async fn answered(self, sender: &NatsSender) -> Result<()> {
        let Self { subject, echo, mark, seen } = self;
        let unknown = |error| unknown_outcome(&sender.address, error);
        echo.back().map_err(unknown).await?;
        let is_refused = if let Some(mark) = mark {
            let judge = |log: &Log| log.is_refused_since(seen, Use::Publish, &subject);
            mark.come(judge).map_err(unknown).await?
        } else {
            false
        };
        // It is back, so the connection was there a moment ago.
        let Some(life) = sender.life.upgrade().map(Life::from) else { return Ok(()) };
        let is_refused = is_refused || {
            let log = life.events().log();
            log.seen != seen && log.is_refused_since(seen, Use::Publish, &subject)
        };
        let mut permitted = life.permitted();
        if is_refused {
            permitted.remove(subject.as_str());
            let advice = "grant the user to publish to the subject";
            return Err(denied(&sender.address, "publishing to subject", &subject, advice));
        }
        if !permitted.contains(subject.as_str()) {
            permitted.insert(subject.as_str().into());
        }
        Ok(())
    }
}

/// A denial stays one: it is that of the subjects of our own, and says so.
fn unknown_outcome(address: &str, error: Error) -> Error {
    if error.kind() == ErrorKind::Denied {
        return error;
    }
    Error::new(
        ErrorKind::UnknownOutcome,
        format!(
            "publishing to NATS at {address}: {error}; it may have been sent, and sending it again \
             is harmless"
        ),
    )
}
