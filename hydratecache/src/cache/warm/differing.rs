//! What differs between this replica and the one that sends a digest.

use std::collections::HashSet;
use std::mem;

use tokio::time::Instant;

use super::chunk::Item;
use super::comparing::Comparing;
use super::digest::{Groups, Hashing, Index, Level, Part};
use super::{Head, Peers};
use crate::Key;

/// How many parts carry the sums of groups at most: more than a million publishers and a billion entries need.
const MOST_PARTS: u64 = 65_536;

/// If more entries than this and half of those that are here differ, all are taken: each costs its
/// hash beside itself.
const FEW: usize = 1_024;

/// So many times as many buckets as this replica would make are still compared, as a power of two.
const MORE_BITS: u32 = 4;

/// What was compared so far.
#[derive(Debug, Default)]
pub(super) struct Differing {
    /// How far the other replica had come with each publisher.
    pub(super) heads: Vec<Head>,
    /// This replica's keys, once it is known how they are hashed.
    index: Option<Index>,
    /// Keys of this replica whose entry the other one does not have.
    only_here: Vec<Key>,
    /// Keys of the other replica whose entry this one did not have.
    fetched: HashSet<Key, foldhash::fast::RandomState>,
    /// The sums of so many groups have come.
    groups: usize,
    /// So many parts with sums of groups and heads have not come, once their number is known.
    missing_parts: Option<u64>,
    /// How many entries of the other replica this one does not have.
    missing: usize,
    is_too_much: bool,
}

impl Differing {
    /// Compares with `part`, has asked for what else is needed, and returns the entries that came.
    pub(super) async fn compare<T: Send + Sync + 'static>(
        &mut self,
        peers: &Peers<T>,
        comparing: &mut Comparing,
        part: Part,
    ) -> Vec<Item> {
        let now = Instant::now();
        match part {
            Part::Groups(part) => {
                if comparing.received(Level::Groups, part.number, now) {
                    self.groups(peers, comparing, part).await;
                }
                Vec::new()
            }
            Part::Buckets { group, sums } => {
                if comparing.received(Level::Buckets, group, now) {
                    self.buckets(peers, comparing, group, &sums).await;
                }
                Vec::new()
            }
            Part::Hashes { bucket, hashes } => {
                if comparing.received(Level::Hashes, bucket, now) {
                    self.hashes(peers, comparing, bucket, hashes).await;
                }
                Vec::new()
            }
            Part::Entries { hashes, items } => {
                let mut received = |hash: &u64| comparing.received(Level::Entry, *hash, now);
                if hashes.iter().filter(|hash| received(hash)).count() == 0 {
                    return Vec::new();
                }
                self.fetched.extend(items.iter().map(|item| item.key.clone()));
                items
            }
        }
    }

    /// Whether to take all is cheaper, or what came cannot be compared.
    pub(super) fn is_too_much(&self) -> bool {
        self.is_too_much
    }

    /// How far the other replica had come with each publisher, once all of that has come: before that none of
    /// its entries is to be taken.
    pub(super) fn all_heads(&self) -> Option<&[Head]> {
        (self.missing_parts == Some(0)).then_some(&self.heads)
    }

    /// Whether the sums of all groups have come.
    pub(super) fn is_whole(&self) -> bool {
        self.index.as_ref().is_some_and(|index| self.groups == index.hashing.groups())
    }

    /// Keys that are here and not there.
    pub(super) fn absent(&mut self) -> Vec<Key> {
        let mut absent = mem::take(&mut self.only_here);
        absent.retain(|key| !self.fetched.contains(key));
        absent
    }

    async fn groups<T: Send + Sync + 'static>(
        &mut self,
        peers: &Peers<T>,
        comparing: &mut Comparing,
        part: Groups,
    ) {
        let Groups { count, hashing, first, sums, heads, .. } = part;
        if self.index.is_none() {
            let own = |keys: usize| Hashing::random(keys).bits + MORE_BITS;
            let is_coarse = hashing.bits <= own(peers.contents.keys().len());
            if !is_coarse || count > MOST_PARTS {
                self.is_too_much = true;
                return;
            }
            let Ok(index) = peers.index(|_| hashing).await else {
                self.is_too_much = true;
                return;
            };
            self.index = Some(index);
            comparing.wants(Level::Groups, 1..count, Instant::now());
        }
        let Some(index) = self.index.as_ref().filter(|index| index.hashing == hashing) else {
            // Not of this digest.
            self.is_too_much = true;
            return;
        };
        self.missing_parts = Some(self.missing_parts.unwrap_or(count).saturating_sub(1));
        self.heads.extend(heads);
        self.groups += sums.len();
        let own = peers.sums_of_groups(index, place(first), sums.len()).await;
        comparing.wants(Level::Buckets, differing(first, &own, &sums), Instant::now());
    }

    async fn buckets<T: Send + Sync + 'static>(
        &mut self,
        peers: &Peers<T>,
        comparing: &mut Comparing,
        group: u64,
        sums: &[u64],
    ) {
        let Some(index) = &self.index else { return };
        let buckets = index.hashing.buckets_of(place(group));
        // Of another number nothing could be compared.
        self.is_too_much |= sums.len() != buckets.len();
        let first = buckets.start as u64;
        let own = peers.sums(index, buckets).await;
        comparing.wants(Level::Hashes, differing(first, &own, sums), Instant::now());
    }

    async fn hashes<T: Send + Sync + 'static>(
        &mut self,
        peers: &Peers<T>,
        comparing: &mut Comparing,
        bucket: u64,
        hashes: Vec<u64>,
    ) {
        let Some(index) = &self.index else { return };
        let mut missing: HashSet<u64, foldhash::fast::RandomState> = hashes.into_iter().collect();
        for key in index.bucket(place(bucket)) {
            if let Some(hash) = peers.hash(index.hashing, key).await
                && !missing.remove(&hash)
            {
                self.only_here.push(key.clone());
            }
        }
        self.missing += missing.len();
        self.is_too_much |= self.missing > FEW + index.len() / 2;
        // In an order that repeats in a simulation.
        let mut missing: Vec<u64> = missing.into_iter().collect();
        missing.sort_unstable();
        comparing.wants(Level::Entry, missing, Instant::now());
    }
}

/// What others count as `number`, here; one that does not exist for what cannot.
fn place(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// The numbers, from `first`, of those that differ.
fn differing(first: u64, own: &[u64], others: &[u64]) -> impl Iterator<Item = u64> {
    let pairs = (first..).zip(own.iter().zip(others));
    pairs.filter(|(_, (own, other))| own != other).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cache::Replica;
    use crate::cache::stats::Counters;
    use crate::cache::warm::contents;
    use crate::memory::MemoryTransport;
    use crate::{Channel, Origin};

    fn peers() -> Peers<String> {
        let users = Channel::<String>::new(MemoryTransport::new(), "users").expect("legal");
        let counters = Arc::new(Counters::new(&users.0.labels()));
        Peers::new(users.0.clone(), counters, contents(Replica::new()), Duration::ZERO)
    }

    #[tokio::test]
    async fn sums_that_were_left_out_are_no_agreement() {
        let (peers, hashing) = (peers(), Hashing::random(10));
        for (sums, is_whole) in [(vec![], false), (vec![0; hashing.groups()], true)] {
            let digest = Origin::from_u64(1).expect("not zero");
            let mut comparing = Comparing::begin(digest, Instant::now());
            let mut differing = Differing::default();
            let groups = Groups { number: 0, count: 1, hashing, first: 0, sums, heads: Vec::new() };
            differing.compare(&peers, &mut comparing, Part::Groups(groups)).await;
            assert!(comparing.is_complete());
            assert_eq!(differing.is_whole(), is_whole);
        }
        let mut comparing =
            Comparing::begin(Origin::from_u64(1).expect("not zero"), Instant::now());
        let index = Some(peers.index(|_| hashing).await.expect("sorted"));
        let mut differing = Differing { index, ..Differing::default() };
        comparing.wants(Level::Buckets, [0], Instant::now());
        let part = Part::Buckets { group: 0, sums: Vec::new() };
        differing.compare(&peers, &mut comparing, part).await;
        assert!(differing.is_too_much());
    }
}
