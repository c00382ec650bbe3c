//! Taking a copy: what arrives of it, as rows that a scan yields.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::{Asking, PATIENCE, Received, Step};
use super::chunk::{Chunk, Item};
use super::{Peers, random_origin};
use crate::cache::{Loaded, Source, SourceError};
use crate::transport::Signal;
use crate::{Error, ErrorKind, Key, Kind, Request, Result, Ttl, VersionDomain};

/// How many rows wait for the hydrator: what a chunk of small entries holds.
const ROWS: usize = 512;

/// What a copy yields: a key, and its value if it has one.
type Row<T> = Result<(Key, Option<Loaded<T>>), SourceError>;

/// A copy from another replica, as rows. An error: the source is to be read instead.
pub(in crate::cache) fn copy<T: Send + Sync + 'static>(
    peers: &Peers<T>,
    source: Arc<dyn Source<T>>,
) -> BoxStream<'static, Row<T>> {
    let (rows, yielded) = mpsc::channel(ROWS);
    let copying = Copying { peers: peers.clone(), source, rows };
    let task = AbortOnDropHandle::new(tokio::spawn(copying.run()));
    let next = |(mut yielded, task): (mpsc::Receiver<Row<T>>, AbortOnDropHandle<()>)| async move {
        let row = yielded.recv().await?;
        Some((row, (yielded, task)))
    };
    stream::unfold((yielded, task), next).boxed()
}

struct Copying<T> {
    peers: Peers<T>,
    source: Arc<dyn Source<T>>,
    rows: mpsc::Sender<Row<T>>,
}

/// Nobody wants the rows any more.
struct Unwanted;

impl<T: Send + Sync + 'static> Copying<T> {
    async fn run(self) {
        let outcome = self.copied().await.unwrap_or(Ok(()));
        if let Err(error) = outcome {
            // The scan was given up meanwhile.
            let _ = self.rows.send(Err(error.into())).await;
        }
    }

    /// Yields all entries of another replica.
    async fn copied(&self) -> Result<Result<()>, Unwanted> {
        match self.subscribed().await {
            Err(error) => Ok(Err(error)),
            Ok(signals) => self.copied_from(signals).await,
        }
    }

    async fn subscribed(&self) -> Result<(crate::Origin, crate::Subscription)> {
        // Another one each time: what was sent for an earlier attempt is not for this one.
        let id = random_origin();
        let topic = self.peers.topic_of(id)?;
        let subscribing = self.peers.channel.transport.subscribe(topic);
        let signals = timeout(super::PUBLISH_LIMIT, subscribing).await.map_err(|_| no_copy())??;
        Ok((id, signals))
    }

    async fn copied_from(
        &self,
        (id, mut signals): (crate::Origin, crate::Subscription),
    ) -> Result<Result<()>, Unwanted> {
        let mut heard = self.peers.listen();
        let (mut asking, wanted) = Asking::begin(id, Instant::now());
        self.say(&wanted).await;
        loop {
            let step = tokio::select! {
                signal = signals.next() => match signal {
                    None => return Ok(Err(no_copy())),
                    Some(signal) => match chunk_of(&signal) {
                        None => continue,
                        Some(chunk) => match asking.received(&chunk, Instant::now()) {
                            Received::Other(step) => step,
                            Received::Last => return self.forward(chunk).await.map(Ok),
                            Received::Next(step) => {
                                self.forward(chunk).await?;
                                step
                            }
                        },
                    },
                },
                request = heard.recv() => match request {
                    Ok(request) => asking.heard(&request, Instant::now()),
                    Err(broadcast::error::RecvError::Lagged(_)) => continue,
                    Err(broadcast::error::RecvError::Closed) => return Ok(Err(no_copy())),
                },
                () = sleep_until(asking.due()) => asking.timeout(Instant::now()),
                () = self.rows.closed() => return Err(Unwanted),
            };
            match step {
                Step::Nothing => {}
                Step::Say(request) => self.say(&request).await,
                Step::ReadTheSource => return Ok(Err(no_copy())),
            }
        }
    }

    async fn say(&self, request: &Request) {
        // If it fails nobody answers, and that has its limit.
        let _ = timeout(PATIENCE, self.peers.say(request)).await;
    }

    async fn forward(&self, chunk: Chunk) -> Result<(), Unwanted> {
        for item in chunk.items {
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
            let loaded = self.source.load(key.clone()).await?;
            return Ok((key, loaded));
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

fn chunk_of(signal: &Signal) -> Option<Chunk> {
    match signal {
        // Gaps show in what the next chunk follows.
        Signal::Message(message) if message.kind() == Kind::Put => Chunk::decode(message.payload()),
        _ => None,
    }
}

fn no_copy() -> Error {
    Error::new(ErrorKind::Unavailable, "no other replica has a copy")
}
