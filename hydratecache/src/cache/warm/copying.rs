//! Taking a copy, or what differs from it: what arrives, as rows that a scan yields.

use std::future::pending;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::{Asking, Purpose, Step};
use super::chunk::{Chunk, Item};
use super::damage::Losses;
use super::differing::Differing;
use super::digest::Part;
use super::taking::Received;
use super::{Head, PUBLISH_LIMIT, Peers, random_origin};
use crate::cache::hydrator::reload::source_is_slow;
use crate::cache::{Loaded, Source, SourceError};
use crate::transport::{Signal, Subscription};
use crate::{Error, ErrorKind, Key, Kind, Origin, Request, Result, Ttl, VersionDomain};

/// How many rows wait for the hydrator: what a chunk of small entries holds.
const ROWS: usize = 512;

/// What a copy yields: a key, and its value if it has one.
type Row<T> = Result<(Key, Option<Loaded<T>>), SourceError>;

/// A copy of another replica under way.
pub(in crate::cache) struct Copy<T> {
    /// An error: the source is to be read instead.
    pub(in crate::cache) rows: BoxStream<'static, Row<T>>,
    /// Behind the last row.
    pub(in crate::cache) came: oneshot::Receiver<Came>,
}

/// What came of another replica.
#[derive(Debug)]
pub(in crate::cache) enum Came {
    /// All that was needed.
    Whole {
        /// How far it had come with each publisher.
        heads: Vec<Head>,
        /// Rows are what differed: entries of the other replica, and keys that it does not have. Else they are
        /// all that it has.
        is_digest: bool,
    },
    /// Some of it. The replica went away, or withdrew what came: of keys that the next one does not have, it says
    /// nothing.
    Part,
    /// Some of what differs, and that is so much that all had better be taken.
    TooMuch,
}

/// Has a copy of another replica taken, or what differs from it: nothing of a digest whose sender was not told of
/// all these `losses`. Without a source, and how long that may take, nobody is told that the source will be read.
pub(in crate::cache) fn copy<T: Send + Sync + 'static>(
    peers: &Peers<T>,
    purpose: Purpose,
    losses: Losses,
    source: Option<(Arc<dyn Source<T>>, Duration)>,
) -> Copy<T> {
    let (rows, yielded) = mpsc::channel(ROWS);
    let (came_to, came) = oneshot::channel();
    let copying = Copying { peers: peers.clone(), losses, source, rows };
    let task = AbortOnDropHandle::new(tokio::spawn(copying.run(purpose, came_to)));
    let next = |(mut yielded, task): (mpsc::Receiver<Row<T>>, AbortOnDropHandle<()>)| async move {
        let row = yielded.recv().await?;
        Some((row, (yielded, task)))
    };
    Copy { rows: stream::unfold((yielded, task), next).boxed(), came }
}

struct Copying<T> {
    peers: Peers<T>,
    losses: Losses,
    source: Option<(Arc<dyn Source<T>>, Duration)>,
    rows: mpsc::Sender<Row<T>>,
}

/// Nobody wants the rows any more.
struct Unwanted;

impl<T: Send + Sync + 'static> Copying<T> {
    async fn run(self, purpose: Purpose, came_to: oneshot::Sender<Came>) {
        let came = match purpose {
            Purpose::Fill => self.copied().await,
            Purpose::Repair => self.compared().await,
        };
        match came {
            Ok(Ok(came)) => drop(came_to.send(came)),
            Ok(Err(error)) => drop(self.rows.send(Err(error.into())).await),
            Err(Unwanted) => {}
        }
    }

    fn asking(&self, purpose: Purpose) -> Asking {
        let asking = Asking::begin(random_origin(), purpose, Instant::now());
        let asking = asking.with_losses(self.losses.clone());
        if self.source.is_some() { asking } else { asking.without_source() }
    }

    /// Yields all entries of another replica, and returns how far it had come.
    async fn copied(&self) -> Result<Result<Came>, Unwanted> {
        let mut heard = self.peers.listen();
        let mut asking = self.asking(Purpose::Fill);
        let (mut signals, mut heads, mut has_rows) = (None, Vec::new(), false);
        loop {
            let step = tokio::select! {
                payload = next_payload(&mut signals) => {
                    let Some(payload) = payload else { return Ok(Err(no_copy())) };
                    let (Some(taking), Some(chunk)) = (asking.taking(), Chunk::decode(&payload)) else {
                        continue;
                    };
                    let number = chunk.number.get();
                    let received = taking.received(number, chunk.is_last, Instant::now());
                    if received != Received::Old {
                        heads.extend(chunk.heads);
                        has_rows = true;
                        self.forward(chunk.items).await?;
                    }
                    if received == Received::Complete {
                        return Ok(Ok(Came::Whole { heads, is_digest: false }));
                    }
                    Step::Nothing
                }
                step = self.next_step(&mut asking, &mut heard) => step?,
            };
            match step {
                Step::Nothing => {}
                Step::Say(request) => self.say(&request).await,
                Step::Listen(copy) => signals = self.subscribed(copy).await.ok(),
                Step::ReadTheSource => return Ok(Err(no_copy())),
            }
            signals = signals.filter(|_| asking.is_served());
            if has_rows && !asking.is_served() {
                return Ok(if self.source.is_some() { Ok(Came::Part) } else { Err(broken_off()) });
            }
        }
    }

    /// Yields what differs from another replica, and returns how far that had come.
    async fn compared(&self) -> Result<Result<Came>, Unwanted> {
        let mut heard = self.peers.listen();
        let mut asking = self.asking(Purpose::Repair);
        let (mut signals, mut differing, mut entries) = (None, Differing::default(), Vec::new());
        // Known once all its heads have come; no entry is taken before.
        let mut is_covered = false;
        loop {
            let step = tokio::select! {
                payload = next_payload(&mut signals) => {
                    let Some(payload) = payload else { return Ok(Err(no_copy())) };
                    let (Some(comparing), Some(part)) = (asking.comparing(), Part::decode(&payload)) else {
                        continue;
                    };
                    entries.extend(differing.compare(&self.peers, comparing, part).await);
                    if !is_covered && let Some(heads) = differing.all_heads() {
                        if !self.losses.are_covered_by(heads) {
                            return Ok(Ok(Came::Whole { heads: differing.heads, is_digest: true }));
                        }
                        is_covered = true;
                    }
                    if is_covered {
                        self.forward(mem::take(&mut entries)).await?;
                    }
                    let says_too_little = comparing.is_complete() && !differing.is_whole();
                    if differing.is_too_much() || says_too_little {
                        return Ok(Ok(Came::TooMuch));
                    }
                    if comparing.is_complete() {
                        for key in differing.absent() {
                            self.rows.send(Ok((key, None))).await.map_err(|_| Unwanted)?;
                        }
                        return Ok(Ok(Came::Whole { heads: differing.heads, is_digest: true }));
                    }
                    Step::Nothing
                }
                step = self.next_step(&mut asking, &mut heard) => step?,
            };
            match step {
                Step::Nothing => {}
                Step::Say(request) => self.say(&request).await,
                Step::Listen(digest) => {
                    (differing, entries, is_covered) = (Differing::default(), Vec::new(), false);
                    signals = self.subscribed(digest).await.ok();
                }
                Step::ReadTheSource => return Ok(Err(no_copy())),
            }
            signals = signals.filter(|_| asking.is_served());
        }
    }

    /// Waits until others say something, or something is due. Dropping it loses nothing.
    async fn next_step(
        &self,
        asking: &mut Asking,
        heard: &mut broadcast::Receiver<Request>,
    ) -> Result<Step, Unwanted> {
        tokio::select! {
            request = heard.recv() => match request {
                Ok(request) => {
                    let is_usable = self.is_usable(&request, asking.purpose());
                    Ok(asking.heard(&request, is_usable, Instant::now()))
                }
                Err(broadcast::error::RecvError::Lagged(_)) => Ok(Step::Nothing),
                // The hydrator holds the other end.
                Err(broadcast::error::RecvError::Closed) => Err(Unwanted),
            },
            () = sleep_until(asking.next_due()) => Ok(asking.due(Instant::now())),
            () = self.rows.closed() => Err(Unwanted),
        }
    }

    /// If it fails nobody answers, and that has its limit.
    async fn say(&self, request: &Request) {
        drop(self.peers.say(request).await);
    }

    /// Whether what is offered is what this replica can read: fleets are deployed one by one.
    fn is_usable(&self, request: &Request, purpose: Purpose) -> bool {
        match request {
            Request::Offered { form, content_type, .. } => {
                *form == purpose.form() && self.peers.channel.reads(content_type.as_ref())
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

    /// The row of `item`; from the source, if there is one, where its value did not fit. What cannot be used ends the copy.
    async fn row(&self, item: Item) -> Row<T> {
        let Item { key, version, left, payload } = item;
        let channel = &self.peers.channel;
        let Some(payload) = payload else {
            let Some((source, limit)) = &self.source else {
                return Ok((key, None));
            };
            let loading = timeout(*limit, source.load(key.clone()));
            let loaded = loading.await.map_err(|_| source_is_slow(*limit))?;
            return loaded.map(|loaded| (key, loaded));
        };
        // What this one writes from now on is newer than all that it has.
        let is_believed = version.is_none_or(|version| match version.domain() {
            VersionDomain::Clock => channel.clock.hear(version.number()).is_some(),
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

/// What the next message on the topic of a copy carries, once there is one. None: the transport was closed.
async fn next_payload(signals: &mut Option<Subscription>) -> Option<Bytes> {
    let Some(signals) = signals else {
        return pending().await;
    };
    loop {
        // What is lost shows in what was asked for and did not come.
        if let Signal::Message(message) = signals.next().await?
            && message.kind() == Kind::Put
        {
            return Some(message.payload().clone());
        }
    }
}

fn broken_off() -> Error {
    Error::new(ErrorKind::Unavailable, "the replica that sent a copy went away before its end")
}

fn no_copy() -> Error {
    Error::new(ErrorKind::Unavailable, "no other replica has a copy")
}
