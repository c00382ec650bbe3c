//! The examples that another language's tests can read: each is decoded, and what is canonical is
//! written again.

use super::*;
use crate::partition::partition_of;
use crate::topic_name::kafka_name;
use hydratecache::Topic;
use serde_json::Value;

fn golden() -> Value {
    serde_json::from_str(include_str!("golden-v1.json")).expect("the file is JSON")
}

fn rows<'a>(golden: &'a Value, part: &str) -> &'a [Value] {
    golden[part].as_array().expect("a list")
}

fn bytes(hex: &Value) -> Option<Vec<u8>> {
    let hex = hex.as_str()?;
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
    Some((0..hex.len()).step_by(2).map(byte).collect())
}

fn pairs(row: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let headers = row["headers"].as_array().expect("a list");
    headers.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect()
}

fn read(row: &Value) -> Arrival {
    let add = |all: OwnedHeaders, (name, value): &(String, String)| {
        all.insert(Header { key: name, value: Some(value) })
    };
    let headers = pairs(row).iter().fold(OwnedHeaders::new(), add);
    let (key, value) = (bytes(&row["key_hex"]), bytes(&row["value_hex"]));
    decode(key.as_deref(), value.as_deref(), Some(&headers), 1 << 20).arrival
}

/// The message in the file's own words.
fn told(message: &Message) -> Value {
    let mut told = serde_json::json!({ "kind": format!("{:?}", message.kind()).to_lowercase() });
    let mut tell = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            told[name] = value.into();
        }
    };
    tell("key", message.key().map(ToString::to_string));
    let hex = message.payload().iter().fold(String::new(), |all, byte| format!("{all}{byte:02x}"));
    tell("payload_hex", (message.kind() == Kind::Put).then_some(hex.clone()));
    tell("request_hex", (message.kind() == Kind::Request).then_some(hex));
    tell("origin", message.origin().map(|origin| origin.get().to_string()));
    tell("sequence", message.sequence().map(|sequence| sequence.to_string()));
    let version = message.version();
    let of = |domain| version.filter(|version| version.domain() == domain);
    tell("clock_version", of(VersionDomain::Clock).map(|version| version.number().to_string()));
    tell("caller_version", of(VersionDomain::Caller).map(|version| version.number().to_string()));
    tell("content_type", message.content_type().map(|name| name.as_str().to_owned()));
    tell("schema", message.schema().map(|schema| schema.to_string()));
    tell("traceparent", message.trace_parent().map(|parent| parent.as_str().to_owned()));
    if let Some(ttl) = message.ttl() {
        let start = ttl.start().duration_since(UNIX_EPOCH).expect("after 1970");
        told["ttl"] = serde_json::json!({
            "start_us": start.as_micros().to_string(),
            "duration_us": ttl.duration().as_micros().to_string(),
        });
    }
    if let Some(sent) = message.sent() {
        told["elapsed_us"] = sent.elapsed().as_micros().to_string().into();
        if let Some(age) = sent.age() {
            told["age_us"] = age.as_micros().to_string().into();
        }
    }
    told
}

#[test]
fn every_accepted_record_is_read_as_written_and_canonical_ones_are_written_so() {
    let golden = golden();
    for row in rows(&golden, "accept") {
        let name = &row["name"];
        let message = read(row).unwrap_or_else(|why| panic!("{name} is rejected: {why}"));
        assert_eq!(told(&message), row["message"], "{name}");
        if row["canonical"] != true {
            continue;
        }
        let number = message.sequence().map(NonZeroU64::get);
        let record = encode(&message, Addressed { number, copy: None });
        assert_eq!(Some(record.key), bytes(&row["key_hex"]), "{name}");
        assert_eq!(record.value.map(|value| value.to_vec()), bytes(&row["value_hex"]), "{name}");
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).expect("text");
        let written: Vec<_> = record
            .headers
            .iter()
            .map(|header| (header.key.to_owned(), text(header.value.unwrap_or_default())))
            .collect();
        assert_eq!(written, pairs(row), "{name}");
    }
}

#[test]
fn every_rejected_record_is_rejected_for_its_reason() {
    let golden = golden();
    for row in rows(&golden, "reject") {
        let rejection = read(row).expect_err(&row["name"].to_string());
        let reason = match rejection.reason() {
            RejectionReason::InvalidField(_) => "invalid-field",
            RejectionReason::MissingField(_) => "missing-field",
            RejectionReason::UnknownWireVersion(_) => "unknown-wire-version",
            other => panic!("{}: {other}", row["name"]),
        };
        assert_eq!(reason, row["reason"], "{}", row["name"]);
    }
}

#[test]
fn names_and_partitions_are_as_specified() {
    let golden = golden();
    for row in rows(&golden, "names") {
        let topic = Topic::new(row["topic"].as_str().expect("text")).expect("legal");
        assert_eq!(kafka_name(&topic), row["kafka"]);
    }
    for row in rows(&golden, "partitions") {
        let key = row["key"].as_str().expect("text").as_bytes();
        assert_eq!(
            partition_of(key, 12) as u64,
            row["partition_of_12"].as_u64().expect("a number")
        );
    }
}
