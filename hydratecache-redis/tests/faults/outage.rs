//! The server dies or was never there.

use std::sync::Arc;

use fred::prelude::{Builder, ClientLike, ReconnectPolicy};
use fred::types::config::Config;
use futures::future::join_all;
use hydratecache::{ErrorKind, Transport};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::faults::of_so_many_that_lose_their_broker_two_at_most_read_the_source;
use hydratecache_testkit::faults::support::{
    LONG, Listener, Writer, in_time, millis, secs, topic, until,
};
use hydratecache_testkit::proxy::{Direction, FaultProxy};

use crate::subject::Redis;
use crate::support::redis;

#[tokio::test]
async fn an_address_that_swallows_everything_is_an_error_within_five_seconds() {
    let broker = redis().await;
    join_all([Direction::Both, Direction::ToClient].map(async |direction| {
        let proxy = FaultProxy::start(broker.addr(), 1).expect("a proxy");
        proxy.black_hole(direction);
        let url = format!("redis://ada:hunter2@{}", proxy.addr());
        let connecting = RedisTransport::connect(&url);
        let error = in_time("an error", secs(5), connecting).await.expect_err("nobody answers");
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        let shown = format!("{error} {error:?}");
        let address = proxy.addr().to_string();
        assert!(shown.contains(&address) && !shown.contains("hunter2"), "{shown}");
        proxy.heal().expect("heals");
        let none = proxy.wait_for(|stats| stats.open == 0);
        in_time("no connection left behind", LONG, none).await;
    }))
    .await;
}

#[tokio::test]
async fn a_callers_client_whose_server_is_killed_publishes_again_and_hoards_nothing() {
    let broker = redis().await;
    let config = Config::from_url(broker.url()).expect("legal");
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, 100))
        .build()
        .expect("builds");
    client.init().await.expect("connects");
    let transport = RedisTransport::from_client(client.clone()).await.expect("connects");
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    broker.kill9().await.expect("killed");
    listener.disrupted(LONG).await;
    until("the client to notice", LONG, async || !client.is_connected()).await;
    let error = in_time("a publish to a dead server", millis(5500), writer.send()).await;
    let error = error.expect_err("there is no server");
    assert!(error.is_retryable(), "{error}");
    broker.start_again().await.expect("restarted");
    listener.live_then_gap(LONG).await;
    let sent = in_time("a publish", LONG, writer.send()).await.expect("published");
    // Had the failed one waited in the client, it would come now.
    listener.lost(1).await;
    listener.numbers([sent]).await;
    transport.close().await.expect("closes");
    client.ping::<String>(None).await.expect("the caller's client is still open");
}

#[tokio::test]
async fn a_callers_client_that_was_never_connected_is_an_error_in_time() {
    let broker = redis().await;
    let config = Config::from_url(broker.url()).expect("legal");
    let client = Builder::from_config(config).build().expect("builds");
    let transport = RedisTransport::from_client(client).await.expect("subscribes by itself");
    let transport: Arc<dyn Transport> = Arc::new(transport);
    let mut writer = Writer::new(&transport, &topic("users"));
    let error = in_time("a publish", millis(5500), writer.send()).await;
    assert!(error.expect_err("not connected").is_retryable());
}

/// As many as a service has in a large deployment, each of which writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_that_lose_their_broker_two_at_most_read_the_source() {
    let subject = Redis::start().await;
    of_so_many_that_lose_their_broker_two_at_most_read_the_source(&subject, 50).await;
}
