//! tokio-postgres's errors, mapped once.

use hydratecache::{Error, ErrorKind};
use tokio_postgres::Error as PgError;
use tokio_postgres::error::{DbError, SqlState};

/// What was under way when an error came: it decides whether something may have been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    Connect,
    Subscribe,
    Listen,
    Fence,
    Publish,
    PublishIn,
    Install,
    Attach,
    Read,
}

impl Attempt {
    fn text(self) -> &'static str {
        match self {
            Self::Connect => "connecting to",
            Self::Subscribe => "subscribing on",
            Self::Listen => "listening on",
            Self::Fence => "asking for a fence on",
            Self::Publish => "publishing to",
            Self::PublishIn => "publishing in a transaction on",
            Self::Install => "installing the schema \"hydratecache\" on",
            Self::Attach => "attaching or detaching a table on",
            Self::Read => "reading a source on",
        }
    }
}

/// Our error for one of tokio-postgres's. `address` holds no credentials.
pub(crate) fn from_postgres(attempt: Attempt, address: &str, error: &PgError) -> Error {
    let kind = kind(attempt, error);
    let what = match error.as_db_error() {
        Some(answer) => said(answer),
        None => chain(error),
    };
    let tried = attempt.text();
    let hint = error.as_db_error().and_then(DbError::hint);
    let advice = match hint {
        Some(hint) => hint,
        None if lacks_password(error) => PASSWORD_ADVICE,
        None => advice(kind),
    };
    Error::new(kind, format!("{tried} PostgreSQL at {address}: {what}; {advice}"))
}

/// The server's words and its code. Details are left out: they can quote a row.
fn said(answer: &DbError) -> String {
    format!("{} (SQLSTATE {})", answer.message(), answer.code().code())
}

/// An error of the driver with what caused it. None of its texts holds a credential.
fn chain(error: &PgError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn advice(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Denied => "check user, password and privileges",
        ErrorKind::Unavailable => "is the server up and the address right?",
        ErrorKind::Timeout => "is the server overloaded or paused?",
        ErrorKind::UnknownOutcome => "it may have been sent; sending it again is harmless",
        ErrorKind::InvalidInput => "check the settings",
        _ => "see the server's answer",
    }
}

fn kind(attempt: Attempt, error: &PgError) -> ErrorKind {
    match error.code() {
        Some(code) => kind_of_answer(attempt, code),
        None if attempt == Attempt::Publish => ErrorKind::UnknownOutcome,
        None => kind_of_drivers(error),
    }
}

/// The driver tells its own errors apart by their texts only.
fn kind_of_drivers(error: &PgError) -> ErrorKind {
    match error.to_string().as_str() {
        _ if lacks_password(error) => ErrorKind::Denied,
        "authentication error" => ErrorKind::Denied,
        "invalid configuration" => ErrorKind::InvalidInput,
        _ => ErrorKind::Unavailable,
    }
}

const PASSWORD_ADVICE: &str = "the server asks for one; put it into the URL";

/// Whether the server asks for a password and the settings have none.
fn lacks_password(error: &PgError) -> bool {
    let cause = std::error::Error::source(error);
    cause.is_some_and(|cause| cause.to_string() == "password missing")
}

fn kind_of_answer(attempt: Attempt, code: &SqlState) -> ErrorKind {
    // The server goes down, or is told to end this session: whether a publish that was under way
    // was committed is not known.
    let is_leaving = matches!(
        *code,
        SqlState::ADMIN_SHUTDOWN | SqlState::CRASH_SHUTDOWN | SqlState::IDLE_SESSION_TIMEOUT
    );
    if is_leaving && attempt == Attempt::Publish {
        return ErrorKind::UnknownOutcome;
    }
    match *code {
        SqlState::INVALID_PASSWORD
        | SqlState::INVALID_AUTHORIZATION_SPECIFICATION
        | SqlState::INSUFFICIENT_PRIVILEGE => ErrorKind::Denied,
        SqlState::CANNOT_CONNECT_NOW | SqlState::TOO_MANY_CONNECTIONS => ErrorKind::Unavailable,
        SqlState::INVALID_CATALOG_NAME | SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN => {
            ErrorKind::InvalidInput
        }
        _ if is_leaving || code.code().starts_with("08") => ErrorKind::Unavailable,
        _ => kind_of_ours(code.code()),
    }
}

/// The codes that the functions in `sql/` raise.
fn kind_of_ours(code: &str) -> ErrorKind {
    match code {
        "HC002" => ErrorKind::InvalidTopic,
        "HC003" => ErrorKind::InvalidKey,
        "HC004" => ErrorKind::InvalidVersion,
        "HC006" => ErrorKind::InvalidTtl,
        "HC015" => ErrorKind::Denied,
        _ if code.starts_with("HC") => ErrorKind::InvalidInput,
        _ => ErrorKind::Broker,
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio_postgres::{Config, NoTls};

    use super::*;

    /// What becomes of a connection to a server that answers with `answer`.
    async fn failed(answer: &[u8]) -> Error {
        let (ours, mut theirs) = tokio::io::duplex(1024);
        theirs.write_all(answer).await.expect("it has room");
        let connected = Config::new().user("ada").connect_raw(ours, NoTls).await;
        from_postgres(Attempt::Connect, "h:1", &connected.err().expect("no connection"))
    }

    #[tokio::test]
    async fn a_server_that_asks_for_a_password_that_nobody_gave_denies_it() {
        let error = failed(b"R\0\0\0\x08\0\0\0\x03").await;
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.to_string().ends_with(PASSWORD_ADVICE), "{error}");
        let unknown_method = failed(b"R\0\0\0\x08\0\0\0\x02").await;
        assert_eq!(unknown_method.kind(), ErrorKind::Denied, "{unknown_method}");
    }

    #[tokio::test]
    async fn settings_that_name_no_host_are_wrong_input() {
        let error = Config::new().user("ada").connect(NoTls).await.err().expect("no connection");
        let error = from_postgres(Attempt::Connect, "", &error);
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    }
}
