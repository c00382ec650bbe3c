//! The name of one cached value within a topic.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::topic::excerpt;
use crate::{Error, ErrorKind, Result};

/// The key of one value, checked: 1 to 1,024 bytes of UTF-8.
///
/// Cloning is cheap. A key may be personal data; it appears in errors about that key and in
/// nothing else.
///
/// ```
/// let key = hydratecache::Key::new("user:1")?;
/// assert_eq!(key.as_str(), "user:1");
/// # Ok::<(), hydratecache::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes. Long enough for composed keys; short enough that a key is
    /// never what fills a broker's buffers.
    pub const MAX_BYTES: usize = 1024;

    /// Checks `key`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] if it is empty or longer than [`MAX_BYTES`](Self::MAX_BYTES).
    pub fn new(key: impl AsRef<str>) -> Result<Self> {
        let key = key.as_ref();
        match key.len() {
            0 => Err(Error::new(ErrorKind::InvalidKey, "the key is empty; use 1 to 1,024 bytes")),
            1..=Self::MAX_BYTES => Ok(Self(key.into())),
            length => Err(Error::new(
                ErrorKind::InvalidKey,
                format!(
                    "the key beginning {:?} has {length} bytes; use at most {}, or a hash of it",
                    excerpt(key),
                    Self::MAX_BYTES
                ),
            )),
        }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for Key {
    type Error = Error;

    fn try_from(key: &str) -> Result<Self> {
        Self::new(key)
    }
}

impl TryFrom<String> for Key {
    type Error = Error;

    fn try_from(key: String) -> Result<Self> {
        Self::new(key)
    }
}

impl From<&Key> for Key {
    fn from(key: &Key) -> Self {
        key.clone()
    }
}

impl From<&Key> for String {
    fn from(key: &Key) -> Self {
        key.as_str().to_owned()
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Key {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?})", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_and_oversize_keys_are_refused_and_the_limit_is_accepted() {
        assert_eq!(Key::new("").expect_err("empty").kind(), ErrorKind::InvalidKey);
        assert!(Key::new("k".repeat(1024)).is_ok());
        let error = Key::new("k".repeat(1025)).expect_err("oversize");
        assert!(error.to_string().contains("1025 bytes"), "{error}");
        assert!(error.to_string().len() < 250, "an error never repeats a whole oversize key");
    }
}
