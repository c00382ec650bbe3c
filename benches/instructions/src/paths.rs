//! The hot paths.

use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::FutureExt;
use futures::future::join_all;
use futures::stream;
use hydratecache::cache::{Entry, Hydrated, LocalCache, Replica};
use hydratecache::codec::{Cbor, Codec};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::sequence::{Tracker, Verdict};
use hydratecache::{Channel, Key, Message, Origin, Position, Ttl, Version, wire};
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

use crate::counted::counted;

/// How often each path is taken while it is counted.
pub(crate) const TIMES: u64 = 2000;

/// What each path is called.
pub(crate) const NAMES: &[&str] = &[
    "envelope_encode_put",
    "envelope_encode_remove",
    "envelope_decode_put",
    "envelope_decode_remove",
    "cbor_encode",
    "cbor_decode",
    "tracker_message",
    "replica_get",
    "replica_put",
    "hydrated_get",
    "publish_one_by_one",
    "publish_together",
    "publish_to_applied",
];

/// Takes a path, for callgrind to count.
pub(crate) fn run(name: &str) -> Result<()> {
    match name {
        "envelope_encode_put" => encode(&put(1)?),
        "envelope_encode_remove" => encode(&removal(1)?),
        "envelope_decode_put" => decode(&put(1)?),
        "envelope_decode_remove" => decode(&removal(1)?),
        "cbor_encode" => cbor_encode(),
        "cbor_decode" => cbor_decode()?,
        "tracker_message" => tracker()?,
        "replica_get" => replica_get()?,
        "replica_put" => replica_put()?,
        "hydrated_get" => hydrated_get()?,
        "publish_one_by_one" => publish_one_by_one()?,
        "publish_together" => publish_together()?,
        "publish_to_applied" => publish_to_applied()?,
        _ => anyhow::bail!("there is no path {name}"),
    }
    Ok(())
}

/// A row of some 110 bytes of CBOR.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    id: u64,
    name: String,
    tags: Vec<String>,
    price_cents: u64,
    is_listed: bool,
}

impl Row {
    fn nth(number: u64) -> Self {
        Self {
            id: 100_000 + number,
            name: "Water bottle, steel, 0.75 l".to_owned(),
            tags: ["outdoor", "kitchen", "steel"].map(str::to_owned).into(),
            price_cents: 1999,
            is_listed: true,
        }
    }
}

fn origin() -> Result<Origin> {
    Origin::from_u64(0x5eed_5eed_5eed_5eed).context("not zero")
}

fn position(origin: Origin, sequence: u64) -> Result<Position> {
    let sequence = NonZeroU64::new(sequence).context("sequences begin at 1")?;
    Ok(Position { origin, sequence })
}

fn version(number: u64) -> Result<Version> {
    Ok(Version::clock((1_790_000_000_000 << 16) + number, Some(origin()?)))
}

fn key(number: u64) -> Result<Key> {
    Ok(Key::new(format!("product:{number:05}"))?)
}

fn keys() -> Result<Vec<Key>> {
    (0..TIMES).map(key).collect()
}

fn put(number: u64) -> Result<Message> {
    Ok(Message::put(key(number)?, Bytes::from(vec![7; 256]))
        .with_ttl(Ttl::starting_now(Duration::from_secs(1800))?)
        .with_position(position(origin()?, 123_456)?)
        .with_version(version(number)?))
}

fn removal(number: u64) -> Result<Message> {
    let message = Message::remove(key(number)?);
    Ok(message.with_position(position(origin()?, 123_456)?).with_version(version(number)?))
}

fn repeated(mut once: impl FnMut()) {
    counted(|| (0..TIMES).for_each(|_| once()));
}

fn encode(message: &Message) {
    repeated(|| drop(black_box(wire::encode(black_box(message), None))));
}

fn decode(message: &Message) {
    let bytes = wire::encode(message, None);
    repeated(|| drop(black_box(wire::decode(black_box(&bytes)))));
}

fn cbor_encode() {
    let row = Row::nth(1);
    repeated(|| drop(black_box(Cbor.encode(black_box(&row)))));
}

fn cbor_decode() -> Result<()> {
    let payload = Cbor.encode(&Row::nth(1))?;
    repeated(|| drop(black_box::<hydratecache::Result<Row>>(Cbor.decode(black_box(&payload)))));
    Ok(())
}

/// Of so many publishers in turn that it matters little where a random seed puts some of them.
fn tracker() -> Result<()> {
    const PUBLISHERS: u64 = TIMES / 2;
    let of_turn = |turn: u64| {
        let origin = Origin::from_u64((turn % PUBLISHERS + 1) << 32).context("not zero")?;
        position(origin, turn / PUBLISHERS + 1)
    };
    // Twice as many, because only the second half is counted.
    let positions: Vec<Position> = (0..2 * TIMES).map(of_turn).collect::<Result<_>>()?;
    let mut tracker = Tracker::new();
    let mut halves = positions.chunks(positions.len() / 2);
    counted(|| {
        for position in halves.next().unwrap_or_default() {
            assert_eq!(black_box(tracker.message(*position)), Verdict::Next);
        }
    });
    Ok(())
}

fn replica(keys: &[Key]) -> Result<Replica<Row>> {
    let replica = Replica::new();
    for (key, number) in keys.iter().zip(0..) {
        store(&replica, key, number, version(number)?);
    }
    Ok(replica)
}

fn store(replica: &Replica<Row>, key: &Key, number: u64, version: Version) {
    let entry = Entry::new(Row::nth(number)).with_version(Some(version));
    let is_stored = replica.put(key, entry).now_or_never();
    assert_eq!(is_stored, Some(true), "newer than what is there, and nothing is waited for");
}

fn replica_get() -> Result<()> {
    let keys = keys()?;
    let replica = replica(&keys)?;
    counted(|| {
        for key in &keys {
            assert!(black_box(replica.get(black_box(key.as_str()))).is_some(), "a hit");
        }
    });
    Ok(())
}

/// Newer values of keys that are there.
fn replica_put() -> Result<()> {
    let keys = keys()?;
    let replica = replica(&keys)?;
    let mut newer = TIMES;
    let first = version(0)?.number();
    counted(|| {
        for key in &keys {
            newer += 1;
            store(&replica, key, newer, Version::clock(first + newer, None));
        }
    });
    Ok(())
}

fn runtime() -> Result<Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

fn hydrated_get() -> Result<()> {
    let (runtime, keys) = (runtime()?, keys()?);
    let rows: Hydrated<Row, Replica<Row>> = runtime.block_on(async {
        let channel = Channel::new(MemoryTransport::new(), "instructions")?;
        let rows = Hydrated::builder(channel, Replica::new()).start().await?;
        // What a cache holds before its hydrator begins is taken for stale.
        rows.caught_up().await?;
        anyhow::Ok(rows)
    })?;
    for (key, number) in keys.iter().zip(0..) {
        store(rows.cache(), key, number, version(number)?);
    }
    counted(|| {
        for key in &keys {
            assert!(black_box(rows.get(black_box(key.as_str()))).is_some(), "a hit");
        }
    });
    Ok(())
}

/// The lane, with an answer awaited for each message.
fn publish_one_by_one() -> Result<()> {
    let (runtime, row) = (runtime()?, Row::nth(1));
    let channel = Channel::<Row>::new(MemoryTransport::new(), "instructions")?;
    counted(|| {
        runtime.block_on(async {
            for _ in 0..TIMES {
                channel.publish("product:1", &row).await.expect("the transport is in this process");
            }
        });
    });
    Ok(())
}

/// The lane, with all messages under way at once.
fn publish_together() -> Result<()> {
    let (runtime, row) = (runtime()?, Row::nth(1));
    let channel = Channel::<Row>::new(MemoryTransport::new(), "instructions")?;
    counted(|| {
        let publishes = (0..TIMES).map(|_| channel.publish("product:1", &row));
        let answers = runtime.block_on(join_all(publishes));
        assert!(answers.iter().all(Result::is_ok), "the transport is in this process");
    });
    Ok(())
}

/// From `publish_all` to a replica in another connection.
fn publish_to_applied() -> Result<()> {
    let (runtime, keys) = (runtime()?, keys()?);
    let broker = MemoryBroker::new();
    let writer = Channel::<Row>::new(broker.connect(), "instructions")?;
    let reader = Channel::<Row>::new(broker.connect(), "instructions")?;
    let replica = Replica::new();
    let hydration = runtime.block_on(async { reader.hydrate(replica.clone()).await })?;
    let rows: Vec<Row> = (0..TIMES).map(Row::nth).collect();
    counted(|| {
        let rows = stream::iter(keys.iter().map(Key::as_str).zip(&rows));
        runtime.block_on(async {
            writer.publish_all(rows).await.expect("the transport is in this process");
            hydration.caught_up().await.expect("the transport fences");
        });
    });
    anyhow::ensure!(hydration.stats().applied == 2 * TIMES, "not all were applied");
    anyhow::ensure!(replica.len() as u64 == TIMES, "the replica holds {} keys", replica.len());
    Ok(())
}
