//! The server cuts the link.

use hydratecache::Signal;
use hydratecache_testkit::faults::support::{
    Listener, Writer, connect, connect_via_with, effort, number, proxy, secs, topic,
};
use hydratecache_testkit::faults::{Setup, Subject};

use crate::subject::Redis;
use crate::support::admin;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_the_server_cuts_off_for_its_backlog_is_told_of_a_gap() {
    // No sign of life is asked for, so that only the server can end the connection.
    let subject = Redis::start().await;
    let proxy = proxy(&subject);
    let setup = Setup { liveness: Some((secs(600), secs(600))), ..Setup::default() };
    let (far, near) = (connect_via_with(&subject, &proxy, setup).await, connect(&subject).await);
    let topic = topic("users");
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 1mb 512kb 1"];
    admin(subject.broker(), &limit).await;
    let mut listener = Listener::on(&far, &topic).await;
    proxy.throttle(1 << 20);
    let mut writer = Writer::new(&near, &topic);
    for _ in 0..effort(8, 64) {
        writer.send_batch(16, 64 << 10).await.expect("the publisher is not to blame");
    }
    let mut received = 0;
    loop {
        match listener.next("the server to cut the reader off", secs(20)).await {
            Signal::Message(message) => {
                received += 1;
                assert_eq!(number(&message), received, "in order up to the cut");
            }
            Signal::Disrupted(_) => break,
            other => panic!("messages, then Disrupted, not {other:?}"),
        }
    }
    listener.live_then_gap(secs(2)).await;
    let sent = writer.send().await.expect("published");
    assert!(received < sent - 1, "something was lost, which the gap stands for");
    listener.lost(sent - 1 - received).await;
    listener.numbers([sent]).await;
}
