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

pub(super) const NAMES: &[&str] =
    &["replica_get", "replica_pinned_get", "replica_get_with_ttl", "moka_get_over_replica_get"];

const ENTRIES: usize = 10_000;
const LONG: Duration = Duration::from_secs(3600);

type Map = papaya::HashMap<Key, Arc<Product>, foldhash::fast::RandomState>;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let rows = Rows::new()?;
    let figure = |name, ours: fn(&Rows, Duration) -> f64, raw: fn(&Rows, Duration) -> f64| {
        let rounds =
            bench.plan.interleave(|round| Ok(ours(&rows, round)), |round| Ok(raw(&rows, round)))?;
        let ratio = if name == NAMES[3] { Ratio::SpeedUp } else { Ratio::OursToRaw };
        Result::<_>::Ok(Figure::of_rounds(name, "ns", &rounds, ratio))
    };
    Ok(vec![
        figure(NAMES[0], replica_get, papaya_get)?
            .with_goal(Goal::RatioAtMost(1.15))
            .with_note("both share the value by cloning its Arc"),
        figure(NAMES[1], replica_pinned_get, papaya_pinned_get)?
            .with_goal(Goal::RatioAtMost(1.15))
            .with_note("both borrow the value"),
        figure(NAMES[2], replica_get_with_ttl, papaya_get)?
            .with_note("reads the clock; raw has no TTL"),
        figure(NAMES[3], replica_get, moka_get)?.with_goal(Goal::RatioAtLeast(8.0)).with_note(
            "raw is moka::future::Cache::new(100,000), String to Arc; its reads are awaited in one \
             future that futures::executor::block_on runs",
        ),
    ])
}

/// What is read, and in which order.
struct Rows {
    keys: Vec<Key>,
    /// Copies of the keys, so that no read finds its key in the cache line of the map's.
    order: Vec<String>,
}

impl Rows {
    fn new() -> Result<Self> {
        let mut order = values::keys(ENTRIES);
        let keys = order.iter().map(|key| Ok(Key::new(key)?)).collect::<Result<_>>()?;
        order.shuffle(&mut rand::rng());
        Ok(Self { keys, order })
    }

    fn entries(&self) -> impl Iterator<Item = (&Key, Product)> {
        self.keys.iter().zip((0..).map(Product::nth))
    }

    /// Times `get` with every key in turn, after one pass that does not count.
    fn time<V>(&self, round: Duration, mut get: impl FnMut(&str) -> Option<V>) -> f64 {
        let mut pass = || {
            for key in &self.order {
                assert!(black_box(get(black_box(key))).is_some(), "a hit");
            }
        };
        pass();
        nanoseconds(round, self.order.len(), pass)
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
