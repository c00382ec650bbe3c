//! P1: ready means ready.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{join, join_all};
use hydratecache::{ErrorKind, Signal, Subscription, Topic, Transport};

use super::subject::{Faults, Subject};
use super::trial::{ANSWER, BUSY, PATIENCE, Promise, Publisher, Trial, finished, identity, topics};
use super::{Effort, unique_topic};

/// P1: when `subscribe` returns, a message whose publish begins afterwards, by anyone, is
/// delivered; a denied or deaf subscription is an error within its limit.
///
/// Publishes right after subscribing, thousands of times, from the same transport and another, to
/// new topics, to topics that others just left and to topics that others hold; subscribes without
/// permission, over a cut link, and while the link is being cut.
pub async fn p01_ready_means_ready(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P1 (ready means ready)", subject, effort);
    race_subscribe_and_publish(&trial).await;
    a_reader_that_sleeps_is_woken(&trial).await;
    if let Some(denied) = trial.able("subscribing without permission", subject.denied()) {
        let denied = trial.step("connecting without permission", denied).await;
        a_denied_subscription_is_an_error(&trial, &denied).await;
    }
    if let Some(faults) = trial.able("subscribing over a cut link", subject.faults()) {
        a_subscription_over_a_cut_link_is_an_error(&trial, faults).await;
        a_subscription_cut_on_its_way_is_never_deaf(&trial, faults).await;
    }
}

const TASKS: usize = 4;

async fn race_subscribe_and_publish(trial: &Trial<'_>) {
    let rounds = trial.effort.pick(2_000, 100_000) / TASKS;
    let (here, there) = (trial.connect().await, trial.connect().await);
    let held = unique_topic("p1.held");
    // Somebody holds this topic all the time, so that the others join it.
    let holder = trial.promise.subscribe(&here, &held).await;
    let tasks = (0..TASKS).map(|_| {
        let race = Race {
            promise: trial.promise,
            here: here.clone(),
            there: there.clone(),
            held: held.clone(),
        };
        tokio::spawn(race.run(rounds))
    });
    for task in join_all(tasks).await {
        finished(task);
    }
    drop(holder);
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

struct Race {
    promise: Promise,
    here: Arc<dyn Transport>,
    there: Arc<dyn Transport>,
    held: Topic,
}

impl Race {
    async fn run(self, rounds: usize) {
        let left = unique_topic("p1.left");
        for round in 0..rounds {
            let topic = match round % 3 {
                0 => unique_topic("p1.new"),
                1 => left.clone(),
                _ => self.held.clone(),
            };
            let from = if round % 2 == 0 { &self.there } else { &self.here };
            let mut listener = self.promise.subscribe(&self.here, &topic).await;
            let mut publisher = Publisher::new(self.promise, from, &topic);
            publisher.send(&[100]).await;
            let awaited = "the message published right after subscribe returned";
            // Others publish to the held topic too.
            while identity(&listener.message(awaited).await) != Some((publisher.origin, 1)) {}
        }
    }
}

async fn a_reader_that_sleeps_is_woken(trial: &Trial<'_>) {
    let (here, there) = (trial.connect().await, trial.connect().await);
    let topic = unique_topic("p1.sleep");
    let mut listener = trial.promise.subscribe(&here, &topic).await;
    let mut publisher = Publisher::new(trial.promise, &there, &topic);
    for _ in 0..trial.effort.pick(500, 20_000) {
        let sleeper = listener.sleeps().await;
        publisher.send(&[100]).await;
        let awaited = "a message by a reader that was asleep when it was published";
        let (woken, signal) = finished(trial.promise.within(PATIENCE, awaited, sleeper).await);
        listener = woken;
        let arrived = match &signal {
            Some(Signal::Message(message)) => identity(message),
            Some(Signal::Fenced(_)) => identity(&listener.message(awaited).await),
            _ => None,
        };
        trial.promise.require(arrived == Some((publisher.origin, publisher.last)), || {
            format!("awaited message {}, and saw {signal:?}", publisher.last)
        });
    }
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

async fn a_denied_subscription_is_an_error(trial: &Trial<'_>, denied: &Arc<dyn Transport>) {
    for _ in 0..3 {
        let topic = unique_topic("p1.denied");
        let limit = Duration::from_secs(2) + BUSY;
        let subscribed = denied.subscribe(topic);
        let awaited = "the answer to a subscription without permission";
        match trial.promise.within(limit, awaited, subscribed).await {
            Ok(_) => trial.promise.broken("a subscription without permission is Ok, and deaf"),
            Err(error) => trial.promise.require(error.kind() == ErrorKind::Denied, || {
                format!("a subscription without permission should be Denied, and is: {error}")
            }),
        }
    }
    trial.promise.close(denied).await;
}

async fn a_subscription_over_a_cut_link_is_an_error(trial: &Trial<'_>, faults: &dyn Faults) {
    let transport = trial.step("connecting", faults.connect()).await;
    let held = unique_topic("p1.cut");
    let listener = trial.promise.subscribe(&transport, &held).await;
    trial.step("cutting the link", faults.cut()).await;
    for topic in [held, unique_topic("p1.cut")] {
        let subscribed = subscribe_in_time(trial, &transport, &topic).await;
        trial.promise.require(subscribed.is_none(), || {
            format!("a subscription of {topic} over a cut link is Ok")
        });
    }
    trial.step("healing the link", faults.heal()).await;
    drop(listener);
    trial.promise.close(&transport).await;
}

async fn a_subscription_cut_on_its_way_is_never_deaf(trial: &Trial<'_>, faults: &dyn Faults) {
    let transport = trial.step("connecting", faults.connect()).await;
    let other = trial.connect().await;
    for topic in topics("p1.race", trial.effort.pick(10, 100)) {
        trial
            .promise
            .until("a subscription over a healed link", || async {
                subscribe_in_time(trial, &transport, &unique_topic("p1.healed")).await
            })
            .await;
        let subscribed = subscribe_in_time(trial, &transport, &topic);
        let cut = trial.step("cutting the link", faults.cut());
        let (subscribed, ()) = join(subscribed, cut).await;
        trial.step("healing the link", faults.heal()).await;
        if let Some(subscription) = subscribed {
            it_hears(trial, &other, &topic, subscription).await;
        }
    }
    trial.promise.close(&transport).await;
    trial.promise.close(&other).await;
}

/// A subscription, or nothing after an error that says to try again.
async fn subscribe_in_time(
    trial: &Trial<'_>,
    transport: &Arc<dyn Transport>,
    topic: &Topic,
) -> Option<Subscription> {
    let awaited = format!("the answer to a subscription of {topic}");
    let subscribed = transport.subscribe(topic.clone());
    match trial.promise.within(ANSWER, awaited, subscribed).await {
        Ok(subscription) => Some(subscription),
        Err(error) => {
            trial.promise.require(error.is_retryable(), || {
                format!("subscribing over a broken link should be retryable, and is: {error}")
            });
            None
        }
    }
}

/// A subscription that was confirmed hears what is published, if not at once then after the link
/// is back.
async fn it_hears(
    trial: &Trial<'_>,
    other: &Arc<dyn Transport>,
    topic: &Topic,
    mut subscription: Subscription,
) {
    let mut publisher = Publisher::new(trial.promise, other, topic);
    let hears = async {
        loop {
            publisher.insist().await;
            let next = tokio::time::timeout(Duration::from_millis(100), subscription.next());
            if let Ok(Some(Signal::Message(_))) = next.await {
                return;
            }
        }
    };
    let awaited = "a message on a subscription that was confirmed while the link was cut";
    trial.promise.within(PATIENCE, awaited, hears).await;
}
