//! What a replica takes beyond its keys and values.

use std::sync::Arc;

use allocation_counter::measure;
use anyhow::Result;
use futures::executor::block_on;
use hydratecache::cache::{Entry, LocalCache, Replica};
use hydratecache::{Key, Origin, Version};
use hydratecache_bench::in_process::Map;
use hydratecache_bench::report::{Figure, Goal};
use hydratecache_bench::rounds::per;
use hydratecache_bench::values;

const ENTRIES: usize = 100_000;

/// A value without an allocation of its own, so that its size is all it takes.
type Value = [u8; 128];

pub(super) fn overhead() -> Result<Figure> {
    let names = values::keys(ENTRIES);
    let mut replica = Replica::<Value>::new();
    let ours = measure(|| replica = fill_replica(&names));
    let mut map = Map::<Value>::default();
    let raw = measure(|| map = fill_map(&names));
    anyhow::ensure!(replica.len() == ENTRIES && map.len() == ENTRIES, "all are there");

    let content: usize = names.iter().map(|name| name.len() + size_of::<Value>()).sum();
    let overhead =
        |bytes: i64| Result::<_>::Ok(per(usize::try_from(bytes)? - content) / per(ENTRIES));
    let (ours, raw) = (overhead(ours.bytes_current)?, overhead(raw.bytes_current)?);
    Ok(Figure::of_values("replica_entry_overhead", "bytes", ours, Some(raw))
        .with_goal(Goal::OursAtMost(120.0))
        .with_note(format!(
            "{ENTRIES} entries with versions, as asked of the allocator; raw is papaya from \
             Arc<str> to Arc, without versions and TTLs"
        )))
}

fn fill_replica(names: &[String]) -> Replica<Value> {
    let replica = Replica::new();
    let origin = Some(Origin::random());
    for (name, number) in names.iter().zip(1..) {
        let key = Key::new(name).expect("the names are legal");
        let entry = Entry::new([0; 128]).with_version(Some(Version::clock(number, origin)));
        block_on(replica.put(&key, entry));
    }
    replica
}

fn fill_map(names: &[String]) -> Map<Value> {
    let map = Map::default();
    for name in names {
        map.pin().insert(Arc::from(name.as_str()), Arc::new([0; 128]));
    }
    map
}
