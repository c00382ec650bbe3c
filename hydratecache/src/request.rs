//! What the processes of a topic ask of one another, and answer: the bodies of
//! [`Kind::Request`](crate::Kind::Request), which `docs/WIRE.md` lists.
//!
//! A body is a CBOR map whose field 0 is its type. Types that are not known here, and bodies that
//! are not what their type says, are [`None`]: they are counted and ignored.

mod fields;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use minicbor::Encoder;

use crate::message::ContentType;
use crate::wire::{MAX_REQUEST_BYTES, is_request};
use crate::{Key, Origin, Position};
use fields::Fields;

/// The longest name of a replica, in bytes: a host's name and something more.
pub(crate) const MAX_NAME_BYTES: usize = 100;

/// How many parts of a digest one request asks for.
pub(crate) const MOST_PARTS: usize = 256;

/// How many losses a question names, with three numbers each.
pub(crate) const MOST_LOST: usize = MOST_PARTS / 3;

/// The types of requests. Numbers below 16 are those of replays, from 16 on those of copies, from 32 on
/// what replicas say of themselves.
mod number {
    pub(super) const REPLAY: u64 = 1;
    pub(super) const GONE: u64 = 2;
    pub(super) const UNSENT: u64 = 3;
    pub(super) const WANTED: u64 = 16;
    pub(super) const OFFERED: u64 = 17;
    pub(super) const TAKE: u64 = 18;
    pub(super) const WAIT: u64 = 19;
    pub(super) const WITHDRAWN: u64 = 20;
    pub(super) const COMPARE: u64 = 21;
    pub(super) const PARTS: u64 = 22;
    pub(super) const WHO_HAS: u64 = 32;
    pub(super) const HAS: u64 = 33;
}

/// What one process asks of the others on a topic, or answers.
///
/// ```
/// use std::num::NonZeroU64;
/// use hydratecache::{Message, Origin, Positions, Request};
///
/// let (first, last) = (NonZeroU64::MIN, NonZeroU64::MAX);
/// let request = Request::Replay(Positions { origin: Origin::random(), first, last });
/// let message = Message::request(Origin::random(), request.encode())?;
/// assert_eq!(Request::decode(message.payload()), Some(request));
/// # Ok::<(), hydratecache::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Request {
    /// The publisher of these messages is to publish them again.
    Replay(Positions),
    /// The publisher of these messages has them no more, or will not publish them again now: nobody
    /// need wait for them.
    Gone(Positions),
    /// The publish of a message failed before anything was sent: it will not come.
    Unsent {
        /// The message.
        position: Position,
        /// What it was about; none: all keys.
        key: Option<Key>,
        /// What orders it among the writes of its key, as a number of the channel's domain.
        version: Option<u64>,
    },
    /// A replica is to be filled, and would have a copy of another one.
    Wanted {
        /// The number of this question alone.
        question: Origin,
        /// Whoever answers must have been told of these losses: 85 at most.
        lost: Vec<Positions>,
    },
    /// A replica offers its copy to all who heard a question.
    Offered {
        /// The question.
        to: Origin,
        /// The number of the copy, by which it is asked for.
        copy: Origin,
        /// The form of its chunks.
        form: NonZeroU64,
        /// The media type of its values; none: `application/cbor`.
        content_type: Option<ContentType>,
    },
    /// Chunks of a copy that are to be sent, or sent again.
    Take {
        /// The copy.
        copy: Origin,
        /// The first of them, counted from 1.
        first: NonZeroU64,
        /// The last of them, not before the first.
        last: NonZeroU64,
    },
    /// The replica with this number is about to have a copy, or is busy with others: whoever wants one
    /// had better wait than read the source.
    Wait(Origin),
    /// The replica that sends this copy is not whole any more: it sends no more of it.
    Withdrawn(Origin),
    /// A replica lost messages, and would compare itself with another one.
    Compare {
        /// The number of this question alone.
        question: Origin,
        /// Whoever answers must have been told of these losses: 85 at most.
        lost: Vec<Positions>,
    },
    /// Parts of a digest that are to be sent, or sent again.
    Parts {
        /// The digest.
        digest: Origin,
        /// What the numbers are of: 1 groups of buckets, 2 buckets, 3 hashes, 4 entries.
        level: NonZeroU64,
        /// The parts: 256 at most.
        numbers: Vec<u64>,
    },
    /// Every replica is to say whether it has a write: as soon as it has, or when the limit is over.
    WhoHas {
        /// The write.
        position: Position,
        /// Names this question among those of its sender.
        question: NonZeroU64,
        /// Whoever has heard so many say that they have it need not say so too.
        wanted: NonZeroU64,
        /// How long the asker waits for those who do not have it yet, in whole milliseconds.
        limit: Duration,
    },
    /// A replica has the write that it was asked about, or did not get it in time.
    Has {
        /// Who asked.
        asker: Origin,
        /// Which question of theirs this answers.
        question: NonZeroU64,
        /// Whether it has the write.
        is_applied: bool,
        /// What the replica is called, if it has a name: up to 100 bytes.
        name: Option<Arc<str>>,
    },
}

/// Messages of one origin, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Positions {
    /// The publisher incarnation.
    pub origin: Origin,
    /// The first of them.
    pub first: NonZeroU64,
    /// The last of them, not before the first.
    pub last: NonZeroU64,
}

impl Positions {
    /// The messages `first` to `last` of `origin`; none if the first is 0 or behind the last.
    #[must_use]
    pub fn new(origin: Origin, first: u64, last: u64) -> Option<Self> {
        let (first, last) = (NonZeroU64::new(first)?, NonZeroU64::new(last)?);
        (first <= last).then_some(Self { origin, first, last })
    }

    /// How many they are.
    #[must_use]
    pub const fn count(self) -> NonZeroU64 {
        let beyond = self.last.get().saturating_sub(self.first.get());
        NonZeroU64::MIN.saturating_add(beyond)
    }

    /// Whether `position` is one of them.
    #[must_use]
    pub fn contains(self, position: Position) -> bool {
        let Position { origin, sequence } = position;
        origin == self.origin && (self.first..=self.last).contains(&sequence)
    }
}

impl Request {
    /// The body of a [`Message::request`](crate::Message::request).
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut encoder = Encoder::new(Vec::with_capacity(48));
        let written = match self {
            Self::Replay(positions) => write_positions(&mut encoder, number::REPLAY, *positions),
            Self::Gone(positions) => write_positions(&mut encoder, number::GONE, *positions),
            Self::Unsent { position, key, version } => {
                write_unsent(&mut encoder, *position, key.as_ref(), *version)
            }
            Self::Wanted { question, lost } => {
                write_question(&mut encoder, number::WANTED, *question, lost)
            }
            Self::Offered { to, copy, form, content_type } => {
                write_offered(&mut encoder, *to, *copy, *form, content_type.as_ref())
            }
            Self::Take { copy, first, last } => {
                let numbers = [copy.get(), first.get(), last.get()];
                write_numbers(&mut encoder, number::TAKE, &numbers)
            }
            Self::Wait(by) => write_numbers(&mut encoder, number::WAIT, &[by.get()]),
            Self::Withdrawn(copy) => write_numbers(&mut encoder, number::WITHDRAWN, &[copy.get()]),
            Self::Compare { question, lost } => {
                write_question(&mut encoder, number::COMPARE, *question, lost)
            }
            Self::Parts { digest, level, numbers } => {
                write_parts(&mut encoder, *digest, *level, numbers)
            }
            Self::WhoHas { position, question, wanted, limit } => {
                write_who_has(&mut encoder, *position, *question, *wanted, *limit)
            }
            Self::Has { asker, question, is_applied, name } => {
                write_has(&mut encoder, *asker, *question, *is_applied, name.as_deref())
            }
        };
        written.expect("writing to a Vec cannot fail");
        encoder.into_writer().into()
    }

    /// What the body of a request says; none if its type is not known here, or it is not what its type
    /// says.
    #[must_use]
    pub fn decode(body: &[u8]) -> Option<Self> {
        if !is_request(body) {
            return None;
        }
        let fields = Fields::read(body)?;
        let positions = || {
            let Fields { origin, numbers, .. } = &fields;
            let (first, last) = (numbers[0]?, numbers[1]?);
            (first <= last).then_some(Positions { origin: (*origin)?, first, last })
        };
        match fields.number? {
            number::REPLAY => positions().map(Self::Replay),
            number::GONE => positions().map(Self::Gone),
            number::UNSENT => {
                let position = Position { origin: fields.origin?, sequence: fields.numbers[0]? };
                Some(Self::Unsent { position, key: fields.key, version: fields.version })
            }
            number::WANTED => {
                Some(Self::Wanted { question: fields.origin?, lost: read_lost(&fields.parts)? })
            }
            number::WAIT => fields.origin.map(Self::Wait),
            number::WITHDRAWN => fields.origin.map(Self::Withdrawn),
            number::COMPARE => {
                Some(Self::Compare { question: fields.origin?, lost: read_lost(&fields.parts)? })
            }
            number::PARTS => Some(Self::Parts {
                digest: fields.origin?,
                level: fields.numbers[0]?,
                numbers: fields.parts,
            }),
            number::OFFERED => {
                let copy = Origin::from_u64(fields.numbers[0]?.get())?;
                let (to, form) = (fields.origin?, fields.numbers[1]?);
                Some(Self::Offered { to, copy, form, content_type: fields.content_type })
            }
            number::TAKE => positions().map(|Positions { origin, first, last }| Self::Take {
                copy: origin,
                first,
                last,
            }),
            number::WHO_HAS => Some(Self::WhoHas {
                position: Position { origin: fields.origin?, sequence: fields.numbers[0]? },
                question: fields.question?,
                wanted: fields.numbers[1]?,
                limit: Duration::from_millis(fields.limit?),
            }),
            number::HAS => Some(Self::Has {
                asker: fields.origin?,
                question: fields.question?,
                is_applied: fields.is_applied?,
                name: fields.name,
            }),
            _ => None,
        }
    }
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

fn write_positions(e: &mut Encoder<Vec<u8>>, number: u64, positions: Positions) -> Written {
    e.map(4)?.u8(0)?.u64(number)?.u8(1)?.u64(positions.origin.get())?;
    e.u8(2)?.u64(positions.first.get())?.u8(3)?.u64(positions.last.get())?;
    Ok(())
}

fn write_unsent(
    e: &mut Encoder<Vec<u8>>,
    position: Position,
    key: Option<&Key>,
    version: Option<u64>,
) -> Written {
    const { assert!(Key::MAX_BYTES + 64 <= MAX_REQUEST_BYTES) };
    e.map(3 + u64::from(key.is_some()) + u64::from(version.is_some()))?
        .u8(0)?
        .u64(number::UNSENT)?;
    e.u8(1)?.u64(position.origin.get())?.u8(2)?.u64(position.sequence.get())?;
    if let Some(key) = key {
        e.u8(4)?.str(key.as_str())?;
    }
    if let Some(version) = version {
        e.u8(5)?.u64(version)?;
    }
    Ok(())
}

fn write_who_has(
    e: &mut Encoder<Vec<u8>>,
    position: Position,
    question: NonZeroU64,
    wanted: NonZeroU64,
    limit: Duration,
) -> Written {
    e.map(6)?.u8(0)?.u64(number::WHO_HAS)?;
    e.u8(1)?.u64(position.origin.get())?.u8(2)?.u64(position.sequence.get())?;
    e.u8(3)?.u64(wanted.get())?.u8(6)?.u64(question.get())?;
    e.u8(7)?.u64(limit.as_millis().try_into().unwrap_or(u64::MAX))?;
    Ok(())
}

fn write_has(
    e: &mut Encoder<Vec<u8>>,
    asker: Origin,
    question: NonZeroU64,
    is_applied: bool,
    name: Option<&str>,
) -> Written {
    e.map(4 + u64::from(name.is_some()))?.u8(0)?.u64(number::HAS)?;
    e.u8(1)?.u64(asker.get())?.u8(6)?.u64(question.get())?.u8(8)?.bool(is_applied)?;
    if let Some(name) = name {
        e.u8(9)?.str(name)?;
    }
    Ok(())
}

/// Fields from 1 upwards that are numbers.
fn write_numbers(e: &mut Encoder<Vec<u8>>, number: u64, numbers: &[u64]) -> Written {
    e.map(1 + numbers.len() as u64)?.u8(0)?.u64(number)?;
    for (field, number) in (1_u64..).zip(numbers) {
        e.u64(field)?.u64(*number)?;
    }
    Ok(())
}

fn write_offered(
    e: &mut Encoder<Vec<u8>>,
    to: Origin,
    copy: Origin,
    form: NonZeroU64,
    content_type: Option<&ContentType>,
) -> Written {
    e.map(4 + u64::from(content_type.is_some()))?.u8(0)?.u64(number::OFFERED)?;
    e.u8(1)?.u64(to.get())?.u8(2)?.u64(copy.get())?.u8(3)?.u64(form.get())?;
    if let Some(content_type) = content_type {
        e.u8(10)?.str(content_type.as_str())?;
    }
    Ok(())
}

/// Losses as numbers: origin, first and last of each.
fn write_question(
    e: &mut Encoder<Vec<u8>>,
    number: u64,
    question: Origin,
    lost: &[Positions],
) -> Written {
    let lost = &lost[..lost.len().min(MOST_LOST)];
    e.map(2 + u64::from(!lost.is_empty()))?.u8(0)?.u64(number)?.u8(1)?.u64(question.get())?;
    if !lost.is_empty() {
        e.u8(11)?.array(3 * lost.len() as u64)?;
    }
    for Positions { origin, first, last } in lost {
        e.u64(origin.get())?.u64(first.get())?.u64(last.get())?;
    }
    Ok(())
}

fn read_lost(numbers: &[u64]) -> Option<Vec<Positions>> {
    let (lost, []) = numbers.as_chunks() else { return None };
    let positions = |[origin, first, last]: &[u64; 3]| {
        Positions::new(Origin::from_u64(*origin)?, *first, *last)
    };
    lost.iter().map(positions).collect()
}

fn write_parts(
    e: &mut Encoder<Vec<u8>>,
    digest: Origin,
    level: NonZeroU64,
    numbers: &[u64],
) -> Written {
    const { assert!(9 * MOST_PARTS + 64 <= MAX_REQUEST_BYTES) };
    let numbers = &numbers[..numbers.len().min(MOST_PARTS)];
    e.map(4)?.u8(0)?.u64(number::PARTS)?.u8(1)?.u64(digest.get())?.u8(2)?.u64(level.get())?;
    e.u8(11)?.array(numbers.len() as u64)?;
    for number in numbers {
        e.u64(*number)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number() -> impl Strategy<Value = NonZeroU64> {
        (1..=u64::MAX).prop_map(|number| NonZeroU64::new(number).expect("not zero"))
    }

    fn request() -> impl Strategy<Value = Request> {
        let key = prop::option::of("\\PC{1,250}".prop_map(|key| Key::new(key).expect("legal")));
        let version = any::<Option<u64>>();
        (0..12, number(), number(), number(), key, version).prop_map(
            |(kind, origin, a, b, key, version)| {
                let origin = Origin::from_u64(origin.get()).expect("not zero");
                let positions = Positions { origin, first: a.min(b), last: a.max(b) };
                let other = Origin::from_u64(a.get()).expect("not zero");
                match kind {
                    0 => Request::Replay(positions),
                    1 => Request::Gone(positions),
                    8 => Request::WhoHas {
                        position: Position { origin, sequence: a },
                        question: b,
                        wanted: a,
                        limit: Duration::from_millis(b.get()),
                    },
                    9 => Request::Has {
                        asker: origin,
                        question: a,
                        is_applied: version.is_some(),
                        name: key
                            .map(|key| key.as_str().chars().take(20).collect::<String>().into()),
                    },
                    2 => {
                        Request::Unsent { position: Position { origin, sequence: a }, key, version }
                    }
                    3 => Request::Wanted { question: origin, lost: Vec::new() },
                    4 => Request::Offered {
                        to: origin,
                        copy: other,
                        form: b,
                        content_type: key.and_then(|key| ContentType::new(key.as_str()).ok()),
                    },
                    5 => Request::Take { copy: origin, first: a.min(b), last: a.max(b) },
                    6 => Request::Withdrawn(origin),
                    10 => {
                        let count =
                            usize::try_from(b.get()).unwrap_or(usize::MAX) % (MOST_LOST + 1);
                        Request::Compare { question: origin, lost: vec![positions; count] }
                    }
                    11 => Request::Parts {
                        digest: origin,
                        level: a,
                        numbers: vec![b.get(); usize::try_from(b.get() % 257).expect("small")],
                    },
                    _ => Request::Wait(origin),
                }
            },
        )
    }

    proptest! {
        #[test]
        fn every_request_comes_back(request in request()) {
            prop_assert_eq!(Request::decode(&request.encode()), Some(request));
        }

        #[test]
        fn arbitrary_bodies_do_not_panic(
            body in prop::collection::vec(any::<u8>(), 0..80), number in 0..5_u8,
        ) {
            let _ = Request::decode(&body);
            let _ = Request::decode(&[&[0xa4, 0, number], &body[..]].concat());
            let _ = Request::decode(&[&[0xa5, 0, 0x18, 32 + number], &body[..]].concat());
        }
    }

    #[test]
    fn what_is_not_known_is_nothing() {
        let unknown = [
            &b"\xa1\x00\x0f"[..],                        // type 15
            b"\xa0",                                     // no type
            b"\xa2\x00\x01\x01\x05",                     // no range
            b"\xa4\x00\x01\x01\x05\x02\x03\x03\x02",     // a range that ends before it begins
            b"\xa4\x00\x01\x01\x00\x02\x01\x03\x02",     // origin 0
            b"\xa3\x00\x03\x01\x05\x02\x00",             // sequence 0
            b"\xa4\x00\x03\x01\x05\x02\x01\x04\x60",     // an empty key
            b"\xa1\x61\x61\x01",                         // a field that is no number
            b"\xa4\x00\x18\x21\x01\x05\x06\x00\x08\xf5", // question 0
            b"\xa4\x00\x18\x21\x01\x05\x06\x01\x08\x01", // neither yes nor no
            b"\xa3\x00\x15\x01\x05\x0b\x82\x09\x03",     // half a loss
            b"\xa3\x00\x10\x01\x05\x0b\x83\x09\x04\x03", // a loss that ends before it begins
        ];
        for body in unknown {
            assert_eq!(Request::decode(body), None, "{body:02x?}");
        }
        let extended = b"\xa5\x00\x01\x01\x05\x02\x01\x03\x02\x18\x63\x81\xf6";
        assert!(matches!(Request::decode(extended), Some(Request::Replay(_))));
    }

    /// The vectors of `docs/WIRE.md`.
    #[test]
    fn words_about_copies_are_written_as_documented() {
        let id = |number| Origin::from_u64(number).expect("not zero");
        let number = |number| NonZeroU64::new(number).expect("not zero");
        let content_type = Some(ContentType::new("application/json").expect("legal"));
        let offered = Request::Offered { to: id(5), copy: id(9), form: number(1), content_type };
        let take = Request::Take { copy: id(9), first: number(1), last: number(64) };
        let vectors = [
            (Request::Wanted { question: id(5), lost: vec![] }, &b"\xa2\x00\x10\x01\x05"[..]),
            (offered, b"\xa5\x00\x11\x01\x05\x02\x09\x03\x01\x0a\x70application/json"),
            (take, b"\xa4\x00\x12\x01\x09\x02\x01\x03\x18\x40"),
            (Request::Wait(id(5)), b"\xa2\x00\x13\x01\x05"),
            (Request::Withdrawn(id(9)), b"\xa2\x00\x14\x01\x09"),
            (Request::Compare { question: id(5), lost: vec![] }, b"\xa2\x00\x15\x01\x05"),
            (
                Request::Compare {
                    question: id(5),
                    lost: [(9, 3, 4), (10, 7, 7)]
                        .map(|(of, a, b)| Positions::new(id(of), a, b).expect("in order"))
                        .into(),
                },
                b"\xa3\x00\x15\x01\x05\x0b\x86\x09\x03\x04\x0a\x07\x07",
            ),
            (
                Request::Parts { digest: id(9), level: number(2), numbers: vec![0, 300] },
                b"\xa4\x00\x16\x01\x09\x02\x02\x0b\x82\x00\x19\x01\x2c",
            ),
        ];
        for (request, bytes) in vectors {
            assert_eq!(request.encode(), bytes);
            assert_eq!(Request::decode(bytes), Some(request));
        }
    }

    #[test]
    fn the_longest_key_fits() {
        let key = Key::new("k".repeat(Key::MAX_BYTES)).expect("legal");
        let most = NonZeroU64::MAX;
        let origin = Origin::from_u64(u64::MAX).expect("not zero");
        let request = Request::Unsent {
            position: Position { origin, sequence: most },
            key: Some(key),
            version: Some(u64::MAX),
        };
        assert!(is_request(&request.encode()));
    }
}
