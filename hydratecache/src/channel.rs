//! `Channel<T>`: typed publish and subscribe on one topic, over any transport.

mod applied;
mod draft;
mod event;
mod stats;
mod write;

use std::borrow::Borrow;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesOrdered;
use futures::{FutureExt, Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;
use tracing::field::display;

pub use applied::{AppliedBy, ReplicaId};
pub use draft::Draft;
pub use event::{Change, Event, Update, Updates};
pub use stats::ChannelStats;
pub use write::Write;

use stats::Counters;

use crate::cache::{Hydrate, LocalCache};
use crate::codec::{Cbor, Codec};
use crate::count::Labels;
use crate::message::ContentType;
use crate::publisher::{Heartbeats, Lane, MAX_BATCH_BYTES, Publish};
use crate::trace::Destination;
use crate::transport::{Signal, Transport};
use crate::version::HybridClock;
use crate::wire::{Rejection, RejectionReason};
use crate::{
    Error, ErrorKind, Key, Kind, Message, Origin, Request, Result, Topic, Ttl, Version,
    VersionDomain, WallClock,
};

/// Typed publish and subscribe on one topic, over any transport.
///
/// Cloning is cheap and shares the publisher: all clones are one origin and one order. Publishing
/// needs a Tokio runtime, for the transport and for the heartbeats.
///
/// ```
/// use hydratecache::{Channel, memory::MemoryTransport};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// let users = Channel::<String>::new(MemoryTransport::new(), "users")?;
/// users.publish("user:1", &"Ada".to_owned()).await?;
/// users.remove("user:1").await?;
/// # Ok(()) }
/// ```
pub struct Channel<T>(pub(crate) Arc<Inner<T>>);

pub(crate) struct Inner<T> {
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) topic: Topic,
    pub(crate) codec: Arc<dyn Codec<T>>,
    domain: VersionDomain,
    pub(crate) clock: Arc<HybridClock>,
    pub(crate) lane: Lane,
    counters: Counters,
}

impl<T: Send + Sync + 'static> Channel<T> {
    /// A channel with the defaults: CBOR, and versions by a hybrid logical clock.
    ///
    /// # Errors
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic).
    pub fn new(transport: impl Transport, topic: impl AsRef<str>) -> Result<Self>
    where
        T: Serialize + DeserializeOwned,
    {
        Self::builder(transport, topic).build()
    }

    /// Settings for a channel that begins with the defaults.
    pub fn builder(transport: impl Transport, topic: impl AsRef<str>) -> ChannelBuilder<T>
    where
        T: Serialize + DeserializeOwned,
    {
        Self::builder_with_codec(transport, topic, Cbor)
    }

    /// Settings for a channel with another codec.
    pub fn builder_with_codec(
        transport: impl Transport,
        topic: impl AsRef<str>,
        codec: impl Codec<T>,
    ) -> ChannelBuilder<T> {
        ChannelBuilder {
            transport: Arc::new(transport),
            topic: Topic::new(topic),
            codec: Arc::new(codec),
            domain: VersionDomain::default(),
            heartbeats: Heartbeats::DEFAULT,
            replay_bytes: ChannelBuilder::<T>::DEFAULT_REPLAY_BYTES,
            clock: WallClock::default(),
            origin: None,
        }
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.0.topic
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> &dyn Transport {
        &*self.0.transport
    }

    /// Publishes a new value for `key`. The same as [`put`](Self::put) without options.
    ///
    /// # Errors
    /// Before any I/O: [`InvalidKey`](crate::ErrorKind::InvalidKey),
    /// [`Encode`](crate::ErrorKind::Encode),
    /// [`PayloadTooLarge`](crate::ErrorKind::PayloadTooLarge), and
    /// [`InvalidVersion`](crate::ErrorKind::InvalidVersion) where the caller gives versions. Then
    /// those of [`Transport::publish`].
    ///
    /// # Cancel safety
    /// As [`Publish`].
    pub fn publish(&self, key: impl AsRef<str>, value: &T) -> Publish {
        self.put(key, value).into_future()
    }

    /// A new value for `key`: await it, after giving it a TTL or a version if there is one.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn put(&self, key: impl AsRef<str>, value: &T) -> Write<'_, T> {
        Write::new(&self.0, self.0.encode(Key::new(key), value))
    }

    /// `key` has no value any more: await it.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn remove(&self, key: impl AsRef<str>) -> Write<'_, T> {
        Write::new(&self.0, Key::new(key).map(Message::remove))
    }

    /// The whole topic has no value any more: await it. Removes what is not newer than this.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn clear(&self) -> Write<'_, T> {
        Write::new(&self.0, Ok(Message::clear()))
    }

    /// A new TTL for `key`, with the same value: await it.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    pub fn touch(&self, key: impl AsRef<str>, ttl: Ttl) -> Write<'_, T> {
        Write::new(&self.0, Key::new(key).map(|key| Message::touch(key, ttl)))
    }

    /// Publishes every item of a stream, in order, and returns how many the broker has: all.
    ///
    /// The fastest way to publish much: no answer is awaited for a single message, up to four
    /// batches overlap, and what the stream has ready goes at once. Items are `(key, value)`
    /// pairs, or [`Draft`]s where they have a TTL or a version.
    ///
    /// # Errors
    /// The first error ends it and says how many messages before it the broker has. What follows
    /// the failed message in its batch was not published, or is of unknown outcome with it.
    ///
    /// # Cancel safety
    /// What was taken from the stream may or may not be published.
    pub async fn publish_all<D, V>(&self, drafts: impl Stream<Item = D> + Send) -> Result<u64>
    where
        D: Into<Draft<V>> + Send,
        V: Borrow<T> + Send,
    {
        const BATCH: usize = 256;
        const OVERLAP: usize = 4;
        let mut gathered = pin!(drafts.ready_chunks(BATCH).fuse());
        let mut drafts = Vec::new().into_iter();
        let mut under_way = FuturesOrdered::new();
        let mut published = 0;
        let mut failed = None;
        loop {
            let has_room = under_way.len() < OVERLAP && failed.is_none();
            if has_room && drafts.len() > 0 {
                let (batch, error) = self.0.encode_batch(&mut drafts);
                failed = error;
                if !batch.is_empty() {
                    let count = batch.len() as u64;
                    let answer = self.0.lane.publish_batch(batch);
                    under_way.push_back(answer.map(move |answer| (count, answer)));
                }
                // The in-process transport answers at once; its readers need their turn.
                tokio::task::yield_now().await;
                continue;
            }
            tokio::select! {
                // Answers are waited for while the stream has nothing, so that nothing stalls.
                Some((count, answer)) = under_way.next() => {
                    let answer: Result<()> = answer;
                    answer.map_err(|error| after(published, &error))?;
                    published += count;
                }
                Some(more) = gathered.next(), if has_room => {
                    let more: Vec<D> = more;
                    drafts = more.into_iter();
                }
                else => break,
            }
        }
        failed.map_or(Ok(published), |error| Err(after(published, &error)))
    }

    /// Waits until every publish that began before has its answer, which went to its publisher.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn flush(&self) {
        self.0.lane.flush().await;
    }

    /// Subscribes, and returns when the subscription is proven: whatever is published from then on
    /// is yielded, or reported as a gap.
    ///
    /// # Errors
    /// As [`Transport::subscribe`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn subscribe(&self) -> Result<Updates<T>> {
        let subscription = self.0.transport.subscribe(self.0.topic.clone()).await?;
        Ok(Updates::new(self.0.clone(), subscription))
    }

    /// Subscribes and calls `handle` with every event, one after the other, until the transport is
    /// closed or this future is dropped.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    pub async fn for_each<F>(&self, mut handle: impl FnMut(Event<T>) -> F + Send) -> Result<()>
    where
        F: Future<Output = ()> + Send,
    {
        let mut updates = self.subscribe().await?;
        while let Some(event) = updates.next().await {
            let processing = updates.processing();
            let handling = processing.run(|| handle(event));
            processing.over(handling).await;
        }
        Ok(())
    }

    /// Fills `cache` from this channel: await it, after giving it a source or a policy if there is
    /// one. Dropping the returned [`Hydration`](crate::cache::Hydration) stops it.
    pub fn hydrate<C: LocalCache<T>>(&self, cache: C) -> Hydrate<T, C> {
        Hydrate::new(self.clone(), cache)
    }

    /// Listens for requests of those who missed messages of this channel, and answers them until the
    /// returned guard is dropped.
    ///
    /// A channel that is hydrated from or subscribed to, in this process, does so anyway. For one that only
    /// publishes it costs what a subscription to the topic does, and nothing is done with what else arrives.
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe).
    ///
    /// # Cancel safety
    /// A dropped future leaves no subscription behind.
    pub async fn answer_requests(&self) -> Result<Answering> {
        let mut subscription = self.0.transport.subscribe(self.0.topic.clone()).await?;
        let (channel, listening) = (self.0.clone(), self.0.lane.listen());
        let task = tokio::spawn(async move {
            let _listening = listening;
            while let Some(signal) = subscription.next().await {
                if let Signal::Message(message) = &signal {
                    channel.asked(message);
                }
            }
        });
        Ok(Answering(AbortOnDropHandle::new(task)))
    }

    /// What this channel has done so far.
    #[must_use]
    pub fn stats(&self) -> ChannelStats {
        let lane = self.0.lane.stats();
        ChannelStats {
            published: lane.published,
            failed: lane.failed,
            batches: lane.batches,
            replayed: lane.replayed,
            received: self.0.counters.received.count(),
            rejected: self.0.counters.rejected.count(),
        }
    }
}

impl<T: 'static> Inner<T> {
    fn encode(&self, key: Result<Key>, value: &T) -> Result<Message> {
        let mut message = Message::put(key?, self.codec.encode(value)?);
        message.content_type = self.codec.content_type();
        Ok(message)
    }

    /// The next messages of `drafts`, as many as make a batch, or up to the first that cannot be
    /// published, and why it cannot.
    fn encode_batch<D: Into<Draft<V>>, V: Borrow<T>>(
        &self,
        drafts: &mut impl ExactSizeIterator<Item = D>,
    ) -> (Vec<Message>, Option<Error>) {
        let mut batch = Vec::with_capacity(drafts.len());
        let mut held_bytes = 0;
        while held_bytes < MAX_BATCH_BYTES
            && let Some(draft) = drafts.next()
        {
            let draft = draft.into();
            let message = self
                .encode(draft.key, draft.value.borrow())
                .map(|message| Message { ttl: draft.ttl, version: draft.version, ..message })
                .and_then(|message| self.check(&message).map(|()| message));
            match message {
                Ok(message) => {
                    held_bytes += message.held_bytes();
                    batch.push(message);
                }
                Err(error) => return (batch, Some(error)),
            }
        }
        (batch, None)
    }

    /// What must hold before a message may join a batch, whose other messages are not its fault.
    fn check(&self, message: &Message) -> Result<()> {
        self.transport.limits().check(std::slice::from_ref(message))?;
        match (self.domain, message.version) {
            (VersionDomain::Clock, None) | (VersionDomain::Caller, Some(_)) => Ok(()),
            (VersionDomain::Clock, Some(_)) => Err(write::version_error(
                "this channel stamps versions by its clock; leave the version out, or build the \
                 channel with VersionDomain::Caller",
            )),
            (VersionDomain::Caller, None) => Err(write::version_error(
                "this channel orders writes by the caller's version; give one that grows with \
                 every write of the key",
            )),
        }
    }

    /// The broker, as metrics and traces name it.
    pub(crate) fn system(&self) -> &'static str {
        self.transport.limits().system
    }

    /// Where messages come from, as traces name it.
    pub(crate) fn destination(&self) -> Destination<'_> {
        Destination { system: self.system(), topic: &self.topic }
    }

    /// What metrics of this channel are labelled with.
    pub(crate) fn labels(&self) -> Labels {
        Labels::new(&self.topic, &*self.transport)
    }

    /// Where versions come from.
    pub(crate) fn domain(&self) -> VersionDomain {
        self.domain
    }

    /// Takes note of a request for messages of this channel.
    pub(crate) fn asked(&self, message: &Message) -> Option<Request> {
        if message.kind() != Kind::Request {
            return None;
        }
        let request = Request::decode(message.payload());
        if let Some(Request::Replay(positions)) = &request {
            self.lane.asked(*positions);
        }
        request
    }

    /// Whether a version of the caller's belongs here.
    pub(crate) fn check_domain(&self, version: Version) -> Result<()> {
        if version.domain() == self.domain {
            return Ok(());
        }
        Err(write::version_error(
            "the source gives versions and this channel stamps them by its clock; leave them out, \
             or build the channel with VersionDomain::Caller",
        ))
    }

    /// The version that orders an arrived message, or why it cannot be used here.
    ///
    /// A foreign publisher may send no version. Where the clock gives versions, such a message is
    /// ordered by its arrival.
    pub(crate) fn accept(&self, message: &Message) -> Result<Version, Rejection> {
        self.counters.received.increment();
        let reject = |reason| {
            let rejection = Rejection::new(reason).with_key(message.key().cloned());
            self.count(rejection.with_sender(message.origin(), message.sequence()))
        };
        let version = match message.version() {
            None if self.domain == VersionDomain::Clock => Version::clock(self.clock.tick(1), None),
            Some(version) if version.domain() == self.domain => version,
            _ => {
                return Err(reject(RejectionReason::WrongVersionDomain { expected: self.domain }));
            }
        };
        if self.domain == VersionDomain::Clock {
            let Some(under_way) = self.clock.hear(version.number()) else {
                return Err(reject(RejectionReason::VersionFromTheFuture));
            };
            // Without a version of its own nobody knows when it was written.
            if message.version().is_some() {
                self.counters.propagation.record(under_way);
            }
        }
        Ok(version)
    }

    /// Whether values of this media type are of the kind that this channel's codec reads.
    pub(crate) fn reads(&self, content_type: Option<&ContentType>) -> bool {
        media_type(content_type) == media_type(self.codec.content_type().as_ref())
    }

    /// The value of an accepted `Put`.
    pub(crate) fn decode(&self, message: &Message) -> Result<T, Rejection> {
        let own = self.codec.content_type();
        let (theirs, ours) = (media_type(message.content_type()), media_type(own.as_ref()));
        let decoded = if theirs == ours {
            self.codec.decode(message.payload())
        } else {
            let what = format!("its content type is {theirs}, this channel's codec reads {ours}");
            Err(Error::new(ErrorKind::Decode, what))
        };
        decoded.map_err(|error| {
            let rejection = Rejection::new(RejectionReason::Undecodable(error));
            let rejection = rejection.with_key(message.key().cloned());
            self.count(rejection.with_sender(message.origin(), message.sequence()))
        })
    }

    /// Counts a rejection, and says it where an operator looks.
    pub(crate) fn count(&self, rejection: Rejection) -> Rejection {
        self.counters.rejected.increment();
        let origin = rejection.position().map(|position| display(position.origin));
        tracing::warn!(
            messaging.system = self.system(),
            messaging.destination.name = %self.topic,
            origin,
            reason = %rejection.reason(),
            "rejected a message"
        );
        rejection
    }
}

/// A channel that answers requests, as long as this lives.
#[derive(Debug)]
#[must_use = "dropping it ends the answers"]
pub struct Answering(#[allow(dead_code, reason = "ends with the guard")] AbortOnDropHandle<()>);

fn after(published: u64, error: &Error) -> Error {
    error.in_context(format!("after {published} published messages"))
}

fn media_type(content_type: Option<&ContentType>) -> &str {
    content_type.map_or("application/cbor", ContentType::as_str)
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("topic", &self.0.topic)
            .field("transport", &self.0.transport)
            .field("versions", &self.0.domain)
            .field("origin", &self.0.lane.origin())
            .finish_non_exhaustive()
    }
}

/// Settings for a [`Channel`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct ChannelBuilder<T> {
    transport: Arc<dyn Transport>,
    topic: Result<Topic>,
    codec: Arc<dyn Codec<T>>,
    domain: VersionDomain,
    heartbeats: Heartbeats,
    replay_bytes: usize,
    clock: WallClock,
    origin: Option<Origin>,
}

impl<T> ChannelBuilder<T> {
    /// How much of its latest messages a channel keeps: 4 MiB, some 9,000 messages of 256 bytes. A lost
    /// message is noticed with the next one, and a lost last one 5 s later; so at 1,000 writes a second
    /// there is room for nearly twice what may be asked for.
    pub const DEFAULT_REPLAY_BYTES: usize = 4 << 20;

    /// Where versions come from (default [`VersionDomain::Clock`], which needs nothing from the
    /// caller). All channels of a topic are built alike.
    pub fn with_versions(self, domain: VersionDomain) -> Self {
        Self { domain, ..self }
    }

    /// How long after the last publish the first heartbeat is sent (default 5 s: how late the loss
    /// of a last message is noticed) and the longest interval, to which the interval doubles
    /// (default 5 minutes: what an idle fleet costs).
    pub fn with_heartbeats(self, first: Duration, longest: Duration) -> Self {
        // A zero interval would be a loop without a pause.
        let first = first.max(Duration::from_millis(1));
        Self { heartbeats: Heartbeats { first, longest: longest.max(first) }, ..self }
    }

    /// How much of its latest messages this channel keeps, in bytes, to publish them again for those who
    /// missed them (default [`DEFAULT_REPLAY_BYTES`](Self::DEFAULT_REPLAY_BYTES)). 0: nothing, and who
    /// misses something is told so at once.
    ///
    /// Only a channel that hears requests can answer them, so nothing is kept while it has neither a
    /// hydration, nor a subscription, nor [`answer_requests`](Channel::answer_requests). Where the broker
    /// keeps messages itself ([`Limits::durable`](crate::Limits::durable)), nothing is kept either.
    pub fn with_replay_bytes(self, bytes: usize) -> Self {
        Self { replay_bytes: bytes, ..self }
    }

    /// The wall clock that versions and the age of a TTL are read from (default: the system's).
    pub fn with_wall_clock(self, clock: WallClock) -> Self {
        Self { clock, ..self }
    }

    /// The origin that this channel publishes as (default: a random one), for simulations that are to
    /// repeat. Of one that published before, subscribers take new messages for old ones.
    pub fn with_origin(self, origin: Origin) -> Self {
        Self { origin: Some(origin), ..self }
    }

    /// The channel.
    ///
    /// # Errors
    /// [`InvalidTopic`](crate::ErrorKind::InvalidTopic).
    pub fn build(self) -> Result<Channel<T>> {
        let topic = self.topic?;
        let clock = Arc::new(HybridClock::new(self.clock));
        let (transport, heartbeats) = (self.transport, self.heartbeats);
        let origin = self.origin.unwrap_or_else(Origin::random);
        let (lane_transport, lane_clock) = (transport.clone(), clock.clone());
        let replay_bytes = self.replay_bytes;
        let counters = Counters::new(&Labels::new(&topic, &transport));
        let lane =
            Lane::new(lane_transport, topic.clone(), origin, lane_clock, heartbeats, replay_bytes);
        Ok(Channel(Arc::new(Inner {
            transport,
            topic,
            codec: self.codec,
            domain: self.domain,
            clock,
            lane,
            counters,
        })))
    }
}

impl<T> fmt::Debug for ChannelBuilder<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChannelBuilder")
            .field("topic", &self.topic)
            .field("transport", &self.transport)
            .field("versions", &self.domain)
            .finish_non_exhaustive()
    }
}
