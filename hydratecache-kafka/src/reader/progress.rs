//! How far a topic has been read: a state machine without I/O.
//!
//! Offsets of records and ends of partitions go in; whether a record is new, how much may have been
//! compacted away before it, and which fences have been passed come out.

use std::collections::VecDeque;

use hydratecache::Fence;

/// How far each partition of one topic has been read.
#[derive(Debug, Default)]
pub(super) struct Progress {
    partitions: Vec<Position>,
    fences: VecDeque<Awaited>,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    /// The offset of the next record; unknown before the first one, when read from the beginning.
    next: Option<i64>,
    /// The end that the broker told last: all before it was accepted before it was asked.
    known_end: i64,
    /// What stands before it was written while nobody read here: before reading began, or while the link was
    /// lost. Unknown until the broker has told an end since: then all of it may have been.
    old_end: Option<i64>,
}

const UNREAD: Position = Position { next: None, known_end: 0, old_end: None };

/// A fence, and where each partition ended when it was asked for.
#[derive(Debug)]
struct Awaited {
    fence: Fence,
    ends: Vec<i64>,
}

/// How many fences may be awaited in a topic that is not read on.
const MOST_FENCES: usize = 1024;

/// What a record is to those who have read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It was read before, or lies before the start.
    Before,
    /// It follows what was read.
    Next,
    /// So many offsets before it have no record, of what was written while nobody read here: compaction may have
    /// taken them. In what is read as it is written, marks of transactions have no record, and no publisher's
    /// number: there a missing number is missing, whatever holes there are.
    BehindAHole(u64),
}

/// Whether a log is the one that was read so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Log {
    Same,
    /// It ends before it ended earlier, or has fewer partitions: it was made anew, or lost its end.
    Other,
}

impl Position {
    fn know_end(&mut self, end: i64) {
        self.known_end = end;
        self.old_end.get_or_insert(end);
    }

    /// The place of what stands at `offset`, behind a hole that begins at `next`.
    fn behind_a_hole(&self, next: i64, offset: i64) -> Place {
        let old = self.old_end.map_or(offset, |end| end.min(offset));
        match u64::try_from(old - next) {
            Ok(missing @ 1..) => Place::BehindAHole(missing),
            _ => Place::Next,
        }
    }
}

impl Progress {
    /// Reads partition `partition` from `start`, or from its beginning.
    pub(super) fn start(&mut self, partition: usize, start: Option<i64>) {
        if self.partitions.len() <= partition {
            self.partitions.resize(partition + 1, UNREAD);
        }
        let position = &mut self.partitions[partition];
        position.next = start;
        if start.is_none() {
            position.old_end = None;
        }
        position.known_end = start.unwrap_or(position.known_end);
    }

    /// Reading goes on after a while in which nobody read.
    pub(super) fn resume(&mut self) {
        self.partitions.iter_mut().for_each(|position| position.old_end = None);
    }

    /// The partitions ended there when that was told last.
    pub(super) fn know_ends(&mut self, ends: &[i64]) {
        for (position, end) in self.partitions.iter_mut().zip(ends) {
            position.know_end(*end);
        }
    }

    /// Where the partitions ended when that was told last.
    pub(super) fn known_ends(&self) -> impl Iterator<Item = i64> {
        self.partitions.iter().map(|position| position.known_end)
    }

    /// How many partitions are read.
    pub(super) fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// A record at `offset` of `partition` was read.
    pub(super) fn record(&mut self, partition: usize, offset: i64) -> Place {
        let Some(position) = self.partitions.get_mut(partition) else {
            return Place::Before;
        };
        let place = match position.next {
            Some(next) if offset < next => return Place::Before,
            Some(next) if offset == next => Place::Next,
            // From the beginning there is nothing to be behind.
            None => Place::Next,
            Some(next) => position.behind_a_hole(next, offset),
        };
        position.next = Some(offset + 1);
        place
    }

    /// The end of `partition` was met at `offset`. Whether something was skipped on the way.
    pub(super) fn end(&mut self, partition: usize, offset: i64) -> Place {
        let Some(position) = self.partitions.get_mut(partition) else {
            return Place::Before;
        };
        match position.next {
            Some(next) if offset <= next => Place::Next,
            next => {
                position.next = Some(offset);
                next.map_or(Place::Next, |next| position.behind_a_hole(next, offset))
            }
        }
    }

    /// The offset of the next record of `partition`, where it is known.
    pub(super) fn next(&self, partition: usize) -> Option<i64> {
        self.partitions.get(partition)?.next
    }

    /// The partitions end there now.
    pub(super) fn learn_ends(&mut self, ends: &[i64]) -> Log {
        let mut log = if ends.len() < self.partitions.len() { Log::Other } else { Log::Same };
        for (position, end) in self.partitions.iter_mut().zip(ends) {
            if *end < position.known_end {
                log = Log::Other;
            }
            position.know_end(*end);
        }
        log
    }

    /// The topic is another one, with so many partitions, of which nothing was read yet. The gap that
    /// its readers hear stands for what the awaited fences were to prove, so they are passed.
    pub(super) fn restart(&mut self, partitions: usize) {
        self.partitions.truncate(partitions);
        self.partitions.fill(UNREAD);
        self.fences.iter_mut().for_each(|awaited| awaited.ends.clear());
    }

    /// A fence was asked for when the partitions ended there.
    ///
    /// Returns which fence is given up for it, if too many are awaited.
    pub(super) fn await_fence(&mut self, fence: Fence, ends: Vec<i64>) -> Option<Fence> {
        let is_full = self.fences.len() >= MOST_FENCES;
        let displaced = if is_full { self.fences.pop_front() } else { None };
        self.fences.push_back(Awaited { fence, ends });
        displaced.map(|awaited| awaited.fence)
    }

    /// The next fence that has been passed. Fences are passed in the order in which they were asked for.
    pub(super) fn passed(&mut self) -> Option<Fence> {
        let first = self.fences.front()?;
        let is_read = |(position, end): (&Position, &i64)| {
            // An empty partition has nothing to read, though its beginning was not met yet.
            *end == 0 || position.next.is_some_and(|next| next >= *end)
        };
        let is_passed = first.ends.len() <= self.partitions.len()
            && self.partitions.iter().zip(&first.ends).all(is_read);
        is_passed.then(|| self.fences.pop_front().map(|awaited| awaited.fence)).flatten()
    }

    /// Gives up the fences that are awaited: nothing proves them any more.
    pub(super) fn abandon_fences(&mut self) -> impl Iterator<Item = Fence> {
        self.fences.drain(..).map(|awaited| awaited.fence)
    }

    /// Whether `partition` is behind the end that the broker told last: what is read then is a
    /// replay, which may take its time.
    pub(super) fn is_behind(&self, partition: usize) -> bool {
        self.partitions
            .get(partition)
            .is_some_and(|it| it.next.is_none_or(|next| next < it.known_end))
    }
}

#[cfg(test)]
mod tests {
    use super::Log::{Other, Same};
    use super::Place::{Before, BehindAHole, Next};
    use super::*;
    use tokio::time::Instant;

    fn fence(number: u64) -> Fence {
        Fence::new(number, Instant::now())
    }

    #[test]
    fn records_are_new_once_and_holes_are_seen() {
        let mut progress = Progress::default();
        progress.start(0, Some(5));
        progress.know_ends(&[12]);
        let seen = [4, 5, 6, 5, 9, 10].map(|offset| progress.record(0, offset));
        assert_eq!(seen, [Before, Next, Next, Before, BehindAHole(2), Next]);
        progress.know_ends(&[20]);
        let seen = [14, 16].map(|offset| progress.record(0, offset));
        assert_eq!(seen, [BehindAHole(1), Next], "12 and later were read as they were written");
        progress.start(1, None);
        assert_eq!([7, 8, 8].map(|offset| progress.record(1, offset)), [Next, Next, Before]);
        assert_eq!(progress.record(2, 0), Before, "a partition that is not read");
    }

    #[test]
    fn a_fence_is_passed_when_every_partition_has_reached_its_end() {
        let mut progress = Progress::default();
        progress.start(0, Some(0));
        progress.start(1, Some(10));
        let (first, second) = (fence(1), fence(2));
        progress.await_fence(first, vec![2, 10]);
        progress.await_fence(second, vec![2, 11]);
        progress.record(0, 0);
        assert_eq!(progress.passed(), None);
        progress.record(0, 1);
        assert_eq!((progress.passed(), progress.passed()), (Some(first), None));
        progress.record(1, 10);
        assert_eq!(progress.passed(), Some(second));
    }

    #[test]
    fn records_that_are_gone_do_not_hold_up_a_fence() {
        let mut progress = Progress::default();
        progress.start(0, Some(0));
        progress.know_ends(&[5]);
        progress.await_fence(fence(1), vec![5]);
        progress.record(0, 1);
        assert_eq!(progress.passed(), None);
        assert_eq!(progress.end(0, 5), Place::BehindAHole(3), "2, 3 and 4 are marks or compacted");
        assert!(progress.passed().is_some());
        assert_eq!(progress.end(0, 5), Place::Next);
    }

    #[test]
    fn what_was_written_while_nobody_read_may_have_been_compacted() {
        let mut progress = Progress::default();
        progress.start(0, Some(5));
        progress.know_ends(&[5]);
        progress.learn_ends(&[20]);
        assert_eq!([5, 7].map(|offset| progress.record(0, offset)), [Next, Next]);
        // The link is back, and how far it was written meanwhile is told a moment later.
        progress.resume();
        assert_eq!(progress.record(0, 10), BehindAHole(2));
        progress.learn_ends(&[30]);
        assert_eq!(
            [15, 32].map(|offset| progress.record(0, offset)),
            [BehindAHole(4), BehindAHole(14)]
        );
        assert_eq!(progress.record(0, 40), Next);
        // Retention overtook it.
        progress.start(0, None);
        progress.learn_ends(&[50]);
        let seen = [44, 46, 50, 52].map(|offset| progress.record(0, offset));
        assert_eq!(seen, [Next, BehindAHole(1), BehindAHole(3), Next]);
    }

    #[test]
    fn from_the_beginning_an_end_is_needed_unless_there_is_nothing() {
        let mut progress = Progress::default();
        progress.start(0, None);
        progress.start(1, None);
        progress.know_ends(&[0, 7]);
        assert!(progress.is_behind(1));
        progress.await_fence(fence(1), vec![0, 7]);
        assert_eq!((progress.passed(), progress.is_behind(1)), (None, true));
        // Everything in it expired.
        assert_eq!(progress.end(1, 7), Place::Next);
        assert!(progress.passed().is_some() && !progress.is_behind(1));
    }

    #[test]
    fn fences_of_a_topic_that_is_not_read_on_are_bounded() {
        let mut progress = Progress::default();
        progress.start(0, Some(0));
        for number in 1..3 * MOST_FENCES as u64 {
            let displaced = progress.await_fence(fence(number), vec![1]);
            assert_eq!(displaced.is_some(), number > MOST_FENCES as u64);
            assert!(progress.fences.len() <= MOST_FENCES);
        }
    }

    #[test]
    fn a_log_that_ends_earlier_than_it_did_or_has_fewer_partitions_is_another_one() {
        let mut progress = Progress::default();
        progress.start(0, Some(5));
        let ends = [5, 9, 9, 8, 8, 12].map(|end| progress.learn_ends(&[end]));
        assert_eq!(ends, [Same, Same, Same, Other, Same, Same]);
        progress.start(1, Some(0));
        assert_eq!(progress.learn_ends(&[12, 1]), Same);
        assert_eq!(progress.learn_ends(&[12]), Other);
    }

    #[test]
    fn fences_of_a_log_that_is_gone_are_passed_and_hold_up_no_later_one() {
        let mut progress = Progress::default();
        progress.start(0, Some(50));
        progress.start(1, Some(7));
        let (old, new) = (fence(1), fence(2));
        progress.await_fence(old, vec![90, 7]);
        assert_eq!(progress.passed(), None);
        progress.restart(1);
        progress.start(0, None);
        progress.await_fence(new, vec![2]);
        assert_eq!((progress.passed(), progress.passed()), (Some(old), None));
        progress.record(0, 0);
        progress.record(0, 1);
        assert_eq!(progress.passed(), Some(new));
    }

    #[test]
    fn a_fence_over_a_partition_that_is_not_read_yet_waits_for_it() {
        let mut progress = Progress::default();
        progress.start(0, Some(3));
        progress.await_fence(fence(1), vec![3, 1]);
        assert_eq!(progress.passed(), None);
        progress.start(1, None);
        progress.record(1, 0);
        assert!(progress.passed().is_some());
    }
}
