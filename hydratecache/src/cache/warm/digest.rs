//! What two replicas compare: hashes of entries, which fall into buckets by a hash of their keys, and buckets
//! into groups; and the parts in which these go, as bytes and back. `docs/WIRE.md` says how.
//!
//! The hashes are keyed, and the sender draws the key anew for each digest: nobody can make up keys or
//! values that collide.

use std::hash::Hasher;
use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;
use minicbor::{Decoder, Encoder};
use siphasher::sip::SipHasher13;

use super::Head;
use super::chunk::{Item, read_item};
use crate::wire::check_well_formed;
use crate::{Key, Origin, Position, Version, VersionDomain};

/// The number of this form, in field 0 and in offers.
pub(super) const FORM: NonZeroU64 = NonZeroU64::new(2).expect("not zero");

/// About how many entries a bucket has. With a million entries the sums of all groups take 4 KiB, those of the
/// buckets in a group a quarter of one, and the hashes in a bucket half of one: about as much for a few that
/// differ as for all.
const BUCKET: usize = 64;

/// How many buckets are in a group, as a power of two.
const GROUP_BITS: u32 = 5;

/// The most buckets, as a power of two: for a billion entries.
const MOST_BITS: u32 = 24;

/// What of a digest is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// The sums of the hashes in some groups. Numbers count these parts, from 0.
    Groups = 1,
    /// The sums of the hashes in the buckets of a group. The number is that of the group, from 0.
    Buckets = 2,
    /// The hashes in a bucket. The number is that of the bucket, from 0.
    Hashes = 3,
    /// An entry. The number is its hash.
    Entry = 4,
}

impl Level {
    pub(super) fn of(number: u64) -> Option<Self> {
        let levels = [Self::Groups, Self::Buckets, Self::Hashes, Self::Entry];
        levels.into_iter().find(|level| *level as u64 == number)
    }
}

/// How keys and entries are hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hashing {
    pub(super) seed: (u64, u64),
    /// There are two to the power of so many buckets.
    pub(super) bits: u32,
}

impl Hashing {
    /// A new one for so many entries.
    pub(super) fn random(entries: usize) -> Self {
        let bits = (entries / BUCKET).max(1).next_power_of_two().trailing_zeros().min(MOST_BITS);
        Self { seed: (fastrand::u64(..), fastrand::u64(..)), bits }
    }

    pub(super) fn buckets(self) -> usize {
        1 << self.bits
    }

    pub(super) fn groups(self) -> usize {
        1 << self.bits.saturating_sub(GROUP_BITS)
    }

    /// The buckets of a group; none if there is no such group.
    pub(super) fn buckets_of(self, group: usize) -> Range<usize> {
        let size = self.buckets() / self.groups();
        if group < self.groups() { group * size..(group + 1) * size } else { 0..0 }
    }

    /// The bucket of `key`: the upper bits of its hash.
    pub(super) fn bucket(self, key: &Key) -> usize {
        let hash = self.hash(&[key.as_str().as_bytes()]);
        let upper = hash.checked_shr(64 - self.bits).unwrap_or(0);
        usize::try_from(upper).expect("24 bits at most")
    }

    /// The hash of an entry: of its key and its version, or its value where it has no version of its own.
    pub(super) fn entry(self, key: &Key, version: Option<Version>, value: Option<&Bytes>) -> u64 {
        let key = key.as_str().as_bytes();
        let Some(version) = version else {
            return self.hash(&[key, b"\xffv", value.map_or(b"", |value| value)]);
        };
        let domain = match version.domain() {
            VersionDomain::Caller => b"\xffn",
            VersionDomain::Clock => b"\xffc",
        };
        let (number, origin) =
            (version.number().to_le_bytes(), version.origin_number().to_le_bytes());
        self.hash(&[key, domain, &number, &origin])
    }

    /// No key contains the byte ff: parts behind it are told from keys.
    fn hash(self, parts: &[&[u8]]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.seed.0, self.seed.1);
        for part in parts {
            hasher.write(part);
        }
        hasher.finish()
    }
}

/// Keys by their buckets.
#[derive(Debug)]
pub(super) struct Index {
    pub(super) hashing: Hashing,
    keys: Vec<Key>,
    /// Where each bucket begins, and the end.
    begins: Vec<usize>,
}

impl Index {
    pub(super) fn new(hashing: Hashing, keys: Vec<Key>) -> Self {
        let mut keys: Vec<(usize, Key)> =
            keys.into_iter().map(|key| (hashing.bucket(&key), key)).collect();
        // In an order that repeats in a simulation.
        keys.sort_unstable();
        let begins =
            (0..=hashing.buckets()).map(|bucket| keys.partition_point(|(of, _)| *of < bucket));
        let begins = begins.collect();
        Self { hashing, keys: keys.into_iter().map(|(_, key)| key).collect(), begins }
    }

    /// The keys of a bucket; none if there is no such bucket.
    pub(super) fn bucket(&self, bucket: usize) -> &[Key] {
        let end = bucket.checked_add(1).and_then(|next| self.begins.get(next));
        self.begins.get(bucket).zip(end).map_or(&[], |(begin, end)| &self.keys[*begin..*end])
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }
}

/// A part of a digest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    Groups(Groups),
    /// The sums of the buckets in a group.
    Buckets {
        group: u64,
        sums: Vec<u64>,
    },
    Hashes {
        bucket: u64,
        hashes: Vec<u64>,
    },
    /// What became of entries with these hashes: those that are still there.
    Entries {
        hashes: Vec<u64>,
        items: Vec<Item>,
    },
}

/// The sums of some groups, and what the others need to be compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Groups {
    /// Its place, from 0, and how many of these there are.
    pub(super) number: u64,
    pub(super) count: u64,
    pub(super) hashing: Hashing,
    /// The first of the groups.
    pub(super) first: u64,
    pub(super) sums: Vec<u64>,
    pub(super) heads: Vec<Head>,
}

type Written = Result<(), minicbor::encode::Error<std::convert::Infallible>>;

impl Groups {
    pub(super) fn encode(&self) -> Bytes {
        let mut e =
            Encoder::new(Vec::with_capacity(64 + 8 * self.sums.len() + 27 * self.heads.len()));
        self.write(&mut e).expect("writing to a Vec cannot fail");
        e.into_writer().into()
    }

    fn write(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        let (a, b) = self.hashing.seed;
        e.map(8)?.u8(0)?.u64(FORM.get())?.u8(1)?.u64(Level::Groups as u64)?;
        e.u8(2)?.array(2)?.u64(self.number)?.u64(self.count)?;
        e.u8(3)?.array(self.heads.len() as u64 * 3)?;
        for Head { position, from } in &self.heads {
            e.u64(position.origin.get())?.u64(position.sequence.get())?;
            e.u64(from.map_or(0, NonZeroU64::get))?;
        }
        e.u8(4)?.array(2)?.u64(a)?.u64(b)?.u8(5)?.u32(self.hashing.bits)?;
        e.u8(6)?.u64(self.first)?.u8(7)?.bytes(&to_bytes(&self.sums))?;
        Ok(())
    }
}

/// The sums of the buckets in a group, as bytes.
pub(super) fn write_buckets(group: u64, sums: &[u64]) -> Bytes {
    write_numbered(Level::Buckets, group, sums)
}

/// The hashes in a bucket, as bytes.
pub(super) fn write_hashes(bucket: u64, hashes: &[u64]) -> Bytes {
    write_numbered(Level::Hashes, bucket, hashes)
}

fn write_numbered(level: Level, number: u64, hashes: &[u64]) -> Bytes {
    let mut e = Encoder::new(Vec::with_capacity(32 + 8 * hashes.len()));
    let mut write = || -> Written {
        e.map(4)?.u8(0)?.u64(FORM.get())?.u8(1)?.u64(level as u64)?;
        e.u8(6)?.u64(number)?.u8(7)?.bytes(&to_bytes(hashes))?;
        Ok(())
    };
    write().expect("writing to a Vec cannot fail");
    e.into_writer().into()
}

/// The answer to `hashes`, with so many entries, which were written before.
pub(super) fn write_entries(hashes: &[u64], count: u64, items: &[u8]) -> Bytes {
    let mut e = Encoder::new(Vec::with_capacity(32 + 8 * hashes.len() + items.len()));
    let mut write = || -> Written {
        e.map(4)?.u8(0)?.u64(FORM.get())?.u8(1)?.u64(Level::Entry as u64)?;
        e.u8(7)?.bytes(&to_bytes(hashes))?.u8(8)?.array(count)?;
        Ok(())
    };
    write().expect("writing to a Vec cannot fail");
    let mut bytes = e.into_writer();
    bytes.extend_from_slice(items);
    bytes.into()
}

impl Part {
    /// The part in `bytes`, which its values go on to share; none if they are no part.
    pub(super) fn decode(bytes: &Bytes) -> Option<Self> {
        check_well_formed(bytes).ok()?;
        let mut d = Decoder::new(bytes);
        let (mut form, mut level, mut place, mut seed) = (None, None, None, None);
        let (mut bits, mut first, mut hashes) = (None, None, None);
        let (mut heads, mut items) = (Vec::new(), Vec::new());
        for _ in 0..d.map().ok()?? {
            match d.u64().ok()? {
                0 => form = NonZeroU64::new(d.u64().ok()?),
                1 => level = Level::of(d.u64().ok()?),
                2 => place = Some(two(&mut d)?),
                // As many as there are, whatever is declared: each takes some bytes.
                3 => {
                    for _ in 0..d.array().ok()?? / 3 {
                        let origin = Origin::from_u64(d.u64().ok()?)?;
                        let sequence = NonZeroU64::new(d.u64().ok()?)?;
                        let from = NonZeroU64::new(d.u64().ok()?);
                        heads.push(Head { position: Position { origin, sequence }, from });
                    }
                }
                4 => seed = Some(two(&mut d)?),
                5 => bits = Some(d.u32().ok()?).filter(|bits| *bits <= MOST_BITS),
                6 => first = Some(d.u64().ok()?),
                7 => hashes = Some(of_bytes(d.bytes().ok()?)?),
                8 => {
                    for _ in 0..d.array().ok()?? {
                        items.push(read_item(&mut d, bytes)?);
                    }
                }
                _ => d.skip().ok()?,
            }
        }
        if form != Some(FORM) {
            return None;
        }
        Some(match level? {
            Level::Groups => {
                let ((number, count), hashing) = (place?, Hashing { seed: seed?, bits: bits? });
                let (first, sums) = (first?, hashes?);
                let end = first.checked_add(sums.len() as u64)?;
                if number >= count || end > hashing.groups() as u64 {
                    return None;
                }
                Self::Groups(Groups { number, count, hashing, first, sums, heads })
            }
            Level::Buckets => Self::Buckets { group: first?, sums: hashes? },
            Level::Hashes => Self::Hashes { bucket: first?, hashes: hashes? },
            Level::Entry => Self::Entries { hashes: hashes?, items },
        })
    }
}

fn two(d: &mut Decoder<'_>) -> Option<(u64, u64)> {
    if d.array().ok()?? != 2 {
        return None;
    }
    Some((d.u64().ok()?, d.u64().ok()?))
}

fn to_bytes(hashes: &[u64]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect()
}

fn of_bytes(bytes: &[u8]) -> Option<Vec<u64>> {
    let (hashes, rest) = bytes.as_chunks::<8>();
    rest.is_empty().then(|| hashes.iter().map(|hash| u64::from_be_bytes(*hash)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    use crate::cache::warm::chunk::ChunkWriter;

    fn key(name: &str) -> Key {
        Key::new(name).expect("legal")
    }

    fn groups() -> Groups {
        let position =
            Position { origin: Origin::from_u64(9).expect("not zero"), sequence: NonZeroU64::MAX };
        let hashing = Hashing { seed: (1, 2), bits: GROUP_BITS + 1 };
        let heads = vec![Head { position, from: NonZeroU64::new(6) }];
        Groups { number: 0, count: 1, hashing, first: 0, sums: vec![7, u64::MAX], heads }
    }

    fn entries() -> (Bytes, Part) {
        let item = |name, left| Item {
            key: key(name),
            version: Some(Version::caller(7)),
            left,
            payload: Some(Bytes::from_static(b"\x01")),
        };
        let items = vec![item("k", None), item("l", Some(Duration::from_micros(5)))];
        let mut writer = ChunkWriter::new(1 << 20, 1 << 20, 0);
        assert!(items.iter().all(|item| writer.push(item)));
        let (count, written) = writer.into_items();
        let hashes = vec![3, 4, 5];
        (write_entries(&hashes, count, &written), Part::Entries { hashes, items })
    }

    #[test]
    fn parts_come_back() {
        assert_eq!(Part::decode(&groups().encode()), Some(Part::Groups(groups())));
        let buckets = Part::Buckets { group: 5, sums: vec![1, 2] };
        assert_eq!(Part::decode(&write_buckets(5, &[1, 2])), Some(buckets));
        let hashes = Part::Hashes { bucket: 5, hashes: vec![1, 2] };
        assert_eq!(Part::decode(&write_hashes(5, &[1, 2])), Some(hashes));
        let (bytes, part) = entries();
        assert_eq!(Part::decode(&bytes), Some(part));
    }

    /// The vectors of `docs/WIRE.md`.
    #[test]
    fn parts_are_written_as_documented() {
        let vectors = [
            (
                write_buckets(5, &[1]),
                &b"\xa4\x00\x02\x01\x02\x06\x05\x07\x48\x00\x00\x00\x00\x00\x00\x00\x01"[..],
            ),
            (
                write_hashes(5, &[1]),
                b"\xa4\x00\x02\x01\x03\x06\x05\x07\x48\x00\x00\x00\x00\x00\x00\x00\x01",
            ),
            (
                write_entries(&[1], 0, &[]),
                b"\xa4\x00\x02\x01\x04\x07\x48\x00\x00\x00\x00\x00\x00\x00\x01\x08\x80",
            ),
            (
                Groups { sums: vec![1], heads: Vec::new(), ..groups() }.encode(),
                b"\xa8\x00\x02\x01\x01\x02\x82\x00\x01\x03\x80\x04\x82\x01\x02\x05\x06\x06\x00\
                  \x07\x48\x00\x00\x00\x00\x00\x00\x00\x01",
            ),
        ];
        for (written, expected) in vectors {
            assert_eq!(written, expected, "{written:02x?}");
        }
    }

    #[test]
    fn what_lies_outside_is_no_part() {
        let more = |change: fn(&mut Groups)| {
            let mut groups = groups();
            change(&mut groups);
            Part::decode(&groups.encode())
        };
        assert_eq!(more(|groups| groups.first = 1), None, "more groups than there are");
        assert_eq!(more(|groups| groups.first = u64::MAX), None);
        assert_eq!(more(|groups| groups.number = 1), None, "more parts than there are");
        assert_eq!(more(|groups| groups.hashing.bits = 25), None);
    }

    #[test]
    fn every_key_is_in_its_bucket_once() {
        for count in [0_usize, 1, 300, 5_000] {
            let hashing = Hashing::random(count);
            let keys: Vec<Key> = (0..count).map(|n| key(&format!("k{n}"))).collect();
            let index = Index::new(hashing, keys.clone());
            let mut found: Vec<Key> = Vec::new();
            for bucket in 0..hashing.buckets() {
                assert!(index.bucket(bucket).iter().all(|key| hashing.bucket(key) == bucket));
                assert!(index.bucket(bucket).len() < 400);
                found.extend_from_slice(index.bucket(bucket));
            }
            assert_eq!((found.len(), index.len()), (count, count));
            let in_groups = (0..hashing.groups()).flat_map(|group| hashing.buckets_of(group));
            assert!(in_groups.eq(0..hashing.buckets()), "{count}");
            assert!(hashing.buckets_of(hashing.groups()).is_empty());
            assert!(index.bucket(hashing.buckets()).is_empty());
            assert!(index.bucket(usize::MAX).is_empty());
        }
    }

    #[test]
    fn entries_differ_by_key_by_version_and_without_one_by_value() {
        let hashing = Hashing { seed: (1, 2), bits: 0 };
        let value = Bytes::from_static(b"x");
        let clock = |number, origin| Some(Version::clock(number, Origin::from_u64(origin)));
        let entries = [
            hashing.entry(&key("a"), None, Some(&value)),
            hashing.entry(&key("a"), None, None),
            hashing.entry(&key("b"), None, None),
            hashing.entry(&key("a"), Some(Version::caller(1)), None),
            hashing.entry(&key("a"), Some(Version::caller(2)), None),
            hashing.entry(&key("a"), clock(1, 1), None),
            hashing.entry(&key("a"), clock(1, 2), None),
            Hashing { seed: (1, 3), bits: 0 }.entry(&key("a"), None, None),
        ];
        let different: std::collections::BTreeSet<u64> = entries.into_iter().collect();
        assert_eq!(different.len(), entries.len());
        let version = Some(Version::caller(1));
        assert_eq!(
            hashing.entry(&key("a"), version, None),
            hashing.entry(&key("a"), version, Some(&value))
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_and_broken_parts_do_not_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(), with in any::<u8>(),
        ) {
            let _ = Part::decode(&Bytes::from(bytes));
            for whole in [groups().encode(), write_buckets(4, &[3]), write_hashes(5, &[1, 2]), entries().0] {
                let at = at.index(whole.len());
                let mut spoiled = whole.to_vec();
                spoiled[at] = with;
                let _ = Part::decode(&Bytes::from(spoiled));
                prop_assert_eq!(Part::decode(&whole.slice(..at)), None);
            }
        }
    }
}
