//! fred's errors, mapped once.

use fred::error::{Error as FredError, ErrorKind as FredKind};
use hydratecache::{Error, ErrorKind};

/// What was under way when an error came: it decides whether something may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Connect,
    Subscribe,
    Fence,
    Publish,
}

/// Our error for one of fred's. `address` holds no credentials; fred's details are the server's own
/// words or the operating system's, neither of which repeats a password.
pub(crate) fn from_fred(attempt: Attempt, address: &str, error: &FredError) -> Error {
    let kind = kind(attempt, error);
    let tried = match attempt {
        Attempt::Connect => "connecting to",
        Attempt::Subscribe => "subscribing on",
        Attempt::Fence => "asking for a fence on",
        Attempt::Publish => "publishing to",
    };
    let advice = match kind {
        ErrorKind::Denied => "check user, password and the user's channels (ACL)",
        ErrorKind::Unavailable => "is the server up and the address right?",
        ErrorKind::Timeout => "is the server overloaded or paused?",
        ErrorKind::UnknownOutcome => "it may have been sent; sending it again is harmless",
        _ => "see the server's answer",
    };
    Error::new(kind, format!("{tried} Redis at {address}: {}; {advice}", said(error)))
}

/// What fred says of an error, for people: of the operating system's it keeps only what `Debug` shows,
/// and the server ends some of its sentences with a full stop.
pub(crate) fn said(error: &FredError) -> String {
    let details = error.details();
    let text = match error.kind() {
        FredKind::IO => of_debug(details).unwrap_or_else(|| details.to_owned()),
        _ => details.to_owned(),
    };
    text.trim_end_matches('.').to_owned()
}

/// What an [`std::io::Error`] says, from what its `Debug` shows: `Os { code: 111, kind: .., message: ".." }`,
/// `Custom { kind: .., error: .. }`, `Error { kind: .., message: ".." }` or `Kind(..)`.
fn of_debug(shown: &str) -> Option<String> {
    if let Some(kind) = shown.strip_prefix("Kind(") {
        return Some(kind.trim_end_matches(')').to_owned());
    }
    let (name, members) = shown.strip_suffix(" }")?.split_once(" { ")?;
    let last = |member| Some(unquoted(members.split_once(member)?.1));
    match name {
        "Os" => {
            let code = members.strip_prefix("code: ")?.split(',').next()?;
            Some(format!("{} (os error {code})", last(", message: ")?))
        }
        "Custom" => last(", error: "),
        "Error" => last(", message: "),
        _ => None,
    }
}

/// A text that `Debug` put into quotes.
fn unquoted(shown: &str) -> String {
    let text = shown.strip_prefix('"').and_then(|shown| shown.strip_suffix('"'));
    text.map_or(shown.to_owned(), |text| text.replace("\\\"", "\"").replace("\\'", "'"))
}

fn kind(attempt: Attempt, error: &FredError) -> ErrorKind {
    if is_denied(error) {
        return ErrorKind::Denied;
    }
    match (error.kind(), attempt) {
        (FredKind::Unknown, Attempt::Publish) if error.details() == DROPPED => {
            ErrorKind::UnknownOutcome
        }
        (FredKind::Unknown, _) if [DROPPED, NOT_TAKEN].contains(&error.details()) => {
            ErrorKind::Unavailable
        }
        (FredKind::Timeout | FredKind::IO | FredKind::Canceled, Attempt::Publish) => {
            ErrorKind::UnknownOutcome
        }
        (FredKind::Timeout, _) => ErrorKind::Timeout,
        (FredKind::IO | FredKind::Canceled | FredKind::Tls | FredKind::Backpressure, _) => {
            ErrorKind::Unavailable
        }
        (FredKind::Config | FredKind::Url, _) => ErrorKind::InvalidInput,
        _ => ErrorKind::Broker,
    }
}

/// So fred says that a command was dropped with its connection.
const DROPPED: &str = "channel closed";

/// So fred refuses what is asked of a connection that has ended.
const NOT_TAKEN: &str = "Failed to send command to router.";

/// Whether the error is not the server's answer.
pub(crate) fn is_of_the_link(error: &FredError) -> bool {
    match error.kind() {
        FredKind::IO | FredKind::Canceled | FredKind::Timeout | FredKind::Protocol => true,
        _ => [DROPPED, NOT_TAKEN].contains(&error.details()),
    }
}

pub(crate) fn is_denied(error: &FredError) -> bool {
    matches!(error.kind(), FredKind::Auth) || error.details().starts_with("NOPERM")
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn what_the_operating_system_says_is_readable() {
        let refused = io::Error::from_raw_os_error(111);
        let said = refused.to_string();
        let unknown = "failed to lookup \"host\": Name or service not known";
        for (error, said) in [
            (refused, said.as_str()),
            (io::Error::other(unknown), unknown),
            (io::ErrorKind::UnexpectedEof.into(), "UnexpectedEof"),
        ] {
            let shown = from_fred(Attempt::Connect, "h:1", &error.into()).to_string();
            assert!(shown.contains(&format!("Redis at h:1: {said}; is the server up")), "{shown}");
        }
        let simple = "Error { kind: InvalidData, message: \"it ended\" }";
        assert_eq!(of_debug(simple).as_deref(), Some("it ended"));
        let tls = "Custom { kind: InvalidData, error: InvalidCertificate(UnknownIssuer) }";
        assert_eq!(of_debug(tls).as_deref(), Some("InvalidCertificate(UnknownIssuer)"));
    }

    #[test]
    fn a_sentence_of_the_server_goes_on_without_its_full_stop() {
        let says = "WRONGPASS invalid username-password pair or user is disabled.";
        let error = FredError::new(FredKind::Auth, says);
        let shown = from_fred(Attempt::Connect, "h:1", &error).to_string();
        assert!(shown.contains("user is disabled; check user"), "{shown}");
    }
}
