//! The promises of warm starts: a copy of a live replica instead of a scan, one scan for many, and
//! nothing older than what arrives meanwhile.

mod support;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use hydratecache::cache::{Freshness, Mode, Replica, WarmStart};
use hydratecache::codec::FnCodec;
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, Error, ErrorKind, Fence, FenceScope, Hydrated, Kind, Limits, Message, Result,
    Subscription, Topic, Transport, Ttl, VersionDomain,
};
use support::{Table, Watched, within};
use tokio::time::{Instant, sleep};

type Users = Hydrated<String, Replica<String>>;

const DOMAINS: [VersionDomain; 2] = [VersionDomain::Caller, VersionDomain::Clock];

/// A broker, a table with rows, and a writer.
struct Scene {
    broker: MemoryBroker,
    table: Table,
    versions: VersionDomain,
    writer: Channel<String>,
    rows: usize,
}

impl Scene {
    fn new(versions: VersionDomain, rows: usize) -> Self {
        let broker = MemoryBroker::new();
        let writer = channel(broker.connect(), versions);
        let scene = Self { broker, table: Table::default(), versions, writer, rows };
        for number in 0..rows {
            scene.write(&name(number), &value(number, 1), 1);
        }
        scene
    }

    fn write(&self, key: &str, value: &str, version: u64) {
        let version = (self.versions == VersionDomain::Caller).then_some(version);
        self.table.write(key, value, version);
    }

    async fn put(&self, number: usize, version: u64) {
        let (key, value) = (name(number), value(number, version));
        self.write(&key, &value, version);
        let write = self.writer.put(&key, &value);
        match self.versions {
            VersionDomain::Caller => write.version(version).await,
            VersionDomain::Clock => write.await,
        }
        .expect("accepted");
    }

    async fn remove(&self, number: usize, version: u64) {
        self.table.delete(&name(number));
        let removal = self.writer.remove(name(number));
        match self.versions {
            VersionDomain::Caller => removal.version(version).await,
            VersionDomain::Clock => removal.await,
        }
        .expect("accepted");
    }

    async fn begin(&self, transport: impl Transport, warm_start: WarmStart) -> Users {
        let builder = Hydrated::builder(channel(transport, self.versions), Replica::new());
        let builder = builder.source(self.table.clone()).with_warm_start(warm_start);
        within(builder.start()).await.expect("starts")
    }

    /// A replica that is ready.
    async fn users(&self) -> Users {
        let users = self.begin(self.broker.connect(), small()).await;
        within(users.ready()).await.expect("the table can be read");
        // From here on it can prove that it is live.
        within(users.caught_up()).await.expect("the link is whole");
        users
    }

    async fn check(&self, users: &Users) {
        within(users.caught_up()).await.expect("the link is whole");
        for number in 0..self.rows {
            let row = self.table.row(&name(number)).map(|(value, _)| value);
            assert_eq!(users.get(&name(number)).map(|read| read.to_string()), row, "{number}");
        }
    }
}

fn is_proven(users: &Users) -> bool {
    users.freshness().proven_within().is_some()
}

fn channel(transport: impl Transport, versions: VersionDomain) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(versions);
    builder.build().expect("legal")
}

fn name(number: usize) -> String {
    format!("key:{number}")
}

fn value(number: usize, version: u64) -> String {
    format!("{number} of {version} {:0>80}", "")
}

/// Many chunks of few entries.
fn small() -> WarmStart {
    WarmStart::new().with_chunk_bytes(8 << 10)
}

/// The same, slowly: 8 chunks a second.
fn slow() -> WarmStart {
    small().with_bytes_per_second(64 << 10)
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_starts_beside_a_live_one_takes_its_copy_and_spares_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 3_000);
        let first = scene.users().await;
        scene.put(1, 7).await;
        scene.remove(2, 7).await;
        let second = scene.users().await;
        scene.check(&second).await;
        assert!(is_proven(&second));
        assert_eq!(scene.table.scans(), 1);
        let stats = second.stats();
        assert_eq!((stats.copies, stats.reloads, stats.entries_copied), (1, 0, 2_999), "{stats:?}");
        assert_eq!(first.stats().entries_offered, 2_999);
        let versions_of = |users: &Users, number| {
            users.cache().entry(&name(number)).and_then(|entry| entry.version())
        };
        for number in [0, 1, 2_999] {
            assert_eq!(versions_of(&first, number), versions_of(&second, number));
        }
        // It goes on as every other one.
        scene.put(1, 8).await;
        scene.put(2, 8).await;
        scene.check(&second).await;
        let third = scene.users().await;
        drop((first, second));
        scene.check(&third).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_written_while_a_copy_is_under_way_is_applied_in_order() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 2_000);
        let first = scene.begin(scene.broker.connect(), slow()).await;
        within(first.ready()).await.expect("the table can be read");
        // Later on, what is new is no more than that.
        sleep(Duration::from_secs(11)).await;
        let second = scene.begin(scene.broker.connect(), small()).await;
        let mut version = 1;
        while second.stats().copies == 0 {
            version += 1;
            for number in [0, 17, 1_000, 1_500, 1_999] {
                if (number + usize::try_from(version).expect("small")).is_multiple_of(3) {
                    scene.remove(number, version).await;
                } else {
                    scene.put(number, version).await;
                }
            }
            sleep(Duration::from_millis(20)).await;
            assert!(version < 3_000, "{:?}", second.stats());
        }
        assert!(version > 50, "it took long enough: {version}");
        within(second.ready()).await.expect("it has a copy");
        scene.check(&second).await;
        // Keys that were removed and came back right after its start had it look once more.
        sleep(Duration::from_secs(30)).await;
        scene.check(&second).await;
        assert!(is_proven(&second));
        assert_eq!((scene.table.scans(), second.stats().reloads), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_that_start_together_two_at_most_read_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 1_000);
        let starts = (0..50).map(|_| scene.begin(scene.broker.connect(), small()));
        let fleet = join_all(starts).await;
        join_all(fleet.iter().map(|users| within(users.ready()))).await;
        for users in &fleet {
            scene.check(users).await;
        }
        assert!(scene.table.scans() <= 2, "{}", scene.table.scans());
    }
}

#[tokio::test(start_paused = true)]
async fn of_fifty_that_start_together_amid_new_keys_two_at_most_read_the_source() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 300);
        let starts = (0..50).map(|_| scene.begin(scene.broker.connect(), small()));
        let fleet = join_all(starts).await;
        for number in 0..300 {
            // Some are removed and come back, each of which may be one that is gone.
            if number % 3 == 0 {
                scene.remove(number, 2).await;
            }
            scene.put(number, 3).await;
            sleep(Duration::from_millis(50)).await;
        }
        sleep(Duration::from_secs(30)).await;
        for users in &fleet {
            scene.check(users).await;
            assert!(is_proven(users));
        }
        assert!(scene.table.scans() <= 2, "{}", scene.table.scans());
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_waits_says_little() {
    let scene = Scene::new(VersionDomain::Caller, 1_000);
    let said = Arc::new(AtomicU64::new(0));
    let count = said.clone();
    let tapped = Tapped::new(scene.broker.connect(), move |_, batch| {
        let requests = batch.iter().filter(|message| message.kind() == Kind::Request).count();
        count.fetch_add(requests as u64, Ordering::SeqCst);
        Fate::Sent
    });
    scene.table.hold_scans(Duration::from_secs(20));
    let links = (0..50).map(|_| tapped.again(scene.broker.connect()));
    let fleet = join_all(links.map(|link| scene.begin(link, small()))).await;
    join_all(fleet.iter().map(|users| within(users.ready()))).await;
    let said = said.load(Ordering::SeqCst);
    // About two a second while one of them reads, and a few for all.
    assert!((20..150).contains(&said), "{said}");
    assert!(scene.table.scans() <= 2);
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_lost_messages_reads_the_source_whoever_is_whole() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    let whole = scene.users().await;
    let link = scene.broker.connect();
    let users = scene.begin(link.clone(), small()).await;
    within(users.ready()).await.expect("it has a copy");
    assert_eq!((users.stats().copies, scene.table.scans()), (1, 1));
    link.cut();
    within(users.hydration().wait_until(Freshness::is_suspect)).await.expect("it is told");
    scene.put(1, 2).await;
    link.heal();
    let is_repaired = |freshness: Freshness| !freshness.is_suspect();
    within(users.hydration().wait_until(is_repaired)).await.expect("it goes on");
    scene.check(&users).await;
    assert_eq!((users.stats().copies, users.stats().reloads), (1, 1));
    drop(whole);
}

/// What a copy alone would hide: its sender has the older value too, and nobody was told yet.
#[tokio::test(start_paused = true)]
async fn the_news_of_a_publish_that_failed_reaches_a_replica_that_was_filled_by_a_copy() {
    // Behind the copy, and at moments before, while and after it is taken.
    let moments = (0..60).map(|count| Some(count * Duration::from_millis(25)));
    for heard_after in [None].into_iter().chain(moments) {
        let scene = Scene::new(VersionDomain::Caller, 10);
        let is_refused = Arc::new(AtomicBool::new(false));
        let refuses = is_refused.clone();
        let link = Tapped::new(scene.broker.connect(), move |_, _| {
            if refuses.load(Ordering::SeqCst) { Fate::Refused } else { Fate::Sent }
        });
        let writer = channel(link, scene.versions);
        let _answering = writer.answer_requests().await.expect("subscribes");
        let first = scene.users().await;
        writer.put("key:1", &value(1, 2)).version(2).await.expect("accepted");
        scene.write("key:1", &value(1, 2), 2);
        within(first.caught_up()).await.expect("the link is whole");
        // The row is written, and nobody is told.
        is_refused.store(true, Ordering::SeqCst);
        scene.write("key:1", &value(1, 3), 3);
        writer.put("key:1", &value(1, 3)).version(3).await.expect_err("refused");
        let second = scene.begin(scene.broker.connect(), small()).await;
        if let Some(delay) = heard_after {
            sleep(delay).await;
            is_refused.store(false, Ordering::SeqCst);
        }
        within(second.ready()).await.expect("it has a copy");
        assert_eq!(second.stats().copies, 1, "{heard_after:?}");
        is_refused.store(false, Ordering::SeqCst);
        sleep(Duration::from_secs(3)).await;
        for users in [&first, &second] {
            scene.check(users).await;
        }
        let gaps = [first.stats().gaps, second.stats().gaps];
        // A sender that heard the news first has repaired the key, and gives the newer value away.
        let is_told = gaps == [1, 1] || heard_after.is_some() && gaps == [1, 0];
        assert!(is_told, "{heard_after:?}: {gaps:?}");
        assert_eq!(scene.table.scans(), 1, "the key was loaded by itself");
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_codec_wrote_is_not_taken() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    let other = FnCodec::new(
        |text: &String| Ok(text.clone().into()),
        |payload: &Bytes| Ok(String::from_utf8(payload.to_vec())?),
    );
    let builder = Channel::builder_with_codec(scene.broker.connect(), "users", other);
    let channel = builder.with_versions(scene.versions).build().expect("legal");
    let builder = Hydrated::builder(channel, Replica::new()).source(scene.table.clone());
    let first = builder.with_warm_start(small()).start().await.expect("starts");
    within(first.ready()).await.expect("the table can be read");
    let second = scene.users().await;
    scene.check(&second).await;
    assert_eq!((second.stats().copies, second.stats().reloads), (0, 1));
    // Its own kind is.
    let third = scene.users().await;
    assert_eq!((third.stats().copies, third.stats().reloads), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn when_the_sender_dies_another_replica_sends() {
    let scene = Scene::new(VersionDomain::Clock, 3_000);
    let mut whole = Vec::new();
    for _ in 0..2 {
        let users = scene.begin(scene.broker.connect(), slow()).await;
        within(users.ready()).await.expect("it is filled");
        // It proves that it is live, and lingers for nobody.
        sleep(Duration::from_secs(5)).await;
        within(users.caught_up()).await.expect("the link is whole");
        whole.push(users);
    }
    let offered = |users: &Users| users.stats().entries_offered;
    let before: Vec<u64> = whole.iter().map(offered).collect();
    let last = scene.begin(scene.broker.connect(), small()).await;
    while last.stats().entries_copied < 1_000 {
        sleep(Duration::from_millis(10)).await;
    }
    let sender = whole.iter().zip(&before).position(|(users, before)| offered(users) > *before);
    drop(whole.remove(sender.expect("somebody sends")));
    within(last.ready()).await.expect("it has a copy");
    scene.check(&last).await;
    assert_eq!((scene.table.scans(), last.stats().copies), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn when_nobody_else_is_there_the_source_is_read_soon() {
    let scene = Scene::new(VersionDomain::Caller, 2_000);
    let began = Instant::now();
    let only = scene.users().await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!((only.stats().copies, only.stats().reloads), (0, 1));
    // One that dies in the middle, with nobody else, leaves it to the source.
    let other = scene.begin(scene.broker.connect(), slow()).await;
    within(other.ready()).await.expect("it has a copy");
    drop(only);
    let last = scene.begin(scene.broker.connect(), small()).await;
    while last.stats().entries_copied < 500 {
        sleep(Duration::from_millis(10)).await;
    }
    drop(other);
    within(last.ready()).await.expect("the table can be read");
    scene.check(&last).await;
    assert_eq!((last.stats().copies, last.stats().reloads), (0, 1));
}

type Tap = dyn Fn(&Topic, &[Message]) -> Fate + Send + Sync;

/// A link through which a test decides on each batch.
#[derive(Clone)]
struct Tapped {
    link: MemoryTransport,
    tap: Arc<Tap>,
    limits: Limits,
}

enum Fate {
    Sent,
    SentTwice,
    /// As if it were.
    Lost,
    Refused,
}

impl Tapped {
    fn new(
        link: MemoryTransport,
        tap: impl Fn(&Topic, &[Message]) -> Fate + Send + Sync + 'static,
    ) -> Self {
        Self { limits: link.limits(), link, tap: Arc::new(tap) }
    }

    fn again(&self, link: MemoryTransport) -> Self {
        Self { link, ..self.clone() }
    }
}

impl Transport for Tapped {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            self.limits.check(&batch)?;
            match (self.tap)(&topic, &batch) {
                Fate::Sent => self.link.publish(topic, batch).await,
                Fate::SentTwice => {
                    self.link.publish(topic.clone(), batch.clone()).await?;
                    self.link.publish(topic, batch).await
                }
                Fate::Lost => Ok(()),
                Fate::Refused => Err(Error::new(ErrorKind::Unavailable, "refused")),
            }
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.link.subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.link.fence()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.link.close()
    }
}

impl fmt::Debug for Tapped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tapped")
    }
}

#[tokio::test(start_paused = true)]
async fn chunks_that_are_lost_or_come_twice_cost_no_entry() {
    let scene = Scene::new(VersionDomain::Caller, 5_000);
    let sent = AtomicU64::new(0);
    let link = Tapped::new(scene.broker.connect(), move |topic, _| {
        if !topic.as_str().contains("copy") {
            return Fate::Sent;
        }
        match sent.fetch_add(1, Ordering::SeqCst) % 10 {
            3 => Fate::Lost,
            5 => Fate::SentTwice,
            _ => Fate::Sent,
        }
    });
    let first = scene.begin(link, small()).await;
    within(first.ready()).await.expect("the table can be read");
    let second = scene.users().await;
    scene.check(&second).await;
    let stats = second.stats();
    assert_eq!((stats.copies, stats.entries_copied), (1, 5_000), "{stats:?}");
    assert!(first.stats().entries_offered > 5_000);
}

#[tokio::test(start_paused = true)]
async fn a_copied_entry_ends_when_the_one_that_it_was_copied_from_does() {
    let scene = Scene::new(VersionDomain::Clock, 100);
    let first = scene.users().await;
    let ttl = Ttl::starting_now(Duration::from_secs(30)).expect("legal");
    scene.writer.put("key:5", &value(5, 1)).ttl(ttl).await.expect("accepted");
    within(first.caught_up()).await.expect("the link is whole");
    sleep(Duration::from_secs(20)).await;
    let second = scene.users().await;
    let end = |users: &Users| users.cache().entry("key:5").and_then(|entry| entry.expires_at());
    let (own, copied) = (end(&first).expect("it has one"), end(&second).expect("it has one"));
    assert!(own.max(copied) - own.min(copied) < Duration::from_millis(200), "{own:?} {copied:?}");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_fits_into_no_chunk_is_read_from_the_source() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    let large = "x".repeat(3 << 20);
    scene.write("key:7", &large, 2);
    let mut link = Tapped::new(scene.broker.connect(), |_, _| Fate::Sent);
    link.limits = Limits::new(64 << 10, FenceScope::Process);
    let first = scene.begin(link.clone(), small()).await;
    within(first.ready()).await.expect("the table can be read");
    let loads = scene.table.loads();
    let second = scene.begin(link, small()).await;
    within(second.ready()).await.expect("it has a copy");
    scene.check(&second).await;
    assert_eq!((second.stats().copies, scene.table.loads() - loads), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn where_a_fence_covers_one_of_several_servers_the_source_is_read() {
    let scene = Scene::new(VersionDomain::Caller, 100);
    for _ in 0..3 {
        let link = Watched::new(scene.broker.connect(), FenceScope::ClusterMember);
        let users = scene.begin(link, small()).await;
        within(users.ready()).await.expect("the table can be read");
        assert_eq!((users.stats().copies, users.stats().reloads), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_warm_start_without_a_source_or_for_a_part_is_refused() {
    let scene = Scene::new(VersionDomain::Caller, 1);
    let builder =
        || Hydrated::builder(channel(scene.broker.connect(), scene.versions), Replica::new());
    let sourced = builder().source(scene.table.clone());
    let part = sourced.with_hydration(|hydrate| hydrate.with_mode(Mode::UpdateIfPresent));
    let short = builder().source(scene.table.clone());
    let short = short.with_hydration(|hydrate| hydrate.with_max_ttl(Duration::from_secs(1)));
    for builder in [builder(), part, short] {
        let refused = builder.with_warm_start(small()).start().await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::InvalidInput);
    }
}
