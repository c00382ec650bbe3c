//! The byte-level unit that transports carry.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{Error, ErrorKind, Key, Result, Ttl, Version};

/// What a message does to its key, or to its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A new value for the key.
    Put,
    /// The key has no value any more.
    Remove,
    /// The whole topic has no value any more.
    Clear,
    /// A new TTL for the key, with the same value.
    Touch,
    /// A publisher's last sequence, so that even a lost last message is noticed. Without a
    /// sequence it only probes the way.
    Heartbeat,
    /// One process asks something of the others on the topic, or answers. It writes nothing, has no
    /// sequence, and may be lost without a gap: whoever asks waits for a bounded time.
    Request,
}

impl Kind {
    /// Whether a message of this kind says something of values: it has a number in its origin, and its
    /// loss is a gap.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Put | Self::Remove | Self::Clear | Self::Touch)
    }
}

/// One publisher incarnation: a random number made at start and never reused.
///
/// 64 bits: among a million incarnations that one subscriber remembers, two share a number with
/// a probability of about 3 in 100 million (birthday bound).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin(NonZeroU64);

impl Origin {
    /// A new incarnation.
    #[must_use]
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The origin with this number; zero is none.
    #[must_use]
    pub const fn from_u64(number: u64) -> Option<Self> {
        match NonZeroU64::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({:016x})", self.0)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Who sent a message, and as which of its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Position {
    /// The publisher incarnation.
    pub origin: Origin,
    /// The consecutive number of the message in its origin and topic, from 1.
    pub sequence: NonZeroU64,
}

/// A checked W3C `traceparent` of version 00, such as
/// `00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent([u8; Self::BYTES]);

impl TraceParent {
    /// The length of its text form.
    pub const BYTES: usize = 55;

    /// The text form.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("the constructor accepts ASCII only")
    }
}

impl FromStr for TraceParent {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let legal = |(index, byte): (usize, u8)| match index {
            2 | 35 | 52 => byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        };
        <[u8; Self::BYTES]>::try_from(text.as_bytes())
            .ok()
            .filter(|bytes| bytes.starts_with(b"00-") && bytes.iter().copied().enumerate().all(legal))
            .map(Self)
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidInput,
                    "the traceparent is not of the form 00-<32 hex>-<16 hex>-<2 hex>, in lower case",
                )
            })
    }
}

/// The byte-level unit: what happened to which key, with the data that orders and dates it.
///
/// Built by one constructor per [kind](Kind), so that every message has the parts its kind needs.
///
/// ```
/// use bytes::Bytes;
/// use hydratecache::{Key, Kind, Message};
///
/// let message = Message::put(Key::new("user:1")?, Bytes::from_static(b"..."));
/// assert_eq!(message.kind(), Kind::Put);
/// # Ok::<(), hydratecache::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    pub(crate) kind: Kind,
    pub(crate) key: Option<Key>,
    pub(crate) payload: Bytes,
    pub(crate) ttl: Option<Ttl>,
    pub(crate) version: Option<Version>,
    pub(crate) origin: Option<Origin>,
    pub(crate) sequence: Option<NonZeroU64>,
    pub(crate) content_type: Option<ContentType>,
    pub(crate) dating: Dating,
    /// Boxed, because a message moves through several queues and few have these.
    pub(crate) rare: Option<Box<Rare>>,
}

/// When a message was sent, by clocks of its sender that nobody else has to trust.
///
/// Publishers say it of values with a [`Ttl`], of heartbeats, and of other messages now and then.
/// Subscriptions estimate from it when
/// the value's life [ends](Message::ends_at).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sent {
    elapsed_micros: u64,
    age_micros: Option<u64>,
}

impl Sent {
    /// Sent when its origin had been running for `elapsed`, on the monotonic clock of its process, and
    /// its value was of this `age`: its TTL had started so long before, by the wall clock of its
    /// process. Both are cut off to microseconds; what 63 bits do not hold counts as the most that
    /// they do.
    #[must_use]
    pub fn new(elapsed: Duration, age: Option<Duration>) -> Self {
        let micros = |duration: Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        Self::from_micros(micros(elapsed), age.map(micros))
    }

    pub(crate) fn from_micros(elapsed: u64, age: Option<u64>) -> Self {
        let most = i64::MAX.unsigned_abs();
        Self { elapsed_micros: elapsed.min(most), age_micros: age.map(|age| age.min(most)) }
    }

    /// The same of a message that is sent once more: its value has aged meanwhile.
    pub(crate) fn again(self, elapsed: Duration) -> Self {
        let aged = elapsed.saturating_sub(self.elapsed());
        Self::new(elapsed, self.age().map(|age| age.saturating_add(aged)))
    }

    /// How long its origin had been running.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Duration::from_micros(self.elapsed_micros)
    }

    /// How old the value was, if there was one with a TTL.
    #[must_use]
    pub fn age(self) -> Option<Duration> {
        self.age_micros.map(Duration::from_micros)
    }

    /// Both, as the wire has them.
    pub(crate) const fn to_micros(self) -> (u64, Option<u64>) {
        (self.elapsed_micros, self.age_micros)
    }

    pub(crate) fn elapsed_micros(self) -> i64 {
        i64::try_from(self.elapsed_micros).unwrap_or(i64::MAX)
    }
}

/// What is known of when the value's life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Dating {
    /// Nothing but its TTL.
    #[default]
    None,
    /// When it was sent.
    Sent(Sent),
    /// The end, by this process's monotonic clock.
    EndsAt(Instant),
}

/// What few messages carry.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Rare {
    pub(crate) schema: Option<u64>,
    pub(crate) trace_parent: Option<TraceParent>,
    pub(crate) transaction: Option<u64>,
    pub(crate) is_invalidation: bool,
}

impl Message {
    /// A new value for `key`.
    #[must_use]
    pub fn put(key: Key, payload: Bytes) -> Self {
        Self { key: Some(key), payload, ..Self::bare(Kind::Put) }
    }

    /// `key` has no value any more.
    #[must_use]
    pub fn remove(key: Key) -> Self {
        Self { key: Some(key), ..Self::bare(Kind::Remove) }
    }

    /// `key` has a new value that the message does not carry, because it is too large for the
    /// broker: whoever has a [`Source`](crate::cache::Source) loads it, everybody else drops what
    /// they have, as for a removal.
    ///
    /// For authors of transports. The envelope has no form for it: there it is a removal.
    #[must_use]
    pub fn invalidate(key: Key) -> Self {
        let mut message = Self::remove(key);
        message.rare.get_or_insert_default().is_invalidation = true;
        message
    }

    /// The whole topic has no value any more.
    #[must_use]
    pub fn clear() -> Self {
        Self::bare(Kind::Clear)
    }

    /// A new TTL for `key`, with the same value.
    #[must_use]
    pub fn touch(key: Key, ttl: Ttl) -> Self {
        Self { key: Some(key), ttl: Some(ttl), ..Self::bare(Kind::Touch) }
    }

    /// The last sequence of `origin`; without one, a probe that subscriptions swallow.
    #[must_use]
    pub fn heartbeat(origin: Origin, last: Option<NonZeroU64>) -> Self {
        Self { origin: Some(origin), sequence: last, ..Self::bare(Kind::Heartbeat) }
    }

    /// What `origin` asks of the others on the topic, or answers: a CBOR map, as `docs/WIRE.md` says.
    /// Old receivers take it for a [heartbeat](Self::heartbeat) without a sequence, which they ignore.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if `body` is not one map with definite length, or longer than
    /// [`MAX_REQUEST_BYTES`](crate::wire::MAX_REQUEST_BYTES).
    pub fn request(origin: Origin, body: Bytes) -> Result<Self> {
        if crate::wire::is_request(&body) {
            return Ok(Self { origin: Some(origin), payload: body, ..Self::bare(Kind::Request) });
        }
        let what = format!(
            "the body of a request is not one CBOR map of at most {} bytes with a definite length",
            crate::wire::MAX_REQUEST_BYTES
        );
        Err(Error::new(ErrorKind::InvalidInput, what))
    }

    pub(crate) const fn bare(kind: Kind) -> Self {
        Self {
            kind,
            key: None,
            payload: Bytes::new(),
            ttl: None,
            version: None,
            origin: None,
            sequence: None,
            content_type: None,
            dating: Dating::None,
            rare: None,
        }
    }

    /// The same message with a TTL.
    #[must_use]
    pub fn with_ttl(self, ttl: Ttl) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The same message with a version. A clock version takes its tie-breaker from the message's
    /// origin when it is encoded.
    #[must_use]
    pub fn with_version(self, version: Version) -> Self {
        Self { version: Some(version), ..self }
    }

    /// The same message with its sender and number. A request has no number.
    #[must_use]
    pub fn with_position(self, position: Position) -> Self {
        let sequence = Some(position.sequence).filter(|_| self.kind != Kind::Request);
        Self { origin: Some(position.origin), sequence, ..self }
    }

    /// The same message with the media type of its payload.
    #[must_use]
    pub fn with_content_type(self, content_type: ContentType) -> Self {
        Self { content_type: Some(content_type), ..self }
    }

    /// The same message with the time at which it was sent.
    #[must_use]
    pub fn with_sent(self, sent: Sent) -> Self {
        Self { dating: Dating::Sent(sent), ..self }
    }

    /// The same message with a fingerprint of the payload's schema.
    #[must_use]
    pub fn with_schema(mut self, fingerprint: u64) -> Self {
        self.rare.get_or_insert_default().schema = Some(fingerprint);
        self
    }

    /// The same message with the trace that it belongs to.
    #[must_use]
    pub fn with_trace_parent(mut self, trace_parent: TraceParent) -> Self {
        self.rare.get_or_insert_default().trace_parent = Some(trace_parent);
        self
    }

    /// The same message with the number of the database transaction that it was published in, for
    /// a [`Snapshot`](crate::cache::Snapshot) to judge. For authors of transports over a database;
    /// no part of the envelope.
    #[must_use]
    pub fn with_transaction(mut self, number: u64) -> Self {
        self.rare.get_or_insert_default().transaction = Some(number);
        self
    }

    /// What the message does.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The key; `Clear`, `Heartbeat` and `Request` have none.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.key.as_ref()
    }

    /// The encoded value of a `Put`, the map of a `Request`; empty for every other kind.
    #[must_use]
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// How long the value may live.
    #[must_use]
    pub fn ttl(&self) -> Option<Ttl> {
        self.ttl
    }

    /// What orders this message among the writes of its key.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The publisher incarnation. A foreign publisher may have none.
    #[must_use]
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// The consecutive number of the message in its origin and topic; of a heartbeat, the last
    /// one that its origin used.
    #[must_use]
    pub fn sequence(&self) -> Option<NonZeroU64> {
        self.sequence
    }

    /// Sender and number together, where the message has both.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        let (origin, sequence) = self.origin.zip(self.sequence)?;
        Some(Position { origin, sequence })
    }

    /// The media type of the payload, if the publisher said one.
    #[must_use]
    pub fn content_type(&self) -> Option<&ContentType> {
        self.content_type.as_ref()
    }

    /// When the message was sent, if the publisher said so, until a subscription estimates
    /// [from it](Self::ends_at) when the value's life ends.
    #[must_use]
    pub fn sent(&self) -> Option<Sent> {
        match self.dating {
            Dating::Sent(sent) => Some(sent),
            _ => None,
        }
    }

    /// When the value's life ends, by this process's monotonic clock, as far as its subscription can
    /// tell without trusting anybody's wall clock. Never early, and late by the shortest time that a
    /// message of its publisher took within the last minute, its own included. `None` where the
    /// publisher did not say when it [sent](Sent) the message, and where a broker may have kept it:
    /// then the [TTL](Self::ttl) and the wall clock have to do.
    #[must_use]
    pub fn ends_at(&self) -> Option<Instant> {
        match self.dating {
            Dating::EndsAt(ends_at) => Some(ends_at),
            _ => None,
        }
    }

    /// The fingerprint of the payload's schema, if the publisher said one.
    #[must_use]
    pub fn schema(&self) -> Option<u64> {
        self.rare.as_ref()?.schema
    }

    /// The trace that the message belongs to, if the publisher said one.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        self.rare.as_ref()?.trace_parent
    }

    /// The number of the database transaction that the message was published in, where the
    /// transport knows.
    #[must_use]
    pub fn transaction(&self) -> Option<u64> {
        self.rare.as_ref()?.transaction
    }

    /// Whether the message says that its key has a new value, without the value.
    #[must_use]
    pub fn is_invalidation(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.is_invalidation)
    }

    /// What the message holds on to while it waits in a queue, in bytes: key, payload and the
    /// message itself.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        let key = self.key.as_ref().map_or(0, |key| key.as_str().len());
        size_of::<Self>() + key + self.payload.len()
    }
}

impl fmt::Debug for Message {
    /// Shows everything but the payload, of which it shows the length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("key", &self.key)
            .field("payload_bytes", &self.payload.len())
            .field("ttl", &self.ttl)
            .field("version", &self.version)
            .field("origin", &self.origin)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

/// The media type of a payload, such as `application/cbor`: 1 to 64 bytes of visible ASCII.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ContentType(MediaType);

/// Nearly every message has one of the first three, which cost no allocation, and each has only
/// this one form.
#[derive(Clone, PartialEq, Eq, Hash)]
enum MediaType {
    Cbor,
    Json,
    OctetStream,
    Other(Arc<str>),
}

impl ContentType {
    /// The longest, in bytes.
    pub const MAX_BYTES: usize = 64;
    /// CBOR, RFC 8949.
    pub const CBOR: Self = Self(MediaType::Cbor);
    /// JSON, RFC 8259.
    pub const JSON: Self = Self(MediaType::Json);
    /// Bytes of any form, RFC 2046.
    pub const OCTET_STREAM: Self = Self(MediaType::OctetStream);

    /// Checks `name`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] if it is empty, too long or not visible ASCII.
    pub fn new(name: &str) -> Result<Self> {
        for known in [Self::CBOR, Self::JSON, Self::OCTET_STREAM] {
            if known.as_str() == name {
                return Ok(known);
            }
        }
        let legal = (1..=Self::MAX_BYTES).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        if legal {
            return Ok(Self(MediaType::Other(name.into())));
        }
        Err(Error::new(
            ErrorKind::InvalidInput,
            "the content type is not 1 to 64 bytes of visible ASCII, as in application/cbor",
        ))
    }

    /// The media type as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match &self.0 {
            MediaType::Cbor => "application/cbor",
            MediaType::Json => "application/json",
            MediaType::OctetStream => "application/octet-stream",
            MediaType::Other(name) => name,
        }
    }
}

impl fmt::Debug for ContentType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ContentType({:?})", self.as_str())
    }
}
