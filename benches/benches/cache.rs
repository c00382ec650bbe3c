//! Caches: what a read costs, and what a value that arrives does.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use futures::executor::block_on;
use hydratecache::cache::{Entry, LocalCache, Replica};
use hydratecache::{Key, Version};
use hydratecache_bench::values;
use hydratecache_moka::MokaCache;

const LONG: Duration = Duration::from_secs(3600);

/// Enough for a spread of a few percent, and soon over.
fn quick() -> Criterion {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300));
    criterion.measurement_time(Duration::from_secs(1)).sample_size(30)
}

fn keys(count: usize) -> Vec<Key> {
    values::keys(count).iter().map(|key| Key::new(key).expect("legal")).collect()
}

fn entry(number: u64) -> Entry<u64> {
    Entry::new(number).with_version(Some(Version::clock(number, None)))
}

/// A cache of numbers, so that making a value is no part of what is measured.
fn filled<C: LocalCache<u64>>(cache: C, keys: &[Key], life: Option<Duration>) -> C {
    let expires_at = life.map(|life| tokio::time::Instant::now() + life);
    for (key, number) in keys.iter().zip(1..) {
        let is_stored = block_on(cache.put(key, entry(number).with_expiry(expires_at)));
        assert!(is_stored, "nothing is there");
    }
    cache
}

fn replica_get(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replica_get");
    for count in [100, 10_000, 1_000_000] {
        let keys = keys(count);
        let replica = filled(Replica::new(), &keys, None);
        let mut order = keys.iter().cycle();
        group.bench_function(BenchmarkId::new("entries", count), |bencher| {
            bencher.iter(|| replica.get(black_box(order.next().expect("no end").as_str())));
        });
    }
    let keys = keys(10_000);
    let replica = filled(Replica::new(), &keys, Some(LONG));
    let mut order = keys.iter().cycle();
    group.bench_function("with_ttl", |bencher| {
        bencher.iter(|| replica.get(black_box(order.next().expect("no end").as_str())));
    });
    group.bench_function("missing", |bencher| bencher.iter(|| replica.get(black_box("nobody"))));
    group.finish();
}

/// What hydration does with a value that arrives: newer ones of keys that are there, which are stored,
/// and older ones, which are not.
fn apply(criterion: &mut Criterion) {
    let keys = keys(10_000);
    let replica = filled(Replica::new(), &keys, None);
    let moka = hydratecache_moka::builder::<Key, u64>().max_capacity(100_000).build();
    let moka = filled(MokaCache::from(moka), &keys, None);
    applied(criterion, "replica_put", &replica, &keys);
    applied(criterion, "moka_put", &moka, &keys);
}

fn applied(criterion: &mut Criterion, name: &str, cache: &impl LocalCache<u64>, keys: &[Key]) {
    let mut group = criterion.benchmark_group(name);
    let mut writes = keys.iter().cycle().zip(1_000_000..);
    group.bench_function("newer", |bencher| {
        bencher.iter(|| {
            let (key, number) = writes.next().expect("no end");
            block_on(cache.put(black_box(key), entry(number)))
        });
    });
    let mut writes = keys.iter().cycle();
    group.bench_function("older", |bencher| {
        bencher.iter(|| block_on(cache.put(black_box(writes.next().expect("no end")), entry(0))));
    });
    group.finish();
}

criterion_group!(name = caches; config = quick(); targets = replica_get, apply);
criterion_main!(caches);
