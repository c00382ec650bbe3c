//! For authors of transports: what every broker needs whose client has one link for all topics.
//!
//! A broker's crate says how to connect ([`Connector`]), what a connection does that subscribes
//! ([`Subscribing`]) and what one does that publishes ([`Publishing`], [`Sender`]). A [`Link`]
//! does the rest: it proves subscriptions and shares each among its readers, asks for fences and
//! signs of life, notices a lost connection and makes another with backoff, without end, and
//! reports `Disrupted`, `Live` and `Gap`; it keeps publishes in order, puts a limit on every wait,
//! and says what is known of a publish whose connection was lost.
//!
//! A connection is one life: reconnecting makes a new one, so nothing of an old one can be taken
//! for the new one's. The shortest example is `examples/custom-transport` in the repository, which
//! comes with a small broker of its own.

mod backoff;
mod connection;
mod publisher;
mod setters;
mod subscriber;
#[cfg(feature = "tls")]
mod trust;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join;

pub use connection::{Connector, End, Incoming, Probe, Proof, Publishing, Sender, Subscribing};
pub use publisher::{Current, Publisher};
pub use subscriber::Subscriber;
#[cfg(feature = "tls")]
pub use trust::Trust;

use crate::fanout::Fanout;
use crate::{Error, ErrorKind, Fence, Result, Subscription, Topic};

/// The broker that a link leads to, as errors and traces name it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The broker's name, as people write it.
    pub name: &'static str,
    /// Its name in traces: `messaging.system` of OpenTelemetry.
    pub system: &'static str,
    /// Where it is, without credentials.
    pub address: Arc<str>,
}

impl Peer {
    /// It did not answer for so long.
    fn no_sign_of_life(&self, limit: Duration) -> Error {
        let what = format!("{self} gave no sign of life for {limit:?}; the link is taken as lost");
        Error::new(ErrorKind::Timeout, what)
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// Limits of a [`Link`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// How long the first connection may take (default 4 s, so that a wrong address is known
    /// within 5 s).
    pub connect_limit: Duration,
    /// How long a publish may take, waiting for a lost link included (default 5 s: longer than a
    /// server's restart, shorter than a caller's patience).
    pub publish_limit: Duration,
    /// How long the proof of a subscription may take, waiting for a lost link included (default
    /// 5 s).
    pub subscribe_limit: Duration,
    /// How often a connection is asked for a sign of life, which is a fence too (default 3 s).
    pub ping_interval: Duration,
    /// How long the answer may take (default 5 s): with the interval, the longest that a dead peer
    /// goes unnoticed. Where an answer is behind messages, it may take twice as long while they come.
    pub ping_limit: Duration,
    /// How much may wait for one reader, in bytes (default [`Fanout::DEFAULT_QUEUE_BYTES`]).
    pub queue_bytes: usize,
    /// The largest body that is looked at, in bytes; a larger one is rejected (default: any).
    pub max_body_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_limit: Duration::from_secs(4),
            publish_limit: Duration::from_secs(5),
            subscribe_limit: Duration::from_secs(5),
            ping_interval: Duration::from_secs(3),
            ping_limit: Duration::from_secs(5),
            queue_bytes: Fanout::DEFAULT_QUEUE_BYTES,
            max_body_bytes: usize::MAX,
        }
    }
}

impl Settings {
    /// The same settings with every limit one that a clock can hold, and pings that leave time for
    /// other things. A limit beyond a year means the same to every caller.
    #[must_use]
    pub fn bounded(self) -> Self {
        let bounded = |limit: Duration| limit.min(Duration::from_secs(365 * 86_400));
        Self {
            connect_limit: bounded(self.connect_limit),
            publish_limit: bounded(self.publish_limit),
            subscribe_limit: bounded(self.subscribe_limit),
            ping_interval: bounded(self.ping_interval).max(Duration::from_millis(1)),
            ping_limit: bounded(self.ping_limit),
            ..self
        }
    }
}

/// A subscriber and a publisher as one transport, open until it is closed.
///
/// A transport's methods are one line each on top of it.
pub struct Link<S: Sender> {
    peer: Peer,
    /// Gone once the link is closed.
    open: Mutex<Option<Open<S>>>,
}

struct Open<S: Sender> {
    subscriber: Arc<Subscriber>,
    publisher: Arc<Publisher<S>>,
}

impl<S: Sender> Link<S> {
    /// An open link to `peer`.
    #[must_use]
    pub fn new(peer: Peer, subscriber: Subscriber, publisher: Arc<Publisher<S>>) -> Self {
        let open = Open { subscriber: Arc::new(subscriber), publisher };
        Self { peer, open: Mutex::new(Some(open)) }
    }

    /// Publishes `batch`: with a connection it is on its way after the first poll.
    ///
    /// # Errors
    /// What the [`Sender`] says; `Unavailable` if there was no connection within the limit,
    /// `UnknownOutcome` if the connection was lost or the answer took too long, `Closed`.
    ///
    /// # Cancel safety
    /// A dropped future leaks nothing. The batch may still be sent if the future was polled.
    pub async fn publish(&self, batch: S::Batch) -> Result<()> {
        let publisher = self.open()?.publisher;
        publisher.publish(batch).await
    }

    /// Subscribes to `topic` and proves it.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, `Timeout` or `Closed`, within the limit.
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn subscribe(&self, topic: Topic) -> Result<Subscription> {
        let subscriber = self.open()?.subscriber;
        subscriber.subscribe(topic).await.unwrap_or_else(|| Err(self.closed()))
    }

    /// Asks for a fence.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` or `Closed`, within twice the limit of a ping.
    ///
    /// # Cancel safety
    /// A dropped future leaks nothing; the fence may still appear in subscriptions.
    pub async fn fence(&self) -> Result<Fence> {
        let subscriber = self.open()?.subscriber;
        subscriber.fence().await.unwrap_or_else(|| Err(self.closed()))
    }

    /// Ends every subscription and both connections, within 2 seconds. A second call does nothing.
    ///
    /// # Cancel safety
    /// Once polled, the link is closed even if the future is dropped.
    pub async fn close(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(open) = open {
            join(open.subscriber.close(), open.publisher.close()).await;
        }
    }

    /// Does nothing, on an open link.
    ///
    /// # Errors
    /// `Closed`.
    pub fn check_open(&self) -> Result<()> {
        self.open().map(drop)
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    fn open(&self) -> Result<Open<S>> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.as_ref().map(Open::clone).ok_or_else(|| self.closed())
    }

    fn closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!("the transport to {} was closed; connect a new one", self.peer),
        )
    }
}

impl<S: Sender> Clone for Open<S> {
    fn clone(&self) -> Self {
        Self { subscriber: self.subscriber.clone(), publisher: self.publisher.clone() }
    }
}

impl<S: Sender> fmt::Debug for Link<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("peer", &self.peer)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
