//! The promises of freshness: what is claimed is proven, and where nothing is proven that is said.

mod support;

use std::time::Duration;

use futures::future::join_all;
use hydratecache::cache::{GapAction, Mode, Replica, State};
use hydratecache::{Channel, ErrorKind, FenceScope, Hydrated};
use support::{Fault, Scene, Table, within};
use tokio::time::{Instant, sleep};

type Users = Hydrated<String, Replica<String>>;

const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(3600);

impl Scene {
    /// Without fences on an interval, so that those on demand can be counted.
    async fn quiet(&self, source: Option<&Table>) -> Users {
        let builder = Hydrated::builder(self.reader(), Replica::new())
            .with_hydration(|hydrate| hydrate.with_fence_interval(100 * LONG));
        let builder = match source {
            Some(table) => builder.source(table.clone()),
            None => builder,
        };
        let builder = builder.with_hydration(|hydrate| hydrate.with_reload_jitter(Duration::ZERO));
        let users = builder.start().await.expect("starts");
        within(users.ready()).await.expect("the table can be read");
        proven(&users).await;
        users
    }

    async fn publish(&self, key: &str, value: &str) {
        self.writer.publish(key, &value.to_owned()).await.expect("accepted");
    }
}

async fn proven(users: &Users) {
    within(users.hydration().wait_until(|fresh| fresh.proven_at().is_some()))
        .await
        .expect("it runs");
}

async fn text(users: &Users, key: &str, age: Duration) -> Option<String> {
    let read = within(users.get_within(key, age)).await.expect("it can be proven");
    read.map(|read| read.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_read_within_a_bound_sees_every_write_that_was_acknowledged_before() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    for number in 0..50 {
        let value = number.to_string();
        scene.publish("a", &value).await;
        sleep(Duration::from_millis(1)).await;
        assert_eq!(text(&users, "a", Duration::ZERO).await, Some(value), "it is older than that");
    }
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_is_young_enough_asks_nobody() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    scene.publish("a", "Ada").await;
    within(users.caught_up()).await.expect("the link is whole");
    let before = scene.watched.fences();
    sleep(SHORT).await;
    assert_eq!(text(&users, "a", SHORT).await.as_deref(), Some("Ada"));
    assert_eq!(scene.watched.fences(), before);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(text(&users, "a", SHORT).await.as_deref(), Some("Ada"));
    assert_eq!(scene.watched.fences(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_fence_is_shared_by_all_who_wait_and_never_by_those_who_came_after_it_went_out() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    scene.publish("a", "Ada").await;
    sleep(LONG).await;
    let before = scene.watched.fences();
    let reads = join_all((0..1000).map(|_| text(&users, "a", SHORT))).await;
    assert!(reads.iter().all(|read| read.as_deref() == Some("Ada")));
    assert_eq!(scene.watched.fences() - before, 1, "one for all");

    // Two that come while a fence is under way wait for one more, together.
    scene.watched.delay_fences(SHORT);
    let caught_up = |users: &Users| {
        let users = users.clone();
        tokio::spawn(async move {
            let called = Instant::now();
            let fresh = users.caught_up().await.expect("the link is whole");
            (called, fresh)
        })
    };
    let first = caught_up(&users);
    sleep(SHORT / 2).await;
    let later = [caught_up(&users), caught_up(&users)];
    first.await.expect("no panic");
    for waiter in later {
        let (called, fresh) = waiter.await.expect("no panic");
        assert!(fresh.proven_at() >= Some(called), "it went out after the call");
    }
    assert_eq!(scene.watched.fences() - before, 3);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_takes_the_fence_from_nobody() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    scene.watched.delay_fences(SHORT);
    let waiter = |users: &Users| {
        let users = users.clone();
        tokio::spawn(async move { users.caught_up().await })
    };
    let (first, second) = (waiter(&users), waiter(&users));
    sleep(SHORT / 2).await;
    first.abort();
    within(second).await.expect("no panic").expect("the link is whole");
}

#[tokio::test(start_paused = true)]
async fn a_proof_that_takes_longer_than_the_bound_is_an_error() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    scene.publish("a", "Ada").await;
    sleep(LONG).await;
    scene.watched.delay_fences(2 * SHORT);
    let error = within(users.get_within("a", SHORT)).await.expect_err("too slow");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    assert!(error.is_retryable() && error.to_string().contains("200ms"), "{error}");
    assert_eq!(text(&users, "a", 3 * SHORT).await.as_deref(), Some("Ada"));
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_the_bound_grows_and_what_it_forbids_is_an_error() {
    let scene = Scene::new(FenceScope::Process);
    let users = scene.quiet(None).await;
    scene.publish("a", "old").await;
    within(users.caught_up()).await.expect("the link is whole");
    let proven_at = users.freshness().proven_at().expect("proven");
    scene.link.cut();
    scene.publish("a", "new").await;
    within(users.hydration().wait_until(hydratecache::cache::Freshness::is_suspect))
        .await
        .expect("it runs");
    sleep(2 * SHORT).await;
    let read = users.get("a").expect("reads go on");
    assert_eq!(*read, "old");
    assert!(read.freshness().is_suspect());
    assert_eq!(read.freshness().proven_at(), Some(proven_at));
    assert!(read.freshness().proven_within() >= Some(2 * SHORT));
    let error = within(users.get_within("a", SHORT)).await.expect_err("the link is cut");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    assert!(error.to_string().contains("link"), "{error}");
    assert_eq!(
        text(&users, "a", LONG).await.as_deref(),
        Some("old"),
        "it is proven to be that old"
    );

    scene.link.heal();
    within(users.caught_up()).await.expect("the link is whole");
    assert!(users.get("a").is_none(), "without a source the gap cleared it");
    let error = within(users.get_within("a", SHORT)).await.expect_err("it has a value");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    scene.publish("a", "newest").await;
    within(users.caught_up()).await.expect("the link is whole");
    assert_eq!(text(&users, "a", SHORT).await.as_deref(), Some("newest"));
}

#[tokio::test(start_paused = true)]
async fn during_an_outage_the_source_proves_what_no_fence_can() {
    let scene = Scene::new(FenceScope::Process);
    let table = Table::default();
    table.write("a", "old", None);
    let users = scene.quiet(Some(&table)).await;
    scene.link.cut();
    table.write("a", "new", None);
    sleep(LONG).await;
    assert_eq!(users.get("a").as_deref().map(String::as_str), Some("old"));
    let read = within(users.get_within("a", SHORT)).await.expect("the source answers");
    let read = read.expect("it has a row");
    assert_eq!(*read, "new");
    assert!(read.freshness().is_suspect(), "the cache is");
    assert!(read.freshness().proven_within() <= Some(SHORT), "the value is not");
    assert_eq!(users.get("a").as_deref().map(String::as_str), Some("new"), "and it is kept");
    table.set_fault(Some(Fault::Fails));
    sleep(LONG).await;
    let error = within(users.get_within("a", SHORT)).await.expect_err("both are down");
    assert_eq!(error.kind(), ErrorKind::Source);
}

#[tokio::test(start_paused = true)]
async fn a_load_that_began_too_long_ago_is_not_taken_for_a_proof() {
    let scene = Scene::new(FenceScope::Process);
    let table = Table::default();
    let users = scene.quiet(Some(&table)).await;
    table.write("a", "old", None);
    table.hold();
    let reader = users.clone();
    let slow = tokio::spawn(async move { reader.get_or_load("a").await });
    table.begun().await;
    sleep(2 * SHORT).await;
    // Written without a message, by somebody who knows nothing of us.
    table.write("a", "new", None);
    sleep(2 * SHORT).await;
    let reader = users.clone();
    let bounded = tokio::spawn(async move { text(&reader, "a", SHORT).await });
    while users.stats().loads_shared == 0 {
        tokio::task::yield_now().await;
    }
    table.let_go(100);
    assert_eq!(within(bounded).await.expect("no panic").as_deref(), Some("new"));
    slow.await.expect("no panic").expect("the source answers");
    assert_eq!(table.loads(), 2);
}

#[tokio::test(start_paused = true)]
async fn one_server_of_a_cluster_proves_nothing_and_says_so() {
    let scene = Scene::new(FenceScope::ClusterMember);
    let builder = Hydrated::builder(scene.reader(), Replica::new());
    let users = builder.start().await.expect("starts");
    scene.publish("a", "Ada").await;
    let fresh = within(users.caught_up()).await.expect("the link is whole");
    assert_eq!((fresh.state(), fresh.proven_within()), (State::Live, None));
    let error = within(users.get_within("a", LONG)).await.expect_err("nothing is proven");
    assert_eq!(error.kind(), ErrorKind::Unproven);
    assert!(error.to_string().contains("cluster"), "{error}");

    let table = Table::default();
    table.write("b", "Bob", None);
    let builder = Hydrated::builder(scene.reader(), Replica::new()).source(table);
    let users = builder.start().await.expect("starts");
    assert_eq!(text(&users, "b", SHORT).await.as_deref(), Some("Bob"), "the source proves it");
}

#[tokio::test(start_paused = true)]
async fn a_gap_that_was_ignored_leaves_nothing_proven() {
    let scene = Scene::new(FenceScope::Process);
    let builder = Hydrated::builder(scene.reader(), Replica::new())
        .with_hydration(|hydrate| hydrate.on_gap(GapAction::Ignore));
    let users = builder.start().await.expect("starts");
    proven(&users).await;
    scene.publish("a", "old").await;
    within(users.caught_up()).await.expect("the link is whole");
    scene.link.cut();
    scene.publish("a", "new").await;
    scene.link.heal();
    within(users.caught_up()).await.expect("the link is whole");
    sleep(LONG).await;
    let error = within(users.get_within("a", SHORT)).await.expect_err("nothing is proven");
    assert!(error.to_string().contains("ignored"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn fences_keep_the_bound_near_their_interval_and_many_topics_share_them() {
    let scene = Scene::new(FenceScope::Process);
    let mut all = Vec::new();
    for number in 0..20 {
        let reader = Channel::<String>::new(scene.watched.clone(), format!("topic.{number}"));
        let builder = Hydrated::builder(reader.expect("legal"), Replica::<String>::new());
        all.push(builder.start().await.expect("starts"));
    }
    sleep(Duration::from_secs(2)).await;
    let before = scene.watched.fences();
    for _ in 0..600 {
        sleep(Duration::from_millis(100)).await;
        for users in &all {
            let bound = users.freshness().proven_within().expect("proven");
            assert!(bound <= Duration::from_millis(1150), "{bound:?}");
        }
    }
    let fences = scene.watched.fences() - before;
    assert!((50..=80).contains(&fences), "{fences} fences in a minute for 20 topics");
}

#[tokio::test(start_paused = true)]
async fn the_first_proof_comes_as_soon_as_the_cache_is_warm() {
    let scene = Scene::new(FenceScope::Process);
    let table = Table::default();
    table.write("a", "Ada", None);
    let builder = Hydrated::builder(scene.reader(), Replica::new()).source(table);
    let builder = builder.with_hydration(|hydrate| hydrate.with_mode(Mode::Hydrate));
    let users = builder.start().await.expect("starts");
    assert_eq!(users.freshness().state(), State::Warming);
    within(users.ready()).await.expect("the table can be read");
    let ready = Instant::now();
    proven(&users).await;
    assert!(ready.elapsed() <= SHORT, "{:?}", ready.elapsed());
}
