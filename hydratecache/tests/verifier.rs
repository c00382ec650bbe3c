//! The promises of the verifier: what differs is found, what is only late is not reported, and the
//! source is asked at the stated rate.

mod support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hydratecache::cache::{Divergence, DivergenceKind, Mode, Replica, Verifier};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Channel, ErrorKind, Hydrated, Transport, VersionDomain};
use support::{Fault, Table, within};
use tokio::time::{Instant, sleep};

type Users = Hydrated<String, Replica<String>>;

const INTERVAL: Duration = Duration::from_millis(10);
const PATIENCE: Duration = Duration::from_secs(10);

/// A writer, a reader with a link of its own, and what its verifier reported.
struct Scene {
    writer: Channel<String>,
    link: MemoryTransport,
    table: Table,
    versions: VersionDomain,
    reported: Arc<Mutex<Vec<Divergence>>>,
}

impl Scene {
    fn new(versions: VersionDomain) -> Self {
        let broker = MemoryBroker::new();
        let (writer, link) = (channel(broker.connect(), versions), broker.connect());
        Self { writer, link, table: Table::default(), versions, reported: Arc::default() }
    }

    fn verifier(&self) -> Verifier<String> {
        let reported = self.reported.clone();
        Verifier::new()
            .with_interval(INTERVAL)
            .with_patience(PATIENCE)
            .on_divergence(move |divergence| reported.lock().expect("no panic").push(divergence))
    }

    async fn users(&self, mode: Mode, verifier: Verifier<String>) -> Users {
        let builder = Hydrated::builder(channel(self.link.clone(), self.versions), Replica::new());
        let builder = builder.source(self.table.clone()).with_verifier(verifier);
        let builder = builder.with_hydration(|hydrate| hydrate.with_mode(mode));
        let users = builder.start().await.expect("starts");
        within(users.ready()).await.expect("the table can be read");
        users
    }

    fn write(&self, key: &str, value: &str, version: u64) {
        let version = (self.versions == VersionDomain::Caller).then_some(version);
        self.table.write(key, value, version);
    }

    async fn tell(&self, key: &str, value: &str, version: u64) {
        let write = self.writer.put(key, &value.to_owned());
        let write = match self.versions {
            VersionDomain::Caller => write.version(version),
            VersionDomain::Clock => write,
        };
        write.await.expect("accepted");
    }

    /// What was reported of each key since the last time, the latest only.
    fn reported(&self) -> BTreeMap<String, Divergence> {
        let reported = std::mem::take(&mut *self.reported.lock().expect("no panic"));
        let by_key = |divergence: Divergence| (divergence.key.as_str().to_owned(), divergence);
        reported.into_iter().map(by_key).collect()
    }

    fn kinds(&self) -> BTreeMap<String, DivergenceKind> {
        self.reported().into_iter().map(|(key, divergence)| (key, divergence.kind)).collect()
    }
}

fn channel(transport: impl Transport, versions: VersionDomain) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(versions);
    builder.build().expect("legal")
}

const DOMAINS: [VersionDomain; 2] = [VersionDomain::Caller, VersionDomain::Clock];

/// Four rounds through 500 keys and their pages, and the patience.
const LONG: Duration = Duration::from_secs(60);

/// Makes ten keys of each kind wrong. Returns which.
async fn spoil(scene: &Scene) -> BTreeMap<String, DivergenceKind> {
    let has_versions = scene.versions == VersionDomain::Caller;
    let mut wrong = BTreeMap::new();
    for number in 0..10 {
        let [stale, different, gone, missing, ahead] =
            [0, 1, 2, 50, 3].map(|hundreds| format!("key:{}", 100 * hundreds + number));
        scene.write(&stale, "written, and nobody told", 9);
        scene.write(&different, "another one of this version", 1);
        scene.table.delete(&gone);
        scene.write(&missing, "nobody told", 1);
        scene.tell(&ahead, "told, and never written", 9).await;
        let by_version = |kind| if has_versions { kind } else { DivergenceKind::Different };
        wrong.extend([
            (stale, by_version(DivergenceKind::Stale)),
            (different, DivergenceKind::Different),
            (gone, DivergenceKind::Gone),
            (missing, DivergenceKind::Missing),
            (ahead, by_version(DivergenceKind::Ahead)),
        ]);
    }
    wrong
}

#[tokio::test(start_paused = true)]
async fn every_divergence_that_is_made_is_found_and_nothing_else() {
    for versions in DOMAINS {
        let scene = Scene::new(versions);
        for number in 0..500 {
            scene.write(&format!("key:{number}"), "right", 1);
        }
        let users = scene.users(Mode::Hydrate, scene.verifier()).await;
        sleep(LONG).await;
        assert_eq!(scene.kinds(), BTreeMap::new());
        let before = users.stats();
        assert!(before.verified > 2_000 && before.source_keys_verified > 2_000, "{before:?}");
        assert_eq!(before.agreement().share(), Some(1.0));
        assert!(before.agreement().nines(0.95) > 2.8, "{before:?}");
        let wrong = spoil(&scene).await;
        sleep(LONG).await;
        let reported = scene.reported();
        assert!(reported.values().all(|found| found.lasted >= PATIENCE && !found.is_repaired));
        let kinds = reported.iter().map(|(key, found)| (key.clone(), found.kind)).collect();
        assert_eq!(wrong, kinds, "{versions:?}");
        let stats = users.stats();
        assert!(stats.divergences >= 40 && stats.source_keys_missing >= 10, "{stats:?}");
        assert!(stats.agreement().share() < Some(1.0));
    }
}

#[tokio::test(start_paused = true)]
async fn what_differs_is_repaired_if_that_is_wanted_but_for_what_was_published_and_not_written() {
    for versions in DOMAINS {
        let scene = Scene::new(versions);
        for number in 0..500 {
            scene.write(&format!("key:{number}"), "right", 1);
        }
        let users = scene.users(Mode::Hydrate, scene.verifier().with_repairs()).await;
        let wrong = spoil(&scene).await;
        sleep(2 * LONG).await;
        let stays = |key: &String| wrong[key] == DivergenceKind::Ahead;
        for key in wrong.keys().filter(|key| !stays(key)) {
            let row = scene.table.row(key).map(|(value, _)| value);
            assert_eq!(users.get(key).map(|read| read.to_string()), row, "{key}");
        }
        let reported = scene.reported();
        assert!(reported.iter().all(|(key, found)| found.is_repaired != stays(key)));
        sleep(LONG).await;
        assert!(scene.kinds().keys().all(stays), "the rest is right");
        let ahead = wrong.keys().filter(|key| stays(key)).count() as u64;
        assert_eq!(users.stats().divergences_repaired, wrong.len() as u64 - ahead);
        // What was repaired is no newer than it is.
        scene.write("key:0", "new", 10);
        scene.tell("key:0", "new", 10).await;
        within(users.caught_up()).await.expect("the link is whole");
        assert_eq!(users.get("key:0").as_deref().map(String::as_str), Some("new"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_said_to_be_removed_and_is_still_there_comes_back() {
    let scene = Scene::new(VersionDomain::Caller);
    for key in ["a", "b"] {
        scene.write(key, "right", 1);
    }
    let users = scene.users(Mode::Hydrate, scene.verifier().with_repairs()).await;
    scene.writer.remove("a").version(1).await.expect("accepted");
    scene.writer.remove("b").version(2).await.expect("accepted");
    within(users.caught_up()).await.expect("the link is whole");
    assert!(users.get("a").is_none() && users.get("b").is_none());
    sleep(LONG).await;
    assert_eq!(users.get("a").as_deref().map(String::as_str), Some("right"));
    assert!(users.get("b").is_none(), "its removal is newer than what the source has");
    let reported = scene.reported();
    let repaired = |key: &str| reported.get(key).map(|found| (found.kind, found.is_repaired));
    assert_eq!(repaired("a"), Some((DivergenceKind::Missing, true)));
    assert_eq!(repaired("b"), Some((DivergenceKind::Missing, false)));
}

#[tokio::test(start_paused = true)]
async fn what_is_only_late_is_not_reported() {
    for versions in DOMAINS {
        let scene = Scene::new(versions);
        for number in 0..20 {
            scene.write(&format!("key:{number}"), "right", 1);
        }
        let users = scene.users(Mode::Hydrate, scene.verifier()).await;
        // Written now, told 9 s later, over and over: at any time half of the keys are late.
        for version in 2..26 {
            for key in 0..20_u64 {
                let name = format!("key:{key}");
                if key % 4 == version % 4 {
                    scene.table.delete(&name);
                } else {
                    scene.write(&name, &format!("of {version}"), version);
                }
            }
            sleep(Duration::from_secs(9)).await;
            for key in 0..20_u64 {
                let name = format!("key:{key}");
                if key % 4 == version % 4 {
                    let removal = scene.writer.remove(&name);
                    let removal = match versions {
                        VersionDomain::Caller => removal.version(version),
                        VersionDomain::Clock => removal,
                    };
                    removal.await.expect("accepted");
                } else {
                    scene.tell(&name, &format!("of {version}"), version).await;
                }
            }
            sleep(Duration::from_secs(u64::from(version % 3 == 0) * 5)).await;
        }
        assert_eq!(scene.kinds(), BTreeMap::new(), "{versions:?}");
        sleep(LONG).await;
        assert_eq!(scene.kinds(), BTreeMap::new(), "{versions:?}");
        assert!(users.stats().verified > 500, "{:?}", users.stats());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_cache_itself_calls_suspect_is_not_compared() {
    let scene = Scene::new(VersionDomain::Caller);
    scene.write("a", "old", 1);
    let users = scene.users(Mode::Hydrate, scene.verifier()).await;
    sleep(LONG).await;
    scene.link.cut();
    sleep(Duration::from_secs(1)).await;
    let before = users.stats().verified;
    scene.write("a", "new", 2);
    scene.tell("a", "new", 2).await;
    sleep(LONG).await;
    assert_eq!(users.stats().verified, before);
    scene.link.heal();
    sleep(LONG).await;
    assert!(users.stats().verified > before);
    assert_eq!(scene.kinds(), BTreeMap::new());
    assert_eq!(users.get("a").as_deref().map(String::as_str), Some("new"));
}

#[tokio::test(start_paused = true)]
async fn the_source_is_asked_at_the_stated_rate_and_left_alone_when_it_fails() {
    let scene = Scene::new(VersionDomain::Caller);
    for number in 0..100 {
        scene.write(&format!("key:{number}"), "right", 1);
    }
    let interval = Duration::from_secs(1);
    let users = scene.users(Mode::Hydrate, scene.verifier().with_interval(interval)).await;
    sleep(Duration::from_secs(1_000)).await;
    // Every other question is for a page.
    assert!((450..550).contains(&scene.table.loads()), "{}", scene.table.loads());
    for fault in [Fault::Fails, Fault::Panics, Fault::Hangs] {
        scene.table.set_fault(Some(fault));
        let (loads, failures) = (scene.table.loads(), users.stats().verification_failures);
        sleep(Duration::from_secs(1_000)).await;
        assert!(scene.table.loads() - loads < 100, "{}", scene.table.loads() - loads);
        assert!(users.stats().verification_failures - failures > 10);
        scene.table.set_fault(None);
        let verified = users.stats().verified;
        sleep(Duration::from_secs(200)).await;
        assert!(users.stats().verified > verified, "it goes on");
    }
    assert_eq!(scene.kinds(), BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn keys_that_the_cache_misses_are_found_by_scans_where_the_source_has_no_pages() {
    for scans in [None, Some(Duration::from_secs(20))] {
        let scene = Scene::new(VersionDomain::Clock);
        scene.table.without_pages();
        let verifier = scene.verifier();
        let verifier = match scans {
            Some(interval) => verifier.with_scans(interval),
            None => verifier,
        };
        let _users = scene.users(Mode::Hydrate, verifier).await;
        scene.write("a", "nobody told", 1);
        sleep(LONG).await;
        let expected = scans.map(|_| ("a".to_owned(), DivergenceKind::Missing));
        assert_eq!(scene.kinds(), expected.into_iter().collect());
        // One of them filled the cache.
        let range = if scans.is_some() { 3..=7 } else { 1..=1 };
        assert!(range.contains(&scene.table.scans()), "{}", scene.table.scans());
    }
}

#[tokio::test(start_paused = true)]
async fn a_cache_that_holds_a_part_misses_nothing_and_what_it_holds_is_compared() {
    for mode in [Mode::UpdateIfPresent, Mode::Invalidate] {
        let scene = Scene::new(VersionDomain::Caller);
        for key in ["a", "b"] {
            scene.write(key, "right", 1);
        }
        let users = scene.users(mode, scene.verifier()).await;
        within(users.get_or_load("a")).await.expect("it can be read");
        sleep(LONG).await;
        assert_eq!(scene.kinds(), BTreeMap::new());
        scene.write("a", "nobody told", 2);
        sleep(LONG).await;
        let stale = BTreeMap::from([("a".to_owned(), DivergenceKind::Stale)]);
        assert_eq!(scene.kinds(), stale);
    }
}

#[tokio::test(start_paused = true)]
async fn a_verifier_needs_a_source_and_ends_with_its_hydration() {
    let scene = Scene::new(VersionDomain::Caller);
    let builder = Hydrated::builder(channel(scene.link.clone(), scene.versions), Replica::new());
    let refused = builder.with_verifier(scene.verifier()).start().await.expect_err("no source");
    assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    scene.write("a", "right", 1);
    let users = scene.users(Mode::Hydrate, scene.verifier()).await;
    sleep(LONG).await;
    drop(users);
    let (loads, dropped_at) = (scene.table.loads(), Instant::now());
    sleep(LONG).await;
    assert_eq!(scene.table.loads(), loads, "{:?} after", dropped_at.elapsed());
}
