//! The texts that travel in notifications: `docs/WIRE.md`, "PostgreSQL".
//!
//! * The envelope in base64 without padding; behind it, where it was published in somebody's
//!   transaction, a dot and the transaction's number.
//! * A JSON object, as SQL writes it: it begins with `{"hydratecache":1`.
//! * A piece of a longer text: it begins with `~`.

mod chunk;
mod json;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use hydratecache::fanout::Arrival;
use hydratecache::wire::{self, Envelope, Rejection, RejectionReason};
use hydratecache::{Message, Topic};

use crate::channel_name::is_hashed;

pub(crate) use chunk::{Assembly, is_piece, pieces};

/// The longest text that a notification carries, in bytes.
pub(crate) const LONGEST: usize = 7999;

/// Writers leave the padding out; readers take it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The text of `message`.
pub(crate) fn write(message: &Message, topic: &Topic) -> String {
    Writer::for_topic(topic).write(message)
}

/// Writes the texts of messages for one topic.
pub(crate) struct Writer<'a> {
    /// Where it is to be named.
    topic: Option<&'a Topic>,
    /// Every envelope is written here first.
    envelope: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn for_topic(topic: &'a Topic) -> Self {
        Self { topic: is_hashed(topic).then_some(topic), envelope: Vec::new() }
    }

    pub(crate) fn write(&mut self, message: &Message) -> String {
        self.envelope.clear();
        wire::encode_into(&mut self.envelope, message, self.topic);
        BASE64.encode(&self.envelope)
    }
}

/// The longest text of a message whose payload has `payload_bytes`.
pub(crate) fn longest_text(payload_bytes: usize) -> usize {
    let envelope = payload_bytes + hydratecache::Key::MAX_BYTES + wire::MAX_OVERHEAD_BYTES;
    // Four characters for three bytes, and the number of a transaction.
    envelope.div_ceil(3) * 4 + 1 + 20
}

/// What a whole text says on the channel of `topic`.
pub(crate) fn read(text: String, topic: &Topic) -> Arrival {
    if text.starts_with('{') {
        return json::read(&text.into(), topic);
    }
    let (envelope, transaction) = match text.split_once('.') {
        None => (text.as_str(), None),
        Some((envelope, number)) => (envelope, Some(number)),
    };
    let not_an_envelope = || Rejection::new(RejectionReason::NotAnEnvelope);
    let bytes = BASE64.decode(envelope).map_err(|_| not_an_envelope())?;
    let Envelope { message, topic: named } = wire::decode(&Bytes::from(bytes))?;
    check_topic(&message, named.as_ref(), topic)?;
    match transaction.map(str::parse) {
        None => Ok(message),
        Some(Ok(number)) => Ok(message.with_transaction(number)),
        Some(Err(_)) => Err(rejected(&message, RejectionReason::InvalidField("transaction"))),
    }
}

/// A message that names another topic than the channel's belongs to that: two topics share a
/// channel only if somebody finds two texts with one SHA-224.
fn check_topic(message: &Message, named: Option<&Topic>, topic: &Topic) -> Result<(), Rejection> {
    match named {
        Some(named) if named != topic => Err(rejected(message, RejectionReason::WrongTopic)),
        None if is_hashed(topic) => Err(rejected(message, RejectionReason::MissingField("topic"))),
        _ => Ok(()),
    }
}

fn rejected(message: &Message, reason: RejectionReason) -> Rejection {
    Rejection::new(reason).with_position(message.position())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::{Key, Kind, Origin, Position};
    use std::num::NonZeroU64;

    fn topic(name: &str) -> Topic {
        Topic::new(name).expect("legal")
    }

    fn message(payload_bytes: usize) -> Message {
        let position = Position {
            origin: Origin::from_u64(7).expect("not zero"),
            sequence: NonZeroU64::new(9).expect("not zero"),
        };
        let key = Key::new("user:1").expect("legal");
        Message::put(key, vec![0xff; payload_bytes].into()).with_position(position)
    }

    #[test]
    fn an_envelope_comes_back_with_and_without_a_transaction() {
        let users = topic("users");
        let text = write(&message(3), &users);
        assert!(!text.contains('='), "no padding");
        assert_eq!(read(text.clone(), &users).expect("reads"), message(3));
        let read = read(format!("{text}.745"), &users).expect("reads");
        assert_eq!((read.transaction(), read.key()), (Some(745), message(3).key()));
    }

    #[test]
    fn what_is_broken_is_rejected_with_its_reason() {
        let users = topic("users");
        let text = write(&message(3), &users);
        let long = topic(&"t".repeat(200));
        let other = topic(&"u".repeat(200));
        for (text, topic, reason) in [
            (String::new(), &users, "not an envelope"),
            ("hello, world".to_owned(), &users, "not an envelope"),
            ("{\"a\":1}".to_owned(), &users, "not an envelope"),
            (text[..text.len() - 4].to_owned(), &users, "end early"),
            (format!("{text}."), &users, "transaction is not legal"),
            (format!("{text}.x"), &users, "transaction is not legal"),
            (text.clone(), &long, "no topic"),
            (write(&message(3), &other), &long, "another topic"),
        ] {
            let rejection = read(text, topic).expect_err(reason);
            assert!(rejection.to_string().contains(reason), "{rejection}");
        }
        let read = read(write(&message(3), &long), &long).expect("names its topic");
        assert_eq!(read.kind(), Kind::Put);
    }

    #[test]
    fn a_text_is_never_longer_than_its_bound() {
        for bytes in [0, 1, 2, 5000, 65_536] {
            let text = write(&message(bytes), &topic(&"t".repeat(200)));
            assert!(text.len() <= longest_text(bytes));
        }
    }
}
