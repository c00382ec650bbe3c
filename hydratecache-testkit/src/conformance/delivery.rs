//! P2: no silent loss.

use std::num::NonZeroU64;
use std::sync::Arc;

use futures::future::{join, join_all};
use hydratecache::{Gap, Key, Kind, Message, Signal, Topic, Transport, Ttl};
use rand::RngExt;

use super::subject::Subject;
use super::trial::{
    Listener, PATIENCE, Promise, Publisher, Trial, bare, chance, finished, identity, numbered,
    topics,
};
use super::{Effort, unique_topic};

/// P2: every message that the broker accepted reaches every live subscription once, in its
/// publisher's order, or that subscription yields a gap.
///
/// Several publishers on several topics at once, with batches and payloads of random sizes; one
/// batch of thousands; batches that overlap; messages without a position, also equal ones;
/// duplicates, losses and lost last messages made by hand.
pub async fn p02_no_silent_loss(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P2 (no silent loss)", subject, effort);
    many_publishers_on_many_topics(&trial).await;
    let (here, there) = (trial.connect().await, trial.connect().await);
    a_batch_of_thousands_keeps_its_order(&trial, &here, &there).await;
    overlapping_batches_keep_the_order_of_their_first_poll(&trial, &here, &there).await;
    messages_without_a_position_all_arrive(&trial, &here, &there).await;
    duplicates_are_dropped_and_losses_reported(&trial, &here, &there).await;
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

const PUBLISHERS: usize = 4;
const LARGEST_BATCH: usize = 10;
const LARGEST_PAYLOAD_BYTES: usize = 2_000;

async fn many_publishers_on_many_topics(trial: &Trial<'_>) {
    let topics = topics("p2", 3);
    let mut transports = Vec::new();
    for _ in 0..PUBLISHERS {
        transports.push(trial.connect().await);
    }
    let (mut listeners, mut publishers) = (Vec::new(), Vec::new());
    for topic in &topics {
        // Two readers in one process, and one in another.
        for transport in [&transports[0], &transports[0], &transports[1]] {
            listeners.push(trial.promise.subscribe(transport, topic).await);
        }
        publishers.extend(transports.iter().map(|it| Publisher::new(trial.promise, it, topic)));
    }
    let per_topic = listeners.len() / topics.len();
    for round in 0..trial.effort.pick(5, 200) {
        // What a round sends fits into a reader's queue, whenever the reader gets its turn.
        let batches = trial.room(LARGEST_PAYLOAD_BYTES) / PUBLISHERS / LARGEST_BATCH;
        let plans: Vec<_> = (0..publishers.len())
            .map(|who| plan(round * 1000 + who, batches.clamp(1, 20)))
            .collect();
        let expected = |listener: usize| {
            let topic = listener / per_topic;
            let of_topic = topic * PUBLISHERS..(topic + 1) * PUBLISHERS;
            of_topic.map(|who| (publishers[who].origin, publishers[who].last, total(&plans[who])))
        };
        let expected: Vec<Vec<_>> = (0..listeners.len()).map(|it| expected(it).collect()).collect();
        let reading = listeners
            .into_iter()
            .zip(expected)
            .map(|(listener, expected)| tokio::spawn(read_all(trial.promise, listener, expected)));
        let sending = publishers.into_iter().zip(plans).map(|(mut publisher, plan)| {
            tokio::spawn(async move {
                for sizes in plan {
                    publisher.send(&sizes).await;
                }
                publisher
            })
        });
        let (read, sent) = join(join_all(reading), join_all(sending)).await;
        listeners = read.into_iter().map(finished).collect();
        publishers = sent.into_iter().map(finished).collect();
    }
    drop(listeners);
    for transport in &transports {
        trial.promise.close(transport).await;
    }
}

/// The payload sizes of some batches.
fn plan(seed: usize, batches: usize) -> Vec<Vec<usize>> {
    let mut chance = chance(seed as u64);
    (0..batches)
        .map(|_| {
            let count = chance.random_range(1..LARGEST_BATCH);
            (0..count).map(|_| chance.random_range(16..LARGEST_PAYLOAD_BYTES)).collect()
        })
        .collect()
}

fn total(plan: &[Vec<usize>]) -> u64 {
    plan.iter().map(|sizes| sizes.len() as u64).sum()
}

/// Reads as many messages as each origin sends, and checks that they are consecutive.
async fn read_all(
    promise: Promise,
    mut listener: Listener,
    mut expected: Vec<(hydratecache::Origin, u64, u64)>,
) -> Listener {
    let count: u64 = expected.iter().map(|(_, _, count)| count).sum();
    for number in 0..count {
        let awaited = format!("message {number} of {count} of several publishers");
        let message = listener.message(&awaited).await;
        let Some((origin, sequence)) = identity(&message) else {
            promise.broken(format!("a message arrived damaged: {message:?}"));
        };
        let Some((_, last, _)) = expected.iter_mut().find(|(who, ..)| *who == origin) else {
            promise.broken(format!("a message of another topic arrived: {message:?}"));
        };
        promise.require(sequence == *last + 1, || {
            format!("after {last} of {origin}, {sequence} arrived, and no gap was reported")
        });
        *last = sequence;
    }
    listener
}

async fn a_batch_of_thousands_keeps_its_order(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let topic = unique_topic("p2.thousands");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    let mut publisher = Publisher::new(trial.promise, there, &topic);
    publisher.send(&[]).await;
    let sent = publisher.send(&vec![16; trial.room(16).min(3_000)]).await;
    expect(trial.promise, &mut listener, publisher.origin, sent).await;
}

async fn overlapping_batches_keep_the_order_of_their_first_poll(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    const OVERLAP: usize = 50;
    let topic = unique_topic("p2.overlap");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    let mut publisher = Publisher::new(trial.promise, there, &topic);
    for round in 1..=trial.effort.pick(10, 1_000) as u64 {
        let mut answers = Vec::new();
        for _ in 0..OVERLAP {
            let batch = vec![publisher.message(100), publisher.message(16)];
            let mut publishing = there.publish(topic.clone(), batch);
            match futures::poll!(&mut publishing) {
                std::task::Poll::Ready(answer) => answers.push(accepted(trial.promise, answer)),
                std::task::Poll::Pending => answers.push(Some(publishing)),
            }
        }
        // The last one first: their order was decided when they were first polled.
        for publishing in answers.into_iter().rev().flatten() {
            let answer = trial.promise.within(PATIENCE, "the answer to a publish", publishing);
            let _: Option<()> = accepted(trial.promise, answer.await);
        }
        let count = 2 * OVERLAP as u64;
        let sent = (round - 1) * count + 1..=round * count;
        expect(trial.promise, &mut listener, publisher.origin, sent).await;
    }
}

fn accepted<T>(promise: Promise, answer: hydratecache::Result<()>) -> Option<T> {
    match answer {
        Ok(()) => None,
        Err(error) => promise.broken(format!("publishing over a healthy link: {error}")),
    }
}

async fn expect(
    promise: Promise,
    listener: &mut Listener,
    origin: hydratecache::Origin,
    numbers: impl IntoIterator<Item = u64>,
) {
    for number in numbers {
        let message = listener.message(&format!("message {number} of {origin}")).await;
        promise.require(identity(&message) == Some((origin, number)), || {
            format!("awaited message {number} of {origin}, and {message:?} arrived")
        });
    }
}

async fn messages_without_a_position_all_arrive(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let topic = unique_topic("p2.bare");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    let origin = hydratecache::Origin::random();
    let key = Key::new("k").expect("legal");
    let ttl = Ttl::starting_now(PATIENCE).expect("legal");
    let equal = bare(origin, 1, 50);
    // Equal messages are messages all the same; brokers that drop them must be told apart.
    let mut sent = vec![equal.clone(), equal.clone(), equal];
    sent.extend([Message::remove(key.clone()), Message::touch(key, ttl), Message::clear()]);
    sent.extend((2..100).map(|number| bare(origin, number, 50)));
    trial.promise.publish(there, &topic, sent.clone()).await;
    for message in sent {
        let seen = listener.message("a message without a position").await;
        trial.promise.require(seen == message, || {
            format!("{message:?} was sent without a position, and {seen:?} arrived")
        });
    }
}

async fn duplicates_are_dropped_and_losses_reported(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let topic = unique_topic("p2.tracked");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    let origin = hydratecache::Origin::random();
    let put = |number| numbered(origin, number, 50);
    let beat = |number| Message::heartbeat(origin, NonZeroU64::new(number));
    // 4 and 5 are lost, then 8 and 9, the last two; the rest comes once or twice.
    let batch = [put(1), put(2), put(1), put(2), put(3), beat(3), put(6), put(3), put(7), put(7)];
    publish_each(trial.promise, there, &topic, batch).await;
    publish_each(trial.promise, there, &topic, [beat(7), beat(9), beat(9)]).await;
    let mut seen = Vec::new();
    // The heartbeat alone tells that 9 was the last.
    while seen.iter().filter(|seen| matches!(seen, Seen::Gap(_))).count() < 2 {
        seen.extend(sight(listener.signal(PATIENCE, "gaps for 4, 5, 8 and 9").await));
    }
    publish_each(trial.promise, there, &topic, [put(10)]).await;
    while seen.last() != Some(&Seen::Message(10)) {
        seen.extend(sight(listener.signal(PATIENCE, "message 10, after two gaps").await));
    }
    let messages = |numbers: std::ops::RangeInclusive<u64>| numbers.map(Seen::Message);
    let expected: Vec<Seen> = messages(1..=3)
        .chain([Seen::Gap(Some(2))])
        .chain(messages(6..=7))
        .chain([Seen::Gap(Some(2)), Seen::Message(10)])
        .collect();
    trial.promise.require(seen == expected, || {
        format!("of 1 to 10 without 4, 5, 8 and 9: expected {expected:?}, and saw {seen:?}")
    });
}

async fn publish_each(
    promise: Promise,
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    messages: impl IntoIterator<Item = Message>,
) {
    for message in messages {
        promise.publish(transport, topic, vec![message]).await;
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Message(u64),
    Gap(Option<u64>),
    Heartbeat,
    Other(&'static str),
}

fn sight(signal: Signal) -> Option<Seen> {
    Some(match signal {
        Signal::Fenced(_) | Signal::Heard(_) => return None,
        Signal::Message(message) if message.kind() == Kind::Heartbeat => Seen::Heartbeat,
        Signal::Message(message) => Seen::Message(identity(&message).map_or(0, |(_, it)| it)),
        Signal::Gap(gap) => Seen::Gap(Gap::exact(gap)),
        Signal::Disrupted(_) => Seen::Other("Disrupted"),
        Signal::Live => Seen::Other("Live"),
        _ => Seen::Other("a rejection"),
    })
}
