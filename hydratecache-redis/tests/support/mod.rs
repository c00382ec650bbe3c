//! What several test files need.

// Not every test file uses all of it.
#![allow(dead_code)]

use std::fmt::Display;
use std::num::NonZeroU64;
use std::time::Duration;

use fred::prelude::{Builder, ClientLike};
use fred::types::config::Config;
use fred::types::{CustomCommand, Value};
use futures::StreamExt;
use hydratecache::{
    Error, Fence, Gap, Key, Message, Origin, Position, Result, Signal, Subscription, Topic,
    Transport,
};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::{Broker, Kind};

/// What `future` yields, if it does so within `limit`.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("took longer than {limit:?}"))
}

/// Runs one command as the server's administrator.
pub(crate) async fn admin(broker: &Broker, words: &[&str]) -> Value {
    let config = Config::from_url(broker.url()).expect("the broker's URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("the broker answers");
    let (command, arguments) = words.split_first().expect("a command");
    let command = CustomCommand::new(command.to_string(), None::<u16>, false);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let value = client.custom(command, arguments).await.expect("the command succeeds");
    client.quit().await.expect("the client ends");
    value
}

/// A server of its own.
pub(crate) async fn redis() -> Broker {
    Broker::start(Kind::Redis).await.expect("a Redis of its own")
}

pub(crate) const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// `quick`, or `full` where `HYDRATECACHE_EFFORT=full` asks for it.
pub(crate) fn effort<T>(quick: T, full: T) -> T {
    match std::env::var("HYDRATECACHE_EFFORT") {
        Ok(effort) if effort == "full" => full,
        _ => quick,
    }
}

/// What `future` yields; a panic that says `what` was awaited, if that takes longer than `limit`.
pub(crate) async fn in_time<T>(
    what: impl Display,
    limit: Duration,
    future: impl Future<Output = T>,
) -> T {
    let outcome = tokio::time::timeout(limit, future).await;
    outcome.unwrap_or_else(|_| panic!("waited {limit:?} for {what}"))
}

/// Asks again and again until `condition` holds.
pub(crate) async fn until(
    what: impl Display,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let asking = async {
        while !condition().await {
            tokio::time::sleep(millis(10)).await;
        }
    };
    in_time(what, limit, asking).await;
}

/// The clients that the server has, one a line, without the one that asks.
pub(crate) async fn clients(broker: &Broker) -> Vec<String> {
    let list = admin(broker, &["CLIENT", "LIST"]).await.into_string().expect("text");
    let others = list.lines().filter(|line| !line.contains("cmd=client|list"));
    others.map(str::to_owned).collect()
}

/// Publishes numbered messages as one origin.
pub(crate) struct Writer {
    transport: RedisTransport,
    topic: Topic,
    origin: Origin,
    last: u64,
}

impl Writer {
    pub(crate) fn new(transport: &RedisTransport, topic: &Topic) -> Self {
        let (transport, topic) = (transport.clone(), topic.clone());
        Self { transport, topic, origin: Origin::random(), last: 0 }
    }

    pub(crate) fn origin(&self) -> Origin {
        self.origin
    }

    /// The next message, whose payload begins with its number.
    pub(crate) fn message(&mut self, payload_bytes: usize) -> Message {
        self.last += 1;
        let mut payload = self.last.to_be_bytes().to_vec();
        payload.resize(payload_bytes.max(payload.len()), b'x');
        let sequence = NonZeroU64::new(self.last).expect("counted from 1");
        Message::put(Key::new("key").expect("legal"), payload.into())
            .with_position(Position { origin: self.origin, sequence })
    }

    /// Publishes one message and returns its number.
    pub(crate) async fn send(&mut self) -> Result<u64> {
        self.send_batch(1, 8).await
    }

    /// Publishes a batch and returns the last number in it.
    pub(crate) async fn send_batch(&mut self, count: usize, payload_bytes: usize) -> Result<u64> {
        let batch = (0..count).map(|_| self.message(payload_bytes)).collect();
        self.transport.publish(self.topic.clone(), batch).await.map(|()| self.last)
    }
}

/// The number in the payload of a message of a [`Writer`].
pub(crate) fn number(message: &Message) -> u64 {
    let bytes = message.payload()[..8].try_into().expect("eight bytes");
    u64::from_be_bytes(bytes)
}

/// Reads a subscription signal by signal. Fences are passed over, unless they are asked for: the
/// transport's own signs of life yield them at any time.
pub(crate) struct Listener(Subscription);

impl Listener {
    pub(crate) async fn on(transport: &RedisTransport, topic: &Topic) -> Self {
        let subscribing = transport.subscribe(topic.clone());
        let subscription =
            in_time(format!("a subscription to {topic}"), secs(6), subscribing).await;
        Self(subscription.expect("subscribes"))
    }

    pub(crate) async fn next(&mut self, what: impl Display, limit: Duration) -> Signal {
        let next = async {
            loop {
                match self.0.next().await.expect("the stream goes on") {
                    Signal::Fenced(_) => {}
                    signal => return signal,
                }
            }
        };
        in_time(what, limit, next).await
    }

    pub(crate) async fn message(&mut self) -> Message {
        match self.next("a message", secs(5)).await {
            Signal::Message(message) => message,
            other => panic!("a message, not {other:?}"),
        }
    }

    /// The next messages are these, and nothing is between them.
    pub(crate) async fn numbers(&mut self, numbers: impl IntoIterator<Item = u64>) {
        for expected in numbers {
            assert_eq!(number(&self.message().await), expected);
        }
    }

    /// What the link could not count, the numbers of the next message do.
    pub(crate) async fn lost(&mut self, count: u64) {
        match self.next("the count of what was lost", secs(5)).await {
            Signal::Gap(Gap::Exact(lost)) if lost.get() == count => {}
            other => panic!("a gap of {count}, not {other:?}"),
        }
    }

    pub(crate) async fn disrupted(&mut self, limit: Duration) -> Error {
        match self.next("the disruption", limit).await {
            Signal::Disrupted(why) => why,
            other => panic!("Disrupted, not {other:?}"),
        }
    }

    pub(crate) async fn live_then_gap(&mut self, limit: Duration) {
        let live = self.next("the link to be live again", limit).await;
        assert!(matches!(live, Signal::Live), "Live, not {live:?}");
        let gap = self.next("the gap behind Live", millis(100)).await;
        assert!(matches!(gap, Signal::Gap(Gap::Unknown)), "a gap of unknown size, not {gap:?}");
    }

    /// Waits for `fence` and returns what came before it.
    pub(crate) async fn before(&mut self, fence: Fence) -> Vec<Signal> {
        let mut signals = Vec::new();
        let reading = async {
            loop {
                match self.0.next().await.expect("the stream goes on") {
                    Signal::Fenced(passed) if passed >= fence => return,
                    Signal::Fenced(_) => {}
                    signal => signals.push(signal),
                }
            }
        };
        in_time("the fence in the subscription", secs(10), reading).await;
        signals
    }

    pub(crate) fn into_inner(self) -> Subscription {
        self.0
    }
}

/// A fence, within a limit.
pub(crate) async fn fence(transport: &RedisTransport) -> Fence {
    in_time("a fence", secs(11), transport.fence()).await.expect("an echo")
}

/// A topic of this name.
pub(crate) fn topic(name: &str) -> Topic {
    Topic::new(name).expect("legal")
}

/// Runs the test of this name in a process of its own, where memory is its alone; returns whether
/// this is that process.
pub(crate) fn is_alone(test: &str) -> bool {
    const ALONE: &str = "HYDRATECACHE_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let program = std::env::current_exe().expect("the test's own program");
    let output = std::process::Command::new(program)
        .args([test, "--exact", "--nocapture"])
        .env(ALONE, "1")
        .output()
        .expect("the test runs in a process of its own");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.contains("1 passed"), "{test} by itself: {said}");
    false
}

/// What this process holds in memory, in bytes.
pub(crate) fn resident_bytes() -> usize {
    // Linux has pages of 4 KiB wherever these tests run; larger ones would only be more tolerant.
    const PAGE: usize = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a number");
    pages * PAGE
}
