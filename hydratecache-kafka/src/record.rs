//! A message as a Kafka record, and back.
//!
//! `docs/WIRE.md` is the specification and `record/golden-v1.json` holds its examples. The record's
//! key is the message's key and its value is the bare payload, so that programs which know nothing of
//! us read and write values; everything else is in headers of text.

#[cfg(test)]
mod golden;

use std::fmt::Write as _;
use std::num::NonZeroU64;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hydratecache::fanout::Arrival;
use hydratecache::wire::{Rejection, RejectionReason};
use hydratecache::{
    ContentType, Key, Kind, Message, Origin, Position, Sent, TraceParent, Ttl, Version,
    VersionDomain,
};
use rdkafka::message::{Header, Headers, OwnedHeaders};

/// The names of the headers.
pub(crate) mod header {
    pub(crate) const WIRE: &str = "hc-wire";
    pub(crate) const KIND: &str = "hc-kind";
    pub(crate) const POSITION: &str = "hc-position";
    pub(crate) const CLOCK: &str = "hc-clock";
    pub(crate) const VERSION: &str = "hc-version";
    pub(crate) const TTL: &str = "hc-ttl";
    pub(crate) const SENT: &str = "hc-sent";
    pub(crate) const SCHEMA: &str = "hc-schema";
    pub(crate) const COPY: &str = "hc-copy";
    pub(crate) const REQUEST: &str = "hc-request";
    pub(crate) const CONTENT_TYPE: &str = "content-type";
    pub(crate) const TRACE_PARENT: &str = "traceparent";
}

/// What a record adds to key and payload, at most, in bytes: all headers, and what Kafka writes
/// around a record that is a batch by itself.
pub(crate) const MAX_OVERHEAD_BYTES: usize = 1024;

/// The first byte of the record keys that are not keys of messages. No UTF-8 text contains it.
const NO_KEY: u8 = 0xff;

/// A record to publish, but for its topic and partition.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    /// `None` is a tombstone: log compaction drops what the key had before.
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: OwnedHeaders,
}

/// What is added to a message on its way to a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Addressed {
    /// The number of the message in its partition, where it has a position.
    pub(crate) number: Option<u64>,
    /// What the copies of one message in several partitions share.
    pub(crate) copy: Option<u64>,
}

/// The record of `message`.
pub(crate) fn encode(message: &Message, addressed: Addressed) -> Record {
    Record {
        key: record_key(message),
        value: match message.kind() {
            Kind::Put => Some(message.payload().clone()),
            // Not a tombstone, or compaction would drop it in time and bring cleared values back.
            Kind::Clear | Kind::Touch => Some(Bytes::new()),
            _ => None,
        },
        headers: headers(message, addressed),
    }
}

/// What does not replace its key's value has a record key of its own, so that log compaction keeps
/// the value.
fn record_key(message: &Message) -> Vec<u8> {
    let key = message.key().map(|key| key.as_str().as_bytes()).unwrap_or_default();
    let origin = message.origin().map(|origin| origin.get().to_be_bytes()).unwrap_or_default();
    match message.kind() {
        Kind::Clear => vec![NO_KEY, b'c'],
        Kind::Touch => [&[NO_KEY, b't'], key].concat(),
        Kind::Heartbeat => [&[NO_KEY, b'h'], &origin[..]].concat(),
        Kind::Request => [&[NO_KEY, b'q'], &origin[..]].concat(),
        _ => key.to_vec(),
    }
}

fn headers(message: &Message, addressed: Addressed) -> OwnedHeaders {
    let mut text = String::new();
    let mut headers = OwnedHeaders::new_with_capacity(4);
    let mut add = |name: &str, value: std::fmt::Arguments<'_>| {
        text.clear();
        text.write_fmt(value).expect("writing to a String cannot fail");
        let header = Header { key: name, value: Some(text.as_bytes()) };
        headers = std::mem::take(&mut headers).insert(header);
    };
    if let Some(kind) = kind_name(message) {
        add(header::KIND, format_args!("{kind}"));
    }
    if let Some(origin) = message.origin()
        && (addressed.number.is_some() || !message.kind().is_write())
    {
        add(header::POSITION, format_args!("{origin}:{}", addressed.number.unwrap_or(0)));
    }
    if let Some(version) = message.version() {
        let name = match version.domain() {
            VersionDomain::Clock => header::CLOCK,
            VersionDomain::Caller => header::VERSION,
        };
        add(name, format_args!("{}", version.number()));
    }
    if let Some(ttl) = message.ttl()
        && matches!(message.kind(), Kind::Put | Kind::Touch)
    {
        let start = ttl.start().duration_since(UNIX_EPOCH).unwrap_or_default();
        add(header::TTL, format_args!("{}/{}", start.as_micros(), ttl.duration().as_micros()));
    }
    if let Some(sent) = message.sent() {
        let elapsed = sent.elapsed().as_micros();
        match sent.age() {
            Some(age) => add(header::SENT, format_args!("{elapsed}/{}", age.as_micros())),
            None => add(header::SENT, format_args!("{elapsed}")),
        }
    }
    if let Some(content_type) = message.content_type() {
        add(header::CONTENT_TYPE, format_args!("{}", content_type.as_str()));
    }
    if let Some(schema) = message.schema() {
        add(header::SCHEMA, format_args!("{schema}"));
    }
    if let Some(trace_parent) = message.trace_parent() {
        add(header::TRACE_PARENT, format_args!("{}", trace_parent.as_str()));
    }
    if message.kind() == Kind::Request {
        add(header::REQUEST, format_args!("{:x}", message.payload()));
    }
    if let Some(copy) = addressed.copy {
        add(header::COPY, format_args!("{copy}"));
    }
    headers
}

/// The kind, where the value does not say it: a put of an empty payload has to.
fn kind_name(message: &Message) -> Option<&'static str> {
    match message.kind() {
        Kind::Put if message.payload().is_empty() => Some("put"),
        Kind::Clear => Some("clear"),
        Kind::Touch => Some("touch"),
        // Readers that know of no requests take one for a heartbeat that tells nothing.
        Kind::Heartbeat | Kind::Request => Some("heartbeat"),
        _ => None,
    }
}

/// What arrived, as far as it is ours to judge.
#[derive(Debug)]
pub(crate) struct Arrived {
    pub(crate) arrival: Arrival,
    /// What the copies of one message in several partitions share.
    pub(crate) copy: Option<u64>,
}

/// Reads a record; `max_payload_bytes` is what this transport accepts.
pub(crate) fn decode(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: Option<&impl Headers>,
    max_payload_bytes: usize,
) -> Arrived {
    // The client library panics at a header whose name is not UTF-8.
    let read = catch_unwind(AssertUnwindSafe(|| Meta::read(headers)));
    let mut meta = Meta::default();
    let arrival = match read {
        Err(_) => Err(malformed("a header name that is not UTF-8")),
        Ok(Err(reason)) => Err(reason),
        Ok(Ok(read)) => {
            meta = read;
            meta.message(key, value, max_payload_bytes)
        }
    };
    let arrival = arrival.map_err(|reason| {
        let key = key.and_then(|key| Key::new(std::str::from_utf8(key).ok()?).ok());
        Rejection::new(reason).with_key(key).with_position(meta.position())
    });
    Arrived { arrival, copy: meta.copy }
}

fn malformed(what: &'static str) -> RejectionReason {
    RejectionReason::Malformed(what)
}

/// What the headers say.
#[derive(Default)]
struct Meta {
    kind: Option<Kind>,
    origin: Option<Origin>,
    sequence: Option<NonZeroU64>,
    clock: Option<u64>,
    caller: Option<u64>,
    ttl: Option<Ttl>,
    sent: Option<Sent>,
    content_type: Option<ContentType>,
    schema: Option<u64>,
    trace_parent: Option<TraceParent>,
    copy: Option<u64>,
    request: Option<Bytes>,
}

/// So many headers are looked at: ours are eleven, and a record of nothing but headers costs a reader
/// no more than that.
const MOST_HEADERS: usize = 64;

impl Meta {
    fn read(headers: Option<&impl Headers>) -> Result<Self, RejectionReason> {
        let mut meta = Self::default();
        let Some(headers) = headers else {
            return Ok(meta);
        };
        if headers.count() > MOST_HEADERS {
            return Err(malformed("more than 64 headers"));
        }
        for Header { key, value } in headers.iter() {
            meta.take(key, value.unwrap_or_default())?;
        }
        if meta.clock.is_some() && meta.caller.is_some() {
            return Err(RejectionReason::InvalidField(header::VERSION));
        }
        Ok(meta)
    }

    fn take(&mut self, name: &str, value: &[u8]) -> Result<(), RejectionReason> {
        match name {
            header::WIRE => match number(header::WIRE, value)? {
                1 => Ok(()),
                other => Err(RejectionReason::UnknownWireVersion(other)),
            },
            header::KIND => once(&mut self.kind, header::KIND, kind(value)),
            header::POSITION => self.take_position(value),
            header::CLOCK => once(&mut self.clock, header::CLOCK, number(header::CLOCK, value)),
            header::VERSION => {
                once(&mut self.caller, header::VERSION, number(header::VERSION, value))
            }
            header::TTL => once(&mut self.ttl, header::TTL, ttl(value)),
            header::SENT => {
                // Nothing but a help: what has another form is ignored, as where it is not known.
                self.sent = sent(value);
                Ok(())
            }
            header::SCHEMA => once(&mut self.schema, header::SCHEMA, number(header::SCHEMA, value)),
            header::COPY => once(&mut self.copy, header::COPY, number(header::COPY, value)),
            header::REQUEST => {
                // As with an envelope, what is no request is a heartbeat.
                self.request = bytes(value);
                Ok(())
            }
            header::CONTENT_TYPE => {
                let content_type = text(value).and_then(|name| ContentType::new(name).ok());
                let content_type = content_type.ok_or(invalid(header::CONTENT_TYPE));
                once(&mut self.content_type, header::CONTENT_TYPE, content_type)
            }
            header::TRACE_PARENT => {
                // Other programs write it too, in versions to come: what we cannot read is not ours.
                self.trace_parent = text(value).and_then(|value| value.parse().ok());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn take_position(&mut self, value: &[u8]) -> Result<(), RejectionReason> {
        let parts = text(value).and_then(|value| value.split_once(':'));
        let is_hex = |origin: &str| {
            origin.len() == 16 && origin.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let (origin, sequence) = parts
            .filter(|(origin, _)| is_hex(origin))
            .and_then(|(origin, sequence)| {
                let origin = Origin::from_u64(u64::from_str_radix(origin, 16).ok()?)?;
                Some((origin, decimal::<u64>(sequence)?))
            })
            .ok_or(invalid(header::POSITION))?;
        once(&mut self.origin, header::POSITION, Ok(origin))?;
        self.sequence = NonZeroU64::new(sequence);
        Ok(())
    }

    fn position(&self) -> Option<Position> {
        let (origin, sequence) = self.origin.zip(self.sequence)?;
        Some(Position { origin, sequence })
    }

    fn message(
        &mut self,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        max_payload_bytes: usize,
    ) -> Result<Message, RejectionReason> {
        let value = value.unwrap_or_default();
        let kind = self.kind.unwrap_or(if value.is_empty() { Kind::Remove } else { Kind::Put });
        if self.origin.is_some() && self.sequence.is_none() && kind != Kind::Heartbeat {
            return Err(invalid(header::POSITION));
        }
        if value.len() > max_payload_bytes {
            let (bytes, limit) = (value.len(), max_payload_bytes);
            return Err(RejectionReason::TooLarge { bytes, limit });
        }
        let message = match kind {
            Kind::Put => Message::put(message_key(key)?, Bytes::copy_from_slice(value)),
            Kind::Remove if value.is_empty() => Message::remove(message_key(key)?),
            Kind::Clear if value.is_empty() => Message::clear(),
            Kind::Touch if value.is_empty() => {
                let ttl = self.ttl.ok_or(RejectionReason::MissingField(header::TTL))?;
                Message::touch(message_key(touched(key)?)?, ttl)
            }
            Kind::Heartbeat if value.is_empty() => {
                let origin = self.origin.ok_or(RejectionReason::MissingField(header::POSITION))?;
                let body = self.request.take().filter(|_| self.sequence.is_none());
                body.and_then(|body| Message::request(origin, body).ok())
                    .unwrap_or_else(|| Message::heartbeat(origin, self.sequence))
            }
            _ => return Err(invalid("value")),
        };
        if self.ttl.is_some() && !matches!(kind, Kind::Put | Kind::Touch) {
            return Err(invalid(header::TTL));
        }
        Ok(self.complete(message))
    }

    fn complete(&mut self, mut message: Message) -> Message {
        if let Some(position) = self.position() {
            message = message.with_position(position);
        }
        let clock = self.clock.map(|number| Version::clock(number, self.origin));
        if let Some(version) = clock.or(self.caller.map(Version::caller)) {
            message = message.with_version(version);
        }
        if let Some(ttl) = self.ttl
            && message.kind() == Kind::Put
        {
            message = message.with_ttl(ttl);
        }
        if let Some(sent) = self.sent {
            message = message.with_sent(sent);
        }
        if let Some(content_type) = self.content_type.take() {
            message = message.with_content_type(content_type);
        }
        if let Some(schema) = self.schema {
            message = message.with_schema(schema);
        }
        if let Some(trace_parent) = self.trace_parent {
            message = message.with_trace_parent(trace_parent);
        }
        message
    }
}

fn message_key(key: Option<&[u8]>) -> Result<Key, RejectionReason> {
    let key = key.ok_or(RejectionReason::MissingField("key"))?;
    text(key).and_then(|key| Key::new(key).ok()).ok_or(invalid("key"))
}

/// The key of the message that a touch's record key stands for.
fn touched(key: Option<&[u8]>) -> Result<Option<&[u8]>, RejectionReason> {
    let key = key.ok_or(RejectionReason::MissingField("key"))?;
    key.strip_prefix(&[NO_KEY, b't']).map(Some).ok_or(invalid("key"))
}

fn invalid(name: &'static str) -> RejectionReason {
    RejectionReason::InvalidField(name)
}

/// Sets a field that may be set once.
fn once<T>(
    field: &mut Option<T>,
    name: &'static str,
    value: Result<T, RejectionReason>,
) -> Result<(), RejectionReason> {
    match field.replace(value?) {
        None => Ok(()),
        Some(_) => Err(invalid(name)),
    }
}

fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok()
}

/// Digits only: no sign, as `from_str` would take.
fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// The bytes that lower-case hexadecimal digits stand for, if they are those of a request.
fn bytes(value: &[u8]) -> Option<Bytes> {
    let digit = |byte: &u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, []) = value.as_chunks::<2>() else { return None };
    if pairs.len() > hydratecache::wire::MAX_REQUEST_BYTES {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

fn number(name: &'static str, value: &[u8]) -> Result<u64, RejectionReason> {
    text(value).and_then(decimal).ok_or(invalid(name))
}

fn kind(value: &[u8]) -> Result<Kind, RejectionReason> {
    match value {
        b"put" => Ok(Kind::Put),
        b"remove" => Ok(Kind::Remove),
        b"clear" => Ok(Kind::Clear),
        b"touch" => Ok(Kind::Touch),
        b"heartbeat" => Ok(Kind::Heartbeat),
        _ => Err(invalid(header::KIND)),
    }
}

fn ttl(value: &[u8]) -> Result<Ttl, RejectionReason> {
    let micros = |text: &str| Some(Duration::from_micros(decimal(text)?));
    let parts = text(value).and_then(|value| value.split_once('/'));
    parts
        .and_then(|(start, duration)| {
            let start: SystemTime = UNIX_EPOCH.checked_add(micros(start)?)?;
            Ttl::new(start, micros(duration)?).ok()
        })
        .ok_or(invalid(header::TTL))
}

/// The time of sending, with the age of a value that has a TTL.
fn sent(value: &[u8]) -> Option<Sent> {
    let micros = |text: &str| Some(Duration::from_micros(decimal(text)?));
    let value = text(value)?;
    match value.split_once('/') {
        Some((elapsed, age)) => Some(Sent::new(micros(elapsed)?, Some(micros(age)?))),
        None => Some(Sent::new(micros(value)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn round_trip(message: &Message) -> Arrival {
        let number = message.sequence().map(NonZeroU64::get);
        let record = encode(message, Addressed { number, copy: None });
        let (key, value) = (Some(&record.key[..]), record.value.as_deref());
        decode(key, value, Some(&record.headers), 1 << 20).arrival
    }

    prop_compose! {
        fn any_message()(
            kind in 0..6, key in "\\PC{1,20}", payload in prop::collection::vec(any::<u8>(), 0..50),
            origin in prop::option::of(1_u64..), sequence in 1_u64.., version in any::<Option<(bool, u64)>>(),
            ttl in prop::option::of((0_u64..1 << 61, 1_u64..1 << 61)), schema in any::<Option<u64>>(),
            content_type in prop::option::of("[!-~]{1,64}"),
            sent in prop::option::of((0_u64..1 << 62, prop::option::of(0_u64..1 << 62))),
        ) -> Message {
            let key = Key::new(key).expect("1 to 80 bytes");
            let ttl = ttl.map(|(start, duration)| {
                let start = UNIX_EPOCH + Duration::from_micros(start);
                Ttl::new(start, Duration::from_micros(duration)).expect("legal")
            });
            let origin = origin.and_then(Origin::from_u64);
            let sequence = NonZeroU64::new(sequence).expect("not zero");
            let mut message = match (kind, ttl, origin) {
                (0, ..) => Message::remove(key),
                (1, ..) => Message::clear(),
                (2, Some(ttl), _) => Message::touch(key, ttl),
                (3, _, Some(origin)) => {
                    let heartbeat = Message::heartbeat(origin, Some(sequence));
                    return sent.map_or(heartbeat.clone(), |(elapsed, _)| {
                        heartbeat.with_sent(Sent::new(Duration::from_micros(elapsed), None))
                    });
                }
                (5, _, Some(origin)) => {
                    let body = Bytes::from([&[0xa1, 0x00, 0x41], &[schema.unwrap_or(0).to_le_bytes()[0]][..]].concat());
                    return Message::request(origin, body).expect("a map");
                }
                (_, Some(ttl), _) => Message::put(key, payload.into()).with_ttl(ttl),
                _ => Message::put(key, payload.into()),
            };
            if let Some(origin) = origin {
                message = message.with_position(Position { origin, sequence });
            }
            if let Some((is_clock, number)) = version {
                let clock = Version::clock(number, origin);
                message = message.with_version(if is_clock { clock } else { Version::caller(number) });
            }
            if let Some(content_type) = content_type {
                message = message.with_content_type(ContentType::new(&content_type).expect("legal"));
            }
            if let Some(schema) = schema {
                message = message.with_schema(schema);
            }
            if let Some((elapsed, age)) = sent {
                let age = age.map(Duration::from_micros);
                message = message.with_sent(Sent::new(Duration::from_micros(elapsed), age));
            }
            message
        }
    }

    proptest! {
        #[test]
        fn every_message_comes_back_as_it_was(message in any_message()) {
            prop_assert_eq!(round_trip(&message).expect("readable"), message);
        }

        #[test]
        fn nothing_that_arrives_makes_a_reader_panic(
            key in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            value in prop::option::of(prop::collection::vec(any::<u8>(), 0..20)),
            headers in prop::collection::vec(
                ("hc-(kind|position|clock|ttl|sent|wire|copy|request)|content-type|x", "put|touch|[0-9a-f:/]{0,40}|\\PC*"), 0..6),
        ) {
            let add = |all: OwnedHeaders, (name, value): &(String, String)| {
                all.insert(Header { key: name, value: Some(value) })
            };
            let headers = headers.iter().fold(OwnedHeaders::new(), add);
            let _ = decode(key.as_deref(), value.as_deref(), Some(&headers), 10);
        }
    }

    #[test]
    fn what_stands_beside_a_value_never_replaces_it_in_a_compacted_topic() {
        let key = || Key::new("k").expect("legal");
        let ttl = Ttl::starting_now(Duration::from_secs(1)).expect("legal");
        let origin = Origin::random();
        let of = |message: Message| encode(&message, Addressed::default());
        let (put, remove) = (of(Message::put(key(), Bytes::new())), of(Message::remove(key())));
        assert_eq!((put.key.as_slice(), remove.key.as_slice()), (&b"k"[..], &b"k"[..]));
        assert!(put.value.is_some() && remove.value.is_none());
        for message in
            [Message::touch(key(), ttl), Message::clear(), Message::heartbeat(origin, None)]
        {
            assert!(std::str::from_utf8(&of(message).key).is_err(), "no key of a value");
        }
    }

    #[test]
    fn a_record_of_another_program_is_a_put_or_a_remove() {
        let decode = |key, value| decode(key, value, None::<&OwnedHeaders>, 4).arrival;
        let key = Some(&b"user:1"[..]);
        let put = decode(key, Some(b"Ada")).expect("a put");
        assert_eq!((put.kind(), &put.payload()[..]), (Kind::Put, &b"Ada"[..]));
        for nothing in [None, Some(&b""[..])] {
            assert_eq!(decode(key, nothing).expect("a remove").kind(), Kind::Remove);
        }
        let too_large = decode(key, Some(b"Grace")).expect_err("5 of 4 bytes");
        assert!(matches!(too_large.reason(), RejectionReason::TooLarge { bytes: 5, limit: 4 }));
        assert_eq!(too_large.key().map(Key::as_str), Some("user:1"));
        assert!(decode(None, Some(b"Ada")).is_err(), "no key");
    }
}
