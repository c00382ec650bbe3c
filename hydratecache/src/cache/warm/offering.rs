//! Giving copies and digests: a replica that is whole answers those who want one.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::asking::{Purpose, random};
use super::chunk::ChunkWriter;
use super::damage::are_covered;
use super::digest::Level;
use super::schedule::Schedule;
use super::taking::PATIENCE;
use super::{Desk, Head, WarmStart, chunk_key, most_bytes, not_sorted, random_origin};
use crate::cache::hydration::Command;
use crate::{Key, Message, Origin, Positions, Request, Result};

/// How many copies are sent at once. All who asked before one began share it.
const MOST: usize = 2;

/// How many are kept in all, with those that are complete: each has a list of all keys. For a new one the complete
/// one that is the oldest goes; whoever still misses a part of that asks for another.
const MOST_KEPT: usize = 6;

/// An offer is made at a random time within this, and not at all if another one came first.
const JITTER: Duration = Duration::from_millis(50);

/// Between the first word of somebody who takes a copy and its first chunk: others who take it too need
/// a moment to listen.
const GATHERING: Duration = Duration::from_millis(30);

/// A complete copy is kept for so long, for those who miss chunks of it, unless another one needs its place.
const LINGERING: Duration = Duration::from_secs(3);

/// Nobody is told to wait who was told so this lately.
const WAIT_PAUSE: Duration = Duration::from_millis(500);

/// How many keys are put in order on a runtime's thread: more are on one of their own.
pub(super) const QUICKLY_SORTED: usize = 10_000;

/// How often the hydrator is asked how far publishers have come, until no value of a message is being
/// loaded.
const HEADS_TRIES: usize = 20;

/// How many heads a chunk carries.
const HEADS: usize = 512;

/// Sending goes ahead of its rate by no more than this, so that it need not sleep after each chunk.
const AHEAD: Duration = Duration::from_millis(5);

/// Offers copies of a cache, for ever.
pub(in crate::cache) async fn offer<T: Send + Sync + 'static>(desk: Desk<T>, settings: WarmStart) {
    let shop = Arc::new(Shop { desk, settings });
    let (copies, told_at) = (BTreeMap::new(), Instant::now());
    Offering { shop, copies, told_at, telling: None }.run().await;
}

/// Listens to those who want a copy.
struct Offering<T> {
    shop: Arc<Shop<T>>,
    /// In an order that repeats in a simulation.
    copies: BTreeMap<Origin, Copy>,
    /// When anyone last told others to wait.
    told_at: Instant,
    /// This replica is about to tell them, unless another one does.
    telling: Option<AbortOnDropHandle<()>>,
}

/// What each copy needs.
pub(super) struct Shop<T> {
    pub(super) desk: Desk<T>,
    pub(super) settings: WarmStart,
}

/// What is asked for of a copy or a digest.
pub(super) enum Asked {
    /// Chunks, the first and the last.
    Chunks(u64, u64),
    /// Parts of a digest.
    Parts(Level, Vec<u64>),
}

/// What was asked.
struct Question {
    number: Origin,
    purpose: Purpose,
    /// Whoever was not told of these losses has no answer.
    lost: Vec<Positions>,
}

/// A copy that is offered, or under way.
struct Copy {
    /// The question that it answers.
    question: Origin,
    takes: mpsc::Sender<Asked>,
    stage: Arc<Stage>,
    /// When something of it was asked for last.
    asked_at: Instant,
    task: AbortOnDropHandle<()>,
}

/// How far a copy is.
#[derive(Default)]
pub(super) struct Stage(AtomicU8);

impl Stage {
    const OFFERED: u8 = 1;
    pub(super) const COMPLETE: u8 = 2;

    fn is(&self, stage: u8) -> bool {
        self.0.load(Ordering::Relaxed) >= stage
    }

    pub(super) fn set(&self, stage: u8) {
        self.0.store(stage, Ordering::Relaxed);
    }
}

/// How fast is sent.
pub(super) struct Pace {
    settings: WarmStart,
    due: Instant,
}

impl Pace {
    pub(super) fn new(settings: WarmStart) -> Self {
        Self { settings, due: Instant::now() }
    }

    /// So many bytes are about to be sent.
    pub(super) fn takes(&mut self, bytes: usize, now: Instant) {
        self.due = self.due.max(now) + self.settings.time_of(bytes);
    }

    /// Waits until more may be sent.
    pub(super) async fn rest(&self) {
        if self.due > Instant::now() + AHEAD {
            sleep_until(self.due).await;
        }
    }
}

impl<T: Send + Sync + 'static> Offering<T> {
    async fn run(mut self) {
        let mut heard = self.shop.desk.peers.listen();
        loop {
            match heard.recv().await {
                Ok(request) => self.heard(&request),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return,
            }
        }
    }

    fn heard(&mut self, request: &Request) {
        match request {
            Request::Wanted { question, lost } => self.wanted(*question, Purpose::Fill, lost),
            Request::Compare { question, lost } => self.wanted(*question, Purpose::Repair, lost),
            Request::Offered { to, copy, form, content_type }
                if Purpose::of_form(*form).is_some()
                    && self.shop.desk.peers.channel.reads(content_type.as_ref()) =>
            {
                // Another one was first, with the same to offer.
                self.copies.retain(|own, other| {
                    own == copy || other.question != *to || other.stage.is(Stage::OFFERED)
                });
            }
            Request::Take { copy, first, last } => {
                if let Some(copy) = self.asked_of(*copy) {
                    // Too many at once are none: they ask again.
                    let _ = copy.takes.try_send(Asked::Chunks(first.get(), last.get()));
                }
            }
            Request::Parts { digest, level, numbers } => {
                if let (Some(copy), Some(level)) = (self.asked_of(*digest), Level::of(level.get()))
                {
                    let _ = copy.takes.try_send(Asked::Parts(level, numbers.clone()));
                }
            }
            Request::Wait(_) => (self.told_at, self.telling) = (Instant::now(), None),
            _ => {}
        }
    }

    fn wanted(&mut self, question: Origin, purpose: Purpose, lost: &[Positions]) {
        self.copies.retain(|_, copy| !copy.task.is_finished());
        let (is_whole, is_soon) = {
            let status = self.shop.desk.status.borrow();
            (status.is_whole(), status.is_soon_whole())
        };
        let busy = self.copies.values().filter(|copy| !copy.stage.is(Stage::COMPLETE)).count();
        if is_whole && busy < MOST {
            self.make_room();
            let (takes, asked) = mpsc::channel(64);
            let (id, stage) = (random_origin(), Arc::<Stage>::default());
            let answered = Question { number: question, purpose, lost: lost.to_vec() };
            let sending = self.shop.clone().send(id, answered, asked, stage.clone());
            let task = AbortOnDropHandle::new(tokio::spawn(sending));
            let asked_at = Instant::now();
            self.copies.insert(id, Copy { question, takes, stage, asked_at, task });
        } else if (is_whole || is_soon) && self.told_at.elapsed() >= WAIT_PAUSE {
            let is_telling = self.telling.as_ref().is_some_and(|task| !task.is_finished());
            if !is_telling {
                let telling = self.shop.clone().tell_to_wait(lost.to_vec());
                self.telling = Some(AbortOnDropHandle::new(tokio::spawn(telling)));
            }
        }
    }
}

impl<T> Offering<T> {
    /// Lets one more be kept: of those that are complete, the one goes of which nobody has asked for the longest.
    fn make_room(&mut self) {
        let complete = self.copies.iter().filter(|(_, copy)| copy.stage.is(Stage::COMPLETE));
        let idlest = complete.min_by_key(|(_, copy)| copy.asked_at).map(|(id, _)| *id);
        if let Some(idlest) = idlest.filter(|_| self.copies.len() >= MOST_KEPT) {
            self.copies.remove(&idlest);
        }
    }

    /// The copy of this number, of which somebody asks for something now.
    fn asked_of(&mut self, copy: Origin) -> Option<&Copy> {
        let copy = self.copies.get_mut(&copy)?;
        copy.asked_at = Instant::now();
        Some(copy)
    }
}

/// What of the cache a copy shows.
struct View {
    /// In order.
    keys: Vec<Key>,
    heads: Vec<Head>,
    /// How often the cache had lost entries that no message took.
    shaken: u64,
    /// Where the chunks begin that were sent, and the next one.
    begins: Vec<usize>,
}

impl<T: Send + Sync + 'static> Shop<T> {
    /// Offers a copy to those who heard `question`, if it is as good as the source for them, and sends it as
    /// far as it is taken.
    async fn send(
        self: Arc<Self>,
        copy: Origin,
        question: Question,
        mut takes: mpsc::Receiver<Asked>,
        stage: Arc<Stage>,
    ) {
        sleep(random(JITTER)).await;
        let Some((shaken, heads)) = self.proven().await else {
            return;
        };
        let Question { number, purpose, lost } = question;
        if !are_covered(&lost, &heads) {
            return;
        }
        stage.set(Stage::OFFERED);
        let peers = &self.desk.peers;
        let content_type = peers.channel.codec.content_type();
        let form = purpose.form();
        let offered = Request::Offered { to: number, copy, form, content_type };
        if peers.say(&offered).await.is_err() {
            return;
        }
        let Ok(Some(first)) = timeout(PATIENCE, takes.recv()).await else {
            return;
        };
        sleep(GATHERING).await;
        let sent = match purpose {
            Purpose::Repair => {
                self.send_digest(copy, (shaken, &heads), first, &mut takes, &stage).await
            }
            Purpose::Fill => {
                self.send_copy(copy, (shaken, heads), &first, &mut takes, &stage).await
            }
        };
        if sent.is_err() {
            // Those who do not hear it notice that nothing comes.
            drop(peers.say(&Request::Withdrawn(copy)).await);
        }
    }

    /// Tells those who lost so much to wait, unless this replica was not told of all of that: it will have no
    /// answer, and they had better read the source.
    async fn tell_to_wait(self: Arc<Self>, lost: Vec<Positions>) {
        sleep(random(JITTER)).await;
        let has_answer =
            lost.is_empty() || self.heads().await.is_some_and(|heads| are_covered(&lost, &heads));
        if has_answer {
            let peers = &self.desk.peers;
            // Nobody relies on it.
            drop(peers.say(&Request::Wait(peers.me)).await);
        }
    }

    /// Waits until all that the broker had accepted before this call is in the cache: so all that
    /// those who asked for the copy cannot have heard by themselves. None: that cannot be said.
    async fn proven(&self) -> Option<(u64, Vec<Head>)> {
        self.desk.fences.ask().await.ok()?;
        let heads = self.heads().await?;
        let shaken = self.desk.status.borrow().shaken;
        self.is_sound(shaken).then_some((shaken, heads))
    }

    /// How far each publisher has come in the cache. None: values of messages are being loaded all the time.
    async fn heads(&self) -> Option<Vec<Head>> {
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
    pub(super) fn is_sound(&self, shaken: u64) -> bool {
        let status = self.desk.status.borrow();
        status.is_whole() && status.shaken == shaken
    }

    /// All keys, in order: a place among them means the same each time that a chunk is sent.
    async fn keys(&self) -> Result<Vec<Key>> {
        let mut keys = self.desk.peers.contents.keys();
        let is_quick = keys.len() <= QUICKLY_SORTED;
        let sort = move || {
            keys.sort_unstable();
            keys
        };
        if is_quick {
            return Ok(sort());
        }
        // No keys at all would be taken for the truth.
        tokio::task::spawn_blocking(sort).await.map_err(|_| not_sorted())
    }

    /// Sends the chunks that are asked for, until nobody asks any more.
    async fn send_copy(
        &self,
        copy: Origin,
        (shaken, heads): (u64, Vec<Head>),
        first: &Asked,
        takes: &mut mpsc::Receiver<Asked>,
        stage: &Stage,
    ) -> Result<()> {
        let peers = &self.desk.peers;
        let topic = peers.topic_of(copy)?;
        let mut view = View { keys: self.keys().await?, heads, shaken, begins: vec![0] };
        let mut schedule = Schedule::default();
        schedule.hear(first);
        let mut pace = Pace::new(self.settings);
        loop {
            while let Ok(asked) = takes.try_recv() {
                schedule.hear(&asked);
            }
            let Some(number) = schedule.next() else {
                let patience = if schedule.is_complete() { LINGERING } else { PATIENCE };
                let Ok(Some(asked)) = timeout(patience, takes.recv()).await else {
                    return Ok(());
                };
                schedule.hear(&asked);
                continue;
            };
            let (bytes, is_last) = self.chunk(&mut view, number).await?;
            pace.takes(bytes.len(), Instant::now());
            peers.publish(topic.clone(), Message::put(chunk_key(), bytes)).await?;
            schedule.sent(number, is_last);
            if schedule.is_complete() {
                stage.set(Stage::COMPLETE);
            }
            pace.rest().await;
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
            match self.desk.peers.item(key).await {
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
}
