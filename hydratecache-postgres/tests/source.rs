//! A table as the truth: scans and loads, joined with what the triggers publish, with transactions in
//! flight at every moment.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use hydratecache::cache::{Loaded, Replica, Source, SourceError};
use hydratecache::codec::Json;
use hydratecache::{Channel, ErrorKind, Key, Topic, VersionDomain};
use hydratecache_postgres::{
    Attachment, Migration, PostgresConfig, PostgresSource, PostgresTransport,
};
use hydratecache_testkit::broker::Broker;
use serde::{Deserialize, Serialize};
use support::{LIMIT, Session, postgres, within};
use tokio::sync::Notify;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Account {
    id: i64,
    balance: i64,
    note: String,
}

async fn accounts(rows: i64) -> (Broker, Session) {
    let broker = postgres().await;
    let session = Session::open(broker.url()).await;
    Migration::install(&session.client).await.expect("installs");
    session
        .run(&format!(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, balance bigint NOT NULL DEFAULT 0, \
             note text NOT NULL DEFAULT '');
             INSERT INTO accounts SELECT n FROM generate_series(1, {rows}) AS n"
        ))
        .await;
    let topic = Topic::new("accounts").expect("legal");
    Attachment::new("accounts", topic).attach(&session.client).await.expect("attaches");
    (broker, session)
}

fn config(broker: &Broker) -> PostgresConfig {
    PostgresConfig::from_url(broker.url()).expect("legal")
}

async fn source(broker: &Broker) -> PostgresSource<Account> {
    PostgresSource::table(&config(broker), "public.accounts").await.expect("a table with a key")
}

async fn channel(broker: &Broker) -> Channel<Account> {
    let transport = PostgresTransport::connect(broker.url()).await.expect("connects");
    let channel = Channel::builder_with_codec(transport, "accounts", Json);
    channel.with_versions(VersionDomain::Caller).build().expect("legal")
}

/// Every replica's entries against the table, row by row.
async fn assert_equal(session: &Session, replica: &Replica<Account>) {
    let rows = session.client.query("SELECT id, balance, note FROM accounts", &[]).await;
    let rows = rows.expect("reads");
    assert_eq!(replica.len(), rows.len());
    for row in rows {
        let account = Account { id: row.get(0), balance: row.get(1), note: row.get(2) };
        let held = replica.get(&account.id.to_string());
        assert_eq!(held.as_deref(), Some(&account));
    }
}

/// Stops in the middle of a scan until it is told to go on.
struct Halting<S> {
    source: S,
    is_halfway: Arc<Notify>,
    goes_on: Arc<Notify>,
}

impl<S: Source<Account>> Source<Account> for Halting<S> {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<Account>>, SourceError>> {
        // With the snapshot there is nothing to read again.
        async move { panic!("{key:?} was read again") }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<Account>), SourceError>> {
        let halt = async move |(index, row)| {
            if index == 5 {
                self.is_halfway.notify_one();
                self.goes_on.notified().await;
            }
            row
        };
        self.source.scan().enumerate().then(halt).boxed()
    }
}

#[tokio::test]
async fn transactions_in_flight_during_a_scan_are_neither_lost_nor_applied_twice() {
    let (broker, session) = accounts(10).await;
    let in_flight = Session::open(broker.url()).await;
    let (early, late) = (Session::open(broker.url()).await, Session::open(broker.url()).await);
    let replica = Replica::new();
    let (is_halfway, goes_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let source = Halting {
        source: source(&broker).await,
        is_halfway: is_halfway.clone(),
        goes_on: goes_on.clone(),
    };
    // In flight when the scan begins: written before, committed during, and after it.
    early.run("BEGIN; UPDATE accounts SET balance = 1 WHERE id IN (1, 9)").await;
    late.run("BEGIN; UPDATE accounts SET balance = 2 WHERE id IN (2, 8); DELETE FROM accounts WHERE id = 3").await;
    let users = channel(&broker).await;
    let hydrate = users.hydrate(replica.clone()).with_source(source).into_future();
    let hydration = hydrate.await.expect("subscribes");
    within(LIMIT, is_halfway.notified()).await;
    early.run("COMMIT").await;
    in_flight.run("UPDATE accounts SET balance = 3 WHERE id IN (1, 4, 7)").await;
    in_flight
        .run("INSERT INTO accounts VALUES (11), (12); DELETE FROM accounts WHERE id IN (5, 10, 11)")
        .await;
    hydration.caught_up().await.expect("applied while the scan stands still");
    goes_on.notify_one();
    within(LIMIT, hydration.ready()).await.expect("scanned");
    late.run("COMMIT").await;
    hydration.caught_up().await.expect("caught up");
    assert_equal(&session, &replica).await;
    assert_eq!(hydration.stats().leases_broken, 0, "nothing had to be read again");
    assert_eq!(hydration.stats().reloads, 1);
}

/// A message that the scan contains already is skipped: no reader sees an older value after a newer.
#[tokio::test]
async fn time_never_goes_back_however_much_is_written_during_scans() {
    let (broker, session) = accounts(50).await;
    let is_over = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (url, is_over) = (broker.url().to_owned(), is_over.clone());
            tokio::spawn(async move {
                let session = Session::open(&url).await;
                let mut turn = writer;
                while !is_over.load(Ordering::Relaxed) {
                    turn += 7;
                    session
                        .run(&format!(
                            "BEGIN; UPDATE accounts SET balance = balance + 1 WHERE id = {};
                             UPDATE accounts SET note = 'w{writer}' WHERE id = {}; COMMIT",
                            // Always in this order, so that nobody waits in a circle.
                            turn % 25 + 1,
                            turn % 25 + 26,
                        ))
                        .await;
                    // Faster than anybody can follow, the link is given up in the end.
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    let users = channel(&broker).await;
    for _ in 0..10 {
        let replica = Replica::new();
        let hydration = users.hydrate(replica.clone()).with_source(source(&broker).await).await;
        let hydration = hydration.expect("subscribes");
        within(LIMIT, hydration.ready()).await.expect("scanned");
        let mut seen = [0; 25];
        for _ in 0..300 {
            for (id, seen) in seen.iter_mut().enumerate() {
                let held = replica.get(&(id + 1).to_string()).expect("no row is ever missing");
                assert!(held.balance >= *seen, "{} after {seen}", held.balance);
                *seen = held.balance;
            }
            tokio::task::yield_now().await;
        }
        hydration.caught_up().await.expect("caught up");
    }
    is_over.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("wrote");
    }
    let replica = Replica::new();
    let hydration = users.hydrate(replica.clone()).with_source(source(&broker).await).await;
    let hydration = hydration.expect("subscribes");
    hydration.ready().await.expect("scanned");
    assert_equal(&session, &replica).await;
}

#[tokio::test]
async fn a_row_too_large_for_a_notification_is_loaded_before_any_fence_says_that_it_is_there() {
    let (broker, session) = accounts(3).await;
    let replica = Replica::new();
    let users = channel(&broker).await;
    let hydration = users.hydrate(replica.clone()).with_source(source(&broker).await).await;
    let hydration = hydration.expect("subscribes");
    hydration.ready().await.expect("scanned");
    for length in [9_000, 100, 20_000] {
        session.run(&format!("UPDATE accounts SET note = repeat('x', {length})")).await;
        hydration.caught_up().await.expect("caught up");
        assert_equal(&session, &replica).await;
    }
    session
        .run("UPDATE accounts SET note = repeat('y', 9000); DELETE FROM accounts WHERE id = 2")
        .await;
    hydration.caught_up().await.expect("caught up");
    assert_equal(&session, &replica).await;
    let stats = hydration.stats();
    assert!(stats.refilled >= 6, "{stats:?}");
    assert_eq!(stats.reloads, 1, "nothing else was read");
    assert!(!hydration.freshness().is_suspect());
}

#[tokio::test]
async fn after_an_outage_only_the_table_is_believed() {
    let (broker, session) = accounts(100).await;
    let replica = Replica::new();
    let users = channel(&broker).await;
    let hydration = users
        .hydrate(replica.clone())
        .with_source(source(&broker).await)
        .with_reload_jitter(Duration::ZERO)
        .await
        .expect("subscribes");
    hydration.ready().await.expect("scanned");
    for round in 0..3 {
        session
            .run(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'hydratecache%';
                 UPDATE accounts SET balance = {round} WHERE id % 3 = {round};
                 DELETE FROM accounts WHERE id % 50 = {round}"
            ))
            .await;
        let reloads = round + 2;
        let is_repaired = |_| hydration.stats().reloads >= reloads;
        within(LIMIT, hydration.wait_until(is_repaired)).await.expect("repaired");
        hydration.caught_up().await.expect("caught up");
        assert_equal(&session, &replica).await;
    }
}

#[tokio::test]
async fn tables_with_other_keys_and_queries_are_scanned_and_loaded() {
    let (broker, session) = accounts(3).await;
    session
        .run(
            "CREATE TABLE \"Odd Names\" (\"a b\" text, \"C\" date, v int, PRIMARY KEY (\"a b\", \"C\"));
             INSERT INTO \"Odd Names\" VALUES ('x:y\\z', '2024-02-29', 1), ('', '0001-01-01', 2);
             CREATE TABLE empty_key (name text PRIMARY KEY); INSERT INTO empty_key VALUES (''), ('a');
             CREATE TABLE keyless (a int)",
        )
        .await;
    let config = config(&broker);
    let odd: PostgresSource<serde_json::Value> =
        PostgresSource::table(&config, "public.\"Odd Names\"").await.expect("has a key");
    let rows: Vec<_> = odd.scan().try_collect().await.expect("scans");
    assert_eq!(rows.len(), 2);
    for (key, row) in rows {
        let loaded = odd.load(key.clone()).await.expect("loads").expect("is there");
        assert_eq!(loaded.value(), row.value(), "{key:?}");
    }
    let key = |text: &str| Key::new(text).expect("legal");
    for missing in ["x:y\\z:2024-02-29", "x", "x\\:y\\\\z:not a date", "\\"] {
        assert!(odd.load(key(missing)).await.expect("no error").is_none(), "{missing}");
    }
    let accounts = source(&broker).await;
    assert!(accounts.load(key("2")).await.expect("loads").is_some());
    for missing in ["02", "x", "99999999999999999999", "4"] {
        assert!(accounts.load(key(missing)).await.expect("no error").is_none(), "{missing}");
    }
    let unnamed: PostgresSource<serde_json::Value> =
        PostgresSource::table(&config, "public.empty_key").await.expect("has a key");
    assert_eq!(unnamed.scan().count().await, 1, "no message can carry the other's key");

    let query = "SELECT id AS key, to_json(balance) AS value FROM public.accounts WHERE id < 3;";
    let query: PostgresSource<i64> = PostgresSource::query(&config, query).expect("legal");
    assert_eq!(query.scan().count().await, 2);
    assert_eq!(query.load(key("1")).await.expect("loads").map(|row| *row.value()), Some(0));
    assert!(query.load(key("3")).await.expect("loads").is_none());

    for table in ["public.keyless", "missing"] {
        let refused = PostgresSource::<Account>::table(&config, table).await;
        assert_eq!(refused.expect_err("no key").kind(), ErrorKind::InvalidInput);
    }
    for broken in ["SELECT 1", "SELECT NULL::text AS key, '1'::json AS value", "nonsense"] {
        let source: PostgresSource<i64> = PostgresSource::query(&config, broken).expect("taken");
        assert!(source.scan().try_collect::<Vec<_>>().await.is_err(), "{broken}");
    }
}

#[tokio::test]
async fn loads_go_on_after_their_connection_was_lost() {
    let (broker, session) = accounts(3).await;
    let source = Arc::new(source(&broker).await);
    let key = Key::new("1").expect("legal");
    source.load(key.clone()).await.expect("loads").expect("is there");
    session
        .run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'hydratecache%'")
        .await;
    // The first ones may meet the lost connection; every one that follows its end does not.
    let attempts = async {
        while source.load(key.clone()).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    within(LIMIT, attempts).await;
    let loads = join_all((0..100).map(|_| source.load(key.clone()))).await;
    assert!(loads.iter().all(Result::is_ok));
}
