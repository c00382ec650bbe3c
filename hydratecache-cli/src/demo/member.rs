//! One replica: a local cache, its hydration, and what it says of itself.

use std::time::Duration;

use anyhow::Context;
use futures::stream::{self, StreamExt, TryStreamExt};
use hydratecache::cache::{Entry, Hydration, LocalCache, Mode, Replica, Source, State};
use hydratecache::{Channel, Key, Transport, VersionDomain};
use hydratecache_moka::{MokaCache, moka};
use rand::seq::IndexedRandom;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::city::{City, Row, cities};
use super::observed::{Applied, Observed};
use super::report::{Contents, Kind, Moment, Order, Report, Snapshot};

/// How long a replica may take to repair itself at the end.
pub(super) const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// How long a snapshot waits for its proof: while the link is lost there is none to be had.
const PROOF_LIMIT: Duration = Duration::from_millis(200);

/// The same at the end, when nothing else is waited for.
const LAST_PROOF_LIMIT: Duration = Duration::from_secs(5);

/// How often the replica that reads through is read.
const READ_INTERVAL: Duration = Duration::from_millis(1);

/// How many reads are under way at the end, when every key is read.
const READS: usize = 16;

/// A channel of cities. Every process builds it alike.
pub(super) fn channel(transport: impl Transport, topic: &str) -> anyhow::Result<Channel<City>> {
    let builder = Channel::builder(transport, topic).with_versions(VersionDomain::Caller);
    Ok(builder.build()?)
}

/// One replica.
pub(super) struct Member<S> {
    kind: Kind,
    cache: Cache,
    hydration: Hydration<City>,
    source: S,
    applied: Applied,
    keys: Vec<Key>,
}

/// What the replica keeps its entries in. The hydration has a handle to the same.
enum Cache {
    Moka(moka::future::Cache<Key, Entry<City>>),
    Replica(Replica<City>),
}

impl<S: Source<City> + Clone> Member<S> {
    /// A replica of the first `rows` cities, which is being filled when this returns.
    pub(super) async fn start(
        kind: Kind,
        channel: &Channel<City>,
        source: S,
        rows: u16,
    ) -> anyhow::Result<Self> {
        let applied = Applied::new(kind.holds_all());
        let cache = match kind {
            Kind::Moka | Kind::Invalidate => Cache::Moka(hydratecache_moka::builder().build()),
            Kind::Replica => Cache::Replica(Replica::new()),
        };
        let hydration = match &cache {
            Cache::Moka(moka) => {
                let cache = MokaCache::from(moka.clone());
                hydrate(kind, channel, cache, source.clone(), &applied).await
            }
            Cache::Replica(replica) => {
                hydrate(kind, channel, replica.clone(), source.clone(), &applied).await
            }
        };
        let hydration = hydration.with_context(|| format!("subscribing as {}", kind.name()))?;
        let keys = cities(rows)?.iter().map(City::key).collect::<Result<_, _>>()?;
        Ok(Self { kind, cache, hydration, source, applied, keys })
    }

    /// Answers `orders` until there are no more, and reads meanwhile if reads go through.
    pub(super) async fn serve(
        self,
        mut orders: mpsc::Receiver<Order>,
        reports: mpsc::Sender<Report>,
    ) -> anyhow::Result<()> {
        self.hydration.ready().await?;
        reports.send(Report::Ready).await?;
        let mut reads = interval(READ_INTERVAL);
        reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    None => return Ok(()),
                    Some(Order::Snapshot) => {
                        reports.send(Report::Snapshot(self.snapshot().await)).await?;
                    }
                    Some(Order::Settle) => {
                        reports.send(Report::Contents(self.settle().await?)).await?;
                    }
                },
                _ = reads.tick(), if !self.kind.holds_all() => {
                    let key = self.keys.choose(&mut rand::rng()).cloned();
                    if let Some(key) = key {
                        self.read(key).await?;
                    }
                }
            }
        }
    }

    /// What the replica holds right now, and what it claims.
    async fn snapshot(&self) -> Snapshot {
        let proven = self.prove(PROOF_LIMIT).await;
        let taken_at = Moment::now();
        let entries = self.cache.entries();
        let version = |(key, entry): &(Key, Entry<City>)| {
            Some((key.as_str().to_owned(), entry.version()?.number()))
        };
        let (freshness, stats) = (self.hydration.freshness(), self.hydration.stats());
        let proven_within = freshness.proven_within();
        Snapshot {
            state: freshness.state().into(),
            proven,
            proven_within: proven_within
                .map(|within| within.as_micros().try_into().unwrap_or(u64::MAX)),
            taken_at,
            held: entries.iter().filter_map(version).collect(),
            applied: self.applied.take(),
            gaps: stats.gaps,
            missed: stats.missed,
            reloads: stats.reloads,
        }
    }

    /// The moment before which nothing that the broker had accepted is missing, if the replica can
    /// claim one that lies after this call, within `limit`.
    async fn prove(&self, limit: Duration) -> Option<Moment> {
        let (moment, asked_at) = (Moment::now(), Instant::now());
        let freshness = timeout(limit, self.hydration.caught_up()).await.ok()?.ok()?;
        let since_asked = asked_at.elapsed();
        let is_proven = freshness.state() == State::Live
            && freshness.proven_within().is_some_and(|within| within <= since_asked);
        is_proven.then_some(moment)
    }

    /// Waits until the replica has proven that nothing is missing, within a limit, and tells
    /// everything.
    async fn settle(&self) -> anyhow::Result<Contents> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut is_proven = self.prove(LAST_PROOF_LIMIT).await.is_some();
        while !is_proven && Instant::now() < deadline {
            sleep(Duration::from_millis(20)).await;
            is_proven = self.prove(LAST_PROOF_LIMIT).await.is_some();
        }
        let held = self.cache.entries().into_iter().filter_map(|(_, entry)| row(&entry)).collect();
        let read = if self.kind.holds_all() { None } else { Some(self.read_all().await?) };
        let state = self.hydration.freshness().state().into();
        Ok(Contents { state, is_proven, held, read })
    }

    async fn read_all(&self) -> anyhow::Result<Vec<Row>> {
        let reads = stream::iter(self.keys.clone()).map(|key| self.read(key));
        let rows: Vec<_> = reads.buffer_unordered(READS).try_collect().await?;
        Ok(rows.into_iter().flatten().collect())
    }

    /// Reads through: from the cache, else from the source under a lease.
    async fn read(&self, key: Key) -> anyhow::Result<Option<Row>> {
        if let Some(entry) = self.cache.entry(&key).await {
            return Ok(row(&entry));
        }
        let lease = self.hydration.lease(key.clone());
        let loaded = self.source.load(key).await.map_err(anyhow::Error::from_boxed)?;
        let Some(loaded) = loaded else {
            return Ok(None);
        };
        let version = loaded.version().context("the database gives every row a version")?;
        let row = Row { version, city: loaded.value().clone() };
        self.hydration.fill(lease, loaded).await?;
        Ok(Some(row))
    }
}

impl Cache {
    fn entries(&self) -> Vec<(Key, Entry<City>)> {
        match self {
            Self::Moka(moka) => moka.iter().map(|(key, entry)| (Key::clone(&key), entry)).collect(),
            Self::Replica(replica) => {
                let view = replica.pin();
                view.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect()
            }
        }
    }

    async fn entry(&self, key: &Key) -> Option<Entry<City>> {
        match self {
            Self::Moka(moka) => moka.get(key.as_str()).await,
            Self::Replica(replica) => replica.entry(key.as_str()),
        }
    }
}

async fn hydrate<C: LocalCache<City>>(
    kind: Kind,
    channel: &Channel<City>,
    cache: C,
    source: impl Source<City>,
    applied: &Applied,
) -> hydratecache::Result<Hydration<City>> {
    let mode = if kind.holds_all() { Mode::Hydrate } else { Mode::Invalidate };
    let cache = Observed { cache, observer: applied.clone() };
    channel.hydrate(cache).with_source(source).with_mode(mode).await
}

fn row(entry: &Entry<City>) -> Option<Row> {
    Some(Row { version: entry.version()?.number(), city: City::clone(entry.value()) })
}
