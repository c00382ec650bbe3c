//! What only a listening session of PostgreSQL does.

use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, connect, connect_via, connect_via_with, fence, in_time, millis, proxy,
    topic,
};
use hydratecache_testkit::faults::{Pressure, Setup, fences_prove_the_past};

use super::subject::Postgres;

/// While a session lags behind and others commit, the server reads nothing that comes from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_lags_behind_gets_its_fences_all_the_same() {
    // More than what the sockets on the way hold, for two seconds of a link that carries less than is published.
    const PRESSURE: Pressure = Pressure { ahead: 2000, payload_bytes: 4000 };
    const BYTES_PER_SECOND: u64 = 4_000_000;
    let subject = Postgres::start().await;
    let proxy = proxy(&subject);
    proxy.throttle(BYTES_PER_SECOND);
    let setup = Setup { queue_bytes: Some(64 << 20), ..Setup::default() };
    let reader = connect_via_with(&subject, &proxy, setup).await;
    fences_prove_the_past(&subject, &reader, 3, PRESSURE).await;
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
    in_time("the end of the topic", LONG, async {
        while sent(&mut writer).await > 10_000 {
            tokio::time::sleep(millis(10)).await;
        }
    })
    .await;
}
