//! What users of a Kafka see.

mod support;

use std::num::NonZeroU16;
use std::time::Duration;

use futures::StreamExt;
use futures::future::ready;
use hydratecache::cache::Replica;
use hydratecache::{Channel, ErrorKind, Event, Signal, Topic, Transport};
use hydratecache_kafka::{KafkaConfig, KafkaTransport, MissingTopics, NewTopic};
use hydratecache_testkit::faults::support::{LONG, Rounds};
use support::{kafka, within};

fn partitions(count: u16) -> NewTopic {
    NewTopic::with_partitions(NonZeroU16::new(count).expect("not zero"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_reaches_a_replica_of_another_process_over_many_partitions() {
    let broker = kafka([]).await;
    let config = KafkaConfig::from_url(broker.url()).expect("legal");
    let config = config.with_missing_topics(MissingTopics::Create(partitions(5)));
    let writer = config.clone().connect().await.expect("connects");
    let reader = config.connect().await.expect("connects");
    let from = Channel::<String>::new(writer, "shop:users/eu").expect("legal");
    let to = Channel::<String>::new(reader, "shop:users/eu").expect("legal");
    let users = Replica::new();
    let hydration = to.hydrate(users.clone()).await.expect("subscribes");
    for number in 0..1000 {
        from.publish(format!("user:{number}"), &format!("name {number}")).await.expect("published");
    }
    hydration.caught_up().await.expect("caught up");
    assert_eq!(users.len(), 1000);
    assert_eq!(users.get("user:7").as_deref().map(String::as_str), Some("name 7"));
    assert_eq!(hydration.stats().gaps, 0, "each partition has a count of its own");
    from.remove("user:7").await.expect("published");
    hydration.caught_up().await.expect("caught up");
    assert!(users.get("user:7").is_none());
    from.clear().await.expect("published");
    from.publish("user:8", &"after the clear".to_owned()).await.expect("published");
    hydration.caught_up().await.expect("caught up");
    assert_eq!(users.len(), 1, "a clear is in every partition, and newer values stay");
    assert!(!hydration.freshness().is_suspect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clear_of_many_partitions_is_heard_once_and_leaves_no_gap() {
    let broker = kafka([]).await;
    let config = KafkaConfig::from_url(broker.url()).expect("legal");
    let config = config.with_missing_topics(MissingTopics::Create(partitions(4)));
    let transport = config.connect().await.expect("connects");
    let numbers = Channel::<u32>::new(transport, "numbers").expect("legal");
    let mut updates = numbers.subscribe().await.expect("subscribes");
    for round in 0..20_u32 {
        numbers.publish(format!("key {round}"), &round).await.expect("published");
        numbers.clear().await.expect("published");
        for _ in 0..2 {
            // A sign of life may come between.
            let mut others =
                updates.by_ref().filter(|event| ready(!matches!(event, Event::Fenced(_))));
            let event = within(LONG, others.next()).await;
            assert!(matches!(event, Some(Event::Update(_))), "{event:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warm_start_fills_a_cache_from_a_compacted_topic() {
    let broker = kafka([]).await;
    let config = KafkaConfig::from_url(broker.url()).expect("legal");
    let config = config.with_missing_topics(MissingTopics::Create(partitions(3).compacted()));
    let writer = config.clone().connect().await.expect("connects");
    let from = Channel::<u32>::new(writer, "rows").expect("legal");
    for row in 0..3_000_u32 {
        from.publish(format!("row:{row}"), &row).await.expect("published");
    }
    from.remove("row:1").await.expect("published");
    // A queue that holds a fraction of it: the transport waits for its reader.
    let config = config.with_warm_start().with_queue_bytes(64 << 10);
    let reader = config.connect().await.expect("connects");
    let to = Channel::<u32>::new(reader, "rows").expect("legal");
    let cache = Replica::new();
    let hydration = to.hydrate(cache.clone()).await.expect("subscribes");
    hydration.caught_up().await.expect("caught up");
    assert_eq!(cache.len(), 2_999);
    assert_eq!(cache.get("row:2999").as_deref(), Some(&2999));
    assert_eq!(hydration.stats().gaps, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_does_not_exist_is_a_clear_error_where_making_it_is_not_allowed() {
    let broker = kafka(["auto.create.topics.enable=false".to_owned()]).await;
    let config = KafkaConfig::from_url(broker.url()).expect("legal");
    let refusing = config.clone().with_missing_topics(MissingTopics::Refuse);
    for config in [config.clone(), refusing] {
        let transport = config.connect().await.expect("connects");
        let channel = Channel::<u32>::new(transport, "nowhere").expect("legal");
        let limit = LONG;
        let subscribed = within(limit, channel.subscribe()).await.map(drop);
        let published = within(limit, channel.publish("one", &1)).await.map(drop);
        for error in [subscribed.expect_err("no topic"), published.expect_err("no topic")] {
            assert_eq!(error.kind(), ErrorKind::Broker, "{error}");
            assert!(error.to_string().contains("nowhere does not exist"), "{error}");
        }
    }
    let making = config.with_missing_topics(MissingTopics::Create(partitions(2)));
    let transport = making.connect().await.expect("connects");
    let channel = Channel::<u32>::new(transport, "nowhere").expect("legal");
    let mut updates = channel.subscribe().await.expect("made");
    channel.publish("one", &1).await.expect("published");
    assert!(within(LONG, updates.next()).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absent_broker_is_an_error_within_five_seconds_that_names_the_address() {
    let connecting = KafkaTransport::connect("kafka://127.0.0.1:1");
    let error = within(Duration::from_secs(5), connecting).await.expect_err("nobody listens there");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_takes_less_than_two_seconds_however_the_broker_is() {
    let broker = kafka([]).await;
    let mut closing = Rounds::of("closing");
    for is_paused in [false, true, false, true] {
        let transport = KafkaTransport::connect(broker.url()).await.expect("connects");
        let topic = Topic::new("users").expect("legal");
        let mut subscription = transport.subscribe(topic).await.expect("subscribes");
        if is_paused {
            broker.pause().await.expect("paused");
        }
        closing.one(transport.close()).await.expect("closes");
        let rest = async {
            while let Some(signal) = subscription.next().await {
                assert!(!matches!(signal, Signal::Gap(_)), "{signal:?}");
            }
        };
        within(LONG, rest).await;
        if is_paused {
            broker.resume().await.expect("resumed");
        }
    }
    closing.took_less_than(Duration::from_secs(2), 4);
}
