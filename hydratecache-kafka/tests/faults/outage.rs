//! What an outage does to Kafka's clients.

use futures::future::join;
use hydratecache::Signal;
use hydratecache_testkit::faults::Subject as _;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, connect, connect_via, fence, in_time, number, secs, topic, until,
};
use hydratecache_testkit::proxy::{Direction, Needle};

use crate::subject::Kafka;

/// Fault 12: the answer of the broker is lost, which has written the record already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publish_whose_answer_is_cut_off_is_sent_again_and_arrives_once() {
    let kafka = Kafka::start().await;
    let proxy = kafka.proxy();
    let far = connect_via(&kafka, &proxy).await;
    let near = connect(&kafka).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    let mut writer = Writer::new(&far, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    for number in 2..6 {
        let before = proxy.stats().fired;
        // The name of the topic is in every answer to records.
        proxy.cut_when_seen(b"users", Direction::ToClient, Needle::Withheld);
        let healing = async {
            let fired = proxy.wait_for(|stats| stats.fired > before);
            in_time("the cut", LONG, fired).await;
            proxy.heal().expect("heals");
        };
        let (sent, ()) = join(in_time("a publish", LONG, writer.send()), healing).await;
        assert_eq!(sent.expect("sent again"), number);
        listener.numbers([number]).await;
        let fence = fence(&near).await;
        assert!(listener.before(fence).await.is_empty(), "it arrived once");
    }
}

/// Fault 3, for longer than the broker's session in the cluster: when it runs on, it may name no broker for a
/// moment, and everybody is disrupted once more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_was_frozen_for_long_is_read_on_and_no_connection_stays() {
    let kafka = Kafka::start().await;
    let broker = kafka.broker();
    let transport = connect(&kafka).await;
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    broker.pause().await.expect("paused");
    listener.disrupted(LONG).await;
    tokio::time::sleep(secs(8)).await;
    broker.resume().await.expect("resumed");
    let publishing = async {
        loop {
            if let Ok(sent) = writer.send().await {
                return sent;
            }
        }
    };
    let sent = in_time("a publish", secs(60), publishing).await;
    // Those of unknown outcome may have come, or be behind a gap.
    let mut is_missing = false;
    loop {
        match listener.next("what was published", LONG).await {
            Signal::Message(message) if number(&message) == sent => break,
            Signal::Gap(_) => is_missing = true,
            Signal::Message(_) | Signal::Disrupted(_) | Signal::Live => {}
            other => panic!("what was published, not {other:?}"),
        }
    }
    assert!(!is_missing || sent > 1, "nothing was lost");
    until("as many connections as before", LONG, async || {
        kafka.connections().await == kafka.connections_of_one()
    })
    .await;
}
