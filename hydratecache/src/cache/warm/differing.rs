//! What differs between this replica and the one that sends a digest.

use std::collections::HashSet;
use std::mem;

use tokio::time::Instant;

use super::chunk::Item;
use super::comparing::Comparing;
use super::digest::{Hashing, Index, Level, Part, Sums};
use super::{Head, Peers};
use crate::Key;

/// How many parts carry sums at most: more than a million publishers and four billion entries need.
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
            Part::Sums(part) => {
                if comparing.received(Level::Sums, part.number, now) {
                    self.sums(peers, comparing, part).await;
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

    /// Whether to take all is cheaper.
    pub(super) fn is_too_much(&self) -> bool {
        self.is_too_much
    }

    /// Keys that are here and not there.
    pub(super) fn absent(&mut self) -> Vec<Key> {
        let mut absent = mem::take(&mut self.only_here);
        absent.retain(|key| !self.fetched.contains(key));
        absent
    }

    async fn sums<T: Send + Sync + 'static>(
        &mut self,
        peers: &Peers<T>,
        comparing: &mut Comparing,
        part: Sums,
    ) {
        let Sums { count, hashing, first, totals, heads, .. } = part;
        if self.index.is_none() {
            let own = |keys: usize| Hashing::random(keys).bits + MORE_BITS;
            let is_coarse = hashing.bits <= own(peers.contents.keys().len());
            if !is_coarse || count > MOST_PARTS {
                self.is_too_much = true;
                return;
            }
            self.index = Some(peers.index(|_| hashing).await);
            comparing.wants(Level::Sums, 1..count, Instant::now());
        }
        let Some(index) = self.index.as_ref().filter(|index| index.hashing == hashing) else {
            // Not of this digest.
            self.is_too_much = true;
            return;
        };
        self.heads.extend(heads);
        let begin = usize::try_from(first).unwrap_or(usize::MAX);
        let own = peers.sums(index, begin, totals.len()).await;
        let buckets = (first..).zip(own.iter().zip(&totals));
        let differing = buckets.filter(|(_, (own, other))| own != other).map(|(bucket, _)| bucket);
        comparing.wants(Level::Hashes, differing, Instant::now());
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
        for key in index.bucket(usize::try_from(bucket).unwrap_or(usize::MAX)) {
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
