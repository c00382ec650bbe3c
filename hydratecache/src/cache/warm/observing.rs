//! A copy of a live replica for whoever keeps no cache: a tool that looks what replicas hold.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::{BoxFuture, ready};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::asking::Purpose;
use super::copying::{Copy, copy};
use super::damage::Losses;
use super::{Contents, Peers};
use crate::cache::stats::Counters;
use crate::cache::{Entry, Loaded, SourceError};
use crate::channel::Inner;
use crate::transport::{Signal, Subscription};
use crate::{Channel, Error, ErrorKind, Key, Kind, Request, Result};

/// What one live replica holds, entry by entry, in the order of a hash of the keys: what
/// [`Channel::replica_copy`] returns.
///
/// Each entry is as the replica had it at some time since the copy was asked for; of one whose value fits into no
/// message there is the key only. An error ends the stream; if the replica went away meanwhile, begin again, and
/// forget what came.
#[must_use = "a stream does nothing unless it is polled"]
pub struct ReplicaCopy<T> {
    entries: BoxStream<'static, Result<(Key, Option<Entry<T>>)>>,
    _hearing: AbortOnDropHandle<()>,
}

impl<T: Send + Sync + 'static> Channel<T> {
    /// Takes a copy of what a live replica of this topic holds, without keeping a cache or being a
    /// replica: for tools that look into a fleet.
    ///
    /// A replica answers that has [`WarmStart`](super::WarmStart) on, is whole and suspects nothing; of
    /// several the first one. It sends at the rate of its settings, to all who ask at the same time together. Its
    /// values have to be in this channel's codec. Brokers that keep messages themselves (Kafka) have no such
    /// copies: read what they keep.
    ///
    /// ```
    /// # use futures::StreamExt;
    /// # use hydratecache::{Channel, memory::MemoryBroker};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
    /// # let broker = MemoryBroker::new();
    /// let users = Channel::<String>::new(broker.connect(), "users")?;
    /// let mut copy = users.replica_copy().await?;
    /// while let Some(entry) = copy.next().await {
    ///     match entry {
    ///         Ok((key, Some(entry))) => println!("{}: {}", key.as_str(), entry.value()),
    ///         Ok((key, None)) => println!("{}: too large for a message", key.as_str()),
    ///         Err(error) => println!("{error}"),         // nobody is there to answer
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`subscribe`](Self::subscribe), and `InvalidInput` where the broker keeps messages itself. From the stream:
    /// `Unavailable` if nobody offers a copy within about a second, or it ends before it is complete.
    ///
    /// # Cancel safety
    /// A dropped future, and a dropped stream, leave neither subscription nor task behind.
    pub async fn replica_copy(&self) -> Result<ReplicaCopy<T>> {
        if self.0.transport.limits().durable {
            let what = "this broker keeps messages itself, so replicas offer no copies of theirs; \
                        read what the broker keeps";
            return Err(Error::new(ErrorKind::InvalidInput, what));
        }
        let subscription = self.0.transport.subscribe(self.0.topic.clone()).await?;
        Ok(ReplicaCopy::begin(self.0.clone(), subscription))
    }
}

impl<T: Send + Sync + 'static> ReplicaCopy<T> {
    fn begin(channel: Arc<Inner<T>>, subscription: Subscription) -> Self {
        let counters = Arc::new(Counters::new(&channel.labels()));
        let peers = Peers::new(channel, counters, Arc::new(Nothing), Duration::ZERO);
        let Copy { rows, .. } = copy(&peers, Purpose::Fill, Losses::default(), None);
        let hearing = AbortOnDropHandle::new(tokio::spawn(hear(peers, subscription)));
        Self { entries: rows.map(entry).boxed(), _hearing: hearing }
    }
}

impl<T> Stream for ReplicaCopy<T> {
    type Item = Result<(Key, Option<Entry<T>>)>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.entries.poll_next_unpin(cx)
    }
}

impl<T> fmt::Debug for ReplicaCopy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaCopy").finish_non_exhaustive()
    }
}

/// Passes on what replicas say to one another, until the transport is closed.
async fn hear<T: Send + Sync + 'static>(peers: Peers<T>, mut subscription: Subscription) {
    while let Some(signal) = subscription.next().await {
        if let Signal::Message(message) = signal
            && message.kind() == Kind::Request
            && let Some(request) = Request::decode(message.payload())
        {
            peers.hear(request);
        }
    }
}

/// The entry in a row of a copy; a row without a value is one that did not fit.
fn entry<T>(row: Result<(Key, Option<Loaded<T>>), SourceError>) -> Result<(Key, Option<Entry<T>>)> {
    let (key, loaded) = row.map_err(of_library)?;
    let entry = loaded.map(|loaded| {
        // The row was made a moment ago, when the rest of its life was known.
        let end = loaded.ttl.and_then(|ttl| Instant::now().checked_add(ttl.duration()));
        Entry::of_loaded(&loaded).with_expiry(end)
    });
    Ok((key, entry))
}

/// The library's own error, which is all that a copy fails with.
fn of_library(error: SourceError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::new(ErrorKind::Unavailable, "the copy failed").with_source(error),
    }
}

/// The cache of whoever has none.
struct Nothing;

impl<T: Send + Sync + 'static> Contents<T> for Nothing {
    fn keys(&self) -> Vec<Key> {
        Vec::new()
    }

    fn entry<'a>(&'a self, _: &'a Key) -> BoxFuture<'a, Option<Entry<T>>> {
        ready(None).boxed()
    }
}
