//! `doctor` as its users run it: each misconfiguration is set up on a real broker and found, and
//! nothing is found on healthy ones.
#![cfg(all(feature = "redis", feature = "nats", feature = "postgres", feature = "kafka"))]

mod support;

use std::process::Stdio;
use std::time::Duration;

use fred::interfaces::ClientLike;
use fred::types::config::Config;
use fred::types::{Builder, CustomCommand};
use hydratecache_testkit::broker::BrokerBuilder;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use support::{Broker, Kind, command, kafka_url, lines, within};
use tokio_postgres::NoTls;

/// What the doctor said, and its exit code.
#[derive(Debug)]
struct Diagnosis {
    findings: Vec<Value>,
    code: Option<i32>,
    stderr: String,
}

impl Diagnosis {
    /// All is well.
    fn is_healthy(&self) {
        assert_eq!(self.code, Some(0), "{self:#?}");
        assert!(self.findings.len() >= 5, "{self:#?}");
        assert!(self.findings.iter().all(|finding| finding["level"] == "ok"), "{self:#?}");
    }

    /// This was found to be wrong, so badly, and what to do is said.
    fn found(&self, level: &str, what: &str, part: &str) {
        let is_it = |finding: &&Value| {
            let is_of_it = finding["level"] == level && finding["what"] == what;
            is_of_it && finding.to_string().contains(part)
        };
        let found = self.findings.iter().find(is_it);
        let found = found.unwrap_or_else(|| panic!("no {level} of {what} with {part}: {self:#?}"));
        assert!(found["advice"].as_str().is_some_and(|advice| !advice.is_empty()), "{found}");
        let expected = if level == "warning" { [Some(4), Some(1)] } else { [Some(1); 2] };
        assert!(expected.contains(&self.code), "{self:#?}");
        assert!(!format!("{self:?}").contains("hunter2"), "{self:#?}");
    }
}

impl Diagnosis {
    /// What was not read is not judged.
    fn says_nothing_of(&self, what: &[&str]) {
        let found =
            self.findings.iter().find(|finding| what.iter().any(|what| finding["what"] == *what));
        assert!(found.is_none(), "{found:?}");
    }
}

async fn diagnose(url: &str, more: &[&str]) -> Diagnosis {
    let mut command = command(&[&["doctor", "--json"], more].concat());
    command.env("HYDRATECACHE_TRANSPORT", url).stdin(Stdio::null());
    let running = tokio::task::spawn_blocking(move || command.output().expect("it runs"));
    let output = within(Duration::from_secs(60), running).await.expect("no panic");
    let objects = lines(&output.stdout).map(serde_json::from_str);
    Diagnosis {
        findings: objects.collect::<Result<_, _>>().expect("a line is an object"),
        code: output.status.code(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

async fn started(kind: Kind, settings: &[&str]) -> Broker {
    let builder = Broker::builder(kind);
    let builder =
        settings.iter().fold(builder, |builder: BrokerBuilder, line| builder.with_setting(*line));
    builder.start().await.expect("a broker of the test's own")
}

/// Runs a command on a Redis.
async fn tell(redis: &Broker, words: &[&str]) {
    let config = Config::from_url(redis.url()).expect("the broker's URL");
    let client = Builder::from_config(config).build().expect("a client");
    client.init().await.expect("the broker answers");
    let (command, arguments) = words.split_first().expect("a command");
    let command = CustomCommand::new((*command).to_owned(), None::<u16>, false);
    let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
    let _: fred::types::Value = client.custom(command, arguments).await.expect("it succeeds");
    client.quit().await.expect("the client ends");
}

#[tokio::test]
async fn a_redis_is_diagnosed() {
    let redis = started(Kind::Redis, &[]).await;
    diagnose(redis.url(), &[]).await.is_healthy();
    let as_ada = format!("redis://ada:hunter2@{}", redis.addr());

    diagnose("redis://ada:hunter2@127.0.0.1:1", &[]).await.found(
        "FAILURE",
        "connection",
        "127.0.0.1:1",
    );
    diagnose(&as_ada, &[]).await.found("FAILURE", "connection", "denied");

    let ada = ["ACL", "SETUSER", "ada", "reset", "on", ">hunter2", "+@all", "~*"];
    tell(&redis, &[&ada[..], &["&granted.*"]].concat()).await;
    diagnose(&as_ada, &["--topic", "users"]).await.found("FAILURE", "subscribe", "denied");
    diagnose(&as_ada, &["--topic", "granted.users"]).await.is_healthy();
    tell(&redis, &[&ada[..], &["&*", "-publish"]].concat()).await;
    diagnose(&as_ada, &[]).await.found("FAILURE", "publish", "denied");
    tell(&redis, &[&ada[..], &["&*", "-config"]].concat()).await;
    let silent = diagnose(&as_ada, &[]).await;
    silent.found("warning", "not read", "config|get");
    silent.found("warning", "not read", "client-output-buffer-limit and proto-max-bulk-len: ");
    silent.says_nothing_of(&["output buffer", "payload limit"]);
    tell(&redis, &[&ada[..], &["&*", "-info"]].concat()).await;
    let silent = diagnose(&as_ada, &[]).await;
    silent.found("warning", "not read", "+info");
    silent.says_nothing_of(&["version", "role"]);

    for (limit, level) in
        [("64kb 32kb 5", "FAILURE"), ("32mb 1mb 60", "warning"), ("0 0 0", "warning")]
    {
        let limit = format!("pubsub {limit}");
        tell(&redis, &["CONFIG", "SET", "client-output-buffer-limit", &limit]).await;
        diagnose(redis.url(), &[]).await.found(level, "output buffer", "pubsub 32mb 8mb 60");
    }
    tell(&redis, &["CONFIG", "SET", "proto-max-bulk-len", "1mb"]).await;
    diagnose(redis.url(), &[]).await.found("FAILURE", "payload limit", "proto-max-bulk-len");
    tell(&redis, &["REPLICAOF", "127.0.0.1", "1"]).await;
    diagnose(redis.url(), &[]).await.found("FAILURE", "role", "primary");
}

#[tokio::test]
async fn what_is_wrong_before_anything_is_tried_is_wrong_usage() {
    for (url, more, said) in [
        ("redis://ada:hunter2@localhost:99999", &[][..], "the Redis URL"),
        ("rediss://localhost", &["--ca-file", "/none"], "/none cannot be used"),
        ("nats://localhost", &["--nats-credentials", "/none"], "/none"),
        ("kafka://localhost", &["--topic", "users", "--kafka-config", "/none"], "/none"),
    ] {
        let told = diagnose(url, more).await;
        assert_eq!((told.code, told.findings.len()), (Some(2), 0), "{url}: {told:#?}");
        assert_eq!(told.stderr.matches("error: ").count(), 1, "{url}: {told:#?}");
        assert!(told.stderr.contains(said) && !told.stderr.contains("hunter2"), "{told:#?}");
    }
}

#[tokio::test]
async fn a_node_of_a_redis_cluster_is_diagnosed() {
    let redis = started(Kind::Redis, &["cluster-enabled yes"]).await;
    diagnose(redis.url(), &[]).await.found("warning", "cluster", "a fence proves");
}

#[tokio::test]
async fn a_nats_is_diagnosed() {
    let nats = started(Kind::Nats, &[]).await;
    diagnose(nats.url(), &[]).await.is_healthy();

    let users = r#"authorization { users: [
        {user: all, password: hunter2},
        {user: deaf, password: hunter2, permissions: {subscribe: {deny: "users"}}},
        {user: mute, password: hunter2, permissions: {publish: {deny: "users"}}},
        {user: boxless, password: hunter2, permissions: {publish: "users", subscribe: "users"}}
    ] }"#;
    let nats = started(Kind::Nats, &[&users.replace('\n', " "), "max_payload: 2000"]).await;
    let url = |user: &str| format!("nats://{user}:hunter2@{}", nats.addr());
    let topic = ["--topic", "users"];
    diagnose(&url("all"), &topic).await.found("FAILURE", "payload limit", "max_payload");
    diagnose(&url("nobody"), &topic).await.found("FAILURE", "connection", "denied");
    diagnose(&url("deaf"), &topic).await.found("FAILURE", "subscribe", "denied");
    diagnose(&url("mute"), &topic).await.found("FAILURE", "publish", "denied");
    diagnose(&url("boxless"), &topic).await.found("FAILURE", "connection", "_INBOX");

    let nats = started(Kind::Nats, &["max_payload: 20000"]).await;
    diagnose(nats.url(), &[]).await.found("warning", "payload limit", "20000");
    let nats = started(Kind::Nats, &["max_payload: 33554432"]).await;
    diagnose(nats.url(), &[]).await.found("warning", "payload limit", "8MB");
}

#[tokio::test]
async fn a_postgres_is_diagnosed() {
    let settings = ["max_notify_queue_pages=64", "max_connections=30"];
    let postgres = started(Kind::Postgres, &settings).await;
    let small = diagnose(postgres.url(), &[]).await;
    small.found("warning", "notification queue size", "max_notify_queue_pages");

    let (admin, connection) =
        tokio_postgres::connect(postgres.url(), NoTls).await.expect("connects");
    tokio::spawn(connection);
    let run = async |sql: &str| {
        admin.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    run("CREATE ROLE ada LOGIN PASSWORD 'hunter2'").await;
    let as_ada = format!("postgres://ada:hunter2@{}/hydratecache", postgres.addr());
    let wrong = as_ada.replace("hunter2", "hunter22");
    diagnose(&wrong, &[]).await.found("FAILURE", "connection", "denied");
    let missing = as_ada.replace("/hydratecache", "/missing");
    diagnose(&missing, &[]).await.found("FAILURE", "connection", "missing");

    run("ALTER ROLE ada SET idle_session_timeout = '10s'").await;
    diagnose(&as_ada, &[]).await.found("warning", "idle sessions", "idle_session_timeout");
    run(
        "ALTER ROLE ada RESET idle_session_timeout; ALTER ROLE ada SET statement_timeout = '900ms'",
    )
    .await;
    diagnose(&as_ada, &[]).await.found("warning", "statements", "statement_timeout");
    run("ALTER ROLE ada RESET statement_timeout").await;
    run("REVOKE EXECUTE ON FUNCTION pg_notification_queue_usage() FROM PUBLIC").await;
    run("REVOKE SELECT ON pg_catalog.pg_settings FROM PUBLIC").await;
    let silent = diagnose(&as_ada, &[]).await;
    silent.found("warning", "not read", "GRANT EXECUTE ON FUNCTION pg_notification_queue_usage");
    silent.found("warning", "not read", "statement_timeout: permission denied");
    silent.says_nothing_of(&["notification queue", "notification queue size"]);
    run("GRANT EXECUTE ON FUNCTION pg_notification_queue_usage() TO PUBLIC").await;
    run("GRANT SELECT ON pg_catalog.pg_settings TO PUBLIC").await;
    run("REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM PUBLIC").await;
    let mute = diagnose(&as_ada, &[]).await;
    assert_eq!(mute.code, Some(1), "{mute:#?}");
    run("GRANT EXECUTE ON FUNCTION pg_notify(text, text) TO PUBLIC").await;

    // A listener that stays in a transaction, while others publish.
    let (slow, connection) =
        tokio_postgres::connect(postgres.url(), NoTls).await.expect("connects");
    tokio::spawn(connection);
    slow.batch_execute("LISTEN slow").await.expect("it listens");
    slow.batch_execute("BEGIN; SELECT 1").await.expect("it stays");
    let filler = "SELECT count(pg_notify('slow', repeat('x', 7000) || number)) FROM generate_series(1, 45) number";
    run(filler).await;
    diagnose(postgres.url(), &[]).await.found("FAILURE", "notification queue", "pg_stat_activity");
}

#[tokio::test]
async fn a_healthy_postgres_is_one() {
    let postgres = started(Kind::Postgres, &[]).await;
    diagnose(postgres.url(), &[]).await.is_healthy();
}

#[tokio::test]
async fn a_kafka_is_diagnosed() {
    let kafka = started(Kind::Kafka, &["auto.create.topics.enable=false"]).await;
    let url = kafka_url(&kafka);
    let mut settings = ClientConfig::new();
    settings.set("bootstrap.servers", kafka.addr());
    let admin: AdminClient<DefaultClientContext> = settings.create().expect("a client");
    let limit = Some(Duration::from_secs(10));
    let options = AdminOptions::new().request_timeout(limit).operation_timeout(limit);
    let one = |name| NewTopic::new(name, 2, TopicReplication::Fixed(1));
    let topics = [
        one("healthy"),
        one("compacted").set("cleanup.policy", "compact"),
        one("brief").set("retention.ms", "60000"),
        one("little").set("retention.bytes", "1000000"),
        one("forgetful").set("cleanup.policy", "compact").set("delete.retention.ms", "1000"),
        one("narrow").set("max.message.bytes", "50000"),
        one("lonely").set("min.insync.replicas", "2"),
    ];
    for made in admin.create_topics(&topics, &options).await.expect("answered") {
        made.expect("made");
    }
    let of = async |topic: &str| diagnose(&url, &["--topic", topic]).await;
    of("healthy").await.is_healthy();
    of("compacted").await.is_healthy();
    of("missing").await.found("FAILURE", "topic", "auto.create.topics.enable is off");
    of("brief").await.found("warning", "retention", "retention.ms");
    of("little").await.found("warning", "retention", "retention.bytes");
    of("forgetful").await.found("warning", "retention", "delete.retention.ms");
    of("narrow").await.found("warning", "payload limit", "max.message.bytes");
    of("lonely").await.found("FAILURE", "replicas", "min.insync.replicas");

    let nameless = diagnose(&url, &[]).await;
    assert_eq!(nameless.code, Some(2), "{nameless:#?}");
    assert!(nameless.stderr.contains("--topic"), "{nameless:#?}");
}
