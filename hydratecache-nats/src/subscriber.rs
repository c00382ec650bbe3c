//! The subscribing connection on async-nats.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use async_nats::Subject;
use futures::FutureExt;
use futures::future::{BoxFuture, poll_fn};
use hydratecache::link::{Connector, Incoming, Proof, Subscribing};
use hydratecache::{Error, ErrorKind, Result, Topic};
use tokio::time::timeout;

use crate::error::denied;
use crate::events::{Log, Use};
use crate::inbox::Inbox;
use crate::life::{Life, Origin};
use crate::subject::{subject, subject_name};

/// How many subscriptions are proven at once: a refusal of each still fits into the client's queue
/// of events.
const AT_ONCE: usize = 64;

/// Makes connections that subscribe.
pub(crate) struct SubscribingConnector {
    pub(crate) origin: Origin,
    pub(crate) subscribe_limit: Duration,
}

/// One life of the connection that subscribes.
pub(crate) struct SubscribingConnection {
    life: Life,
    subscribe_limit: Duration,
    inbox: Arc<Mutex<Inbox>>,
    noticed: Arc<Mutex<Noticed>>,
    /// Ready when there is something to notice.
    happening: BoxFuture<'static, ()>,
}

/// What has been noticed of the client's events.
#[derive(Clone, Copy)]
struct Noticed {
    seen: u64,
    refusals: u64,
    dropped: u64,
    is_leaving: bool,
}

impl Connector for SubscribingConnector {
    type Connection = SubscribingConnection;

    async fn connect(&self) -> Result<SubscribingConnection> {
        let life = self.origin.begin().await?;
        let noticed = Noticed::of(&life.events().log());
        Ok(SubscribingConnection {
            happening: happening(&life, noticed),
            subscribe_limit: self.subscribe_limit,
            inbox: Arc::default(),
            noticed: Arc::new(Mutex::new(noticed)),
            life,
        })
    }
}

impl Subscribing for SubscribingConnection {
    type Name = Subject;

    fn name(topic: &Topic) -> String {
        subject_name(topic)
    }

    async fn next(&mut self) -> Incoming<Subject> {
        loop {
            let happened = poll_fn(|cx| {
                if self.happening.poll_unpin(cx).is_ready() {
                    return Poll::Ready(None);
                }
                lock(&self.inbox).poll_next(cx).map(Some)
            });
            if let Some(incoming) = happened.await {
                return incoming;
            }
            if let Some(incoming) = self.notice() {
                return incoming;
            }
        }
    }

    fn try_next(&mut self) -> Option<Incoming<Subject>> {
        lock(&self.inbox).try_next()
    }

    fn backlog(&self) -> usize {
        let inbox = lock(&self.inbox);
        // After the end there is no echo that would have taken out what is left.
        if self.life.is_over() { usize::MAX } else { inbox.pulled() }
    }

    fn subscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<Vec<(Topic, Proof)>>> {
        let (life, inbox, limit) = (self.life.clone(), self.inbox.clone(), self.subscribe_limit);
        async move {
            let proving = prove_all(&life, &inbox, topics);
            timeout(limit, proving).await.unwrap_or_else(|_| {
                let address = life.address();
                Err(Error::new(
                    ErrorKind::Timeout,
                    format!("subscribing on NATS at {address}: no proof within {limit:?}"),
                ))
            })
        }
        .boxed()
    }

    fn unsubscribe(&mut self, topics: Vec<Topic>) -> BoxFuture<'static, Result<()>> {
        let mut inbox = lock(&self.inbox);
        for topic in topics {
            inbox.remove(&subject_name(&topic));
        }
        futures::future::ready(Ok(())).boxed()
    }

    fn echo(&mut self) -> BoxFuture<'static, Result<()>> {
        let (life, inbox, noticed) = (self.life.clone(), self.inbox.clone(), self.noticed.clone());
        // Sent now, so that it is behind what was accepted before and no later.
        let echo = life.begin_echo();
        async move {
            echo?.back().await?;
            if lock(&inbox).pull()
                && let Some(lagged) = lagged(&life, &noticed).await?
            {
                lock(&inbox).push(lagged);
            }
            Ok(())
        }
        .boxed()
    }
}

impl SubscribingConnection {
    /// Turns what has happened into what the link is to know.
    fn notice(&mut self) -> Option<Incoming<Subject>> {
        if self.life.has_ended() {
            return Some(Incoming::Ended(self.life.lost("it was closed")));
        }
        let mut noticed = lock(&self.noticed);
        let before = *noticed;
        let refused: Vec<String> = {
            let log = self.life.events().log();
            *noticed = Noticed::of(&log);
            let refused = log.subscriptions_refused_since(before.seen).map(str::to_owned);
            refused.collect()
        };
        self.happening = happening(&self.life, *noticed);
        let mut inbox = lock(&self.inbox);
        for name in refused {
            // One that is being proven is refused by its proof.
            if inbox.is_proven(&name) {
                inbox.remove(&name);
                let why = not_permitted(&self.life, &name);
                inbox.push(Incoming::Revoked { name: name.into(), why });
            }
        }
        if let Some(lagged) = noticed.lagged_since(before) {
            inbox.push(lagged);
        }
        (!before.is_leaving && self.life.is_leaving()).then_some(Incoming::Leaving)
    }
}

impl Noticed {
    fn of(log: &Log) -> Self {
        let Log { seen, refusals, dropped, is_leaving, .. } = *log;
        Self { seen, refusals, dropped, is_leaving }
    }

    /// What was dropped since `before`.
    fn lagged_since(self, before: Self) -> Option<Incoming<Subject>> {
        let dropped = self.dropped - before.dropped;
        (dropped > 0).then_some(Incoming::Lagged(dropped))
    }
}

/// Waits for something to notice.
fn happening(life: &Life, noticed: Noticed) -> BoxFuture<'static, ()> {
    let Noticed { refusals, dropped, is_leaving, .. } = noticed;
    life.happening(move |log| {
        log.refusals != refusals || log.dropped != dropped || log.is_leaving != is_leaving
    })
    .boxed()
}

/// A queue may have been full: asks what the client has dropped by now.
async fn lagged(life: &Life, noticed: &Mutex<Noticed>) -> Result<Option<Incoming<Subject>>> {
    let seen = life.events().log().seen;
    life.begin_mark(seen)?.come(|_| ()).await?;
    let now = life.events().log();
    let mut noticed = lock(noticed);
    let lagged = Noticed::of(&now).lagged_since(*noticed);
    noticed.dropped = now.dropped;
    Ok(lagged)
}

async fn prove_all(
    life: &Life,
    inbox: &Mutex<Inbox>,
    topics: Vec<Topic>,
) -> Result<Vec<(Topic, Proof)>> {
    let mut proofs = Vec::with_capacity(topics.len());
    for topics in topics.chunks(AT_ONCE) {
        proofs.append(&mut prove(life, inbox, topics).await?);
    }
    Ok(proofs)
}

/// Subscribes, and lets the server tell by an echo that it has the subscriptions, and by a mark
/// which of them it refuses.
async fn prove(life: &Life, inbox: &Mutex<Inbox>, topics: &[Topic]) -> Result<Vec<(Topic, Proof)>> {
    let seen = life.events().log().seen;
    for topic in topics {
        let subject = subject(topic);
        let subscribing = life.client().subscribe(subject.clone()).await;
        let subscriber = subscribing.map_err(|error| life.lost(&error.to_string()))?;
        lock(inbox).insert(&subject, subscriber);
    }
    let (mark, echo) = (life.begin_mark(seen)?, life.begin_echo()?);
    echo.back().await?;
    let names: Vec<_> = topics.iter().map(subject_name).collect();
    let is_refused = |log: &Log| -> Vec<bool> {
        names.iter().map(|name| log.is_refused_since(seen, Use::Subscribe, name)).collect()
    };
    let refused = mark.come(is_refused).await?;
    let mut inbox = lock(inbox);
    let proofs = topics.iter().zip(names.iter().zip(refused)).map(|(topic, (name, is_refused))| {
        let proof = if is_refused {
            inbox.remove(name);
            Proof::Denied(not_permitted(life, name))
        } else {
            inbox.prove(name);
            Proof::Proven
        };
        (topic.clone(), proof)
    });
    Ok(proofs.collect())
}

fn not_permitted(life: &Life, name: &str) -> Error {
    let advice = "grant the user to subscribe to the subject";
    denied(&life.address(), "subscribing to subject", name, advice)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
