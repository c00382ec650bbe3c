//! Giving copies: a replica that is live answers those who want one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::PATIENCE;
use super::chunk::{ChunkWriter, Item};
use super::{Desk, LEAST_PAUSE, WarmStart, chunk_key, most_bytes};
use crate::cache::{Entry, ReadCache};
use crate::{Key, Message, Origin, Request, Result};

/// How many copies are sent at once.
const MOST: usize = 2;

/// How many chunks are sent before another word at most, whatever is asked for.
const MOST_CHUNKS: u64 = 64;

/// An offer is made at a random time within this, and not at all if another one came first.
const JITTER: Duration = Duration::from_millis(50);

/// How many keys are put in order on a runtime's thread: more are on one of their own.
const QUICKLY_SORTED: usize = 10_000;

/// Begins to offer copies of a cache.
pub(in crate::cache) type Begin<T> =
    Box<dyn FnOnce(Desk<T>) -> BoxFuture<'static, ()> + Send + Sync>;

pub(in crate::cache) fn begin<T, C>(settings: WarmStart, cache: C) -> Begin<T>
where
    T: Send + Sync + 'static,
    C: ReadCache<T>,
{
    Box::new(move |desk| {
        let shop = Arc::new(Shop { desk, cache, settings });
        Offering { shop, sending: BTreeMap::new(), said_wait_at: None }.run().boxed()
    })
}

/// Listens to those who want a copy.
struct Offering<T, C> {
    shop: Arc<Shop<T, C>>,
    /// In an order that repeats in a simulation.
    sending: BTreeMap<Origin, Sending>,
    said_wait_at: Option<Instant>,
}

/// What each copy needs.
struct Shop<T, C> {
    desk: Desk<T>,
    cache: C,
    settings: WarmStart,
}

/// A copy that is offered, or under way.
struct Sending {
    takes: mpsc::Sender<Take>,
    /// From now on whoever wants it decides between this offer and another one.
    is_offered: Arc<AtomicBool>,
    task: AbortOnDropHandle<()>,
}

/// So many chunks are wanted from here on.
struct Take {
    after: Option<Key>,
    chunks: u64,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Offering<T, C> {
    async fn run(mut self) {
        let mut heard = self.shop.desk.peers.listen();
        loop {
            match heard.recv().await {
                Ok(request) => self.heard(request).await,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    async fn heard(&mut self, request: Request) {
        let me = self.shop.desk.peers.me;
        match request {
            Request::Wanted(id) if self.shop.desk.status.borrow().is_whole() => {
                self.wanted(id).await;
            }
            Request::Offered { to, by } if by != me => {
                // Another one was first.
                let is_offered = |sending: &Sending| sending.is_offered.load(Ordering::Relaxed);
                if self.sending.get(&to).is_some_and(|sending| !is_offered(sending)) {
                    self.sending.remove(&to);
                }
            }
            Request::Take { to, by, .. } if by != me => drop(self.sending.remove(&to)),
            Request::Take { to, chunks, after, .. } => {
                if let Some(sending) = self.sending.get(&to) {
                    // Too many at once are none: it asks again.
                    let _ = sending
                        .takes
                        .try_send(Take { after, chunks: chunks.get().min(MOST_CHUNKS) });
                }
            }
            _ => {}
        }
    }

    async fn wanted(&mut self, id: Origin) {
        self.sending.retain(|_, sending| !sending.task.is_finished());
        if self.sending.len() >= MOST && !self.sending.contains_key(&id) {
            return self.say_wait().await;
        }
        let (takes, wanted) = mpsc::channel(4);
        let is_offered = Arc::<AtomicBool>::default();
        let task = tokio::spawn(self.shop.clone().send(id, wanted, is_offered.clone()));
        let task = AbortOnDropHandle::new(task);
        self.sending.insert(id, Sending { takes, is_offered, task });
    }

    /// Has others wait instead of reading the source.
    async fn say_wait(&mut self) {
        let now = Instant::now();
        if self.said_wait_at.is_none_or(|said_at| now >= said_at + LEAST_PAUSE) {
            self.said_wait_at = Some(now);
            let peers = &self.shop.desk.peers;
            // Nobody relies on it.
            let _ = peers.say(&Request::Wait(peers.me)).await;
        }
    }
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Shop<T, C> {
    /// Offers a copy to `id` and sends it, as far as it is taken.
    async fn send(
        self: Arc<Self>,
        id: Origin,
        mut wanted: mpsc::Receiver<Take>,
        is_offered: Arc<AtomicBool>,
    ) {
        sleep(JITTER.mul_f64(fastrand::f64())).await;
        let Ok(gaps) = self.proven().await else {
            return;
        };
        let keys = self.keys().await;
        let peers = &self.desk.peers;
        is_offered.store(true, Ordering::Relaxed);
        if peers.say(&Request::Offered { to: id, by: peers.me }).await.is_err() {
            return;
        }
        // Whoever wants it may be slow to apply a chunk, and asks again if one is lost.
        let mut take = timeout(2 * PATIENCE, wanted.recv()).await.ok().flatten();
        while let Some(Take { after, chunks }) = take.take() {
            let Ok(next) = self.send_from(id, &keys, after, chunks, gaps, &mut wanted).await else {
                return;
            };
            take = next;
            if take.is_none() {
                take = timeout(4 * PATIENCE, wanted.recv()).await.ok().flatten();
            }
        }
    }

    /// Waits until all that the broker had accepted before this call is in the cache: so all that
    /// whoever asked for the copy cannot have heard by itself. How many gaps there were by then.
    async fn proven(&self) -> Result<u64> {
        self.desk.fences.ask().await?;
        let gaps = self.desk.peers.counters.stats().gaps;
        if self.is_sound(gaps) { Ok(gaps) } else { Err(super::super::hydration::stopped()) }
    }

    /// Whether the cache has all that it had then, or what replaced it.
    fn is_sound(&self, gaps: u64) -> bool {
        let is_whole = self.desk.status.borrow().is_whole();
        is_whole && self.desk.peers.counters.stats().gaps == gaps
    }

    /// All keys, in order: a place in it means the same in every replica.
    async fn keys(&self) -> Arc<[Key]> {
        let mut keys = self.cache.keys();
        let is_quick = keys.len() <= QUICKLY_SORTED;
        let sort = move || {
            keys.sort_unstable();
            keys
        };
        let keys = if is_quick {
            sort()
        } else {
            tokio::task::spawn_blocking(sort).await.unwrap_or_default()
        };
        keys.into()
    }

    /// Sends up to so many chunks, or until another take comes, which is returned.
    async fn send_from(
        &self,
        id: Origin,
        keys: &[Key],
        mut after: Option<Key>,
        chunks: u64,
        gaps: u64,
        wanted: &mut mpsc::Receiver<Take>,
    ) -> Result<Option<Take>> {
        let peers = &self.desk.peers;
        let topic = peers.topic_of(id)?;
        let most = most_bytes(peers.channel.transport.limits());
        let mut writer = ChunkWriter::new(self.settings.chunk_bytes, most);
        let is_behind = |key: &Key| after.as_ref().is_some_and(|after| key <= after);
        let mut next = keys.partition_point(is_behind);
        for _ in 0..chunks {
            let began = Instant::now();
            let upto = self.fill(&mut writer, keys, &mut next).await;
            peers.counters.entries_offered.add(writer.count());
            let bytes = writer.finish(after.as_ref(), upto.as_ref());
            // Read before this: what was lost since is not in the chunk.
            if !self.is_sound(gaps) {
                return Err(super::super::hydration::stopped());
            }
            let pause = Duration::from_secs(1).mul_f64(rate(bytes.len(), self.settings));
            peers.publish(topic.clone(), Message::put(chunk_key(), bytes)).await?;
            after = upto;
            if after.is_none() {
                return Ok(None);
            }
            sleep_until(began + pause).await;
            if let Ok(take) = wanted.try_recv() {
                return Ok(Some(take));
            }
        }
        Ok(None)
    }

    /// Fills `writer` from the key at `next` on. Returns the last key that was looked at; none if there
    /// are no more.
    async fn fill(&self, writer: &mut ChunkWriter, keys: &[Key], next: &mut usize) -> Option<Key> {
        while let Some(key) = keys.get(*next) {
            if let Some(item) = self.item(key).await
                && !writer.push(&item)
            {
                // The first entry of a chunk always fits.
                return keys.get(next.checked_sub(1)?).cloned();
            }
            *next += 1;
        }
        None
    }

    async fn item(&self, key: &Key) -> Option<Item> {
        let entry = self.cache.entry(key.as_str()).await?;
        let end = entry.expires_at().and_then(|end| end.checked_sub(self.desk.kept_beyond_end));
        let left = match end.map(|end| end.checked_duration_since(Instant::now())) {
            None => None,
            Some(Some(left)) if !left.is_zero() => Some(left),
            Some(_) => return None,
        };
        let payload = self.desk.peers.channel.codec.encode(entry.value()).ok();
        Some(Item { key: key.clone(), version: Entry::version(&entry), left, payload })
    }
}

/// How much of a second so many bytes take.
#[allow(clippy::cast_precision_loss, reason = "far below 2^53")]
fn rate(bytes: usize, settings: WarmStart) -> f64 {
    bytes as f64 / settings.bytes_per_second as f64
}
