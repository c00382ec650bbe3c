//! A chunk of a copy: some entries of a replica, as bytes and back.
//! `docs/WIRE.md` says how.

use std::convert::Infallible;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decoder, Encoder};

use super::Head;
use crate::wire::check_well_formed;
use crate::{Key, Origin, Position, Version, VersionDomain};

/// The number of this form, in field 0 and in offers.
pub(super) const FORM: NonZeroU64 = NonZeroU64::MIN;

/// What a chunk adds to its entries and heads at most: a map, its numbers, and lengths.
const OVERHEAD_BYTES: usize = 64;

/// What an entry adds to its key and its payload at most.
const ENTRY_OVERHEAD_BYTES: usize = 48;

/// What a head takes at most.
pub(super) const HEAD_BYTES: usize = 27;

/// Some entries of a replica, and of what it knows of publishers.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Its place in the copy, from 1.
    pub(super) number: NonZeroU64,
    /// There is none behind it.
    pub(super) is_last: bool,
    pub(super) items: Vec<Item>,
    /// How far the replica had applied the messages of some publishers, before it read any entry.
    pub(super) heads: Vec<Head>,
}

/// An entry under way.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) key: Key,
    pub(super) version: Option<Version>,
    /// How long it lives from now on, if it has an end.
    pub(super) left: Option<Duration>,
    /// The value, as the channel's codec writes it; none if it did not fit.
    pub(super) payload: Option<Bytes>,
}

/// Gathers entries until a chunk is full.
pub(super) struct ChunkWriter {
    items: Encoder<Vec<u8>>,
    count: u64,
    /// How much room there is, in bytes.
    room: usize,
    /// How much all of them may take, if need be.
    most: usize,
}

impl ChunkWriter {
    /// A writer of a chunk of `bytes`, or of `most` for a single entry that needs so much, with so many
    /// heads.
    pub(super) fn new(bytes: usize, most: usize, heads: usize) -> Self {
        let without = |bytes: usize| bytes.saturating_sub(OVERHEAD_BYTES + heads * HEAD_BYTES);
        let (room, most) = (without(bytes), without(most));
        Self { items: Encoder::new(Vec::new()), count: 0, room: room.min(most), most }
    }

    /// Adds `item`. `false`: it does not fit into this chunk, and is to begin the next one.
    pub(super) fn push(&mut self, item: &Item) -> bool {
        let used = self.items.writer().len();
        if used > 0 && used + room_for(item) > self.room {
            return false;
        }
        self.push_anyway(item);
        true
    }

    /// Adds `item`, which belongs here; without its value if there is no room for that.
    pub(super) fn push_anyway(&mut self, item: &Item) {
        let fits = self.items.writer().len() + room_for(item) <= self.most;
        let payload = item.payload.as_ref().filter(|_| fits);
        write_item(&mut self.items, item, payload).expect("writing to a Vec cannot fail");
        self.count += 1;
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The entries alone, and how many they are.
    pub(super) fn into_items(self) -> (u64, Vec<u8>) {
        (self.count, self.items.into_writer())
    }

    /// The chunk with this number.
    pub(super) fn finish(self, number: NonZeroU64, is_last: bool, heads: &[Head]) -> Bytes {
        let items = self.items.into_writer();
        let mut encoder =
            Encoder::new(Vec::with_capacity(items.len() + 32 + heads.len() * HEAD_BYTES));
        write_rest(&mut encoder, number, is_last, heads).expect("writing to a Vec cannot fail");
        encoder.array(self.count).expect("writing to a Vec cannot fail");
        let mut bytes = encoder.into_writer();
        bytes.extend_from_slice(&items);
        bytes.into()
    }
}

fn room_for(item: &Item) -> usize {
    let payload = item.payload.as_ref().map_or(0, Bytes::len);
    ENTRY_OVERHEAD_BYTES + item.key.as_str().len() + payload
}

type Written = Result<(), minicbor::encode::Error<Infallible>>;

/// All fields but the entries, and the number of their field.
fn write_rest(
    e: &mut Encoder<Vec<u8>>,
    number: NonZeroU64,
    is_last: bool,
    heads: &[Head],
) -> Written {
    e.map(6)?.u8(0)?.u64(FORM.get())?.u8(1)?.u64(number.get())?.u8(2)?.bool(is_last)?;
    e.u8(3)?.array(heads.len() as u64 * 2)?;
    for Position { origin, sequence } in heads.iter().map(|head| head.position) {
        e.u64(origin.get())?.u64(sequence.get())?;
    }
    e.u8(5)?.array(heads.len() as u64)?;
    for head in heads {
        e.u64(head.from.map_or(0, NonZeroU64::get))?;
    }
    e.u8(4)?;
    Ok(())
}

fn write_item(e: &mut Encoder<Vec<u8>>, item: &Item, payload: Option<&Bytes>) -> Written {
    e.array(4)?.str(item.key.as_str())?;
    match item.version.map(|version| (version.domain(), version)) {
        None => e.null()?,
        Some((VersionDomain::Caller, version)) => e.u64(version.number())?,
        Some((VersionDomain::Clock, version)) => {
            e.array(2)?.u64(version.number())?.u64(version.origin_number())?
        }
    };
    match item.left {
        None => e.null()?,
        Some(left) => e.u64(u64::try_from(left.as_micros()).unwrap_or(u64::MAX))?,
    };
    match payload {
        None => e.null()?,
        Some(payload) => e.bytes(payload)?,
    };
    Ok(())
}

impl Chunk {
    /// The chunk in `bytes`, which its payloads go on to share; none if they are no chunk.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        check_well_formed(bytes).ok()?;
        let mut d = Decoder::new(bytes);
        let (mut form, mut number, mut is_last) = (None, None, None);
        let (mut items, mut positions, mut from) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..d.map().ok()?? {
            match d.u64().ok()? {
                0 => form = NonZeroU64::new(d.u64().ok()?),
                1 => number = NonZeroU64::new(d.u64().ok()?),
                2 => is_last = Some(d.bool().ok()?),
                // As many as there are, whatever is declared: each takes some bytes.
                3 => {
                    for _ in 0..d.array().ok()?? / 2 {
                        let origin = Origin::from_u64(d.u64().ok()?)?;
                        let sequence = NonZeroU64::new(d.u64().ok()?)?;
                        positions.push(Position { origin, sequence });
                    }
                }
                4 => {
                    for _ in 0..d.array().ok()?? {
                        items.push(read_item(&mut d, bytes)?);
                    }
                }
                5 => {
                    for _ in 0..d.array().ok()?? {
                        from.push(NonZeroU64::new(d.u64().ok()?));
                    }
                }
                _ => d.skip().ok()?,
            }
        }
        // Who does not say from where it was told of all vouches for nothing.
        let from = from.into_iter().chain(std::iter::repeat(None));
        let heads = positions.into_iter().zip(from);
        let heads = heads.map(|(position, from)| Head { position, from }).collect();
        let chunk = Self { number: number?, is_last: is_last?, items, heads };
        (form == Some(FORM)).then_some(chunk)
    }
}

pub(super) fn read_item(d: &mut Decoder<'_>, bytes: &Bytes) -> Option<Item> {
    use minicbor::data::Type;
    if d.array().ok()?? != 4 {
        return None;
    }
    let key = Key::new(d.str().ok()?).ok()?;
    let version = match d.datatype().ok()? {
        Type::Null => d.null().ok().map(|()| None)?,
        Type::Array => {
            if d.array().ok()?? != 2 {
                return None;
            }
            let number = d.u64().ok()?;
            Some(Version::clock(number, Origin::from_u64(d.u64().ok()?)))
        }
        _ => Some(Version::caller(d.u64().ok()?)),
    };
    let left = match d.datatype().ok()? {
        Type::Null => d.null().ok().map(|()| None)?,
        _ => Some(Duration::from_micros(d.u64().ok()?)),
    };
    let payload = if d.datatype().ok()? == Type::Null {
        d.null().ok().map(|()| None)?
    } else {
        let length = d.bytes().ok()?.len();
        Some(bytes.slice(d.position() - length..d.position()))
    };
    Some(Item { key, version, left, payload })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::warm::numbers::number;
    use proptest::prelude::*;

    fn key(name: &str) -> Key {
        Key::new(name).expect("legal")
    }

    fn item(name: &str, payload: Option<&'static [u8]>) -> Item {
        let payload = payload.map(Bytes::from_static);
        Item { key: key(name), version: None, left: None, payload }
    }

    fn head(origin: u64, sequence: u64) -> Head {
        let origin = Origin::from_u64(origin).expect("not zero");
        let position = Position { origin, sequence: number(sequence) };
        Head { position, from: NonZeroU64::new(sequence - 1) }
    }

    fn written(items: &[Item], heads: &[Head]) -> Bytes {
        let mut writer = ChunkWriter::new(1 << 20, 1 << 20, heads.len());
        assert!(items.iter().all(|item| writer.push(item)));
        writer.finish(number(7), items.is_empty(), heads)
    }

    #[test]
    fn a_chunk_comes_back() {
        let items = || {
            vec![
                Item { version: Some(Version::caller(7)), ..item("b", Some(b"x")) },
                Item {
                    version: Some(Version::clock(u64::MAX, Origin::from_u64(9))),
                    left: Some(Duration::from_micros(5)),
                    ..item("c", Some(b""))
                },
                item("a", None),
            ]
        };
        let heads = || vec![head(9, 1), head(u64::MAX, u64::MAX)];
        let chunk = Chunk::decode(&written(&items(), &heads())).expect("a chunk");
        let expected = Chunk { number: number(7), is_last: false, items: items(), heads: heads() };
        assert_eq!(chunk, expected);
        let nothing = Chunk::decode(&written(&[], &[])).expect("a chunk");
        let expected = Chunk { number: number(7), is_last: true, items: vec![], heads: vec![] };
        assert_eq!(nothing, expected);
    }

    /// The vector of `docs/WIRE.md`.
    #[test]
    fn a_chunk_is_written_as_documented() {
        let mut writer = ChunkWriter::new(1 << 20, 1 << 20, 1);
        let version = Some(Version::caller(7));
        assert!(writer.push(&Item { version, ..item("k", Some(b"\x01")) }));
        let version = Some(Version::clock(65_536, Origin::from_u64(9)));
        let left = Some(Duration::from_millis(1));
        assert!(writer.push(&Item { version, left, ..item("l", None) }));
        let bytes = writer.finish(number(1), true, &[head(9, 7)]);
        let expected = b"\xa6\x00\x01\x01\x01\x02\xf5\x03\x82\x09\x07\x05\x81\x06\x04\x82\
            \x84\x61\x6b\x07\xf6\x41\x01\
            \x84\x61\x6c\x82\x1a\x00\x01\x00\x00\x09\x19\x03\xe8\xf6";
        assert_eq!(bytes, expected[..]);
    }

    #[test]
    fn chunks_are_as_large_as_they_may_be_and_what_fits_into_none_goes_without_its_value() {
        let value = |bytes: usize| Some(Bytes::from(vec![7; bytes]));
        let mut writer = ChunkWriter::new(8_000, 20_000, 10);
        let small = |name: &str| Item { payload: value(1_000), ..item(name, None) };
        let count = (0..100).take_while(|n| writer.push(&small(&format!("k{n:03}")))).count();
        let heads: Vec<Head> = (0..10).map(|n| head(u64::MAX - n, u64::MAX)).collect();
        let bytes = writer.finish(number(u64::MAX), false, &heads);
        assert!((5..8).contains(&count) && bytes.len() <= 8_000, "{count} in {}", bytes.len());
        for (size, is_kept) in [(15_000, true), (20_000, false)] {
            let mut writer = ChunkWriter::new(8_000, 20_000, 0);
            assert!(writer.push(&Item { payload: value(size), ..item("large", None) }));
            let bytes = writer.finish(number(1), false, &[]);
            assert!(bytes.len() <= 20_000);
            let chunk = Chunk::decode(&bytes).expect("a chunk");
            assert_eq!(chunk.items[0].payload.is_some(), is_kept);
        }
    }

    #[test]
    fn what_grew_since_it_was_sent_first_stays_within_what_is_carried() {
        let mut writer = ChunkWriter::new(8_000, 20_000, 0);
        for n in 0..10 {
            let payload = Some(Bytes::from(vec![7; 5_000]));
            writer.push_anyway(&Item { payload, ..item(&format!("k{n}"), None) });
        }
        let bytes = writer.finish(number(1), true, &[]);
        let chunk = Chunk::decode(&bytes).expect("a chunk");
        let kept = chunk.items.iter().filter(|item| item.payload.is_some()).count();
        assert!(bytes.len() <= 20_000 && kept == 3, "{kept} in {}", bytes.len());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_broken_chunks_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let _ = Chunk::decode(&Bytes::from(bytes));
            let whole = written(&[item("b", Some(b"x")), item("c", None)], &[head(5, 6)]);
            let mut spoiled = whole.to_vec();
            let at = at.index(spoiled.len());
            spoiled[at] = with;
            let _ = Chunk::decode(&Bytes::from(spoiled));
            prop_assert_eq!(Chunk::decode(&whole.slice(..at)), None);
        }
    }
}
