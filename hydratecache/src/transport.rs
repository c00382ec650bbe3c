//! The contract between a broker and everything else: what a [`Transport`] promises, and the
//! signals that a [`Subscription`] yields.
//!
//! The promises P1 to P13 are listed on [`Transport`]. Each is a function of the conformance suite
//! in `hydratecache-testkit`, which anyone who writes a transport can run.

use std::fmt;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{BoxStream, Stream};
use tokio::time::Instant;

use crate::wire::Rejection;
use crate::{Error, ErrorKind, Message, Position, Positions, Result, Topic};

/// Moves messages through one broker. Knows nothing of types.
///
/// A transport is a handle to one process's connections. It is object-safe and has no default
/// methods, so that a wrapper cannot lose one silently.
///
/// # Promises
/// * **P1 Ready means ready.** When [`subscribe`](Self::subscribe) returns, a message whose publish
///   begins afterwards, by anyone, is delivered or reported as a gap. A denied or deaf subscription
///   is an error within a limit, never an `Ok`.
/// * **P2 No silent loss.** Every message that the broker accepted reaches every live subscription
///   once, in its publisher's order, or that subscription yields a [`Gap`].
/// * **P3 Disrupted, then live, then gap.** On a lost link: [`Signal::Disrupted`] at once, then
///   attempts without end, with backoff and jitter; the new subscription is confirmed as P1 says;
///   then [`Signal::Live`] and, if anything can have been missed, [`Signal::Gap`].
/// * **P4 A dead peer is noticed** within 10 seconds by default, idle or not.
/// * **P5 Publish tells the truth.** `Ok` means that the broker has the batch. An outcome that is
///   not known is [`UnknownOutcome`](ErrorKind::UnknownOutcome). Every wait has a limit.
/// * **P6 Slow readers hurt themselves only.** Queues are bounded in bytes; overflow is
///   [`Gap::Exact`]; the broker's connection is always drained. Where a process is too slow even for that, what
///   the broker's client drops is [`Gap::Unknown`], and numbers count it.
/// * **P7 Bad input** is an error before any I/O; what arrives broken is [`Signal::Rejected`], and
///   the stream goes on.
/// * **P8 Close is quick and final**: at most 2 seconds, streams end, later calls return
///   [`Closed`](ErrorKind::Closed), no task is left, and a client that the caller supplied
///   stays open. Dropping a subscription unsubscribes.
/// * **P9 One connection, many topics.** The number of broker connections is constant.
/// * **P10 Cancel-safe.** Dropping any future leaks nothing.
/// * **P11 TTL travels with the message.**
/// * **P12 No secrets** in `Debug`, errors or traces; payloads are never logged.
/// * **P13 A fence proves the past.** [`Signal::Fenced`] appears in every subscription only after
///   all messages that the broker had accepted before the fence was asked for, or after the gap
///   that stands for them.
pub trait Transport: fmt::Debug + Send + Sync + 'static {
    /// What the transport carries and how far its proofs reach.
    fn limits(&self) -> Limits;

    /// Hands `batch` to the broker, in order, and waits until the broker has it.
    ///
    /// Batches go to the broker in the order in which their futures are first polled, so that a
    /// publisher can have several under way without losing its order.
    ///
    /// # Errors
    /// One answer for the whole batch. `PayloadTooLarge` and `Closed` before any I/O;
    /// `Unavailable` if nothing was sent; `UnknownOutcome` if something may have been.
    ///
    /// # Cancel safety
    /// A dropped future leaks nothing. The batch, or a part of it, may still be sent if the future
    /// was polled.
    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>>;

    /// Subscribes to `topic` and proves it (P1).
    ///
    /// # Errors
    /// `Denied` without permission, `Unavailable` or `Timeout` if the proof cannot be had within
    /// the transport's limit, `Closed`.
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>>;

    /// Asks the broker for an echo that comes behind everything it has accepted, puts
    /// [`Signal::Fenced`] into every subscription behind that, and returns the fence (P13).
    ///
    /// # Errors
    /// `Unavailable` or `Timeout` if the echo does not come within the transport's limit, `Closed`.
    ///
    /// # Cancel safety
    /// A dropped future leaks nothing; the fence may still appear in subscriptions.
    fn fence(&self) -> BoxFuture<'_, Result<Fence>>;

    /// Ends every subscription and closes the transport's own connections, within 2 seconds.
    ///
    /// # Errors
    /// None of the kinds in use today; a second call is `Ok`.
    ///
    /// # Cancel safety
    /// Once polled, the transport is closed even if the future is dropped.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

impl<T: Transport + ?Sized> Transport for Arc<T> {
    fn limits(&self) -> Limits {
        (**self).limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        (**self).publish(topic, batch)
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        (**self).subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        (**self).fence()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        (**self).close()
    }
}

/// What a transport carries and how far its proofs reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The largest payload of one message, in bytes.
    pub max_payload_bytes: usize,
    /// Whether the broker keeps messages for subscribers that are away.
    pub durable: bool,
    /// Whether key, TTL and version travel in the broker's own headers instead of an envelope.
    pub native_headers: bool,
    /// The order point that a fence goes through.
    pub fence_scope: FenceScope,
    /// How many messages of publishes at the same time make a batch, behind which another begins.
    pub batch_messages: usize,
    /// The broker, as metrics and traces name it: `messaging.system` of OpenTelemetry, such as `kafka`.
    pub system: &'static str,
}

impl Limits {
    /// Enough to hide a round trip, few enough that the first is not held up by the last: 512
    /// messages of 256 bytes are written in well under a millisecond.
    pub const DEFAULT_BATCH_MESSAGES: usize = 512;

    /// What a broker is called whose transport does not name it.
    pub const UNKNOWN_SYSTEM: &'static str = "unknown";

    /// Limits of a transport that keeps nothing and uses the envelope.
    #[must_use]
    pub const fn new(max_payload_bytes: usize, fence_scope: FenceScope) -> Self {
        Self {
            max_payload_bytes,
            durable: false,
            native_headers: false,
            fence_scope,
            batch_messages: Self::DEFAULT_BATCH_MESSAGES,
            system: Self::UNKNOWN_SYSTEM,
        }
    }

    /// The name of the broker in metrics and traces (default [`UNKNOWN_SYSTEM`](Self::UNKNOWN_SYSTEM)).
    #[must_use]
    pub const fn with_system(mut self, system: &'static str) -> Self {
        self.system = system;
        self
    }

    /// Other batches than of 512 messages: smaller ones, where a broker takes long over one and
    /// should have the next at hand when it is done. At least 1.
    #[must_use]
    pub const fn with_batch_messages(mut self, batch_messages: usize) -> Self {
        self.batch_messages = if batch_messages == 0 { 1 } else { batch_messages };
        self
    }

    /// Checks that every message of `batch` fits.
    ///
    /// # Errors
    /// [`PayloadTooLarge`](ErrorKind::PayloadTooLarge) names the sizes and the key.
    pub fn check(&self, batch: &[Message]) -> Result<()> {
        let oversize = |message: &&Message| message.payload().len() > self.max_payload_bytes;
        match batch.iter().find(oversize) {
            None => Ok(()),
            Some(message) => Err(Error::new(
                ErrorKind::PayloadTooLarge,
                format!(
                    "the value of key {:?} takes {} bytes, this transport carries {}; \
                     publish a removal and let readers load it, or raise the transport's limit",
                    message.key().map(crate::Key::as_str).unwrap_or_default(),
                    message.payload().len(),
                    self.max_payload_bytes
                ),
            )),
        }
    }
}

/// The order point that a fence goes through: what was accepted elsewhere is not proven by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FenceScope {
    /// This process.
    Process,
    /// One server, with which all publishers speak: a Redis node, a NATS server on its own.
    Server,
    /// One server of a cluster: what publishers gave to the others is not covered, so that a fence
    /// alone proves no freshness.
    ClusterMember,
    /// One database.
    Database,
    /// Every partition of the topic.
    Partitions,
}

impl FenceScope {
    /// Whether a fence covers what every publisher of the topic has written.
    #[must_use]
    pub const fn covers_all(self) -> bool {
        !matches!(self, Self::ClusterMember)
    }
}

/// Proof that everything accepted before [`asked_at`](Self::asked_at) has been delivered, or is
/// covered by a gap that was reported.
///
/// Fences of one transport are ordered: a later one proves what an earlier one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fence {
    asked_at: Instant,
    number: u64,
}

impl Fence {
    /// The fence with this `number`, asked for at `asked_at`. For authors of transports: numbers
    /// and times grow together.
    #[must_use]
    pub const fn new(number: u64, asked_at: Instant) -> Self {
        Self { asked_at, number }
    }

    /// When the fence was asked for, on this process's monotonic clock.
    #[must_use]
    pub const fn asked_at(self) -> Instant {
        self.asked_at
    }

    /// How old the proof is now: no message accepted longer ago than this is missing.
    #[must_use]
    pub fn age(self) -> Duration {
        self.asked_at.elapsed()
    }
}

/// Messages that were, or may have been, lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Gap {
    /// These, of one publisher. They may be published again.
    Known(Positions),
    /// This many.
    Exact(NonZeroU64),
    /// Any number, even none.
    Unknown,
}

impl Gap {
    /// Both gaps as one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self.count(), other.count()) {
            (Some(a), Some(b)) => Self::Exact(a.saturating_add(b.get())),
            _ => Self::Unknown,
        }
    }

    /// How many, where that is known.
    #[must_use]
    pub fn exact(self) -> Option<u64> {
        self.count().map(NonZeroU64::get)
    }

    fn count(self) -> Option<NonZeroU64> {
        match self {
            Self::Known(positions) => Some(positions.count()),
            Self::Exact(count) => Some(count),
            Self::Unknown => None,
        }
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.count() {
            Some(count) => write!(f, "{count} messages were lost"),
            None => f.write_str("messages may have been lost"),
        }
    }
}

/// What a subscription yields: a message, or the truth about delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Signal {
    /// A message.
    Message(Message),
    /// Everything accepted before the fence was asked for has been yielded, or a gap for it.
    Fenced(Fence),
    /// The link is lost; attempts to restore it go on. Says why.
    Disrupted(Error),
    /// The link is back and the subscription is proven.
    Live,
    /// Messages were, or may have been, lost at this point of the stream.
    Gap(Gap),
    /// A message that a gap before stood for came after all, behind later ones of its publisher; or one
    /// that its publisher sent before the first that was heard of it, because others missed it. What
    /// orders it is its version.
    Late(Message),
    /// A publisher was heard for the first time, by a heartbeat: this is the last message that it sent.
    Heard(Position),
    /// A message arrived that could not be used.
    Rejected(Rejection),
}

/// The stream of a subscription. Only `None` ends it; dropping it unsubscribes.
pub struct Subscription(BoxStream<'static, Signal>);

impl Subscription {
    /// A subscription that yields `signals`.
    pub fn new(signals: impl Stream<Item = Signal> + Send + 'static) -> Self {
        Self(Box::pin(signals))
    }
}

impl Stream for Subscription {
    type Item = Signal;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Signal>> {
        self.0.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}
