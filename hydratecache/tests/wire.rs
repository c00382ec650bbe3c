//! Properties of envelope v1 that hold for all messages and for all bytes.

use std::num::NonZeroU64;
use std::sync::LazyLock;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use hydratecache::wire::{self, Envelope, MAX_OVERHEAD_BYTES, RejectionReason};
use hydratecache::{
    ContentType, Key, Kind, Message, Origin, Position, Sent, Topic, TraceParent, Ttl, Version,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A key of 1,024 bytes, a content type, a topic and an error message fit several times.
const MAX_DECODE_BYTES: u64 = 4096;

static ACCEPTED: LazyLock<Vec<Bytes>> = LazyLock::new(|| golden(&["accept"]));
static VECTORS: LazyLock<Vec<Bytes>> = LazyLock::new(|| golden(&["accept", "reject"]));

fn golden(lists: &[&str]) -> Vec<Bytes> {
    let golden: serde_json::Value =
        serde_json::from_str(include_str!("../src/wire/golden/envelope-v1.json")).expect("JSON");
    let vectors = lists.iter().flat_map(|list| golden[*list].as_array().expect("a list"));
    vectors.map(|vector| from_hex(vector["hex"].as_str().expect("text"))).collect()
}

fn from_hex(hex: &str) -> Bytes {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// Decodes within the bound on memory, and checks what holds for every accepted envelope.
fn decode_checked(bytes: &Bytes) -> Result<(), TestCaseError> {
    let mut decoded = None;
    let used = allocation_counter::measure(|| decoded = Some(wire::decode(bytes)));
    prop_assert!(used.bytes_total <= MAX_DECODE_BYTES, "{used:?} for {bytes:02x?}");
    if let Some(Ok(envelope)) = decoded {
        let payload = envelope.message.payload();
        prop_assert!(payload.is_empty() || bytes.as_ptr_range().contains(&payload.as_ptr()));
        let encoded = wire::encode(&envelope.message, envelope.topic.as_ref());
        prop_assert_eq!(wire::decode(&encoded).expect("own bytes are accepted"), envelope);
    }
    Ok(())
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![any::<u64>(), 0..300_u64, select(vec![0, u64::from(u32::MAX), u64::MAX])]
}

fn key() -> impl Strategy<Value = Key> {
    prop_oneof![
        "\\PC{1,250}".prop_map(|text| Key::new(text).expect("at most 4 bytes a character")),
        (1..=Key::MAX_BYTES).prop_map(|length| Key::new("k".repeat(length)).expect("legal")),
    ]
}

fn payload() -> impl Strategy<Value = Bytes> {
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    prop_oneof![bytes, (65_530..65_540_usize).prop_map(|length| vec![7; length])]
        .prop_map(Bytes::from)
}

fn ttl() -> impl Strategy<Value = Ttl> {
    (0..1_u64 << 62, 1..1_u64 << 62).prop_map(|(start, duration)| {
        Ttl::new(UNIX_EPOCH + Duration::from_micros(start), Duration::from_micros(duration))
            .expect("ends within 63 bits")
    })
}

fn topic() -> impl Strategy<Value = Topic> {
    "[A-Za-z0-9_:/-]{1,40}(\\.[A-Za-z0-9_:/-]{1,30}){0,3}"
        .prop_map(|name| Topic::new(name).expect("legal"))
}

/// A map of up to five numbers to numbers.
fn request_body() -> impl Strategy<Value = Bytes> {
    prop::collection::vec(0..24_u8, 0..=10).prop_map(|numbers| {
        let pairs = u8::try_from(numbers.len() / 2).expect("few");
        let body = [&[0xa0 | pairs], &numbers[..usize::from(pairs) * 2]].concat();
        Bytes::from(body)
    })
}

/// A message of any kind, with what every kind needs.
fn bare() -> impl Strategy<Value = Message> {
    prop_oneof![
        4 => (key(), payload(), prop::option::of(ttl())).prop_map(|(key, payload, ttl)| {
            let put = Message::put(key, payload);
            ttl.map_or(put.clone(), |ttl| put.with_ttl(ttl))
        }),
        1 => key().prop_map(Message::remove),
        1 => Just(Message::clear()),
        1 => (key(), ttl()).prop_map(|(key, ttl)| Message::touch(key, ttl)),
        1 => (1..=u64::MAX, number()).prop_map(|(origin, last)| {
            Message::heartbeat(Origin::from_u64(origin).expect("not zero"), NonZeroU64::new(last))
        }),
        1 => (1..=u64::MAX, request_body()).prop_map(|(origin, body)| {
            let origin = Origin::from_u64(origin).expect("not zero");
            Message::request(origin, body).expect("a map")
        }),
    ]
}

type Parts = (
    Option<(u64, u64)>,
    Option<(bool, u64)>,
    Option<String>,
    Option<u64>,
    Option<TraceParent>,
    Option<(u64, Option<u64>)>,
);

fn parts() -> impl Strategy<Value = Parts> {
    let trace = "00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}";
    (
        prop::option::of((1..=u64::MAX, 1..=u64::MAX)),
        prop::option::of((any::<bool>(), number())),
        prop::option::of("[!-~]{1,64}"),
        prop::option::of(number()),
        prop::option::of(trace.prop_map(|text| text.parse().expect("legal"))),
        prop::option::of((number(), prop::option::of(number()))),
    )
}

fn with_parts(
    bare: Message,
    (position, version, content_type, schema, trace, sent): Parts,
) -> Message {
    let mut message = bare;
    if let Some((origin, sequence)) = position {
        let origin = Origin::from_u64(origin).expect("not zero");
        let sequence = NonZeroU64::new(sequence).expect("not zero");
        message = message.with_position(Position { origin, sequence });
    }
    if let Some((clock, number)) = version {
        let origin = message.origin();
        let version = if clock { Version::clock(number, origin) } else { Version::caller(number) };
        message = message.with_version(version);
    }
    if let Some(name) = content_type {
        message = message.with_content_type(ContentType::new(&name).expect("legal"));
    }
    if let Some(fingerprint) = schema {
        message = message.with_schema(fingerprint);
    }
    if let Some((elapsed, age)) = sent {
        let micros = Duration::from_micros;
        message = message.with_sent(Sent::new(micros(elapsed), age.map(micros)));
    }
    trace.map_or(message.clone(), |trace| message.with_trace_parent(trace))
}

fn envelope() -> impl Strategy<Value = Envelope> {
    let message = (bare(), parts()).prop_map(|(bare, parts)| with_parts(bare, parts));
    (message, prop::option::of(topic())).prop_map(|(message, topic)| Envelope { message, topic })
}

/// One change of a byte string, at places that scale with its length.
#[derive(Debug, Clone)]
enum Mutation {
    Set(Index, u8),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, u8),
    Repeat(Index, u8),
}

impl Mutation {
    fn any() -> impl Strategy<Value = Self> {
        // Initial bytes of long, deep and endless items are worth more than chance gives them.
        let bomb = select(vec![0x5b, 0x7b, 0x9b, 0xbb, 0x9f, 0xbf, 0x81, 0xc1, 0xff, 0x1b, 0xa0]);
        prop_oneof![
            (any::<Index>(), prop_oneof![any::<u8>(), bomb])
                .prop_map(|(at, byte)| Self::Set(at, byte)),
            (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Self::Flip(at, bit)),
            (any::<Index>(), prop::collection::vec(any::<u8>(), 1..10))
                .prop_map(|(at, bytes)| Self::Insert(at, bytes)),
            (any::<Index>(), 1..20_u8).prop_map(|(at, count)| Self::Remove(at, count)),
            (any::<Index>(), 1..200_u8).prop_map(|(at, count)| Self::Repeat(at, count)),
        ]
    }

    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let end = |at: usize, count: u8| bytes.len().min(at + usize::from(count));
        match self {
            Self::Set(at, byte) => *at.get_mut(bytes) = *byte,
            Self::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Self::Insert(at, new) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, new.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at.index(bytes.len());
                bytes.drain(at..end(at, *count));
            }
            Self::Repeat(at, count) => {
                let at = at.index(bytes.len());
                let byte = bytes[at];
                bytes.splice(at..at, std::iter::repeat_n(byte, usize::from(*count)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases.max(512), ..ProptestConfig::default() })]

    #[test]
    fn every_message_comes_back(envelope in envelope()) {
        let encoded = wire::encode(&envelope.message, envelope.topic.as_ref());
        prop_assert_eq!(wire::decode(&encoded).expect("own bytes are accepted"), envelope);
    }

    #[test]
    fn a_batch_is_encoded_as_its_messages_are(envelopes in prop::collection::vec(envelope(), 0..5)) {
        let batch: Vec<Message> = envelopes.into_iter().map(|envelope| envelope.message).collect();
        let one_by_one: Vec<Bytes> =
            batch.iter().map(|message| wire::encode(message, None)).collect();
        prop_assert_eq!(wire::encode_all(&batch), one_by_one);
    }

    #[test]
    fn an_envelope_adds_no_more_than_it_says(envelope in envelope()) {
        let encoded = wire::encode(&envelope.message, envelope.topic.as_ref());
        let key = envelope.message.key().map_or(0, |key| key.as_str().len());
        let carried = key + envelope.message.payload().len();
        prop_assert!(encoded.len() <= carried + MAX_OVERHEAD_BYTES);
    }

    #[test]
    fn arbitrary_bytes_neither_panic_nor_allocate(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        decode_checked(&bytes.into())?;
    }

    #[test]
    fn arbitrary_fields_neither_panic_nor_allocate(fields in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = [&[0xb8, 30, 0, 1, 1], &fields[..]].concat();
        decode_checked(&bytes.into())?;
    }

    #[test]
    fn mutated_vectors_neither_panic_nor_allocate(
        vector in any::<Index>(), mutations in prop::collection::vec(Mutation::any(), 1..5),
    ) {
        let mut bytes = vector.get(&VECTORS).to_vec();
        for mutation in &mutations {
            mutation.apply(&mut bytes);
        }
        decode_checked(&bytes.into())?;
    }
}

#[test]
fn every_beginning_of_an_accepted_vector_is_rejected() {
    for vector in &*ACCEPTED {
        for length in 0..vector.len() {
            let rejection = wire::decode(&vector.slice(..length)).expect_err("too short");
            let reason = rejection.reason();
            let expected =
                matches!(reason, RejectionReason::Truncated | RejectionReason::NotAnEnvelope);
            assert!(expected, "{reason:?} for {length} bytes of {vector:02x?}");
        }
    }
}

#[test]
fn golden_vectors_stay_within_the_bound_on_memory() {
    for vector in &*VECTORS {
        decode_checked(vector).expect("within the bound");
    }
}

#[test]
fn decoding_a_typical_put_allocates_its_key_alone() {
    let origin = Origin::random();
    let ttl = Ttl::starting_now(Duration::from_secs(1800)).expect("legal");
    let put = Message::put(Key::new("user:1").expect("legal"), Bytes::from(vec![7; 256]))
        .with_ttl(ttl)
        .with_version(Version::clock(1, Some(origin)))
        .with_position(Position { origin, sequence: NonZeroU64::MIN })
        .with_content_type(ContentType::JSON);
    let encoded = wire::encode(&put, None);
    // `Bytes` counts its owners from the first clone on, which is not the decoder's to pay.
    let _owner = encoded.clone();
    let mut decoded = None;
    let used = allocation_counter::measure(|| decoded = wire::decode(&encoded).ok());
    assert_eq!(decoded.expect("accepted").message, put);
    assert_eq!(used.count_total, 1, "{used:?}");
}

#[test]
fn the_payload_is_a_slice_of_what_was_received() {
    let put = Message::put(Key::new("k").expect("legal"), Bytes::from(vec![7; 10_000]));
    let encoded = wire::encode(&put, None);
    let decoded = wire::decode(&encoded).expect("accepted").message;
    assert_eq!(decoded.kind(), Kind::Put);
    let (whole, part) = (encoded.as_ptr_range(), decoded.payload().as_ptr_range());
    assert!(whole.start <= part.start && part.end <= whole.end);
}
