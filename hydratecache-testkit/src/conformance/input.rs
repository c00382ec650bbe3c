//! P7: bad input is an error before any I/O, and what arrives broken is rejected.

use std::sync::Arc;

use bytes::Bytes;
use hydratecache::{ErrorKind, Key, Message, Origin, Signal, Topic, Transport, wire};

use super::subject::{Capability, Faults, Subject};
use super::trial::{Listener, PATIENCE, Publisher, Trial, identity};
use super::{Effort, unique_topic};

/// P7: bad input is an error before any I/O; what arrives broken is `Rejected`, and the stream goes
/// on.
///
/// Payloads at the limit and over it, alone and within a batch, over a working link and a cut one;
/// some 150 broken envelopes, each followed by a good one; and every kind of legal topic, all at
/// once, so that two that a broker confuses are noticed.
pub async fn p07_bad_input_is_an_error_or_a_rejection(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P7 (bad input is an error or a rejection)", subject, effort);
    let (here, there) = (trial.connect().await, trial.connect().await);
    the_largest_payload_passes_and_a_larger_one_does_not(&trial, &here, &there).await;
    if let Some(faults) = trial.able("an oversize payload over a cut link", subject.faults()) {
        oversize_is_noticed_before_any_io(&trial, faults).await;
    }
    what_arrives_broken_is_rejected(&trial, &here, &there).await;
    every_legal_topic_is_itself(&trial, &here, &there).await;
    illegal_topics_cannot_be_made(&trial);
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

fn put(payload_bytes: usize) -> Message {
    Message::put(Key::new("k").expect("legal"), Bytes::from(vec![7; payload_bytes]))
}

async fn oversize_is_refused(trial: &Trial<'_>, transport: &Arc<dyn Transport>, topic: &Topic) {
    let limit = transport.limits().max_payload_bytes;
    for batch in [vec![put(limit + 1)], vec![put(1), put(limit + 1), put(1)]] {
        let answer = trial.promise.try_publish(transport, topic, batch).await;
        let refused = |error: &hydratecache::Error| error.kind() == ErrorKind::PayloadTooLarge;
        trial.promise.require(answer.as_ref().is_err_and(refused), || {
            format!("a payload of {} bytes should be PayloadTooLarge: {answer:?}", limit + 1)
        });
    }
}

async fn the_largest_payload_passes_and_a_larger_one_does_not(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let topic = unique_topic("p7.size");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    oversize_is_refused(trial, there, &topic).await;
    let largest = put(there.limits().max_payload_bytes);
    trial.promise.publish(there, &topic, vec![largest.clone()]).await;
    let arrived = listener.message("a payload of the largest size, and nothing of those over it");
    let arrived = arrived.await;
    trial.promise.require(arrived == largest, || {
        format!("the largest payload was sent, and {arrived:?} arrived")
    });
}

async fn oversize_is_noticed_before_any_io(trial: &Trial<'_>, faults: &dyn Faults) {
    let victim = trial.step("connecting", faults.connect()).await;
    trial.step("cutting the link", faults.cut()).await;
    oversize_is_refused(trial, &victim, &unique_topic("p7.cut")).await;
    trial.step("healing the link", faults.heal()).await;
    trial.promise.close(&victim).await;
}

async fn what_arrives_broken_is_rejected(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let topic = unique_topic("p7.broken");
    let mut listener = trial.promise.subscribe(here, &topic).await;
    let mut publisher = Publisher::new(trial.promise, there, &topic);
    for (what, body) in broken_bodies() {
        let part = "injecting broken bodies";
        let Some(injecting) = trial.able(part, trial.subject.inject(&topic, body)) else {
            return;
        };
        trial.step(part, injecting).await;
        publisher.send(&[50]).await;
        rejected_then_good(trial, &mut listener, &publisher, &what).await;
    }
    // Proof that these tests can pass something: a good body, injected in the same way.
    let good = publisher.message(50);
    if let Capability::Present(step) = trial.subject.inject(&topic, wire::encode(&good, None)) {
        trial.step("injecting a good body", step).await;
        let arrived = listener.message("an envelope that was injected whole").await;
        trial
            .promise
            .require(arrived == good, || format!("{good:?} was injected, and {arrived:?} arrived"));
    }
}

async fn rejected_then_good(
    trial: &Trial<'_>,
    listener: &mut Listener,
    publisher: &Publisher,
    what: &str,
) {
    let awaited = format!("a rejection of {what}");
    let rejected = |signal: &Signal| !matches!(signal, Signal::Fenced(_));
    let seen = listener.until(PATIENCE, &awaited, rejected).await;
    trial.promise.require(matches!(seen.last(), Some(Signal::Rejected(_))), || {
        format!("awaited {awaited}, and saw {seen:?}")
    });
    let good = listener.message(&format!("a good message behind {what}")).await;
    let expected = Some((publisher.origin, publisher.last));
    trial.promise.require(identity(&good) == expected, || {
        format!("awaited the good message behind {what}, and {good:?} arrived")
    });
}

/// Bodies that are no envelope, each with a name. None has a readable position, because a rejected
/// message that has one counts as seen.
fn broken_bodies() -> Vec<(String, Bytes)> {
    let whole = wire::encode(
        &Message::put(Key::new("key").expect("legal"), Bytes::from_static(b"payload")),
        None,
    );
    let mut bodies: Vec<(String, Bytes)> = (0..whole.len())
        .map(|end| (format!("an envelope cut off at {end}"), whole.slice(..end)))
        .collect();
    let mut add = |what: &str, body: Vec<u8>| bodies.push((what.to_owned(), body.into()));
    add("a trailing byte", [&whole[..], &[0]].concat());
    add("two envelopes in one", [&whole[..], &whole].concat());
    add("text", b"hello".to_vec());
    add("JSON", br#"{"key":"k","value":1}"#.to_vec());
    add("bytes that are not UTF-8", vec![0xff, 0xfe, 0x80, 0x00, 0x0d, 0x0a]);
    add("64 KiB of zeros", vec![0; 64 << 10]);
    add("an empty map", vec![0xa0]);
    add("wire version 2", [&[0xa2, 0x00, 0x02], &whole[3..]].concat());
    add("a wire version of text", vec![0xa2, 0x00, 0x61, b'1', 0x01, 0x02]);
    add("kind 99", vec![0xa2, 0x00, 0x01, 0x01, 0x18, 99]);
    add("a put without key and payload", vec![0xa2, 0x00, 0x01, 0x01, 0x00]);
    add("the same field twice", vec![0xa3, 0x00, 0x01, 0x01, 0x02, 0x01, 0x02]);
    add("an indefinite map", vec![0xbf, 0x00, 0x01, 0x01, 0x02, 0xff]);
    // An unknown field, 99, with a value that would hurt a reader who trusts it.
    let unknown = |value: &[u8]| [&[0xa3, 0x00, 0x01, 0x01, 0x02, 0x18, 99], value].concat();
    for opening in [0x81, 0xa1, 0xc1, 0x9f] {
        add("a depth of 100,000", unknown(&vec![opening; 100_000]));
    }
    for length_bomb in [0x5b, 0x7b, 0x9b, 0xbb] {
        for length in [1_u64 << 63, u64::MAX, 1 << 32] {
            let bomb = [&[length_bomb][..], &length.to_be_bytes()].concat();
            add("an impossible length", unknown(&bomb));
        }
    }
    add("a payload of 2^63 bytes", [&[0xa3, 0, 1, 1, 0, 3, 0x5b, 0x80][..], &[0; 7]].concat());
    add("a map of 2^63 pairs", [&[0xbb, 0x80][..], &[0; 7], &[0, 1]].concat());
    bodies
}

/// Legal topics that brokers are prone to change, confuse or keep for themselves.
fn nasty_topics() -> Vec<Topic> {
    let long = "x".repeat(Topic::MAX_BYTES);
    let longer_still = format!("{}y", &long[1..]);
    let dots = ["a"; 100].join(".");
    let names = [
        "a",
        "A",
        "0",
        "_",
        "-",
        ":",
        "/",
        "users",
        "Users",
        "USERS",
        "a.b",
        "a:b",
        "a/b",
        "a-b",
        "a_b",
        "a.B",
        "__redis__:x",
        "__redis__:invalidate",
        "/a",
        "a/",
        "//",
        "::",
        "-a",
        "--",
        "_SYS.x",
        "_INBOX.x",
        "select",
        "NULL",
        "0123456789",
        "a.0",
        "a-.b",
        "pg_catalog",
        "__consumer_offsets",
        &dots,
        &long,
        &longer_still,
        // Longer than Postgres's 63 bytes, and equal in those.
        &format!("{}1", "p".repeat(63)),
        &format!("{}2", "p".repeat(63)),
        &"p".repeat(63),
    ];
    names.into_iter().map(|name| Topic::new(name).expect("the rules of Topic allow it")).collect()
}

async fn every_legal_topic_is_itself(
    trial: &Trial<'_>,
    here: &Arc<dyn Transport>,
    there: &Arc<dyn Transport>,
) {
    let mut topics: Vec<Topic> = Vec::new();
    let mut listeners = Vec::new();
    let mut publishers = Vec::new();
    for topic in nasty_topics() {
        if topics.iter().any(|other| trial.subject.collide(&topic, other)) {
            a_topic_that_collides_is_refused(trial, here, &topic).await;
            continue;
        }
        listeners.push(trial.promise.subscribe(here, &topic).await);
        publishers.push(Publisher::new(trial.promise, there, &topic));
        topics.push(topic);
    }
    let ours: Vec<Origin> = publishers.iter().map(|publisher| publisher.origin).collect();
    for _ in 0..2 {
        for publisher in &mut publishers {
            publisher.send(&[50]).await;
        }
    }
    for ((topic, listener), origin) in topics.iter().zip(&mut listeners).zip(&ours) {
        for number in 1..=2 {
            let arrived = ours_only(listener, &ours).await;
            trial.promise.require(arrived == (*origin, number), || {
                let whose = ours.iter().position(|it| *it == arrived.0).map(|it| &topics[it]);
                format!("on {topic:?} a message of {whose:?} arrived")
            });
        }
    }
}

async fn a_topic_that_collides_is_refused(
    trial: &Trial<'_>,
    transport: &Arc<dyn Transport>,
    topic: &Topic,
) {
    let subscribed = transport.subscribe(topic.clone());
    let subscribed = trial.promise.within(PATIENCE, "the answer to a subscription", subscribed);
    let subscribed = subscribed.await.map(drop);
    let published = trial.promise.try_publish(transport, topic, vec![put(1)]).await;
    for (what, answer) in [("subscribing to", subscribed), ("publishing to", published)] {
        let refused = |error: &hydratecache::Error| error.kind() == ErrorKind::InvalidTopic;
        trial.promise.require(answer.as_ref().is_err_and(refused), || {
            format!("{what} {topic:?}, which the broker refuses beside another, is {answer:?}")
        });
    }
}

/// The next message of this test: short names may be in use by others.
async fn ours_only(listener: &mut Listener, ours: &[Origin]) -> (Origin, u64) {
    loop {
        let message = listener.message("a message on a topic of every legal form").await;
        match identity(&message) {
            Some(identity) if ours.contains(&identity.0) => return identity,
            _ => {}
        }
    }
}

fn illegal_topics_cannot_be_made(trial: &Trial<'_>) {
    for name in [
        "",
        "*",
        ">",
        "a.*",
        "a.>",
        "a\0b",
        "^.*",
        "\";--",
        "..",
        ".a",
        "a.",
        "a b",
        "é",
        "__keyspace@0__:x",
        "__keyevent@0__:del",
        &"x".repeat(201),
    ] {
        let refused = Topic::new(name).map_err(|error| error.kind());
        trial.promise.require(refused == Err(ErrorKind::InvalidTopic), || {
            format!("the topic {name:?} should be InvalidTopic, and is {refused:?}")
        });
    }
}
