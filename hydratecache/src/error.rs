//! The one error type, and the kinds a caller can act on.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

/// A `Result` whose error is [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in a form to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The topic breaks a rule of [`Topic`](crate::Topic). Nothing was sent.
    InvalidTopic,
    /// The key breaks a rule of [`Key`](crate::Key). Nothing was sent.
    InvalidKey,
    /// The TTL is zero or does not fit into time. Nothing was sent.
    InvalidTtl,
    /// A version is missing, or belongs to the other domain. Nothing was sent.
    InvalidVersion,
    /// A setting, a URL or an optional field of a message is not usable.
    InvalidInput,
    /// The payload is larger than the transport carries. Nothing was sent.
    PayloadTooLarge,
    /// The codec could not turn the value into bytes. Nothing was sent.
    Encode,
    /// The codec could not turn the payload into a value.
    Decode,
    /// The broker cannot be reached now. Nothing was sent.
    Unavailable,
    /// The broker refuses: wrong credentials, or no permission.
    Denied,
    /// The broker did not answer within the limit. Nothing is known to have been sent.
    Timeout,
    /// A publish may or may not have reached the broker.
    UnknownOutcome,
    /// The transport was closed, by this process.
    Closed,
    /// The broker answered with an error of its own.
    Broker,
    /// The caller's [`Source`](crate::cache::Source) failed.
    Source,
    /// Nothing proves that the value is as fresh as was asked for. It may be.
    Unproven,
}

impl ErrorKind {
    /// Whether the same call can succeed later without a change.
    ///
    /// `UnknownOutcome` counts: a repeated publish of the same version is harmless, because every
    /// cache applies a version once.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::Unavailable
                | Self::Timeout
                | Self::UnknownOutcome
                | Self::Source
                | Self::Unproven
        )
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::InvalidTopic => "invalid topic",
            Self::InvalidKey => "invalid key",
            Self::InvalidTtl => "invalid TTL",
            Self::InvalidVersion => "invalid version",
            Self::InvalidInput => "invalid input",
            Self::PayloadTooLarge => "payload too large",
            Self::Encode => "value cannot be encoded",
            Self::Decode => "payload cannot be decoded",
            Self::Unavailable => "broker unavailable",
            Self::Denied => "denied by the broker",
            Self::Timeout => "timed out",
            Self::UnknownOutcome => "unknown outcome",
            Self::Closed => "closed",
            Self::Broker => "broker error",
            Self::Source => "source failed",
            Self::Unproven => "freshness unproven",
        })
    }
}

/// An error of this crate or of a transport: a [kind](ErrorKind), what was tried on what, and
/// what to do about it.
///
/// Cheap to clone, because one failed batch is the answer to many publishes. Never holds a
/// payload or a credential.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    context: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`; `context` says what was tried, on what, and what to do.
    pub fn new(kind: ErrorKind, context: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner { kind, context: context.into(), source: None }))
    }

    /// The same error with the error that caused it.
    ///
    /// The text of `source` is shown to people: adapters pass nothing that can hold a secret.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let context = self.0.context.clone();
        Self(Arc::new(Inner { kind: self.0.kind, context, source: Some(source.into()) }))
    }

    /// What went wrong, in a form to act on.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call can succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.kind().is_retryable()
    }

    /// The same error, saying first where it happened. A source is kept as text.
    pub(crate) fn in_context(&self, place: impl fmt::Display) -> Self {
        let error = Self::new(self.kind(), format!("{place}: {}", self.0.context));
        match &self.0.source {
            Some(source) => error.with_source(source.to_string()),
            None => error,
        }
    }

    pub(crate) fn closed(what: &str) -> Self {
        Self::new(
            ErrorKind::Closed,
            format!("{what} was closed by this process; make a new one to go on"),
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind, self.0.context)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("kind", &self.0.kind)
            .field("context", &self.0.context)
            .field("source", &self.0.source)
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
