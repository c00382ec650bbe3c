//! Writes the seed corpus: the golden vectors, and values of the types that payloads are decoded to.

use std::path::Path;
use std::{fs, io};

use hydratecache::codec::{Cbor, Codec};
use hydratecache_fuzz::{Anything, Everything, Flattened, Shape, Tagged};
use serde::Serialize;
use serde::de::DeserializeOwned;

const GOLDEN: &str = include_str!("../../src/wire/golden/envelope-v1.json");

fn main() -> io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let envelopes: Vec<Vec<u8>> = envelopes();
    write(&corpus.join("decode_envelope"), &envelopes)?;
    // An envelope is a map of everything, and so a payload worth trying.
    write(
        &corpus.join("decode_payload"),
        &[payloads(), envelopes].concat(),
    )
}

fn write(folder: &Path, seeds: &[Vec<u8>]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    for (number, seed) in seeds.iter().enumerate() {
        fs::write(folder.join(format!("seed-{number}")), seed)?;
    }
    Ok(())
}

fn envelopes() -> Vec<Vec<u8>> {
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).expect("the vectors are JSON");
    let vectors = ["accept", "reject"].map(|list| golden[list].as_array().expect("a list"));
    let hex = vectors
        .into_iter()
        .flatten()
        .map(|vector| vector["hex"].as_str().expect("text"));
    hex.map(from_hex).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex digits");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn payloads() -> Vec<Vec<u8>> {
    let shapes = vec![
        Shape::Unit,
        Shape::New(i64::MIN),
        Shape::Pair(255, "grüße".into()),
        Shape::Named {
            a: Some(true),
            b: 1e300,
        },
    ];
    let named: std::collections::BTreeMap<String, Shape> = shapes
        .iter()
        .enumerate()
        .map(|(n, shape)| (n.to_string(), shape.clone()))
        .collect();
    let optional: Vec<(String, Option<Shape>)> =
        vec![("a".into(), None), ("b".into(), Some(Shape::Unit))];
    let anything = Anything::List(vec![
        Anything::Nothing(()),
        Anything::Flag(false),
        Anything::Signed(-1),
        Anything::Float(1.1),
        Anything::Text("x".into()),
        Anything::Map([("k".to_owned(), Anything::Unsigned(u64::MAX))].into()),
    ]);
    vec![
        seed(&everything(shapes.clone())),
        seed(&shapes),
        seed(&named),
        seed(&optional),
        seed(&Flattened {
            id: 7,
            rest: [("more".to_owned(), anything)].into(),
        }),
        seed(&vec![
            Tagged::Point { x: 1.5, y: -1 },
            Tagged::Label {
                text: "here".into(),
            },
        ]),
        seed(&std::collections::BTreeMap::from([(
            1_u8,
            (-1_i8, 500_u16, Some(0.1_f32)),
        )])),
        seed(&(i128::MIN, u128::MAX, 'ß', f64::NAN)),
    ]
}

fn everything(list: Vec<Shape>) -> Everything {
    Everything {
        unsigned: u64::MAX,
        signed: i64::MIN,
        small: -128,
        single: 0.1,
        double: f64::INFINITY,
        text: "text".into(),
        letter: '🦀',
        nothing: (),
        maybe: Some(None),
        list,
        map: [("one".to_owned(), 1)].into(),
        numbered: [(1, ())].into(),
        pair: (1, true),
        wide: i128::MAX,
        later: None,
    }
}

fn seed<T: Serialize + DeserializeOwned + 'static>(value: &T) -> Vec<u8> {
    Codec::<T>::encode(&Cbor, value)
        .expect("the values are encodable")
        .to_vec()
}
