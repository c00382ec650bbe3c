//! Warm starts: a replica that is to be filled takes a copy from one that is live, and one replica of
//! many reads the source.

mod asking;
mod chunk;
mod contacts;
mod copying;
mod offering;
mod schedule;
mod taking;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::{Instant, interval, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

pub(super) use contacts::Contacts;
pub(super) use copying::{Copy, copy};
pub(super) use offering::{Begin, begin};

use super::fences::Fences;
use super::hydration::{Command, Status};
use super::stats::Counters;
use crate::channel::Inner;
use crate::{Key, Limits, Message, Origin, Request, Result, Topic};

/// Lets a replica that starts be filled from another one, and others from it.
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
/// After a gap that no replay fills the source is read, by every replica that has the gap: the source alone is sure
/// to know of a row that was written while its publish failed.
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
/// The sender holds a list of its keys, and both sides a few chunks, beside their cache. A life that has an end
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

/// What asking and offering share: who we are, and what others say.
pub(super) struct Peers<T> {
    pub(super) me: Origin,
    pub(super) channel: Arc<Inner<T>>,
    pub(super) counters: Arc<Counters>,
    heard: broadcast::Sender<Request>,
}

impl<T> Clone for Peers<T> {
    fn clone(&self) -> Self {
        let Self { me, channel, counters, heard } = self;
        let (channel, counters, heard) = (channel.clone(), counters.clone(), heard.clone());
        Self { me: *me, channel, counters, heard }
    }
}

/// What an offering replica needs of the hydration.
pub(super) struct Desk<T> {
    pub(super) peers: Peers<T>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) fences: Fences,
    pub(super) hydrator: mpsc::Sender<Command<T>>,
    pub(super) kept_beyond_end: Duration,
}

impl<T: Send + Sync + 'static> Peers<T> {
    pub(super) fn new(channel: Arc<Inner<T>>, counters: Arc<Counters>) -> Self {
        // Seeded where the simulation seeds it; a number that two share costs them one attempt.
        let me = random_origin();
        Self { me, channel, counters, heard: broadcast::channel(REQUESTS).0 }
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
                        Ok(Request::Wanted(id)) if id != peers.me => {}
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
