//! Warm starts and repairs: a replica that is to be filled takes a copy from one that is live, one that lost
//! messages what differs, and one replica of many reads the source.

mod asking;
mod chunk;
mod comparing;
mod contacts;
mod copying;
mod coverage;
mod damage;
mod differing;
mod digest;
mod digesting;
#[cfg(test)]
mod numbers;
mod observing;
mod offering;
mod schedule;
mod taking;

use std::fmt;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

pub(super) use asking::Purpose;
pub(super) use contacts::Contacts;
pub(super) use copying::{Came, Copy, copy};
pub(super) use coverage::Coverage;
pub(super) use damage::{Damage, Losses};
pub use observing::ReplicaCopy;
pub(super) use offering::offer;

use chunk::Item;

use super::fences::Fences;
use super::hydration::{Command, Status};
use super::stats::Counters;
use super::{Entry, ReadCache};
use crate::channel::Inner;
use crate::{Key, Limits, Message, Origin, Position, Positions, Request, Result, Topic};

/// Lets a replica be filled, and repaired, from another one, and others from it.
///
/// Where it would read its source for the first time, it asks on the topic for a copy. A replica that
/// is whole, suspects nothing, and is proven by a fence that it asks for after the question answers, and
/// its entries go over the transport on a topic of their own, `<topic>.copy-<number>`, in numbered chunks,
/// once for all who asked. With them goes how far the replica has heard each publisher: what is
/// behind that, or between that and what this one heard, is a gap, and repaired as every other one. If the
/// replica dies or has to suspect its entries, another one is asked. What arrives meanwhile is applied in
/// order, exactly as during a scan of the source. If nobody has a copy, one replica reads the source
/// and says so, and the others wait for it. After five minutes a second one reads it too, and never a third.
///
/// After a gap that no replay fills it asks for a digest instead: sums of hashes of what the other one has, of
/// which 4 KiB are enough for a million entries. It asks on for what differs, about 1 KiB beside each entry,
/// and nothing else is sent.
///
/// A replica that was told of a loss is repaired by one that was told of it as well: it may be of a row that was
/// written while its publish failed, of which the source alone is sure to know. So it names its losses when it asks,
/// also those that were repaired before, and believes no answer that does not cover them. If there is none, one
/// replica reads the source, and repairs those who wait. The source is read at once where the user
/// [asks](super::Hydration::reload) for it, and where the load of a single key failed. Meanwhile entries
/// are suspect, for up to a second and a half longer than without this, if nobody answers.
///
/// Off by default, because it needs the right to subscribe to such topics and to publish on them, and
/// because a replica that starts alone waits up to a second and a half for an answer before it reads
/// its source. Worth it where the source is slow, large, or asked by many.
///
/// Needs a source, [`Mode::Hydrate`](super::Mode), a cache that holds every entry to its end (a
/// [`Replica`](super::Replica), without a longest life or jittered expiry) and that is empty at the start, and a transport
/// whose fences cover all that publishers write; where
/// they cover one server of a cluster, or the cache is not empty, the source is read. A broker that keeps messages has its own way:
/// Kafka's compacted topics. Entries without versions are copied too: one that is written meanwhile
/// is then read from the source, as in a scan. What is offered in another codec is not taken.
///
/// The sender, and who compares itself, holds a list of its keys, and both sides a few chunks, beside their cache. A life that has an end
/// ends later than at the sender by as long as its chunk was under way.
///
/// ```
/// use hydratecache::cache::{Replica, WarmStart};
/// use hydratecache::{Channel, Hydrated, memory::MemoryBroker};
/// # use futures::{FutureExt, StreamExt, future::BoxFuture, stream::{self, BoxStream}};
/// # use hydratecache::{Key, cache::{Loaded, Source, SourceError}};
/// # struct Table;
/// # impl Source<String> for Table {
/// #     fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
/// #         async move { Ok(Some(Loaded::new(format!("row of {}", key.as_str())))) }.boxed()
/// #     }
/// #     fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
/// #         stream::empty().boxed()
/// #     }
/// # }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let (broker, table) = (MemoryBroker::new(), Table);
/// let channel = Channel::<String>::new(broker.connect(), "users")?;
/// let users = Hydrated::builder(channel, Replica::new())
///     .source(table)
///     .with_warm_start(WarmStart::new())
///     .start()
///     .await?;
/// users.ready().await?;
/// assert_eq!(users.stats().copies, 0);       // nobody else was there
/// # Ok(()) }
/// ```
#[derive(Clone, Copy)]
#[must_use = "nothing is copied until a hydration is given it"]
pub struct WarmStart {
    chunk_bytes: usize,
    bytes_per_second: u64,
}

impl WarmStart {
    /// A warm start with the defaults.
    pub const fn new() -> Self {
        Self { chunk_bytes: 48 << 10, bytes_per_second: 64 << 20 }
    }

    /// How large a chunk may be, in bytes (default 48 KiB, which fits into what every transport carries
    /// by default; at most 256 KiB and what the transport carries). An entry that needs more goes in a
    /// chunk by itself; one that the transport does not carry is read from the source.
    pub fn with_chunk_bytes(mut self, bytes: usize) -> Self {
        self.chunk_bytes = bytes.min(256 << 10);
        self
    }

    /// How fast a copy is sent (default 64 MiB/s: a million entries of 100 bytes in about three
    /// seconds; at least 1 KiB/s). A replica sends two at most at a time, each at this rate.
    pub fn with_bytes_per_second(mut self, bytes: u64) -> Self {
        self.bytes_per_second = bytes.max(1 << 10);
        self
    }

    /// How long so many bytes take.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
    fn time_of(self, bytes: usize) -> Duration {
        Duration::from_secs(1).mul_f64(bytes as f64 / self.bytes_per_second as f64)
    }
}

impl Default for WarmStart {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for WarmStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WarmStart")
            .field("chunk_bytes", &self.chunk_bytes)
            .field("bytes_per_second", &self.bytes_per_second)
            .finish()
    }
}

/// How many requests wait for whoever is concerned. More are lost, which nobody relies on.
const REQUESTS: usize = 256;

/// How long a publish of a request or a chunk may take.
const PUBLISH_LIMIT: Duration = Duration::from_secs(5);

/// How often a replica that reads the source says so.
const SIGN_OF_LIFE: Duration = Duration::from_secs(1);

/// The least time between two words of the same.
const LEAST_PAUSE: Duration = Duration::from_millis(100);

/// A cache of which others may have copies.
pub(super) trait Contents<T>: Send + Sync {
    fn keys(&self) -> Vec<Key>;

    fn entry<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Entry<T>>>;
}

/// The contents of `cache`.
pub(super) fn contents<T: Send + Sync + 'static>(cache: impl ReadCache<T>) -> Arc<dyn Contents<T>> {
    struct Of<C>(C);

    impl<T: Send + Sync + 'static, C: ReadCache<T>> Contents<T> for Of<C> {
        fn keys(&self) -> Vec<Key> {
            self.0.keys()
        }

        fn entry<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Option<Entry<T>>> {
            self.0.entry(key.as_str()).boxed()
        }
    }

    Arc::new(Of(cache))
}

/// What asking and offering share: who we are, what we have, and what others say.
pub(super) struct Peers<T> {
    pub(super) me: Origin,
    pub(super) channel: Arc<Inner<T>>,
    pub(super) counters: Arc<Counters>,
    contents: Arc<dyn Contents<T>>,
    kept_beyond_end: Duration,
    heard: broadcast::Sender<Request>,
}

impl<T> Clone for Peers<T> {
    fn clone(&self) -> Self {
        let Self { me, kept_beyond_end, .. } = *self;
        let (channel, counters) = (self.channel.clone(), self.counters.clone());
        let (contents, heard) = (self.contents.clone(), self.heard.clone());
        Self { me, channel, counters, contents, kept_beyond_end, heard }
    }
}

/// How far a replica has come with a publisher.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) struct Head {
    /// It has applied, or repaired in another way, what has this number and all before that it was told of.
    pub(super) position: Position,
    /// It was told of all from this number on; none if that is not known.
    pub(super) from: Option<NonZeroU64>,
}

impl Head {
    /// Whether the replica was told of the loss of `positions`, or did not lose them.
    fn covers(self, positions: Positions) -> bool {
        self.position.origin == positions.origin
            && positions.last <= self.position.sequence
            && self.from.is_some_and(|from| from <= positions.first)
    }
}

/// What an offering replica needs of the hydration.
pub(super) struct Desk<T> {
    pub(super) peers: Peers<T>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) fences: Fences,
    pub(super) hydrator: mpsc::Sender<Command<T>>,
}

impl<T: Send + Sync + 'static> Peers<T> {
    pub(super) fn new(
        channel: Arc<Inner<T>>,
        counters: Arc<Counters>,
        contents: Arc<dyn Contents<T>>,
        kept_beyond_end: Duration,
    ) -> Self {
        // Seeded where the simulation seeds it; a number that two share costs them one attempt.
        let me = random_origin();
        let heard = broadcast::channel(REQUESTS).0;
        Self { me, channel, counters, contents, kept_beyond_end, heard }
    }

    /// Another replica, or this one, said something.
    pub(super) fn hear(&self, request: Request) {
        // Nobody may be listening.
        let _ = self.heard.send(request);
    }

    fn listen(&self) -> broadcast::Receiver<Request> {
        self.heard.subscribe()
    }

    /// Says something to all. That may fail: whoever waits for an answer waits for a bounded time.
    async fn say(&self, request: &Request) -> Result<()> {
        let message = Message::request(self.me, request.encode())?;
        self.publish(self.channel.topic.clone(), message).await
    }

    async fn publish(&self, topic: Topic, message: Message) -> Result<()> {
        let publish = self.channel.transport.publish(topic, vec![message]);
        timeout(PUBLISH_LIMIT, publish).await.unwrap_or_else(|_| {
            let what = "a request to other replicas was not published in time";
            Err(crate::Error::new(crate::ErrorKind::Timeout, what))
        })
    }

    /// The topic of a copy for `id`.
    fn topic_of(&self, id: Origin) -> Result<Topic> {
        topic_of(&self.channel.topic, id)
    }

    /// The entry of `key`, and how long it lives if it has an end, unless that is over.
    async fn living(&self, key: &Key) -> Option<(Entry<T>, Option<Duration>)> {
        let entry = self.contents.entry(key).await?;
        let end = entry.expires_at().and_then(|end| end.checked_sub(self.kept_beyond_end));
        match end.map(|end| end.checked_duration_since(Instant::now())) {
            None => Some((entry, None)),
            Some(Some(left)) if !left.is_zero() => Some((entry, Some(left))),
            Some(_) => None,
        }
    }

    /// The same, as it goes to others.
    async fn item(&self, key: &Key) -> Option<Item> {
        let (entry, left) = self.living(key).await?;
        let payload = self.channel.codec.encode(entry.value()).ok();
        Some(Item { key: key.clone(), version: entry.own_version(), left, payload })
    }

    /// Until it is dropped, tells others that this replica reads the source.
    pub(super) fn announce(&self) -> AbortOnDropHandle<()> {
        let (peers, mut heard) = (self.clone(), self.listen());
        AbortOnDropHandle::new(tokio::spawn(async move {
            let wait = Request::Wait(peers.me);
            let mut signs = interval(SIGN_OF_LIFE);
            loop {
                tokio::select! {
                    _ = signs.tick() => {}
                    request = heard.recv() => match request {
                        Ok(Request::Wanted { .. } | Request::Compare { .. }) => {}
                        Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => continue,
                        Err(broadcast::error::RecvError::Closed) => return,
                    },
                }
                // Nobody relies on it.
                let _ = peers.say(&wait).await;
                sleep_until(Instant::now() + LEAST_PAUSE).await;
            }
        }))
    }
}

/// The thread that was to put keys in order is gone, because the runtime is ending.
fn not_sorted() -> crate::Error {
    crate::Error::new(crate::ErrorKind::Closed, "keys were not put in order: the runtime is ending")
}

fn random_origin() -> Origin {
    Origin::from_u64(fastrand::u64(1..)).expect("from 1 upwards")
}

/// A topic below that of the channel, so that permissions by prefix cover it; where that would be too
/// long, one of its own.
fn topic_of(topic: &Topic, id: Origin) -> Result<Topic> {
    let name = format!("{topic}.copy-{id}");
    if name.len() > Topic::MAX_BYTES { Topic::new(format!("copy-{id}")) } else { Topic::new(name) }
}

/// The most that one chunk may take.
fn most_bytes(limits: Limits) -> usize {
    const KEY: &str = CHUNK_KEY;
    limits.max_payload_bytes.saturating_sub(KEY.len())
}

/// The key of the messages that carry chunks.
const CHUNK_KEY: &str = "copy";

fn chunk_key() -> Key {
    Key::new(CHUNK_KEY).expect("legal")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topic_of_a_copy_is_legal_whatever_the_topic() {
        let id = Origin::from_u64(u64::MAX).expect("not zero");
        for name in ["a".to_owned(), "shop.users".to_owned(), "x".repeat(179), "x".repeat(200)] {
            let topic = topic_of(&Topic::new(&name).expect("legal"), id).expect("legal");
            assert!(topic.as_str().ends_with("copy-ffffffffffffffff"));
            assert_eq!(topic.as_str().starts_with(&name), name.len() < 179, "{topic}");
        }
    }
}
