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
    Error::new(kind, format!("{tried} Redis at {address}: {}; {advice}", error.details()))
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
