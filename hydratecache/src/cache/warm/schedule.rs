//! Which chunks of a copy are sent next. A state machine without I/O.

use std::collections::BTreeSet;

use super::offering::Asked;

/// How many chunks are sent ahead of what was asked for at most, whatever that is.
const MOST_AHEAD: u64 = 256;

/// How many chunks are to be sent again at most: those who need more ask again.
const MOST_AGAIN: usize = 256;

/// What was asked for of a copy, and sent.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    sent: u64,
    asked: u64,
    again: BTreeSet<u64>,
    /// The last chunk was sent.
    is_complete: bool,
}

impl Schedule {
    /// Somebody needs the chunks `first` to `last`.
    pub(super) fn asked(&mut self, first: u64, last: u64) {
        let room = MOST_AGAIN.saturating_sub(self.again.len());
        self.again.extend((first..=last.min(self.sent)).take(room));
        self.asked = self.asked.max(last.min(self.sent + MOST_AHEAD));
    }

    /// Somebody needs something.
    pub(super) fn hear(&mut self, asked: &Asked) {
        if let Asked::Chunks(first, last) = asked {
            self.asked(*first, *last);
        }
    }

    /// The number of the next chunk; none: nothing is asked for.
    pub(super) fn next(&mut self) -> Option<u64> {
        let further = || (!self.is_complete && self.sent < self.asked).then_some(self.sent + 1);
        self.again.pop_first().or_else(further)
    }

    /// A chunk was sent.
    pub(super) fn sent(&mut self, number: u64, is_last: bool) {
        self.sent = self.sent.max(number);
        self.is_complete |= is_last;
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_go_once_in_order_and_again_where_they_are_asked_for_again() {
        let mut schedule = Schedule::default();
        assert_eq!(schedule.next(), None);
        schedule.asked(1, 4);
        schedule.asked(1, 4);
        for number in 1..=3 {
            assert_eq!(schedule.next(), Some(number));
            schedule.sent(number, false);
        }
        schedule.asked(2, 6);
        for number in [2, 3, 4, 5] {
            assert_eq!(schedule.next(), Some(number));
            schedule.sent(number, number == 5);
        }
        assert_eq!(schedule.next(), None, "there is no sixth");
        assert!(schedule.is_complete());
        schedule.asked(5, 9);
        assert_eq!((schedule.next(), schedule.next()), (Some(5), None));
    }

    #[test]
    fn what_is_asked_for_is_bounded() {
        let mut schedule = Schedule::default();
        schedule.asked(1, u64::MAX);
        let mut count = 0;
        while let Some(number) = schedule.next() {
            schedule.sent(number, false);
            count += 1;
        }
        assert_eq!(count, MOST_AHEAD);
        schedule.asked(1, u64::MAX);
        assert!(schedule.again.len() <= MOST_AGAIN);
    }
}
