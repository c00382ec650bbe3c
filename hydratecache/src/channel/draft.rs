//! An item of a stream that is published as a whole.

use crate::{Key, Result, Ttl, Version};

/// A value to be published by [`Channel::publish_all`](crate::Channel::publish_all).
///
/// A `(key, value)` pair turns into one; a key that breaks a rule ends the stream with its error.
#[derive(Debug)]
pub struct Draft<V> {
    pub(super) key: Result<Key>,
    pub(super) value: V,
    pub(super) ttl: Option<Ttl>,
    pub(super) version: Option<Version>,
}

impl<V> Draft<V> {
    /// A value without TTL and version.
    pub fn new(key: impl AsRef<str>, value: V) -> Self {
        Self { key: Key::new(key), value, ttl: None, version: None }
    }

    /// The same value with a TTL.
    #[must_use]
    pub fn with_ttl(self, ttl: Ttl) -> Self {
        Self { ttl: Some(ttl), ..self }
    }

    /// The same value with the caller's version.
    #[must_use]
    pub fn with_version(self, number: u64) -> Self {
        Self { version: Some(Version::caller(number)), ..self }
    }
}

impl<K: AsRef<str>, V> From<(K, V)> for Draft<V> {
    fn from((key, value): (K, V)) -> Self {
        Self::new(key, value)
    }
}
