//! The named stream that publishers and subscribers share.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, ErrorKind, Result};

/// The name of a stream of messages, checked: 1 to 200 bytes of ASCII letters, digits and
/// `.` `_` `-` `:` `/`, with no empty token between dots.
///
/// The rules are the common ground of Redis channels, NATS subjects, Postgres channels and Kafka
/// topics, so a topic that is legal on one transport is legal on all. Cloning is cheap.
///
/// ```
/// use hydratecache::Topic;
///
/// assert!(Topic::new("shop.users").is_ok());
/// assert!(Topic::new("users.*").is_err());
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The longest name, in bytes: it leaves room for a prefix within Kafka's 249.
    pub const MAX_BYTES: usize = 200;

    /// Checks `name`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidTopic`] names the rule that `name` breaks.
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        match broken_rule(name) {
            None => Ok(Self(name.into())),
            Some(rule) => Err(Error::new(
                ErrorKind::InvalidTopic,
                format!("topic {:?} {rule}", excerpt(name)),
            )),
        }
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn broken_rule(name: &str) -> Option<String> {
    if name.is_empty() {
        return Some("is empty; a topic has 1 to 200 bytes".into());
    }
    if name.len() > Topic::MAX_BYTES {
        return Some(format!("has {} bytes; use at most {}", name.len(), Topic::MAX_BYTES));
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
    if let Some(illegal) = name.chars().find(|c| !legal(*c)) {
        return Some(format!("contains {illegal:?}; use letters, digits and . _ - : /"));
    }
    let empty_token = name.split('.').any(str::is_empty);
    empty_token.then(|| "has an empty token; put something before, between and after dots".into())
}

/// Enough of a name to find it again, but not megabytes of it in a log.
pub(crate) fn excerpt(name: &str) -> &str {
    let end = (0..=name.len().min(64)).rev().find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

impl FromStr for Topic {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Topic {
    type Error = Error;

    fn try_from(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

impl TryFrom<String> for Topic {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl AsRef<str> for Topic {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({:?})", &*self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_legal_character_and_length_is_accepted() {
        for name in ["a", "A9", "shop.users", "a_b-c:d/e", "/", ":", &"x".repeat(200)] {
            assert_eq!(Topic::new(name).expect(name).as_str(), name);
        }
    }

    #[test]
    fn every_illegal_name_is_refused_with_its_rule() {
        let long = "x".repeat(201);
        let cases = [
            ("", "is empty"),
            (long.as_str(), "has 201 bytes"),
            ("*", "contains '*'"),
            (">", "contains '>'"),
            ("a\0b", "contains '\\0'"),
            ("^.*", "contains '^'"),
            ("\";--", "contains '\"'"),
            ("..", "empty token"),
            (".a", "empty token"),
            ("a.", "empty token"),
            ("a b", "contains ' '"),
            ("é", "contains 'é'"),
        ];
        for (name, rule) in cases {
            let error = Topic::new(name).expect_err(name);
            assert_eq!(error.kind(), ErrorKind::InvalidTopic);
            assert!(error.to_string().contains(rule), "{error} should say {rule}");
        }
    }
}
