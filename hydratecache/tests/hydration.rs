//! The promises of hydration, into a `Replica`, over the in-process transport.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{
    Freshness, GapAction, Hydration, Loaded, LocalCache, Mode, Replica, Source, SourceError, State,
};
use hydratecache::codec::FnCodec;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, ErrorKind, Key, Message, Topic, Transport, Ttl, Version, VersionDomain,
};

const LIMIT: Duration = Duration::from_secs(10);

/// A table with a version in each row, as a database has.
#[derive(Clone, Default)]
struct Table(Arc<Rows>);

#[derive(Default)]
struct Rows {
    by_key: Mutex<BTreeMap<String, (String, u64)>>,
    scans: AtomicUsize,
    failures: AtomicUsize,
}

impl Table {
    fn write(&self, key: &str, value: &str, version: u64) {
        let row = (value.to_owned(), version);
        self.0.by_key.lock().expect("no panic").insert(key.to_owned(), row);
    }

    fn delete(&self, key: &str) {
        self.0.by_key.lock().expect("no panic").remove(key);
    }

    fn fail(&self, times: usize) {
        self.0.failures.store(times, Ordering::SeqCst);
    }

    fn scans(&self) -> usize {
        self.0.scans.load(Ordering::SeqCst)
    }
}

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        let row = self.0.by_key.lock().expect("no panic").get(key.as_str()).cloned();
        async { Ok(row.map(|(value, version)| Loaded::new(value).with_version(version))) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        self.0.scans.fetch_add(1, Ordering::SeqCst);
        let fails = |left: usize| left.checked_sub(1);
        if self.0.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fails).is_ok() {
            return stream::iter([Err("the database is down".into())]).boxed();
        }
        let rows = self.0.by_key.lock().expect("no panic").clone();
        let rows = rows.into_iter().map(|(key, (value, version))| {
            Ok((Key::new(key)?, Loaded::new(value).with_version(version)))
        });
        stream::iter(rows).boxed()
    }
}

/// One reader with a link of its own, and a writer.
struct Fleet {
    link: MemoryTransport,
    writer: Channel<String>,
    reader: Channel<String>,
    replica: Replica<String>,
}

impl Fleet {
    fn new(versions: VersionDomain) -> Self {
        let broker = MemoryBroker::new();
        let link = broker.connect();
        let channel = |transport: MemoryTransport| {
            let builder = Channel::builder(transport, "users").with_versions(versions);
            builder.build().expect("legal")
        };
        let (writer, reader) = (channel(broker.connect()), channel(link.clone()));
        Self { link, writer, reader, replica: Replica::new() }
    }

    async fn hydrated_from(&self, table: &Table) -> Hydration<String> {
        let hydrate = self.reader.hydrate(self.replica.clone());
        let hydrate = hydrate.with_source(table.clone()).with_reload_jitter(Duration::ZERO);
        let hydration = hydrate.await.expect("starts");
        within(hydration.ready()).await.expect("the table can be read");
        within(hydration.caught_up()).await.expect("the first proof");
        hydration
    }

    async fn put(&self, key: &str, value: &str, version: u64) {
        self.writer.put(key, &value.to_owned()).version(version).await.expect("accepted");
    }

    fn read(&self, key: &str) -> Option<String> {
        self.replica.get(key).map(|value| (*value).clone())
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LIMIT, future).await.expect("within the limit")
}

/// Waits until everything that happened so far was applied, and repaired where it has to be.
async fn live(hydration: &Hydration<String>) {
    within(hydration.caught_up()).await.expect("the link is whole");
    within(hydration.wait_until(|fresh| fresh.state() == State::Live)).await.expect("it runs");
}

#[tokio::test]
async fn a_replica_is_ready_with_the_whole_source_and_what_was_written_meanwhile() {
    let (fleet, table) = (Fleet::new(VersionDomain::Caller), Table::default());
    for n in 0..5000 {
        table.write(&format!("k{n}"), "old", 1);
    }
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_source(table.clone());
    let hydration = hydrate.await.expect("starts");
    assert_eq!(hydration.freshness().state(), State::Warming);
    assert_eq!(hydration.freshness().proven_within(), None);
    fleet.put("k7", "new", 2).await;
    within(hydration.ready()).await.expect("the table can be read");
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!((fleet.replica.len(), fleet.read("k7").as_deref()), (5000, Some("new")));
    let fresh = hydration.freshness();
    assert_eq!(fresh.state(), State::Live);
    assert!(fresh.proven_within().is_some_and(|bound| bound < LIMIT));
}

#[tokio::test]
async fn after_a_gap_the_source_is_read_again_and_nothing_else_is_dropped() {
    let (fleet, table) = (Fleet::new(VersionDomain::Caller), Table::default());
    for key in ["kept", "changed", "deleted"] {
        table.write(key, "old", 1);
    }
    let hydration = fleet.hydrated_from(&table).await;
    let before = fleet.replica.get("kept").expect("there");

    fleet.link.cut();
    table.write("changed", "new", 2);
    fleet.put("changed", "new", 2).await;
    table.delete("deleted");
    fleet.writer.remove("deleted").version(2).await.expect("accepted");
    within(hydration.wait_until(Freshness::is_suspect)).await.expect("it runs");
    assert_eq!(fleet.read("changed").as_deref(), Some("old"), "reads go on meanwhile");
    let bound = hydration.freshness().proven_within().expect("proven before");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(hydration.freshness().proven_within() > Some(bound), "the bound grows");

    fleet.link.heal();
    live(&hydration).await;
    assert_eq!(fleet.read("changed").as_deref(), Some("new"));
    assert_eq!(fleet.read("deleted"), None);
    assert!(Arc::ptr_eq(&before, &fleet.replica.get("kept").expect("there")), "not even replaced");
    let stats = hydration.stats();
    assert_eq!((stats.disruptions, stats.gaps, stats.missed, stats.reloads), (1, 1, 2, 2));
}

#[tokio::test]
async fn an_outage_without_a_loss_reads_nothing_again() {
    let (fleet, table) = (Fleet::new(VersionDomain::Caller), Table::default());
    let hydration = fleet.hydrated_from(&table).await;
    fleet.link.cut();
    fleet.link.heal();
    live(&hydration).await;
    assert_eq!((table.scans(), hydration.stats().gaps), (1, 0));
}

#[tokio::test]
async fn a_source_that_fails_is_tried_again_and_the_replica_says_so_meanwhile() {
    let (fleet, table) = (Fleet::new(VersionDomain::Caller), Table::default());
    table.write("a", "1", 1);
    table.fail(2);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_source(table.clone());
    let hydration = hydrate.await.expect("starts");
    let error = within(hydration.ready()).await.expect_err("the database is down");
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(std::error::Error::source(&error).is_some_and(|why| why.to_string().contains("down")));
    live(&hydration).await;
    assert_eq!((fleet.replica.len(), hydration.stats().reload_failures), (1, 2));
}

struct Hanging;
impl Source<String> for Hanging {
    fn load(&self, _: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        std::future::pending().boxed()
    }
    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        stream::pending().boxed()
    }
}

#[tokio::test]
async fn a_source_that_hangs_is_given_up_within_its_limit() {
    let fleet = Fleet::new(VersionDomain::Caller);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_source(Hanging);
    let hydration = hydrate.with_source_limit(Duration::from_millis(50)).await.expect("starts");
    // Messages that keep arriving do not prolong it.
    let mut version = 0;
    let error = loop {
        version += 1;
        fleet.put("a", "1", version).await;
        match tokio::time::timeout(Duration::from_millis(5), hydration.ready()).await {
            Ok(answer) => break answer.expect_err("the source hangs"),
            Err(_) => assert!(version < 1000, "given up within its limit"),
        }
    };
    assert!(error.to_string().contains("50ms"), "{error}");
}

#[tokio::test]
async fn without_a_source_a_gap_clears_what_may_be_stale() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    fleet.writer.publish("a", &"1".to_owned()).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    fleet.link.cut();
    fleet.writer.publish("a", &"2".to_owned()).await.expect("accepted");
    assert_eq!(fleet.read("a").as_deref(), Some("1"));
    fleet.link.heal();
    let fresh = within(hydration.caught_up()).await.expect("caught up");
    assert_eq!((fleet.replica.len(), fresh.state()), (0, State::Live));
}

#[tokio::test]
async fn every_other_answer_to_a_gap_does_what_it_says() {
    for (action, state) in [(GapAction::Suspect, true), (GapAction::Ignore, false)] {
        let fleet = Fleet::new(VersionDomain::Clock);
        let hydrate = fleet.reader.hydrate(fleet.replica.clone()).on_gap(action);
        let hydration = hydrate.await.expect("starts");
        fleet.writer.publish("a", &"1".to_owned()).await.expect("accepted");
        within(hydration.caught_up()).await.expect("caught up");
        fleet.link.cut();
        fleet.writer.publish("a", &"2".to_owned()).await.expect("accepted");
        fleet.link.heal();
        let proven = hydration.freshness().proven_within().expect("proven");
        let fresh = within(hydration.caught_up()).await.expect("caught up");
        assert_eq!(fleet.read("a").as_deref(), Some("1"), "{action:?} keeps what is there");
        assert_eq!(fresh.is_suspect(), state, "{action:?}");
        assert!(fresh.proven_within() >= Some(proven), "{action:?} proves nothing");
        hydration.trust().await.expect("it runs");
        live(&hydration).await;
    }
    let fleet = Fleet::new(VersionDomain::Clock);
    let error = fleet.reader.hydrate(fleet.replica.clone()).on_gap(GapAction::Reload).await;
    assert_eq!(error.expect_err("no source").kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn an_older_put_never_undoes_a_newer_write_a_removal_or_a_clear() {
    let fleet = Fleet::new(VersionDomain::Caller);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    fleet.put("a", "new", 5).await;
    fleet.put("a", "old", 4).await;
    fleet.writer.remove("b").version(5).await.expect("accepted");
    fleet.put("b", "old", 4).await;
    fleet.put("c", "old", 8).await;
    fleet.writer.clear().version(7).await.expect("accepted");
    fleet.put("d", "old", 6).await;
    within(hydration.caught_up()).await.expect("caught up");
    let read = |key| fleet.read(key);
    assert_eq!((read("a"), read("b"), read("d")), (None, None, None), "a was not newer than 7");
    assert_eq!(read("c").as_deref(), Some("old"), "c was newer than the clear");
    assert_eq!(hydration.stats().stale, 4, "three older puts, and a removal of nothing");
    fleet.put("a", "newest", 9).await;
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!(read("a").as_deref(), Some("newest"));
}

#[tokio::test(start_paused = true)]
async fn lives_end_at_their_receiver_whatever_the_senders_clock_says() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    let value = "1".to_owned();
    let (hour, short) = (Duration::from_secs(3600), Duration::from_secs(5));
    let now = SystemTime::now();
    let put = |key: &'static str, ttl| fleet.writer.put(key, &value).ttl(ttl);
    put("short", Ttl::starting_now(short).expect("legal")).await.expect("accepted");
    put("ahead", Ttl::new(now + hour, short).expect("legal")).await.expect("accepted");
    fleet.writer.publish("expired", &value).await.expect("accepted");
    put("expired", Ttl::new(now - hour, short).expect("legal")).await.expect("accepted");
    put("kept", Ttl::starting_now(short).expect("legal")).await.expect("accepted");
    let long = Ttl::starting_now(hour).expect("legal");
    fleet.writer.touch("kept", long).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    assert!(fleet.read("short").is_some() && fleet.read("ahead").is_some());
    assert_eq!(fleet.read("expired"), None, "what expired in flight invalidates");
    let stats = hydration.stats();
    assert_eq!((stats.expired_in_flight, stats.from_the_future), (1, 1));
    within(async {
        while fleet.read("short").is_some() || fleet.read("ahead").is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(fleet.read("kept").is_some(), "the touch gave it an hour");
    LocalCache::evict_expired(&fleet.replica).await;
    assert_eq!(fleet.replica.len(), 1, "the memory is given back");
}

#[tokio::test]
async fn no_entry_lives_longer_than_the_longest_life() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone());
    let hydration = hydrate.with_max_ttl(Duration::from_millis(50)).await.expect("starts");
    fleet.writer.publish("a", &"1".to_owned()).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    within(async {
        while fleet.read("a").is_some() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let none = fleet.reader.hydrate(Replica::new()).with_max_ttl(Duration::ZERO).await;
    assert_eq!(none.expect_err("keeps nothing").kind(), ErrorKind::InvalidTtl);
}

#[tokio::test]
async fn update_if_present_touches_only_what_is_there_and_decodes_nothing_else() {
    let (fleet, table) = (Fleet::new(VersionDomain::Caller), Table::default());
    let decoded = Arc::new(AtomicUsize::new(0));
    let count = decoded.clone();
    let codec = FnCodec::new(
        |value: &String| Ok(Bytes::from(value.clone())),
        move |payload: &Bytes| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(String::from_utf8(payload.to_vec())?)
        },
    );
    let channel = Channel::builder_with_codec(fleet.link.clone(), "users", codec);
    let channel = channel.with_versions(VersionDomain::Caller).build().expect("legal");
    let hydrate = channel.hydrate(fleet.replica.clone()).with_mode(Mode::UpdateIfPresent);
    let hydrate = hydrate.with_source(table.clone()).with_reload_jitter(Duration::ZERO);
    let hydration = hydrate.await.expect("starts");
    within(hydration.ready()).await.expect("filled on demand");

    table.write("here", "1", 1);
    let lease = hydration.lease(Key::new("here").expect("legal"));
    let loaded = table.load(lease.key().clone()).await.expect("up").expect("there");
    assert!(within(hydration.fill(lease, loaded)).await.expect("it runs"));
    for (key, value) in [("here", "2"), ("elsewhere", "2")] {
        channel.put(key, &value.to_owned()).version(2).await.expect("accepted");
    }
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!((fleet.read("here").as_deref(), fleet.replica.len()), (Some("2"), 1));
    assert_eq!((decoded.load(Ordering::SeqCst), hydration.stats().absent), (1, 1));

    fleet.link.cut();
    table.write("here", "3", 3);
    fleet.put("here", "3", 3).await;
    fleet.link.heal();
    live(&hydration).await;
    assert_eq!((fleet.read("here").as_deref(), table.scans()), (Some("3"), 0), "one load, no scan");
}

#[tokio::test]
async fn invalidate_drops_the_key_and_a_stale_load_never_comes_back() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_mode(Mode::Invalidate);
    let hydration = hydrate.await.expect("starts");
    let key = Key::new("a").expect("legal");
    let lease = hydration.lease(key.clone());
    assert!(within(hydration.fill(lease, Loaded::new("1".to_owned()))).await.expect("it runs"));

    let lease = hydration.lease(key.clone());
    fleet.writer.publish("a", &"2".to_owned()).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!(fleet.read("a"), None);
    assert!(!within(hydration.fill(lease, Loaded::new("1".to_owned()))).await.expect("it runs"));
    assert_eq!((fleet.read("a"), hydration.stats().leases_broken), (None, 1));

    let lease = hydration.lease(key.clone());
    fleet.link.cut();
    fleet.writer.publish("b", &"2".to_owned()).await.expect("accepted");
    fleet.link.heal();
    within(hydration.caught_up()).await.expect("caught up");
    assert!(!lease.is_intact(), "a gap may have been an update of this key");

    let other = fleet.reader.hydrate(Replica::new()).await.expect("starts");
    let foreign = other.lease(key);
    let error = within(hydration.fill(foreign, Loaded::new("1".to_owned()))).await;
    assert_eq!(error.expect_err("another hydration's").kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_message_that_cannot_be_used_drops_its_key() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    let topic = Topic::new("users").expect("legal");
    let undecodable = Message::put(Key::new("a").expect("legal"), Bytes::from_static(&[0xff]));
    let foreign = Message::remove(Key::new("b").expect("legal")).with_version(Version::caller(1));
    for key in ["a", "b"] {
        fleet.writer.publish(key, &"1".to_owned()).await.expect("accepted");
    }
    fleet.link.publish(topic, vec![undecodable, foreign]).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!((fleet.replica.len(), hydration.stats().rejected), (0, 2));
}

#[tokio::test]
async fn versions_from_a_source_of_a_channel_with_a_clock_are_an_error() {
    let (fleet, table) = (Fleet::new(VersionDomain::Clock), Table::default());
    table.write("a", "1", 1);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_source(table);
    let hydration = hydrate.await.expect("starts");
    let error = within(hydration.ready()).await.expect_err("two domains");
    assert_eq!(error.kind(), ErrorKind::InvalidVersion);
}

struct Panicking;
impl Source<String> for Panicking {
    fn load(&self, _: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        panic!("a bug in the user's source")
    }
    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        panic!("a bug in the user's source")
    }
}

#[tokio::test]
async fn a_hydration_that_ended_says_so() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    fleet.link.close().await.expect("closes");
    within(hydration.wait_until(|fresh| fresh.state() == State::Live)).await.expect("was live");
    within(async {
        while hydration.freshness().state() != State::Stopped {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(hydration.freshness().is_suspect());
    assert_eq!(hydration.trust().await.expect_err("ended").kind(), ErrorKind::Closed);
    assert_eq!(hydration.reload().await.expect_err("no source").kind(), ErrorKind::InvalidInput);
    assert_eq!(hydration.caught_up().await.expect_err("ended").kind(), ErrorKind::Closed);

    let fleet = Fleet::new(VersionDomain::Clock);
    let hydrate = fleet.reader.hydrate(fleet.replica.clone()).with_source(Panicking);
    let hydration = hydrate.await.expect("starts");
    let error = within(hydration.ready()).await.expect_err("it panicked");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert_eq!(hydration.freshness().state(), State::Stopped, "never silently stale");
}

#[tokio::test]
async fn what_a_cache_held_before_is_not_trusted() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    fleet.writer.publish("a", &"1".to_owned()).await.expect("accepted");
    within(hydration.caught_up()).await.expect("caught up");
    drop(hydration);
    fleet.writer.publish("a", &"2".to_owned()).await.expect("accepted");
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    assert_eq!(hydration.freshness().proven_within(), None, "nothing is proven yet");
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!((fleet.read("a"), hydration.stats().gaps), (None, 1));
}

#[tokio::test]
async fn what_was_loaded_without_a_version_is_not_replaced_by_what_it_replaced() {
    let fleet = Fleet::new(VersionDomain::Caller);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    fleet.put("a", "five", 5).await;
    within(hydration.caught_up()).await.expect("caught up");
    let lease = hydration.lease(Key::new("a").expect("legal"));
    assert!(within(hydration.fill(lease, Loaded::new("loaded".to_owned()))).await.expect("runs"));
    fleet.put("a", "two", 2).await;
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!(fleet.read("a").as_deref(), Some("loaded"));
    fleet.put("a", "six", 6).await;
    within(hydration.caught_up()).await.expect("caught up");
    assert_eq!(fleet.read("a").as_deref(), Some("six"));
}

#[tokio::test]
async fn dropping_a_hydration_unsubscribes() {
    let fleet = Fleet::new(VersionDomain::Clock);
    let hydration = fleet.reader.hydrate(fleet.replica.clone()).await.expect("starts");
    drop(hydration);
    within(async {
        loop {
            fleet.writer.publish("a", &"1".to_owned()).await.expect("accepted");
            tokio::task::yield_now().await;
            if fleet.replica.is_empty() {
                break;
            }
            LocalCache::clear(&fleet.replica, None).await;
        }
    })
    .await;
}
