//! The two decoders behind the default codec never disagree on what both accept, for types that
//! use every part of serde.

#![no_main]

use std::collections::BTreeMap;

use bytes::Bytes;
use hydratecache_fuzz::{Anything, Everything, Flattened, Shape, Tagged, agree};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let payload = Bytes::copy_from_slice(bytes);
    agree::<Everything>(&payload);
    agree::<Anything>(&payload);
    agree::<Flattened>(&payload);
    agree::<Vec<Tagged>>(&payload);
    agree::<Vec<Shape>>(&payload);
    agree::<BTreeMap<String, Shape>>(&payload);
    agree::<BTreeMap<u8, (i8, u16, Option<f32>)>>(&payload);
    agree::<Vec<(String, Option<Box<Shape>>)>>(&payload);
    agree::<(i128, u128, char, f64)>(&payload);
    agree::<serde_json::Value>(&payload);
    agree::<ciborium::Value>(&payload);
});
