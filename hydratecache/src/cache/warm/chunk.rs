//! A chunk of a copy: some entries of a replica, in the order of their keys, as bytes and back.
//! `docs/WIRE.md` says how.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use minicbor::{Decoder, Encoder};

use crate::wire::check_well_formed;
use crate::{Key, Origin, Version, VersionDomain};

/// The number of this form, in field 0.
const FORM: u64 = 1;

/// What a chunk adds to its entries at most, but for the two keys: a map, its numbers, and lengths.
const OVERHEAD_BYTES: usize = 64;

/// What an entry adds to its key and its payload at most.
const ENTRY_OVERHEAD_BYTES: usize = 48;

/// Some entries of a replica: all that it has after one key and up to another.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// Where it begins; none: with the first key.
    pub(super) after: Option<Key>,
    /// How far it reaches; none: to the end.
    pub(super) upto: Option<Key>,
    /// In the order of their keys.
    pub(super) items: Vec<Item>,
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
    /// How much one entry may take, alone in its chunk.
    most: usize,
}

impl ChunkWriter {
    /// A writer of chunks of `bytes`, and of larger ones for single entries that need `most`.
    pub(super) fn new(bytes: usize, most: usize) -> Self {
        let without =
            |bytes: usize| bytes.saturating_sub(OVERHEAD_BYTES + 2 * (Key::MAX_BYTES + 3));
        let (room, most) = (without(bytes), without(most));
        Self { items: Encoder::new(Vec::new()), count: 0, room: room.min(most), most }
    }

    /// Adds `item`. `false`: it does not fit into this chunk, and is to begin the next one.
    pub(super) fn push(&mut self, item: &Item) -> bool {
        let bytes = ENTRY_OVERHEAD_BYTES
            + item.key.as_str().len()
            + item.payload.as_ref().map_or(0, Bytes::len);
        let used = self.items.writer().len();
        if used > 0 && used + bytes > self.room {
            return false;
        }
        let payload = item.payload.as_ref().filter(|_| bytes <= self.most);
        write_item(&mut self.items, item, payload).expect("writing to a Vec cannot fail");
        self.count += 1;
        true
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The chunk, from `after` to `upto`. The writer begins a new one.
    pub(super) fn finish(&mut self, after: Option<&Key>, upto: Option<&Key>) -> Bytes {
        let items = std::mem::replace(&mut self.items, Encoder::new(Vec::new())).into_writer();
        let count = std::mem::take(&mut self.count);
        let mut encoder = Encoder::new(Vec::with_capacity(items.len() + 256));
        write_head(&mut encoder, after, upto, count).expect("writing to a Vec cannot fail");
        let mut bytes = encoder.into_writer();
        bytes.extend_from_slice(&items);
        bytes.into()
    }
}

type Written = Result<(), minicbor::encode::Error<Infallible>>;

fn write_head(
    e: &mut Encoder<Vec<u8>>,
    after: Option<&Key>,
    upto: Option<&Key>,
    count: u64,
) -> Written {
    e.map(2 + u64::from(after.is_some()) + u64::from(upto.is_some()))?.u8(0)?.u64(FORM)?;
    if let Some(after) = after {
        e.u8(1)?.str(after.as_str())?;
    }
    if let Some(upto) = upto {
        e.u8(2)?.str(upto.as_str())?;
    }
    e.u8(3)?.array(count)?;
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
    /// The chunk in `bytes`, which its payloads go on to share; none if they are no chunk, or one whose
    /// entries are not in order and between its ends.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        check_well_formed(bytes).ok()?;
        let mut d = Decoder::new(bytes);
        let mut chunk = Self { after: None, upto: None, items: Vec::new() };
        let mut form = None;
        for _ in 0..d.map().ok()?? {
            match d.u64().ok()? {
                0 => form = Some(d.u64().ok()?),
                1 => chunk.after = Some(Key::new(d.str().ok()?).ok()?),
                2 => chunk.upto = Some(Key::new(d.str().ok()?).ok()?),
                3 => {
                    // As many as there are, whatever is declared: each takes some bytes.
                    for _ in 0..d.array().ok()?? {
                        chunk.items.push(read_item(&mut d, bytes)?);
                    }
                }
                _ => d.skip().ok()?,
            }
        }
        (form == Some(FORM) && chunk.is_in_order()).then_some(chunk)
    }

    fn is_in_order(&self) -> bool {
        let keys = || self.items.iter().map(|item| &item.key);
        let first = self.after.iter().chain(keys());
        let is_ascending = first.clone().zip(first.skip(1)).all(|(a, b)| a < b);
        let last = keys().next_back().or(self.after.as_ref());
        let is_within = self.upto.as_ref().is_none_or(|upto| {
            // An end that is no step forward would have the copy go on for ever.
            last.is_none_or(|last| last <= upto) && Some(upto) > self.after.as_ref()
        });
        is_ascending && is_within
    }
}

fn read_item(d: &mut Decoder<'_>, bytes: &Bytes) -> Option<Item> {
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
    use proptest::prelude::*;

    fn key(name: &str) -> Key {
        Key::new(name).expect("legal")
    }

    fn item(name: &str, payload: Option<&'static [u8]>) -> Item {
        let payload = payload.map(Bytes::from_static);
        Item { key: key(name), version: None, left: None, payload }
    }

    fn written(after: Option<&str>, upto: Option<&str>, items: &[Item]) -> Bytes {
        let mut writer = ChunkWriter::new(1 << 20, 1 << 20);
        assert!(items.iter().all(|item| writer.push(item)));
        writer.finish(after.map(key).as_ref(), upto.map(key).as_ref())
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
                item("d", None),
            ]
        };
        for (after, upto) in [(None, None), (Some("a"), Some("d")), (Some("a"), Some("z"))] {
            let chunk = Chunk::decode(&written(after, upto, &items())).expect("a chunk");
            let expected = Chunk { after: after.map(key), upto: upto.map(key), items: items() };
            assert_eq!(chunk, expected);
        }
        let nothing = Chunk::decode(&written(Some("a"), None, &[])).expect("a chunk");
        assert_eq!(nothing.items, []);
    }

    #[test]
    fn what_is_not_in_order_or_makes_no_progress_is_no_chunk() {
        let two = |a, b| [item(a, None), item(b, None)];
        let broken = [
            written(None, None, &two("b", "a")),
            written(None, None, &two("a", "a")),
            written(Some("b"), None, &two("b", "c")),
            written(None, Some("a"), &two("a", "b")),
            written(Some("b"), Some("b"), &[]),
            written(Some("b"), Some("a"), &[]),
        ];
        assert!(broken.iter().all(|bytes| Chunk::decode(bytes).is_none()));
    }

    #[test]
    fn chunks_are_as_large_as_they_may_be_and_what_fits_into_none_goes_without_its_value() {
        let value = |bytes: usize| Some(Bytes::from(vec![7; bytes]));
        let mut writer = ChunkWriter::new(8_000, 20_000);
        let small = |name: &str| Item { payload: value(1_000), ..item(name, None) };
        let count = (0..100).take_while(|n| writer.push(&small(&format!("k{n:03}")))).count();
        let bytes = writer.finish(None, Some(&key("k100")));
        assert!((4..8).contains(&count) && bytes.len() <= 8_000, "{count} in {}", bytes.len());
        for (size, is_kept) in [(15_000, true), (19_000, false)] {
            assert!(writer.push(&Item { payload: value(size), ..item("large", None) }));
            let bytes = writer.finish(None, None);
            assert!(bytes.len() <= 20_000);
            let chunk = Chunk::decode(&bytes).expect("a chunk");
            assert_eq!(chunk.items[0].payload.is_some(), is_kept);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_broken_chunks_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let _ = Chunk::decode(&Bytes::from(bytes));
            let whole = written(Some("a"), Some("d"), &[item("b", Some(b"x")), item("c", None)]);
            let mut spoiled = whole.to_vec();
            let at = at.index(spoiled.len());
            spoiled[at] = with;
            let _ = Chunk::decode(&Bytes::from(spoiled));
            prop_assert_eq!(Chunk::decode(&whole.slice(..at)), None);
        }
    }
}
