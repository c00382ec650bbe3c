//! A broker, a table and a writer, replicas that are filled from one another, and links through which a
//! test decides on each batch.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;
use futures::future::BoxFuture;
use hydratecache::cache::{Freshness, Replica, WarmStart};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, Error, ErrorKind, Fence, Hydrated, Limits, Message, Result, Subscription, Topic,
    Transport, VersionDomain,
};

use super::restart::{Broker, Link};
use super::{Table, within};

pub(crate) type Users = Hydrated<String, Replica<String>>;

pub(crate) const DOMAINS: [VersionDomain; 2] = [VersionDomain::Caller, VersionDomain::Clock];

/// A broker, a table with rows, and a writer.
pub(crate) struct Scene {
    pub(crate) broker: MemoryBroker,
    pub(crate) table: Table,
    pub(crate) versions: VersionDomain,
    pub(crate) writer: Channel<String>,
    pub(crate) rows: usize,
}

impl Scene {
    pub(crate) fn new(versions: VersionDomain, rows: usize) -> Self {
        let broker = MemoryBroker::new();
        let writer = channel(broker.connect(), versions);
        let scene = Self { broker, table: Table::default(), versions, writer, rows };
        for number in 0..rows {
            scene.write(&name(number), &value(number, 1), 1);
        }
        scene
    }

    pub(crate) fn write(&self, key: &str, value: &str, version: u64) {
        let version = (self.versions == VersionDomain::Caller).then_some(version);
        self.table.write(key, value, version);
    }

    pub(crate) async fn put(&self, number: usize, version: u64) {
        self.put_by(&self.writer, number, version).await.expect("accepted");
    }

    /// Writes a row, and publishes it as `writer`, which may fail.
    pub(crate) async fn put_by(
        &self,
        writer: &Channel<String>,
        number: usize,
        version: u64,
    ) -> Result<()> {
        let (key, value) = (name(number), value(number, version));
        self.write(&key, &value, version);
        let write = writer.put(&key, &value);
        match self.versions {
            VersionDomain::Caller => write.version(version).await,
            VersionDomain::Clock => write.await,
        }
        .map(drop)
    }

    /// Writes a row whose publish fails, as `writer` over a link that [refuses](Tapped::refusing) meanwhile.
    pub(crate) async fn fail_by(
        &self,
        writer: &Channel<String>,
        is_refused: &AtomicBool,
        number: usize,
        version: u64,
    ) {
        is_refused.store(true, Ordering::SeqCst);
        self.put_by(writer, number, version).await.expect_err("refused");
        is_refused.store(false, Ordering::SeqCst);
    }

    pub(crate) async fn remove(&self, number: usize, version: u64) {
        self.table.delete(&name(number));
        let removal = self.writer.remove(name(number));
        match self.versions {
            VersionDomain::Caller => removal.version(version).await,
            VersionDomain::Clock => removal.await,
        }
        .expect("accepted");
    }

    pub(crate) async fn begin(&self, transport: impl Transport, warm_start: WarmStart) -> Users {
        let builder = Hydrated::builder(channel(transport, self.versions), Replica::new());
        let builder = builder.source(self.table.clone()).with_warm_start(warm_start);
        within(builder.start()).await.expect("starts")
    }

    /// A replica that is ready.
    pub(crate) async fn users(&self) -> Users {
        let users = self.begin(self.broker.connect(), small()).await;
        within(users.ready()).await.expect("the table can be read");
        // From here on it can prove that it is live.
        within(users.caught_up()).await.expect("the link is whole");
        users
    }

    pub(crate) async fn check(&self, users: &Users) {
        within(users.caught_up()).await.expect("the link is whole");
        for number in 0..self.rows {
            let row = self.table.row(&name(number)).map(|(value, _)| value);
            assert_eq!(users.get(&name(number)).map(|read| read.to_string()), row, "{number}");
        }
    }
}

/// Waits until it is live again.
pub(crate) async fn repaired(users: &Users) {
    let is_repaired = |freshness: Freshness| !freshness.is_suspect();
    within(users.hydration().wait_until(is_repaired)).await.expect("it goes on");
}

pub(crate) async fn cut(link: &MemoryTransport, users: &Users) {
    link.cut();
    within(users.hydration().wait_until(Freshness::is_suspect)).await.expect("it is told");
}

/// A replica, and its link.
pub(crate) async fn linked(scene: &Scene) -> (MemoryTransport, Users) {
    let link = scene.broker.connect();
    let users = scene.begin(link.clone(), small()).await;
    within(users.ready()).await.expect("it is filled");
    within(users.caught_up()).await.expect("the link is whole");
    (link, users)
}

/// A replica, and its link to `broker`.
pub(crate) async fn on(scene: &Scene, broker: &Broker) -> (Link, Users) {
    let link = broker.connect();
    let users = scene.begin(link.clone(), small()).await;
    within(users.ready()).await.expect("it is filled");
    within(users.caught_up()).await.expect("the link is whole");
    (link, users)
}

pub(crate) fn is_proven(users: &Users) -> bool {
    users.freshness().proven_within().is_some()
}

pub(crate) fn channel(transport: impl Transport, versions: VersionDomain) -> Channel<String> {
    let builder = Channel::builder(transport, "users").with_versions(versions);
    builder.build().expect("legal")
}

pub(crate) fn name(number: usize) -> String {
    format!("key:{number}")
}

pub(crate) fn value(number: usize, version: u64) -> String {
    format!("{number} of {version} {:0>80}", "")
}

/// Many chunks of few entries.
pub(crate) fn small() -> WarmStart {
    WarmStart::new().with_chunk_bytes(8 << 10)
}

/// The same, slowly: 8 chunks a second.
pub(crate) fn slow() -> WarmStart {
    small().with_bytes_per_second(64 << 10)
}

pub(crate) type Tap = dyn Fn(&Topic, &[Message]) -> Fate + Send + Sync;

/// A link through which a test decides on each batch.
#[derive(Clone)]
pub(crate) struct Tapped {
    link: MemoryTransport,
    tap: Arc<Tap>,
    pub(crate) limits: Limits,
}

pub(crate) enum Fate {
    Sent,
    SentTwice,
    /// As if it were.
    Lost,
    Refused,
}

impl Tapped {
    pub(crate) fn new(
        link: MemoryTransport,
        tap: impl Fn(&Topic, &[Message]) -> Fate + Send + Sync + 'static,
    ) -> Self {
        Self { limits: link.limits(), link, tap: Arc::new(tap) }
    }

    /// One that refuses all while the flag is set.
    pub(crate) fn refusing(link: MemoryTransport) -> (Self, Arc<AtomicBool>) {
        let is_refused = Arc::new(AtomicBool::new(false));
        let refuses = is_refused.clone();
        let tap = move |_: &Topic, _: &[Message]| {
            if refuses.load(Ordering::SeqCst) { Fate::Refused } else { Fate::Sent }
        };
        (Self::new(link, tap), is_refused)
    }

    pub(crate) fn again(&self, link: MemoryTransport) -> Self {
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
