//! Two readers of one table, ours and one by hand, and what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Result;
use futures::StreamExt;
use hydratecache::cache::Hydration;
use hydratecache::{Channel, Event, Key, Updates, VersionDomain};
use hydratecache_moka::MokaCache;
use hydratecache_redis::RedisTransport;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::database::{Database, Row, Table};
use crate::figures::by_hand::ByHand;
use crate::values::Product;

/// Both readers behind a proxy, and their writers beside it.
pub(super) struct Readers {
    writer: Channel<Product>,
    cache: MokaCache<Product, Key>,
    _hydration: Hydration<Product>,
    by_hand: ByHand,
    witness: Arc<Witness>,
    tasks: [JoinHandle<()>; 2],
}

/// What our reader was told, and what it could not serve.
#[derive(Default)]
struct Witness {
    disrupted: AtomicBool,
    live: AtomicBool,
    gap: AtomicBool,
    absent: AtomicUsize,
}

/// The same, once it is over.
pub(super) struct Seen {
    pub(super) disrupted: bool,
    pub(super) live: bool,
    pub(super) gap: bool,
    pub(super) absent: usize,
}

impl Readers {
    /// Connects both and fills their caches from `database`.
    pub(super) async fn connect(
        topic: &str,
        writer: &str,
        reader: &str,
        database: &Arc<Database>,
    ) -> Result<Self> {
        let by_hand = ByHand::connect(writer, reader, &format!("bench.{topic}.by_hand")).await?;
        for (key, row) in database.rows() {
            by_hand.cache.insert(key, Arc::new(row)).await;
        }
        let writer = channel(writer, topic).await?;
        let reader = channel(reader, topic).await?;
        let cache = MokaCache::from(hydratecache_moka::builder().max_capacity(100_000).build());
        let hydration = reader.hydrate(cache.clone()).with_source(Table(database.clone())).await?;
        hydration.ready().await?;
        let witness = Arc::<Witness>::default();
        let tasks = [
            tokio::spawn(listen(reader.subscribe().await?, witness.clone())),
            tokio::spawn(look(cache.clone(), database.keys().to_vec(), witness.clone())),
        ];
        Ok(Self { writer, cache, _hydration: hydration, by_hand, witness, tasks })
    }

    /// Publishes a row to both.
    pub(super) async fn publish(&self, (key, row): Row) -> Result<()> {
        let ours = self.writer.put(&key, &row).version(row.revision);
        let (ours, by_hand) = futures::join!(ours.into_future(), self.by_hand.publish(&key, &row));
        ours?;
        by_hand
    }

    /// How many keys each serves that are not as in `database`.
    pub(super) async fn stale(&self, database: &Database) -> (usize, usize) {
        let (mut ours, mut by_hand) = (0, 0);
        for (key, row) in database.rows() {
            let cached = self.cache.get(&key).await;
            ours += usize::from(cached.is_some_and(|cached| *cached != row));
            let cached = self.by_hand.cache.get(&key).await;
            by_hand += usize::from(cached.is_some_and(|cached| *cached != row));
        }
        (ours, by_hand)
    }

    pub(super) fn seen(&self) -> Seen {
        let Witness { disrupted, live, gap, absent } = &*self.witness;
        let [disrupted, live, gap] =
            [disrupted, live, gap].map(|seen| seen.load(Ordering::Relaxed));
        Seen { disrupted, live, gap, absent: absent.load(Ordering::Relaxed) }
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

async fn channel(url: &str, topic: &str) -> Result<Channel<Product>> {
    let transport = RedisTransport::connect(url).await?;
    let builder = Channel::builder(transport, format!("bench.{topic}"));
    Ok(builder.with_versions(VersionDomain::Caller).build()?)
}

/// Notes what the subscription says.
async fn listen(mut updates: Updates<Product>, witness: Arc<Witness>) {
    while let Some(event) = updates.next().await {
        match event {
            Event::Disrupted(_) => witness.disrupted.store(true, Ordering::Relaxed),
            Event::Live => witness.live.store(true, Ordering::Relaxed),
            Event::Gap(_) => witness.gap.store(true, Ordering::Relaxed),
            _ => {}
        }
    }
}

/// Looks for every key again and again: none may be flushed.
async fn look(cache: MokaCache<Product, Key>, keys: Vec<String>, witness: Arc<Witness>) {
    loop {
        for key in &keys {
            let is_absent = cache.get(key).await.is_none();
            witness.absent.fetch_add(usize::from(is_absent), Ordering::Relaxed);
        }
        sleep(Duration::from_millis(50)).await;
    }
}
