//! What an outage does to Kafka's publishers.

use futures::future::join;
use hydratecache_testkit::faults::Subject as _;
use hydratecache_testkit::faults::support::{
    Listener, Writer, connect, connect_via, fence, in_time, secs, topic,
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
            in_time("the cut", secs(3), fired).await;
            proxy.heal().expect("heals");
        };
        let (sent, ()) = join(in_time("a publish", secs(5), writer.send()), healing).await;
        assert_eq!(sent.expect("sent again"), number);
        listener.numbers([number]).await;
        let fence = fence(&near).await;
        assert!(listener.before(fence).await.is_empty(), "it arrived once");
    }
}
