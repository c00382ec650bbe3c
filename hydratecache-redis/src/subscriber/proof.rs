//! The proof of a subscription.
//!
//! fred's `subscribe` returns before the command is written, and a user without permission gets
//! `Ok` all the same. So the server is asked, on the same connection and behind the command, how
//! many subscriptions it counts there (`CLIENT INFO`, field `sub`). Where that is denied, a probe
//! is published to the topic and must arrive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use fred::clients::Client;
use fred::error::Error as FredError;
use fred::interfaces::{ClientInterface, PubsubInterface};
use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::{Error, ErrorKind, Message, Origin, Result, Topic, wire};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::name;
use crate::error::{Attempt, from_fred, is_denied};
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
    pub(super) client: Client,
    pub(super) publisher: Arc<Publisher>,
    pub(super) probes: Arc<Probes>,
    pub(super) address: Arc<str>,
    pub(super) limit: Duration,
}

impl Proving {
    /// Subscribes to `topics` on a connection on which the server counts `count` subscriptions.
    pub(super) fn subscribe(way: Way, topics: Vec<Topic>, count: usize) -> Self {
        let outcome = async move {
            let (address, limit) = (way.address.clone(), way.limit);
            timeout(limit, way.subscribe(topics, count)).await.unwrap_or_else(|_| {
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("subscribing on Redis at {address}: no proof within {limit:?}"),
                ))
            })
        };
        Self { outcome: outcome.boxed() }
    }

    pub(super) fn unsubscribe(client: &Client, topics: Vec<Topic>) -> Self {
        let client = client.clone();
        let outcome = async move {
            let channels: Vec<String> = topics.iter().map(name).collect();
            // A lost connection, the one way in which this fails, is seen elsewhere.
            let _ = client.unsubscribe(channels).await;
            let count = client.client_info::<String>().await.ok();
            let count = count.as_deref().and_then(subscriptions).unwrap_or(0);
            Ok(Outcome { count, topics: Vec::new() })
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
    async fn subscribe(self, topics: Vec<Topic>, count: usize) -> Result<Outcome> {
        match self.count_with(&topics, count).await? {
            Counted::All(count) => {
                let topics = topics.into_iter().map(|topic| (topic, Ok(()))).collect();
                Ok(Outcome { count, topics })
            }
            Counted::NotAll(count) => self.subscribe_one_by_one(topics, count).await,
            Counted::Untold => self.probe_all(topics).await,
        }
    }

    /// Redis refuses a whole command for one denied channel: find out which.
    async fn subscribe_one_by_one(&self, topics: Vec<Topic>, mut count: usize) -> Result<Outcome> {
        let mut proofs = Vec::with_capacity(topics.len());
        for topic in topics {
            let proof = match self.count_with(std::slice::from_ref(&topic), count).await? {
                Counted::All(now) => {
                    count = now;
                    Ok(())
                }
                Counted::NotAll(_) | Counted::Untold => Err(self.denied(&topic)),
            };
            proofs.push((topic, proof));
        }
        Ok(Outcome { count, topics: proofs })
    }

    async fn count_with(&self, topics: &[Topic], before: usize) -> Result<Counted> {
        self.send(topics).await?;
        match self.client.client_info::<String>().await {
            Ok(info) => Ok(match subscriptions(&info) {
                Some(count) if count >= before + topics.len() => Counted::All(count),
                Some(count) => Counted::NotAll(count),
                None => Counted::Untold,
            }),
            Err(error) if is_denied(&error) => Ok(Counted::Untold),
            Err(error) => Err(self.failed(&error)),
        }
    }

    async fn send(&self, topics: &[Topic]) -> Result<()> {
        let channels: Vec<String> = topics.iter().map(name).collect();
        match self.client.subscribe(channels).await {
            // Some versions of fred may tell of a denial after all; the count says which.
            Err(error) if !is_denied(&error) => Err(self.failed(&error)),
            _ => Ok(()),
        }
    }

    async fn probe_all(&self, topics: Vec<Topic>) -> Result<Outcome> {
        let mut proofs = Vec::with_capacity(topics.len());
        for topic in &topics {
            self.send(std::slice::from_ref(topic)).await?;
        }
        let probes = topics.iter().map(|topic| self.probe(topic));
        let arrived = futures::future::join_all(probes).await;
        proofs.extend(topics.into_iter().zip(arrived));
        Ok(Outcome { count: 0, topics: proofs })
    }

    async fn probe(&self, topic: &Topic) -> Result<()> {
        let origin = Origin::random();
        let arrival = self.probes.expect(origin);
        let probe = wire::encode(&Message::heartbeat(origin, None), None);
        let proof = async {
            self.publisher.publish(topic, vec![probe]).await?;
            arrival.await.map_err(|_| self.denied(topic))
        };
        let proof = timeout(PROBE_LIMIT, proof).await;
        self.probes.forget(origin);
        proof.unwrap_or_else(|_| Err(self.denied(topic)))
    }

    fn failed(&self, error: &FredError) -> Error {
        from_fred(Attempt::Subscribe, &self.address, error)
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

/// The field `sub` of `CLIENT INFO`.
fn subscriptions(info: &str) -> Option<usize> {
    info.split_ascii_whitespace().find_map(|field| field.strip_prefix("sub="))?.parse().ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_client_info() {
        let info = "id=3 addr=127.0.0.1:5 name= db=0 sub=12 psub=0 ssub=0 multi=-1 resp=3\n";
        assert_eq!(subscriptions(info), Some(12));
        assert_eq!(subscriptions("id=3 psub=1"), None);
    }
}
