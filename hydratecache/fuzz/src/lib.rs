//! What the fuzz targets and their seeds share.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use hydratecache::codec::{Cbor, Codec};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// An enum with every kind of variant.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Shape {
    Unit,
    New(i64),
    Pair(u8, String),
    Named { a: Option<bool>, b: f64 },
}

/// A struct with every kind of field.
#[derive(Debug, Serialize, Deserialize)]
pub struct Everything {
    pub unsigned: u64,
    pub signed: i64,
    pub small: i8,
    pub single: f32,
    pub double: f64,
    pub text: String,
    pub letter: char,
    pub nothing: (),
    pub maybe: Option<Option<u16>>,
    pub list: Vec<Shape>,
    pub map: BTreeMap<String, u32>,
    pub numbered: BTreeMap<u8, ()>,
    pub pair: (u8, bool),
    pub wide: i128,
    #[serde(default)]
    pub later: Option<String>,
}

/// An enum that is told apart by what decodes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Anything {
    Nothing(()),
    Flag(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(String),
    List(Vec<Anything>),
    Map(BTreeMap<String, Anything>),
}

/// An enum whose tag is one of its fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum Tagged {
    Point { x: f32, y: i16 },
    Label { text: String },
}

/// A struct that keeps the fields it does not know.
#[derive(Debug, Serialize, Deserialize)]
pub struct Flattened {
    pub id: u32,
    #[serde(flatten)]
    pub rest: BTreeMap<String, Anything>,
}

/// Panics if the codec reads another value than ciborium alone, or if the fast decoder does where
/// the codec accepts.
pub fn agree<T: Serialize + DeserializeOwned + Debug + 'static>(payload: &Bytes) {
    let Ok(ours) = Codec::<T>::decode(&Cbor, payload) else {
        return;
    };
    let fast: Option<T> = cbor4ii::serde::from_slice(payload).ok();
    let judge: Option<T> = ciborium::de::from_reader_with_recursion_limit(&payload[..], 64).ok();
    // Their text, because NaN does not equal itself.
    let ours = format!("{ours:?}");
    for other in [fast, judge].into_iter().flatten() {
        assert_eq!(ours, format!("{other:?}"), "{payload:02x?}");
    }
}
