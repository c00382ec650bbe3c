//! What only a listening session of PostgreSQL does.

use hydratecache_testkit::faults::fences_prove_the_past;
use hydratecache_testkit::faults::support::{
    Listener, Writer, connect, connect_via, fence, in_time, millis, proxy, secs, topic,
};

use super::subject::Postgres;

/// While a session lags behind and others commit, the server reads nothing that comes from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_lags_behind_gets_its_fences_all_the_same() {
    let subject = Postgres::start().await;
    let reader = connect(&subject).await;
    fences_prove_the_past(&subject, &reader, 25, u64::MAX).await;
}

/// The server tells nobody what a session listens to; what travels to it does.
#[tokio::test]
async fn a_topic_that_nobody_reads_any_more_is_not_sent() {
    let subject = Postgres::start().await;
    let proxy = proxy(&subject);
    let (far, near) = (connect_via(&subject, &proxy).await, connect(&subject).await);
    let mut writer = Writer::new(&near, &topic("users"));
    let sent = async |writer: &mut Writer| {
        let before = proxy.stats().bytes_to_client;
        writer.send_batch(10, 4000).await.expect("published");
        // All that is sent to the listening session before it has come.
        fence(&far).await;
        proxy.stats().bytes_to_client - before
    };
    let listener = Listener::on(&far, &topic("users")).await;
    assert!(sent(&mut writer).await > 40_000, "it is listened to");
    drop(listener);
    in_time("the end of the topic", secs(2), async {
        while sent(&mut writer).await > 10_000 {
            tokio::time::sleep(millis(10)).await;
        }
    })
    .await;
}
