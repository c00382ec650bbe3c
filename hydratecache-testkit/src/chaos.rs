//! A transport that loses, repeats and delays messages on purpose.
//!
//! [`ChaosTransport`] wraps any [`Transport`] and harms what is published through it on its way to
//! the broker, while it answers `Ok`: as a broker that delivers at most once may do between a
//! publisher and its subscribers. So what a subscription says about it is what it would say about
//! a real loss.
//!
//! ```
//! use hydratecache::{Channel, memory::MemoryBroker};
//! use hydratecache_testkit::chaos::ChaosTransport;
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
//! let broker = MemoryBroker::new();
//! let chaos = ChaosTransport::new(broker.connect(), 42).with_drops(0.1).with_duplicates(0.1);
//! let writer = Channel::<String>::new(chaos.clone(), "greetings")?;
//! writer.publish("en", &"hello".to_owned()).await?; // arrives once, twice or never
//! println!("{:?}", chaos.stats());
//! # Ok(()) }
//! ```
//!
//! # What is noticed
//! A loss shows as a jump in its publisher's sequence, at the next message or heartbeat that
//! arrives. A publisher of whom nothing has arrived yet is not known to a subscription, so the loss
//! of its *first* messages shows nowhere: [`with_calm_start`](ChaosTransport::with_calm_start) lets
//! them pass.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{
    Error, ErrorKind, Fence, Limits, Message, Result, Subscription, Topic, Transport,
};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};

/// A transport that harms what is published through it. Cloning shares the harm and its counts.
///
/// Subscriptions, fences, limits and close are those of the wrapped transport.
#[derive(Clone)]
pub struct ChaosTransport(Arc<Inner>);

struct Inner {
    transport: Arc<dyn Transport>,
    seed: u64,
    plan: Plan,
    cut: AtomicBool,
    fate: Mutex<Fate>,
    /// Held from the first poll of a publish until its batch is handed over: keeps the order.
    line: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Plan {
    drops: f64,
    duplicates: f64,
    delays: f64,
    longest_delay: Duration,
    calm_start: u64,
}

struct Fate {
    chance: Xoshiro256PlusPlus,
    /// The sequences of writes that are to be lost once.
    losses: BTreeSet<u64>,
    stats: ChaosStats,
}

/// What a [`ChaosTransport`] has done so far, in messages; delays in batches. Heartbeats are
/// harmed too, and not counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ChaosStats {
    /// Messages that were published through it.
    pub published: u64,
    /// Messages that it kept from the broker.
    pub dropped: u64,
    /// Messages that it handed over twice.
    pub duplicated: u64,
    /// Batches that it held up.
    pub delayed: u64,
}

impl ChaosTransport {
    /// A wrapper that harms nothing yet. The same `seed` and the same batches give the same harm.
    #[must_use]
    pub fn new(transport: impl Transport, seed: u64) -> Self {
        let chance = Xoshiro256PlusPlus::seed_from_u64(seed);
        Self(Arc::new(Inner {
            transport: Arc::new(transport),
            seed,
            plan: Plan::default(),
            cut: AtomicBool::new(false),
            fate: Mutex::new(Fate {
                chance,
                losses: BTreeSet::new(),
                stats: ChaosStats::default(),
            }),
            line: tokio::sync::Mutex::default(),
        }))
    }

    /// Loses each message with this probability (default 0).
    ///
    /// # Panics
    /// If it is not within 0 to 1, or if the wrapper was cloned before.
    #[must_use]
    pub fn with_drops(self, probability: f64) -> Self {
        self.plan(|plan| plan.drops = checked(probability))
    }

    /// Loses the writes with these sequences (default none), each the first time that it is published: a
    /// replay of it passes. For wrappers that one publisher publishes through.
    #[must_use]
    pub fn with_losses(self, sequences: impl IntoIterator<Item = u64>) -> Self {
        self.0.fate().losses.extend(sequences);
        self
    }

    /// Hands each message over twice with this probability (default 0): the second copy comes
    /// anywhere behind the first in the same batch.
    ///
    /// # Panics
    /// As [`with_drops`](Self::with_drops).
    #[must_use]
    pub fn with_duplicates(self, probability: f64) -> Self {
        self.plan(|plan| plan.duplicates = checked(probability))
    }

    /// Holds each batch up with this probability (default 0), for up to `longest`. Later batches
    /// wait behind it, so that the order stays.
    ///
    /// # Panics
    /// As [`with_drops`](Self::with_drops).
    #[must_use]
    pub fn with_delays(self, probability: f64, longest: Duration) -> Self {
        self.plan(|plan| {
            plan.delays = checked(probability);
            plan.longest_delay = longest;
        })
    }

    /// Lets the first `messages` pass unharmed (default 0), so that subscribers know the publisher.
    ///
    /// # Panics
    /// If the wrapper was cloned before.
    #[must_use]
    pub fn with_calm_start(self, messages: u64) -> Self {
        self.plan(|plan| plan.calm_start = messages)
    }

    /// Cuts the way to the broker: publishes and fences fail with
    /// [`Unavailable`](ErrorKind::Unavailable), those that are held up too.
    pub fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    /// Ends a [`cut`](Self::cut).
    pub fn heal(&self) {
        self.0.cut.store(false, Ordering::SeqCst);
    }

    /// What repeats this wrapper's harm.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    /// What the wrapper has done so far.
    #[must_use]
    pub fn stats(&self) -> ChaosStats {
        self.0.fate().stats
    }

    fn plan(mut self, change: impl FnOnce(&mut Plan)) -> Self {
        let inner = Arc::get_mut(&mut self.0).expect("settings come before clones");
        change(&mut inner.plan);
        self
    }
}

fn checked(probability: f64) -> f64 {
    assert!((0.0..=1.0).contains(&probability), "a probability of {probability}; use 0 to 1");
    probability
}

impl Inner {
    fn fate(&self) -> MutexGuard<'_, Fate> {
        self.fate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn usable(&self) -> Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            let what = "the chaos transport cut the way to the broker; heal it to go on";
            return Err(Error::new(ErrorKind::Unavailable, what));
        }
        Ok(())
    }

    async fn publish(&self, topic: Topic, batch: Vec<Message>) -> Result<()> {
        // Checked whole: what is dropped must not turn an error into a success.
        self.transport.limits().check(&batch)?;
        let line = self.line.lock().await;
        let delay = self.fate().delay(&self.plan);
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        self.usable()?;
        let harmed = self.fate().harm(&self.plan, batch);
        let mut publishing = self.transport.publish(topic, harmed);
        // The first poll hands the batch over; the answer need not be waited for in line.
        let answer = futures::poll!(&mut publishing);
        drop(line);
        match answer {
            Poll::Ready(answer) => answer,
            Poll::Pending => publishing.await,
        }
    }
}

impl Fate {
    fn is_to_be_lost(&mut self, message: &Message) -> bool {
        let sequence = message.sequence().filter(|_| message.kind().is_write());
        sequence.is_some_and(|sequence| self.losses.remove(&sequence.get()))
    }

    fn delay(&mut self, plan: &Plan) -> Option<Duration> {
        let delayed = plan.delays > 0.0 && self.chance.random_bool(plan.delays);
        self.stats.delayed += u64::from(delayed);
        delayed.then(|| plan.longest_delay.mul_f64(self.chance.random()))
    }

    fn harm(&mut self, plan: &Plan, batch: Vec<Message>) -> Vec<Message> {
        let mut harmed = Vec::with_capacity(batch.len());
        let mut copies = Vec::new();
        for message in batch {
            let counts = u64::from(message.kind().is_write());
            self.stats.published += counts;
            if self.is_to_be_lost(&message) {
                self.stats.dropped += counts;
            } else if self.stats.published <= plan.calm_start {
                harmed.push(message);
            } else if self.chance.random_bool(plan.drops) {
                self.stats.dropped += counts;
            } else {
                if self.chance.random_bool(plan.duplicates) {
                    self.stats.duplicated += counts;
                    copies.push((harmed.len() + 1, message.clone()));
                }
                harmed.push(message);
            }
        }
        // The last one first: an insertion moves nothing that lies before it.
        for (behind, copy) in copies.into_iter().rev() {
            let place = self.chance.random_range(behind..=harmed.len());
            harmed.insert(place, copy);
        }
        harmed
    }
}

impl Transport for ChaosTransport {
    fn limits(&self) -> Limits {
        self.0.transport.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        self.0.publish(topic, batch).boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.0.transport.subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        match self.0.usable() {
            Ok(()) => self.0.transport.fence(),
            Err(error) => futures::future::ready(Err(error)).boxed(),
        }
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.transport.close()
    }
}

impl fmt::Debug for ChaosTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChaosTransport")
            .field("transport", &self.0.transport)
            .field("seed", &self.0.seed)
            .field("plan", &self.0.plan)
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
