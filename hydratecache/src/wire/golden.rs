//! The golden vectors of `docs/WIRE.md`, each field and each reason compared.

use std::collections::BTreeSet;

use bytes::Bytes;
use serde::Deserialize;

use super::{Envelope, Rejection, RejectionReason, decode, encode};
use crate::{Kind, VersionDomain};

#[derive(Deserialize)]
struct Golden {
    version: u64,
    accept: Vec<Accept>,
    reject: Vec<Reject>,
}

#[derive(Deserialize)]
struct Accept {
    name: String,
    hex: String,
    canonical: bool,
    message: Meaning,
}

#[derive(Deserialize)]
struct Reject {
    name: String,
    hex: String,
    reason: String,
    detail: Option<String>,
}

/// What an envelope says, as the vectors spell it: numbers in decimal, the payload in hex.
#[derive(Deserialize, Debug, PartialEq)]
struct Meaning {
    kind: String,
    key: Option<String>,
    payload_hex: Option<String>,
    ttl: Option<TtlParts>,
    origin: Option<String>,
    sequence: Option<String>,
    clock_version: Option<String>,
    caller_version: Option<String>,
    content_type: Option<String>,
    schema: Option<String>,
    traceparent: Option<String>,
    topic: Option<String>,
    request_hex: Option<String>,
    elapsed_us: Option<String>,
    age_us: Option<String>,
}

#[derive(Deserialize, Debug, PartialEq)]
struct TtlParts {
    start_us: String,
    duration_us: String,
}

impl Meaning {
    fn of(Envelope { message, topic }: &Envelope) -> Self {
        let version = |domain| {
            let version = message.version().filter(|version| version.domain() == domain);
            version.map(|version| version.number().to_string())
        };
        let ttl = message.ttl().map(|ttl| {
            let (start, duration) = ttl.to_micros();
            TtlParts { start_us: start.to_string(), duration_us: duration.to_string() }
        });
        let body_of = |kind| (message.kind() == kind).then(|| to_hex(message.payload()));
        let sent = message.sent();
        Self {
            kind: format!("{:?}", message.kind()).to_lowercase(),
            key: message.key().map(|key| key.as_str().to_owned()),
            payload_hex: body_of(Kind::Put),
            ttl,
            origin: message.origin().map(|origin| origin.get().to_string()),
            sequence: message.sequence().map(|sequence| sequence.to_string()),
            clock_version: version(VersionDomain::Clock),
            caller_version: version(VersionDomain::Caller),
            content_type: message.content_type().map(|name| name.as_str().to_owned()),
            schema: message.schema().map(|schema| schema.to_string()),
            traceparent: message.trace_parent().map(|trace| trace.as_str().to_owned()),
            topic: topic.as_ref().map(|topic| topic.as_str().to_owned()),
            request_hex: body_of(Kind::Request),
            elapsed_us: sent.map(|sent| sent.elapsed().as_micros().to_string()),
            age_us: sent.and_then(crate::Sent::age).map(|age| age.as_micros().to_string()),
        }
    }
}

/// The vectors' name of a reason with its detail; `None` for what decoding never reports. A new
/// reason does not compile until it is placed here, and then needs a vector.
fn name(reason: &RejectionReason) -> Option<(&'static str, Option<String>)> {
    Some(match reason {
        RejectionReason::NotAnEnvelope => ("not-an-envelope", None),
        RejectionReason::UnknownWireVersion(version) => {
            ("unknown-wire-version", Some(version.to_string()))
        }
        RejectionReason::Truncated => ("truncated", None),
        RejectionReason::TrailingBytes => ("trailing-bytes", None),
        RejectionReason::Malformed(_) => ("malformed", None),
        RejectionReason::TooDeep => ("too-deep", None),
        RejectionReason::DuplicateField(number) => ("duplicate-field", Some(number.to_string())),
        RejectionReason::UnknownKind(kind) => ("unknown-kind", Some(kind.to_string())),
        RejectionReason::MissingField(name) => ("missing-field", Some((*name).to_owned())),
        RejectionReason::InvalidField(name) => ("invalid-field", Some((*name).to_owned())),
        RejectionReason::ChunkUnsupported => ("chunk-unsupported", None),
        RejectionReason::TooLarge { .. }
        | RejectionReason::WrongTopic
        | RejectionReason::Undecodable(_)
        | RejectionReason::WrongVersionDomain { .. }
        | RejectionReason::VersionFromTheFuture => return None,
    })
}

/// Every name that [`name`] can give.
const REASONS: [&str; 11] = [
    "not-an-envelope",
    "unknown-wire-version",
    "truncated",
    "trailing-bytes",
    "malformed",
    "too-deep",
    "duplicate-field",
    "unknown-kind",
    "missing-field",
    "invalid-field",
    "chunk-unsupported",
];

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/envelope-v1.json")).expect("the vectors are JSON")
}

fn from_hex(hex: &str) -> Bytes {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn rejection(hex: &str) -> Option<Rejection> {
    decode(&from_hex(hex)).err()
}

#[test]
fn every_accepted_vector_means_what_it_says() {
    let golden = golden();
    assert_eq!(golden.version, super::VERSION);
    assert!(golden.accept.len() >= 150, "{} vectors", golden.accept.len());
    for vector in golden.accept {
        let envelope = decode(&from_hex(&vector.hex)).expect(&vector.name);
        assert_eq!(Meaning::of(&envelope), vector.message, "{}", vector.name);
    }
}

#[test]
fn exactly_the_canonical_vectors_are_encoded_byte_for_byte() {
    for vector in golden().accept {
        let envelope = decode(&from_hex(&vector.hex)).expect(&vector.name);
        let encoded = encode(&envelope.message, envelope.topic.as_ref());
        assert_eq!(to_hex(&encoded) == vector.hex, vector.canonical, "{}", vector.name);
        assert_eq!(decode(&encoded).expect(&vector.name), envelope, "{}", vector.name);
    }
}

#[test]
fn every_rejected_vector_is_rejected_for_its_reason() {
    for vector in golden().reject {
        let rejection = rejection(&vector.hex).unwrap_or_else(|| panic!("{}", vector.name));
        let (reason, detail) = name(rejection.reason()).expect("decoding gives reasons with names");
        assert_eq!((reason, detail), (&*vector.reason, vector.detail), "{}", vector.name);
    }
}

#[test]
fn every_reason_that_decoding_can_give_has_a_vector() {
    let vectors = golden().reject;
    let covered: BTreeSet<&str> = vectors.iter().map(|vector| &*vector.reason).collect();
    assert_eq!(covered, BTreeSet::from(REASONS));
}

#[test]
fn a_rejection_names_key_and_position_where_they_are_readable() {
    // An unknown kind of key "k", origin 5 and sequence 6.
    let rejection = rejection("a5000101182a02616b05050606").expect("rejected");
    assert_eq!(rejection.key().expect("readable").as_str(), "k");
    let position = rejection.position().expect("readable");
    assert_eq!((position.origin.get(), position.sequence.get()), (5, 6));
}

#[test]
fn a_ttl_that_a_removal_cannot_have_is_not_written() {
    let ttl = crate::Ttl::starting_now(std::time::Duration::from_secs(1)).expect("legal");
    let removal = crate::Message::remove(crate::Key::new("k").expect("legal"));
    let encoded = encode(&removal.clone().with_ttl(ttl), None);
    assert_eq!(decode(&encoded).expect("readers accept it").message, removal);
}
