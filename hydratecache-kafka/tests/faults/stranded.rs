//! Brokers that name none for a moment, which a client of librdkafka may not recover from by itself.

use std::sync::Arc;
use std::time::Duration;

use hydratecache::{ErrorKind, Signal, Transport};
use hydratecache_kafka::{ClientConfig, KafkaConfig};
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, in_time, number, secs, topic, tries, until,
};

use crate::nameless::Nameless;

/// How long brokers name none: long enough that every client asks.
const MOMENT: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_names_no_broker_for_a_moment_is_read_and_published_to_on() {
    let kafka = Nameless::start().await;
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", kafka.addr.to_string())
        // So often the clients ask which brokers there are.
        .set("topic.metadata.refresh.interval.ms", "100");
    let config = KafkaConfig::from_client_config(client).expect("legal");
    let config = config
        .with_lookup_interval(Duration::from_millis(100))
        .with_liveness(secs(1), secs(1))
        .with_publish_limit(secs(4));
    let transport: Arc<dyn Transport> = Arc::new(config.connect().await.expect("connects"));
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    for _ in 0..5 {
        let before = kafka.emptied();
        kafka.names_none(true);
        until("a client to be told of none", LONG, async || kafka.emptied() > before).await;
        tokio::time::sleep(MOMENT).await;
        kafka.names_none(false);
        let mut is_hole = false;
        let publishing = async {
            loop {
                match writer.send().await {
                    Ok(sent) => return sent,
                    // What waited in a client that was replaced.
                    Err(error) => assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}"),
                }
                is_hole = true;
            }
        };
        let sent = in_time("a publish", LONG, publishing).await;
        loop {
            match listener.next("what was published", LONG).await {
                Signal::Message(message) if number(&message) == sent => break,
                Signal::Message(_) | Signal::Disrupted(_) | Signal::Live => {}
                // What failed may have left one in the count.
                Signal::Gap(_) if is_hole => {}
                other => panic!("what was published, not {other:?}"),
            }
        }
        // Its limit is as short as the signs of life are frequent.
        let fence = tries(LONG, async || transport.fence().await).await;
        for signal in listener.before(fence).await {
            assert!(matches!(signal, Signal::Disrupted(_) | Signal::Live), "{signal:?}");
        }
    }
}
