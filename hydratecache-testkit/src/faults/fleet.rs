//! A fleet of replicas and one table: how often the table is read when they start together, lose a link
//! or lose their broker, and whether all of them have what is in it afterwards.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join, join_all};
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{
    Freshness, HydrationStats, Loaded, Replica, Source, SourceError, WarmStart,
};
use hydratecache::{Channel, Hydrated, Key, Transport, VersionDomain};
use tokio::time::sleep;

use super::support::{LONG, connect, connect_via, in_time, millis, proxy, secs, until};
use super::{Missed, Subject};

const TOPIC: &str = "users";

/// Several chunks of a copy, and several groups of a digest.
const ROWS: u64 = 20_000;

type Users = Hydrated<u64, Replica<u64>>;

/// One of them reads the table, two at most, and the others copy.
pub async fn of_ten_that_start_together_two_at_most_read_the_source(subject: &dyn Subject) {
    let table = Table::full();
    let fleet = join_all((0..10).map(|_| users(subject, &table))).await;
    for users in &fleet {
        all_of_it(users, &table).await;
    }
    assert!((1..=2).contains(&table.scans()), "{}", table.scans());
}

/// What was written while its link was cut, and nothing else, is sent; nobody reads the table.
pub async fn a_replica_whose_link_was_cut_fetches_what_it_missed_and_no_more(
    subject: &dyn Subject,
) {
    const MISSED: u64 = 50;
    let (table, proxy) = (Table::full(), proxy(subject));
    let whole = users(subject, &table).await;
    let writer = channel(connect(subject).await);
    let cut = over(connect_via(subject, &proxy).await, &table).await;
    let before = cut.stats();
    assert_eq!((table.scans(), before.copies), (1, 1));
    proxy.refuse_new();
    proxy.cut();
    suspect(&cut).await;
    for number in 0..MISSED {
        write(&writer, &table, 7 * number).await;
        remove(&writer, &table, 10_000 + 7 * number).await;
    }
    proxy.heal().expect("heals");
    all_of_it(&cut, &table).await;
    all_of_it(&whole, &table).await;
    let stats = cut.stats();
    assert_eq!((stats.digests, stats.reloads, table.scans()), (1, 0, 1), "{stats:?}");
    assert_eq!(stats.entries_copied - before.entries_copied, MISSED, "{stats:?}");
}

/// A copy whose receiver loses its link amid it is begun again, or replaced by the table.
pub async fn a_replica_whose_link_is_cut_amid_its_copy_has_all_of_it_in_the_end(
    subject: &dyn Subject,
) {
    let (table, proxy) = (Table::full(), proxy(subject));
    let whole = users(subject, &table).await;
    let writer = channel(connect(subject).await);
    let transport = connect_via(subject, &proxy).await;
    proxy.throttle(200_000);
    let late = begun(transport, &table).await;
    until("some of the copy", secs(20), async || late.stats().entries_copied > ROWS / 10).await;
    proxy.refuse_new();
    proxy.cut();
    for number in 0..50 {
        write(&writer, &table, 7 * number).await;
        remove(&writer, &table, 10_000 + 7 * number).await;
    }
    proxy.heal().expect("heals");
    in_time("its rows", secs(60), late.ready()).await.expect("filled");
    all_of_it(&late, &table).await;
    all_of_it(&whole, &table).await;
    assert!((1..=2).contains(&table.scans()), "{}", table.scans());
}

/// Ten replicas, as [`of_so_many_that_lose_their_broker_two_at_most_read_the_source`] tries them.
pub async fn of_ten_that_lose_their_broker_two_at_most_read_the_source(subject: &dyn Subject) {
    of_so_many_that_lose_their_broker_two_at_most_read_the_source(subject, 10).await;
}

/// The broker is killed and started again while every replica's process writes, before, meanwhile and afterwards:
/// some of its rows are told to some, some are told to nobody, and some are told twice.
pub async fn of_so_many_that_lose_their_broker_two_at_most_read_the_source(
    subject: &dyn Subject,
    replicas: usize,
) {
    assert_eq!(subject.missed(), Missed::Gone, "a broker that keeps messages has them read again");
    // Whoever does not hear of a claim in time makes one, too; on a busy machine one more may be late.
    let mut scans = scans_after_a_restart(subject, replicas).await;
    if scans == 3 {
        scans = scans_after_a_restart(subject, replicas).await;
    }
    assert!((1..=2).contains(&scans), "{scans}");
}

/// How often the table is read by all of them.
async fn scans_after_a_restart(subject: &dyn Subject, replicas: usize) -> usize {
    let table = Table::full();
    let fleet = join_all((0..replicas).map(|_| users(subject, &table))).await;
    let (scans, is_over) = (table.scans(), AtomicBool::new(false));
    // 50 writes a second in all: each comes to every replica, in one process here.
    let pause = millis(20 * replicas as u64);
    let writes = fleet.iter().zip(0..).map(|(users, node)| {
        let (table, is_over) = (&table, &is_over);
        async move { writes(users.channel(), table, (node, pause), is_over).await }
    });
    let outage = async {
        sleep(secs(1)).await;
        subject.broker().kill9().await.expect("killed");
        join_all(fleet.iter().map(suspect)).await;
        sleep(secs(1)).await;
        subject.broker().start_again().await.expect("restarted");
        join_all(fleet.iter().map(live)).await;
        sleep(secs(1)).await;
        is_over.store(true, Ordering::SeqCst);
    };
    join(join_all(writes), outage).await;
    join_all(fleet.iter().map(|users| all_of_it(users, &table))).await;
    let sum = |of: fn(&HydrationStats) -> u64| -> u64 {
        fleet.iter().map(|users| of(&users.stats())).sum()
    };
    let (digests, copies) = (sum(|stats| stats.digests), sum(|stats| stats.copies));
    let (scans, loads) = (table.scans() - scans, table.loads());
    println!(
        "{replicas} replicas after a restart: scans={scans} loads={loads} digests={digests} copies={copies}"
    );
    scans
}

/// Writes rows of its own until it is over. What cannot be published in time is in the table all the same.
async fn writes(
    channel: &Channel<u64>,
    table: &Table,
    (node, pause): (u64, Duration),
    is_over: &AtomicBool,
) {
    let mut round = 0;
    while !is_over.load(Ordering::SeqCst) {
        round += 1;
        let number = (round * 101 + node * 397) % ROWS;
        if round % 8 == 0 {
            drop(channel.remove(key(number)).version(table.remove(number)).await);
        } else {
            let version = table.write(number);
            drop(channel.put(key(number), &version).version(version).await);
        }
        sleep(pause + millis(node % 10)).await;
    }
}

async fn write(channel: &Channel<u64>, table: &Table, number: u64) {
    let version = table.write(number);
    channel.put(key(number), &version).version(version).await.expect("accepted");
}

async fn remove(channel: &Channel<u64>, table: &Table, number: u64) {
    let version = table.remove(number);
    channel.remove(key(number)).version(version).await.expect("accepted");
}

fn key(number: u64) -> String {
    format!("key:{number}")
}

fn channel(transport: Arc<dyn Transport>) -> Channel<u64> {
    let channel = Channel::builder(transport, TOPIC).with_versions(VersionDomain::Caller);
    channel.build().expect("legal")
}

/// A replica that begins to be filled.
async fn begun(transport: Arc<dyn Transport>, table: &Table) -> Users {
    let builder = Hydrated::builder(channel(transport), Replica::new()).source(table.clone());
    builder.with_warm_start(WarmStart::new()).start().await.expect("starts")
}

/// One that is filled, and knows it.
async fn over(transport: Arc<dyn Transport>, table: &Table) -> Users {
    let users = begun(transport, table).await;
    in_time("its rows", secs(60), users.ready()).await.expect("filled");
    in_time("a proof", LONG, users.caught_up()).await.expect("the link is whole");
    users
}

async fn users(subject: &dyn Subject, table: &Table) -> Users {
    over(connect(subject).await, table).await
}

async fn suspect(users: &Users) {
    let told = users.hydration().wait_until(Freshness::is_suspect);
    in_time("the loss of the link", secs(20), told).await.expect("it goes on");
}

async fn live(users: &Users) {
    let repaired = users.hydration().wait_until(|freshness| !freshness.is_suspect());
    in_time(format!("the repair of {users:?}"), secs(60), repaired).await.expect("it goes on");
}

/// Waits until `users` shows exactly what is in `table`, and knows it.
async fn all_of_it(users: &Users, table: &Table) {
    let is_same = async || {
        let is_proven = users.caught_up().await.is_ok_and(|it| it.proven_within().is_some());
        is_proven && table.is_in(users)
    };
    let waiting = async {
        while !is_same().await {
            sleep(millis(10)).await;
        }
    };
    let is_in_time = tokio::time::timeout(secs(60), waiting).await.is_ok();
    let (freshness, differs) = (users.freshness(), table.differs(users));
    assert!(is_in_time, "{freshness:?}, {:?}: {differs:?}", users.stats());
}

/// A table that counts how often it is read. The value of a row is its version.
#[derive(Debug, Clone)]
struct Table(Arc<Rows>);

#[derive(Debug)]
struct Rows {
    by_number: Mutex<BTreeMap<u64, u64>>,
    versions: AtomicU64,
    scans: AtomicUsize,
    loads: AtomicUsize,
}

impl Table {
    fn full() -> Self {
        Self(Arc::new(Rows {
            by_number: Mutex::new((0..ROWS).map(|number| (number, 1)).collect()),
            versions: AtomicU64::new(1),
            scans: AtomicUsize::new(0),
            loads: AtomicUsize::new(0),
        }))
    }

    fn rows(&self) -> MutexGuard<'_, BTreeMap<u64, u64>> {
        self.0.by_number.lock().expect("nobody panics with the lock")
    }

    fn write(&self, number: u64) -> u64 {
        let mut rows = self.rows();
        let version = self.0.versions.fetch_add(1, Ordering::SeqCst) + 1;
        rows.insert(number, version);
        version
    }

    fn remove(&self, number: u64) -> u64 {
        let mut rows = self.rows();
        rows.remove(&number);
        self.0.versions.fetch_add(1, Ordering::SeqCst) + 1
    }

    fn scans(&self) -> usize {
        self.0.scans.load(Ordering::SeqCst)
    }

    fn loads(&self) -> usize {
        self.0.loads.load(Ordering::SeqCst)
    }

    /// The first row that `users` shows otherwise: its number, what is here and what is there.
    fn differs(&self, users: &Users) -> Option<(u64, Option<u64>, Option<u64>)> {
        let rows = self.rows();
        let pairs = (0..ROWS).map(|number| {
            let here = rows.get(&number).copied();
            (number, here, users.cache().get(&key(number)).map(|value| *value))
        });
        pairs.into_iter().find(|(_, here, there)| here != there)
    }

    fn is_in(&self, users: &Users) -> bool {
        self.differs(users).is_none()
    }
}

fn loaded(version: u64) -> Loaded<u64> {
    Loaded::new(version).with_version(version)
}

impl Source<u64> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<u64>>, SourceError>> {
        async move {
            self.0.loads.fetch_add(1, Ordering::SeqCst);
            let number = key.as_str().strip_prefix("key:").and_then(|number| number.parse().ok());
            Ok(number.and_then(|number: u64| self.rows().get(&number).copied()).map(loaded))
        }
        .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<u64>), SourceError>> {
        self.0.scans.fetch_add(1, Ordering::SeqCst);
        let rows = self.rows().clone();
        let rows =
            rows.into_iter().map(|(number, version)| Ok((Key::new(key(number))?, loaded(version))));
        stream::iter(rows).boxed()
    }
}
