//! The promises of reads through `Hydrated`: one load for a missing key, and none over an update.

mod support;

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydratecache::cache::{Mode, Replica, State};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Channel, ErrorKind, Hydrated, Transport, VersionDomain};
use support::{Fault, Table, within};

type Users = Hydrated<String, Replica<String>>;

/// A writer, and a reader with a link of its own.
struct Scene {
    broker: MemoryBroker,
    writer: Channel<String>,
    link: MemoryTransport,
    table: Table,
    versions: VersionDomain,
}

impl Scene {
    fn new(versions: VersionDomain) -> Self {
        let broker = MemoryBroker::new();
        let (link, table) = (broker.connect(), Table::default());
        let writer = channel(broker.connect(), versions);
        Self { broker, writer, link, table, versions }
    }

    async fn users(&self, mode: Mode) -> Users {
        let reader = channel(self.link.clone(), self.versions);
        let builder = Hydrated::builder(reader, Replica::new()).source(self.table.clone());
        let users = builder.with_hydration(|hydrate| hydrate.with_mode(mode)).start().await;
        let users = users.expect("starts");
        within(users.ready()).await.expect("the table can be read");
        users
    }

    /// Writes the row, then tells of it.
    async fn put(&self, key: &str, value: &str, version: u64) {
        let write = self.writer.put(key, &value.to_owned());
        match self.versions {
            VersionDomain::Caller => {
                self.table.write(key, value, Some(version));
                write.version(version).await
            }
            VersionDomain::Clock => {
                self.table.write(key, value, None);
                write.await
            }
        }
        .expect("accepted");
    }
}

fn channel(transport: impl Transport, versions: VersionDomain) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(versions);
    builder.build().expect("legal")
}

async fn load(users: &Users, key: &str) -> Option<String> {
    let read = within(users.get_or_load(key)).await.expect("the source answers");
    read.map(|read| read.to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_reads_of_a_missing_key_load_it_once() {
    for versions in [VersionDomain::Caller, VersionDomain::Clock] {
        let scene = Scene::new(versions);
        let users = scene.users(Mode::UpdateIfPresent).await;
        let version = (versions == VersionDomain::Caller).then_some(1);
        scene.table.write("a", "Ada", version);
        let reads = (0..1000).map(|_| {
            let users = users.clone();
            tokio::spawn(async move { users.get_or_load("a").await })
        });
        for read in join_all(reads).await {
            let read = read.expect("no panic").expect("the source answers").expect("it has a row");
            assert_eq!(*read, "Ada");
        }
        assert_eq!(scene.table.loads(), 1);
        assert_eq!(users.get("a").as_deref().map(String::as_str), Some("Ada"));
        assert_eq!(users.stats().loads, 1);
    }
}

/// In both version domains, and where an update brings its value and where it does not.
const WAYS: [(VersionDomain, Mode); 4] = [
    (VersionDomain::Caller, Mode::Hydrate),
    (VersionDomain::Clock, Mode::Hydrate),
    (VersionDomain::Caller, Mode::Invalidate),
    (VersionDomain::Clock, Mode::Invalidate),
];

#[tokio::test]
async fn a_load_that_an_update_overtakes_yields_to_it() {
    for (versions, mode) in WAYS {
        let scene = Scene::new(versions);
        let users = scene.users(mode).await;
        let version = (versions == VersionDomain::Caller).then_some(1);
        scene.table.write("a", "old", version);
        scene.table.hold();
        let reader = users.clone();
        let reading = tokio::spawn(async move { load(&reader, "a").await });
        scene.table.begun().await;
        scene.put("a", "new", 2).await;
        within(users.caught_up()).await.expect("the link is whole");
        scene.table.let_go(100);
        let read = reading.await.expect("no panic");
        assert_eq!(read.as_deref(), Some("new"), "{versions:?} {mode:?}");
        assert_eq!(users.get("a").as_deref().map(String::as_str), Some("new"));
        assert_eq!(users.stats().leases_broken, 1);
    }
}

#[tokio::test]
async fn a_load_that_a_removal_overtakes_brings_nothing_back() {
    for (versions, mode) in WAYS {
        let scene = Scene::new(versions);
        let users = scene.users(mode).await;
        let version = (versions == VersionDomain::Caller).then_some(1);
        scene.table.write("a", "old", version);
        scene.table.hold();
        let reader = users.clone();
        let reading = tokio::spawn(async move { load(&reader, "a").await });
        scene.table.begun().await;
        scene.table.delete("a");
        let remove = scene.writer.remove("a");
        match versions {
            VersionDomain::Caller => remove.version(2).await,
            VersionDomain::Clock => remove.await,
        }
        .expect("accepted");
        within(users.caught_up()).await.expect("the link is whole");
        scene.table.let_go(100);
        assert_eq!(reading.await.expect("no panic"), None, "{versions:?} {mode:?}");
        assert!(users.get("a").is_none());
    }
}

#[tokio::test]
async fn a_source_that_lags_behind_a_removal_brings_nothing_back() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Invalidate).await;
    scene.writer.remove("a").version(2).await.expect("accepted");
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.write("a", "removed since", Some(1));
    assert_eq!(load(&users, "a").await, None);
    assert!(users.get("a").is_none());
}

/// One writer and many readers at full speed: whatever the interleaving, once all is applied the
/// cache holds what the table holds, or nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_load_that_began_before_an_update_ever_overwrites_it() {
    const KEYS: u64 = 4;
    for (versions, mode) in WAYS {
        let scene = Scene::new(versions);
        let users = scene.users(mode).await;
        for round in 0..20_u64 {
            let readers = (0..16).map(|reader| {
                let users = users.clone();
                tokio::spawn(async move {
                    for read in 0..50 {
                        let key = format!("k{}", (reader + read) % KEYS);
                        users.get_or_load(&key).await.expect("the source answers");
                        tokio::task::yield_now().await;
                    }
                })
            });
            let readers: Vec<_> = readers.collect();
            for write in 0..100 {
                let number = round * 100 + write + 1;
                let key = format!("k{}", number % KEYS);
                scene.put(&key, &format!("value {number}"), number).await;
                if number % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            for reader in readers {
                reader.await.expect("no panic");
            }
            within(users.caught_up()).await.expect("the link is whole");
            for key in (0..KEYS).map(|number| format!("k{number}")) {
                let row = scene.table.row(&key).map(|(value, _)| value);
                let cached = users.get(&key).map(|read| read.to_string());
                assert!(cached.is_none() || cached == row, "{key}: {cached:?} is not {row:?}");
                assert_eq!(load(&users, &key).await, row, "{versions:?} {mode:?}");
            }
        }
        assert!(users.stats().loads > 0 || mode == Mode::Hydrate, "nothing was loaded");
    }
}

#[tokio::test]
async fn keys_that_are_missing_together_are_loaded_with_one_question() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::UpdateIfPresent).await;
    for number in 0..2500 {
        scene.table.write(&format!("k{number}"), &number.to_string(), Some(1));
    }
    assert_eq!(load(&users, "k1").await.as_deref(), Some("1"));
    let mut keys: Vec<String> = (0..2500).map(|number| format!("k{number}")).collect();
    keys.extend(["absent".to_owned(), "k7".to_owned()]);
    let reads = within(users.get_many_or_load(&keys)).await.expect("the source answers");
    assert_eq!(reads.len(), keys.len());
    for (number, read) in reads.iter().take(2500).enumerate() {
        assert_eq!(read.as_deref(), Some(&number.to_string()));
    }
    assert!(reads[2500].is_none());
    assert_eq!(reads[2501].as_deref().map(String::as_str), Some("7"));
    assert_eq!((scene.table.questions(), scene.table.loads()), (3, 2501), "k1 and k7 once each");
    let again = within(users.get_many_or_load(&keys[..2500])).await.expect("all are there");
    assert!(again.iter().all(Option::is_some) && scene.table.questions() == 3);
    let error = users.get_many_or_load(&["k1", ""]).await.expect_err("not a key");
    assert_eq!(error.kind(), ErrorKind::InvalidKey);
}

#[tokio::test]
async fn what_is_loaded_together_is_shared_and_overtaken_as_what_is_loaded_alone() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Invalidate).await;
    for key in ["a", "b", "c"] {
        scene.table.write(key, "old", Some(1));
    }
    scene.table.hold();
    let (many, one) = (users.clone(), users.clone());
    let many = tokio::spawn(async move { many.get_many_or_load(&["a", "b", "c"]).await });
    scene.table.begun().await;
    let one = tokio::spawn(async move { load(&one, "a").await });
    while users.stats().loads_shared == 0 {
        tokio::task::yield_now().await;
    }
    scene.put("b", "new", 2).await;
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.let_go(100);
    let reads = within(many).await.expect("no panic").expect("the source answers");
    let reads: Vec<_> = reads.iter().map(|read| read.as_deref().map(String::as_str)).collect();
    assert_eq!(reads, [Some("old"), Some("new"), Some("old")]);
    assert_eq!(one.await.expect("no panic").as_deref(), Some("old"));
    assert_eq!(scene.table.loads(), 4, "three together, and the overtaken one again");

    scene.table.set_fault(Some(Fault::Panics));
    scene.put("a", "newer", 2).await;
    within(users.caught_up()).await.expect("the link is whole");
    let error = within(users.get_many_or_load(&["a", "b"])).await.expect_err("it panics");
    assert_eq!(error.kind(), ErrorKind::Source);
}

/// A cache with a newer value than its source has, whose link was lost two milliseconds ago.
async fn behind_a_source_that_lags() -> (Scene, Users) {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Hydrate).await;
    scene.put("a", "new", 2).await;
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.write("a", "old", Some(1));
    scene.link.cut();
    tokio::time::sleep(Duration::from_millis(2)).await;
    (scene, users)
}

#[tokio::test(start_paused = true)]
async fn a_source_that_lags_behind_never_replaces_what_was_published() {
    let (scene, users) = behind_a_source_that_lags().await;
    // No fence can prove so much now: the source is asked.
    let age = Duration::from_millis(1);
    let read = within(users.get_within("a", age)).await.expect("the source answers at once");
    assert_eq!(read.as_deref().map(String::as_str), Some("new"));
    assert_eq!(scene.table.loads(), 1);
    assert_eq!(users.get("a").as_deref().map(String::as_str), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn a_source_that_takes_longer_than_a_bound_is_asked_once_for_it() {
    let (scene, users) = behind_a_source_that_lags().await;
    scene.table.hold();
    let reading = users.clone();
    let reading =
        tokio::spawn(async move { reading.get_within("a", Duration::from_millis(1)).await });
    scene.table.begun().await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    scene.table.let_go(100);
    let error = within(reading).await.expect("no panic").expect_err("it took too long");
    assert_eq!(error.kind(), ErrorKind::Unproven, "{error}");
    assert_eq!(scene.table.loads(), 1, "asking again takes as long again");
}

#[tokio::test]
async fn a_reader_that_leaves_neither_ends_the_load_nor_takes_it_from_others() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Invalidate).await;
    scene.table.write("a", "Ada", Some(1));
    scene.table.hold();
    let (first, second) = (users.clone(), users.clone());
    let first = tokio::spawn(async move { load(&first, "a").await });
    scene.table.begun().await;
    let second = tokio::spawn(async move { load(&second, "a").await });
    first.abort();
    assert!(first.await.expect_err("it left").is_cancelled());
    scene.table.let_go(1);
    assert_eq!(within(second).await.expect("no panic").as_deref(), Some("Ada"));
    assert_eq!(scene.table.loads(), 1);
}

#[tokio::test]
async fn a_source_that_fails_or_panics_is_an_error_for_all_who_wait_and_the_next_read_asks_again() {
    for fault in [Fault::Fails, Fault::Panics] {
        let scene = Scene::new(VersionDomain::Caller);
        let users = scene.users(Mode::Invalidate).await;
        scene.table.write("a", "Ada", Some(1));
        scene.table.set_fault(Some(fault));
        scene.table.hold();
        let reads: Vec<_> = (0..10)
            .map(|_| {
                let users = users.clone();
                tokio::spawn(async move { users.get_or_load("a").await })
            })
            .collect();
        scene.table.begun().await;
        while users.stats().loads_shared < 9 {
            tokio::task::yield_now().await;
        }
        scene.table.let_go(1);
        for read in reads {
            let error = within(read).await.expect("no panic").expect_err("the source failed");
            assert_eq!(error.kind(), ErrorKind::Source);
            assert!(error.is_retryable() && error.to_string().contains("\"a\""), "{error}");
        }
        assert_eq!((scene.table.loads(), users.stats().load_failures), (1, 1));
        scene.table.set_fault(None);
        scene.table.let_go(1);
        assert_eq!(load(&users, "a").await.as_deref(), Some("Ada"));
        assert_eq!(users.freshness().state(), State::Live, "the hydrator is untouched");
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_waits_no_longer_than_its_limit_and_the_load_fills_the_cache_all_the_same() {
    let scene = Scene::new(VersionDomain::Caller);
    let reader = channel(scene.link.clone(), scene.versions);
    let builder = Hydrated::builder(reader, Replica::new()).source(scene.table.clone());
    let users = builder.with_read_limit(Duration::from_secs(1)).start().await.expect("starts");
    within(users.ready()).await.expect("the table can be read");
    scene.table.write("a", "Ada", Some(1));
    scene.table.hold();
    let error = users.get_or_load("a").await.expect_err("the source is slow");
    assert_eq!(error.kind(), ErrorKind::Timeout);
    scene.table.let_go(1);
    within(async {
        while users.get("a").is_none() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(scene.table.loads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_hangs_is_given_up_within_its_limit() {
    let scene = Scene::new(VersionDomain::Caller);
    let reader = channel(scene.link.clone(), scene.versions);
    let users = Hydrated::builder(reader, Replica::new())
        .source(scene.table.clone())
        .with_hydration(|hydrate| hydrate.with_source_limit(Duration::from_millis(50)))
        .start()
        .await
        .expect("starts");
    scene.table.set_fault(Some(Fault::Hangs));
    let error = users.get_or_load("a").await.expect_err("the source hangs");
    assert_eq!(error.kind(), ErrorKind::Source);
    let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(why.contains("50ms"), "{why}");
}

#[tokio::test]
async fn dropping_the_last_clone_ends_what_is_being_loaded() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Invalidate).await;
    scene.table.hold();
    {
        let reading = users.get_or_load("a");
        tokio::select! {
            read = reading => panic!("the load is held, and it came to {read:?}"),
            () = scene.table.begun() => {}
        }
    }
    assert_eq!(scene.table.ended(), 0, "it goes on");
    let clone = users.clone();
    drop(users);
    tokio::task::yield_now().await;
    assert_eq!(scene.table.ended(), 0, "for the other clone");
    drop(clone);
    within(async {
        while scene.table.ended() == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(scene.broker.subscriptions(scene.writer.topic()), 0, "the hydration ended");
}

#[tokio::test]
async fn what_the_source_does_not_have_is_none_and_a_missing_source_is_an_error() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Hydrate).await;
    assert_eq!(load(&users, "a").await, None);
    let error = users.get_or_load("").await.expect_err("not a key");
    assert_eq!(error.kind(), ErrorKind::InvalidKey);
    let reader = channel(scene.link.clone(), scene.versions);
    let users = Hydrated::builder(reader, Replica::new()).start().await.expect("starts");
    let error = users.get_or_load("a").await.expect_err("nothing to load from");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    scene.put("a", "Ada", 1).await;
    within(users.caught_up()).await.expect("the link is whole");
    assert_eq!(load(&users, "a").await.as_deref(), Some("Ada"), "what is there needs no source");
}

#[tokio::test]
async fn a_source_with_versions_behind_a_channel_with_a_clock_is_told_apart() {
    let scene = Scene::new(VersionDomain::Clock);
    let users = scene.users(Mode::Invalidate).await;
    scene.table.write("a", "Ada", Some(1));
    let error = users.get_or_load("a").await.expect_err("two domains");
    assert_eq!(error.kind(), ErrorKind::InvalidVersion);
}

#[tokio::test]
async fn after_the_transport_is_closed_reads_go_on_and_say_that_the_hydration_stopped() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Hydrate).await;
    scene.put("a", "Ada", 1).await;
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.write("b", "Bob", Some(1));
    scene.link.close().await.expect("closes");
    within(async {
        while users.freshness().state() != State::Stopped {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let read = users.get("a").expect("still there");
    assert!(read.freshness().is_suspect());
    assert_eq!(load(&users, "b").await.as_deref(), Some("Bob"));
    assert!(users.get("b").is_none(), "nothing fills the cache any more");
}

#[tokio::test]
async fn a_value_is_shared_and_not_copied_from_its_load_to_its_readers() {
    let scene = Scene::new(VersionDomain::Caller);
    let users = scene.users(Mode::Invalidate).await;
    scene.table.write("a", "Ada", Some(1));
    let loaded = within(users.get_or_load("a")).await.expect("answers").expect("has a row");
    let cached = users.get("a").expect("it was stored");
    assert!(Arc::ptr_eq(loaded.value(), cached.value()));
    assert_eq!((loaded.version(), loaded.expires_at()), (cached.version(), None));
}
