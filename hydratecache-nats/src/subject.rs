//! How a topic is named at NATS: unchanged, where NATS gives that name no meaning of its own.

use async_nats::Subject;
use hydratecache::Topic;

/// What stands before the name of a topic that means something else to NATS. No topic contains it,
/// so no two topics share a subject.
const ESCAPE: char = '=';

/// First tokens of subjects for replies: `_INBOX` of clients, `_R_` of services that an account
/// imports, `_GR_` of gateways. Every character that a topic may have is legal in a subject, and
/// the wildcards and `$SYS` contain characters that no topic has.
const TAKEN: [&str; 3] = ["_INBOX", "_R_", "_GR_"];

/// The name of the subject of `topic`.
pub(crate) fn subject_name(topic: &Topic) -> String {
    let first = topic.as_str().split('.').next();
    if first.is_some_and(|token| TAKEN.contains(&token)) {
        format!("{ESCAPE}{topic}")
    } else {
        topic.as_str().to_owned()
    }
}

/// The subject of `topic`.
pub(crate) fn subject(topic: &Topic) -> Subject {
    Subject::from(subject_name(topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_means_something_else_to_nats_is_escaped() {
        for (topic, name) in [
            ("users", "users"),
            ("a/b:c_d-e.f", "a/b:c_d-e.f"),
            ("_INBOX", "=_INBOX"),
            ("_INBOX.x", "=_INBOX.x"),
            ("_INBOXES.x", "_INBOXES.x"),
            ("a._INBOX", "a._INBOX"),
            ("_GR_.x", "=_GR_.x"),
        ] {
            let topic = Topic::new(topic).expect("legal");
            assert_eq!(subject(&topic).as_str(), name);
        }
    }
}
