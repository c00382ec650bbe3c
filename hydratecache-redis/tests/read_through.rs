//! Reads through `Hydrated` over a real Redis: one load for a missing key, none over an update, and
//! freshness that is proven or refused.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{Loaded, Mode, Replica, Source, SourceError, State};
use hydratecache::{Channel, ErrorKind, Hydrated, Key, VersionDomain};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::Broker;
use support::{redis, within};
use tokio::time::{Instant, sleep};

type Users = Hydrated<String, Replica<String>>;

const LIMIT: Duration = Duration::from_secs(20);

/// A database far enough away that loads and messages cross.
#[derive(Clone, Default)]
struct Table {
    rows: Arc<Mutex<BTreeMap<String, (String, u64)>>>,
    loads: Arc<AtomicUsize>,
}

impl Table {
    fn write(&self, key: &str, value: &str, version: u64) {
        let row = (value.to_owned(), version);
        self.rows.lock().expect("no panic").insert(key.to_owned(), row);
    }

    fn row(&self, key: &str) -> Option<(String, u64)> {
        self.rows.lock().expect("no panic").get(key).cloned()
    }
}

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move {
            let number = self.loads.fetch_add(1, Ordering::SeqCst);
            let row = self.row(key.as_str());
            sleep(Duration::from_micros(number as u64 % 7 * 100)).await;
            Ok(row.map(|(value, version)| Loaded::new(value).with_version(version)))
        }
        .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let rows = self.rows.lock().expect("no panic").clone();
        let rows = rows.into_iter().map(|(key, (value, version))| {
            Ok((Key::new(key)?, Loaded::new(value).with_version(version)))
        });
        stream::iter(rows).boxed()
    }
}

async fn channel(broker: &Broker) -> Channel<String> {
    let transport = RedisTransport::connect(broker.url()).await.expect("connects");
    let builder = Channel::builder(transport, "users").with_versions(VersionDomain::Caller);
    builder.build().expect("legal")
}

async fn users(broker: &Broker, mode: Mode, table: Option<&Table>) -> Users {
    let builder = Hydrated::builder(channel(broker).await, Replica::new())
        .with_hydration(|hydrate| hydrate.with_mode(mode));
    let builder = match table {
        Some(table) => builder.source(table.clone()),
        None => builder,
    };
    let users = builder.start().await.expect("subscribes");
    within(LIMIT, users.ready()).await.expect("the table can be read");
    users
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_reads_of_a_missing_key_load_it_once_in_each_process() {
    let (broker, table) = (redis().await, Table::default());
    table.write("a", "Ada", 1);
    for loads in 1..=2 {
        let users = users(&broker, Mode::UpdateIfPresent, Some(&table)).await;
        let reads = (0..1000).map(|_| {
            let users = users.clone();
            tokio::spawn(async move { users.get_or_load("a").await })
        });
        for read in within(LIMIT, join_all(reads)).await {
            let read = read.expect("no panic").expect("the source answers").expect("it has a row");
            assert_eq!(*read, "Ada");
        }
        assert_eq!(table.loads.load(Ordering::SeqCst), loads);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_load_that_began_before_an_update_ever_overwrites_it() {
    let (broker, table) = (redis().await, Table::default());
    let writer = channel(&broker).await;
    let users = users(&broker, Mode::Invalidate, Some(&table)).await;
    let is_written = Arc::new(AtomicBool::new(false));
    let readers = (0..4_usize).map(|reader| {
        let (users, is_written) = (users.clone(), is_written.clone());
        tokio::spawn(async move {
            for read in 0.. {
                let key = format!("k{}", (reader + read) % 3);
                users.get_or_load(&key).await.expect("the source answers");
                tokio::task::yield_now().await;
                if is_written.load(Ordering::SeqCst) {
                    return;
                }
            }
        })
    });
    let readers: Vec<_> = readers.collect();
    let writing = async {
        // Until an update has overtaken a load.
        for version in (1..).take_while(|it| *it <= 1000 || users.stats().leases_broken == 0) {
            let (key, value) = (format!("k{}", version % 3), version.to_string());
            table.write(&key, &value, version);
            writer.put(&key, &value).version(version).await.expect("published");
        }
    };
    within(LIMIT, writing).await;
    is_written.store(true, Ordering::SeqCst);
    for reader in readers {
        within(LIMIT, reader).await.expect("no panic");
    }
    within(LIMIT, users.caught_up()).await.expect("caught up");
    for key in ["k0", "k1", "k2"] {
        let row = table.row(key).map(|(value, _)| value);
        let cached = users.get(key).map(|read| read.to_string());
        assert!(cached.is_none() || cached == row, "{key}: {cached:?} is not {row:?}");
    }
    assert!(users.stats().loads > 0 && users.stats().leases_broken > 0, "{:?}", users.stats());
}

#[tokio::test]
async fn a_read_within_a_bound_sees_every_write_that_was_acknowledged_before() {
    const AGE: Duration = Duration::from_millis(20);
    let broker = redis().await;
    let writer = channel(&broker).await;
    let users = users(&broker, Mode::Hydrate, None).await;
    let mut acknowledged = Vec::new();
    let mut proven = 0;
    for version in 1..=300_u64 {
        writer.put("a", &version.to_string()).version(version).await.expect("published");
        acknowledged.push((Instant::now(), version));
        let called = Instant::now();
        match users.get_within("a", AGE).await {
            Ok(read) => {
                let seen: u64 = read.map_or(0, |read| read.parse().expect("a number"));
                let must = acknowledged.iter().rev().find(|(at, _)| called - *at > AGE);
                assert!(seen >= must.map_or(0, |(_, version)| *version));
                proven += 1;
            }
            // A machine that is busy elsewhere may not be able to prove so much: it says so.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unproven, "{error}"),
        }
    }
    assert!(proven > 20, "{proven} of 300 were proven");
}

#[tokio::test]
async fn while_redis_is_down_nothing_is_proven_but_by_the_source() {
    const AGE: Duration = Duration::from_millis(500);
    let (broker, table) = (redis().await, Table::default());
    table.write("a", "old", 1);
    let with_source = users(&broker, Mode::Hydrate, Some(&table)).await;
    let without = users(&broker, Mode::Hydrate, None).await;
    channel(&broker).await.put("a", &"old".to_owned()).version(1).await.expect("published");
    for users in [&with_source, &without] {
        within(LIMIT, users.caught_up()).await.expect("caught up");
        assert_eq!(users.get("a").as_deref().map(String::as_str), Some("old"));
    }
    broker.kill9().await.expect("killed");
    table.write("a", "new", 2);
    for users in [&with_source, &without] {
        let suspect = users.hydration().wait_until(hydratecache::cache::Freshness::is_suspect);
        within(LIMIT, suspect).await.expect("it runs");
    }
    sleep(AGE).await;
    let read = within(LIMIT, with_source.get_within("a", AGE)).await.expect("the source answers");
    assert_eq!(read.as_deref().map(String::as_str), Some("new"));
    let error = within(LIMIT, without.get_within("a", AGE)).await.expect_err("nothing proves it");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    assert!(without.get("a").is_some_and(|read| read.freshness().proven_within() > Some(AGE)));

    broker.start_again().await.expect("starts");
    for users in [&with_source, &without] {
        let live = users.hydration().wait_until(|fresh| fresh.state() == State::Live);
        within(LIMIT, live).await.expect("it runs");
    }
    let read = within(LIMIT, with_source.get_within("a", 10 * AGE)).await.expect("proven again");
    assert_eq!(read.as_deref().map(String::as_str), Some("new"));
    let error = within(LIMIT, without.get_within("a", 10 * AGE)).await.expect_err("it was cleared");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    channel(&broker).await.put("a", &"newest".to_owned()).version(3).await.expect("published");
    within(LIMIT, without.caught_up()).await.expect("caught up");
    let read = within(LIMIT, without.get_within("a", 10 * AGE)).await.expect("proven again");
    assert_eq!(read.as_deref().map(String::as_str), Some("newest"));
}
