//! What a broker's crate says of its connections.

use std::ops::Deref;

use bytes::Bytes;
use futures::future::BoxFuture;

use crate::wire::Rejection;
use crate::{Error, Message, Origin, Result, Topic};

/// Makes connections of one kind.
pub trait Connector: Send + Sync + 'static {
    /// What it makes: [`Subscribing`] or [`Publishing`].
    type Connection: Send + 'static;

    /// Connects once, within a limit of its own. A dropped future leaves no connection behind.
    fn connect(&self) -> impl Future<Output = Result<Self::Connection>> + Send;
}

/// One life of a connection that subscribes; dropping it ends the connection at once.
///
/// What its methods return as a future holds no reference to it: while a change of subscriptions
/// or an echo is under way, arrivals are taken all the time.
pub trait Subscribing: Send + 'static {
    /// The broker's own name of a topic, as it comes with what arrives.
    type Name: Deref<Target = str> + Send;

    /// The broker's own name of `topic`. No two topics have the same.
    fn name(topic: &Topic) -> String;

    /// Waits for what comes next. A dropped future loses nothing.
    fn next(&mut self) -> impl Future<Output = Incoming<Self::Name>> + Send;

    /// What has come already, or `None`, also after the end. Never [`Incoming::Ended`].
    fn try_next(&mut self) -> Option<Incoming<Self::Name>>;

    /// How many calls of [`try_next`](Self::try_next) take at least all that has come by now.
    fn backlog(&self) -> usize;

    /// Subscribes to `topics`, none of which is subscribed on this connection, and asks the broker
    /// on the same connection which of them it has. Only one change is under way at a time.
    ///
    /// # Errors
    /// The future's error ends the connection.
    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>>;

    /// Gives up `topics`. Only one change is under way at a time.
    ///
    /// # Errors
    /// The future's error ends the connection.
    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>>;

    /// Asks for an echo that comes back behind all that the broker had accepted before. When the
    /// future is ready, all that is within [`backlog`](Self::backlog).
    ///
    /// # Errors
    /// The future's error ends the connection, and so does one that takes too long.
    fn echo(&mut self) -> BoxFuture<'static, Result<()>>;
}

/// What comes on a connection that subscribes.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming<Name> {
    /// An envelope.
    Body {
        /// The broker's name of the topic.
        name: Name,
        /// The envelope.
        body: Bytes,
    },
    /// A message, where the broker's crate has read what carried it.
    Message {
        /// The broker's name of the topic.
        name: Name,
        /// The message.
        message: Message,
    },
    /// Something that is no envelope.
    Rejected {
        /// The broker's name of the topic.
        name: Name,
        /// What is wrong with it.
        rejection: Rejection,
    },
    /// At least so many messages of any kind were dropped on this side, of any topic: for those who read
    /// logs, for it is a gap of unknown size.
    Lagged(u64),
    /// A subscription that was proven is refused from now on. It is tried again now and then.
    Revoked {
        /// The broker's name of the topic.
        name: Name,
        /// Why.
        why: Error,
    },
    /// The server asks its clients to go: another connection is made and proven before this one is
    /// given up, so that nothing is missed.
    Leaving,
    /// The connection has ended, for this reason. What had come before is still taken, and then
    /// the connection is dropped.
    Ended(Error),
}

/// What is known of a subscription.
pub enum Proof {
    /// The broker has it.
    Proven,
    /// The broker refuses it.
    Denied(Error),
    /// The broker does not tell: a probe must arrive.
    Probe(Probe),
}

/// A message that is sent to a topic only to see that it arrives.
pub struct Probe {
    /// The origin of the probe, which is a heartbeat without a sequence.
    pub origin: Origin,
    /// Sends it.
    pub sending: BoxFuture<'static, Result<()>>,
    /// The answer if it is sent and does not arrive.
    pub denied: Error,
}

/// One life of a connection that publishes; dropping it ends the connection at once.
pub trait Publishing: Send + 'static {
    /// What publishes over it.
    type Sender: Sender;

    /// What publishes over it.
    fn sender(&self) -> Self::Sender;

    /// Waits until the connection ends or is to be given up. A dropped future loses nothing.
    fn ended(&mut self) -> impl Future<Output = End> + Send;

    /// Asks for a sign of life.
    fn ping(&self) -> BoxFuture<'static, Result<()>>;
}

/// Why a connection is used no longer.
#[derive(Debug)]
pub enum End {
    /// It is lost, for this reason.
    Lost(Error),
    /// The server asks its clients to go: another connection is made before this one is given up.
    /// Said once; its end may follow.
    Leaving,
}

/// Publishes over one connection.
pub trait Sender: Clone + Send + Sync + 'static {
    /// Messages of one topic, ready for the broker's client.
    type Batch: Send + 'static;

    /// Hands `batch` over in the first poll, in order, and then waits for the answer. If that is
    /// not possible in one poll, the answer must be an error.
    fn send(self, batch: Self::Batch) -> impl Future<Output = Result<()>> + Send + 'static;
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Proven => f.write_str("Proven"),
            Self::Denied(why) => f.debug_tuple("Denied").field(why).finish(),
            Self::Probe(probe) => probe.fmt(f),
        }
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("origin", &self.origin).finish_non_exhaustive()
    }
}
