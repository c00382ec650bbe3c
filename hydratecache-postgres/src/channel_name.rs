//! How a topic is named at PostgreSQL: unchanged, where it is short enough.

use std::fmt::Write;

use hydratecache::Topic;
use sha2::{Digest, Sha224};

/// The longest name of a channel, in bytes. `pg_notify` refuses longer ones, and `LISTEN` cuts them.
const LONGEST: usize = 63;

/// What stands before the names of channels that are no topic's name. No topic contains it.
const ESCAPE: char = '=';

/// The channel of `topic`: its name, or a hash of it where that is too long.
///
/// The same as `hydratecache.channel` in SQL.
pub(crate) fn channel_name(topic: &Topic) -> String {
    let name = topic.as_str();
    if !is_hashed(topic) {
        return name.to_owned();
    }
    let mut channel = String::from(ESCAPE);
    for byte in Sha224::digest(name.as_bytes()) {
        write!(channel, "{byte:02x}").expect("writing to a String cannot fail");
    }
    channel
}

/// Whether the channel of `topic` is a hash, so that messages must name the topic.
pub(crate) fn is_hashed(topic: &Topic) -> bool {
    topic.as_str().len() > LONGEST
}

/// A channel that nobody else listens to.
pub(crate) fn private_channel(number: u64) -> String {
    format!("{ESCAPE}echo:{number:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_topics_are_hashed_and_as_sql_does_it() {
        let channel = |name: &str| channel_name(&Topic::new(name).expect("legal"));
        assert_eq!(channel("users"), "users");
        assert_eq!(channel(&"t".repeat(63)), "t".repeat(63));
        let hashed = channel(&"comp".repeat(20));
        assert_eq!(hashed, "=4b94c66d426e7e8f3a35d0888fbfe8de794093c45d7d88d7d93927a6");
    }
}
