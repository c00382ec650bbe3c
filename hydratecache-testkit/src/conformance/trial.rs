//! What every promise's test is made of: a trial that names the promise in all it says, listeners
//! whose waits have limits, and publishers whose messages can be told apart.

use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hydratecache::{
    ErrorKind, Fence, Key, Message, Origin, Position, Result, Signal, Subscription, Topic,
    Transport,
};
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, timeout};

use super::subject::{Capabilities, Capability, Step, Subject};
use super::{Effort, unique_topic};

/// The end of every wait for which the promises set none: only a failed test lasts so long.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A publish, subscribe or fence that cannot succeed has an answer by then. P5 says that there is a
/// limit; this is ours for it.
pub(super) const ANSWER: Duration = Duration::from_secs(15);

/// What a machine that is busy with other tests may add to a time that a promise gives.
pub(super) const BUSY: Duration = Duration::from_secs(2);

/// P8: what a close takes at most.
pub(super) const QUICK: Duration = Duration::from_secs(2);

/// The same on a busy machine, and whatever it ends.
pub(super) const CLOSE: Duration = QUICK.saturating_add(BUSY);

/// The promise under test, as it is named in every message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise(&'static str);

impl Promise {
    #[track_caller]
    pub(super) fn broken(self, what: impl fmt::Display) -> ! {
        panic!("{} is broken: {what}", self.0)
    }

    #[track_caller]
    pub(super) fn require(self, kept: bool, otherwise: impl FnOnce() -> String) {
        if !kept {
            self.broken(otherwise());
        }
    }

    pub(super) async fn within<F: Future>(
        self,
        limit: Duration,
        awaited: impl fmt::Display,
        future: F,
    ) -> F::Output {
        match timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => self.broken(format!("awaited {awaited} for {limit:?}, in vain")),
        }
    }

    pub(super) async fn subscribe(self, transport: &Arc<dyn Transport>, topic: &Topic) -> Listener {
        let subscribed = transport.subscribe(topic.clone());
        let subscribed = self.within(PATIENCE, format!("a subscription of {topic}"), subscribed);
        self.listener(topic, subscribed.await)
    }

    /// What `subscribed` to the topic.
    pub(super) fn listener(self, topic: &Topic, subscribed: Result<Subscription>) -> Listener {
        match subscribed {
            Ok(subscription) => Listener { promise: self, topic: topic.clone(), subscription },
            Err(error) => self.broken(format!("subscribing to {topic}: {error}")),
        }
    }

    pub(super) async fn publish(
        self,
        transport: &Arc<dyn Transport>,
        topic: &Topic,
        batch: Vec<Message>,
    ) {
        let answer = self.try_publish(transport, topic, batch).await;
        if let Err(error) = answer {
            self.broken(format!("publishing to {topic}: {error}"));
        }
    }

    pub(super) async fn try_publish(
        self,
        transport: &Arc<dyn Transport>,
        topic: &Topic,
        batch: Vec<Message>,
    ) -> Result<()> {
        let answer = transport.publish(topic.clone(), batch);
        self.within(ANSWER, format!("the answer to a publish to {topic}"), answer).await
    }

    pub(super) async fn fence(self, transport: &Arc<dyn Transport>) -> Fence {
        match self.within(ANSWER, "a fence", transport.fence()).await {
            Ok(fence) => fence,
            Err(error) => self.broken(format!("asking for a fence: {error}")),
        }
    }

    /// Requires that `attempt` returns `limit` or less: a busy machine may be late, and is not twice.
    pub(super) async fn at_most(
        self,
        limit: Duration,
        what: &str,
        mut attempt: impl AsyncFnMut() -> Duration,
    ) {
        let mut took = attempt().await;
        if took > limit {
            took = attempt().await;
        }
        self.require(took <= limit, || format!("{what} took {took:?}"));
    }

    /// Returns how long that took.
    pub(super) async fn close(self, transport: &Arc<dyn Transport>) -> Duration {
        let began = Instant::now();
        if let Err(error) = self.within(CLOSE, "the end of a close", transport.close()).await {
            self.broken(format!("closing: {error}"));
        }
        began.elapsed()
    }

    /// Tries until `attempt` succeeds.
    pub(super) async fn until<T, F>(self, awaited: &str, mut attempt: impl FnMut() -> F) -> T
    where
        F: Future<Output = Option<T>>,
    {
        let tries = async {
            loop {
                if let Some(success) = attempt().await {
                    return success;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        self.within(PATIENCE, awaited, tries).await
    }
}

/// One promise, one subject.
pub(super) struct Trial<'a> {
    pub(super) promise: Promise,
    pub(super) subject: &'a dyn Subject,
    pub(super) effort: Effort,
}

impl<'a> Trial<'a> {
    /// Begins a trial and prints what the subject can do.
    pub(super) fn new(promise: &'static str, subject: &'a dyn Subject, effort: Effort) -> Self {
        println!("{promise}: {effort:?} effort; {}", Capabilities::of(subject));
        Self { promise: Promise(promise), subject, effort }
    }

    /// What the subject can do, or nothing, after saying which part is not run and why.
    pub(super) fn able<T>(&self, part: &str, capability: Capability<T>) -> Option<T> {
        match capability {
            Capability::Present(present) => Some(present),
            Capability::Absent(reason) => {
                println!("{}: not run: {part} ({reason})", self.promise.0);
                None
            }
        }
    }

    /// How many messages with payloads of so many bytes may wait in a subscription without an
    /// overflow, whatever its reader does: half of it may be in the reader's hands.
    pub(super) fn room(&self, payload_bytes: usize) -> usize {
        let held = numbered(Origin::random(), 1, payload_bytes).held_bytes();
        (self.subject.queue_bytes() / 3 / held).max(1)
    }

    pub(super) async fn connect(&self) -> Arc<dyn Transport> {
        self.step("connecting", self.subject.connect()).await
    }

    /// Something the subject does; an error is the subject's and ends the test.
    pub(super) async fn step<T>(&self, what: &str, step: Step<'_, T>) -> T {
        match self.promise.within(PATIENCE, what, step).await {
            Ok(done) => done,
            Err(error) => panic!("{}: the subject failed while {what}: {error}", self.promise.0),
        }
    }

    /// Waits until the broker counts so many subscriptions of `topic`, where it can count.
    pub(super) async fn await_subscriptions(&self, topic: &Topic, count: usize) {
        let part = "counting subscriptions";
        if self.able(part, self.subject.subscriptions(topic)).is_none() {
            return;
        }
        let awaited = format!("{count} subscriptions of {topic} at the broker");
        self.promise
            .until(&awaited, || async {
                match self.subject.subscriptions(topic) {
                    Capability::Present(counted) => {
                        (self.step(part, counted).await == count).then_some(())
                    }
                    Capability::Absent(_) => Some(()),
                }
            })
            .await;
    }
}

/// What a task of a test returned; its panic is the test's.
pub(super) fn finished<T>(task: Result<T, JoinError>) -> T {
    task.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// A subscription, read with limits.
pub(super) struct Listener {
    promise: Promise,
    topic: Topic,
    subscription: Subscription,
}

impl Listener {
    /// The next signal. An end is a broken promise.
    pub(super) async fn signal(&mut self, limit: Duration, awaited: &str) -> Signal {
        let next = self.subscription.next();
        let place = format!("{awaited} on {}", self.topic);
        match self.promise.within(limit, &place, next).await {
            Some(signal) => signal,
            None => self.promise.broken(format!("the stream ended; awaited {place}")),
        }
    }

    /// The next signal that is no fence, which must be a message.
    pub(super) async fn message(&mut self, awaited: &str) -> Message {
        loop {
            match self.signal(PATIENCE, awaited).await {
                Signal::Message(message) => return message,
                Signal::Fenced(_) | Signal::Heard(_) => {}
                other => self.promise.broken(format!(
                    "awaited {awaited} on {}, on a healthy link, and saw {other:?}",
                    self.topic
                )),
            }
        }
    }

    /// All signals up to the first that is `wanted`, which is the last of them.
    pub(super) async fn until(
        &mut self,
        limit: Duration,
        awaited: &str,
        mut wanted: impl FnMut(&Signal) -> bool,
    ) -> Vec<Signal> {
        let end = Instant::now() + limit;
        let mut seen = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let signal = self.signal(left, &format!("{awaited} (within {limit:?})")).await;
            let done = wanted(&signal);
            seen.push(signal);
            if done {
                return seen;
            }
        }
    }

    /// All signals up to the fence, or a later one.
    pub(super) async fn until_fenced(&mut self, fence: Fence) -> Vec<Signal> {
        let wanted = |signal: &Signal| matches!(signal, Signal::Fenced(seen) if *seen >= fence);
        self.until(PATIENCE, "a fence that was asked for", wanted).await
    }

    /// Reads to the end, which must come.
    pub(super) async fn ends(mut self) {
        let rest = async { while self.subscription.next().await.is_some() {} };
        let awaited = format!("the end of the stream of {} after a close", self.topic);
        self.promise.within(CLOSE, awaited, rest).await;
        let again = self.promise.within(CLOSE, "a stream that ended", self.subscription.next());
        let again = again.await;
        self.promise
            .require(again.is_none(), || format!("a stream went on behind its end: {again:?}"));
    }

    /// Waits for the next signal in a task of its own, which is asleep when this returns unless
    /// there was a signal already.
    pub(super) async fn sleeps(mut self) -> JoinHandle<(Self, Option<Signal>)> {
        let (asleep, sleeps) = oneshot::channel();
        let sleeper = tokio::spawn(async move {
            let mut next = self.subscription.next();
            let first = futures::poll!(&mut next);
            // Nobody listens only if the test has failed.
            let _ = asleep.send(());
            let signal = match first {
                Poll::Ready(signal) => signal,
                Poll::Pending => next.await,
            };
            (self, signal)
        });
        // An error only says that the sleeper panicked, which its handle says too.
        let _ = sleeps.await;
        sleeper
    }

    /// The stream itself.
    pub(super) fn stream(&mut self) -> &mut Subscription {
        &mut self.subscription
    }
}

/// One incarnation that publishes to one topic over one transport.
pub(super) struct Publisher {
    promise: Promise,
    transport: Arc<dyn Transport>,
    topic: Topic,
    pub(super) origin: Origin,
    pub(super) last: u64,
    compose: fn(Origin, u64, usize) -> Message,
}

impl Publisher {
    pub(super) fn new(promise: Promise, transport: &Arc<dyn Transport>, topic: &Topic) -> Self {
        Self {
            promise,
            transport: transport.clone(),
            topic: topic.clone(),
            origin: Origin::random(),
            last: 0,
            compose: numbered,
        }
    }

    /// The same, publishing without positions: only the link can tell what is lost.
    pub(super) fn foreign(self) -> Self {
        Self { compose: bare, ..self }
    }

    /// The next message, with a payload of so many bytes.
    pub(super) fn message(&mut self, payload_bytes: usize) -> Message {
        self.last += 1;
        (self.compose)(self.origin, self.last, payload_bytes)
    }

    /// Publishes one message of each size; the broker must accept them.
    pub(super) async fn send(&mut self, sizes: &[usize]) -> RangeInclusive<u64> {
        let first = self.last + 1;
        let batch = sizes.iter().map(|size| self.message(*size)).collect();
        self.promise.publish(&self.transport, &self.topic, batch).await;
        first..=self.last
    }

    /// Publishes one message and returns its number, and whether the broker has it.
    pub(super) async fn attempt(&mut self) -> (u64, Result<()>) {
        let batch = vec![self.message(100)];
        (self.last, self.promise.try_publish(&self.transport, &self.topic, batch).await)
    }

    /// Publishes until the broker accepts a message, and returns its number.
    pub(super) async fn insist(&mut self) -> u64 {
        let end = Instant::now() + PATIENCE;
        loop {
            let (number, answer) = self.attempt().await;
            let Err(error) = answer else { return number };
            self.promise.require(error.is_retryable(), || {
                format!("publishing to {} over a healed link: {error}", self.topic)
            });
            let late = Instant::now() > end;
            self.promise.require(!late, || {
                format!("no publish to {} succeeds over a healed link: {error}", self.topic)
            });
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A message whose content follows from its position and size, so that it can be checked.
pub(super) fn numbered(origin: Origin, sequence: u64, payload_bytes: usize) -> Message {
    let sequence = std::num::NonZeroU64::new(sequence).expect("numbers begin at 1");
    bare(origin, sequence.get(), payload_bytes).with_position(Position { origin, sequence })
}

/// The same without a position, as a foreign publisher would send it.
pub(super) fn bare(origin: Origin, number: u64, payload_bytes: usize) -> Message {
    let filler = u8::try_from(number % 251).expect("below 251");
    let mut payload = vec![filler; payload_bytes.max(HEAD_BYTES)];
    // The length too, so that a payload which was cut off shows.
    let head = [origin.get(), number, payload.len() as u64];
    for (place, part) in payload.chunks_exact_mut(8).zip(head) {
        place.copy_from_slice(&part.to_be_bytes());
    }
    let key = Key::new(format!("{origin}:{number}")).expect("short and not empty");
    Message::put(key, Bytes::from(payload))
}

/// The shortest payload: it says whose which message it is, and how long.
const HEAD_BYTES: usize = 24;

/// Which message of whom this is, by its payload; `None` if it is not one of ours, or not whole.
pub(super) fn identity(message: &Message) -> Option<(Origin, u64)> {
    let payload = message.payload();
    let part = |index| Some(u64::from_be_bytes(*payload.as_chunks::<8>().0.get::<usize>(index)?));
    let (origin, number) = (Origin::from_u64(part(0)?)?, part(1)?);
    let whole = bare(origin, number, usize::try_from(part(2)?).ok()?.min(payload.len()));
    (whole.payload() == payload && whole.key() == message.key()).then_some((origin, number))
}

/// Whether `kind` is what a publish may answer while the broker cannot be reached.
pub(super) fn says_unreachable(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unavailable | ErrorKind::UnknownOutcome | ErrorKind::Timeout)
}

/// A topic of its own for each use.
pub(super) fn topics(name: &str, count: usize) -> Vec<Topic> {
    (0..count).map(|_| unique_topic(name)).collect()
}

/// Chance that repeats itself: the same in every run.
pub(super) fn chance(seed: u64) -> Xoshiro256PlusPlus {
    Xoshiro256PlusPlus::seed_from_u64(seed)
}
