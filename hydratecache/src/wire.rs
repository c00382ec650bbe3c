//! Envelope v1: the CBOR form of a [`Message`] on transports that have no headers of their own.
//!
//! `docs/WIRE.md` is the specification and `golden/envelope-v1.json` beside this file holds its
//! vectors. Encoding is deterministic; decoding borrows: the payload is a slice of the received
//! [`Bytes`], and the key is the one allocation.

#[cfg(test)]
mod golden;
mod rejection;
mod well_formed;

use std::convert::Infallible;
use std::num::NonZeroU64;

use bytes::Bytes;
use minicbor::{Decoder, Encoder};

pub use rejection::{Rejection, RejectionReason};
pub(crate) use well_formed::{MAX_DEPTH, check_well_formed};

use crate::message::{ContentType, Dating, Rare, Sent};
use crate::{Key, Kind, Message, Origin, Topic, Ttl, Version, VersionDomain};

/// The version that this crate writes and reads.
pub const VERSION: u64 = 1;

/// The most that an envelope adds to key and payload, in bytes, topic included.
pub const MAX_OVERHEAD_BYTES: usize = 512;

/// The integer keys of the envelope's map.
mod field {
    pub(super) const VERSION: u64 = 0;
    pub(super) const KIND: u64 = 1;
    pub(super) const KEY: u64 = 2;
    pub(super) const PAYLOAD: u64 = 3;
    pub(super) const TTL: u64 = 4;
    pub(super) const ORIGIN: u64 = 5;
    pub(super) const SEQUENCE: u64 = 6;
    pub(super) const CLOCK_VERSION: u64 = 7;
    pub(super) const CALLER_VERSION: u64 = 8;
    pub(super) const CONTENT_TYPE: u64 = 9;
    pub(super) const SCHEMA: u64 = 10;
    pub(super) const TRACE_PARENT: u64 = 11;
    pub(super) const CHUNK: u64 = 12;
    pub(super) const TOPIC: u64 = 13;
    pub(super) const REQUEST: u64 = 14;
    pub(super) const ELAPSED: u64 = 15;
    pub(super) const AGE: u64 = 16;
}

/// The longest body of a request, in bytes: room for a few hundred numbers, and small beside what a
/// queue or a broker's limit on messages holds.
pub const MAX_REQUEST_BYTES: usize = 4096;

/// The numbers of the kinds on the wire. A request is a heartbeat with a body, so that readers which
/// know of none ignore it.
const KINDS: [Kind; 5] = [Kind::Put, Kind::Remove, Kind::Clear, Kind::Touch, Kind::Heartbeat];

/// What an envelope holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The message.
    pub message: Message,
    /// The topic, where the transport's own name for it is a hash.
    pub topic: Option<Topic>,
}

/// The envelope of `message`; with `topic`, where the transport's own name for it is a hash.
#[must_use]
pub fn encode(message: &Message, topic: Option<&Topic>) -> Bytes {
    let mut bytes = Vec::new();
    encode_into(&mut bytes, message, topic);
    bytes.into()
}

/// Writes the envelope of `message`, as [`encode`] makes it, behind what is in `bytes`.
pub fn encode_into(bytes: &mut Vec<u8>, message: &Message, topic: Option<&Topic>) {
    bytes.reserve(room(message, topic));
    let written = write(&mut Encoder::new(Buffer(bytes)), message, topic);
    written.expect("writing to memory cannot fail");
}

/// The envelopes of `batch`, as [`encode`] makes them, in one allocation that they share.
#[must_use]
pub fn encode_all(batch: &[Message]) -> Vec<Bytes> {
    let mut bytes = Vec::with_capacity(batch.iter().map(|message| room(message, None)).sum());
    let write_one = |message| {
        let begin = bytes.len();
        encode_into(&mut bytes, message, None);
        begin..bytes.len()
    };
    let places: Vec<_> = batch.iter().map(write_one).collect();
    let envelopes = Bytes::from(bytes);
    places.into_iter().map(|place| envelopes.slice(place)).collect()
}

/// How many bytes the envelope takes at most.
fn room(message: &Message, topic: Option<&Topic>) -> usize {
    let key_bytes = message.key.as_ref().map_or(0, |key| key.as_str().len());
    let content_type = message.content_type.as_ref().map_or(0, |name| name.as_str().len() + 3);
    let topic_bytes = topic.map_or(0, |topic| topic.as_str().len() + 3);
    // 80 bytes hold every field but those of variable length; 64 more, a traceparent; 20, the time of
    // sending.
    let trace_parent = message.trace_parent().map_or(0, |_| 64);
    let fixed = 80 + trace_parent + message.sent().map_or(0, |_| 20);
    // A request's body is there instead of a payload, and behind a number of one byte as well.
    fixed + key_bytes + message.payload.len() + content_type + topic_bytes
}

/// Where envelopes are written.
struct Buffer<'a>(&'a mut Vec<u8>);

impl minicbor::encode::Write for Buffer<'_> {
    type Error = Infallible;

    /// Inlined, because nearly all that is written are parts of numbers, of a size that the compiler
    /// knows then: calls to copy a byte or eight were half of the cost of an envelope (measured).
    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> Result<(), Infallible> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

type Written = Result<(), minicbor::encode::Error<Infallible>>;

fn write(e: &mut Encoder<Buffer<'_>>, message: &Message, topic: Option<&Topic>) -> Written {
    e.map(pairs(message, topic))?;
    e.u64(field::VERSION)?.u64(VERSION)?;
    e.u64(field::KIND)?.u64(kind_number(message.kind))?;
    if let Some(key) = &message.key {
        e.u64(field::KEY)?.str(key.as_str())?;
    }
    if message.kind == Kind::Put {
        e.u64(field::PAYLOAD)?.bytes(&message.payload)?;
    }
    if let Some(ttl) = written_ttl(message) {
        let (start, duration) = ttl.to_micros();
        e.u64(field::TTL)?.array(2)?.u64(start)?.u64(duration)?;
    }
    if let Some(origin) = message.origin {
        e.u64(field::ORIGIN)?.u64(origin.get())?;
    }
    if let Some(sequence) = written_sequence(message) {
        e.u64(field::SEQUENCE)?.u64(sequence.get())?;
    }
    if let Some(version) = message.version {
        e.u64(version_field(version.domain()))?.u64(version.number())?;
    }
    write_rare(e, message, topic)?;
    if message.kind == Kind::Request {
        e.u64(field::REQUEST)?.writer_mut().0.extend_from_slice(&message.payload);
    }
    if let Some(sent) = message.sent() {
        let (elapsed, age) = sent.to_micros();
        e.u64(field::ELAPSED)?.u64(elapsed)?;
        if let Some(age) = age {
            e.u64(field::AGE)?.u64(age)?;
        }
    }
    Ok(())
}

fn write_rare(e: &mut Encoder<Buffer<'_>>, message: &Message, topic: Option<&Topic>) -> Written {
    if let Some(content_type) = &message.content_type {
        e.u64(field::CONTENT_TYPE)?.str(content_type.as_str())?;
    }
    if let Some(schema) = message.schema() {
        e.u64(field::SCHEMA)?.u64(schema)?;
    }
    if let Some(trace_parent) = message.trace_parent() {
        e.u64(field::TRACE_PARENT)?.str(trace_parent.as_str())?;
    }
    if let Some(topic) = topic {
        e.u64(field::TOPIC)?.str(topic.as_str())?;
    }
    Ok(())
}

fn pairs(message: &Message, topic: Option<&Topic>) -> u64 {
    let optional = [
        message.key.is_some(),
        matches!(message.kind, Kind::Put | Kind::Request),
        written_ttl(message).is_some(),
        message.origin.is_some(),
        written_sequence(message).is_some(),
        message.version.is_some(),
        message.content_type.is_some(),
        message.schema().is_some(),
        message.trace_parent().is_some(),
        topic.is_some(),
        message.sent().is_some(),
        message.sent().is_some_and(|sent| sent.age().is_some()),
    ];
    2 + optional.into_iter().map(u64::from).sum::<u64>()
}

/// The TTL, where the message has a value that it can belong to: readers refuse one elsewhere.
fn written_ttl(message: &Message) -> Option<Ttl> {
    message.ttl.filter(|_| matches!(message.kind, Kind::Put | Kind::Touch))
}

/// The sequence, which a request has not: a heartbeat with one tells of messages.
fn written_sequence(message: &Message) -> Option<NonZeroU64> {
    message.sequence.filter(|_| message.kind != Kind::Request)
}

fn kind_number(kind: Kind) -> u64 {
    let written = if kind == Kind::Request { Kind::Heartbeat } else { kind };
    KINDS.iter().position(|known| *known == written).map_or(u64::MAX, |number| number as u64)
}

/// Whether `body` is one CBOR map that a request may have.
pub(crate) fn is_request(body: &[u8]) -> bool {
    let is_map = matches!(Decoder::new(body).map(), Ok(Some(_)));
    is_map && body.len() <= MAX_REQUEST_BYTES && check_well_formed(body).is_ok()
}

fn version_field(domain: VersionDomain) -> u64 {
    match domain {
        VersionDomain::Clock => field::CLOCK_VERSION,
        VersionDomain::Caller => field::CALLER_VERSION,
    }
}

/// Reads the envelope in `bytes`, which the payload goes on to share.
///
/// # Errors
/// A [`Rejection`] says which rule is broken, and whose message it was where that is readable.
/// At most the key is allocated, whatever lengths the bytes declare.
pub fn decode(bytes: &Bytes) -> Result<Envelope, Rejection> {
    let mut fields = Fields::default();
    match fields.read(bytes) {
        Ok(()) => fields.into_envelope(),
        Err(reason) => Err(fields.reject(reason)),
    }
}

/// What has been read so far. The first rule broken inside a field is kept while the structure is
/// read to its end, because the position of a rejected message still counts.
#[derive(Default)]
struct Fields {
    seen: u64,
    kind: Option<Kind>,
    key: Option<Key>,
    payload: Option<Bytes>,
    ttl: Option<Ttl>,
    origin: Option<Origin>,
    sequence: Option<NonZeroU64>,
    version: Option<(VersionDomain, u64)>,
    content_type: Option<ContentType>,
    rare: Option<Box<Rare>>,
    topic: Option<Topic>,
    request: Option<Bytes>,
    elapsed: Option<u64>,
    age: Option<u64>,
    broken: Option<RejectionReason>,
}

impl Fields {
    fn read(&mut self, bytes: &Bytes) -> Result<(), RejectionReason> {
        let mut d = Decoder::new(bytes);
        let pairs = match d.map() {
            Ok(Some(pairs)) => pairs,
            Ok(None) => return Err(RejectionReason::Malformed("an indefinite length")),
            Err(_) => return Err(RejectionReason::NotAnEnvelope),
        };
        if pairs == 0 || d.u64().ok() != Some(field::VERSION) {
            return Err(RejectionReason::NotAnEnvelope);
        }
        match d.u64()? {
            VERSION => self.seen = 1,
            other => return Err(RejectionReason::UnknownWireVersion(other)),
        }
        for _ in 1..pairs {
            self.read_field(&mut d, bytes)?;
        }
        if d.position() == bytes.len() { Ok(()) } else { Err(RejectionReason::TrailingBytes) }
    }

    fn read_field(&mut self, d: &mut Decoder<'_>, bytes: &Bytes) -> Result<(), RejectionReason> {
        let number = d.u64()?;
        if let Some(bit) = 1_u64.checked_shl(u32::try_from(number).unwrap_or(u32::MAX)) {
            if self.seen & bit != 0 {
                return Err(RejectionReason::DuplicateField(number));
            }
            self.seen |= bit;
        }
        match number {
            field::KIND => {
                let kind = d.u64()?;
                self.kind = usize::try_from(kind).ok().and_then(|kind| KINDS.get(kind)).copied();
                self.note(self.kind.is_none(), RejectionReason::UnknownKind(kind));
            }
            field::KEY => {
                self.key = Key::new(d.str()?).ok();
                self.note(self.key.is_none(), RejectionReason::InvalidField("key"));
            }
            field::PAYLOAD => {
                let length = d.bytes()?.len();
                self.payload = Some(bytes.slice(d.position() - length..d.position()));
            }
            field::TTL => self.read_ttl(d)?,
            field::ORIGIN => {
                self.origin = Origin::from_u64(d.u64()?);
                self.note(self.origin.is_none(), RejectionReason::InvalidField("origin"));
            }
            field::SEQUENCE => {
                self.sequence = NonZeroU64::new(d.u64()?);
                self.note(self.sequence.is_none(), RejectionReason::InvalidField("sequence"));
            }
            field::CLOCK_VERSION => self.read_version(d, VersionDomain::Clock)?,
            field::CALLER_VERSION => self.read_version(d, VersionDomain::Caller)?,
            _ => self.read_rare_field(number, d, bytes)?,
        }
        Ok(())
    }

    fn read_rare_field(
        &mut self,
        number: u64,
        d: &mut Decoder<'_>,
        bytes: &Bytes,
    ) -> Result<(), RejectionReason> {
        match number {
            field::CONTENT_TYPE => {
                self.content_type = ContentType::new(d.str()?).ok();
                let broken = self.content_type.is_none();
                self.note(broken, RejectionReason::InvalidField("content type"));
            }
            field::SCHEMA => self.rare.get_or_insert_default().schema = Some(d.u64()?),
            field::TRACE_PARENT => {
                let trace_parent = d.str()?.parse().ok();
                self.note(trace_parent.is_none(), RejectionReason::InvalidField("traceparent"));
                self.rare.get_or_insert_default().trace_parent = trace_parent;
            }
            field::TOPIC => {
                self.topic = Topic::new(d.str()?).ok();
                self.note(self.topic.is_none(), RejectionReason::InvalidField("topic"));
            }
            // Something else in these fields is ignored, as by readers that do not know them.
            field::ELAPSED if is_uint(d) => self.elapsed = Some(d.u64()?),
            field::AGE if is_uint(d) => self.age = Some(d.u64()?),
            unknown => {
                // Skipped, but never trusted: a length or depth bomb stops here.
                let begin = d.position();
                let length = well_formed::item_length(&bytes[begin..], MAX_DEPTH)?;
                d.set_position(begin + length);
                if unknown == field::REQUEST {
                    self.request = Some(bytes.slice(begin..begin + length));
                }
                self.note(unknown == field::CHUNK, RejectionReason::ChunkUnsupported);
            }
        }
        Ok(())
    }

    fn read_ttl(&mut self, d: &mut Decoder<'_>) -> Result<(), RejectionReason> {
        match d.array()? {
            Some(2) => {}
            Some(_) => return Err(RejectionReason::InvalidField("ttl")),
            None => return Err(RejectionReason::Malformed("an indefinite length")),
        }
        self.ttl = Ttl::from_micros(d.u64()?, d.u64()?).ok();
        self.note(self.ttl.is_none(), RejectionReason::InvalidField("ttl"));
        Ok(())
    }

    fn read_version(
        &mut self,
        d: &mut Decoder<'_>,
        domain: VersionDomain,
    ) -> Result<(), RejectionReason> {
        let number = d.u64()?;
        self.note(self.version.is_some(), RejectionReason::InvalidField("version"));
        self.version = Some((domain, number));
        Ok(())
    }

    fn note(&mut self, broken: bool, reason: RejectionReason) {
        if broken && self.broken.is_none() {
            self.broken = Some(reason);
        }
    }

    fn reject(self, reason: RejectionReason) -> Rejection {
        Rejection::new(reason).with_sender(self.origin, self.sequence).with_key(self.key)
    }

    fn into_envelope(mut self) -> Result<Envelope, Rejection> {
        match self.broken.take().or_else(|| self.broken_rule()) {
            Some(reason) => Err(self.reject(reason)),
            None => Ok(self.assemble()),
        }
    }

    /// The first rule of its kind that the message breaks: a part that is missing, or one that
    /// does not belong there and might mean something that this version does not know.
    fn broken_rule(&self) -> Option<RejectionReason> {
        const KEY: (u64, &str) = (field::KEY, "key");
        const PAYLOAD: (u64, &str) = (field::PAYLOAD, "payload");
        const TTL: (u64, &str) = (field::TTL, "ttl");
        const ORIGIN: (u64, &str) = (field::ORIGIN, "origin");
        let Some(kind) = self.kind else {
            return Some(RejectionReason::MissingField("kind"));
        };
        let (needed, forbidden): (&[_], &[_]) = match kind {
            Kind::Put => (&[KEY, PAYLOAD], &[]),
            Kind::Remove => (&[KEY], &[PAYLOAD, TTL]),
            Kind::Clear => (&[], &[KEY, PAYLOAD, TTL]),
            Kind::Touch => (&[KEY, TTL], &[PAYLOAD]),
            Kind::Heartbeat | Kind::Request => (&[ORIGIN], &[KEY, PAYLOAD, TTL]),
        };
        let seen = |(number, _): &&(u64, &str)| self.seen & (1 << number) != 0;
        if let Some((_, name)) = needed.iter().find(|field| !seen(field)) {
            return Some(RejectionReason::MissingField(name));
        }
        if let Some((_, name)) = forbidden.iter().find(seen) {
            return Some(RejectionReason::InvalidField(name));
        }
        let numbered_by_nobody = self.sequence.is_some() && self.origin.is_none();
        numbered_by_nobody.then_some(RejectionReason::MissingField("origin"))
    }

    /// A heartbeat without a sequence is a request if it has the body of one.
    fn recognise_request(&mut self) {
        let is_probe = self.kind == Some(Kind::Heartbeat) && self.sequence.is_none();
        let request = self.request.take().filter(|body| is_probe && is_request(body));
        if request.is_some() {
            (self.kind, self.payload) = (Some(Kind::Request), request);
        }
    }

    fn assemble(mut self) -> Envelope {
        self.recognise_request();
        let origin = self.origin;
        let sent = self.elapsed.map(|elapsed| Sent::from_micros(elapsed, self.age));
        let version = self.version.map(|(domain, number)| match domain {
            VersionDomain::Clock => Version::clock(number, origin),
            VersionDomain::Caller => Version::caller(number),
        });
        let message = Message {
            kind: self.kind.expect("broken_rule requires a kind"),
            key: self.key,
            payload: self.payload.unwrap_or_default(),
            ttl: self.ttl,
            version,
            origin,
            sequence: self.sequence,
            content_type: self.content_type,
            dating: sent.map_or(Dating::None, Dating::Sent),
            rare: self.rare,
        };
        Envelope { message, topic: self.topic }
    }
}

/// Whether an unsigned integer is next.
fn is_uint(d: &Decoder<'_>) -> bool {
    use minicbor::data::Type;
    matches!(d.datatype(), Ok(Type::U8 | Type::U16 | Type::U32 | Type::U64))
}

impl From<minicbor::decode::Error> for RejectionReason {
    fn from(error: minicbor::decode::Error) -> Self {
        if error.is_end_of_input() {
            Self::Truncated
        } else {
            Self::Malformed("a field of another type than the specification says")
        }
    }
}
