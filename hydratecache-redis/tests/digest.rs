//! Repair by comparing hashes with another replica, over a real Redis.

mod support;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{Freshness, Loaded, Replica, Source, SourceError, WarmStart};
use hydratecache::{Channel, Hydrated, Key, VersionDomain};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::Broker;
use support::{admin, redis, within};
use tokio::time::{sleep, timeout};

const LIMIT: Duration = Duration::from_secs(60);

const ROWS: usize = 20_000;

type Users = Hydrated<String, Replica<String>>;

/// A table whose scans are counted.
#[derive(Clone, Default)]
struct Table {
    rows: Arc<Mutex<BTreeMap<String, (String, u64)>>>,
    scans: Arc<AtomicUsize>,
}

impl Table {
    fn write(&self, number: usize, version: u64) -> (String, String) {
        let (key, value) = (format!("key:{number}"), format!("{number} of {version}"));
        let row = (value.clone(), version);
        self.rows.lock().expect("no panic").insert(key.clone(), row);
        (key, value)
    }

    fn scans(&self) -> usize {
        self.scans.load(Ordering::SeqCst)
    }

    /// Whether `users` has exactly what is here.
    fn is_in(&self, users: &Users) -> bool {
        let rows = self.rows.lock().expect("no panic");
        let cache = users.cache();
        let is_same = |(key, (value, _)): (&String, &(String, u64))| {
            cache.get(key).is_some_and(|cached| *cached == *value)
        };
        cache.len() == rows.len() && rows.iter().all(is_same)
    }
}

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        async move {
            let row = self.rows.lock().expect("no panic").get(key.as_str()).cloned();
            Ok(row.map(|(value, version)| Loaded::new(value).with_version(version)))
        }
        .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        self.scans.fetch_add(1, Ordering::SeqCst);
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

async fn users(broker: &Broker, table: &Table) -> Users {
    let builder = Hydrated::builder(channel(broker).await, Replica::new());
    let builder = builder.source(table.clone()).with_warm_start(WarmStart::new());
    let users = builder.start().await.expect("subscribes");
    within(LIMIT, users.ready()).await.expect("the table can be read");
    users
}

/// Waits until `users` has repaired itself as often as this, and is live.
async fn repaired(users: &Users, times: u64) {
    let is_repaired = async {
        loop {
            let stats = users.stats();
            if stats.digests + stats.reloads >= times && !users.freshness().is_suspect() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    let is_in_time = timeout(LIMIT, is_repaired).await.is_ok();
    assert!(is_in_time, "{:?} {:?}", users.freshness(), users.stats());
}

async fn is_suspect(users: &Users) {
    let is_told = users.hydration().wait_until(Freshness::is_suspect);
    within(LIMIT, is_told).await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_connection_was_killed_fetches_what_it_missed_and_no_more() {
    let (broker, table) = (redis().await, Table::default());
    for number in 0..ROWS {
        table.write(number, 1);
    }
    let writer = channel(&broker).await;
    let whole = users(&broker, &table).await;
    // The id of each client that is there already.
    let ids = |clients: Vec<String>| -> Vec<String> {
        let id = |line: &String| line.split_whitespace().next().map(str::to_owned);
        clients.iter().filter_map(id).collect()
    };
    let before = ids(support::clients(&broker).await);
    let cut = users(&broker, &table).await;
    assert_eq!((table.scans(), cut.stats().copies), (1, 1));
    let copied = cut.stats().entries_copied;
    let own = ids(support::clients(&broker).await).into_iter().filter(|id| !before.contains(id));
    for id in own {
        let id = id.strip_prefix("id=").expect("its number").to_owned();
        admin(&broker, &["CLIENT", "KILL", "ID", &id]).await;
    }
    for number in 0..50 {
        let (key, value) = table.write(number * 7, 2);
        writer.put(&key, &value).version(2).await.expect("accepted");
        let key = format!("key:{}", 10_000 + number * 7);
        table.rows.lock().expect("no panic").remove(&key);
        writer.remove(&key).version(2).await.expect("accepted");
    }
    repaired(&cut, 1).await;
    within(LIMIT, cut.caught_up()).await.expect("the link is whole");
    assert!(table.is_in(&cut), "{:?}", cut.stats());
    let stats = cut.stats();
    assert!(stats.entries_copied - copied <= 50, "{stats:?}");
    assert_eq!((stats.digests, stats.reloads, table.scans()), (1, 0, 1), "{stats:?}");
    assert!(table.is_in(&whole));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_restart_of_the_broker_two_replicas_at_most_read_the_source() {
    let (broker, table) = (redis().await, Table::default());
    for number in 0..ROWS {
        table.write(number, 1);
    }
    let fleet = join_all((0..10).map(|_| users(&broker, &table))).await;
    let scans = table.scans();
    let repairs = |users: &Users| users.stats().digests + users.stats().reloads;
    let before: Vec<u64> = fleet.iter().map(repairs).collect();
    broker.kill9().await.expect("it was there");
    join_all(fleet.iter().map(is_suspect)).await;
    for number in 0..50 {
        // Nobody can be told.
        table.write(number * 7, 2);
    }
    broker.start_again().await.expect("it starts");
    join_all(fleet.iter().zip(before).map(|(users, before)| repaired(users, before + 1))).await;
    for users in &fleet {
        within(LIMIT, users.caught_up()).await.expect("the link is whole");
        assert!(table.is_in(users), "{:?}", users.stats());
    }
    let scans = table.scans() - scans;
    assert!((1..=2).contains(&scans), "{scans}");
}
