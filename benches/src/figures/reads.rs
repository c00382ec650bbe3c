//! Reads of a local cache that hit, in random order.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::executor::block_on;
use hydratecache::Key;
use hydratecache::cache::{Entry, LocalCache, Replica};
use moka::future::Cache;
use rand::seq::SliceRandom;

use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::{CpuTime, nanoseconds, per};
use crate::values::{self, Product, Sample};

pub(super) const SHARED: &[&str] = &["replica_get"];
pub(super) const PINNED: &[&str] = &["replica_pinned_get"];
pub(super) const WITH_TTL: &[&str] = &["replica_get_with_ttl"];
pub(super) const MOKA: &[&str] = &["moka_get_over_replica_get"];

pub(super) const ENTRIES: usize = 10_000;
const LONG: Duration = Duration::from_secs(3600);

type Map = papaya::HashMap<Key, Arc<Product>, foldhash::fast::RandomState>;

pub(super) fn shared(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, SHARED[0], replica_get, papaya_get, Ratio::OursToRaw)?;
    let figure = figure.with_note("both share the value by cloning its Arc");
    Ok(vec![figure.with_goal(Goal::RatioAtMost(1.15))])
}

pub(super) fn pinned(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, PINNED[0], replica_pinned_get, papaya_pinned_get, Ratio::OursToRaw)?;
    Ok(vec![figure.with_note("both borrow the value").with_goal(Goal::RatioAtMost(1.15))])
}

pub(super) fn with_ttl(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, WITH_TTL[0], replica_get_with_ttl, papaya_get, Ratio::OursToRaw)?;
    Ok(vec![figure.with_note("ours reads the clock; raw has no TTL")])
}

pub(super) fn moka(bench: &Bench) -> Result<Vec<Figure>> {
    let figure = figure(bench, MOKA[0], replica_get, moka_get, Ratio::SpeedUp)?.with_note(
        "raw is moka::future::Cache::new(100,000), String to Arc; its reads are awaited in one \
         future that futures::executor::block_on runs",
    );
    Ok(vec![figure.with_goal(Goal::RatioAtLeast(8.0))])
}

/// Nanoseconds of CPU time per read.
type Reads = fn(&Rows, Duration) -> f64;

fn figure(bench: &Bench, name: &str, ours: Reads, raw: Reads, ratio: Ratio) -> Result<Figure> {
    let rows = Rows::new()?;
    let rounds =
        bench.plan.interleave(|round| Ok(ours(&rows, round)), |round| Ok(raw(&rows, round)))?;
    Ok(Figure::of_rounds(name, "ns", &rounds, ratio))
}

/// CPU times of two that read in turns.
#[derive(Default)]
pub(super) struct Turns {
    pub(super) ours: Duration,
    pub(super) raw: Duration,
    /// Of each.
    pub(super) reads: usize,
}

impl Turns {
    pub(super) fn so_far(&self) -> Duration {
        self.ours + self.raw
    }

    /// Nanoseconds per read, of ours and raw.
    pub(super) fn per_read(&self) -> (f64, f64) {
        let of_one = |time: Duration| time.as_secs_f64() * 1e9 / per(self.reads);
        (of_one(self.ours), of_one(self.raw))
    }
}

/// What is read, and in which order.
pub(super) struct Rows {
    keys: Vec<Key>,
    /// Copies of the keys, so that no read finds its key in the cache line of the map's.
    pub(super) order: Vec<String>,
}

impl Rows {
    pub(super) fn new() -> Result<Self> {
        let mut order = values::keys(ENTRIES);
        let keys = order.iter().map(|key| Ok(Key::new(key)?)).collect::<Result<_>>()?;
        order.shuffle(&mut rand::rng());
        Ok(Self { keys, order })
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (&Key, Product)> {
        self.keys.iter().zip((0..).map(Product::nth))
    }

    /// Times `get` with every key in turn, after one pass that does not count.
    fn time<V>(&self, round: Duration, mut get: impl FnMut(&str) -> Option<V>) -> f64 {
        self.pass(&mut get);
        nanoseconds(round, self.order.len(), || {
            self.pass(&mut get);
        })
    }

    /// Times `ours` and `raw`, which read the same entries, in turns; nanoseconds of CPU time per read.
    pub(super) fn time_both<O, R>(
        &self,
        round: Duration,
        mut ours: impl FnMut(&str) -> Option<O>,
        mut raw: impl FnMut(&str) -> Option<R>,
    ) -> (f64, f64) {
        let mut times = Turns::default();
        self.pass(&mut ours);
        self.pass(&mut raw);
        while times.so_far() < 2 * round {
            times.ours += self.pass(&mut ours);
            times.raw += self.pass(&mut raw);
            times.reads += self.order.len();
        }
        times.per_read()
    }

    /// The CPU time of one read of each key.
    fn pass<V>(&self, get: &mut impl FnMut(&str) -> Option<V>) -> Duration {
        let began = CpuTime::now();
        for key in &self.order {
            assert!(black_box(get(black_box(key))).is_some(), "a hit");
        }
        began.elapsed()
    }

    // Each round makes its maps anew: where one happens to lie in memory is not the figure.

    fn replica(&self, life: Option<Duration>) -> Replica<Product> {
        let replica = Replica::new();
        let expires_at = life.map(|life| tokio::time::Instant::now() + life);
        for (key, value) in self.entries() {
            block_on(replica.put(key, Entry::new(value).with_expiry(expires_at)));
        }
        replica
    }

    fn map(&self) -> Map {
        let map = Map::default();
        for (key, value) in self.entries() {
            map.pin().insert(key.clone(), Arc::new(value));
        }
        map
    }
}

fn replica_get(rows: &Rows, round: Duration) -> f64 {
    let replica = rows.replica(None);
    rows.time(round, |key| replica.get(key))
}

fn replica_get_with_ttl(rows: &Rows, round: Duration) -> f64 {
    let replica = rows.replica(Some(LONG));
    rows.time(round, |key| replica.get(key))
}

fn papaya_get(rows: &Rows, round: Duration) -> f64 {
    let map = rows.map();
    rows.time(round, |key| map.pin().get(key).cloned())
}

fn replica_pinned_get(rows: &Rows, round: Duration) -> f64 {
    let replica = rows.replica(None);
    let pinned = replica.pin();
    rows.time(round, |key| pinned.get(key).map(std::ptr::from_ref))
}

fn papaya_pinned_get(rows: &Rows, round: Duration) -> f64 {
    let map = rows.map();
    let pinned = map.pin();
    rows.time(round, |key| pinned.get(key).map(|value| std::ptr::from_ref(&**value)))
}

fn moka_get(rows: &Rows, round: Duration) -> f64 {
    block_on(async {
        let cache = Cache::new(10 * ENTRIES as u64);
        for (key, value) in rows.entries() {
            cache.insert(String::from(key), Arc::new(value)).await;
        }
        cache.run_pending_tasks().await;
        let began = CpuTime::now();
        let mut reads = 0;
        while began.elapsed() < round {
            for key in &rows.order {
                assert!(black_box(cache.get(black_box(key.as_str())).await).is_some(), "a hit");
            }
            reads += rows.order.len();
        }
        began.elapsed().as_secs_f64() * 1e9 / per(reads)
    })
}
