//! The server refuses.

use std::sync::Arc;

use futures::future::{join, join_all};
use hydratecache::{ErrorKind, Signal, Topic, Transport};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Rounds, Writer, fence, in_time, millis, secs, topic, until,
};
use hydratecache_testkit::proxy::FaultProxy;

use crate::support::{admin, clients, redis};

async fn grant(broker: &Broker, rules: &[&str]) {
    admin(broker, &[&["ACL", "SETUSER", "ada"], rules].concat()).await;
}

async fn as_ada(addr: impl std::fmt::Display) -> Arc<dyn Transport> {
    let url = format!("redis://ada:hunter2@{addr}");
    Arc::new(RedisTransport::connect(&url).await.expect("connects"))
}

const MAY_ALL: [&str; 5] = ["reset", "on", ">hunter2", "+@all", "~*"];
/// May not ask for CLIENT INFO, so that a probe is the proof.
const MAY_LITTLE: [&str; 10] = [
    "reset",
    "on",
    ">hunter2",
    "+subscribe",
    "+unsubscribe",
    "+publish",
    "+hello",
    "+auth",
    "+ping",
    "+info",
];

#[tokio::test]
async fn a_denied_topic_is_an_error_within_two_seconds_beside_granted_ones() {
    let broker = redis().await;
    for rules in [MAY_ALL.as_slice(), &MAY_LITTLE] {
        let mut answering = [Rounds::of("four answers"), Rounds::of("the answer to a publish")];
        for _ in 0..2 {
            only_what_is_granted_is_heard(&broker, rules, &mut answering).await;
        }
        for answers in answering {
            answers.fastest_took_less_than(secs(2));
        }
    }
}

async fn only_what_is_granted_is_heard(
    broker: &Broker,
    rules: &[&str],
    [subscriptions, publishes]: &mut [Rounds; 2],
) {
    grant(broker, &[rules, &["&granted.*"]].concat()).await;
    let transport = as_ada(broker.addr()).await;
    let names = ["granted.1", "denied.1", "granted.2", "denied.2"];
    let subscribing = join_all(names.map(|name| transport.subscribe(topic(name))));
    let answers = subscriptions.one(subscribing).await;
    for (name, answer) in names.into_iter().zip(answers) {
        match answer {
            Ok(_) => assert!(name.starts_with("granted"), "{name} is deaf"),
            Err(error) => {
                assert!(name.starts_with("denied"), "{name}: {error}");
                assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            }
        }
    }
    let mut writer = Writer::new(&transport, &topic("denied.1"));
    let error = publishes.one(writer.send()).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
}

#[tokio::test]
async fn a_topic_revoked_while_connected_stays_disrupted_alone_until_it_is_granted_again() {
    join(a_topic_is_revoked(&MAY_ALL), a_topic_is_revoked(&MAY_LITTLE)).await;
}

async fn a_topic_is_revoked(rules: &[&str]) {
    let broker = redis().await;
    grant(&broker, &[rules, &["&a", "&b", "&c"]].concat()).await;
    let transport = as_ada(broker.addr()).await;
    let [a, b, c] = ["a", "b", "c"].map(topic);
    let mut kept = [Listener::on(&transport, &a).await, Listener::on(&transport, &b).await];
    let mut revoked = Listener::on(&transport, &c).await;
    // Redis hangs up on subscribers of what is revoked, and the new connection is refused it.
    grant(&broker, &["resetchannels", "&a", "&b"]).await;
    for (listener, topic) in kept.iter_mut().zip([&a, &b]) {
        listener.disrupted(LONG).await;
        listener.live_then_gap(LONG).await;
        Writer::new(&transport, topic).send().await.expect("granted");
        listener.numbers([1]).await;
    }
    assert_eq!(revoked.disrupted(LONG).await.kind(), ErrorKind::Unavailable);
    assert_eq!(revoked.disrupted(LONG).await.kind(), ErrorKind::Denied);
    let again = in_time("an answer", LONG, transport.subscribe(c.clone())).await;
    assert_eq!(again.expect_err("revoked").kind(), ErrorKind::Denied);
    fence(&transport).await;
    grant(&broker, &["&c"]).await;
    loop {
        match revoked.next("the topic to be granted again", LONG).await {
            Signal::Disrupted(why) => assert_eq!(why.kind(), ErrorKind::Denied, "{why}"),
            Signal::Live => break,
            other => panic!("Live, not {other:?}"),
        }
    }
    let gap = revoked.next("the gap behind Live", LONG).await;
    assert!(matches!(gap, Signal::Gap(_)), "a gap, not {gap:?}");
    Writer::new(&transport, &c).send().await.expect("granted");
    revoked.numbers([1]).await;
}

/// Redis refuses a whole command for one topic, and finding out which must not take a round trip
/// for each of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_topic_holds_up_no_other_however_slow_the_link() {
    const TOPICS: usize = 500;
    let broker = redis().await;
    grant(&broker, &[MAY_ALL.as_slice(), &["&t.*", "&u"]].concat()).await;
    let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
    let transport = as_ada(proxy.addr()).await;
    let names = (0..TOPICS).map(|number| topic(&format!("t.{number}")));
    let topics: Vec<Topic> = names.chain([topic("u")]).collect();
    let mut listeners = join_all(topics.iter().map(|topic| Listener::on(&transport, topic))).await;
    proxy.delay(millis(20), millis(0));
    grant(&broker, &["resetchannels", "&t.*"]).await;
    let revoked = listeners.pop();
    let living = listeners.iter_mut().map(async |listener| {
        listener.disrupted(LONG).await;
        // A round trip for each of them takes twenty seconds.
        listener.live_then_gap(secs(10)).await;
    });
    join_all(living).await;
    let mut revoked = revoked.expect("the last one");
    revoked.disrupted(LONG).await;
    assert_eq!(revoked.disrupted(LONG).await.kind(), ErrorKind::Denied);
}

/// A probe that cannot be sent says nothing about permissions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proof_that_lacks_its_publisher_is_no_denial() {
    let broker = redis().await;
    grant(&broker, &[MAY_LITTLE.as_slice(), &["&granted"]].concat()).await;
    let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
    let transport = as_ada(proxy.addr()).await;
    let _keeps_its_connection = Listener::on(&transport, &topic("granted")).await;
    proxy.refuse_new();
    admin(&broker, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
    until("one connection", LONG, async || clients(&broker).await.len() == 1).await;
    grant(&broker, &["&other"]).await;
    let subscribing = in_time("an answer", LONG, transport.subscribe(topic("other")));
    let error = subscribing.await.expect_err("it cannot be proven");
    assert!(error.is_retryable(), "{error}");
    proxy.heal().expect("heals");
    Listener::on(&transport, &topic("other")).await;
}
