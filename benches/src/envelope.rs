//! The envelope of a typical message, and what it is measured by: the same map read with ciborium
//! and serde.

use std::fmt;

use anyhow::{Context, Result};
use bytes::Bytes;
use hydratecache::{Key, Message, Origin, Position, Ttl, Version, wire};
use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use std::num::NonZeroU64;
use std::time::Duration;

/// The envelope of a put with 256 bytes of payload, a TTL, and a version of the clock.
///
/// # Errors
/// None in practice.
pub fn typical() -> Result<Bytes> {
    let origin = Origin::from_u64(0x5eed_5eed_5eed_5eed).context("not zero")?;
    let sequence = NonZeroU64::new(123_456).context("not zero")?;
    let message = Message::put(Key::new("product:5000")?, vec![7; 256].into())
        .with_ttl(Ttl::starting_now(Duration::from_secs(1800))?)
        .with_position(Position { origin, sequence })
        .with_version(Version::clock(1_790_000_000_000 << 16, Some(origin)));
    Ok(wire::encode(&message, None))
}

/// The same map as a serde struct, as one would write it by hand.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BySerde {
    kind: u64,
    key: String,
    payload: Payload,
    ttl: Option<(u64, u64)>,
    origin: Option<u64>,
    sequence: Option<u64>,
    version: Option<u64>,
}

/// Bytes, which serde takes for a list of numbers unless told otherwise.
#[derive(Debug, Default, PartialEq, Eq)]
struct Payload(Vec<u8>);

impl BySerde {
    /// Reads `bytes`.
    ///
    /// # Errors
    /// If they are no such map.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        Ok(ciborium::from_reader(bytes)?)
    }

    /// The payload, copied.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload.0
    }
}

/// The same map as a tree of values.
///
/// # Errors
/// If the bytes are no CBOR.
pub fn decode_tree(bytes: &[u8]) -> Result<ciborium::Value> {
    Ok(ciborium::from_reader(bytes)?)
}

impl<'de> Deserialize<'de> for BySerde {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = BySerde;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an envelope")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BySerde, A::Error> {
        let mut read = BySerde::default();
        while let Some(field) = map.next_key::<u64>()? {
            match field {
                1 => read.kind = map.next_value()?,
                2 => read.key = map.next_value()?,
                3 => read.payload = map.next_value()?,
                4 => read.ttl = map.next_value()?,
                5 => read.origin = map.next_value()?,
                6 => read.sequence = map.next_value()?,
                7 => read.version = map.next_value()?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(read)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_byte_buf(Self::default())
    }
}

impl Visitor<'_> for Payload {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self, E> {
        Ok(Self(bytes.to_owned()))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Self, E> {
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_read_the_same_message() {
        let bytes = typical().expect("an envelope");
        let ours = wire::decode(&bytes).expect("decodes").message;
        let by_serde = BySerde::decode(&bytes).expect("decodes");
        assert_eq!(ours.key().map(Key::as_str), Some(by_serde.key.as_str()));
        assert_eq!(&ours.payload()[..], by_serde.payload());
        assert_eq!(ours.sequence().map(NonZeroU64::get), by_serde.sequence);
        assert!(by_serde.ttl.is_some() && by_serde.origin.is_some() && by_serde.version.is_some());
        assert!(decode_tree(&bytes).is_ok_and(|tree| tree.is_map()));
    }
}
