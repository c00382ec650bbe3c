//! async-nats' errors, mapped once.

use async_nats::{ConnectError, ConnectErrorKind};
use hydratecache::{Error, ErrorKind};

/// Our error for a failed connection. `address` holds no credentials, and what is passed on is the
/// operating system's, the TLS library's or the server's own text, none of which repeats one.
pub(crate) fn not_connected(address: &str, error: &ConnectError) -> Error {
    let (kind, advice) = match error.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            (ErrorKind::Denied, "check user, password, token, credentials file or NKey")
        }
        ConnectErrorKind::TimedOut => (ErrorKind::Timeout, "is the address right?"),
        ConnectErrorKind::ServerParse => (ErrorKind::InvalidInput, "check the URL"),
        ConnectErrorKind::Tls => (ErrorKind::Unavailable, "check the certificate authorities"),
        _ => (ErrorKind::Unavailable, "is the server up and the address right?"),
    };
    Error::new(kind, format!("connecting to NATS at {address}: {error}; {advice}"))
}

pub(crate) fn lost(address: &str, why: &str) -> Error {
    Error::new(ErrorKind::Unavailable, format!("lost the connection to NATS at {address}: {why}"))
}

/// What the server did not permit.
pub(crate) fn denied(address: &str, tried: &str, subject: &str, advice: &str) -> Error {
    Error::new(
        ErrorKind::Denied,
        format!("{tried} {subject} on NATS at {address}: the server does not permit it; {advice}"),
    )
}
