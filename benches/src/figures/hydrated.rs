//! What a read through `Hydrated` costs beside a read of the cache underneath: suspicion and
//! freshness are in every one.

use std::hint::black_box;
use std::time::Duration;

use anyhow::Result;
use futures::executor::block_on;
use hydratecache::cache::{Entry, Hydrated, ReadCache, Replica};
use hydratecache::memory::MemoryTransport;
use hydratecache::{Channel, Key};
use hydratecache_moka::MokaCache;
use moka::future::Cache;
use tokio::runtime::Runtime;

use super::reads::{ENTRIES, Rows, figure, replica_get};
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::{CpuTime, per};
use crate::values::Product;

pub(super) const REPLICA: &[&str] = &["hydrated_replica_get"];
pub(super) const MOKA: &[&str] = &["hydrated_moka_read"];

pub(super) fn replica(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, REPLICA[0], hydrated_replica, replica_get, Ratio::OursToRaw)?;
    let figure = figure.with_note("raw is the bare Replica::get; ours gives the freshness too");
    Ok(vec![figure.with_goal(Goal::RatioAtMost(1.2))])
}

pub(super) fn moka(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, MOKA[0], hydrated_moka, moka_get, Ratio::OursToRaw)?;
    let figure = figure.with_note(
        "raw is moka's own get of the same entries; both are awaited in one future that \
         futures::executor::block_on runs",
    );
    Ok(vec![figure.with_goal(Goal::RatioAtMost(1.05))])
}

/// A hydration that has nothing to do runs on a thread of its own, as in an idle service.
fn hydrated<C: ReadCache<Product>>(
    rows: &Rows,
    cache: C,
    read: impl FnOnce(&Hydrated<Product, C>) -> f64,
) -> f64 {
    let runtime = runtime();
    let users = runtime.block_on(async {
        let channel = Channel::<Product>::new(MemoryTransport::new(), "bench.hydrated");
        let builder = Hydrated::builder(channel.expect("a legal topic"), cache);
        let users = builder.start().await.expect("the in-process transport subscribes");
        // What a cache holds before its hydrator begins is taken for stale.
        users.caught_up().await.expect("the in-process transport fences");
        users
    });
    for (key, value) in rows.entries() {
        block_on(users.cache().put(key, Entry::new(value)));
    }
    read(&users)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread for the hydration")
}

fn hydrated_replica(rows: &Rows, round: Duration) -> f64 {
    hydrated(rows, Replica::new(), |users| rows.time(round, |key| users.get(key)))
}

type Products = Cache<Key, Entry<Product>>;

fn products() -> Products {
    hydratecache_moka::builder().max_capacity(10 * ENTRIES as u64).build()
}

fn hydrated_moka(rows: &Rows, round: Duration) -> f64 {
    let products = products();
    hydrated(rows, MokaCache::from(products.clone()), |users| {
        block_on(products.run_pending_tasks());
        block_on(time(rows, round, async |key| users.read(key).await.is_some()))
    })
}

fn moka_get(rows: &Rows, round: Duration) -> f64 {
    let products = products();
    block_on(async {
        for (key, value) in rows.entries() {
            products.insert(key.clone(), Entry::new(value)).await;
        }
        products.run_pending_tasks().await;
        time(rows, round, async |key| products.get(key).await.is_some()).await
    })
}

/// Nanoseconds of CPU time per read, after one pass that does not count.
#[allow(clippy::future_not_send, reason = "it stays on the thread whose CPU time is measured")]
async fn time(rows: &Rows, round: Duration, hits: impl AsyncFn(&str) -> bool) -> f64 {
    let pass = async || {
        for key in &rows.order {
            assert!(black_box(hits(black_box(key)).await), "a hit");
        }
    };
    pass().await;
    let began = CpuTime::now();
    let mut reads = 0;
    while began.elapsed() < round {
        pass().await;
        reads += rows.order.len();
    }
    began.elapsed().as_secs_f64() * 1e9 / per(reads)
}
