//! A cluster of three brokers that librdkafka plays in this process: what one real broker cannot show
//! quickly, such as refusals at will and partitions that move.

mod support;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use hydratecache::cache::Replica;
use hydratecache::{
    Channel, Error, ErrorKind, Fence, Key, Message, Origin, Position, Signal, Subscription, Topic,
    Transport,
};
use hydratecache_testkit::faults::support::LONG;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Code};
use support::{config, connections_to, within};

const PARTITIONS: i32 = 6;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster() -> Cluster {
    let cluster = MockCluster::new(3).expect("a cluster");
    cluster.create_topic("users", PARTITIONS, 3).expect("a topic");
    cluster
}

async fn connect(servers: String) -> Arc<dyn Transport> {
    let config = config(&servers)
        .with_publish_limit(Duration::from_secs(8))
        .with_fetch_wait(Duration::from_millis(10));
    Arc::new(config.connect().await.expect("connects"))
}

fn channel(transport: &Arc<dyn Transport>) -> Channel<u32> {
    Channel::new(transport.clone(), "users").expect("legal")
}

async fn publish_one(transport: &Arc<dyn Transport>) -> Result<(), Error> {
    let position = Position { origin: Origin::random(), sequence: NonZeroU64::MIN };
    let message = Message::put(Key::new("key").expect("legal"), b"value".as_slice().into());
    let batch = vec![message.with_position(position)];
    let topic = Topic::new("users").expect("legal");
    within(LONG, transport.publish(topic, batch)).await
}

/// How many messages come before `fence`, and nothing else: a gap, or a disruption of another client than the one
/// that publishes, fails the test.
async fn messages_before(fence: Fence, subscription: &mut Subscription) -> u64 {
    let mut messages = 0;
    let reading = async {
        while let Some(signal) = subscription.next().await {
            match signal {
                Signal::Message(_) => messages += 1,
                Signal::Fenced(passed) if passed >= fence => return,
                Signal::Fenced(_) => {}
                other => panic!("messages, not {other:?}"),
            }
        }
    };
    within(LONG, reading).await;
    messages
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_on_several_brokers_fill_one_replica() {
    let cluster = cluster();
    let transport = connect(cluster.bootstrap_servers()).await;
    let users = channel(&transport);
    let replica = Replica::new();
    let hydration = users.hydrate(replica.clone()).await.expect("subscribes");
    for number in 0..500 {
        users.publish(format!("user:{number}"), &number).await.expect("published");
    }
    hydration.caught_up().await.expect("a fence over all of them");
    assert_eq!((replica.len(), hydration.stats().gaps), (500, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_a_broker_refuses_for_the_moment_arrives_once() {
    let cluster = cluster();
    let transport = connect(cluster.bootstrap_servers()).await;
    let topic = Topic::new("users").expect("legal");
    let mut subscription = transport.subscribe(topic).await.expect("subscribes");
    publish_one(&transport).await.expect("published");
    let passing = [
        Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Code::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
    ];
    cluster.request_errors(Api::Produce, &passing);
    publish_one(&transport).await.expect("published at the third attempt");
    let fence = transport.fence().await.expect("an echo");
    assert_eq!(messages_before(fence, &mut subscription).await, 2);
}

/// A broker may have lost the end of a partition, and with it what it had of its publishers: librdkafka's client
/// takes no record any more then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_goes_on_after_the_client_gave_up_and_what_was_under_way_is_of_unknown_outcome()
{
    let cluster = cluster();
    let transport = connect(cluster.bootstrap_servers()).await;
    let topic = Topic::new("users").expect("legal");
    let mut subscription = transport.subscribe(topic).await.expect("subscribes");
    publish_one(&transport).await.expect("published");
    for _ in 0..2 {
        let lost = [Code::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER];
        cluster.request_errors(Api::Produce, &lost);
        let error = publish_one(&transport).await.expect_err("of unknown outcome");
        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
        assert!(error.to_string().contains("gave up: OutOfOrderSequenceNumber"), "{error}");
        let publishing = async {
            while let Err(error) = publish_one(&transport).await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        };
        // The next client is made at once, and one after it in a second.
        within(LONG, publishing).await;
    }
    let fence = transport.fence().await.expect("an echo");
    assert_eq!(messages_before(fence, &mut subscription).await, 3);
}

/// librdkafka's client gives up as soon as it is connected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_may_write_nowhere_is_denied_until_it_may_and_makes_a_client_a_second_at_most() {
    let cluster = cluster();
    let denied = [Code::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED; 100];
    cluster.request_errors(Api::InitProducerId, &denied);
    let transport = connect(cluster.bootstrap_servers()).await;
    let (begun, mut clients) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_millis(2500) {
        let error = publish_one(&transport).await.expect_err("denied");
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        // A client took it, and others are told what became of that.
        clients += usize::from(!error.to_string().contains("in a second"));
    }
    assert!((1..=4).contains(&clients), "{clients} clients in 2.5 s");
    cluster.clear_request_errors(Api::InitProducerId);
    let publishing = async {
        while let Err(error) = publish_one(&transport).await {
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        }
    };
    within(LONG, publishing).await;
}

/// A broker that has just begun to lead a partition may do so (KAFKA-15591): the mock checks no numbers at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_was_refused_while_the_one_behind_it_was_taken_is_not_reported_as_published()
{
    const BOTH_UNDER_WAY: Duration = Duration::from_millis(200);
    let cluster = cluster();
    cluster.create_topic("narrow", 1, 3).expect("a topic");
    let transport = connect(cluster.bootstrap_servers()).await;
    let topic = Topic::new("narrow").expect("legal");
    let mut subscription = transport.subscribe(topic.clone()).await.expect("subscribes");
    let publish = |key: &str| {
        let message = Message::put(Key::new(key).expect("legal"), b"value".as_slice().into());
        let (transport, topic) = (transport.clone(), topic.clone());
        async move { transport.publish(topic, vec![message]).await }
    };
    // From now on the topic is known.
    publish("warm-up").await.expect("published");
    for broker in 1..=3 {
        cluster.broker_round_trip_time(broker, BOTH_UNDER_WAY).expect("slower");
    }
    cluster.request_errors(Api::Produce, &[Code::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION]);
    let first = tokio::spawn(publish("first"));
    // A request of its own, while the first one is under way.
    tokio::time::sleep(BOTH_UNDER_WAY / 4).await;
    publish("second").await.expect("published");
    let first = first.await.expect("no panic");
    let fence = transport.fence().await.expect("a fence");
    let mut arrived = Vec::new();
    let reading = async {
        while let Some(signal) = subscription.next().await {
            match signal {
                Signal::Message(received) => arrived.push(received),
                Signal::Fenced(passed) if passed >= fence => return,
                _ => {}
            }
        }
    };
    within(LONG, reading).await;
    let has = |wanted: &str| {
        arrived.iter().any(|message| message.key().is_some_and(|key| key.as_str() == wanted))
    };
    assert!(has("second"));
    match first {
        Ok(()) => assert!(has("first"), "reported as published, and not there"),
        Err(error) => assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_outlives_a_partition_that_moves_to_another_broker() {
    let cluster = cluster();
    let transport = connect(cluster.bootstrap_servers()).await;
    let users = channel(&transport);
    let replica = Replica::new();
    let hydration = users.hydrate(replica.clone()).await.expect("subscribes");
    for round in 0..5_u32 {
        for partition in 0..PARTITIONS {
            let broker = (partition + i32::try_from(round).expect("small")) % 3 + 1;
            cluster.partition_leader("users", partition, Some(broker)).expect("moved");
        }
        for number in 0..50 {
            let key = format!("user:{}", round * 50 + number);
            users.publish(key, &number).await.expect("published");
        }
        within(LONG, hydration.caught_up()).await.expect("a fence");
        assert_eq!(replica.len(), (round as usize + 1) * 50);
    }
    assert_eq!(hydration.stats().gaps, 0);
}

/// How many connections the cluster has.
fn connections(cluster: &Cluster) -> usize {
    let servers = cluster.bootstrap_servers();
    servers.split(',').map(|server| connections_to(server).expect("the system's table")).sum()
}

/// librdkafka waits for somebody who leads the partition for as long as it may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_close_while_nobody_leads_a_partition_leaves_no_connection_for_long() {
    let cluster = cluster();
    cluster.partition_leader("users", 0, None).expect("nobody leads it");
    let transport = connect(cluster.bootstrap_servers()).await;
    let mut publishing = Box::pin(publish_one(&transport));
    let waiting = tokio::time::timeout(Duration::from_millis(500), &mut publishing).await;
    assert!(waiting.is_err(), "it waits for somebody who leads the partition");
    assert!(connections(&cluster) > 0);
    within(Duration::from_secs(4), transport.close()).await.expect("closes");
    let error = publishing.await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error}");
    let ending = async {
        while connections(&cluster) > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    // The publish would have been waited for eight seconds.
    within(Duration::from_secs(4), ending).await;
}
