//! A user's own moka cache, hydrated over the in-process transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{
    Entry, Freshness, GapAction, Hydration, Loaded, Mode, Source, SourceError, State,
};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Channel, ErrorKind, Hydrated, Key, Ttl, VersionDomain};
use hydratecache_moka::MokaCache;
use moka::future::Cache;
use moka::notification::RemovalCause;

type Words = Cache<String, Entry<String>>;

/// A writer, and a reader whose link can be cut.
struct Scene {
    writer: Channel<String>,
    reader: Channel<String>,
    link: MemoryTransport,
}

impl Scene {
    fn new() -> Self {
        let broker = MemoryBroker::new();
        let link = broker.connect();
        Self { writer: channel(broker.connect()), reader: channel(link.clone()), link }
    }

    async fn put(&self, key: &str, value: &str, version: u64) {
        self.writer.put(key, &value.to_owned()).version(version).await.expect("accepted");
    }

    async fn remove(&self, key: &str, version: u64) {
        self.writer.remove(key).version(version).await.expect("accepted");
    }
}

fn channel(transport: MemoryTransport) -> Channel<String> {
    let builder = Channel::builder(transport, "words").with_versions(VersionDomain::Caller);
    builder.build().expect("legal")
}

fn words() -> Words {
    hydratecache_moka::builder().build()
}

async fn caught_up<T: Send + Sync + 'static>(hydration: &Hydration<T>) {
    hydration.caught_up().await.expect("the link is whole");
}

async fn value(words: &Words, key: &str) -> Option<String> {
    words.get(key).await.map(|entry| entry.value().to_string())
}

/// A table whose rows are given.
struct Table(Vec<(&'static str, &'static str, u64)>);

impl Source<String> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<String>>, SourceError>> {
        let row = self.0.iter().find(|row| row.0 == key.as_str());
        let loaded = row.map(|row| Loaded::new(row.1.to_owned()).with_version(row.2));
        async move { Ok(loaded) }.boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<String>), SourceError>> {
        let rows = self.0.iter().map(|(key, word, version)| {
            Ok((Key::new(key)?, Loaded::new((*word).to_owned()).with_version(*version)))
        });
        stream::iter(rows).boxed()
    }
}

#[tokio::test]
async fn writes_reach_the_users_own_cache() {
    let (scene, words) = (Scene::new(), words());
    let hydration = scene.reader.hydrate(MokaCache::from(words.clone())).await.expect("starts");
    scene.put("a", "Ada", 1).await;
    scene.put("b", "Bob", 2).await;
    scene.remove("b", 3).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "a").await.as_deref(), Some("Ada"));
    assert_eq!(value(&words, "b").await, None);
}

#[tokio::test]
async fn reads_go_through_the_users_own_cache_and_a_miss_is_loaded_into_it() {
    let (scene, words) = (Scene::new(), words());
    let users = Hydrated::builder(scene.reader.clone(), MokaCache::from(words.clone()))
        .source(Table(vec![("a", "Ada", 1), ("b", "Bob", 1)]))
        .with_hydration(|hydrate| hydrate.with_mode(Mode::UpdateIfPresent))
        .start()
        .await
        .expect("starts");
    assert!(users.read("a").await.is_none());
    let reads = (0..100).map(|_| users.get_or_load("a"));
    for read in futures::future::join_all(reads).await {
        assert_eq!(*read.expect("the source answers").expect("it has a row"), "Ada");
    }
    assert_eq!(users.stats().loads, 1);
    assert_eq!(value(&words, "a").await.as_deref(), Some("Ada"));
    scene.put("a", "Eve", 2).await;
    scene.put("b", "nobody has read it", 2).await;
    caught_up(users.hydration()).await;
    let read = users.read("a").await.expect("there");
    assert_eq!(*read, "Eve");
    assert!(read.freshness().proven_within().is_some());
    assert!(users.read("b").await.is_none());
    let bounded = users.get_within("a", Duration::from_secs(60)).await.expect("proven");
    assert_eq!(bounded.as_deref().map(String::as_str), Some("Eve"));
}

#[tokio::test]
async fn without_a_source_nobody_can_tell_whether_a_key_was_evicted_or_never_written() {
    let (scene, words) = (Scene::new(), words());
    let builder = Hydrated::builder(scene.reader.clone(), MokaCache::from(words));
    let users = builder.start().await.expect("starts");
    scene.put("a", "Ada", 1).await;
    caught_up(users.hydration()).await;
    let age = Duration::from_secs(60);
    assert!(users.get_within("a", age).await.expect("proven").is_some());
    let error = users.get_within("b", age).await.expect_err("it might have been evicted");
    assert_eq!(error.kind(), ErrorKind::Unproven, "{error}");
}

#[tokio::test]
async fn a_source_that_is_older_than_what_was_evicted_is_an_error_and_not_an_older_value() {
    let (scene, words) = (Scene::new(), words());
    let users = Hydrated::builder(scene.reader.clone(), MokaCache::from(words.clone()))
        .source(Table(vec![("a", "Ada", 1)]))
        .start()
        .await
        .expect("starts");
    users.ready().await.expect("the table can be read");
    scene.put("a", "Eve", 2).await;
    caught_up(users.hydration()).await;
    words.invalidate("a").await;
    let error = users.get_or_load("a").await.expect_err("the table lags behind");
    assert_eq!(error.kind(), ErrorKind::Source);
    assert!(error.to_string().contains("lag"), "{error}");
}

#[tokio::test]
async fn an_older_put_does_not_come_back_behind_a_removal_or_a_clear() {
    let (scene, words) = (Scene::new(), words());
    let hydration = scene.reader.hydrate(MokaCache::from(words.clone())).await.expect("starts");
    scene.put("a", "Ada", 1).await;
    scene.remove("a", 5).await;
    scene.put("a", "late", 4).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "a").await, None);
    scene.put("b", "Bob", 6).await;
    scene.writer.clear().version(7).await.expect("accepted");
    scene.put("b", "late", 7).await;
    scene.put("c", "new", 8).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "b").await, None);
    assert_eq!(value(&words, "c").await.as_deref(), Some("new"));
}

#[tokio::test]
async fn a_ttl_below_a_second_ends_the_entry_on_time() {
    let (scene, words) = (Scene::new(), words());
    let hydration = scene.reader.hydrate(MokaCache::from(words.clone())).await.expect("starts");
    // Two seconds more than that, for a machine that is busy.
    let ttl = Ttl::starting_now(Duration::from_millis(2400)).expect("legal");
    scene.writer.put("a", &"brief".to_owned()).ttl(ttl).version(1).await.expect("accepted");
    caught_up(&hydration).await;
    let end = words.get("a").await.and_then(|entry| entry.expires_at()).expect("still there");
    tokio::time::sleep_until(end).await;
    assert!(words.get("a").await.is_none());
}

#[tokio::test]
async fn a_gap_is_repaired_from_the_source_while_reads_go_on() {
    let (scene, words) = (Scene::new(), words());
    let table = Table(vec![("a", "new", 5), ("c", "missed", 6)]);
    let hydration = scene
        .reader
        .hydrate(MokaCache::from(words.clone()))
        .with_source(table)
        .with_reload_jitter(Duration::ZERO)
        .await
        .expect("starts");
    hydration.ready().await.expect("the table can be read");
    scene.put("b", "to be deleted", 7).await;
    caught_up(&hydration).await;

    scene.link.cut();
    scene.remove("b", 8).await;
    hydration.wait_until(Freshness::is_suspect).await.expect("it runs");
    assert!(value(&words, "b").await.is_some(), "reads go on");
    scene.link.heal();
    let is_repaired = hydration.wait_until(|fresh| fresh.state() == State::Live);
    tokio::time::timeout(Duration::from_secs(10), is_repaired).await.expect("soon").expect("runs");
    assert_eq!(value(&words, "b").await, None);
    assert_eq!(value(&words, "c").await.as_deref(), Some("missed"));
    assert_eq!(hydration.stats().missed, 1);
}

#[tokio::test]
async fn eviction_by_capacity_is_harmless() {
    let scene = Scene::new();
    let words: Words = hydratecache_moka::builder().max_capacity(10).build();
    let hydration = scene.reader.hydrate(MokaCache::from(words.clone())).await.expect("starts");
    for number in 1..=500_u64 {
        scene.put(&format!("k{}", number % 100), "some", number).await;
    }
    caught_up(&hydration).await;
    words.run_pending_tasks().await;
    assert!(words.entry_count() <= 10);
    for (_, entry) in &words {
        assert!(entry.version().expect("published").number() > 400, "never an older write");
    }
    assert!(!hydration.freshness().is_suspect());
}

#[tokio::test]
async fn the_users_weigher_and_listener_are_still_called() {
    let scene = Scene::new();
    let causes = Arc::new([const { AtomicUsize::new(0) }; 3]);
    let seen = causes.clone();
    let words: Words = hydratecache_moka::builder()
        .max_capacity(100)
        .weigher(|_, entry: &Entry<String>| u32::try_from(entry.len()).expect("short"))
        .eviction_listener(move |_, _, cause| {
            let index = match cause {
                RemovalCause::Replaced => 0,
                RemovalCause::Explicit => 1,
                _ => 2,
            };
            seen[index].fetch_add(1, Ordering::SeqCst);
        })
        .build();
    let hydration = scene.reader.hydrate(MokaCache::from(words.clone())).await.expect("starts");
    scene.put("a", "twelve bytes", 1).await;
    scene.put("a", "eight by", 2).await;
    scene.put("b", "gone", 3).await;
    scene.remove("b", 4).await;
    scene.put("c", &"x".repeat(101), 5).await;
    caught_up(&hydration).await;
    words.run_pending_tasks().await;
    assert_eq!(words.weighted_size(), 8);
    let counts: Vec<_> = causes.iter().map(|cause| cause.load(Ordering::SeqCst)).collect();
    assert_eq!(counts, [1, 1, 1], "replaced, removed, and too heavy");
}

#[tokio::test]
async fn update_if_present_keeps_what_is_read_fresh_and_nothing_else() {
    let (scene, words) = (Scene::new(), words());
    let hydration = scene
        .reader
        .hydrate(MokaCache::from(words.clone()))
        .with_mode(Mode::UpdateIfPresent)
        .await
        .expect("starts");
    let lease = hydration.lease(Key::new("a").expect("legal"));
    let filled = hydration.fill(lease, Loaded::new("old".to_owned()).with_version(1)).await;
    assert!(filled.expect("it runs"));
    scene.put("a", "new", 2).await;
    scene.put("b", "unread", 3).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "a").await.as_deref(), Some("new"));
    assert_eq!(value(&words, "b").await, None);
    assert_eq!(hydration.stats().absent, 1);
}

/// A load reads the old row, the write happens, and only then is what was loaded given back.
async fn late_load(mode: Mode, loaded: Loaded<String>) -> (bool, Option<String>) {
    let (scene, words) = (Scene::new(), words());
    let cache = MokaCache::from(words.clone());
    let hydration = scene.reader.hydrate(cache).with_mode(mode).await.expect("starts");
    let lease = hydration.lease(Key::new("a").expect("legal"));
    scene.put("a", "new", 2).await;
    caught_up(&hydration).await;
    // As moka does when the cache is full.
    words.invalidate("a").await;
    let stored = hydration.fill(lease, loaded).await.expect("it runs");
    (stored, value(&words, "a").await)
}

#[tokio::test]
async fn a_stale_load_never_wins() {
    for mode in [Mode::Hydrate, Mode::UpdateIfPresent, Mode::Invalidate] {
        for version in [None, Some(1)] {
            let loaded = Loaded::new("old".to_owned());
            let loaded = match version {
                None => loaded,
                Some(version) => loaded.with_version(version),
            };
            assert_eq!(late_load(mode, loaded).await, (false, None), "{mode:?}, {version:?}");
        }
    }
}

#[tokio::test]
async fn a_load_that_a_gap_overtook_never_wins() {
    let (scene, words) = (Scene::new(), words());
    let hydration = scene
        .reader
        .hydrate(MokaCache::from(words.clone()))
        .with_mode(Mode::Invalidate)
        .on_gap(GapAction::Clear)
        .await
        .expect("starts");
    let lease = hydration.lease(Key::new("a").expect("legal"));
    scene.link.cut();
    scene.put("a", "new", 2).await;
    scene.link.heal();
    caught_up(&hydration).await;
    let old = Loaded::new("old".to_owned()).with_version(1);
    assert!(!hydration.fill(lease, old).await.expect("it runs"));
    assert_eq!(value(&words, "a").await, None);
    assert_eq!(hydration.freshness().state(), State::Live);
}

#[tokio::test]
async fn an_invalidated_key_is_loaded_again_by_the_next_read() {
    let (scene, words) = (Scene::new(), words());
    let cache = MokaCache::from(words.clone());
    let hydration = scene.reader.hydrate(cache).with_mode(Mode::Invalidate).await.expect("starts");
    for version in 1..=3_u64 {
        let lease = hydration.lease(Key::new("a").expect("legal"));
        let row = Loaded::new(version.to_string()).with_version(version);
        assert!(hydration.fill(lease, row).await.expect("it runs"));
        assert_eq!(value(&words, "a").await, Some(version.to_string()));
        scene.put("a", &(version + 1).to_string(), version + 1).await;
        caught_up(&hydration).await;
        assert_eq!(value(&words, "a").await, None);
    }
}

#[tokio::test]
async fn an_older_put_does_not_come_in_because_the_newer_one_was_evicted() {
    let scene = Scene::new();
    let words = words();
    let hydrate = scene.reader.hydrate(MokaCache::from(words.clone()));
    let hydration = hydrate.await.expect("starts");
    scene.put("a", "new", 5).await;
    caught_up(&hydration).await;
    // As the cache's own limits would.
    words.invalidate("a").await;
    scene.put("a", "old", 4).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "a").await, None);
    scene.put("a", "newer", 6).await;
    caught_up(&hydration).await;
    assert_eq!(value(&words, "a").await.as_deref(), Some("newer"));
}
