//! `T` to payload bytes and back.

mod cbor;
#[cfg(feature = "json")]
mod json;
#[cfg(feature = "minicbor")]
mod minicbor;

use std::fmt;

use bytes::Bytes;

pub use self::cbor::Cbor;
#[cfg(feature = "json")]
pub use self::json::Json;
#[cfg(feature = "minicbor")]
pub use self::minicbor::Minicbor;
use crate::message::ContentType;
use crate::{Error, ErrorKind, Result};

/// Turns values into payload bytes and back.
///
/// Decoding meets bytes that nobody checked: it must return an error for any of them, in bounded
/// memory and depth. Errors never hold a part of the payload.
pub trait Codec<T>: Send + Sync + 'static {
    /// The payload of `value`.
    ///
    /// # Errors
    /// [`ErrorKind::Encode`].
    fn encode(&self, value: &T) -> Result<Bytes>;

    /// The value in `payload`.
    ///
    /// # Errors
    /// [`ErrorKind::Decode`].
    fn decode(&self, payload: &Bytes) -> Result<T>;

    /// The media type that messages name; `None` is the default, `application/cbor`. A payload of
    /// another type than its reader's is rejected.
    fn content_type(&self) -> Option<ContentType>;
}

/// A codec made of two closures.
///
/// ```
/// use bytes::Bytes;
/// use hydratecache::codec::{Codec, FnCodec};
///
/// let codec = FnCodec::new(
///     |count: &u64| Ok(Bytes::copy_from_slice(&count.to_be_bytes())),
///     |payload: &Bytes| Ok(u64::from_be_bytes(payload[..].try_into()?)),
/// );
/// assert_eq!(codec.decode(&codec.encode(&7)?)?, 7);
/// # Ok::<(), hydratecache::Error>(())
/// ```
pub struct FnCodec<E, D> {
    encode: E,
    decode: D,
    content_type: Option<ContentType>,
}

/// Whatever a closure of a codec fails with. Its text is shown to people: keep payloads out of it.
pub type CodecError = Box<dyn std::error::Error + Send + Sync>;

impl<E, D> FnCodec<E, D> {
    /// A codec that encodes and decodes with these.
    pub fn new<T>(encode: E, decode: D) -> Self
    where
        E: Fn(&T) -> Result<Bytes, CodecError>,
        D: Fn(&Bytes) -> Result<T, CodecError>,
    {
        Self { encode, decode, content_type: Some(ContentType::OCTET_STREAM) }
    }

    /// The same codec with another media type (default `application/octet-stream`).
    #[must_use]
    pub fn with_content_type(self, content_type: ContentType) -> Self {
        Self { content_type: Some(content_type), ..self }
    }
}

impl<T, E, D> Codec<T> for FnCodec<E, D>
where
    E: Fn(&T) -> Result<Bytes, CodecError> + Send + Sync + 'static,
    D: Fn(&Bytes) -> Result<T, CodecError> + Send + Sync + 'static,
{
    fn encode(&self, value: &T) -> Result<Bytes> {
        (self.encode)(value).map_err(|error| encode_error::<T>().with_source(error))
    }

    fn decode(&self, payload: &Bytes) -> Result<T> {
        (self.decode)(payload)
            .map_err(|error| decode_error::<T>("the codec refused it").with_source(error))
    }

    fn content_type(&self) -> Option<ContentType> {
        self.content_type.clone()
    }
}

impl<E, D> fmt::Debug for FnCodec<E, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FnCodec").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

fn encode_error<T>() -> Error {
    let what = std::any::type_name::<T>();
    Error::new(ErrorKind::Encode, format!("a value of type {what} does not fit the codec"))
}

fn decode_error<T>(why: &str) -> Error {
    let what = std::any::type_name::<T>();
    Error::new(
        ErrorKind::Decode,
        format!(
            "a payload is not a {what}: {why}; do publisher and subscriber share the type and the codec?"
        ),
    )
}

/// What a deserializer said, as far as it cannot hold a part of the payload: serde quotes the
/// value that it met, but a missing field is named by the type.
fn without_payload(message: &str) -> &str {
    match message.strip_prefix("missing field") {
        Some(_) => message,
        None => "a value of another type or form than expected",
    }
}
