//! `bench` as its users run it, over real brokers.
#![cfg(all(feature = "redis", feature = "nats", feature = "postgres", feature = "kafka"))]

mod support;

use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Following, Kind, broker, command, kafka_url, within};

async fn bench(url: &str, more: &[&str]) -> Output {
    let mut command = command(&[&["bench", "--duration", "1s"], more].concat());
    command.env("HYDRATECACHE_TRANSPORT", url).stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    within(Duration::from_secs(120), running).await.expect("no panic")
}

/// The object has what both sides did, and it fits together.
fn is_whole(output: &Output, broker: &str) {
    let shown = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{shown}{said}");
    assert!(said.contains("hydratecache.bench"), "it says what it does to the broker: {said}");
    let object: Value = serde_json::from_str(&shown).expect("one object");
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}: {object}"));
    assert_eq!(object["broker"], broker, "{object}");
    let latency = &object["latency_micros"];
    for side in ["ours", "raw"] {
        let rate = &object["publishes_per_second"][side];
        let [least, median, most] = ["least", "median", "most"].map(|part| number(&rate[part]));
        assert!(0.0 < least && least <= median && median <= most, "{object}");
        let quantiles = ["p50", "p90", "p99", "max"].map(|part| number(&latency[side][part]));
        assert!(0.0 < quantiles[0] && quantiles.is_sorted(), "{object}");
        // Each of the five rounds has one at least, and each is in a bucket.
        let messages = number(&latency[side]["messages"]);
        let buckets = latency["buckets"].as_array().expect("an array");
        let in_buckets: f64 = buckets.iter().map(|bucket| number(&bucket[side])).sum();
        assert!(messages >= 5.0 && (messages - in_buckets).abs() < 0.5, "{object}");
    }
    for ratio in [&object["publishes_per_second"]["ratio"], &latency["ratio_of_p50"]] {
        assert!(number(&ratio["median"]) > 0.0, "{object}");
    }
}

#[tokio::test]
async fn a_redis_is_measured_and_drawn() {
    let redis = broker(Kind::Redis).await;
    is_whole(&bench(redis.url(), &["--json"]).await, "Redis");
    let output = bench(redis.url(), &["--size", "1000", "--in-flight", "8"]).await;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    for part in ["Redis, values of 1000 bytes", "8 publishes under way", "p99", "###"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
}

#[tokio::test]
async fn a_nats_is_measured_with_a_user_of_its_url() {
    let users = "authorization { users: [{user: ada, password: \"hunter 2\"}] }";
    let nats = support::Broker::builder(Kind::Nats).with_setting(users).start();
    let nats = nats.await.expect("a broker of the test's own");
    let output = bench(&format!("nats://ada:hunter%202@{}", nats.addr()), &["--json"]).await;
    is_whole(&output, "NATS");
    assert!(!format!("{output:?}").contains("hunter"), "{output:?}");
}

#[tokio::test]
async fn a_postgres_is_measured_up_to_what_its_notifications_carry() {
    let postgres = broker(Kind::Postgres).await;
    is_whole(&bench(postgres.url(), &["--json"]).await, "PostgreSQL");
    is_whole(&bench(postgres.url(), &["--json", "--size", "7999"]).await, "PostgreSQL");
    let output = bench(postgres.url(), &["--size", "8000"]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("7999"), "{said}");
}

#[tokio::test]
async fn a_kafka_is_measured() {
    let kafka = broker(Kind::Kafka).await;
    is_whole(&bench(&kafka_url(&kafka), &["--json"]).await, "Kafka");
}

#[tokio::test]
async fn a_broker_that_is_not_there_or_goes_away_ends_it_with_3_and_no_password() {
    let output = bench("redis://ada:hunter2@127.0.0.1:1", &[]).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("127.0.0.1:1") && !said.contains("hunter2"), "{said}");

    let redis = broker(Kind::Redis).await;
    let mut running = Following::start(&["bench", "--duration", "10m"], redis.url());
    running.is_following().await;
    redis.kill9().await.expect("it is killed");
    let output = running.ended().await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(3), 0), "{said}");
}

#[tokio::test]
async fn ctrl_c_ends_it_and_so_does_whoever_stops_a_container() {
    let redis = broker(Kind::Redis).await;
    for signal in ["INT", "TERM"] {
        let mut running = Following::start(&["bench", "--duration", "10m"], redis.url());
        running.is_following().await;
        running.signal(signal);
        assert_eq!(running.ended().await.status.code(), Some(130), "{signal}");
    }
}

#[tokio::test]
async fn wrong_usage_is_told() {
    for arguments in [
        &["--size", "31"][..],
        &["--in-flight", "0"],
        &["--duration", "0s"],
        &["--nats-credentials", "x"],
    ] {
        let output = bench("redis://127.0.0.1:1", arguments).await;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
    }
}
