//! Why an arrived message could not be used.

use std::fmt;
use std::num::NonZeroU64;

use crate::message::Position;
use crate::{Error, Key, Origin, VersionDomain};

/// An arrived message that could not be used: why, and whose it was where that was readable.
///
/// A rejection is counted and reported, and the stream goes on.
#[derive(Clone)]
pub struct Rejection(Box<Inner>);

#[derive(Clone)]
struct Inner {
    reason: RejectionReason,
    key: Option<Key>,
    position: Option<Position>,
}

impl Rejection {
    /// A rejection of a message of which nothing else is known.
    #[must_use]
    pub fn new(reason: RejectionReason) -> Self {
        Self(Box::new(Inner { reason, key: None, position: None }))
    }

    /// The same rejection, naming the key.
    #[must_use]
    pub fn with_key(mut self, key: Option<Key>) -> Self {
        self.0.key = key;
        self
    }

    /// The same rejection, naming the sender and its number, if there are both.
    #[must_use]
    pub fn with_position(mut self, position: Option<Position>) -> Self {
        self.0.position = position;
        self
    }

    pub(crate) fn with_sender(self, origin: Option<Origin>, sequence: Option<NonZeroU64>) -> Self {
        let position = origin.zip(sequence);
        self.with_position(position.map(|(origin, sequence)| Position { origin, sequence }))
    }

    /// Which rule the message broke.
    #[must_use]
    pub fn reason(&self) -> &RejectionReason {
        &self.0.reason
    }

    /// The key of the message, where it was readable.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        self.0.key.as_ref()
    }

    /// Who sent the message, where that was readable.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }
}

impl fmt::Debug for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejection")
            .field("reason", &self.0.reason)
            .field("key", &self.0.key)
            .field("position", &self.0.position)
            .finish()
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rejected a message: {}", self.0.reason)?;
        if let Some(key) = &self.0.key {
            write!(f, " (key {:?})", key.as_str())?;
        }
        if let Some(position) = self.0.position {
            write!(f, " (origin {}, sequence {})", position.origin, position.sequence)?;
        }
        Ok(())
    }
}

/// Which rule an arrived message broke.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RejectionReason {
    /// Not an envelope at all: something else publishes on this topic.
    NotAnEnvelope,
    /// An envelope of a version that this crate does not read: update this subscriber.
    UnknownWireVersion(u64),
    /// The bytes end early.
    Truncated,
    /// Bytes follow the envelope.
    TrailingBytes,
    /// The CBOR or the text breaks a rule of the specification.
    Malformed(&'static str),
    /// An item nests deeper than 32 levels.
    TooDeep,
    /// A field occurs twice.
    DuplicateField(u64),
    /// A kind that this crate does not know: update this subscriber.
    UnknownKind(u64),
    /// A field that the message's kind needs is missing.
    MissingField(&'static str),
    /// A field has a value outside its limits, or does not belong to the message's kind.
    InvalidField(&'static str),
    /// A piece of an oversize message on a transport that does not put pieces together.
    ChunkUnsupported,
    /// Larger than the transport accepts.
    TooLarge {
        /// What arrived.
        bytes: usize,
        /// What is accepted.
        limit: usize,
    },
    /// The envelope belongs to another topic.
    WrongTopic,
    /// The codec could not turn the payload into a value.
    Undecodable(Error),
    /// The version belongs to the other domain, or is missing where the caller gives versions.
    WrongVersionDomain {
        /// The domain of this channel.
        expected: VersionDomain,
    },
    /// The clock version is further ahead of this process's clock than a wrong clock explains.
    VersionFromTheFuture,
}

impl fmt::Display for RejectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnEnvelope => {
                f.write_str("it is not an envelope; does something else publish on this topic?")
            }
            Self::UnknownWireVersion(version) => {
                write!(
                    f,
                    "it has wire version {version}, this process reads 1; update this process"
                )
            }
            Self::Truncated => f.write_str("its bytes end early"),
            Self::TrailingBytes => f.write_str("bytes follow its end"),
            Self::Malformed(what) => write!(f, "it has {what}"),
            Self::TooDeep => write!(f, "it nests deeper than {} levels", super::MAX_DEPTH),
            Self::DuplicateField(number) => write!(f, "it has field {number} twice"),
            Self::UnknownKind(kind) => {
                write!(
                    f,
                    "it has kind {kind}, which this process does not know; update this process"
                )
            }
            Self::MissingField(name) => write!(f, "it has no {name}"),
            Self::InvalidField(name) => write!(f, "its {name} is not legal"),
            Self::ChunkUnsupported => {
                f.write_str("it is a piece of a message, and this transport carries whole ones")
            }
            Self::TooLarge { bytes, limit } => {
                write!(f, "it has {bytes} bytes, this transport accepts {limit}; raise the limit")
            }
            Self::WrongTopic => f.write_str("it belongs to another topic"),
            Self::Undecodable(error) => write!(f, "{error}"),
            Self::WrongVersionDomain { expected } => write!(
                f,
                "its version is missing or of another domain than this channel's ({expected:?}); \
                 build all channels of a topic alike"
            ),
            Self::VersionFromTheFuture => {
                f.write_str("its version is more than a day ahead; check the publisher's clock")
            }
        }
    }
}
