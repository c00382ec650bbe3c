//! A program in Python that knows docs/WIRE.md only and this library, on every broker, both ways.

use std::process::Stdio;
use std::time::Duration;

use futures::StreamExt;
use hydratecache::{Change, Channel, Event, Transport, Ttl, Update};
use hydratecache_testkit::broker::{Broker, Kind};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

/// A first run installs the program's packages.
const LIMIT: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct User {
    name: String,
    age: u32,
    #[serde(default)]
    note: String,
}

/// The program, with a broker to talk to.
struct Program<'a> {
    transport: &'a str,
    url: &'a str,
    topic: &'a str,
}

impl Program<'_> {
    fn start(&self, command: &str, more: &[&str]) -> Child {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/run.sh");
        Command::new(script)
            .args([command, "--transport", self.transport, "--topic", self.topic])
            .args(more)
            .env("HYDRATECACHE_URL", self.url)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the program starts")
    }

    async fn publish(&self, lines: &[&str]) {
        let mut child = self.start("publish", &[]);
        let mut stdin = child.stdin.take().expect("piped");
        stdin.write_all(lines.join("\n").as_bytes()).await.expect("it reads");
        drop(stdin);
        let status = timeout(LIMIT, child.wait()).await.expect("it ends").expect("it ran");
        assert!(status.success(), "the program failed: {status}");
    }

    /// Reads `count` messages; the program is subscribed when this returns.
    async fn read(&self, count: usize) -> (Child, Lines<BufReader<ChildStdout>>) {
        let mut child = self.start("read", &["--count", &count.to_string()]);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        assert_eq!(line(&mut lines).await, "subscribed");
        (child, lines)
    }
}

async fn line(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    let line = timeout(LIMIT, lines.next_line()).await.expect("a line in time");
    line.expect("the program lives").expect("the program goes on")
}

async fn update(updates: &mut (impl futures::Stream<Item = Event<User>> + Unpin)) -> Update<User> {
    loop {
        let event = timeout(LIMIT, updates.next()).await.expect("in time").expect("goes on");
        match event {
            Event::Update(update) => return update,
            Event::Fenced(_) => {}
            other => panic!("an update, not {other:?}"),
        }
    }
}

async fn both_ways(name: &str, url: &str, topic: &str, transport: impl Transport) {
    let channel = Channel::<User>::new(transport, topic).expect("legal");
    let program = Program { transport: name, url, topic };

    let mut updates = channel.subscribe().await.expect("subscribes");
    program
        .publish(&[
            r#"{"kind":"put","key":"user:1","value":{"name":"Ada","age":36},"origin":7,"sequence":1}"#,
            r#"{"kind":"put","key":"user:2","value":{"name":"Grace","age":85,"note":"ñ"},"ttl":[4000000000000000,60000000],"origin":7,"sequence":2}"#,
            r#"{"kind":"remove","key":"user:1","origin":7,"sequence":3}"#,
            r#"{"kind":"clear"}"#,
        ])
        .await;
    let first = update(&mut updates).await;
    assert_eq!(first.value().map(|user| (user.name.as_str(), user.age)), Some(("Ada", 36)));
    let second = update(&mut updates).await;
    assert_eq!(second.ttl.map(|ttl| ttl.duration()), Some(Duration::from_secs(60)));
    assert_eq!(second.value().map(|user| user.note.as_str()), Some("ñ"));
    assert!(
        matches!(update(&mut updates).await.change, Change::Remove(key) if key.as_str() == "user:1")
    );
    assert!(matches!(update(&mut updates).await.change, Change::Clear));
    drop(updates);

    let (mut child, mut lines) = program.read(4).await;
    let long = User { name: "Ada".to_owned(), age: 36, note: "x".repeat(20_000) };
    let ttl = Ttl::starting_now(Duration::from_secs(60)).expect("legal");
    let receipt = channel.put("user:1", &long).ttl(ttl).await.expect("published");
    channel.touch("user:1", ttl).await.expect("published");
    channel.remove("user:1").await.expect("published");
    channel.clear().await.expect("published");
    let mut read = Vec::new();
    for _ in 0..4 {
        let line = line(&mut lines).await;
        read.push(serde_json::from_str::<serde_json::Value>(&line).expect("a line of JSON"));
    }
    let kinds: Vec<_> = read.iter().map(|message| message["kind"].as_str().unwrap_or("")).collect();
    assert_eq!(kinds, ["put", "touch", "remove", "clear"]);
    assert_eq!(read[0]["value"]["note"].as_str().map(str::len), Some(20_000));
    assert_eq!(read[0]["sequence"].as_u64(), Some(receipt.position.sequence.get()));
    assert_eq!(read[0]["origin"].as_u64(), Some(receipt.position.origin.get()));
    assert_eq!(read[0]["clock_version"].as_u64(), Some(receipt.version.number()));
    assert_eq!(read[1]["ttl"][1].as_u64(), Some(60_000_000));
    timeout(LIMIT, child.wait()).await.expect("it ends").expect("it ran");
}

#[tokio::test]
async fn redis_carries_what_another_language_writes_and_reads() {
    let broker = Broker::start(Kind::Redis).await.expect("a Redis of its own");
    let connect = || hydratecache_redis::RedisTransport::connect(broker.url());
    both_ways("redis", broker.url(), "users", connect().await.expect("connects")).await;
    both_ways("redis", broker.url(), "__redis__:users", connect().await.expect("connects")).await;
}

#[tokio::test]
async fn nats_carries_what_another_language_writes_and_reads() {
    let broker = Broker::start(Kind::Nats).await.expect("a NATS of its own");
    let transport = hydratecache_nats::NatsTransport::connect(broker.url()).await;
    both_ways("nats", broker.url(), "users", transport.expect("connects")).await;
}

#[tokio::test]
async fn postgres_carries_what_another_language_writes_and_reads() {
    let broker = Broker::start(Kind::Postgres).await.expect("a PostgreSQL of its own");
    let connect = || hydratecache_postgres::PostgresTransport::connect(broker.url());
    both_ways("postgres", broker.url(), "users", connect().await.expect("connects")).await;
    let long = "u".repeat(200);
    both_ways("postgres", broker.url(), &long, connect().await.expect("connects")).await;
}

#[tokio::test]
async fn kafka_carries_what_another_language_writes_and_reads() {
    let broker = Broker::start(Kind::Kafka).await.expect("a Kafka of its own");
    let connect = || hydratecache_kafka::KafkaTransport::connect(broker.url());
    both_ways("kafka", broker.url(), "users", connect().await.expect("connects")).await;
    both_ways("kafka", broker.url(), "shop:users/eu-west", connect().await.expect("connects"))
        .await;
}
