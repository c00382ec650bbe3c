//! What tests of faults need: a writer whose messages are numbered, a listener that reads signal by
//! signal, and waits with limits.

use std::fmt::Display;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hydratecache::{
    Error, Fence, Gap, Key, Message, Origin, Position, Result, Signal, Subscription, Topic,
    Transport,
};

use super::{Missed, Setup, Subject};
use crate::conformance::Capability;
use crate::proxy::FaultProxy;

/// The end of a wait for which no promise sets one: only what hangs lasts so long, however busy the machine is.
pub const LONG: Duration = secs(20);

/// A transport to the subject's broker.
pub async fn connect(subject: &dyn Subject) -> Arc<dyn Transport> {
    connect_with(subject, Setup::default()).await
}

/// The same with settings.
pub async fn connect_with(subject: &dyn Subject, setup: Setup) -> Arc<dyn Transport> {
    subject.connect(subject.broker().addr(), setup).await.expect("connects")
}

/// A transport to the subject's broker through `proxy`.
pub async fn connect_via(subject: &dyn Subject, proxy: &FaultProxy) -> Arc<dyn Transport> {
    connect_via_with(subject, proxy, Setup::default()).await
}

/// The same with settings.
pub async fn connect_via_with(
    subject: &dyn Subject,
    proxy: &FaultProxy,
    setup: Setup,
) -> Arc<dyn Transport> {
    let addr = proxy.addr().to_string();
    subject.connect(&addr, setup).await.expect("connects through the proxy")
}

/// A proxy before the subject's broker.
#[must_use]
pub fn proxy(subject: &dyn Subject) -> FaultProxy {
    subject.proxy()
}

/// So many seconds.
#[must_use]
pub const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// So many milliseconds.
#[must_use]
pub const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// `quick`, or `full` where `HYDRATECACHE_EFFORT=full` asks for it.
pub fn effort<T>(quick: T, full: T) -> T {
    match std::env::var("HYDRATECACHE_EFFORT") {
        Ok(effort) if effort == "full" => full,
        _ => quick,
    }
}

/// What `future` yields; a panic that says `what` was awaited, if that takes longer than `limit`.
pub async fn in_time<T>(what: impl Display, limit: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

/// How long each round of something took. A busy machine delays a few of them; what is slow by itself is slow in
/// all.
#[derive(Debug)]
pub struct Rounds {
    what: &'static str,
    took: Vec<Duration>,
}

impl Rounds {
    /// None yet of `what` is waited for.
    #[must_use]
    pub const fn of(what: &'static str) -> Self {
        Self { what, took: Vec::new() }
    }

    /// Waits for one of them.
    pub async fn one<T>(&mut self, future: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let outcome = in_time(self.what, LONG, future).await;
        self.add(began.elapsed());
        outcome
    }

    /// One of them took so long.
    pub fn add(&mut self, took: Duration) {
        self.took.push(took);
    }

    /// The fastest took less than `limit`.
    pub fn fastest_took_less_than(&self, limit: Duration) {
        let fastest = self.took.iter().min();
        let is_quick = fastest.is_some_and(|took| *took < limit);
        assert!(is_quick, "{}: never within {limit:?}: {:?}", self.what, self.took);
    }

    /// All but one in so many took less than `limit`.
    pub fn took_less_than(&self, limit: Duration, but_one_in: usize) {
        let slow = self.took.iter().filter(|took| **took >= limit).count();
        let are_few = slow * but_one_in <= self.took.len();
        assert!(are_few, "{}: {slow} times not within {limit:?}: {:?}", self.what, self.took);
    }
}

/// Asks again and again until `condition` holds.
pub async fn until(what: impl Display, limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(millis(10)).await;
        }
    };
    in_time(what, limit, asking).await;
}

/// What `call` yields once it succeeds: until then its errors must be worth another try.
pub async fn tries<T>(limit: Duration, mut call: impl AsyncFnMut() -> Result<T>) -> T {
    let trying = async {
        loop {
            match call().await {
                Ok(done) => return done,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
            tokio::time::sleep(millis(1)).await;
        }
    };
    in_time("a call to succeed", limit, trying).await
}

/// Waits until the broker has no subscription any more, where it tells.
pub(super) async fn no_subscription_left(subject: &dyn Subject, case: &str) {
    let none = async || match subject.subscriptions() {
        Capability::Present(count) => count.await == 0,
        Capability::Absent(_) => true,
    };
    until(format!("no subscription left, {case}"), LONG, none).await;
}

/// Publishes numbered messages as one origin.
#[derive(Debug)]
pub struct Writer {
    transport: Arc<dyn Transport>,
    topic: Topic,
    origin: Origin,
    last: u64,
}

impl Writer {
    /// A new origin.
    #[must_use]
    pub fn new(transport: &Arc<dyn Transport>, topic: &Topic) -> Self {
        let (transport, topic) = (transport.clone(), topic.clone());
        Self { transport, topic, origin: Origin::random(), last: 0 }
    }

    /// Who it is.
    #[must_use]
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// The next message, whose payload begins with its number.
    pub fn message(&mut self, payload_bytes: usize) -> Message {
        self.last += 1;
        let mut payload = self.last.to_be_bytes().to_vec();
        payload.resize(payload_bytes.max(payload.len()), b'x');
        let sequence = NonZeroU64::new(self.last).expect("counted from 1");
        Message::put(Key::new("key").expect("legal"), payload.into())
            .with_position(Position { origin: self.origin, sequence })
    }

    /// Publishes one message and returns its number.
    pub async fn send(&mut self) -> Result<u64> {
        self.send_batch(1, 8).await
    }

    /// Publishes a batch and returns the last number in it.
    pub async fn send_batch(&mut self, count: usize, payload_bytes: usize) -> Result<u64> {
        let batch = (0..count).map(|_| self.message(payload_bytes)).collect();
        self.transport.publish(self.topic.clone(), batch).await.map(|()| self.last)
    }
}

/// The number in the payload of a message of a [`Writer`].
pub fn number(message: &Message) -> u64 {
    let bytes = message.payload()[..8].try_into().expect("eight bytes");
    u64::from_be_bytes(bytes)
}

/// Reads a subscription signal by signal. Fences are passed over, unless they are asked for: the
/// transport's own signs of life yield them at any time.
#[derive(Debug)]
pub struct Listener(Subscription);

impl Listener {
    /// Subscribes.
    pub async fn on(transport: &Arc<dyn Transport>, topic: &Topic) -> Self {
        let subscribing = transport.subscribe(topic.clone());
        let subscription = in_time(format!("a subscription to {topic}"), LONG, subscribing).await;
        Self(subscription.expect("subscribes"))
    }

    /// Reads this one.
    #[must_use]
    pub fn over(subscription: Subscription) -> Self {
        Self(subscription)
    }

    /// The next signal that is no fence; `what` says what is awaited.
    pub async fn next(&mut self, what: impl Display, limit: Duration) -> Signal {
        let next = async {
            loop {
                match self.0.next().await.expect("the stream goes on") {
                    Signal::Fenced(_) | Signal::Heard(_) => {}
                    signal => return signal,
                }
            }
        };
        in_time(what, limit, next).await
    }

    /// The next signal, which is a message.
    pub async fn message(&mut self) -> Message {
        match self.next("a message", LONG).await {
            Signal::Message(message) => message,
            other => panic!("a message, not {other:?}"),
        }
    }

    /// The next messages are these, and nothing is between them.
    pub async fn numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for expected in numbers {
            assert_eq!(number(&self.message().await), expected);
        }
    }

    /// These numbers of this writer come, in order, with any messages of others between them, and
    /// with those of its own whose outcome is not known.
    pub async fn until_numbers_of(
        &mut self,
        writer: &Writer,
        numbers: impl IntoIterator<Item = u64>,
    ) {
        for expected in numbers {
            loop {
                let message = self.message().await;
                if message.origin() == Some(writer.origin()) {
                    let number = number(&message);
                    assert!(number <= expected, "{number} came before {expected}");
                    if number == expected {
                        break;
                    }
                }
            }
        }
    }

    /// The next signal, which is a gap of this count: what the link could not count, the numbers of
    /// the next message do.
    pub async fn lost(&mut self, count: u64) {
        match self.next("the count of what was lost", LONG).await {
            Signal::Gap(gap) if gap.exact() == Some(count) => {}
            other => panic!("a gap of {count}, not {other:?}"),
        }
    }

    /// The next signal, which is a disruption; returns why.
    pub async fn disrupted(&mut self, limit: Duration) -> Error {
        match self.next("the disruption", limit).await {
            Signal::Disrupted(why) => why,
            other => panic!("Disrupted, not {other:?}"),
        }
    }

    /// The next signals: the link is back, and something may be missing, unless the broker kept it.
    pub async fn back(&mut self, subject: &dyn Subject, limit: Duration) {
        match subject.missed() {
            Missed::Gone => self.live_then_gap(limit).await,
            Missed::Replayed => self.live(limit).await,
        }
    }

    /// The next signal: the link is back.
    pub async fn live(&mut self, limit: Duration) {
        let live = self.next("the link to be live again", limit).await;
        assert!(matches!(live, Signal::Live), "Live, not {live:?}");
    }

    /// The next two signals: the link is back, and something may be missing.
    pub async fn live_then_gap(&mut self, limit: Duration) {
        self.live(limit).await;
        let gap = self.next("the gap behind Live", LONG).await;
        assert!(matches!(gap, Signal::Gap(Gap::Unknown)), "a gap of unknown size, not {gap:?}");
    }

    /// Waits for `fence` and returns what came before it.
    pub async fn before(&mut self, fence: Fence) -> Vec<Signal> {
        let mut signals = Vec::new();
        let reading = async {
            loop {
                match self.0.next().await.expect("the stream goes on") {
                    Signal::Fenced(passed) if passed >= fence => return,
                    Signal::Fenced(_) | Signal::Heard(_) => {}
                    signal => signals.push(signal),
                }
            }
        };
        in_time("the fence in the subscription", LONG, reading).await;
        signals
    }

    /// The subscription.
    #[must_use]
    pub fn into_inner(self) -> Subscription {
        self.0
    }
}

/// A fence, within a limit.
pub async fn fence(transport: &Arc<dyn Transport>) -> Fence {
    in_time("a fence", LONG, transport.fence()).await.expect("an echo")
}

/// A topic of this name.
#[must_use]
pub fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

/// Runs the test of this name in a process of its own, where memory is its alone; returns whether
/// this is that process.
#[must_use]
pub fn is_alone(module: &str, test: &str) -> bool {
    const ALONE: &str = "HYDRATECACHE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    // A test's name has no crate.
    let path = module.split_once("::").map_or_else(String::new, |(_, path)| format!("{path}::"));
    let test = format!("{path}{test}");
    let program = std::env::current_exe().expect("the test's own program");
    let output = std::process::Command::new(program)
        .args([&*test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the test runs in a process of its own");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{test} by itself: {said}");
    false
}

/// What this process holds in memory, in bytes.
#[must_use]
pub fn resident_bytes() -> usize {
    // Linux has pages of 4 KiB wherever these tests run; larger ones would only be more tolerant.
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * PAGE
}
