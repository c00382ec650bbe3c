//! The server dies, freezes, hangs up or was never there.

use std::time::Instant;

use fred::prelude::{Builder, ClientLike, ReconnectPolicy};
use fred::types::config::Config;
use futures::future::join_all;
use hydratecache::{ErrorKind, Transport};
use hydratecache_redis::{RedisConfig, RedisTransport};
use hydratecache_testkit::proxy::{Direction, FaultProxy};

use crate::support::{
    Listener, Writer, admin, clients, effort, fence, in_time, millis, redis, secs, topic, until,
};

#[tokio::test]
async fn a_killed_server_is_noticed_at_once_and_its_restart_too() {
    let broker = redis().await;
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    for _ in 0..effort(3, 30) {
        broker.kill9().await.expect("killed");
        let why = listener.disrupted(secs(1)).await;
        assert_eq!(why.kind(), ErrorKind::Unavailable, "{why}");
        broker.start_again().await.expect("restarted");
        listener.live_then_gap(secs(1)).await;
        let other = RedisTransport::connect(broker.url()).await.expect("another process");
        let mut others = Writer::new(&other, &topic);
        for number in 1..=10 {
            others.send().await.expect("published");
            listener.numbers([number]).await;
        }
        let own = in_time("the own publisher", secs(1), writer.send()).await.expect("published");
        listener.numbers([own]).await;
        fence(&transport).await;
    }
}

#[tokio::test]
async fn a_frozen_server_is_noticed_within_ten_seconds_though_nothing_was_sent() {
    let broker = redis().await;
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    broker.pause().await.expect("paused");
    let paused = Instant::now();
    listener.disrupted(secs(10)).await;
    let rest = effort(secs(12), secs(30)).saturating_sub(paused.elapsed());
    tokio::time::sleep(rest).await;
    broker.resume().await.expect("resumed");
    listener.live_then_gap(secs(2)).await;
    let mut writer = Writer::new(&transport, &topic);
    in_time("the publisher", secs(2), writer.send()).await.expect("published");
    listener.numbers([1]).await;
    until("two connections and no more", secs(2), async || clients(&broker).await.len() == 2).await;
}

#[tokio::test]
async fn a_second_of_silence_is_no_outage() {
    let broker = redis().await;
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for round in 0..effort(2, 20) {
        broker.pause().await.expect("paused");
        let writing = async {
            for _ in 0..100 {
                writer.send().await.expect("published, if late");
            }
        };
        let waking = async {
            tokio::time::sleep(secs(1)).await;
            broker.resume().await.expect("resumed");
        };
        in_time("a hundred publishes", secs(4), futures::future::join(writing, waking)).await;
        listener.numbers(round * 100 + 1..=round * 100 + 100).await;
        let fence = fence(&transport).await;
        assert!(listener.before(fence).await.is_empty(), "no signal");
    }
}

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
        in_time("no connection left behind", secs(1), none).await;
    }))
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_the_server_kills_goes_on_after_a_gap() {
    let broker = redis().await;
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for _ in 0..effort(10, 200) {
        admin(&broker, &["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        listener.disrupted(secs(1)).await;
        listener.live_then_gap(secs(1)).await;
        let sent = writer.send().await.expect("the publisher was not killed");
        listener.numbers([sent]).await;
    }
}

/// Whoever publishes again at once meets a connection that is gone before that is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_the_server_kills_goes_on_within_a_second() {
    let broker = redis().await;
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    for _ in 0..effort(10, 200) {
        let publishers = (0..8).map(|_| {
            let mut writer = Writer::new(&transport, &topic);
            tokio::spawn(async move {
                let end = Instant::now() + millis(300);
                while Instant::now() < end {
                    let sending = in_time("the answer to a publish", millis(1200), writer.send());
                    if let Err(error) = sending.await {
                        assert_eq!(error.kind(), ErrorKind::UnknownOutcome, "{error}");
                    }
                }
            })
        });
        let publishers = join_all(publishers.collect::<Vec<_>>());
        admin(&broker, &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
        for publisher in publishers.await {
            publisher.expect("every publish is answered in time");
        }
    }
    let fence = fence(&transport).await;
    for signal in listener.before(fence).await {
        let fine =
            matches!(signal, hydratecache::Signal::Message(_) | hydratecache::Signal::Gap(_));
        assert!(fine, "the subscriber was not killed: {signal:?}");
    }
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
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    writer.send().await.expect("published");
    listener.numbers([1]).await;
    broker.kill9().await.expect("killed");
    listener.disrupted(secs(1)).await;
    until("the client to notice", secs(1), async || !client.is_connected()).await;
    let error = in_time("a publish to a dead server", millis(5500), writer.send()).await;
    let error = error.expect_err("there is no server");
    assert!(error.is_retryable(), "{error}");
    broker.start_again().await.expect("restarted");
    listener.live_then_gap(secs(1)).await;
    let sent = in_time("a publish", secs(2), writer.send()).await.expect("published");
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
    let mut writer = Writer::new(&transport, &topic("users"));
    let error = in_time("a publish", millis(5500), writer.send()).await;
    assert!(error.expect_err("not connected").is_retryable());
}

#[tokio::test]
async fn an_outage_shorter_than_the_limit_delays_a_publish_and_no_more() {
    let broker = redis().await;
    let config = RedisConfig::from_url(broker.url()).expect("legal");
    let transport = config.with_publish_limit(secs(20)).connect().await.expect("connects");
    let topic = topic("users");
    let mut listener = Listener::on(&transport, &topic).await;
    broker.kill9().await.expect("killed");
    listener.disrupted(secs(1)).await;
    let mut writer = Writer::new(&transport, &topic);
    let restart = async {
        tokio::time::sleep(millis(300)).await;
        broker.start_again().await.expect("restarted");
    };
    let (sent, ()) = futures::future::join(writer.send(), restart).await;
    assert_eq!(sent.expect("published after the restart"), 1);
    transport.close().await.expect("closes");
}
