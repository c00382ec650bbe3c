//! The proof of a subscription.
//!
//! fred's `subscribe` returns before the command is written, and a user without permission gets
//! `Ok` all the same. So the server is asked, on the same connection and behind the command, how
//! many subscriptions it counts there (`CLIENT INFO`, field `sub`). Where that is denied, a probe
//! is published to the topic and must arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::error::Error as FredError;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use hydratecache::{Error, ErrorKind, Message, Origin, Result, Topic, wire};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::exchange::{Answers, Change, Exchange};
use super::name;
use crate::error::{Attempt, from_fred};
use crate::publisher::Publisher;

/// How long a probe may take to arrive: a denied one never does.
const PROBE_LIMIT: Duration = Duration::from_millis(1500);

/// A change of the connection's subscriptions that is being proven.
pub(super) struct Proving {
    pub(super) outcome: BoxFuture<'static, Result<Outcome>>,
}

/// What the server counts now, and which topics it counts.
pub(super) struct Outcome {
    pub(super) count: usize,
    pub(super) topics: Vec<(Topic, Result<()>)>,
}

/// What a proof needs.
pub(super) struct Way {
    pub(super) exchange: Arc<Exchange>,
    pub(super) publisher: Arc<Publisher>,
    pub(super) probes: Arc<Probes>,
    pub(super) address: Arc<str>,
    /// For each exchange with the server.
    pub(super) limit: Duration,
}

impl Proving {
    /// Subscribes to `topics` on a connection on which the server counts `count` subscriptions.
    pub(super) fn subscribe(way: Way, topics: Vec<Topic>, count: usize) -> Self {
        Self { outcome: way.subscribe(topics, count).boxed() }
    }

    pub(super) fn unsubscribe(way: Way, topics: Vec<Topic>) -> Self {
        let outcome = async move {
            let channels = topics.iter().map(name).collect();
            let answers = way.change(Change::Unsubscribe(channels)).await?;
            Ok(Outcome { count: answers.count.unwrap_or(0), topics: Vec::new() })
        };
        Self { outcome: outcome.boxed() }
    }
}

/// What the server said about a set of channels.
enum Counted {
    /// All are there.
    All(usize),
    /// Some or all are not.
    NotAll(usize),
    /// It does not tell.
    Untold,
}

impl Way {
    /// Redis refuses a whole command for one denied channel. Halving finds it in few exchanges,
    /// however many there are.
    async fn subscribe(self, topics: Vec<Topic>, count: usize) -> Result<Outcome> {
        let mut outcome = Outcome { count, topics: Vec::with_capacity(topics.len()) };
        let mut untold = Vec::new();
        let mut waiting = vec![topics];
        while let Some(mut topics) = waiting.pop() {
            match self.count_with(&topics, outcome.count).await? {
                Counted::All(count) => {
                    outcome.count = count;
                    outcome.topics.extend(topics.into_iter().map(|topic| (topic, Ok(()))));
                }
                Counted::Untold => untold.append(&mut topics),
                Counted::NotAll(count) => {
                    outcome.count = count;
                    let half = topics.split_off(topics.len() / 2);
                    if topics.is_empty() {
                        outcome.topics.extend(half.into_iter().map(|topic| {
                            let denied = Err(self.denied(&topic));
                            (topic, denied)
                        }));
                    } else {
                        waiting.extend([half, topics]);
                    }
                }
            }
        }
        let arrived = join_all(untold.iter().map(|topic| self.probe(topic))).await;
        outcome.topics.extend(untold.into_iter().zip(arrived));
        Ok(outcome)
    }

    async fn count_with(&self, topics: &[Topic], before: usize) -> Result<Counted> {
        let channels = topics.iter().map(name).collect();
        let answers = self.change(Change::Subscribe(channels)).await?;
        Ok(match answers.count {
            Some(count) if count >= before + topics.len() => Counted::All(count),
            Some(count) => Counted::NotAll(count),
            None if answers.is_refused() => Counted::NotAll(before),
            None => Counted::Untold,
        })
    }

    async fn change(&self, change: Change) -> Result<Answers> {
        match timeout(self.limit, self.exchange.change(change)).await {
            Ok(answers) => answers.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.too_slow(format_args!("no proof within {:?}", self.limit))),
        }
    }

    async fn probe(&self, topic: &Topic) -> Result<()> {
        let deadline = Instant::now() + PROBE_LIMIT;
        let origin = Origin::random();
        let arrival = self.probes.expect(origin);
        let probe = wire::encode(&Message::heartbeat(origin, None), None);
        let sent = timeout_at(deadline, self.publisher.publish(topic, vec![probe])).await;
        let proof = match sent {
            Ok(Ok(())) => match timeout_at(deadline, arrival).await {
                Ok(Ok(())) => Ok(()),
                _ => Err(self.denied(topic)),
            },
            Ok(Err(error)) => Err(error),
            // That says nothing about permissions.
            Err(_) => Err(self.too_slow("the probe could not be sent")),
        };
        self.probes.forget(origin);
        proof
    }

    fn failed(&self, error: &FredError) -> Error {
        from_fred(Attempt::Subscribe, &self.address, error)
    }

    fn too_slow(&self, what: impl std::fmt::Display) -> Error {
        let address = &self.address;
        Error::new(ErrorKind::Timeout, format!("subscribing on Redis at {address}: {what}"))
    }

    fn denied(&self, topic: &Topic) -> Error {
        Error::new(
            ErrorKind::Denied,
            format!(
                "subscribing to topic {topic} on Redis at {}: the server did not take the \
                 subscription, or does not say so; grant the user the channel, and CLIENT INFO or \
                 PUBLISH on it for the proof",
                self.address
            ),
        )
    }
}

/// Probes under way, by their origin.
#[derive(Default)]
pub(super) struct Probes(Mutex<HashMap<Origin, oneshot::Sender<()>>>);

impl Probes {
    fn expect(&self, origin: Origin) -> oneshot::Receiver<()> {
        let (arrived, arrival) = oneshot::channel();
        self.lock().insert(origin, arrived);
        arrival
    }

    pub(super) fn arrived(&self, origin: Origin) {
        if let Some(arrived) = self.lock().remove(&origin) {
            // Whoever waited may have given up.
            let _ = arrived.send(());
        }
    }

    fn forget(&self, origin: Origin) {
        self.lock().remove(&origin);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Origin, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
