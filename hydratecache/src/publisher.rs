//! The lane: one ordered, batching writer for a topic.
//!
//! Whoever publishes while nothing is under way sends at once, in its own task: a lone message
//! waits for nothing and pays no task switch. Whoever publishes while a batch is under way joins
//! the next one, which departs when it is full, or when everyone who is about to publish in the
//! same scheduling round has had the chance to join: a task of its own waits for that, so that its
//! callers are polled once to join and once to be answered. Batches overlap; sequences are allotted
//! and batches handed to the transport under one lock, so their order is the transport's.
//!
//! A batch under way is a [`Flight`] that every caller in it can drive. No caller depends on another
//! one being polled, and the batch is dropped only when all of them are.

mod flight;
mod publish;
mod pulse;
mod replay;
mod ring;
mod stats;

use std::fmt;
use std::future::Future;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::count::{Labels, Stopwatch};
use crate::message::{self, Dating, Position};
use crate::trace::{self, Destination, Sending};
use crate::transport::Transport;
use crate::version::HybridClock;
use crate::{Error, Kind, Message, Origin, Positions, Request, Result, Topic, Version};
use flight::{Flight, Waiters, WeakFlight};
use pulse::Pulse;
use replay::{Outcome, Replayer};
use ring::Ring;
use stats::{Counters, LaneStats};

pub use publish::Publish;

/// What a publish returns: which message the broker now has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Receipt {
    /// The publisher incarnation and the number of the message in it.
    pub position: Position,
    /// The version that the message carries.
    pub version: Version,
}

/// When the lane says that it is still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heartbeats {
    /// After this long without a publish.
    pub(crate) first: Duration,
    /// Each next one after twice the time, up to this.
    pub(crate) longest: Duration,
}

impl Heartbeats {
    /// The defaults, with their reasons at
    /// [`with_heartbeats`](crate::channel::ChannelBuilder::with_heartbeats).
    pub(crate) const DEFAULT: Self =
        Self { first: Duration::from_secs(5), longest: Duration::from_secs(300) };
}

/// A batch that holds so many bytes departs: what large values cost is not the round trip, and one
/// answer for all of them must come within the limit of a publish.
pub(crate) const MAX_BATCH_BYTES: usize = 1 << 20;

/// At least so often a message says when it was sent: several times in the minute for which
/// subscribers remember it, at ten bytes each.
const DATING_INTERVAL: Duration = Duration::from_secs(10);

type Answer = Result<Sent, Error>;

/// Where a batch's numbers begin.
#[derive(Debug, Clone, Copy)]
struct Sent {
    first_sequence: u64,
    first_clock: u64,
}

/// One ordered, batching writer for a topic.
pub(crate) struct Lane(Arc<Inner>);

struct Inner {
    transport: Arc<dyn Transport>,
    topic: Topic,
    origin: Origin,
    clock: Arc<HybridClock>,
    /// When the origin began.
    began: Instant,
    heartbeats: Heartbeats,
    /// The broker, as traces name it.
    system: &'static str,
    /// A batch of so many messages departs.
    batch_messages: usize,
    pulse: Pulse,
    replayer: Replayer,
    /// How many are listening for requests: without any, nothing is kept for them.
    listeners: AtomicUsize,
    /// Locked after the order, never before it.
    ring: Mutex<Ring>,
    counters: Counters,
    /// Held while sequences are allotted and the batch's future is polled for the first time.
    order: Mutex<Order>,
    gathering: Mutex<Gathering>,
}

struct Order {
    last_sequence: u64,
    last_publish: Instant,
    /// When a message last said when it was sent.
    dated_at: Option<Instant>,
}

#[derive(Default)]
struct Gathering {
    open: Option<Open>,
    /// For how many messages room is made at once in the next batch: as many as the latest ones had.
    room: usize,
    /// Batches whose outcome somebody still waits for.
    under_way: Vec<WeakFlight>,
}

impl Gathering {
    fn forget_finished(&mut self) {
        let is_under_way = |flight: Flight| !flight.has_landed();
        self.under_way.retain(|flight| flight.upgrade().is_some_and(is_under_way));
    }
}

/// The batch that is open for more.
struct Open {
    batch: Arc<Batch>,
    messages: Vec<Message>,
    /// The places of those whose publish was dropped: they are not sent.
    dropped: Vec<usize>,
    held_bytes: usize,
    /// Sends it when the scheduling round is over.
    dispatcher: Option<AbortOnDropHandle<()>>,
}

impl Open {
    fn with_room(messages: usize) -> Self {
        Self {
            batch: Arc::new(Batch::with_room(messages)),
            messages: Vec::with_capacity(messages),
            dropped: Vec::new(),
            held_bytes: 0,
            dispatcher: None,
        }
    }

    /// What is to be sent, and the places of what is not, ascending.
    fn into_messages(self) -> (Vec<Message>, Vec<usize>) {
        let Self { mut messages, mut dropped, .. } = self;
        if !dropped.is_empty() {
            dropped.sort_unstable();
            let mut places = 0..;
            messages.retain(|_| {
                places.next().is_some_and(|place| dropped.binary_search(&place).is_err())
            });
        }
        (messages, dropped)
    }
}

/// A batch, as those in it see it.
struct Batch {
    waiters: Arc<Waiters>,
    /// Set once it is on its way.
    departed: OnceLock<Departed>,
}

impl Batch {
    fn with_room(messages: usize) -> Self {
        Self { waiters: Arc::new(Waiters::with_room(messages)), departed: OnceLock::new() }
    }
}

struct Departed {
    flight: Flight,
    /// The places of those that were dropped before the batch departed, ascending.
    dropped: Vec<usize>,
}

impl Lane {
    pub(crate) fn new(
        transport: Arc<dyn Transport>,
        topic: Topic,
        origin: Origin,
        clock: Arc<HybridClock>,
        heartbeats: Heartbeats,
        replay_bytes: usize,
    ) -> Self {
        let limits = transport.limits();
        let counters = Counters::new(&Labels::new(&topic, &*transport));
        let batch_messages = limits.batch_messages;
        // Of what the broker keeps itself, nobody asks for a replay.
        let replay_bytes = if limits.durable { 0 } else { replay_bytes };
        Self(Arc::new(Inner {
            transport,
            topic,
            origin,
            clock,
            began: Instant::now(),
            heartbeats,
            system: limits.system,
            batch_messages,
            pulse: Pulse::default(),
            replayer: Replayer::default(),
            listeners: AtomicUsize::new(0),
            ring: Mutex::new(Ring::new(replay_bytes, Instant::now())),
            counters,
            order: Mutex::new(Order {
                last_sequence: 0,
                last_publish: Instant::now(),
                dated_at: None,
            }),
            gathering: Mutex::default(),
        }))
    }

    pub(crate) fn origin(&self) -> Origin {
        self.0.origin
    }

    pub(crate) fn stats(&self) -> LaneStats {
        self.0.counters.stats()
    }

    /// A future that publishes `message`, alone or with others.
    pub(crate) fn publish(&self, message: Message) -> Publish {
        Publish::new(self.0.clone(), message)
    }

    /// Sends `batch` as it is, in order behind all that was sent before. The batch is on its way
    /// when this returns; the future waits for the answer.
    pub(crate) fn publish_batch(
        &self,
        mut batch: Vec<Message>,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let sendings = Sending::begin_all(&mut batch, self.0.destination());
        let flight = self.0.launch(&mut lock(&self.0.order), batch, Arc::default());
        async move {
            let answer = flight.await.map(drop);
            trace::end_all(sendings, answer.as_ref().map(drop));
            answer
        }
    }

    /// Sends `request`, as soon as it is polled.
    pub(crate) fn ask(
        &self,
        request: &Request,
    ) -> impl Future<Output = Result<()>> + Send + 'static {
        let message = Message::request(self.0.origin, request.encode());
        let lane = self.0.clone();
        async move {
            let flight = lane.launch(&mut lock(&lane.order), vec![message?], Arc::default());
            flight.await.map(drop)
        }
    }

    /// Someone listens for requests from now on, until the guard is dropped.
    pub(crate) fn listen(&self) -> Listening {
        self.0.listeners.fetch_add(1, Ordering::Relaxed);
        Listening(self.0.clone())
    }

    /// Someone asks for messages to be published again. Without a Tokio runtime nobody is answered.
    pub(crate) fn asked(&self, positions: Positions) {
        if positions.origin == self.0.origin {
            self.0.replayer.asked(&self.0, positions);
        }
    }

    /// Waits until every publish that began before has its answer.
    pub(crate) async fn flush(&self) {
        let open = lock(&self.0.gathering).open.as_ref().map(|open| open.batch.clone());
        if let Some(batch) = open {
            let _flight = self.0.depart(&batch);
        }
        let under_way: Vec<Flight> = {
            // A batch that is just being handed over is neither open nor under way yet.
            let _order = lock(&self.0.order);
            lock(&self.0.gathering).under_way.iter().filter_map(WeakFlight::upgrade).collect()
        };
        for flight in under_way {
            // The answer goes to those who published; here only the end matters.
            let _ = flight.await;
        }
    }
}

/// Someone listens for requests, as long as this lives.
pub(crate) struct Listening(Arc<Inner>);

impl Drop for Listening {
    fn drop(&mut self) {
        if self.0.listeners.fetch_sub(1, Ordering::Relaxed) == 1 {
            lock(&self.0.ring).forget();
        }
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("topic", &self.0.topic)
            .field("origin", &self.0.origin)
            .finish_non_exhaustive()
    }
}

impl Inner {
    /// Allots numbers, hands the batch to the transport and polls it once, all in order.
    fn launch(
        self: &Arc<Self>,
        order: &mut Order,
        mut batch: Vec<Message>,
        waiters: Arc<Waiters>,
    ) -> Flight {
        let sent = self.stamp(order, &mut batch);
        let (lane, topic, count) = (self.clone(), self.topic.clone(), batch.len() as u64);
        let has_data = batch.iter().any(|message| message.kind.is_write());
        let kept = (has_data && self.listeners.load(Ordering::Relaxed) > 0)
            .then(|| Outcome::of(self.clone(), sent.first_sequence, &batch));
        self.counters.batches.increment();
        let answer = async move {
            let Counters { published, failed, seconds, .. } = &lane.counters;
            let begun = Stopwatch::start();
            let answer = lane.transport.publish(topic, batch).await;
            seconds.stop(begun);
            if answer.is_ok() { published } else { failed }.add(count);
            if let Some(kept) = kept {
                kept.known(answer.as_ref().err());
            }
            if has_data && answer.is_err() {
                lane.pulse.failed();
            }
            answer.map(|()| sent)
        };
        let flight = Flight::launch(answer.boxed(), waiters);
        if !flight.has_landed() {
            let mut gathering = lock(&self.gathering);
            gathering.forget_finished();
            gathering.under_way.push(flight.downgrade());
        }
        flight
    }

    /// Where messages go to, as traces name it.
    fn destination(&self) -> Destination<'_> {
        Destination { system: self.system, topic: &self.topic }
    }

    /// Hands over messages that have their numbers, behind all that was sent before. A heartbeat among
    /// them says how far that is.
    fn relaunch(self: &Arc<Self>, order: &Order, mut batch: Vec<Message>) -> Flight {
        let elapsed = self.began.elapsed();
        for message in &mut batch {
            if message.kind == Kind::Heartbeat {
                message.sequence = NonZeroU64::new(order.last_sequence);
            }
            if let Dating::Sent(sent) = message.dating {
                message.dating = Dating::Sent(sent.again(elapsed));
            }
        }
        let (lane, topic) = (self.clone(), self.topic.clone());
        let sent = Sent { first_sequence: order.last_sequence, first_clock: 0 };
        let answer = async move { lane.transport.publish(topic, batch).await.map(|()| sent) };
        Flight::launch(answer.boxed(), Arc::default())
    }

    /// Numbers whose publish fails are not used again: the row was probably written, and the jump
    /// tells every subscriber that it missed something.
    fn stamp(self: &Arc<Self>, order: &mut Order, batch: &mut [Message]) -> Sent {
        let data = batch.iter().filter(|message| message.kind.is_write()).count() as u64;
        let first_clock = self.clock.tick(data);
        let sent = Sent { first_sequence: order.last_sequence + 1, first_clock };
        let mut offset = 0;
        let now = Instant::now();
        self.date(order, batch, now);
        for message in batch {
            message.origin = Some(self.origin);
            if message.kind == Kind::Heartbeat {
                message.sequence = NonZeroU64::new(order.last_sequence);
                continue;
            }
            if message.kind == Kind::Request {
                continue;
            }
            message.sequence = NonZeroU64::new(sent.first_sequence + offset);
            if message.version.is_none() {
                message.version = Some(Version::clock(first_clock + offset, message.origin));
            }
            offset += 1;
        }
        if data > 0 {
            order.last_sequence += data;
            order.last_publish = now;
            self.pulse.published(self);
        }
        sent
    }

    /// Says when values with a TTL are sent; of other messages so often that subscribers know this
    /// process's clock before one with a TTL is held up.
    fn date(&self, order: &mut Order, batch: &mut [Message], now: Instant) {
        let elapsed = now.saturating_duration_since(self.began);
        let mut wall = None;
        for message in batch {
            let is_due = order.dated_at.is_none_or(|at| now.duration_since(at) >= DATING_INTERVAL);
            let is_due = is_due && message.kind.is_write();
            if message.ttl.is_some() || message.kind == Kind::Heartbeat || is_due {
                // A start in the future counts as now.
                let age = message.ttl.map(|ttl| {
                    let wall = *wall.get_or_insert_with(|| self.clock.now());
                    wall.duration_since(ttl.start()).unwrap_or_default()
                });
                message.dating = Dating::Sent(message::Sent::new(elapsed, age));
                order.dated_at = Some(now);
            }
        }
    }

    /// Sends `batch`, unless another of those in it did so before. `None`: it can never be sent,
    /// because everyone left it, or the transport panicked when it was handed over.
    fn depart<'a>(self: &Arc<Self>, batch: &'a Arc<Batch>) -> Option<&'a Departed> {
        if let Some(departed) = batch.departed.get() {
            return Some(departed);
        }
        // Under this lock a batch is either open, or departed and set.
        let mut order = lock(&self.order);
        if let Some(departed) = batch.departed.get() {
            return Some(departed);
        }
        let is_ours = |open: &mut Open| Arc::ptr_eq(&open.batch, batch);
        let open = {
            let mut gathering = lock(&self.gathering);
            let open = gathering.open.take_if(is_ours)?;
            gathering.room = open.messages.len().max(gathering.room / 2);
            open
        };
        let (messages, dropped) = open.into_messages();
        let flight = self.launch(&mut order, messages, batch.waiters.clone());
        Some(batch.departed.get_or_init(|| Departed { flight, dropped }))
    }

    /// Joins the open batch, or opens one. `waker` is woken when it is answered.
    fn join(self: &Arc<Self>, message: Message, waker: &Waker) -> Joined {
        let mut gathering = lock(&self.gathering);
        let alone = gathering.open.is_none() && {
            gathering.forget_finished();
            gathering.under_way.is_empty()
        };
        let room = gathering.room;
        let open = gathering.open.get_or_insert_with(|| Open::with_room(room));
        let place = open.messages.len();
        open.held_bytes += message.held_bytes();
        open.messages.push(message);
        let is_full = place + 1 >= self.batch_messages || open.held_bytes >= MAX_BATCH_BYTES;
        let departs = alone || is_full;
        // Who sends it now is answered by its own poll, if it is answered at once.
        open.batch.waiters.join((!departs).then(|| waker.clone()));
        // One whose runtime has ended is finished, and has sent nothing.
        let is_awaited = open.dispatcher.as_ref().is_some_and(|task| !task.is_finished());
        if !departs && !is_awaited {
            open.dispatcher = self.dispatch(&open.batch);
            // Without a runtime whoever is polled again sends it.
            if open.dispatcher.is_none() {
                waker.wake_by_ref();
            }
        }
        Joined { batch: open.batch.clone(), place, departs }
    }

    /// Sends `batch` when everyone has had a turn who is about to publish now.
    fn dispatch(self: &Arc<Self>, batch: &Arc<Batch>) -> Option<AbortOnDropHandle<()>> {
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        let (lane, round) = (self.clone(), Round(batch.clone()));
        let dispatcher = runtime.spawn(async move {
            tokio::task::yield_now().await;
            lane.depart(&round.0);
        });
        Some(AbortOnDropHandle::new(dispatcher))
    }

    /// Takes back a message whose publish was dropped, if its batch is still open.
    fn leave(&self, batch: &Arc<Batch>, place: usize) {
        let mut gathering = lock(&self.gathering);
        let Some(open) = &mut gathering.open else {
            return;
        };
        if !Arc::ptr_eq(&open.batch, batch) {
            return;
        }
        open.dropped.push(place);
        if open.dropped.len() == open.messages.len() {
            gathering.open = None;
        }
    }
}

/// The wait for the end of a scheduling round. Where it is given up, because its runtime ends,
/// those who wait are polled and send the batch themselves.
struct Round(Arc<Batch>);

impl Drop for Round {
    fn drop(&mut self) {
        if self.0.departed.get().is_none() {
            self.0.waiters.wake_all();
        }
    }
}

struct Joined {
    batch: Arc<Batch>,
    place: usize,
    /// Nothing else is under way, or the batch is full: it departs now.
    departs: bool,
}

/// No code under these locks panics; a poisoned one would only spread a transport's panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
