//! The numbers that messages get in their partition.
//!
//! A publisher counts its messages in a topic; a subscriber sees each partition by itself, where that
//! count has holes that are no losses. So each partition has a count of its own. A state machine
//! without I/O: the publisher's positions go in, the partition's numbers come out.
//!
//! What the publisher counted and never handed over is charged to the partition of its next message,
//! so that every jump of the publisher's count shows once. In a topic of one partition the two counts
//! are therefore the same.

use std::collections::HashMap;

use hydratecache::{Origin, Position};

/// How many publishers are remembered for one topic. A process has one for each channel; only what
/// passes on the messages of others has more. One that was forgotten begins anew at its own count,
/// which is never behind: subscribers may then report a gap that is none.
const MOST_ORIGINS: usize = 4096;

#[derive(Debug, Default)]
pub(crate) struct Numbering {
    origins: HashMap<Origin, Counts>,
    /// Grows with every message, to find who was silent the longest.
    now: u64,
}

#[derive(Debug, Default)]
struct Counts {
    /// The publisher's own.
    last: u64,
    partitions: Vec<Count>,
    at: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Count {
    /// The last number in this partition; zero: none yet.
    last: u64,
    /// The last that the broker is known to have.
    confirmed: u64,
}

/// A number in a partition, to be confirmed once the broker has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) origin: Origin,
    pub(crate) partition: usize,
    pub(crate) number: u64,
}

impl Numbering {
    /// The number that the message at `position` has in `partition`. A message that was handed over
    /// before keeps a number that was used before, so that subscribers drop it.
    pub(crate) fn number(&mut self, position: Position, partition: usize) -> Mark {
        let sequence = position.sequence.get();
        let counts = self.counts(position.origin);
        let is_known = counts.last > 0;
        let is_new = sequence > counts.last;
        let missing = if is_known && is_new { sequence - counts.last - 1 } else { 0 };
        counts.last = counts.last.max(sequence);
        let count = counts.partition(partition);
        count.last = match count.last {
            0 => sequence,
            last if is_new => last.saturating_add(1 + missing),
            last => last,
        };
        Mark { origin: position.origin, partition, number: count.last }
    }

    /// The numbers of one message that goes to all of `count` partitions.
    pub(crate) fn number_in_all(&mut self, position: Position, count: usize) -> Vec<Mark> {
        let before = self.origins.get(&position.origin).map_or(0, |counts| counts.last);
        let first = self.number(position, 0);
        let is_new = position.sequence.get() > before;
        let counts = self.counts(position.origin);
        let others = (1..count).map(|partition| {
            let count = counts.partition(partition);
            count.last = match count.last {
                0 => position.sequence.get(),
                last => last + u64::from(is_new),
            };
            Mark { origin: position.origin, partition, number: count.last }
        });
        std::iter::once(first).chain(others).collect()
    }

    /// The heartbeats that subscribers need after a heartbeat at `position`: one for each partition
    /// whose last message the broker is not known to have. It keeps the others.
    pub(crate) fn heartbeat(&mut self, position: Position) -> Vec<Mark> {
        let sequence = position.sequence.get();
        let counts = self.counts(position.origin);
        let missing = sequence.saturating_sub(counts.last);
        counts.last = counts.last.max(sequence);
        match counts.partitions.iter_mut().find(|count| count.last > 0) {
            Some(first) => first.last = first.last.saturating_add(missing),
            // Never heard of: whatever it counted was not handed over here.
            None => counts.partition(0).last = sequence,
        }
        let unconfirmed = counts.partitions.iter().enumerate();
        unconfirmed
            .filter(|(_, count)| count.confirmed < count.last)
            .map(|(partition, count)| Mark {
                origin: position.origin,
                partition,
                number: count.last,
            })
            .collect()
    }

    /// The broker has the message with this number.
    pub(crate) fn confirm(&mut self, mark: Mark) {
        if let Some(counts) = self.origins.get_mut(&mark.origin) {
            let count = counts.partition(mark.partition);
            count.confirmed = count.confirmed.max(mark.number);
        }
    }

    fn counts(&mut self, origin: Origin) -> &mut Counts {
        self.now += 1;
        if self.origins.len() >= MOST_ORIGINS && !self.origins.contains_key(&origin) {
            self.forget_the_silent_half();
        }
        let counts = self.origins.entry(origin).or_default();
        counts.at = self.now;
        counts
    }

    fn forget_the_silent_half(&mut self) {
        let mut times: Vec<u64> = self.origins.values().map(|counts| counts.at).collect();
        let half = times.len() / 2;
        let median = *times.select_nth_unstable(half).1;
        self.origins.retain(|_, counts| counts.at > median);
    }
}

impl Counts {
    fn partition(&mut self, partition: usize) -> &mut Count {
        if self.partitions.len() <= partition {
            self.partitions.resize(partition + 1, Count::default());
        }
        &mut self.partitions[partition]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::num::NonZeroU64;

    fn at(sequence: u64) -> Position {
        let origin = Origin::from_u64(1).expect("not zero");
        Position { origin, sequence: NonZeroU64::new(sequence).expect("not zero") }
    }

    #[test]
    fn in_one_partition_the_numbers_are_the_publishers_own() {
        let mut numbering = Numbering::default();
        for sequence in [7, 8, 9, 12, 13, 20] {
            assert_eq!(numbering.number(at(sequence), 0).number, sequence);
        }
        assert_eq!(numbering.number(at(13), 0).number, 20, "a repetition uses no new number");
        assert_eq!(numbering.number_in_all(at(21), 1)[0].number, 21);
        assert_eq!(numbering.heartbeat(at(23))[0].number, 23);
        assert_eq!(numbering.number(at(24), 0).number, 24);
    }

    #[test]
    fn in_several_partitions_each_count_is_without_holes() {
        let mut numbering = Numbering::default();
        let sent = [(1, 0), (2, 1), (3, 1), (4, 0), (5, 2), (6, 1)];
        let numbers = sent.map(|(sequence, to)| numbering.number(at(sequence), to).number);
        assert_eq!(numbers, [1, 2, 3, 2, 5, 4]);
        let all = numbering.number_in_all(at(7), 3);
        assert_eq!(all.iter().map(|mark| mark.number).collect::<Vec<_>>(), [3, 5, 6]);
    }

    #[test]
    fn what_was_never_handed_over_shows_in_one_partition_once() {
        let mut numbering = Numbering::default();
        numbering.number(at(1), 0);
        numbering.number(at(2), 1);
        // 3 and 4 never came here.
        assert_eq!(numbering.number(at(5), 1).number, 5);
        assert_eq!(numbering.number(at(6), 0).number, 2);
    }

    #[test]
    fn heartbeats_are_for_partitions_whose_last_message_is_not_confirmed() {
        let mut numbering = Numbering::default();
        let first = numbering.number(at(1), 0);
        let second = numbering.number(at(2), 1);
        numbering.confirm(first);
        assert_eq!(numbering.heartbeat(at(2)), [second]);
        numbering.confirm(second);
        assert_eq!(numbering.heartbeat(at(2)), []);
        // 3 was counted and failed before it came here.
        assert_eq!(numbering.heartbeat(at(3)), [Mark { number: 2, ..first }]);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut numbering = Numbering::default();
        for origin in 1..=3 * MOST_ORIGINS as u64 {
            let origin = Origin::from_u64(origin).expect("not zero");
            numbering.number(Position { origin, ..at(5) }, 3);
            assert!(numbering.origins.len() <= MOST_ORIGINS);
        }
    }
}
