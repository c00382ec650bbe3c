//! The in-process transport from `publish_all` to a hydrated replica, and what it is measured by.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::stream;
use hydratecache::Channel;
use hydratecache::cache::{Hydration, Replica};
use hydratecache::codec::{Cbor, Codec};
use hydratecache::memory::MemoryBroker;
use tokio::runtime::Runtime;

use crate::rounds::{CpuTime, rate};
use crate::values::{self, Sample};

const KEYS: usize = 10_000;
/// Messages between two looks at the clock.
const PASS: usize = 50_000;

/// What is published, over and over.
#[derive(Debug)]
pub struct Rows<T> {
    keys: Vec<String>,
    values: Vec<T>,
}

impl<T: Sample> Rows<T> {
    /// 10,000 of them.
    #[must_use]
    pub fn new() -> Self {
        Self { keys: values::keys(KEYS), values: (0..KEYS as u64).map(T::nth).collect() }
    }

    /// Some of them, in order.
    fn pass(&self) -> impl Iterator<Item = (&str, &T)> + Send {
        let rows = self.keys.iter().map(String::as_str).zip(&self.values);
        rows.cycle().take(PASS)
    }
}

/// A writer and a hydrated reader on two connections of one broker.
#[derive(Debug)]
pub struct Pair<T> {
    runtime: Runtime,
    writer: Channel<T>,
    replica: Replica<T>,
    hydration: Hydration<T>,
}

impl<T: Sample> Pair<T> {
    /// Both, on a `current_thread` runtime of their own.
    ///
    /// # Errors
    /// If no runtime can be made.
    pub fn connect() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let broker = MemoryBroker::new();
        let writer = Channel::new(broker.connect(), "bench.memory")?;
        let reader = Channel::<T>::new(broker.connect(), "bench.memory")?;
        let replica = Replica::new();
        let hydrate = reader.hydrate(replica.clone());
        let hydration = runtime.block_on(async { hydrate.await })?;
        Ok(Self { runtime, writer, replica, hydration })
    }

    /// Publishes rows for as long as `round`, waits until all are applied, and returns how many
    /// that were and how many a second of CPU time.
    ///
    /// # Errors
    /// If one of them was lost.
    pub fn publish_to_applied(&self, rows: &Rows<T>, round: Duration) -> Result<(u64, f64)> {
        let applied_before = self.hydration.stats().applied;
        let began = CpuTime::now();
        let published = self.runtime.block_on(async {
            let mut published = 0;
            while began.elapsed() < round {
                published += self.writer.publish_all(stream::iter(rows.pass())).await?;
            }
            self.hydration.caught_up().await?;
            hydratecache::Result::<u64>::Ok(published)
        })?;
        let rate = rate(published, began.elapsed());
        let stats = self.hydration.stats();
        ensure!(stats.gaps == 0, "{} messages were lost", stats.missed);
        ensure!(stats.applied - applied_before == published, "not all were applied");
        ensure!(self.replica.len() == KEYS, "the replica holds {} keys", self.replica.len());
        Ok((published, rate))
    }
}

/// The map that a replica is made of.
pub type Map<T> = papaya::HashMap<Arc<str>, Arc<T>, foldhash::fast::RandomState>;

/// What every way must do: encodes, decodes and inserts rows for as long as `round`. How many, and
/// how many a second of CPU time.
///
/// # Errors
/// If the codec fails.
pub fn by_loop<T: Sample>(map: &Map<T>, rows: &Rows<T>, round: Duration) -> Result<(u64, f64)> {
    let began = CpuTime::now();
    let mut applied = 0;
    while began.elapsed() < round {
        for (key, value) in rows.pass() {
            let payload = black_box(Cbor.encode(black_box(value))?);
            let value: T = Cbor.decode(&payload)?;
            map.pin().insert(Arc::from(key), Arc::new(value));
            applied += 1;
        }
    }
    Ok((applied, rate(applied, began.elapsed())))
}

impl<T: Sample> Default for Rows<T> {
    fn default() -> Self {
        Self::new()
    }
}
