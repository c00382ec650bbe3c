//! The envelope that the guide explains is a golden vector.

use hydratecache_guide::blocks_of;
use serde_json::Value;

const GOLDEN: &str = include_str!("../../../hydratecache/src/wire/golden/envelope-v1.json");

/// The bytes that stand before the explanations, which two spaces set off.
fn bytes(annotated: &str) -> String {
    let bytes = annotated.lines().filter_map(|line| line.trim_start().split("  ").next());
    bytes.flat_map(|bytes| bytes.split(' ')).collect()
}

#[test]
fn the_envelope_that_is_explained_is_the_golden_vector_of_that_name() {
    let [explained] = blocks_of("wire.md", "text").try_into().expect("one envelope");
    let golden: Value = serde_json::from_str(GOLDEN).expect("the vectors are JSON");
    let vectors = golden["accept"].as_array().expect("a list");
    let vector = vectors.iter().find(|vector| vector["name"] == "put-sent").expect("it is there");
    assert_eq!(bytes(&explained), vector["hex"].as_str().expect("text"));

    // What the explanations say in other units.
    let message = &vector["message"];
    assert_eq!(message["ttl"]["start_us"], "1700000000000000"); // 2023-11-14T22:13:20Z
    assert_eq!(message["ttl"]["duration_us"], (30 * 60 * 1_000_000_u64).to_string());
    assert_eq!(message["sequence"], "42");
    assert_eq!(message["elapsed_us"], (24 * 3600 * 1_000_000_u64).to_string());
    assert_eq!(message["age_us"], "1500");
}
