//! `hydratecache snapshot` beside replicas that are live, over real brokers.

#![cfg(all(feature = "redis", feature = "postgres", feature = "kafka"))]

mod support;

use std::process::{Output, Stdio};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use hydratecache::cache::{Loaded, Replica, Source, SourceError, WarmStart};
use hydratecache::codec::Json;
use hydratecache::{Channel, Hydrated, Key, Transport, Ttl, VersionDomain};
use hydratecache_kafka::KafkaConfig;
use hydratecache_postgres::{PostgresConfig, PostgresSource, PostgresTransport};
use hydratecache_redis::RedisTransport;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use support::{Following, Kind, broker, command, kafka_url, lines, within};

const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize, Deserialize)]
struct User {
    name: String,
}

fn user(name: &str) -> User {
    User { name: name.to_owned() }
}

/// Three rows.
struct Table;

impl Source<User> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<User>>, SourceError>> {
        let row = ["a", "b", "c"].contains(&key.as_str()).then(|| user(key.as_str()));
        async move { Ok(row.map(|row| Loaded::new(row).with_version(1))) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<User>), SourceError>> {
        let row = |name| Ok((Key::new(name)?, Loaded::new(user(name)).with_version(1)));
        stream::iter(["a", "b", "c"].map(row)).boxed()
    }
}

/// A channel whose caller gives versions.
fn channel(transport: impl Transport) -> Channel<User> {
    let users = Channel::builder(transport, "users").with_versions(VersionDomain::Caller);
    users.build().expect("legal")
}

/// A live replica that others may copy.
async fn replica<T: Send + Sync + 'static>(
    channel: Channel<T>,
    source: impl Source<T>,
) -> Hydrated<T, Replica<T>> {
    let replica = Hydrated::builder(channel, Replica::new()).source(source);
    let replica = replica.with_warm_start(WarmStart::new()).start().await.expect("starts");
    within(LIMIT, replica.ready()).await.expect("filled");
    replica
}

/// Runs the command to its end beside what is live here.
async fn snapshot(url: &str, arguments: &[&str]) -> Output {
    let mut command =
        tokio::process::Command::from(command(&[&["snapshot", "users"], arguments].concat()));
    command.env("HYDRATECACHE_TRANSPORT", url).stdin(Stdio::null()).kill_on_drop(true);
    within(LIMIT, command.output()).await.expect("it runs")
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_replica_holds_is_shown_as_lines_and_compared_with_a_file() {
    let redis = broker(Kind::Redis).await;
    let transport = RedisTransport::connect(redis.url()).await.expect("connects");
    let users = channel(transport);
    let replica = replica(users.clone(), Table).await;
    let hour = Ttl::starting_now(Duration::from_secs(3600)).expect("legal");
    let written = users.put("c", &user("Ada")).version(7).ttl(hour).await.expect("published");
    within(LIMIT, replica.wait_for(written)).await.expect("applied");

    let shown = snapshot(redis.url(), &[]).await;
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let rows: Vec<Value> =
        lines(&shown.stdout).map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let keys: Vec<_> = rows.iter().map(|row| row["key"].as_str().expect("text")).collect();
    assert_eq!(keys, ["a", "b", "c"]);
    assert_eq!((&rows[0]["value"]["name"], rows[0].get("ttl")), (&"a".into(), None));
    assert_eq!((&rows[2]["value"]["name"], &rows[2]["version"]), (&"Ada".into(), &7.into()));
    let left = rows[2]["ttl"].as_f64().expect("a number of seconds");
    assert!(left > 3_000.0 && left <= 3_600.0, "{left}");

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("users.jsonl");
    let file = path.to_str().expect("text");
    std::fs::write(&path, &shown.stdout).expect("written");
    let equal = snapshot(redis.url(), &["--against", file]).await;
    assert_eq!(equal.status.code(), Some(0), "{}", text(&equal.stdout));
    assert_eq!(text(&equal.stderr), "3 entries held, 3 in the source, 0 differ\n");

    let other = text(&shown.stdout).replace("Ada", "Bob").replace("\"key\":\"a\"", "\"key\":\"z\"");
    std::fs::write(&path, other).expect("written");
    let differing =
        snapshot(redis.url(), &["--against", file, "--patience", "100ms", "--json"]).await;
    assert_eq!(differing.status.code(), Some(1), "{}", text(&differing.stderr));
    let found: Vec<_> = lines(&differing.stdout).collect();
    let expected = [
        r#"{"key":"a","difference":"extra"}"#,
        r#"{"key":"c","difference":"different"}"#,
        r#"{"key":"z","difference":"missing"}"#,
        r#"{"held":3,"in_source":3,"differences":3}"#,
    ];
    assert_eq!(found, expected);
    let args = ["snapshot", "users", "--against", file, "--patience", "100ms"];
    let mut unread = Following::start(&args, redis.url());
    unread.close_output();
    assert_eq!(unread.ended().await.status.code(), Some(1), "nobody read the differences");
    let some = ["--against", file, "--patience", "100ms", "--held-only", "--key-prefix", "z"];
    assert_eq!(snapshot(redis.url(), &some).await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_postgres_is_compared_by_its_rows() {
    let postgres = broker(Kind::Postgres).await;
    let (db, connection) =
        tokio_postgres::connect(postgres.url(), tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    let table = "CREATE TABLE public.people (id text PRIMARY KEY, name text);
        INSERT INTO public.people VALUES ('a', 'Ada'), ('b', 'Bob')";
    db.batch_execute(table).await.expect("made");
    let config = PostgresConfig::from_url(postgres.url()).expect("legal");
    let transport = PostgresTransport::connect(postgres.url()).await.expect("connects");
    let users = Channel::<Value>::builder_with_codec(transport, "users", Json);
    let users = users.with_versions(VersionDomain::Caller).build().expect("legal");
    let source = PostgresSource::table(&config, "public.people").await.expect("there");
    let _replica = replica(users, source).await;

    let by_table = [
        "--codec",
        "json",
        "--patience",
        "100ms",
        "--source",
        postgres.url(),
        "--against-table",
        "people",
    ];
    let equal = snapshot(postgres.url(), &by_table).await;
    assert_eq!(equal.status.code(), Some(0), "{}{}", text(&equal.stdout), text(&equal.stderr));
    // No trigger tells anyone.
    db.batch_execute("UPDATE public.people SET name = 'Bea' WHERE id = 'b'")
        .await
        .expect("written");
    let differing = snapshot(postgres.url(), &by_table).await;
    assert_eq!(differing.status.code(), Some(1), "{}", text(&differing.stderr));
    assert_eq!(text(&differing.stdout), "b: the source has another value\n");
    let query = "SELECT id AS key, to_json(p) AS value FROM people p WHERE id = 'a'";
    let by_query = [
        "--codec",
        "json",
        "--key-prefix",
        "a",
        "--source",
        postgres.url(),
        "--against-query",
        query,
    ];
    assert_eq!(snapshot(postgres.url(), &by_query).await.status.code(), Some(0));
    let shouting = "SELECT (E'\\x1b[2J')::int::text AS key, to_json(1) AS value";
    let by_shout = ["--source", postgres.url(), "--against-query", shouting, "--codec", "json"];
    let failed = snapshot(postgres.url(), &by_shout).await;
    assert_eq!(failed.status.code(), Some(3));
    let said = text(&failed.stderr).trim_end();
    assert!(said.contains("[2J") && !said.contains(char::is_control), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_kafka_keeps_is_shown_without_any_replica() {
    let kafka = broker(Kind::Kafka).await;
    let url = kafka_url(&kafka);
    let transport = KafkaConfig::from_url(&url).expect("legal").connect().await.expect("connects");
    let users = channel(transport);
    for (version, key) in [(1, "a"), (2, "b"), (3, "a")] {
        let name = format!("{key}{version}");
        users.put(key, &user(&name)).version(version).await.expect("published");
    }
    users.remove("b").version(4).await.expect("published");
    let shown = snapshot(&url, &["--caller-versions"]).await;
    assert_eq!(shown.status.code(), Some(0), "{}", text(&shown.stderr));
    let expected = "{\"key\":\"a\",\"value\":{\"name\": \"a3\"},\"version\":3}\n";
    assert_eq!(text(&shown.stdout), expected);
    let refused = snapshot(&url, &[]).await;
    assert_eq!(refused.status.code(), Some(3));
    assert!(text(&refused.stderr).contains("--caller-versions"), "{}", text(&refused.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_replica_that_sends_a_copy_it_says_what_that_takes() {
    let redis = broker(Kind::Redis).await;
    let nobody = snapshot(redis.url(), &["--wait", "1s"]).await;
    assert_eq!(nobody.status.code(), Some(3));
    assert!(text(&nobody.stderr).contains("WarmStart"), "{}", text(&nobody.stderr));
    for wrong in [
        &["--against", "/no/such/file"][..],
        &["--against-table", "people"],
        &["--source", "redis://host", "--against-table", "people"],
        &["--source", "postgres://host/db"],
        &["--source-ca-file", "/no/such/file"],
    ] {
        let refused = snapshot(redis.url(), wrong).await;
        assert_eq!(refused.status.code(), Some(2), "{wrong:?}: {}", text(&refused.stderr));
    }
}
