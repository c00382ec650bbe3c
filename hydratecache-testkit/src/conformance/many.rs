//! P9: one connection, many topics. P10: every future can be dropped.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream;
use hydratecache::{ErrorKind, Origin, Topic, Transport};
use rand::RngExt;

use super::close::{Tasks, every_call};
use super::subject::Subject;
use super::trial::{Listener, Publisher, Trial, bare, chance, identity, topics};
use super::{Effort, unique_topic};

/// P9: a process opens a constant number of broker connections, however many topics it uses; one
/// subscription for each topic at the broker, fanned out locally.
///
/// Subscribes to 1,000 topics over one transport, publishes to each, reads from each, and counts
/// connections and subscriptions at the broker where the subject can.
pub async fn p09_one_connection_many_topics(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P9 (one connection, many topics)", subject, effort);
    let (here, there) = (trial.connect().await, trial.connect().await);
    let topics = topics("p9", effort.pick(1_000, 10_000));
    // The first of each kind of call opens what a transport opens later than at once.
    let mut listeners = vec![exchange(&trial, &here, &there, &topics[0]).await];
    trial.promise.fence(&here).await;
    let before = connections(&trial).await;
    let subscribing = topics[1..].iter().map(|topic| in_the_end(&trial, &here, topic));
    listeners.extend(stream::iter(subscribing).buffered(50).collect::<Vec<_>>().await);
    for (topic, listener) in topics.iter().zip(&mut listeners) {
        let mut publisher = Publisher::new(trial.promise, &there, topic);
        publisher.send(&[50]).await;
        expect(&trial, listener, &publisher).await;
    }
    let after = connections(&trial).await;
    trial.promise.require(before == after, || {
        format!(
            "the broker counted {before:?} connections for 1 topic, {after:?} for {}",
            topics.len()
        )
    });
    let joined = trial.promise.subscribe(&here, &topics[0]).await;
    for topic in &topics[..10] {
        trial.await_subscriptions(topic, 1).await;
    }
    drop((joined, listeners));
    for topic in &topics[..10] {
        trial.await_subscriptions(topic, 0).await;
    }
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

/// A subscription, be it at a later attempt: a broker that has to make fifty topics at once may need longer than a
/// subscribe may take, which is an error then.
async fn in_the_end(trial: &Trial<'_>, here: &Arc<dyn Transport>, topic: &Topic) -> Listener {
    let subscribe = || async {
        match here.subscribe(topic.clone()).await {
            Err(error) if error.kind() == ErrorKind::Timeout => None,
            subscribed => Some(subscribed),
        }
    };
    let subscribed = trial.promise.until("a subscription of many", subscribe).await;
    trial.promise.listener(topic, subscribed)
}

async fn connections(trial: &Trial<'_>) -> Option<usize> {
    match trial.able("counting connections", trial.subject.connections()) {
        Some(counting) => Some(trial.step("counting connections", counting).await),
        None => None,
    }
}

/// A subscription that has received a message.
async fn exchange(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
    topic: &Topic,
) -> Listener {
    let mut listener = trial.promise.subscribe(here, topic).await;
    let mut publisher = Publisher::new(trial.promise, there, topic);
    publisher.send(&[50]).await;
    expect(trial, &mut listener, &publisher).await;
    listener
}

async fn expect(trial: &Trial<'_>, listener: &mut Listener, publisher: &Publisher) {
    let expected = Some((publisher.origin, publisher.last));
    let message = listener.message("the message of this topic").await;
    trial.promise.require(identity(&message) == expected, || {
        format!("awaited {expected:?}, and {message:?} arrived")
    });
}

/// P10: dropping any future leaks nothing.
///
/// Drops publishes, subscribes and fences after a random number of polls, also many that are under
/// way at once; then everything works as before, the broker counts no subscription too many, and no
/// task is left.
pub async fn p10_every_future_can_be_dropped(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P10 (every future can be dropped)", subject, effort);
    let warm = trial.connect().await;
    trial.promise.close(&warm).await;
    let tasks = Tasks::count(&trial);
    let (here, there) = (trial.connect().await, trial.connect().await);
    drop_calls_one_by_one(&trial, &here, &there).await;
    drop_many_calls_at_once(&trial, &here, &there).await;
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
    tasks.are_all_gone("futures were dropped and the transports closed").await;
}

async fn drop_calls_one_by_one(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let mut chance = chance(10);
    let topic = unique_topic("p10");
    // Held by nobody else, and held all the time.
    let held = unique_topic("p10.held");
    let holder = trial.promise.subscribe(here, &held).await;
    for round in 0..trial.effort.pick(500, 20_000) {
        let topic = if round % 2 == 0 { &topic } else { &held };
        for mut call in every_call(here, topic, vec![bare(Origin::random(), 1, 50)]) {
            for _ in 0..chance.random_range(0..6) {
                if futures::poll!(&mut call).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        if round % 50 == 0 {
            let listener = works(trial, here, there, topic).await;
            drop(listener);
        }
    }
    trial.await_subscriptions(&topic, 0).await;
    trial.await_subscriptions(&held, 1).await;
    drop(holder);
    trial.await_subscriptions(&held, 0).await;
}

async fn drop_many_calls_at_once(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let mut chance = chance(11);
    for topic in topics("p10.many", trial.effort.pick(20, 500)) {
        let mut calls = Vec::new();
        for number in 0..30 {
            // Without positions: whoever drops a numbered message owes its readers a gap.
            calls.extend(every_call(here, &topic, vec![bare(Origin::random(), number, 50)]));
        }
        while !calls.is_empty() {
            let at = chance.random_range(0..calls.len());
            let done = futures::poll!(&mut calls[at]).is_ready();
            if done || chance.random_range(0..4) == 0 {
                drop(calls.swap_remove(at));
            }
        }
        let listener = works(trial, here, there, &topic).await;
        trial.await_subscriptions(&topic, 1).await;
        drop(listener);
        trial.await_subscriptions(&topic, 0).await;
    }
}

/// Subscribe, publish and fence still do what they do, and nobody else's messages come first but
/// those that dropped publishes left on their way.
async fn works(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
    topic: &Topic,
) -> Listener {
    let mut listener = trial.promise.subscribe(here, topic).await;
    for from in [here, there] {
        let mut publisher = Publisher::new(trial.promise, from, topic);
        publisher.send(&[50]).await;
        let awaited = "a message, after calls were dropped";
        while identity(&listener.message(awaited).await) != Some((publisher.origin, 1)) {}
    }
    let fence = trial.promise.fence(here).await;
    listener.until_fenced(fence).await;
    listener
}
