//! Every accepted envelope is encoded to bytes that mean the same and are no longer.

#![no_main]

use bytes::Bytes;
use hydratecache::wire;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let received = Bytes::copy_from_slice(bytes);
    let Ok(envelope) = wire::decode(&received) else {
        return;
    };
    let encoded = wire::encode(&envelope.message, envelope.topic.as_ref());
    assert_eq!(
        wire::decode(&encoded).expect("own bytes are accepted"),
        envelope
    );
    assert!(
        encoded.len() <= received.len(),
        "deterministic encoding is the shortest"
    );
});
