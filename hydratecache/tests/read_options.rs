//! The options of reads through `Hydrated`, each off by default.

mod support;

use std::time::Duration;

use futures::future::join_all;
use hydratecache::cache::{HydratedBuilder, Mode, Read, Replica, WhileSuspect};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Channel, ErrorKind, Hydrated, Ttl, VersionDomain};
use support::{Fault, Table, within};
use tokio::time::sleep;

type Users = Hydrated<String, Replica<String>>;
type Builder = HydratedBuilder<String, Replica<String>>;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

struct Scene {
    broker: MemoryBroker,
    writer: Channel<String>,
    link: MemoryTransport,
    table: Table,
}

impl Scene {
    fn new() -> Self {
        let broker = MemoryBroker::new();
        let (writer, link) = (channel(broker.connect()), broker.connect());
        Self { broker, writer, link, table: Table::default() }
    }

    fn builder(&self) -> Builder {
        let builder = Hydrated::builder(channel(self.link.clone()), Replica::new());
        builder
            .source(self.table.clone())
            .with_hydration(|hydrate| hydrate.with_mode(Mode::UpdateIfPresent))
    }

    /// Entries live for a minute, and are loaded again in its last ten seconds.
    async fn refreshing(&self) -> Users {
        let builder = self.builder().with_refresh_ahead(10 * SECOND);
        let builder = builder.with_hydration(|hydrate| hydrate.with_max_ttl(MINUTE));
        builder.start().await.expect("starts")
    }

    /// One more instance, with a link of its own.
    async fn another(&self) -> Users {
        let reader = channel(self.broker.connect());
        let builder = Hydrated::builder(reader, Replica::new()).source(self.table.clone());
        builder.start().await.expect("starts")
    }

    async fn put(&self, key: &str, value: &str, version: u64) {
        self.table.write(key, value, Some(version));
        self.writer.put(key, &value.to_owned()).version(version).await.expect("accepted");
    }
}

fn channel(transport: MemoryTransport) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(VersionDomain::Caller);
    builder.build().expect("legal")
}

async fn load(users: &Users, key: &str) -> Option<Read<String>> {
    within(users.get_or_load(key)).await.expect("answered")
}

fn text(read: Option<&Read<String>>) -> Option<&str> {
    read.map(|read| read.as_str())
}

/// Waits until the tasks behind the scenes have done what they can.
async fn settle() {
    sleep(Duration::from_millis(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_the_source_does_not_have_is_not_asked_for_again_for_the_stated_time() {
    let scene = Scene::new();
    let users = scene.builder().with_negative_caching(MINUTE).start().await.expect("starts");
    for _ in 0..10 {
        assert!(load(&users, "a").await.is_none());
    }
    assert_eq!((scene.table.loads(), users.stats().absences_known), (1, 9));
    sleep(MINUTE).await;
    assert!(load(&users, "a").await.is_none());
    assert_eq!(scene.table.loads(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_update_or_a_gap_ends_a_known_absence_at_once() {
    let scene = Scene::new();
    let users = scene.builder().with_negative_caching(60 * MINUTE).start().await.expect("starts");
    assert!(load(&users, "a").await.is_none());
    scene.put("a", "Ada", 1).await;
    within(users.caught_up()).await.expect("the link is whole");
    assert_eq!(text(load(&users, "a").await.as_ref()), Some("Ada"));

    assert!(load(&users, "b").await.is_none());
    scene.link.cut();
    scene.put("b", "Bob", 1).await;
    scene.link.heal();
    within(users.caught_up()).await.expect("the link is whole");
    assert_eq!(text(load(&users, "b").await.as_ref()), Some("Bob"));
}

#[tokio::test(start_paused = true)]
async fn an_absence_that_an_update_overtakes_while_it_is_found_is_not_remembered() {
    let scene = Scene::new();
    let users = scene.builder().with_negative_caching(60 * MINUTE).start().await.expect("starts");
    scene.table.hold();
    let reader = users.clone();
    let reading = tokio::spawn(async move { load(&reader, "a").await });
    scene.table.begun().await;
    scene.put("a", "Ada", 1).await;
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.let_go(100);
    assert_eq!(text(reading.await.expect("no panic").as_ref()), Some("Ada"));
}

#[tokio::test(start_paused = true)]
async fn a_hot_key_is_loaded_again_before_its_end_and_its_reads_never_wait() {
    let scene = Scene::new();
    let users = scene.refreshing().await;
    scene.table.write("hot", "1", Some(1));
    scene.table.write("cold", "1", Some(1));
    load(&users, "hot").await;
    load(&users, "cold").await;
    for _ in 0..600 {
        assert!(users.get("hot").is_some(), "it never ends");
        sleep(SECOND).await;
    }
    // A life is a minute, and each begins anew in its last ten seconds: the row did not change.
    let loads = scene.table.loads();
    assert!((11..=14).contains(&loads), "{loads} loads in ten minutes");
    assert!(users.get("cold").is_none(), "nobody read it");
    assert!(users.stats().refreshes_ahead >= 10);
}

#[tokio::test]
async fn a_thread_outside_of_the_runtime_reads_and_begins_a_refresh() {
    let scene = Scene::new();
    let users = scene
        .builder()
        .with_refresh_ahead(Duration::MAX)
        .with_fail_safe(Duration::MAX)
        .with_hydration(|hydrate| hydrate.with_max_ttl(MINUTE))
        .start()
        .await
        .expect("starts");
    scene.table.write("a", "1", Some(1));
    load(&users, "a").await;
    let reader = users.clone();
    let reading = std::thread::spawn(move || reader.get("a").map(|read| read.to_string()));
    let read = within(tokio::task::spawn_blocking(move || reading.join())).await;
    assert_eq!(read.expect("joined").expect("no panic").as_deref(), Some("1"));
    within(async {
        while scene.table.loads() < 2 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refresh_that_fails_leaves_the_entry_and_spares_the_source() {
    let scene = Scene::new();
    let users = scene.refreshing().await;
    scene.table.write("a", "1", Some(1));
    load(&users, "a").await;
    scene.table.set_fault(Some(Fault::Fails));
    sleep(51 * SECOND).await;
    for _ in 0..500 {
        assert!(users.get("a").is_some());
        sleep(SECOND / 100).await;
    }
    let failures = users.stats().load_failures;
    assert!((4..=6).contains(&failures), "{failures} loads in five seconds");
}

#[tokio::test(start_paused = true)]
async fn an_expired_entry_of_the_same_version_is_loaded_once_and_lives_again() {
    let scene = Scene::new();
    let builder = scene.builder().with_hydration(|hydrate| hydrate.with_max_ttl(SECOND));
    let users = builder.start().await.expect("starts");
    scene.table.write("a", "1", Some(1));
    for life in 1..=5 {
        for _ in 0..10 {
            assert!(load(&users, "a").await.is_some());
        }
        assert_eq!(scene.table.loads(), life, "one load in each life");
        sleep(SECOND).await;
        assert!(users.get("a").is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn where_the_source_fails_the_last_value_is_served_for_the_stated_time() {
    let scene = Scene::new();
    let users = scene
        .builder()
        .with_fail_safe(10 * MINUTE)
        .with_hydration(|hydrate| hydrate.with_max_ttl(MINUTE))
        .start()
        .await
        .expect("starts");
    scene.table.write("a", "old", Some(1));
    assert_eq!(text(load(&users, "a").await.as_ref()), Some("old"));
    sleep(MINUTE).await;
    assert!(users.get("a").is_none(), "its life is over");
    scene.table.set_fault(Some(Fault::Fails));
    let before = scene.table.loads();
    for _ in 0..100 {
        let read = load(&users, "a").await;
        assert_eq!(text(read.as_ref()), Some("old"));
        assert!(read.is_some_and(|read| read.is_last_resort()));
    }
    assert_eq!(scene.table.loads() - before, 1, "the source is left alone for a second");
    let error = users.get_within("a", SECOND).await.expect_err("nothing of that is proven");
    assert_eq!(error.kind(), ErrorKind::Source);

    scene.table.set_fault(None);
    scene.table.write("a", "new", Some(2));
    sleep(SECOND).await;
    let read = load(&users, "a").await;
    assert_eq!(text(read.as_ref()), Some("new"));
    assert!(read.is_some_and(|read| !read.is_last_resort()));
    assert!(users.get("a").is_some());

    scene.table.set_fault(Some(Fault::Fails));
    sleep(11 * MINUTE + SECOND).await;
    let error = users.get_or_load("a").await.expect_err("the stated time is over");
    assert_eq!(error.kind(), ErrorKind::Source);
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_is_no_last_resort() {
    let scene = Scene::new();
    let builder = scene.builder().with_fail_safe(10 * MINUTE);
    let users = builder.start().await.expect("starts");
    scene.table.write("a", "old", Some(1));
    load(&users, "a").await;
    scene.table.delete("a");
    scene.writer.remove("a").version(2).await.expect("accepted");
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.set_fault(Some(Fault::Fails));
    let error = users.get_or_load("a").await.expect_err("the source fails");
    assert_eq!(error.kind(), ErrorKind::Source);
}

#[tokio::test(start_paused = true)]
async fn with_a_soft_limit_a_slow_source_is_not_waited_for_where_there_is_a_last_value() {
    let scene = Scene::new();
    let users = scene
        .builder()
        .with_fail_safe(10 * MINUTE)
        .with_soft_limit(SECOND / 10)
        .with_hydration(|hydrate| hydrate.with_max_ttl(MINUTE))
        .start()
        .await
        .expect("starts");
    scene.table.write("a", "old", Some(1));
    load(&users, "a").await;
    sleep(MINUTE).await;
    scene.table.write("a", "new", Some(2));
    scene.table.hold();
    let called = tokio::time::Instant::now();
    let read = load(&users, "a").await;
    assert_eq!(text(read.as_ref()), Some("old"));
    assert!(called.elapsed() < SECOND);
    scene.table.let_go(1);
    settle().await;
    assert_eq!(text(users.get("a").as_ref()), Some("new"), "the load went on");
    assert_eq!(scene.table.loads(), 2);
}

#[tokio::test(start_paused = true)]
async fn entries_that_began_together_end_apart() {
    let scene = Scene::new();
    let users = scene
        .builder()
        .with_hydration(|hydrate| hydrate.with_max_ttl(100 * SECOND).with_expiry_jitter(0.5))
        .start()
        .await
        .expect("starts");
    for number in 0..200 {
        scene.table.write(&format!("k{number}"), "1", Some(1));
        load(&users, &format!("k{number}")).await;
    }
    let living = || (0..200).filter(|number| users.get(&format!("k{number}")).is_some()).count();
    sleep(49 * SECOND).await;
    assert_eq!(living(), 200, "no life is shorter than that");
    sleep(26 * SECOND).await;
    assert!((50..150).contains(&living()), "{} at half the time", living());
    sleep(26 * SECOND).await;
    assert_eq!(living(), 0, "no life is longer than it was");
    for share in [-0.1, 1.1, f64::NAN] {
        let builder = scene.builder().with_hydration(|hydrate| hydrate.with_expiry_jitter(share));
        let error = builder.start().await.expect_err("not a part");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_that_is_published_fills_the_others() {
    let scene = Scene::new();
    let users = scene.builder().with_published_loads().start().await.expect("starts");
    let others = [scene.another().await, scene.another().await];
    join_all(others.iter().map(Users::ready)).await;
    // A row that came without a message.
    scene.table.write("a", "Ada", Some(1));
    load(&users, "a").await;
    settle().await;
    for other in &others {
        within(other.caught_up()).await.expect("the link is whole");
        assert_eq!(text(other.get("a").as_ref()), Some("Ada"));
        assert_eq!(other.stats().loads, 0);
    }
    assert_eq!(users.stats().loads_published, 1);
    // A newer write is not undone by a published load of an older row.
    scene.writer.put("b", &"new".to_owned()).version(2).await.expect("accepted");
    within(users.caught_up()).await.expect("the link is whole");
    scene.table.write("b", "old", Some(1));
    load(&users, "b").await;
    settle().await;
    for other in &others {
        within(other.caught_up()).await.expect("the link is whole");
        assert_eq!(text(other.get("b").as_ref()), Some("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn loads_are_published_only_where_versions_tell_old_from_new() {
    let scene = Scene::new();
    let clocked = Channel::<String>::new(scene.link.clone(), "users").expect("legal");
    let builder = Hydrated::builder(clocked, Replica::new()).source(scene.table.clone());
    let error = builder.with_published_loads().start().await.expect_err("a clock is no version");
    assert_eq!(error.kind(), ErrorKind::InvalidVersion);
    let users = scene.builder().with_published_loads().start().await.expect("starts");
    scene.table.write("a", "Ada", None);
    load(&users, "a").await;
    settle().await;
    let stats = users.stats();
    assert_eq!((stats.loads_published, stats.loads_unpublished), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn while_the_cache_is_suspect_reads_do_what_was_chosen() {
    for (policy, got, loaded, fallback) in [
        (WhileSuspect::Serve, Some("old"), Some("old"), Some("old")),
        (WhileSuspect::ServeFor(MINUTE), Some("old"), Some("old"), Some("old")),
        (WhileSuspect::ServeFor(SECOND), None, Some("new"), None),
        (WhileSuspect::Revalidate, Some("old"), Some("new"), Some("new")),
        (WhileSuspect::Miss, None, Some("new"), None),
    ] {
        let scene = Scene::new();
        let users = scene.builder().with_suspect_reads(policy).start().await.expect("starts");
        scene.table.write("a", "old", Some(1));
        load(&users, "a").await;
        assert_eq!(text(users.get("a").as_ref()), Some("old"), "{policy:?} while it is live");
        scene.link.cut();
        within(users.hydration().wait_until(hydratecache::cache::Freshness::is_suspect))
            .await
            .expect("it runs");
        sleep(2 * SECOND).await;
        scene.table.write("a", "new", Some(2));
        assert_eq!(text(users.get("a").as_ref()), got, "{policy:?}");
        assert_eq!(text(load(&users, "a").await.as_ref()), loaded, "{policy:?}");
        scene.table.set_fault(Some(Fault::Fails));
        let read = within(users.get_or_load("a")).await;
        match fallback {
            Some(value) => assert_eq!(text(read.expect("served").as_ref()), Some(value)),
            None => assert_eq!(read.expect_err("refused").kind(), ErrorKind::Source, "{policy:?}"),
        }
        scene.table.set_fault(None);
        scene.link.heal();
        within(users.caught_up()).await.expect("the link is whole");
        assert_eq!(text(users.get("a").as_ref()), if got == loaded { got } else { Some("new") });
    }
}

#[tokio::test]
async fn options_that_could_not_do_what_they_promise_are_refused() {
    let scene = Scene::new();
    let without_source =
        || Hydrated::builder(channel(scene.link.clone()), Replica::<String>::new());
    let refused = [
        without_source().with_negative_caching(MINUTE),
        without_source().with_refresh_ahead(MINUTE),
        without_source().with_fail_safe(MINUTE),
        without_source().with_published_loads(),
        without_source().with_suspect_reads(WhileSuspect::Revalidate),
        scene.builder().with_soft_limit(SECOND),
    ];
    for builder in refused {
        let name = format!("{builder:?}");
        let error = builder.start().await.expect_err(&name);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_gives_a_new_life_to_what_a_touch_ended() {
    let scene = Scene::new();
    let users = scene.builder().start().await.expect("starts");
    scene.put("a", "1", 1).await;
    load(&users, "a").await;
    let ttl = Ttl::starting_now(MINUTE).expect("legal");
    scene.writer.touch("a", ttl).version(2).await.expect("accepted");
    within(users.caught_up()).await.expect("the link is whole");
    sleep(MINUTE).await;
    assert!(users.get("a").is_none(), "the touch gave it an end");
    assert!(load(&users, "a").await.is_some() && users.get("a").is_some(), "the load took it away");
}
