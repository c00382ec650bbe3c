//! Holes in a log: offsets that no reader is given a record for.

use std::time::Duration;

use hydratecache::Signal;
use hydratecache_kafka::KafkaConfig;
use hydratecache_testkit::faults::Subject as _;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, fence, in_time, number, secs, topic,
};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer};

use crate::subject::Kafka;
use crate::support::{Admin, config, connect, proxied, within};

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
    let transport = connect(config(kafka.broker().addr())).await;
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
    listener.lost(1).await;
    listener.numbers([sent]).await;
}

/// How many messages are in the log.
async fn held(config: KafkaConfig) -> u64 {
    let transport = connect(config.with_warm_start()).await;
    let mut listener = Listener::on(&transport, &topic("users")).await;
    let fence = fence(&transport).await;
    let signals = listener.before(fence).await;
    for signal in &signals {
        assert!(matches!(signal, Signal::Message(_)), "a message, not {signal:?}");
    }
    signals.len() as u64
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_compacted_while_a_reader_was_away_is_no_gap_and_what_failed_behind_it_is() {
    let (broker, proxy) = proxied("PLAINTEXT", ["log.cleaner.backoff.ms=100".to_owned()]).await;
    Admin::of(&broker).make_compacted("users").await;
    let far = connect(config(&proxy.addr().to_string())).await;
    let near = connect(config(broker.addr())).await;
    let mut listener = Listener::on(&far, &topic("users")).await;
    let mut writer = Writer::new(&near, &topic("users"));
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    proxy.cut();
    listener.disrupted(LONG).await;
    // All of one key. The segment that is written to is not compacted.
    let compacting = async {
        loop {
            let last = writer.send_batch(100, 8).await.expect("published");
            if held(config(broker.addr())).await < last / 2 {
                return last;
            }
        }
    };
    let last = in_time("the log to be compacted", secs(120), compacting).await;
    proxy.heal().expect("heals");
    listener.live(LONG).await;
    let mut received = 1;
    loop {
        let message = listener.message().await;
        received += 1;
        if number(&message) == last {
            break;
        }
    }
    assert!(received < last, "some were not there any more");
    // Now the ends are known, and what comes is read as it is written.
    fence(&far).await;
    let failed = number(&writer.message(8));
    assert_eq!(failed, last + 1);
    let sent = writer.send().await.expect("published");
    listener.lost(1).await;
    listener.numbers([sent]).await;
}
