//! P11: TTL travels with the message, and so does all else that it holds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hydratecache::{
    ContentType, Key, Message, Origin, Position, TraceParent, Ttl, Version, VersionDomain,
};
use rand::RngExt;

use super::subject::Subject;
use super::trial::{Trial, chance};
use super::{Effort, unique_topic};

/// P11: the TTL travels with the message, to the microsecond; and so do key, payload, version,
/// position, content type, schema and traceparent, alone and together.
pub async fn p11_ttl_travels_with_the_message(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P11 (TTL travels with the message)", subject, effort);
    let (here, there) = (trial.connect().await, trial.connect().await);
    let topic = unique_topic("p11");
    let mut listener = trial.promise.subscribe(&here, &topic).await;
    let mut sent = extremes();
    let mut chance = chance(11);
    sent.extend((0..effort.pick(300, 20_000)).map(|_| any_message(&mut chance)));
    for batch in sent.chunks(50) {
        trial.promise.publish(&there, &topic, batch.to_vec()).await;
        for expected in batch {
            let arrived = listener.message("a message with all that it holds").await;
            trial.promise.require(arrived == *expected, || {
                format!("sent:    {}\narrived: {}", all_of(expected), all_of(&arrived))
            });
        }
    }
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

/// Everything in a message but the bytes of its payload.
fn all_of(message: &Message) -> String {
    format!(
        "{message:?} {:?} schema {:?} {:?}",
        message.content_type(),
        message.schema(),
        message.trace_parent()
    )
}

fn key(text: &str) -> Key {
    Key::new(text).expect("1 to 1,024 bytes")
}

/// What lies at the ends of what is legal.
fn extremes() -> Vec<Message> {
    let plain = || Message::put(key("k"), Bytes::from_static(b"value"));
    let micros = Duration::from_micros;
    let ttl = |start, duration| Ttl::new(UNIX_EPOCH + start, duration).expect("within limits");
    let end_of_time = micros(i64::MAX.unsigned_abs());
    let just_before = micros(i64::MAX.unsigned_abs() - 1);
    let ttls = [
        ttl(Duration::ZERO, micros(1)),
        ttl(Duration::ZERO, end_of_time),
        ttl(just_before, micros(1)),
        ttl(micros(1_234_567_890_123_456), micros(999_999)),
        Ttl::starting_now(Duration::from_millis(1_800_001)).expect("within limits"),
        Ttl::new(SystemTime::now() + Duration::from_secs(3600), micros(1)).expect("within limits"),
    ];
    let longest = "k".repeat(Key::MAX_BYTES);
    let keys = ["k", " ", "\0", "ключ:ключ", "🔑", "\"';--", "a\r\nb", &longest];
    let mut all: Vec<Message> = ttls.iter().map(|ttl| plain().with_ttl(*ttl)).collect();
    all.extend(ttls.map(|ttl| Message::touch(key("k"), ttl)));
    all.extend(keys.map(|name| Message::put(key(name), Bytes::from_static(b"value"))));
    all.extend(keys.map(|name| Message::remove(key(name))));
    all.push(Message::clear());
    all.push(Message::put(key("empty"), Bytes::new()));
    all.push(Message::put(key("every byte"), (0..=u8::MAX).collect()));
    for number in [0, 1, u64::MAX] {
        all.push(plain().with_version(Version::caller(number)));
        all.push(plain().with_version(Version::clock(number, None)));
        all.push(Message::clear().with_version(Version::caller(number)));
        all.push(plain().with_schema(number));
    }
    all
}

/// Any combination of what a message can hold.
fn any_message(chance: &mut impl RngExt) -> Message {
    let payload: Vec<u8> = (0..chance.random_range(0..300)).map(|_| chance.random()).collect();
    let ttl = Ttl::new(
        UNIX_EPOCH + Duration::from_micros(chance.random_range(0..u64::MAX / 4)),
        Duration::from_micros(chance.random_range(1..u64::MAX / 4)),
    );
    let ttl = ttl.expect("the end is before 2^63 microseconds");
    let key = key(&format!("key:{:x}", chance.random::<u64>()));
    let mut message = match chance.random_range(0..8) {
        0 => Message::remove(key),
        1 => Message::clear(),
        2 => Message::touch(key, ttl),
        3 => Message::put(key, payload.into()).with_ttl(ttl),
        _ => Message::put(key, payload.into()),
    };
    // A new origin each: none has a message before this one.
    let origin = chance.random_bool(0.5).then(Origin::random);
    if let Some(origin) = origin {
        let sequence = chance.random_range(1..=u64::MAX).try_into().expect("not zero");
        message = message.with_position(Position { origin, sequence });
    }
    let number = chance.random();
    message = match [None, Some(VersionDomain::Clock), Some(VersionDomain::Caller)]
        [chance.random_range(0..3)]
    {
        None => message,
        // The tie-breaker of a clock version is the message's origin.
        Some(VersionDomain::Clock) => message.with_version(Version::clock(number, origin)),
        Some(VersionDomain::Caller) => message.with_version(Version::caller(number)),
    };
    with_rare_parts(message, chance)
}

fn with_rare_parts(mut message: Message, chance: &mut impl RngExt) -> Message {
    if chance.random_bool(0.5) {
        let name =
            ["application/cbor", "application/json", "x/y;z=1", "t"][chance.random_range(0..4)];
        message = message.with_content_type(ContentType::new(name).expect("legal"));
    }
    if chance.random_bool(0.3) {
        message = message.with_schema(chance.random());
    }
    if chance.random_bool(0.3) {
        let (trace, span): (u128, u64) = (chance.random(), chance.random());
        let text = format!("00-{trace:032x}-{span:016x}-01");
        let trace_parent: TraceParent = text.parse().expect("of the right form");
        message = message.with_trace_parent(trace_parent);
    }
    message
}
