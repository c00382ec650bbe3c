//! What a publisher keeps of its latest messages, so that it can publish them again for those who
//! missed them. A state machine without I/O.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{ErrorKind, Message, Position, Positions, Request, Version};

/// Whoever asks for what was just published again, or said to be gone, is served by that. Longer than
/// requests for one loss are apart, which their jitter spreads; shorter than anyone waits before asking
/// once more.
const SERVED: Duration = Duration::from_millis(250);

/// How many ranges are remembered that were said to be gone.
const MOST_TOLD: usize = 16;

/// What is counted for an answer that publishes nothing again.
const SAID_BYTES: usize = 256;

/// The least that is answered at once, in bytes.
const LEAST_ALLOWANCE: usize = 64 << 10;

/// An allowance that was used up is whole again after so long.
const REGAINED: Duration = Duration::from_secs(10);

/// The latest messages of one origin, bounded in bytes.
pub(super) struct Ring {
    limit_bytes: usize,
    held_bytes: usize,
    /// The number of the first that is kept.
    first: u64,
    kept: VecDeque<Kept>,
    /// What was said to be gone lately.
    told: VecDeque<(Positions, Instant)>,
    allowance: Allowance,
}

struct Kept {
    message: Message,
    bytes: usize,
    outcome: Outcome,
    /// When it was last published again.
    served_at: Option<Instant>,
}

/// What became of a message when it was published.
#[derive(PartialEq)]
enum Outcome {
    NotKnownYet,
    MayHaveBeenSent,
    /// Nobody got it, and nobody ever will: who published it was told so.
    Unsent,
}

/// How much may be answered: a ring at once, and then a tenth of a ring a second; at first never less
/// than what a few hundred requests are answered with.
struct Allowance {
    limit: usize,
    bytes: usize,
    since: Instant,
}

/// What a request is answered with.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Published again as they were, in order.
    pub(super) messages: Vec<Message>,
    /// What is said of the others.
    pub(super) said: Vec<Request>,
}

impl Ring {
    pub(super) fn new(limit_bytes: usize, now: Instant) -> Self {
        Self {
            limit_bytes,
            held_bytes: 0,
            first: 1,
            kept: VecDeque::new(),
            told: VecDeque::new(),
            allowance: Allowance::of(limit_bytes.max(LEAST_ALLOWANCE), now),
        }
    }

    /// These are about to be handed to the transport, numbered from `first`. Returns how many they are.
    pub(super) fn sending<'a>(
        &mut self,
        first: u64,
        batch: impl Iterator<Item = &'a Message>,
    ) -> usize {
        if self.first + self.kept.len() as u64 != first {
            // Some were not kept, because nobody would have heard a request for them.
            self.forget();
            self.first = first;
        }
        let before = self.kept.len();
        for message in batch {
            let bytes = message.held_bytes();
            self.held_bytes += bytes;
            let (message, outcome) = (message.clone(), Outcome::NotKnownYet);
            self.kept.push_back(Kept { message, bytes, outcome, served_at: None });
        }
        let count = self.kept.len() - before;
        while self.held_bytes > self.limit_bytes
            && let Some(oldest) = self.kept.pop_front()
        {
            self.first += 1;
            self.held_bytes -= oldest.bytes;
        }
        count
    }

    /// What became of the `count` messages numbered from `first`: an error, if there was one.
    pub(super) fn sent(&mut self, first: u64, count: usize, error: Option<ErrorKind>) {
        let is_unsent = error.is_some_and(|kind| !may_have_been_sent(kind));
        for number in first.max(self.first)..first + count as u64 {
            let Some(kept) = self.place(number).and_then(|place| self.kept.get_mut(place)) else {
                return;
            };
            kept.outcome = if is_unsent { Outcome::Unsent } else { Outcome::MayHaveBeenSent };
            if is_unsent {
                // The value is not kept: it is not to appear any more.
                kept.message.payload = Bytes::new();
                let bytes = kept.message.held_bytes();
                self.held_bytes -= kept.bytes - bytes;
                kept.bytes = bytes;
            }
        }
    }

    /// Nothing is kept any more.
    pub(super) fn forget(&mut self) {
        self.first += self.kept.len() as u64;
        self.kept = VecDeque::new();
        self.held_bytes = 0;
    }

    /// What those who miss `positions`, of this origin, are answered; its latest number is `latest`.
    /// What is under way comes by itself, or its failure is known soon: it is left out, to be asked for
    /// again.
    pub(super) fn answer(&mut self, positions: Positions, latest: u64, now: Instant) -> Answer {
        let (first, last) = (positions.first.get(), positions.last.get());
        if last > latest {
            // They were never sent: whoever asks has not heard of them from here.
            return Answer::default();
        }
        let places = self.place(first).zip(self.place(last));
        let Some((from, to)) = places.filter(|(_, to)| *to < self.kept.len()) else {
            // Whoever misses a part of it has to repair itself in another way, so none of it helps.
            return self.gone(positions, now);
        };
        let is_wanted = |(_, kept): &(u64, &mut Kept)| {
            kept.outcome != Outcome::NotKnownYet && !is_recent(kept.served_at, now)
        };
        let asked = (first..=last).zip(self.kept.range_mut(from..=to));
        let wanted: Vec<(u64, &mut Kept)> = asked.filter(is_wanted).collect();
        let bytes = wanted.iter().map(|(_, kept)| kept.bytes.max(SAID_BYTES)).sum();
        if !self.allowance.take(bytes, now) {
            return self.gone(positions, now);
        }
        let mut answer = Answer::default();
        for (number, kept) in wanted {
            kept.served_at = Some(now);
            if kept.outcome == Outcome::Unsent {
                let sequence = NonZeroU64::new(number).expect("numbers begin at 1");
                let position = Position { origin: positions.origin, sequence };
                let version = kept.message.version.map(Version::number);
                let key = kept.message.key.clone();
                answer.said.push(Request::Unsent { position, key, version });
            } else {
                answer.messages.push(kept.message.clone());
            }
        }
        answer
    }

    /// Nobody need wait for these. Where too much is asked for, nobody is even told that.
    fn gone(&mut self, positions: Positions, now: Instant) -> Answer {
        while self.told.len() >= MOST_TOLD
            || self.told.front().is_some_and(|(_, at)| !is_recent(Some(*at), now))
        {
            self.told.pop_front();
        }
        let covers = |(told, _): &(Positions, Instant)| {
            told.first <= positions.first && positions.last <= told.last
        };
        let is_told = !self.told.iter().any(covers) && self.allowance.take(SAID_BYTES, now);
        if is_told {
            self.told.push_back((positions, now));
        }
        let said = is_told.then_some(Request::Gone(positions));
        Answer { said: said.into_iter().collect(), ..Answer::default() }
    }

    fn place(&self, number: u64) -> Option<usize> {
        usize::try_from(number.checked_sub(self.first)?).ok()
    }
}

/// Whether what was done `at` that time, for all who ask, serves those who ask `now` as well.
fn is_recent(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < SERVED)
}

impl Allowance {
    fn of(limit: usize, now: Instant) -> Self {
        Self { limit, bytes: limit, since: now }
    }

    /// Takes `bytes`, if they are there.
    fn take(&mut self, bytes: usize, now: Instant) -> bool {
        let limit = self.limit;
        let passed = now.saturating_duration_since(self.since).div_duration_f64(REGAINED);
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let earned = (passed.min(1.0) * limit as f64) as usize;
        if earned > 0 {
            (self.bytes, self.since) = (limit.min(self.bytes.saturating_add(earned)), now);
        }
        let is_there = bytes <= self.bytes;
        if is_there {
            self.bytes -= bytes;
        }
        is_there
    }
}

/// Whether a publish that failed like this may have reached the broker. Then its message may appear, and
/// who published it was told so.
fn may_have_been_sent(kind: ErrorKind) -> bool {
    kind == ErrorKind::UnknownOutcome
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, Origin};

    const SECOND: Duration = Duration::from_secs(1);

    fn origin() -> Origin {
        Origin::from_u64(7).expect("not zero")
    }

    fn positions(first: u64, last: u64) -> Positions {
        Positions::new(origin(), first, last).expect("in order")
    }

    fn put(number: u64) -> Message {
        let key = Key::new(format!("key:{number:03}")).expect("legal");
        let sequence = NonZeroU64::new(number).expect("not zero");
        Message::put(key, Bytes::from_static(&[0; 100]))
            .with_position(Position { origin: origin(), sequence })
    }

    /// A ring that was given messages `first` to `last`, all acknowledged.
    fn ring(limit_bytes: usize, first: u64, last: u64) -> (Ring, Instant) {
        let now = Instant::now();
        let mut ring = Ring::new(limit_bytes, now);
        for number in first..=last {
            ring.sending(number, [put(number)].iter());
            ring.sent(number, 1, None);
        }
        (ring, now)
    }

    fn numbers(answer: &Answer) -> Vec<u64> {
        let number = |message: &Message| message.sequence().map_or(0, NonZeroU64::get);
        answer.messages.iter().map(number).collect()
    }

    #[test]
    fn what_is_kept_is_answered_as_it_was_and_once_for_all_who_ask_together() {
        let (mut ring, now) = ring(1 << 20, 1, 10);
        let answer = ring.answer(positions(3, 5), 10, now);
        assert_eq!(answer, Answer { messages: vec![put(3), put(4), put(5)], said: Vec::new() });
        let later = now + SERVED / 2;
        assert_eq!(ring.answer(positions(3, 5), 10, later), Answer::default());
        assert_eq!(numbers(&ring.answer(positions(2, 6), 10, later)), [2, 6]);
        assert_eq!(numbers(&ring.answer(positions(3, 5), 10, now + SERVED)), [3, 4, 5]);
    }

    #[test]
    fn what_is_kept_no_more_is_said_to_be_gone_all_of_it() {
        let bytes = put(1).held_bytes();
        let (mut ring, now) = ring(5 * bytes, 1, 10);
        assert!(ring.held_bytes <= 5 * bytes);
        let gone = |first, last| Answer {
            said: vec![Request::Gone(positions(first, last))],
            ..Answer::default()
        };
        assert_eq!(ring.answer(positions(5, 7), 10, now), gone(5, 7));
        assert_eq!(numbers(&ring.answer(positions(6, 7), 10, now)), [6, 7]);
        assert_eq!(ring.answer(positions(10, 11), 10, now), Answer::default(), "never sent");
        ring.forget();
        assert_eq!(ring.answer(positions(9, 10), 10, now + SECOND), gone(9, 10));
        ring.sending(20, [put(20)].iter());
        ring.sent(20, 1, None);
        assert_eq!(
            ring.answer(positions(19, 20), 20, now + SECOND),
            gone(19, 20),
            "19 was not kept"
        );
        assert_eq!(numbers(&ring.answer(positions(20, 20), 20, now + SECOND)), [20]);
    }

    #[test]
    fn what_is_gone_is_said_once_for_all_who_ask_together() {
        let (mut ring, now) = ring(0, 1, 40);
        let mut told = |first, last, now| ring.answer(positions(first, last), 40, now).said.len();
        assert_eq!(told(5, 9, now), 1);
        let later = now + SERVED / 2;
        assert_eq!([told(5, 9, later), told(6, 8, later), told(9, 9, later)], [0; 3]);
        assert_eq!(told(8, 10, later), 1, "those who miss only 10 have not heard it");
        assert_eq!([told(5, 9, now + SERVED), told(9, 10, now + SERVED)], [1, 0]);
        for number in 11..=40 {
            assert_eq!(told(number, number, now + SERVED), 1);
        }
        assert!(ring.told.len() <= MOST_TOLD);
    }

    #[test]
    fn a_ring_without_room_says_so() {
        let (mut ring, now) = ring(0, 1, 3);
        let said = ring.answer(positions(1, 3), 3, now).said;
        assert_eq!(said, [Request::Gone(positions(1, 3))]);
    }

    #[test]
    fn a_message_whose_publish_failed_never_appears_and_its_key_is_named() {
        let (mut ring, now) = ring(1 << 20, 1, 1);
        ring.sending(2, [put(2), Message::clear()].iter());
        ring.sending(4, [put(4)].iter());
        ring.sent(4, 1, None);
        let answer = ring.answer(positions(1, 4), 4, now);
        assert_eq!(numbers(&answer), [1, 4], "what is under way comes, or fails, by itself");
        ring.sent(2, 2, Some(ErrorKind::Unavailable));
        let answer = ring.answer(positions(2, 3), 4, now);
        let unsent = |number, key| {
            let sequence = NonZeroU64::new(number).expect("not zero");
            Request::Unsent {
                position: Position { origin: origin(), sequence },
                key,
                version: None,
            }
        };
        let key = Key::new("key:002").expect("legal");
        assert_eq!(answer.said, [unsent(2, Some(key)), unsent(3, None)]);
        assert!(answer.messages.is_empty());
    }

    #[test]
    fn a_message_that_may_have_been_sent_is_sent_again() {
        let (mut ring, now) = ring(1 << 20, 1, 1);
        ring.sending(2, [put(2)].iter());
        ring.sent(2, 1, Some(ErrorKind::UnknownOutcome));
        assert_eq!(numbers(&ring.answer(positions(2, 2), 2, now)), [2]);
    }

    #[test]
    fn no_more_is_answered_than_a_ring_and_a_tenth_of_it_a_second() {
        let bytes = put(1).held_bytes().max(SAID_BYTES);
        let room = 4 * LEAST_ALLOWANCE;
        let kept = (room / bytes) as u64;
        let (mut ring, now) = ring(room, 1, kept);
        let half = positions(1, kept / 2);
        let counts = [0, 300, 600, 900, 6000].map(|millis| {
            let answer = ring.answer(half, kept, now + Duration::from_millis(millis));
            (answer.messages.len() as u64, answer.said.len())
        });
        let half = kept / 2;
        assert_eq!(counts, [(half, 0), (half, 0), (0, 1), (0, 1), (half, 0)]);
        let mut told = 0;
        for number in 0..10_000 {
            let gone = positions(kept + 1, kept + 1 + number);
            told += ring.answer(gone, u64::MAX, now + 7 * SECOND).said.len();
        }
        assert!(told <= room / SAID_BYTES / 4, "{told}");
    }
}
