//! The proof of a subscription.
//!
//! fred's `subscribe` returns before the command is written, and a user without permission gets
//! `Ok` all the same. So the server is asked, on the same connection and behind the command, how
//! many subscriptions it counts there (`CLIENT INFO`, field `sub`). Where that is denied, a probe
//! is published to the topic and must arrive.

use std::sync::Arc;
use std::time::Duration;

use fred::error::Error as FredError;
use futures::FutureExt;
use hydratecache::link::{Probe, Proof, Publisher};
use hydratecache::{Error, ErrorKind, Message, Origin, Result, Topic, wire};
use tokio::time::timeout;

use super::exchange::{Answers, Change, Exchange};
use crate::channel_name::channel_name;
use crate::error::{Attempt, from_fred};
use crate::publisher::{Batch, RedisSender};

/// What a proof needs.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) exchange: Arc<Exchange>,
    pub(super) publisher: Arc<Publisher<RedisSender>>,
    pub(super) address: Arc<str>,
    /// For each exchange with the server.
    pub(super) limit: Duration,
}

/// What the server said about a set of channels.
enum Counted {
    /// All are there.
    All,
    /// Some or all are not.
    NotAll,
    /// It does not tell.
    Untold,
}

impl Way {
    /// Redis refuses a whole command for one denied channel. Halving finds it in few exchanges,
    /// however many there are.
    pub(super) async fn subscribe(self, topics: Vec<Topic>) -> Result<Vec<(Topic, Proof)>> {
        let mut proofs = Vec::with_capacity(topics.len());
        let mut waiting = vec![topics];
        while let Some(mut topics) = waiting.pop() {
            match self.count_with(&topics).await? {
                Counted::All => {
                    proofs.extend(topics.into_iter().map(|topic| (topic, Proof::Proven)));
                }
                Counted::Untold => proofs.extend(topics.into_iter().map(|topic| {
                    let probe = self.probe(&topic);
                    (topic, Proof::Probe(probe))
                })),
                Counted::NotAll => {
                    let half = topics.split_off(topics.len() / 2);
                    if topics.is_empty() {
                        proofs.extend(half.into_iter().map(|topic| {
                            let denied = Proof::Denied(self.denied(&topic));
                            (topic, denied)
                        }));
                    } else {
                        waiting.extend([half, topics]);
                    }
                }
            }
        }
        Ok(proofs)
    }

    pub(super) async fn unsubscribe(self, topics: Vec<Topic>) -> Result<()> {
        let channels = topics.iter().map(channel_name).collect();
        self.change(Change::Unsubscribe(channels)).await.map(drop)
    }

    async fn count_with(&self, topics: &[Topic]) -> Result<Counted> {
        let channels = topics.iter().map(channel_name).collect();
        let (before, answers) = self.change(Change::Subscribe(channels)).await?;
        Ok(match answers.count {
            Some(count) if count >= before + topics.len() => Counted::All,
            Some(_) => Counted::NotAll,
            None if answers.is_refused() => Counted::NotAll,
            None => Counted::Untold,
        })
    }

    async fn change(&self, change: Change) -> Result<(usize, Answers)> {
        match timeout(self.limit, self.exchange.change(change)).await {
            Ok(answers) => answers.map_err(|error| self.failed(&error)),
            Err(_) => Err(self.too_slow()),
        }
    }

    fn probe(&self, topic: &Topic) -> Probe {
        let origin = Origin::random();
        let probe = wire::encode(&Message::heartbeat(origin, None), None);
        let batch = Batch { channel: channel_name(topic), bodies: vec![probe] };
        let publisher = self.publisher.clone();
        let sending = async move { publisher.publish(batch).await }.boxed();
        Probe { origin, sending, denied: self.denied(topic) }
    }

    fn failed(&self, error: &FredError) -> Error {
        from_fred(Attempt::Subscribe, &self.address, error)
    }

    fn too_slow(&self) -> Error {
        let (address, limit) = (&self.address, self.limit);
        Error::new(
            ErrorKind::Timeout,
            format!("subscribing on Redis at {address}: no proof within {limit:?}"),
        )
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
