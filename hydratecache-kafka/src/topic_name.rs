//! How a topic is named at Kafka: unchanged, where Kafka takes that name.
//!
//! `docs/WIRE.md` is the specification; its examples are the tests below.

use hydratecache::Topic;

/// What stands between a name and what was changed in it. No topic contains it, because no topic has
/// an empty token between dots; Kafka allows it.
const MARK: &str = "..";

/// Topics that Kafka keeps for itself: clients may not write to them, or must not.
const KEPT: [&str; 5] = [
    "__cluster_metadata",
    "__consumer_offsets",
    "__remote_log_metadata",
    "__share_group_state",
    "__transaction_state",
];

/// The digits of the mark, five bits each (RFC 4648, section 6, in lower case).
const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The Kafka topic of `topic`: at most 242 bytes of letters, digits, `.`, `_` and `-`.
///
/// `:` becomes `-` and `/` becomes `_`; behind the mark, one bit for each `-` and `_` says whether it
/// was changed. So the name shows which topic it is, and no two topics share one.
pub(crate) fn kafka_name(topic: &Topic) -> String {
    let topic = topic.as_str();
    let is_kept = KEPT.contains(&topic);
    if !is_kept && !topic.contains([':', '/']) {
        return topic.to_owned();
    }
    let mut name = topic.replace(':', "-").replace('/', "_");
    let mut bits = topic.bytes().filter_map(|byte| match byte {
        b'-' | b'_' => Some(0_u8),
        b':' | b'/' => Some(1),
        _ => None,
    });
    name.push_str(MARK);
    while let Some(first) = bits.next() {
        let rest = (0..4).map(|_| bits.next().unwrap_or(0));
        let digit = rest.fold(first, |digit, bit| digit << 1 | bit);
        name.push(char::from(DIGITS[usize::from(digit)]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn name(topic: &str) -> String {
        kafka_name(&Topic::new(topic).expect("legal"))
    }

    #[test]
    fn a_name_that_kafka_takes_is_unchanged() {
        for topic in ["users", "shop.users", "a_b-c", "__mine", "0", "-", "_"] {
            assert_eq!(name(topic), topic);
        }
    }

    #[test]
    fn what_kafka_does_not_take_is_escaped_as_specified() {
        for (topic, expected) in [
            ("a:b", "a-b..q"),
            ("a/b", "a_b..q"),
            ("shop:users/eu-west", "shop-users_eu-west..y"),
            ("/", "_..q"),
            ("a-b:c-d:e-f/g", "a-b-c-d-e-f_g..kq"),
            ("__consumer_offsets", "__consumer_offsets..a"),
        ] {
            assert_eq!(name(topic), expected, "{topic}");
        }
    }

    #[test]
    fn no_two_topics_share_a_name_and_the_longest_fits() {
        // All topics of up to five of the characters that matter.
        let mut names = HashMap::new();
        let mut topics = vec![String::new()];
        for _ in 0..5 {
            let longer = |topic: &String| {
                ["a", ".", "-", "_", ":", "/"].map(|character| format!("{topic}{character}"))
            };
            topics = topics.iter().flat_map(longer).collect();
            for topic in topics.iter().filter_map(|topic| Topic::new(topic).ok()) {
                if let Some(other) = names.insert(kafka_name(&topic), topic.clone()) {
                    panic!("{topic} and {other} share a name");
                }
            }
        }
        for character in [":", "/"] {
            let longest = name(&character.repeat(Topic::MAX_BYTES));
            assert!(longest.len() <= 249, "{longest}");
        }
    }
}
