//! Giving digests: a replica that is whole answers those who lost messages.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, yield_now};
use tokio::time::{Duration, Instant, timeout};

use super::chunk::{ChunkWriter, HEAD_BYTES};
use super::comparing::AT_ONCE;
use super::digest::{Groups, Hashing, Index, Level, write_buckets, write_entries, write_hashes};
use super::offering::{Asked, Pace, QUICKLY_SORTED, Shop, Stage};
use super::taking::PATIENCE;
use super::{Head, Peers, chunk_key, most_bytes, not_sorted};
use crate::{Key, Message, Origin, Result};

/// How many heads a part carries.
const HEADS: usize = 512;

/// What a part adds to its heads and hashes at most.
const OVERHEAD_BYTES: usize = 96;

/// How many parts wait to be sent at most: those who need more ask again.
const MOST_WAITING: usize = 65_536;

/// How many entries are hashed before others get their turn.
const ROUND: usize = 512;

/// A digest is kept for so long after the last question, unless another copy or digest needs its place.
const LINGERING: Duration = Duration::from_secs(10);

impl<T: Send + Sync + 'static> Peers<T> {
    /// All keys of this replica, by their buckets. An error: the runtime is ending.
    pub(super) async fn index(&self, hashing: impl FnOnce(usize) -> Hashing) -> Result<Index> {
        let keys = self.contents.keys();
        let hashing = hashing(keys.len());
        if keys.len() <= QUICKLY_SORTED {
            return Ok(Index::new(hashing, keys));
        }
        let indexed = spawn_blocking(move || Index::new(hashing, keys)).await;
        // No keys at all would be taken for the truth.
        indexed.map_err(|_| not_sorted())
    }

    /// The hash of what `key` has, unless its life is over.
    pub(super) async fn hash(&self, hashing: Hashing, key: &Key) -> Option<u64> {
        let (entry, _) = self.living(key).await?;
        let version = entry.own_version();
        let is_value_compared = version.is_none();
        let value =
            is_value_compared.then(|| self.channel.codec.encode(entry.value()).ok()).flatten();
        Some(hashing.entry(key, version, value.as_ref()))
    }

    /// The sums of the hashes in some groups, of which there are so many.
    pub(super) async fn sums_of_groups(
        &self,
        index: &Index,
        first: usize,
        count: usize,
    ) -> Vec<u64> {
        let mut sums = Vec::with_capacity(count);
        for group in first..first + count {
            let buckets = self.sums(index, index.hashing.buckets_of(group)).await;
            sums.push(buckets.into_iter().fold(0, u64::wrapping_add));
        }
        sums
    }

    /// The sums of the hashes in some buckets.
    pub(super) async fn sums(&self, index: &Index, buckets: Range<usize>) -> Vec<u64> {
        let (mut sums, mut hashed) = (Vec::with_capacity(buckets.len()), 0);
        for bucket in buckets {
            let mut sum = 0_u64;
            for key in index.bucket(bucket) {
                sum = sum.wrapping_add(self.hash(index.hashing, key).await.unwrap_or(0));
                hashed += 1;
                if hashed % ROUND == 0 {
                    yield_now().await;
                }
            }
            sums.push(sum);
        }
        sums
    }
}

/// A digest under way.
struct Digest<'a, T> {
    shop: &'a Shop<T>,
    index: Index,
    heads: &'a [Head],
    /// How many sums of groups are in a part, and how many heads.
    sums: usize,
    parts_heads: usize,
    /// Which entries have the hashes that were sent.
    listed: HashMap<u64, Key, foldhash::fast::RandomState>,
    waiting: BTreeSet<(Level, u64)>,
}

impl<T: Send + Sync + 'static> Shop<T> {
    /// Sends what is asked for of a digest, until nobody asks any more.
    pub(super) async fn send_digest(
        &self,
        digest: Origin,
        (shaken, heads): (u64, &[Head]),
        first: Asked,
        asked: &mut mpsc::Receiver<Asked>,
        stage: &Stage,
    ) -> Result<()> {
        let peers = &self.desk.peers;
        let topic = peers.topic_of(digest)?;
        let most = most_bytes(peers.channel.transport.limits());
        let room = self.settings.chunk_bytes.min(most);
        let parts_heads = (most / 2 / HEAD_BYTES).clamp(1, HEADS);
        let taken = OVERHEAD_BYTES + heads.len().min(parts_heads) * HEAD_BYTES;
        let mut digest = Digest {
            shop: self,
            index: peers.index(Hashing::random).await?,
            heads,
            sums: (room.saturating_sub(taken) / 8).max(1),
            parts_heads,
            listed: HashMap::default(),
            waiting: BTreeSet::new(),
        };
        digest.ask(first);
        let mut pace = Pace::new(self.settings);
        loop {
            while let Ok(asked) = asked.try_recv() {
                digest.ask(asked);
            }
            let Some(bytes) = digest.next(most).await else {
                stage.set(Stage::COMPLETE);
                let Ok(Some(asked)) = timeout(LINGERING.max(PATIENCE), asked.recv()).await else {
                    return Ok(());
                };
                digest.ask(asked);
                continue;
            };
            // Read before this: what was lost since is not in the part.
            if !self.is_sound(shaken) {
                return Err(crate::cache::hydration::stopped());
            }
            pace.takes(bytes.len(), Instant::now());
            peers.publish(topic.clone(), Message::put(chunk_key(), bytes)).await?;
            pace.rest().await;
        }
    }
}

impl<T: Send + Sync + 'static> Digest<'_, T> {
    fn ask(&mut self, asked: Asked) {
        if let Asked::Parts(level, numbers) = asked {
            let room = MOST_WAITING.saturating_sub(self.waiting.len());
            self.waiting.extend(numbers.into_iter().take(room).map(|number| (level, number)));
        }
    }

    /// The next part that is asked for. What does not exist is left out.
    async fn next(&mut self, most: usize) -> Option<Bytes> {
        loop {
            let part = match *self.waiting.first()? {
                (Level::Entry, _) => return Some(self.entries(most).await),
                (Level::Groups, number) => self.groups(number).await,
                (Level::Buckets, group) => self.buckets(group).await,
                (Level::Hashes, bucket) => self.hashes(bucket).await,
            };
            self.waiting.pop_first();
            if part.is_some() {
                return part;
            }
        }
    }

    async fn groups(&self, number: u64) -> Option<Bytes> {
        let (hashing, groups) = (self.index.hashing, self.index.hashing.groups());
        let count = groups.div_ceil(self.sums).max(self.heads.len().div_ceil(self.parts_heads));
        let at = usize::try_from(number).ok().filter(|at| *at < count)?;
        let first = (at * self.sums).min(groups);
        let length = self.sums.min(groups - first);
        let heads = self.heads.chunks(self.parts_heads).nth(at).unwrap_or_default().to_vec();
        let sums = self.shop.desk.peers.sums_of_groups(&self.index, first, length).await;
        let (count, first) = (count as u64, first as u64);
        Some(Groups { number, count, hashing, first, sums, heads }.encode())
    }

    async fn buckets(&self, number: u64) -> Option<Bytes> {
        let group = usize::try_from(number).ok()?;
        let buckets = self.index.hashing.buckets_of(group);
        if buckets.is_empty() {
            return None;
        }
        Some(write_buckets(number, &self.shop.desk.peers.sums(&self.index, buckets).await))
    }

    async fn hashes(&mut self, number: u64) -> Option<Bytes> {
        let bucket = usize::try_from(number).ok();
        let bucket = bucket.filter(|bucket| *bucket < self.index.hashing.buckets())?;
        let mut hashes = Vec::new();
        for key in self.index.bucket(bucket) {
            if let Some(hash) = self.shop.desk.peers.hash(self.index.hashing, key).await {
                self.listed.insert(hash, key.clone());
                hashes.push(hash);
            }
        }
        Some(write_hashes(number, &hashes))
    }

    /// As many entries as a part holds, each as it is now. One that is gone since its hash was sent is
    /// answered by none: whatever took it, those who ask are told, or its life is over.
    async fn entries(&mut self, most: usize) -> Bytes {
        let peers = &self.shop.desk.peers;
        let without = most.saturating_sub(OVERHEAD_BYTES + 8 * AT_ONCE);
        let mut writer = ChunkWriter::new(self.shop.settings.chunk_bytes, without, 0);
        let mut hashes = Vec::new();
        while let Some((_, hash)) = self.waiting.first().copied()
            && hashes.len() < AT_ONCE
        {
            let item = match self.listed.get(&hash) {
                Some(key) => peers.item(key).await,
                None => None,
            };
            if item.is_some_and(|item| !writer.push(&item)) {
                break;
            }
            self.waiting.pop_first();
            hashes.push(hash);
        }
        peers.counters.entries_offered.add(writer.count());
        let (count, items) = writer.into_items();
        write_entries(&hashes, count, &items)
    }
}
