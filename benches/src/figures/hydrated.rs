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

use super::reads::{ENTRIES, Rows, Turns};
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::CpuTime;
use crate::values::Product;

pub(super) const REPLICA: &[&str] = &["hydrated_replica_get"];
pub(super) const MOKA: &[&str] = &["hydrated_moka_read"];

pub(super) fn replica(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, REPLICA[0], replica_reads)?;
    let figure =
        figure.with_note("raw is Replica::get of the same map; ours gives the freshness too");
    Ok(vec![figure.with_goal(Goal::RatioAtMost(1.2))])
}

pub(super) fn moka(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, MOKA[0], moka_reads)?;
    let figure = figure.with_note(
        "raw is moka's own get of the same cache; both are awaited in one future that \
         futures::executor::block_on runs",
    );
    Ok(vec![figure.with_goal(Goal::RatioAtMost(1.05))])
}

/// Both read the same cache in turns: where it happens to lie in memory is not in the ratio.
fn figure(
    bench: &Bench,
    name: &str,
    reads: impl Fn(&Rows, Duration) -> (f64, f64),
) -> Result<Figure> {
    let rows = Rows::new()?;
    let rounds = bench.plan.together(|round| Ok(reads(&rows, round)))?;
    Ok(Figure::of_rounds(name, "ns", &rounds, Ratio::OursToRaw))
}

/// A hydration that has nothing to do runs on a thread of its own, as in an idle service.
fn hydrated<C: ReadCache<Product>>(
    rows: &Rows,
    cache: C,
    read: impl FnOnce(&Hydrated<Product, C>) -> (f64, f64),
) -> (f64, f64) {
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

fn replica_reads(rows: &Rows, round: Duration) -> (f64, f64) {
    hydrated(rows, Replica::new(), |users| {
        let replica = users.cache();
        rows.time_both(round, |key| users.get(key), |key| replica.get(key))
    })
}

type Products = Cache<Key, Entry<Product>>;

fn moka_reads(rows: &Rows, round: Duration) -> (f64, f64) {
    let products: Products = hydratecache_moka::builder().max_capacity(10 * ENTRIES as u64).build();
    hydrated(rows, MokaCache::from(products.clone()), |users| {
        block_on(products.run_pending_tasks());
        // All of what is read is kept: the compiler could leave out what nobody looks at.
        let ours = async |key: &str| black_box(users.read(key).await).is_some();
        let raw = async |key: &str| black_box(products.get(key).await).is_some();
        block_on(async {
            let mut times = Turns::default();
            pass(rows, &ours).await;
            pass(rows, &raw).await;
            while times.so_far() < 2 * round {
                times.ours += pass(rows, &ours).await;
                times.raw += pass(rows, &raw).await;
                times.reads += rows.order.len();
            }
            times.per_read()
        })
    })
}

/// The CPU time of one read of each key.
#[allow(clippy::future_not_send, reason = "it stays on the thread whose CPU time is measured")]
async fn pass(rows: &Rows, hits: &impl AsyncFn(&str) -> bool) -> Duration {
    let began = CpuTime::now();
    for key in &rows.order {
        assert!(hits(black_box(key)).await, "a hit");
    }
    began.elapsed()
}
