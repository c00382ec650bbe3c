//! Giving copies: a replica that is whole answers those who want one.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::random;
use super::chunk::{ChunkWriter, FORM, Item};
use super::schedule::Schedule;
use super::taking::PATIENCE;
use super::{Desk, WarmStart, chunk_key, most_bytes, random_origin};
use crate::cache::hydration::Command;
use crate::cache::{Entry, ReadCache};
use crate::{Key, Message, Origin, Position, Request, Result};

/// How many copies are sent at once. All who asked before one began share it.
const MOST: usize = 2;

/// An offer is made at a random time within this, and not at all if another one came first.
const JITTER: Duration = Duration::from_millis(50);

/// Between the first word of somebody who takes a copy and its first chunk: others who take it too need
/// a moment to listen.
const GATHERING: Duration = Duration::from_millis(30);

/// A complete copy is kept for so long, for those who miss chunks of it. It hinders no other.
const LINGERING: Duration = Duration::from_secs(3);

/// Nobody is told to wait who was told so this lately.
const WAIT_PAUSE: Duration = Duration::from_millis(500);

/// How many keys are put in order on a runtime's thread: more are on one of their own.
const QUICKLY_SORTED: usize = 10_000;

/// How often the hydrator is asked how far publishers have come, until no value of a message is being
/// loaded.
const HEADS_TRIES: usize = 20;

/// How many heads a chunk carries.
const HEADS: usize = 512;

/// Sending goes ahead of its rate by no more than this, so that it need not sleep after each chunk.
const AHEAD: Duration = Duration::from_millis(5);

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
        let (copies, told_at) = (BTreeMap::new(), Instant::now());
        Offering { shop, copies, told_at, tells_at: None }.run().boxed()
    })
}

/// Listens to those who want a copy.
struct Offering<T, C> {
    shop: Arc<Shop<T, C>>,
    /// In an order that repeats in a simulation.
    copies: BTreeMap<Origin, Copy>,
    /// When anyone last told others to wait.
    told_at: Instant,
    /// When this replica is to tell them, unless another one does.
    tells_at: Option<Instant>,
}

/// What each copy needs.
struct Shop<T, C> {
    desk: Desk<T>,
    cache: C,
    settings: WarmStart,
}

/// A copy that is offered, or under way.
struct Copy {
    /// The question that it answers.
    question: Origin,
    takes: mpsc::Sender<(u64, u64)>,
    stage: Arc<Stage>,
    task: AbortOnDropHandle<()>,
}

/// How far a copy is.
#[derive(Default)]
struct Stage(AtomicU8);

impl Stage {
    const OFFERED: u8 = 1;
    const COMPLETE: u8 = 2;

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Relaxed) >= stage
    }

    fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Offering<T, C> {
    async fn run(mut self) {
        let mut heard = self.shop.desk.peers.listen();
        loop {
            let tells_at = self.tells_at;
            tokio::select! {
                request = heard.recv() => match request {
                    Ok(request) => self.heard(&request),
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = sleep_until(tells_at.unwrap_or_else(Instant::now)), if tells_at.is_some() => {
                    self.tells_at = None;
                    let peers = &self.shop.desk.peers;
                    // Nobody relies on it.
                    drop(peers.say(&Request::Wait(peers.me)).await);
                }
            }
        }
    }

    fn heard(&mut self, request: &Request) {
        match request {
            Request::Wanted(question) => self.wanted(*question),
            Request::Offered { to, copy, form, content_type }
                if *form == FORM && self.shop.desk.peers.channel.reads(content_type.as_ref()) =>
            {
                // Another one was first, with the same to offer.
                self.copies.retain(|own, other| {
                    own == copy || other.question != *to || other.stage.is(Stage::OFFERED)
                });
            }
            Request::Take { copy, first, last } => {
                if let Some(copy) = self.copies.get(copy) {
                    // Too many at once are none: they ask again.
                    let _ = copy.takes.try_send((first.get(), last.get()));
                }
            }
            Request::Wait(_) => (self.told_at, self.tells_at) = (Instant::now(), None),
            _ => {}
        }
    }

    fn wanted(&mut self, question: Origin) {
        self.copies.retain(|_, copy| !copy.task.is_finished());
        let (is_whole, is_soon) = {
            let status = self.shop.desk.status.borrow();
            (status.is_whole(), status.is_soon_whole())
        };
        let busy = self.copies.values().filter(|copy| !copy.stage.is(Stage::COMPLETE)).count();
        if is_whole && busy < MOST {
            let (takes, asked) = mpsc::channel(64);
            let (id, stage) = (random_origin(), Arc::<Stage>::default());
            let sending = self.shop.clone().send(id, question, asked, stage.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(sending));
            self.copies.insert(id, Copy { question, takes, stage, task });
        } else if (is_whole || is_soon) && self.told_at.elapsed() >= WAIT_PAUSE {
            let now = Instant::now();
            self.tells_at = self.tells_at.or(Some(now + random(JITTER)));
        }
    }
}

/// What of the cache a copy shows.
struct View {
    copy: Origin,
    /// In order.
    keys: Vec<Key>,
    heads: Vec<Position>,
    /// How often the cache had lost entries that no message took.
    shaken: u64,
    /// Where the chunks begin that were sent, and the next one.
    begins: Vec<usize>,
}

impl<T: Send + Sync + 'static, C: ReadCache<T>> Shop<T, C> {
    /// Offers a copy to those who heard `question`, and sends it as far as it is taken.
    async fn send(
        self: Arc<Self>,
        copy: Origin,
        question: Origin,
        mut takes: mpsc::Receiver<(u64, u64)>,
        stage: Arc<Stage>,
    ) {
        sleep(random(JITTER)).await;
        let Some((shaken, heads)) = self.proven().await else {
            return;
        };
        stage.set(Stage::OFFERED);
        let peers = &self.desk.peers;
        let content_type = peers.channel.codec.content_type();
        let offered = Request::Offered { to: question, copy, form: FORM, content_type };
        if peers.say(&offered).await.is_err() {
            return;
        }
        let Ok(Some((first, last))) = timeout(PATIENCE, takes.recv()).await else {
            return;
        };
        sleep(GATHERING).await;
        let mut view = View { copy, keys: self.keys().await, heads, shaken, begins: vec![0] };
        let mut schedule = Schedule::default();
        schedule.asked(first, last);
        if self.send_all(&mut view, &mut schedule, &mut takes, &stage).await.is_err() {
            // Those who do not hear it notice that nothing comes.
            drop(peers.say(&Request::Withdrawn(copy)).await);
        }
    }

    /// Waits until all that the broker had accepted before this call is in the cache: so all that
    /// those who asked for the copy cannot have heard by themselves. None: that cannot be said.
    async fn proven(&self) -> Option<(u64, Vec<Position>)> {
        self.desk.fences.ask().await.ok()?;
        let heads = self.heads().await?;
        let shaken = self.desk.status.borrow().shaken;
        self.is_sound(shaken).then_some((shaken, heads))
    }

    /// How far each publisher has come in the cache. None: values of messages are being loaded all the time.
    async fn heads(&self) -> Option<Vec<Position>> {
        for _ in 0..HEADS_TRIES {
            let (answer, answered) = oneshot::channel();
            self.desk.hydrator.send(Command::Heads { answer }).await.ok()?;
            if let Some(heads) = answered.await.ok()? {
                return Some(heads);
            }
            sleep(random(2 * JITTER)).await;
        }
        None
    }

    /// Whether the cache has all that it had then, or what replaced it.
    fn is_sound(&self, shaken: u64) -> bool {
        let status = self.desk.status.borrow();
        status.is_whole() && status.shaken == shaken
    }

    /// All keys, in order: a place among them means the same each time that a chunk is sent.
    async fn keys(&self) -> Vec<Key> {
        let mut keys = self.cache.keys();
        let is_quick = keys.len() <= QUICKLY_SORTED;
        let sort = move || {
            keys.sort_unstable();
            keys
        };
        if is_quick { sort() } else { tokio::task::spawn_blocking(sort).await.unwrap_or_default() }
    }

    /// Sends what is asked for, until nobody asks any more.
    async fn send_all(
        &self,
        view: &mut View,
        schedule: &mut Schedule,
        takes: &mut mpsc::Receiver<(u64, u64)>,
        stage: &Stage,
    ) -> Result<()> {
        let peers = &self.desk.peers;
        let topic = peers.topic_of(view.copy)?;
        let mut due = Instant::now();
        loop {
            while let Ok((first, last)) = takes.try_recv() {
                schedule.asked(first, last);
            }
            let Some(number) = schedule.next() else {
                let patience = if schedule.is_complete() { LINGERING } else { PATIENCE };
                let Ok(Some((first, last))) = timeout(patience, takes.recv()).await else {
                    return Ok(());
                };
                schedule.asked(first, last);
                continue;
            };
            let (bytes, is_last) = self.chunk(view, number).await?;
            due = due.max(Instant::now()) + self.settings.time_of(bytes.len());
            peers.publish(topic.clone(), Message::put(chunk_key(), bytes)).await?;
            schedule.sent(number, is_last);
            if schedule.is_complete() {
                stage.set(Stage::COMPLETE);
            }
            if due > Instant::now() + AHEAD {
                sleep_until(due).await;
            }
        }
    }

    /// The chunk with this number, which is one that was sent before or the next one; and whether it is
    /// the last.
    async fn chunk(&self, view: &mut View, number: u64) -> Result<(bytes::Bytes, bool)> {
        let index = usize::try_from(number - 1).unwrap_or(usize::MAX);
        let heads = view.heads.chunks(HEADS).nth(index).unwrap_or_default();
        let most = most_bytes(self.desk.peers.channel.transport.limits());
        let mut writer = ChunkWriter::new(self.settings.chunk_bytes, most, heads.len());
        let begin = view.begins.get(index).copied().unwrap_or(view.keys.len());
        let end = view.begins.get(index + 1).copied();
        let mut next = begin;
        while let Some(key) = view.keys.get(next).filter(|_| Some(next) != end) {
            match self.item(key).await {
                Some(item) if end.is_some() => writer.push_anyway(&item),
                Some(item) if !writer.push(&item) => break,
                _ => {}
            }
            next += 1;
        }
        if end.is_none() {
            view.begins.push(next);
        }
        let is_last = next == view.keys.len() && (index + 1) * HEADS >= view.heads.len();
        self.desk.peers.counters.entries_offered.add(writer.count());
        let number = NonZeroU64::new(number).expect("chunks are counted from 1");
        let bytes = writer.finish(number, is_last, heads);
        // Read before this: what was lost since is not in the chunk.
        if !self.is_sound(view.shaken) {
            return Err(crate::cache::hydration::stopped());
        }
        Ok((bytes, is_last))
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
