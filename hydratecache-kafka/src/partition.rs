//! Which partition a key belongs to: as the Java client and librdkafka's `murmur2` decide, so that
//! foreign producers agree with us.

/// The partition of `key` among `count`, which is not zero.
pub(crate) fn partition_of(key: &[u8], count: usize) -> usize {
    // The sign is cut off, not inverted, as in Java's `Utils.toPositive`.
    (murmur2(key) & 0x7fff_ffff) as usize % count
}

/// Austin Appleby's `MurmurHash2` with the seed that Kafka took.
fn murmur2(data: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    // Kafka's clients count the length in 32 bits too.
    #[allow(clippy::cast_possible_truncation)]
    let mut hash = SEED ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> 24;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    if !rest.is_empty() {
        for (place, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * place);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ hash >> 15
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Kafka's own tests of its Java client name.
    #[test]
    fn the_hash_is_that_of_the_java_client() {
        for (data, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(data.as_bytes()).cast_signed(), expected, "{data}");
        }
    }

    #[test]
    fn every_key_has_a_partition_that_exists() {
        for count in 1..20 {
            let of = |number: i32| partition_of(number.to_string().as_bytes(), count);
            let mut hit = vec![false; count];
            (0..1000).for_each(|number| hit[of(number)] = true);
            assert!(hit.iter().all(|hit| *hit), "of {count}");
        }
    }
}
