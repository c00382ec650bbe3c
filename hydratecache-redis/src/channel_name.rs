//! How a topic is named at Redis: unchanged, where Redis clients pass that name on.

use hydratecache::Topic;

/// What stands before the name of a topic that Redis clients would swallow. No topic contains it,
/// so no two topics share a channel.
const ESCAPE: char = '=';

/// Client-side caching sends its invalidations on `__redis__:invalidate`, and fred, when built for
/// it, keeps what arrives there to itself. `__keyspace@` and `__keyevent@` contain a character that
/// no topic has.
const SWALLOWED: &str = "__redis__";

/// The Redis channel of `topic`.
pub(crate) fn channel_name(topic: &Topic) -> String {
    if topic.as_str().starts_with(SWALLOWED) {
        format!("{ESCAPE}{topic}")
    } else {
        topic.as_str().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_swallowed_prefix_is_escaped() {
        for (topic, channel) in [
            ("users", "users"),
            ("__redis__:invalidate", "=__redis__:invalidate"),
            ("a.__redis__", "a.__redis__"),
        ] {
            let topic = Topic::new(topic).expect("legal");
            assert_eq!(channel_name(&topic), channel);
        }
    }
}
