//! Taking a copy: what arrives of it, as rows that a scan yields.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::{Asking, Step};
use super::chunk::{Chunk, FORM, Item};
use super::taking::Received;
use super::{PUBLISH_LIMIT, Peers, random_origin};
use crate::cache::hydrator::reload::source_is_slow;
use crate::cache::{Loaded, Source, SourceError};
use crate::transport::{Signal, Subscription};
use crate::{Error, ErrorKind, Key, Kind, Origin, Position, Request, Result, Ttl, VersionDomain};

/// How many rows wait for the hydrator: what a chunk of small entries holds.
const ROWS: usize = 512;

/// What a copy yields: a key, and its value if it has one.
type Row<T> = Result<(Key, Option<Loaded<T>>), SourceError>;

/// A copy of another replica under way.
pub(in crate::cache) struct Copy<T> {
    /// An error: the source is to be read instead.
    pub(in crate::cache) rows: BoxStream<'static, Row<T>>,
    /// Behind the last row: how far the other replica had come with each publisher.
    pub(in crate::cache) heads: oneshot::Receiver<Vec<Position>>,
}

/// Has a copy of another replica taken.
pub(in crate::cache) fn copy<T: Send + Sync + 'static>(
    peers: &Peers<T>,
    source: Arc<dyn Source<T>>,
    source_limit: Duration,
) -> Copy<T> {
    let (rows, yielded) = mpsc::channel(ROWS);
    let (came_to, heads) = oneshot::channel();
    let copying = Copying { peers: peers.clone(), source, source_limit, rows };
    let task = AbortOnDropHandle::new(tokio::spawn(copying.run(came_to)));
    let next = |(mut yielded, task): (mpsc::Receiver<Row<T>>, AbortOnDropHandle<()>)| async move {
        let row = yielded.recv().await?;
        Some((row, (yielded, task)))
    };
    Copy { rows: stream::unfold((yielded, task), next).boxed(), heads }
}

struct Copying<T> {
    peers: Peers<T>,
    source: Arc<dyn Source<T>>,
    source_limit: Duration,
    rows: mpsc::Sender<Row<T>>,
}

/// Nobody wants the rows any more.
struct Unwanted;

impl<T: Send + Sync + 'static> Copying<T> {
    async fn run(self, came_to: oneshot::Sender<Vec<Position>>) {
        match self.copied().await {
            Ok(Ok(heads)) => drop(came_to.send(heads)),
            Ok(Err(error)) => drop(self.rows.send(Err(error.into())).await),
            Err(Unwanted) => {}
        }
    }

    /// Yields all entries of another replica, and returns how far it had come.
    async fn copied(&self) -> Result<Result<Vec<Position>>, Unwanted> {
        let mut heard = self.peers.listen();
        let mut asking = Asking::begin(random_origin(), Instant::now());
        let (mut signals, mut heads) = (None, Vec::new());
        loop {
            let step = tokio::select! {
                chunk = next_chunk(&mut signals) => {
                    let Some(chunk) = chunk else { return Ok(Err(no_copy())) };
                    let Some(taking) = asking.taking() else { continue };
                    let number = chunk.number.get();
                    let received = taking.received(number, chunk.is_last, Instant::now());
                    if received != Received::Old {
                        heads.extend(chunk.heads);
                        self.forward(chunk.items).await?;
                    }
                    if received == Received::Complete {
                        return Ok(Ok(heads));
                    }
                    Step::Nothing
                }
                request = heard.recv() => match request {
                    Ok(request) => {
                        let is_usable = self.is_usable(&request);
                        asking.heard(&request, is_usable, Instant::now())
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => Step::Nothing,
                    Err(broadcast::error::RecvError::Closed) => return Ok(Err(no_copy())),
                },
                () = sleep_until(asking.next_due()) => asking.due(Instant::now()),
                () = self.rows.closed() => return Err(Unwanted),
            };
            match step {
                Step::Nothing => {}
                // If it fails nobody answers, and that has its limit.
                Step::Say(request) => drop(self.peers.say(&request).await),
                Step::Listen(copy) => {
                    heads.clear();
                    signals = self.subscribed(copy).await.ok();
                }
                Step::ReadTheSource => return Ok(Err(no_copy())),
            }
            if asking.taking().is_none() {
                signals = None;
            }
        }
    }

    /// Whether what is offered is what this replica can read: fleets are deployed one by one.
    fn is_usable(&self, request: &Request) -> bool {
        match request {
            Request::Offered { form, content_type, .. } => {
                *form == FORM && self.peers.channel.reads(content_type.as_ref())
            }
            _ => false,
        }
    }

    async fn subscribed(&self, copy: Origin) -> Result<Subscription> {
        let topic = self.peers.topic_of(copy)?;
        let subscribing = self.peers.channel.transport.subscribe(topic);
        timeout(PUBLISH_LIMIT, subscribing).await.map_err(|_| no_copy())?
    }

    async fn forward(&self, items: Vec<Item>) -> Result<(), Unwanted> {
        for item in items {
            let row = self.row(item).await;
            self.rows.send(row).await.map_err(|_| Unwanted)?;
        }
        Ok(())
    }

    /// The row of `item`; from the source, if its value did not fit. What cannot be used ends the copy.
    async fn row(&self, item: Item) -> Row<T> {
        let Item { key, version, left, payload } = item;
        let channel = &self.peers.channel;
        let Some(payload) = payload else {
            let loading = timeout(self.source_limit, self.source.load(key.clone()));
            let loaded = loading.await.map_err(|_| source_is_slow(self.source_limit))?;
            return loaded.map(|loaded| (key, loaded));
        };
        // What this one writes from now on is newer than all that it has.
        let is_believed = version.is_none_or(|version| match version.domain() {
            VersionDomain::Clock => channel.clock.hear(version.number()),
            VersionDomain::Caller => true,
        });
        if !is_believed {
            return Err(no_copy().into());
        }
        let mut loaded = Loaded::new(channel.codec.decode(&payload)?).with_exact_version(version);
        if let Some(left) = left {
            // From now on, by this process's clock: no other one is asked.
            let Ok(ttl) = Ttl::new(channel.clock.now(), left) else {
                return Ok((key, None));
            };
            loaded = loaded.with_ttl(ttl);
        }
        self.peers.counters.entries_copied.increment();
        Ok((key, Some(loaded)))
    }
}

/// The next chunk, once there is one. None: the transport was closed.
async fn next_chunk(signals: &mut Option<Subscription>) -> Option<Chunk> {
    let Some(signals) = signals else {
        return pending().await;
    };
    loop {
        // Gaps show in the numbers of chunks.
        if let Signal::Message(message) = signals.next().await?
            && message.kind() == Kind::Put
            && let Some(chunk) = Chunk::decode(message.payload())
        {
            return Some(chunk);
        }
    }
}

fn no_copy() -> Error {
    Error::new(ErrorKind::Unavailable, "no other replica has a copy")
}
