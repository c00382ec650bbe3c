//! How far the messages of each publisher have been applied, for those who wait for one.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::message::Position;
use crate::{Origin, Token};

/// The latest message of each publisher that has been applied, or that a gap stands for.
#[derive(Default)]
pub(super) struct Heads {
    applied: Mutex<Applied>,
    moved: Notify,
}

type Applied = HashMap<Origin, NonZeroU64, foldhash::fast::RandomState>;

/// How many publishers are remembered, at some 40 bytes each. Whoever waits for one that was
/// forgotten is told by a fence.
const MOST: usize = 65_536;

impl Heads {
    /// Whether the write of `token`, or one behind it, has been applied.
    pub(super) fn has(&self, token: Token) -> bool {
        let Position { origin, sequence } = token.position();
        self.lock().get(&origin).is_some_and(|applied| *applied >= sequence)
    }

    /// Waits until the write of `token`, or one behind it, has been applied.
    pub(super) async fn reached(&self, token: Token) {
        loop {
            let mut moved = pin!(self.moved.notified());
            // From here on no move is missed.
            moved.as_mut().enable();
            if self.has(token) {
                return;
            }
            moved.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Applied> {
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The hydrator's side: it gathers, and shows what it gathered when all of it is in the cache.
pub(super) struct Progress {
    heads: Arc<Heads>,
    gathered: Applied,
    /// The highest of those that came last in a row from one publisher, as they usually do.
    latest: Option<Position>,
}

impl Progress {
    pub(super) fn new(heads: Arc<Heads>) -> Self {
        Self { heads, gathered: Applied::default(), latest: None }
    }

    /// A message at `position` was handled; its value may still be loading.
    pub(super) fn handled(&mut self, position: Option<Position>) {
        let Some(position) = position else {
            return;
        };
        match &mut self.latest {
            // One that comes late does not take back what came before it.
            Some(latest) if latest.origin == position.origin => {
                latest.sequence = latest.sequence.max(position.sequence);
            }
            latest => {
                if let Some(before) = latest.replace(position) {
                    move_to(&mut self.gathered, before);
                }
            }
        }
    }

    /// Whether anything of `origin` was handled.
    pub(super) fn knows(&self, origin: Origin) -> bool {
        self.has(Position { origin, sequence: NonZeroU64::MIN })
    }

    /// Whether the message at `position`, or one behind it, was handled.
    pub(super) fn has(&self, position: Position) -> bool {
        let Position { origin, sequence } = position;
        let is_behind = |handled: &NonZeroU64| *handled >= sequence;
        self.latest.is_some_and(|latest| latest.origin == origin && is_behind(&latest.sequence))
            || self.gathered.get(&origin).is_some_and(is_behind)
            || self.heads.has(position.into())
    }

    /// Whether all of `origin` that comes before `number` was handled, or is known to be missing.
    pub(super) fn has_before(&self, origin: Origin, number: NonZeroU64) -> bool {
        let before = NonZeroU64::new(number.get() - 1);
        before.is_none_or(|sequence| self.has(Position { origin, sequence }))
    }

    /// All that was shown, in an order that repeats.
    pub(super) fn shown(&self) -> Vec<Position> {
        let position = |(origin, sequence): (&Origin, &NonZeroU64)| Position {
            origin: *origin,
            sequence: *sequence,
        };
        let mut shown: Vec<Position> = self.heads.lock().iter().map(position).collect();
        shown.sort_unstable_by_key(|position| position.origin.get());
        shown
    }

    /// Everything that was handled is in the cache.
    pub(super) fn show(&mut self) {
        let Some(latest) = self.latest.take() else {
            return;
        };
        let mut applied = self.heads.lock();
        for (origin, sequence) in self.gathered.drain() {
            move_to(&mut applied, Position { origin, sequence });
        }
        move_to(&mut applied, latest);
        drop(applied);
        self.heads.moved.notify_waiters();
    }
}

fn move_to(applied: &mut Applied, Position { origin, sequence }: Position) {
    if applied.len() >= MOST && !applied.contains_key(&origin) {
        applied.clear();
    }
    let head = applied.entry(origin).or_insert(sequence);
    *head = sequence.max(*head);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(origin: u64, sequence: u64) -> Position {
        let origin = Origin::from_u64(origin).expect("not zero");
        Position { origin, sequence: NonZeroU64::new(sequence).expect("not zero") }
    }

    #[test]
    fn nothing_is_shown_before_it_is_in_the_cache_and_nothing_goes_back() {
        let heads = Arc::new(Heads::default());
        let mut progress = Progress::new(heads.clone());
        let has = |origin, sequence| heads.has(position(origin, sequence).into());
        for (origin, sequence) in [(1, 1), (1, 2), (2, 7), (1, 3)] {
            progress.handled(Some(position(origin, sequence)));
        }
        progress.handled(None);
        assert!(!has(1, 1), "not shown yet");
        progress.show();
        assert!(has(1, 3) && has(2, 7) && !has(1, 4) && !has(3, 1));
        progress.handled(Some(position(1, 2)));
        progress.show();
        assert!(has(1, 3));
    }

    #[test]
    fn one_that_comes_late_takes_nothing_back() {
        let heads = Arc::new(Heads::default());
        let mut progress = Progress::new(heads.clone());
        for (origin, sequence) in [(1, 9), (1, 4), (2, 8), (1, 5), (2, 3)] {
            progress.handled(Some(position(origin, sequence)));
        }
        progress.show();
        assert!(heads.has(position(1, 9).into()) && heads.has(position(2, 8).into()));
    }

    #[test]
    fn no_more_publishers_are_remembered_than_there_is_room_for() {
        let heads = Arc::new(Heads::default());
        let mut progress = Progress::new(heads.clone());
        for origin in 1..=3 * MOST as u64 {
            progress.handled(Some(position(origin, 1)));
            progress.show();
        }
        assert!(heads.lock().len() <= MOST && heads.has(position(3 * MOST as u64, 1).into()));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_the_write_or_one_behind_it() {
        let heads = Arc::new(Heads::default());
        let waiting = {
            let heads = heads.clone();
            tokio::spawn(async move { heads.reached(position(1, 5).into()).await })
        };
        let mut progress = Progress::new(heads);
        for sequence in [3, 4, 6] {
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            progress.handled(Some(position(1, sequence)));
            progress.show();
        }
        waiting.await.expect("no panic");
    }
}
