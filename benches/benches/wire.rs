//! Envelopes and codecs: what every message costs, by kind and by size.

use std::hint::black_box;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hydratecache::codec::{Cbor, Codec, Json};
use hydratecache::sequence::Tracker;
use hydratecache::{Key, Message, Origin, Position, Ttl, Version, wire};
use hydratecache_bench::values::{Product, Sample};

/// Enough for a spread of a few percent, and soon over.
fn quick() -> Criterion {
    let criterion = Criterion::default().warm_up_time(Duration::from_millis(300));
    criterion.measurement_time(Duration::from_secs(1)).sample_size(30)
}

fn origin() -> Origin {
    Origin::from_u64(0x5eed_5eed_5eed_5eed).expect("not zero")
}

fn key() -> Key {
    Key::new("product:5000").expect("legal")
}

fn ttl() -> Ttl {
    Ttl::starting_now(Duration::from_secs(1800)).expect("legal")
}

/// As the lane sends it.
fn sent(message: Message) -> Message {
    let sequence = NonZeroU64::new(123_456).expect("not zero");
    let version = Version::clock(1_790_000_000_000 << 16, Some(origin()));
    message.with_position(Position { origin: origin(), sequence }).with_version(version)
}

fn put(payload_bytes: usize) -> Message {
    sent(Message::put(key(), Bytes::from(vec![7; payload_bytes])).with_ttl(ttl()))
}

fn messages() -> Vec<(&'static str, Message)> {
    vec![
        ("put_16", put(16)),
        ("put_256", put(256)),
        ("put_4096", put(4096)),
        ("put_65536", put(65_536)),
        ("remove", sent(Message::remove(key()))),
        ("clear", sent(Message::clear())),
        ("touch", sent(Message::touch(key(), ttl()))),
        ("heartbeat", Message::heartbeat(origin(), NonZeroU64::new(123_456))),
    ]
}

fn envelope(criterion: &mut Criterion) {
    for direction in ["envelope_encode", "envelope_decode"] {
        let mut group = criterion.benchmark_group(direction);
        for (kind, message) in messages() {
            let bytes = wire::encode(&message, None);
            group.throughput(Throughput::Bytes(bytes.len() as u64));
            group.bench_function(BenchmarkId::from_parameter(kind), |bencher| match direction {
                "envelope_encode" => bencher.iter(|| wire::encode(black_box(&message), None)),
                _ => bencher.iter(|| wire::decode(black_box(&bytes))),
            });
        }
        group.finish();
    }
}

fn codec(criterion: &mut Criterion) {
    one_codec(criterion, "cbor", &Cbor);
    one_codec(criterion, "json", &Json);
}

fn one_codec(criterion: &mut Criterion, name: &str, codec: &impl Codec<Product>) {
    let product = Product::nth(1);
    let payload = codec.encode(&product).expect("it fits");
    let mut group = criterion.benchmark_group(name);
    group.bench_function("encode", |bencher| bencher.iter(|| codec.encode(black_box(&product))));
    group.bench_function("decode", |bencher| bencher.iter(|| codec.decode(black_box(&payload))));
    group.finish();
}

fn tracker(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("tracker_message");
    for publishers in [1_u64, 50, 2000] {
        let origins: Vec<Origin> =
            (1..=publishers).filter_map(|number| Origin::from_u64(number << 32)).collect();
        let mut tracker = Tracker::new();
        let mut turns = (1..).flat_map(|sequence| origins.iter().map(move |it| (*it, sequence)));
        group.bench_function(BenchmarkId::new("publishers", publishers), |bencher| {
            bencher.iter(|| {
                let (origin, sequence) = turns.next().expect("sequences do not end");
                let sequence = NonZeroU64::new(sequence).expect("they begin at 1");
                tracker.message(black_box(Position { origin, sequence }))
            });
        });
    }
    group.finish();
}

criterion_group!(name = wire_and_codecs; config = quick(); targets = envelope, codec, tracker);
criterion_main!(wire_and_codecs);
