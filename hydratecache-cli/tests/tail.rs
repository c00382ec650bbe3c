//! `tail` as its users run it, over real brokers.
#![cfg(feature = "broker")]

mod support;

use std::process::Stdio;
use std::time::Duration;

use hydratecache::Channel;
use serde_json::Value;
use support::{Following, broker, hydratecache, lines};

/// Publishes something of each kind.
#[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
async fn publish_each_kind(transport: impl hydratecache::Transport, topic: &str) {
    use hydratecache::{Ttl, VersionDomain};

    let channel = Channel::<Value>::builder(transport, topic).with_versions(VersionDomain::Caller);
    let channel = channel.build().expect("legal");
    let ttl = Ttl::starting_now(Duration::from_secs(600)).expect("legal");
    let value = serde_json::json!({"name": "Ada"});
    channel.put("user:1", &value).ttl(ttl).version(1).await.expect("published");
    channel.touch("user:1", ttl).version(2).await.expect("published");
    channel.put("order:1", &value).version(1).await.expect("published");
    channel.remove("user:1").version(3).await.expect("published");
    channel.clear().version(4).await.expect("published");
}

#[cfg(any(feature = "nats", feature = "postgres", feature = "redis"))]
async fn every_kind_is_shown(url: &str, transport: impl hydratecache::Transport) {
    let mut tail = Following::start(
        &["tail", "users", "--json", "--count", "4", "--key-prefix", "user:"],
        url,
    );
    tail.is_following().await;
    publish_each_kind(transport, "users").await;
    let ended = tail.ended().await;
    assert!(ended.status.success(), "{ended:?}");
    let objects: Vec<Value> = lines(&ended.stdout)
        .map(|line| serde_json::from_str(line).expect("each line is an object"))
        .collect();
    let kinds: Vec<_> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
    assert_eq!(kinds, ["put", "touch", "remove", "clear"]);
    let put = &objects[0];
    assert_eq!(put["payload"], serde_json::json!({"name": "Ada"}));
    assert_eq!((put["key"].as_str(), put["version"].as_str()), (Some("user:1"), Some("caller:1")));
    assert!((590_000..=600_000).contains(&put["remaining_ms"].as_i64().expect("a TTL")), "{put}");
    let sequences: Vec<_> =
        objects.iter().filter_map(|object| object["sequence"].as_u64()).collect();
    assert_eq!(sequences, [1, 2, 4, 5]);
    let end = objects.last().expect("an end");
    assert_eq!((&end["type"], &end["shown"], &end["gaps"]), (&"end".into(), &4.into(), &0.into()));
}

#[cfg(feature = "redis")]
#[tokio::test]
async fn every_kind_is_shown_over_redis() {
    let redis = broker(support::Kind::Redis).await;
    let transport = hydratecache_redis::RedisTransport::connect(redis.url()).await;
    every_kind_is_shown(redis.url(), transport.expect("connects")).await;
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn every_kind_is_shown_over_nats() {
    let nats = broker(support::Kind::Nats).await;
    let transport = hydratecache_nats::NatsTransport::connect(nats.url()).await;
    every_kind_is_shown(nats.url(), transport.expect("connects")).await;
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn every_kind_is_shown_over_postgres() {
    let postgres = broker(support::Kind::Postgres).await;
    let transport = hydratecache_postgres::PostgresTransport::connect(postgres.url()).await;
    every_kind_is_shown(postgres.url(), transport.expect("connects")).await;
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn an_outage_is_shown_and_summed_up_after_ctrl_c() {
    let nats = broker(support::Kind::Nats).await;
    let mut tail = Following::start(&["tail", "users", "orders"], nats.url());
    tail.is_following().await;
    nats.kill9().await.expect("killed");
    tail.shows("users DISRUPTED ").await;
    nats.start_again().await.expect("started");
    // Of both topics, whichever is first.
    for _ in 0..2 {
        tail.shows(" GAP messages may have been lost").await;
    }
    tail.interrupt();
    let ended = tail.ended().await;
    assert!(ended.status.success(), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(said.contains("0 messages, 2 gaps") && said.contains("2 disruptions"), "{said}");
    let shown = String::from_utf8_lossy(&ended.stdout);
    assert!(shown.contains("orders GAP") && shown.contains("users GAP"), "{shown}");
}

#[cfg(feature = "kafka")]
#[tokio::test]
async fn messages_of_kafka_are_counted_to_the_last() {
    const MESSAGES: u64 = 20_000;
    let kafka = broker(support::Kind::Kafka).await;
    let url = support::kafka_url(&kafka);
    let transport = hydratecache_kafka::KafkaTransport::connect(&url).await.expect("connects");
    let channel = Channel::<u64>::new(transport, "numbers").expect("legal");
    channel.publish("first", &0).await.expect("makes the topic");
    let mut tail =
        Following::start(&["tail", "numbers", "--counts", "--json", "--count", "20000"], &url);
    tail.is_following().await;
    let numbers =
        futures::stream::iter((0..MESSAGES).map(|number| (format!("{}", number % 1000), number)));
    let published = support::within(Duration::from_secs(60), channel.publish_all(numbers)).await;
    assert_eq!(published.expect("published"), MESSAGES);
    let ended = tail.ended().await;
    let last = lines(&ended.stdout).last().expect("an end");
    let end: Value = serde_json::from_str(last).expect("an object");
    assert_eq!((&end["messages"], &end["gaps"]), (&MESSAGES.into(), &0.into()), "{end}");
}

#[cfg(feature = "nats")]
#[tokio::test]
async fn a_closed_pipe_ends_it_quietly() {
    let nats = broker(support::Kind::Nats).await;
    let transport = hydratecache_nats::NatsTransport::connect(nats.url()).await.expect("connects");
    let mut tail = Following::start(&["tail", "users"], nats.url());
    tail.is_following().await;
    tail.close_output();
    let channel = Channel::<u64>::new(transport, "users").expect("legal");
    let publishing = async {
        loop {
            channel.publish("k", &1).await.expect("published");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let ended = tokio::select! {
        ended = tail.ended() => ended,
        () = publishing => unreachable!("it never ends"),
    };
    assert!(ended.status.success(), "{ended:?}");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(!said.contains("error") && !said.contains("panic"), "{said}");
}

#[test]
fn wrong_usage_is_said_without_a_password() {
    for (arguments, said) in [
        (&["tail", "users"][..], "--transport"),
        (&["tail", "--transport", "redis://h"], "TOPIC"),
        (&["tail", "a b", "--transport", "redis://h"], "invalid topic"),
        (&["tail", "users", "--transport", "http://ada:hunter2@h"], "the scheme http;"),
        (&["tail", "users", "--transport", "redis://ada:hunter2@h:port"], "the Redis URL"),
        (&["tail", "users", "--transport", "redis://h", "--count", "0"], "--count"),
        (&["tail", "users", "--transport", "redis://h", "--from-beginning"], "Kafka only"),
    ] {
        let output = hydratecache(arguments, Stdio::null());
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {shown}");
        assert!(shown.contains(said) && !shown.contains("hunter2"), "{arguments:?}: {shown}");
    }
}
