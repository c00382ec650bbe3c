//! The default codec: CBOR through serde.

use std::cell::Cell;

use bytes::Bytes;
use cbor4ii::core::dec::Read as _;
use cbor4ii::core::utils::SliceReader;
use ciborium::de::Error as CiboriumError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, decode_error, encode_error, without_payload};
use crate::Result;
use crate::message::ContentType;
use crate::wire::{MAX_DEPTH, check_well_formed};

/// CBOR through serde, as ciborium writes it. The default.
///
/// Decoding checks depth and declared lengths first, then tries `cbor4ii`, which is two to three
/// times as fast; whatever that refuses (short floats, for one), ciborium judges. A property test
/// shows that the two never disagree on what both accept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cbor;

thread_local! {
    /// Where values are encoded, so that a payload takes one allocation of its own size.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The room of a larger value is given back, in bytes.
const KEPT_SCRATCH: usize = 64 << 10;

impl<T: Serialize + DeserializeOwned + 'static> Codec<T> for Cbor {
    fn encode(&self, value: &T) -> Result<Bytes> {
        // Taken, not borrowed: a value whose own serialization encodes another finds none.
        let mut scratch = SCRATCH.take();
        scratch.clear();
        let encoded = ciborium::into_writer(value, &mut scratch)
            .map(|()| Bytes::copy_from_slice(&scratch))
            .map_err(|error| encode_error::<T>().with_source(error.to_string()));
        if scratch.capacity() <= KEPT_SCRATCH {
            SCRATCH.set(scratch);
        }
        encoded
    }

    fn decode(&self, payload: &Bytes) -> Result<T> {
        check_well_formed(payload).map_err(|why| decode_error::<T>(&why.to_string()))?;
        match fast(payload) {
            Some(value) => Ok(value),
            None => judge(payload),
        }
    }

    fn content_type(&self) -> Option<ContentType> {
        None
    }
}

fn fast<T: DeserializeOwned>(payload: &[u8]) -> Option<T> {
    let mut deserializer = cbor4ii::serde::Deserializer::new(SliceReader::new(payload));
    let value = T::deserialize(&mut deserializer).ok()?;
    let mut reader = deserializer.into_inner();
    let Ok(rest) = reader.fill(1);
    rest.as_ref().is_empty().then_some(value)
}

/// Depth is limited a second time, because ciborium recurses in more places than the data nests.
///
/// Both decoders pass over what a value does not ask for: the data of a variant that has none, the
/// end of an array that is longer than its tuple. Bytes that are left over tell.
fn judge<T: DeserializeOwned>(payload: &[u8]) -> Result<T> {
    let mut rest = payload;
    match ciborium::de::from_reader_with_recursion_limit(&mut rest, MAX_DEPTH * 2) {
        Ok(value) if rest.is_empty() => Ok(value),
        Ok(_) => Err(decode_error::<T>("it holds more than that")),
        Err(CiboriumError::Syntax(offset)) => {
            Err(decode_error::<T>(&format!("no CBOR at byte {offset}")))
        }
        Err(CiboriumError::Semantic(_, message)) => {
            Err(decode_error::<T>(without_payload(&message)))
        }
        Err(CiboriumError::RecursionLimitExceeded) => Err(decode_error::<T>("it nests too deep")),
        Err(CiboriumError::Io(_)) => Err(decode_error::<T>("it ends early")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Debug;

    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(i64),
        Pair(u8, String),
        Named { a: Option<bool>, b: f64 },
    }

    #[expect(clippy::option_option, clippy::zero_sized_map_values, reason = "serde allows them")]
    #[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
    struct Everything {
        unsigned: u64,
        signed: i64,
        small: i8,
        single: f32,
        double: f64,
        text: String,
        letter: char,
        maybe: Option<Option<u16>>,
        list: Vec<Shape>,
        map: BTreeMap<String, u32>,
        numbered: BTreeMap<u8, ()>,
        pair: (u8, bool),
        wide: i128,
    }

    fn shape() -> impl Strategy<Value = Shape> {
        prop_oneof![
            Just(Shape::Unit),
            any::<i64>().prop_map(Shape::New),
            any::<(u8, String)>().prop_map(|(a, b)| Shape::Pair(a, b)),
            (any::<Option<bool>>(), -1e300_f64..1e300).prop_map(|(a, b)| Shape::Named { a, b }),
        ]
    }

    fn everything() -> impl Strategy<Value = Everything> {
        let numbers = (any::<u64>(), any::<i64>(), any::<i8>(), -1e30_f32..1e30, -1e300_f64..1e300);
        let texts = (any::<String>(), any::<char>(), any::<Option<u16>>());
        let nested = (
            prop::collection::vec(shape(), 0..4),
            prop::collection::btree_map(any::<String>(), any::<u32>(), 0..4),
            prop::collection::btree_map(any::<u8>(), Just(()), 0..4),
        );
        (numbers, texts, nested, any::<((u8, bool), i128)>()).prop_map(|(n, t, c, p)| Everything {
            unsigned: n.0,
            signed: n.1,
            small: n.2,
            single: n.3,
            double: n.4,
            text: t.0,
            letter: t.1,
            maybe: t.2.map(Some),
            list: c.0,
            map: c.1,
            numbered: c.2,
            pair: p.0,
            wide: p.1,
        })
    }

    /// Whether both decoders accept `payload` and disagree on what it says. As text, for no NaN equals another.
    fn disagree<T: DeserializeOwned + Debug>(payload: &[u8]) -> bool {
        let fast: Option<T> = fast(payload);
        let judge: Option<T> = judge(payload).ok();
        differ(fast, judge)
    }

    fn differ<T: Debug>(fast: Option<T>, judge: Option<T>) -> bool {
        let text = |value: Option<T>| value.map(|it| format!("{it:?}"));
        matches!((text(fast), text(judge)), (Some(fast), Some(judge)) if fast != judge)
    }

    #[test]
    fn a_number_that_is_none_is_no_disagreement_and_another_number_is() {
        let not_a_number = [&[0xfb][..], &f64::NAN.to_be_bytes()].concat();
        assert!(fast::<f64>(&not_a_number).is_some_and(f64::is_nan));
        assert!(!disagree::<f64>(&not_a_number));
        assert!(differ(Some(f64::NAN), Some(1.0)) && differ(Some(1), Some(2)));
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Anything {
        Unsigned(u64),
        Signed(i64),
        Flag(bool),
        Text(String),
        List(Vec<Anything>),
        Map(BTreeMap<String, Anything>),
    }

    proptest! {
        #[test]
        fn every_value_comes_back(value in everything()) {
            let payload = Codec::<Everything>::encode(&Cbor, &value).expect("encodes");
            prop_assert_eq!(Codec::<Everything>::decode(&Cbor, &payload).expect("decodes"), value);
        }

        #[test]
        fn the_fast_decoder_and_the_judge_never_disagree_on_values(value in everything(), flip in any::<(prop::sample::Index, u8)>()) {
            let mut payload = Vec::new();
            ciborium::into_writer(&value, &mut payload).expect("encodes");
            prop_assert!(!disagree::<Everything>(&payload));
            let index = flip.0.index(payload.len());
            payload[index] ^= flip.1;
            if check_well_formed(&payload).is_ok() {
                prop_assert!(!disagree::<Everything>(&payload), "{:02x?}", payload);
                prop_assert!(!disagree::<Anything>(&payload), "{:02x?}", payload);
            }
        }

        #[test]
        fn the_two_never_disagree_on_garbage(payload in prop::collection::vec(any::<u8>(), 1..24)) {
            if check_well_formed(&payload).is_ok() {
                prop_assert!(!disagree::<Anything>(&payload), "{:02x?}", payload);
                prop_assert!(!disagree::<(u64, String)>(&payload), "{:02x?}", payload);
                prop_assert!(!disagree::<Option<i32>>(&payload), "{:02x?}", payload);
                prop_assert!(!disagree::<f64>(&payload), "{:02x?}", payload);
                prop_assert!(!disagree::<Shape>(&payload), "{:02x?}", payload);
            }
        }
    }

    #[test]
    fn an_error_names_the_type_and_not_the_payload() {
        let payload = Codec::<String>::encode(&Cbor, &"secret-value".to_owned()).expect("encodes");
        let error = Codec::<u64>::decode(&Cbor, &payload).expect_err("another type");
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("u64") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_payload_that_holds_more_than_the_type_is_refused() {
        let data_for_a_unit = Bytes::from_static(b"\xa1\x64Unit\x05");
        assert!(Codec::<Shape>::decode(&Cbor, &data_for_a_unit).is_err());
        let three = Bytes::from_static(&[0x83, 1, 2, 3]);
        assert!(Codec::<(u8, u8)>::decode(&Cbor, &three).is_err());
        assert_eq!(Codec::<(u8, u8, u8)>::decode(&Cbor, &three).expect("fits"), (1, 2, 3));
    }

    #[test]
    fn bombs_are_refused() {
        let deep = Bytes::from([vec![0x81; 100_000], vec![0]].concat());
        let long = Bytes::from_static(&[0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]);
        for payload in [deep, long] {
            assert!(Codec::<Vec<u8>>::decode(&Cbor, &payload).is_err());
            assert!(Codec::<ciborium::Value>::decode(&Cbor, &payload).is_err());
        }
    }
}
