//! P8: close is quick and final.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::join_all;
use hydratecache::{Error, ErrorKind, Topic, Transport};
use tokio::runtime::Handle;

use super::subject::{Faults, Subject};
use super::trial::{CLOSE, Promise, Publisher, QUICK, Trial, bare, finished};
use super::{Effort, unique_topic};

/// P8: close takes 2 seconds at most, streams end, later calls return `Closed`, and no task is
/// left; dropping a subscription unsubscribes.
///
/// Closes a transport that is idle, one with unread messages, one behind a cut link and one behind
/// a frozen one; closes twice, and twice at once; drops a close under way; races close against
/// everything else, up to 10,000 times.
pub async fn p08_close_is_quick_and_final(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P8 (close is quick and final)", subject, effort);
    // Whatever the subject starts once is there before tasks are counted.
    let warm = trial.connect().await;
    trial.promise.close(&warm).await;
    let tasks = Tasks::count(&trial);
    a_close_ends_streams_and_answers_closed(&trial).await;
    dropping_a_subscription_unsubscribes(&trial).await;
    a_close_that_is_dropped_closes_all_the_same(&trial).await;
    if let Some(faults) = trial.able("closing over a cut link", subject.faults()) {
        let closing = async || closing_behind_a_broken_link(&trial, faults).await;
        trial.promise.at_most(QUICK, "closing a broken link", closing).await;
    }
    for _ in 0..effort.pick(200, 10_000) {
        close_races_everything(&trial).await;
    }
    tasks.are_all_gone("every transport was closed").await;
}

/// How many tasks the runtime had.
pub(super) struct Tasks {
    promise: Promise,
    before: usize,
}

impl Tasks {
    pub(super) fn count(trial: &Trial<'_>) -> Self {
        let before = Handle::current().metrics().num_alive_tasks();
        Self { promise: trial.promise, before }
    }

    /// Waits until there are no more tasks than before.
    pub(super) async fn are_all_gone(&self, after: &str) {
        let awaited = format!("at most {} tasks, as before, after {after}", self.before);
        self.promise
            .until(&awaited, || async {
                let now = Handle::current().metrics().num_alive_tasks();
                (now <= self.before).then_some(())
            })
            .await;
    }
}

async fn a_close_ends_streams_and_answers_closed(trial: &Trial<'_>) {
    let promise = trial.promise;
    let (transport, other) = (trial.connect().await, trial.connect().await);
    let topics = [unique_topic("p8"), unique_topic("p8")];
    let idle = promise.subscribe(&transport, &topics[0]).await;
    let unread = promise.subscribe(&transport, &topics[1]).await;
    Publisher::new(promise, &other, &topics[1]).send(&[100; 100]).await;
    let sleeper = promise.subscribe(&transport, &topics[0]).await.sleeps().await;
    promise.close(&transport).await;
    idle.ends().await;
    unread.ends().await;
    let awaited = "the end of a stream whose reader was asleep";
    let woken = promise.within(CLOSE, awaited, sleeper).await;
    finished(woken).0.ends().await;
    everything_answers_closed(promise, &transport, &topics[0]).await;
    promise.close(&transport).await;
    everything_answers_closed(promise, &transport, &unique_topic("p8")).await;
    promise.close(&other).await;
}

async fn everything_answers_closed(
    promise: Promise,
    transport: &Arc<dyn Transport>,
    topic: &Topic,
) {
    let batch = vec![bare(hydratecache::Origin::random(), 1, 16)];
    let [published, subscribed, fenced] = every_call(transport, topic, batch);
    for (what, call) in [("publish", published), ("subscribe", subscribed), ("fence", fenced)] {
        let answer = promise.within(CLOSE, what, call).await;
        promise.require(answer.as_ref().is_err_and(is_closed), || {
            format!("{what} after close should be Closed, and is {answer:?}")
        });
    }
}

type Call = futures::future::BoxFuture<'static, Result<(), Error>>;

/// One call of each kind, as a future that owns the transport.
pub(super) fn every_call(
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    batch: Vec<hydratecache::Message>,
) -> [Call; 3] {
    let [one, two, three] = [transport, transport, transport].map(Arc::clone);
    let [here, there] = [topic, topic].map(Topic::clone);
    [
        async move { one.publish(here, batch).await }.boxed(),
        async move { two.subscribe(there).await.map(drop) }.boxed(),
        async move { three.fence().await.map(drop) }.boxed(),
    ]
}

fn is_closed(error: &Error) -> bool {
    error.kind() == ErrorKind::Closed
}

async fn dropping_a_subscription_unsubscribes(trial: &Trial<'_>) {
    let transport = trial.connect().await;
    let topic = unique_topic("p8.drop");
    for _ in 0..3 {
        let first = trial.promise.subscribe(&transport, &topic).await;
        let second = trial.promise.subscribe(&transport, &topic).await;
        trial.await_subscriptions(&topic, 1).await;
        drop(first);
        trial.await_subscriptions(&topic, 1).await;
        drop(second);
        trial.await_subscriptions(&topic, 0).await;
    }
    let left = trial.promise.subscribe(&transport, &topic).await;
    trial.promise.close(&transport).await;
    trial.await_subscriptions(&topic, 0).await;
    drop(left);
}

async fn a_close_that_is_dropped_closes_all_the_same(trial: &Trial<'_>) {
    let transport = trial.connect().await;
    let topic = unique_topic("p8.dropped");
    let listener = trial.promise.subscribe(&transport, &topic).await;
    let _ = futures::poll!(transport.close());
    listener.ends().await;
    everything_answers_closed(trial.promise, &transport, &topic).await;
    trial.promise.close(&transport).await;
}

/// How long it took at most.
async fn closing_behind_a_broken_link(trial: &Trial<'_>, faults: &dyn Faults) -> Duration {
    let topic = unique_topic("p8.broken");
    let connect = async || {
        let transport = trial.step("connecting", faults.connect()).await;
        let listener = trial.promise.subscribe(&transport, &topic).await;
        (transport, listener)
    };
    let (transport, listener) = connect().await;
    trial.step("cutting the link", faults.cut()).await;
    let cut = close_with_calls_under_way(trial, &transport, &topic).await;
    listener.ends().await;
    trial.step("healing the link", faults.heal()).await;
    let Some(freeze) = trial.able("closing over a frozen link", faults.freeze()) else {
        return cut;
    };
    let (transport, listener) = connect().await;
    trial.step("freezing the link", freeze).await;
    let frozen = close_with_calls_under_way(trial, &transport, &topic).await;
    listener.ends().await;
    trial.step("thawing the link", faults.thaw()).await;
    cut.max(frozen)
}

/// Calls that wait for a broker which cannot answer end with the close; how long that took.
async fn close_with_calls_under_way(
    trial: &Trial<'_>,
    transport: &Arc<dyn Transport>,
    topic: &Topic,
) -> Duration {
    let batch = vec![bare(hydratecache::Origin::random(), 1, 16)];
    let mut calls = Vec::new();
    // A topic of its own: another reader of one that is proven needs no answer of the broker.
    let unanswered = unique_topic("p8.unanswered");
    for mut call in every_call(transport, &unanswered, batch) {
        if futures::poll!(&mut call).is_pending() {
            calls.push(call);
        }
    }
    let took = trial.promise.close(transport).await;
    let answers =
        trial.promise.within(CLOSE, "calls under way at a close to end", join_all(calls)).await;
    trial.promise.require(answers.iter().all(Result::is_err), || {
        format!("the broker could not answer, and a call under way at the close says: {answers:?}")
    });
    everything_answers_closed(trial.promise, transport, topic).await;
    took
}

async fn close_races_everything(trial: &Trial<'_>) {
    let transport = trial.connect().await;
    let topic = unique_topic("p8.race");
    let listener = trial.promise.subscribe(&transport, &topic).await;
    let dropped = trial.promise.subscribe(&transport, &topic).await;
    let batch = vec![bare(hydratecache::Origin::random(), 1, 16)];
    let mut racers: Vec<_> = every_call(&transport, &topic, batch).map(tokio::spawn).into();
    racers.push(tokio::spawn(async move {
        drop(dropped);
        Ok(())
    }));
    for _ in 0..2 {
        let transport = transport.clone();
        racers.push(tokio::spawn(async move { transport.close().await }));
    }
    let awaited = "publish, subscribe, fence, drop and two closes at once to end";
    for answer in trial.promise.within(CLOSE, awaited, join_all(racers)).await {
        let fair = match &answer {
            Ok(answer) => answer.as_ref().err().is_none_or(is_closed_or_cut_off),
            Err(_) => false,
        };
        trial.promise.require(fair, || {
            format!("a call that races a close should be Ok or Closed, and is {answer:?}")
        });
    }
    listener.ends().await;
    everything_answers_closed(trial.promise, &transport, &topic).await;
}

/// A publish that the close overtook may be of unknown outcome.
fn is_closed_or_cut_off(error: &Error) -> bool {
    is_closed(error) || error.kind() == ErrorKind::UnknownOutcome
}
