//! What happens to topics: retention, deletion, new partitions.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use hydratecache::cache::Replica;
use hydratecache::{Channel, Signal, Topic, Transport};
use hydratecache_kafka::MissingTopics;
use hydratecache_testkit::broker::Broker;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, fence, in_time, number, secs, topic, until,
};
use hydratecache_testkit::proxy::FaultProxy;

use crate::support::{Admin, config, connect, connections_to, kafka, proxied};

/// A broker, a transport behind a proxy, and one beside it.
struct Arena {
    broker: Broker,
    proxy: FaultProxy,
    far: Arc<dyn Transport>,
    near: Arc<dyn Transport>,
}

impl Arena {
    async fn start() -> Self {
        // Topics are what an administrator makes of them.
        let settings = ["auto.create.topics.enable=false".to_owned()];
        let (broker, proxy) = proxied("PLAINTEXT", settings).await;
        let far = connect(config(&proxy.addr().to_string())).await;
        let near = connect(config(broker.addr())).await;
        Self { broker, proxy, far, near }
    }
}

/// The next signal is a gap of whatever size.
async fn gap(listener: &mut Listener) {
    let gap = listener.next("the gap", LONG).await;
    assert!(matches!(gap, Signal::Gap(_)), "a gap, not {gap:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_retention_took_from_a_reader_that_was_away_is_a_gap_and_the_rest_arrives() {
    let Arena { broker, proxy, far, near } = Arena::start().await;
    let admin = Admin::of(&broker);
    admin.make(&["users"], 1).await;
    let users = topic("users");
    let mut listener = Listener::on(&far, &users).await;
    let mut writer = Writer::new(&near, &users);
    writer.send_batch(10, 8).await.expect("published");
    listener.numbers(1..=10).await;
    proxy.cut();
    listener.disrupted(LONG).await;
    writer.send_batch(50, 8).await.expect("published");
    // A record each, so the next one to be read is at offset 10.
    admin.expire("users", 0, 40).await;
    proxy.heal().expect("heals");
    listener.live(LONG).await;
    gap(&mut listener).await;
    listener.lost(30).await;
    listener.numbers(41..=60).await;
    let fence = fence(&far).await;
    assert!(listener.before(fence).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_was_made_again_while_a_reader_was_away_is_a_gap_and_is_read_from_its_start() {
    let Arena { broker, proxy, far, near } = Arena::start().await;
    let admin = Admin::of(&broker);
    // With more partitions than before, as many, and fewer.
    for (name, before, after) in [("users", 2, 3), ("shops", 2, 2), ("rows", 3, 1)] {
        admin.make(&[name], before).await;
        let place = topic(name);
        let mut listener = Listener::on(&far, &place).await;
        let mut writer = Writer::new(&near, &place);
        writer.send_batch(20, 8).await.expect("published");
        listener.numbers(1..=20).await;
        proxy.cut();
        listener.disrupted(LONG).await;
        admin.delete(name).await;
        admin.make(&[name], after).await;
        let stranger = connect(config(broker.addr())).await;
        let mut anew = Writer::new(&stranger, &place);
        anew.send_batch(5, 8).await.expect("published");
        proxy.heal().expect("heals");
        listener.live(LONG).await;
        gap(&mut listener).await;
        let mut numbers = Vec::new();
        while numbers.len() < 5 {
            match listener.next("what the new topic holds", LONG).await {
                Signal::Message(message) if message.origin() == Some(anew.origin()) => {
                    numbers.push(number(&message));
                }
                // Both signs of it may be seen: its other identity, and that it ends earlier.
                Signal::Gap(_) => {}
                other => panic!("{name}: messages, not {other:?}"),
            }
        }
        assert_eq!(numbers, [1, 2, 3, 4, 5], "{name}");
        anew.send().await.expect("published");
        // The second sign of it may come as late as this.
        let next = match listener.next("what comes then", LONG).await {
            Signal::Gap(_) => listener.message().await,
            Signal::Message(message) => message,
            other => panic!("{name}: a message, not {other:?}"),
        };
        assert_eq!(number(&next), 6, "{name}");
        fence(&far).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_deleted_before_the_eyes_of_its_readers_disrupts_them_until_it_is_back() {
    let Arena { broker, far, near, proxy: _held } = Arena::start().await;
    let admin = Admin::of(&broker);
    admin.make(&["users", "shops"], 1).await;
    let (users, shops) = (topic("users"), topic("shops"));
    let mut listener = Listener::on(&far, &users).await;
    let mut other = Listener::on(&far, &shops).await;
    let mut writer = Writer::new(&near, &users);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    admin.delete("users").await;
    let why = listener.disrupted(secs(10)).await;
    assert!(why.to_string().contains("users"), "{why}");
    // Other topics go on meanwhile, and their fences do not wait for this one.
    Writer::new(&near, &shops).send().await.expect("published");
    other.numbers([1]).await;
    in_time("a fence", LONG, far.fence()).await.expect("an echo");
    admin.make(&["users"], 1).await;
    let stranger = connect(config(broker.addr())).await;
    let mut anew = Writer::new(&stranger, &users);
    anew.send().await.expect("published");
    let back = listener.next("the topic to be back", secs(10)).await;
    assert!(matches!(back, Signal::Live), "Live, not {back:?}");
    gap(&mut listener).await;
    loop {
        match listener.next("the new topic's first message", LONG).await {
            Signal::Gap(_) => {}
            Signal::Message(message) => break assert_eq!(message.origin(), Some(anew.origin())),
            other => panic!("a message, not {other:?}"),
        }
    }
    // Whoever published before goes on as well, under the new topic's count.
    in_time("the own publisher", LONG, async {
        while let Err(error) = writer.send().await {
            assert!(error.to_string().contains("users"), "{error}");
        }
    })
    .await;
    fence(&far).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_in_a_partition_that_was_added_is_lost() {
    let broker = kafka([]).await;
    let admin = Admin::of(&broker);
    admin.make(&["users"], 1).await;
    let settings = config(broker.addr())
        .with_missing_topics(MissingTopics::Refuse)
        .with_lookup_interval(Duration::from_millis(200));
    let reader = connect(settings.clone()).await;
    let writer = connect(settings).await;
    let mut listener = Listener::on(&reader, &topic("users")).await;
    let to = Channel::<u32>::new(reader.clone(), "users").expect("legal");
    let from = Channel::<u32>::new(writer, "users").expect("legal");
    let replica = Replica::new();
    let hydration = to.hydrate(replica.clone()).await.expect("subscribes");
    let publish = async |numbers: std::ops::Range<u32>| {
        let publishing = numbers.map(|number| {
            let from = from.clone();
            async move { from.publish(format!("user:{number}"), &number).await }
        });
        for published in join_all(publishing).await {
            published.expect("published");
        }
    };
    publish(0..100).await;
    admin.grow("users", 4).await;
    // Before anybody of ours has looked.
    admin.produce("users", 3, "stranger", b"bare").await;
    let heard = async {
        loop {
            match listener.next("the record in the new partition", LONG).await {
                Signal::Message(message)
                    if message.key().is_some_and(|key| key.as_str() == "stranger") =>
                {
                    return;
                }
                Signal::Message(_) => {}
                other => panic!("messages, not {other:?}"),
            }
        }
    };
    in_time("the record in the new partition", LONG, heard).await;
    for round in 1..20 {
        publish(round * 100..(round + 1) * 100).await;
    }
    hydration.caught_up().await.expect("caught up");
    assert_eq!(hydration.stats().gaps, 0, "each partition has a count of its own");
    let missing = (0..2_000).find(|number| replica.get(&format!("user:{number}")).is_none());
    assert_eq!(missing, None);
}

/// Fault 15, its beginning: nobody waits for a thousand questions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_topics_are_subscribed_to_at_once_and_over_the_same_connections() {
    let broker = kafka(std::iter::empty()).await;
    let names: Vec<String> = (0..1000).map(|number| format!("topic.{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let admin = Admin::of(&broker);
    admin.make(&names, 1).await;
    admin.lead(&names).await;
    drop(admin);
    let config = config(broker.addr()).with_subscribe_limit(secs(60));
    let transport = connect(config).await;
    let topics: Vec<Topic> = names.iter().map(|name| topic(name)).collect();
    let began = Instant::now();
    Listener::on(&transport, &topic(names[0])).await;
    let one = began.elapsed();
    let began = Instant::now();
    let subscribing = join_all(topics.iter().map(|topic| transport.subscribe(topic.clone())));
    let subscribed = in_time("a thousand subscriptions", secs(60), subscribing).await;
    let all = began.elapsed();
    let listener = |subscribed: Result<_, _>| Listener::over(subscribed.expect("subscribes"));
    let mut listeners: Vec<_> = subscribed.into_iter().map(listener).collect();
    assert!(all < secs(5).max(100 * one), "one took {one:?}, and all of them {all:?}");
    // The fourth is the one to the coordinator of the group that the reading client names. librdkafka opens it once
    // the broker has made the topic that coordinators write to, which may be after the subscriptions.
    let connections = || connections_to(broker.addr()).expect("the system's table");
    until("four connections", secs(10), async || connections() == 4).await;
    for (listener, topic) in listeners.iter_mut().zip(&topics).step_by(100) {
        Writer::new(&transport, topic).send().await.expect("published");
        listener.numbers([1]).await;
    }
    assert_eq!(connections(), 4, "no other came");
}
