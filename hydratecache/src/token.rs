//! What lets a reader wait for a write, wherever it reads.

use std::fmt;
use std::num::NonZeroU64;
use std::str::FromStr;

use crate::{Error, ErrorKind, Origin, Position, Receipt, Result};

/// Names one published write, so that any replica of its topic can be waited for until it has it:
/// what [`Hydrated::wait_for`](crate::Hydrated::wait_for) takes. A [`Receipt`] becomes one.
///
/// Its text can travel with the answer to a request, so that the next request of the same user,
/// whichever instance it reaches, reads what the user wrote.
///
/// ```
/// # use hydratecache::{Channel, memory::MemoryTransport};
/// use hydratecache::Token;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// # let users = Channel::<String>::new(MemoryTransport::new(), "users")?;
/// let token = Token::from(users.publish("user:1", &"Ada".to_owned()).await?);
/// let cookie = token.to_string();
/// assert_eq!(cookie.parse::<Token>()?, token);
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token(Position);

impl Token {
    /// The publisher incarnation and the number of the message in it.
    #[must_use]
    pub const fn position(self) -> Position {
        self.0
    }
}

impl From<Receipt> for Token {
    fn from(receipt: Receipt) -> Self {
        Self(receipt.position)
    }
}

impl From<Position> for Token {
    fn from(position: Position) -> Self {
        Self(position)
    }
}

impl fmt::Display for Token {
    /// 16 hexadecimal digits, a hyphen and a number: at most 37 bytes of ASCII.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.0.origin.get(), self.0.sequence)
    }
}

impl FromStr for Token {
    type Err = Error;

    /// # Errors
    /// `InvalidInput`: the text is not a token's. Only the very text that [`Display`](fmt::Display)
    /// gives is taken.
    fn from_str(text: &str) -> Result<Self> {
        let parse = || {
            let (origin, sequence) = text.split_once('-')?;
            let origin = Origin::from_u64(u64::from_str_radix(origin, 16).ok()?)?;
            let sequence = sequence.parse::<NonZeroU64>().ok()?;
            Some(Self(Position { origin, sequence }))
        };
        parse().filter(|token| token.to_string() == text).ok_or_else(|| {
            Error::new(
                ErrorKind::InvalidInput,
                "the token is not of the form <16 hex>-<number>, as a token's text is",
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_text_of_a_token_is_one() {
        let text = "00000000000000ff-7";
        let token: Token = text.parse().expect("legal");
        assert_eq!((token.position().origin.get(), token.position().sequence.get()), (255, 7));
        assert_eq!(token.to_string(), text);
        for text in [
            "",
            "-",
            "ff-7",
            "00000000000000FF-7",
            "00000000000000ff-07",
            "00000000000000ff-0",
            "00000000000000ff-+7",
            "0000000000000000-7",
            "00000000000000ff-7 ",
            "00000000000000ff7",
            "00000000000000ff-99999999999999999999",
            "00000000000000zz-7",
        ] {
            let error = text.parse::<Token>().expect_err(text);
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{text}");
        }
    }
}
