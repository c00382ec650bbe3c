//! Holes in a log: offsets that no reader is given a record for.

use std::time::Duration;

use hydratecache::Signal;
use hydratecache_testkit::faults::Subject as _;
use hydratecache_testkit::faults::support::{LONG, Listener, Writer, connect, number, topic};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::subject::Kafka;
use crate::support::within;

/// Another program's transaction leaves a mark behind its record, which has an offset of its own and is given to
/// nobody.
async fn transaction(kafka: &Kafka) {
    let producer: FutureProducer = hydratecache_kafka::ClientConfig::new()
        .set("bootstrap.servers", kafka.broker().addr())
        .set("transactional.id", "stranger")
        .create()
        .expect("a client");
    let beginning = producer.clone();
    let begun = tokio::task::spawn_blocking(move || {
        beginning.init_transactions(LONG).and_then(|()| beginning.begin_transaction())
    });
    within(LONG, begun).await.expect("no panic").expect("begun");
    let record = FutureRecord::to("users").partition(0).key("stranger").payload(b"bare");
    producer.send(record, Duration::from_secs(5)).await.expect("delivered");
    let committed = tokio::task::spawn_blocking(move || producer.commit_transaction(LONG));
    within(LONG, committed).await.expect("no panic").expect("committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_that_failed_shows_behind_the_mark_of_a_transaction_too() {
    let kafka = Kafka::start().await;
    let transport = connect(&kafka).await;
    let users = topic("users");
    let mut listener = Listener::on(&transport, &users).await;
    let mut writer = Writer::new(&transport, &users);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    transaction(&kafka).await;
    let foreign = listener.message().await;
    assert_eq!(foreign.position(), None, "the stranger's");
    // What became of it on the way is the same to whoever hears the next one.
    let failed = writer.message(8);
    assert_eq!(number(&failed), 2);
    let sent = writer.send().await.expect("published");
    match listener.next("the gap", LONG).await {
        Signal::Gap(gap) => assert_eq!(gap.exact(), Some(1)),
        other => panic!("a gap of the one that failed, not {other:?}"),
    }
    listener.numbers([sent]).await;
}
