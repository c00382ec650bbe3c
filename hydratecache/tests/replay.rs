//! Repair by replay: what was lost is asked of its publisher, which publishes it again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, stream};
use hydratecache::cache::{
    Freshness, GapAction, Hydrated, Hydration, Loaded, Replica, Source, SourceError, State,
    WhileSuspect,
};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, ErrorKind, Event, Fence, Key, Kind, Limits, Message, Result, Subscription, Topic,
    Transport, VersionDomain,
};
use tokio::time::{Instant, timeout};

const LIMIT: Duration = Duration::from_secs(30);

/// Says that all is well, and loses the writes of these sequences the first time.
#[derive(Debug)]
struct Losing {
    inner: MemoryTransport,
    lost: Mutex<Vec<u64>>,
    requests: AtomicUsize,
}

impl Losing {
    fn new(broker: &MemoryBroker, lost: impl IntoIterator<Item = u64>) -> Arc<Self> {
        let (inner, lost) = (broker.connect(), Mutex::new(lost.into_iter().collect()));
        Arc::new(Self { inner, lost, requests: AtomicUsize::new(0) })
    }

    fn passes(&self, message: &Message) -> bool {
        self.requests.fetch_add(usize::from(message.kind() == Kind::Request), Ordering::Relaxed);
        let mut lost = self.lost.lock().expect("nobody panics");
        let sequence = message.sequence().filter(|_| message.kind().is_write());
        let at =
            lost.iter().position(|number| Some(*number) == sequence.map(std::num::NonZeroU64::get));
        at.map(|at| lost.swap_remove(at)).is_none()
    }
}

impl Transport for Losing {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn publish(&self, topic: Topic, mut batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        batch.retain(|message| self.passes(message));
        if batch.is_empty() { async { Ok(()) }.boxed() } else { self.inner.publish(topic, batch) }
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.inner.subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.inner.fence()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }
}

/// A table that counts who reads it, with versions or without.
#[derive(Debug, Default)]
struct Table {
    rows: Mutex<std::collections::BTreeMap<Key, (String, u64)>>,
    has_versions: bool,
    scans: AtomicUsize,
    loads: AtomicUsize,
}

impl Table {
    fn row(&self, key: &Key) -> Option<Loaded<String>> {
        let rows = self.rows.lock().expect("nobody panics");
        rows.get(key).map(|(value, version)| {
            let loaded = Loaded::new(value.clone());
            if self.has_versions { loaded.with_version(*version) } else { loaded }
        })
    }

    fn set(&self, key: &str, value: Option<&str>, version: u64) {
        let key = Key::new(key).expect("legal");
        let mut rows = self.rows.lock().expect("nobody panics");
        match value {
            Some(value) => drop(rows.insert(key, (value.to_owned(), version))),
            None => drop(rows.remove(&key)),
        }
    }

    fn scans(&self) -> usize {
        self.scans.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Clone)]
struct Reading(Arc<Table>);

impl Source<String> for Reading {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        self.0.loads.fetch_add(1, Ordering::Relaxed);
        async move { Ok(self.0.row(&key)) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        self.0.scans.fetch_add(1, Ordering::Relaxed);
        let keys: Vec<Key> = self.0.rows.lock().expect("nobody panics").keys().cloned().collect();
        let rows = keys.into_iter().filter_map(|key| Some(Ok((key.clone(), self.0.row(&key)?))));
        stream::iter(rows.collect::<Vec<_>>()).boxed()
    }
}

fn channel(transport: impl Transport, domain: VersionDomain) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(domain);
    builder.build().expect("legal")
}

async fn publish(channel: &Channel<String>, key: &str, number: u64, domain: VersionDomain) {
    let put = channel.put(key, &number.to_string());
    let put = if domain == VersionDomain::Caller { put.version(number) } else { put };
    put.await.expect("published");
}

async fn repaired(hydration: &Hydration<String>) -> Duration {
    let began = Instant::now();
    let gap = async {
        while hydration.stats().gaps == 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        hydration.wait_until(|it| it.state() == State::Live).await.expect("goes on");
    };
    timeout(LIMIT, gap).await.expect("a gap, and its repair");
    began.elapsed()
}

fn value(replica: &Replica<String>, key: &str) -> Option<String> {
    replica.get(key).map(|value| value.to_string())
}

#[tokio::test(start_paused = true)]
async fn lost_messages_are_repaired_by_their_publisher_and_nothing_is_flushed() {
    let broker = MemoryBroker::new();
    let domain = VersionDomain::Clock;
    let losing = Losing::new(&broker, 40..=60);
    let writer = channel(losing.clone(), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replicas = [(); 5].map(|()| Replica::new());
    let mut hydrations = Vec::new();
    for replica in &replicas {
        let reader = channel(broker.connect(), domain);
        hydrations.push(reader.hydrate(replica.clone()).await.expect("started"));
    }
    for number in 1..=100 {
        publish(&writer, &format!("key:{}", number % 30), number, domain).await;
    }
    for (hydration, replica) in hydrations.iter().zip(&replicas) {
        repaired(hydration).await;
        hydration.caught_up().await.expect("a fence");
        for number in 71..=100_u64 {
            let key = format!("key:{}", number % 30);
            assert_eq!(value(replica, &key), Some(number.to_string()), "{key}");
        }
        let stats = hydration.stats();
        assert_eq!((stats.gaps, stats.missed, stats.replayed), (1, 21, 21), "{stats:?}");
        assert_eq!((stats.replays_completed, stats.replays_failed), (1, 0));
        assert!(hydration.freshness().proven_within().is_some_and(|age| age < LIMIT));
    }
    assert_eq!(writer.stats().replayed, 21, "one answer serves all");
}

#[tokio::test(start_paused = true)]
async fn a_lost_last_message_comes_again_after_the_heartbeat() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replica = Replica::new();
    let reader = channel(broker.connect(), domain);
    let hydration = reader.hydrate(replica.clone()).await.expect("started");
    publish(&writer, "a", 1, domain).await;
    publish(&writer, "a", 2, domain).await;
    let took = repaired(&hydration).await;
    assert!(took < Duration::from_secs(6), "a heartbeat of 5 s: {took:?}");
    assert_eq!(value(&replica, "a").as_deref(), Some("2"));
    assert_eq!(writer.stats().replayed, 1);
}

#[tokio::test(start_paused = true)]
async fn with_versions_a_replay_needs_no_source_for_what_the_cache_holds() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Caller);
    let table = Arc::new(Table { has_versions: true, ..Table::default() });
    for key in ["a", "b", "c"] {
        table.set(key, Some("0"), 0);
    }
    let writer = channel(Losing::new(&broker, [2, 3]), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replica = Replica::new();
    let hydrate = channel(broker.connect(), domain).hydrate(replica.clone());
    let hydration = hydrate.with_source(Reading(table.clone())).await.expect("started");
    hydration.ready().await.expect("warm");
    for (key, number) in [("a", 1), ("b", 2), ("a", 3), ("c", 4)] {
        table.set(key, Some(&number.to_string()), number);
        publish(&writer, key, number, domain).await;
    }
    repaired(&hydration).await;
    for (key, number) in [("a", "3"), ("b", "2"), ("c", "4")] {
        assert_eq!(value(&replica, key).as_deref(), Some(number));
    }
    let loads = table.loads.load(Ordering::Relaxed);
    assert_eq!((table.scans(), loads), (1, 0), "the scan of the start");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_kept_any_more_is_read_from_the_source_at_once() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Caller);
    let table = Arc::new(Table { has_versions: true, ..Table::default() });
    let losing = Losing::new(&broker, [2, 3]);
    let builder = Channel::<String>::builder(losing, "users").with_versions(domain);
    let writer = builder.with_replay_bytes(0).build().expect("legal");
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replica = Replica::new();
    let hydrate = channel(broker.connect(), domain).hydrate(replica.clone());
    let hydration = hydrate.with_source(Reading(table.clone())).await.expect("started");
    hydration.ready().await.expect("warm");
    for number in 1..=4 {
        table.set("a", Some(&number.to_string()), number);
        table.set("b", Some(&number.to_string()), number);
        publish(&writer, if number < 4 { "a" } else { "b" }, number, domain).await;
    }
    let took = repaired(&hydration).await;
    assert!(took < Duration::from_millis(450), "the answer says so at once: {took:?}");
    assert_eq!(value(&replica, "a").as_deref(), Some("4"));
    assert!(table.scans() >= 2);
    assert_eq!(hydration.stats().replays_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn a_publisher_that_does_not_answer_is_not_waited_for_long() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let replica = Replica::new();
    let reader = channel(broker.connect(), domain);
    let gaps = Arc::new(Mutex::new(Vec::new()));
    let seen = gaps.clone();
    let hydrate = reader.hydrate(replica.clone()).on_gap_with(move |gap| {
        seen.lock().expect("nobody panics").push(gap.exact());
        GapAction::Clear
    });
    let hydration = hydrate.await.expect("started");
    for (key, number) in [("a", 1), ("b", 2), ("c", 3)] {
        publish(&writer, key, number, domain).await;
    }
    let took = repaired(&hydration).await;
    assert!(took < Duration::from_secs(2), "{took:?}");
    assert_eq!(value(&replica, "a"), None, "without a source, what may be stale is cleared");
    assert_eq!(value(&replica, "c").as_deref(), Some("3"), "it came behind what was lost");
    assert_eq!(hydration.stats().replays_asked, 2);
    let gaps = gaps.lock().expect("nobody panics");
    assert_eq!(*gaps, [None, Some(1), Some(1)], "at the start, when found, when given up");
}

/// The gap shows by the next message, or by the heartbeat.
#[tokio::test(start_paused = true)]
async fn of_a_replay_that_is_given_up_nothing_is_spared() {
    for tells_heartbeat in [false, true] {
        nothing_is_spared_of_a_replay(tells_heartbeat).await;
    }
}

async fn nothing_is_spared_of_a_replay(tells_heartbeat: bool) {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2, 3, 3, 3, 3, 3, 3, 3]), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replica = Replica::new();
    let hydrate = channel(broker.connect(), domain).hydrate(replica.clone());
    let hydration = hydrate.await.expect("started");
    for (key, number) in [("a", 1), ("b", 2), ("b", 3)] {
        publish(&writer, key, number, domain).await;
    }
    if !tells_heartbeat {
        publish(&writer, "c", 4, domain).await;
    }
    let replayed = async {
        while value(&replica, "b").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LIMIT, replayed).await.expect("one of two comes late");
    repaired(&hydration).await;
    assert_eq!((value(&replica, "a"), value(&replica, "b")), (None, None), "a newer one is lost");
    assert_eq!(value(&replica, "c").as_deref(), (!tells_heartbeat).then_some("4"));
    assert_eq!(hydration.stats().replays_failed, 1);
}

#[tokio::test(start_paused = true)]
async fn what_came_behind_a_gap_stays_and_of_what_was_cleared_nothing_is_proven() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let reader = channel(broker.connect(), domain);
    let users = Hydrated::builder(reader, Replica::new()).start().await.expect("starts");
    users.caught_up().await.expect("a fence");
    let age = Duration::from_secs(60);
    assert!(users.get_within("a", age).await.expect("nobody wrote it").is_none());
    for (key, number) in [("a", 1), ("b", 2), ("c", 3)] {
        publish(&writer, key, number, domain).await;
    }
    let later = writer.publish("d", &"4".to_owned()).await.expect("published");
    users.wait_for(later).await.expect("it comes");
    repaired(users.hydration()).await;
    users.caught_up().await.expect("a fence");
    for (key, number) in [("c", "3"), ("d", "4")] {
        let read = users.get_within(key, age).await.expect("proven").expect("it stayed");
        assert_eq!(*read, number);
    }
    for key in ["a", "b", "nobody wrote it"] {
        let error = users.get_within(key, age).await.expect_err("nobody can tell");
        assert_eq!(error.kind(), ErrorKind::Unproven, "{key}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn until_the_replay_is_complete_the_cache_is_suspect_and_proves_nothing() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let replica = Replica::new();
    let reader = channel(broker.connect(), domain);
    let hydration = reader.hydrate(replica.clone()).await.expect("started");
    for (key, number) in [("a", 1), ("b", 2), ("c", 3)] {
        publish(&writer, key, number, domain).await;
    }
    let freshness = hydration.caught_up().await.expect("a fence");
    assert!(freshness.is_suspect());
    assert_eq!(value(&replica, "a").as_deref(), Some("1"), "and serves what it has");
    let proven = freshness.proven_within();
    tokio::time::advance(Duration::from_millis(100)).await;
    let later = hydration.caught_up().await.expect("a fence").proven_within();
    assert!(later >= proven.map(|age| age + Duration::from_millis(100)), "{proven:?} {later:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publish_that_failed_costs_its_key_and_never_appears() {
    for has_source in [false, true] {
        let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
        let link = broker.connect();
        let writer = channel(link.clone(), domain);
        let _answering = writer.answer_requests().await.expect("subscribed");
        let table = Arc::new(Table::default());
        for key in ["a", "b"] {
            table.set(key, Some("1"), 1);
        }
        let replica = Replica::new();
        let hydrate = channel(broker.connect(), domain).hydrate(replica.clone());
        let hydrate =
            if has_source { hydrate.with_source(Reading(table.clone())) } else { hydrate };
        let hydration = hydrate.await.expect("started");
        hydration.ready().await.expect("warm");
        for key in ["a", "b"] {
            publish(&writer, key, 1, domain).await;
        }
        hydration.caught_up().await.expect("a fence");
        link.cut();
        // The row is written, and the publish fails.
        table.set("a", Some("2"), 2);
        let failed = writer.publish("a", &"2".to_owned()).await.expect_err("cut");
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        link.heal();
        repaired(&hydration).await;
        let expected = has_source.then_some("2");
        assert_eq!(value(&replica, "a").as_deref(), expected, "source: {has_source}");
        assert_eq!(value(&replica, "b").as_deref(), Some("1"));
        let (scans, loads) = (table.scans(), table.loads.load(Ordering::Relaxed));
        assert_eq!((scans, loads), (usize::from(has_source), usize::from(has_source)));
        assert_eq!(writer.stats().replayed, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn without_versions_in_the_source_a_late_message_never_takes_the_place_of_a_newer_row() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let table = Arc::new(Table::default());
    table.set("a", Some("0"), 0);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let replica = Replica::new();
    let hydrate = channel(broker.connect(), domain).hydrate(replica.clone());
    let hydration = hydrate.with_source(Reading(table.clone())).await.expect("started");
    hydration.ready().await.expect("warm");
    publish(&writer, "b", 1, domain).await;
    publish(&writer, "a", 2, domain).await;
    // Somebody wrote the row since, and nobody was told.
    table.set("a", Some("9"), 9);
    table.set("b", Some("3"), 3);
    publish(&writer, "b", 3, domain).await;
    repaired(&hydration).await;
    assert_eq!(value(&replica, "a").as_deref(), Some("9"));
    assert_eq!(table.scans(), 1, "one key is loaded, not all");
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_is_to_be_ignored_is_not_asked_for() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let losing = Losing::new(&broker, [2]);
    let writer = channel(losing.clone(), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let reader = channel(losing.clone(), domain);
    let hydration =
        reader.hydrate(Replica::new()).on_gap(GapAction::Ignore).await.expect("started");
    for number in 1..=3 {
        publish(&writer, "a", number, domain).await;
    }
    repaired(&hydration).await;
    tokio::time::sleep(LIMIT).await;
    assert_eq!(losing.requests.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_subscription_hears_of_the_gap_and_of_nothing_that_comes_late() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let _answering = writer.answer_requests().await.expect("subscribed");
    let reader = channel(broker.connect(), domain);
    let mut updates = reader.subscribe().await.expect("subscribed");
    let hydration = reader.hydrate(Replica::new()).await.expect("started");
    for number in 1..=3 {
        publish(&writer, "a", number, domain).await;
    }
    repaired(&hydration).await;
    let mut seen = Vec::new();
    while let Some(Some(event)) = updates.next().now_or_never() {
        seen.push(match event {
            Event::Update(update) => update.value().cloned().unwrap_or_default(),
            Event::Gap(gap) => format!("{:?} lost", gap.exact()),
            _ => continue,
        });
    }
    assert_eq!(seen, ["1", "Some(1) lost", "3"]);
}

#[tokio::test(start_paused = true)]
async fn only_entries_from_before_a_gap_are_suspect() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2]), domain);
    let reader = channel(broker.connect(), domain);
    let builder = Hydrated::builder(reader, Replica::new());
    let users = builder.with_suspect_reads(WhileSuspect::Miss).start().await.expect("started");
    for (key, number) in [("a", 1), ("b", 2), ("c", 3), ("d", 4)] {
        publish(&writer, key, number, domain).await;
    }
    let freshness = users.hydration().caught_up().await.expect("a fence");
    assert!(freshness.is_suspect());
    assert!(users.get("a").is_none(), "it may be what was lost");
    for key in ["c", "d"] {
        let read = users.get(key).expect("it came after what was lost");
        assert!(!users.is_suspect(&read) && read.freshness().is_suspect());
    }
}

#[tokio::test(start_paused = true)]
async fn while_the_link_is_lost_every_entry_is_suspect() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let link = broker.connect();
    let writer = channel(broker.connect(), domain);
    let reader = channel(link.clone(), domain);
    let users = Hydrated::builder(reader, Replica::new()).start().await.expect("started");
    publish(&writer, "a", 1, domain).await;
    users.hydration().caught_up().await.expect("a fence");
    let read = users.get("a").expect("heard");
    assert!(!users.is_suspect(&read));
    link.cut();
    let lost = users.hydration().wait_until(Freshness::is_suspect);
    timeout(LIMIT, lost).await.expect("noticed").expect("goes on");
    assert!(users.is_suspect(&users.get("a").expect("served")));
}

#[test]
fn a_publisher_answers_in_another_runtime_when_its_first_one_has_ended() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2, 5]), domain);
    for round in 0..2 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let _answering = writer.answer_requests().await.expect("subscribed");
            let replica = Replica::new();
            let reader = channel(broker.connect(), domain);
            let hydration = reader.hydrate(replica.clone()).await.expect("started");
            for (key, number) in [("a", 1), ("b", 2), ("c", 3)] {
                publish(&writer, key, 3 * round + number, domain).await;
            }
            repaired(&hydration).await;
            let stats = hydration.stats();
            assert_eq!((stats.replays_completed, stats.replays_failed), (1, 0), "{round}");
            assert_eq!(value(&replica, "b"), Some((3 * round + 2).to_string()));
        });
    }
}

#[test]
fn a_publisher_repeats_its_last_number_in_another_runtime_when_its_first_one_has_ended() {
    let (broker, domain) = (MemoryBroker::new(), VersionDomain::Clock);
    let writer = channel(Losing::new(&broker, [2, 4]), domain);
    for round in 1..=2 {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let reader = channel(broker.connect(), domain);
            let hydration = reader.hydrate(Replica::<String>::new()).await.expect("started");
            publish(&writer, "a", 2 * round - 1, domain).await;
            publish(&writer, "b", 2 * round, domain).await;
            let told = hydration.wait_until(|_| hydration.stats().gaps > 0);
            timeout(LIMIT, told).await.expect("told by a heartbeat").expect("goes on");
        });
    }
}
