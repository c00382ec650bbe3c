//! Decides what may leave a connection in one direction, and when. It does no I/O and reads no clock.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf, Bytes};
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::Direction;
use super::Needle;
use super::faults::{Closing, Delay, Faults, Stop, StopPoint};
use super::needle::Search;

/// At most this much is taken in at a time.
pub(super) const READ_BYTES: usize = 16 << 10;
/// At most this much is held.
pub(super) const HELD_BYTES: usize = 1 << 20;
/// In so many portions a throttled stream leaves.
const PORTIONS_PER_SECOND: u64 = 50;
/// The time of one portion, and how much lost time a throttled stream may make good.
const PORTION: Duration = Duration::from_millis(1000 / PORTIONS_PER_SECOND);

/// One direction of one connection: bytes go in as they arrive and come out as the faults allow.
#[derive(Debug)]
pub(super) struct Shape {
    way: Direction,
    rng: Xoshiro256PlusPlus,
    held: bool,
    delay: Option<Delay>,
    bytes_per_second: Option<u64>,
    piece_bytes: usize,
    stopping: Option<Stopping>,
    queue: VecDeque<Piece>,
    taken: u64,
    given: u64,
    /// When the end of the stream is due.
    end: Option<Instant>,
    /// Nothing is due before what was taken earlier.
    last_due: Instant,
    /// When the throttle lets the next byte pass.
    free_at: Instant,
}

/// What is to be done next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// Nothing, until bytes arrive or the faults change.
    Idle,
    /// Write some of these bytes, not before `due`.
    Write { due: Instant, bytes: &'a [u8] },
    /// End the stream, not before `due`.
    End { due: Instant },
}

#[derive(Debug)]
struct Piece {
    due: Instant,
    bytes: Bytes,
}

/// An armed stop.
#[derive(Debug)]
struct Stopping {
    number: u64,
    closing: Closing,
    /// How many bytes of the whole stream are still given, once known.
    at: Option<u64>,
    search: Option<(Search, Needle, u64)>,
}

impl Shape {
    /// An empty stream without faults; they are set by [`Self::obey`].
    pub(super) fn new(way: Direction, seed: u64, now: Instant) -> Self {
        Self {
            way,
            rng: Xoshiro256PlusPlus::seed_from_u64(seed),
            held: false,
            delay: None,
            bytes_per_second: None,
            piece_bytes: READ_BYTES,
            stopping: None,
            queue: VecDeque::new(),
            taken: 0,
            given: 0,
            end: None,
            last_due: now,
            free_at: now,
        }
    }

    /// Takes on the faults as they are now.
    pub(super) fn obey(&mut self, faults: &Faults, now: Instant) {
        self.held = faults.black_hole.is_some_and(|hole| hole.covers(self.way));
        self.delay = faults.delay;
        if self.delay.is_none() {
            self.release(now);
        }
        if self.bytes_per_second.is_none() {
            self.free_at = now;
        }
        self.bytes_per_second = faults.bytes_per_second;
        self.piece_bytes = piece_bytes(faults);
        self.arm(faults.stop_on(self.way));
    }

    /// How many bytes may be taken now.
    pub(super) fn room(&self) -> usize {
        if self.held || self.end.is_some() {
            return 0;
        }
        let held = usize::try_from(self.taken - self.given).unwrap_or(HELD_BYTES);
        HELD_BYTES.saturating_sub(held).min(READ_BYTES)
    }

    /// Bytes have arrived.
    pub(super) fn take(&mut self, bytes: &[u8], now: Instant) {
        if let Some(stopping) = &mut self.stopping {
            stopping.look(bytes, self.taken, self.given);
        }
        self.taken += bytes.len() as u64;
        let due = self.due(now);
        let bytes = Bytes::copy_from_slice(bytes);
        self.queue.push_back(Piece { due, bytes });
    }

    /// The sender has closed its stream.
    pub(super) fn take_end(&mut self, now: Instant) {
        self.end = Some(self.due(now));
    }

    /// What is to be done next.
    pub(super) fn next(&self) -> Step<'_> {
        match (self.held, self.queue.front(), self.end) {
            (true, ..) | (false, None, None) => Step::Idle,
            (false, None, Some(due)) => Step::End { due },
            (false, Some(piece), _) => Step::Write {
                due: self.paced(piece.due),
                bytes: &piece.bytes[..piece.bytes.len().min(self.allowed())],
            },
        }
    }

    /// So many bytes of the last [`Step::Write`] were written.
    pub(super) fn gave(&mut self, bytes: usize, now: Instant) {
        self.given += bytes as u64;
        if let Some(rate) = self.bytes_per_second {
            let earliest = now.checked_sub(PORTION).unwrap_or(now);
            self.free_at = self.free_at.max(earliest) + cost(bytes, rate);
        }
        if let Some(piece) = self.queue.front_mut() {
            piece.bytes.advance(bytes);
            if piece.bytes.is_empty() {
                self.queue.pop_front();
            }
        }
    }

    /// How the connection is to be closed now, if an armed stop has been reached.
    pub(super) fn stopped(&self) -> Option<Closing> {
        let stopping = self.stopping.as_ref()?;
        (self.given >= stopping.at?).then_some(stopping.closing)
    }

    /// Whether others should have a turn after each write.
    pub(super) fn is_one_byte(&self) -> bool {
        self.piece_bytes == 1
    }

    fn arm(&mut self, stop: Option<(u64, &Stop)>) {
        let armed = self.stopping.as_ref().map(|stopping| stopping.number);
        if armed == stop.map(|(number, _)| number) {
            return;
        }
        self.stopping = stop.map(|(number, stop)| {
            let mut stopping = Stopping::new(number, stop, self.given);
            let mut offset = self.given;
            for piece in &self.queue {
                stopping.look(&piece.bytes, offset, self.given);
                offset += piece.bytes.len() as u64;
            }
            stopping
        });
    }

    fn release(&mut self, now: Instant) {
        let dues = self.queue.iter_mut().map(|piece| &mut piece.due);
        for due in dues.chain(&mut self.end).chain([&mut self.last_due]) {
            *due = now.min(*due);
        }
    }

    fn due(&mut self, now: Instant) -> Instant {
        let late = self.delay.map_or(Duration::ZERO, |delay| {
            delay.base + self.rng.random_range(Duration::ZERO..=delay.jitter)
        });
        self.last_due = self.last_due.max(now + late);
        self.last_due
    }

    fn paced(&self, due: Instant) -> Instant {
        self.bytes_per_second.map_or(due, |_| due.max(self.free_at))
    }

    fn allowed(&self) -> usize {
        let at = self.stopping.as_ref().and_then(|stopping| stopping.at);
        let left = at.map_or(u64::MAX, |at| at.saturating_sub(self.given));
        usize::try_from(left).unwrap_or(usize::MAX).min(self.piece_bytes)
    }
}

impl Stopping {
    fn new(number: u64, stop: &Stop, given: u64) -> Self {
        let mut stopping = Self { number, closing: stop.closing, at: None, search: None };
        match &stop.point {
            StopPoint::After(bytes) => stopping.at = Some(given.saturating_add(*bytes)),
            StopPoint::Seen(needle, fate) => {
                let length = needle.len() as u64;
                stopping.search = Some((Search::new(needle), *fate, length));
                stopping.look(&[], given, given);
            }
        }
        stopping
    }

    /// Looks for the needle in bytes that start at `offset` of the stream, of which `given` are gone.
    fn look(&mut self, bytes: &[u8], offset: u64, given: u64) {
        let Some((search, fate, length)) = &mut self.search else {
            return;
        };
        if let Some(end) = search.find(bytes) {
            let end = offset + end as u64;
            self.at = Some(match fate {
                Needle::Forwarded => end,
                Needle::Withheld => end.saturating_sub(*length).max(given),
            });
            self.search = None;
        }
    }
}

fn piece_bytes(faults: &Faults) -> usize {
    if faults.one_byte {
        return 1;
    }
    faults.bytes_per_second.map_or(READ_BYTES, |rate| {
        let bytes = usize::try_from(rate / PORTIONS_PER_SECOND).unwrap_or(READ_BYTES);
        bytes.clamp(1, READ_BYTES)
    })
}

fn cost(bytes: usize, bytes_per_second: u64) -> Duration {
    Duration::from_secs(bytes as u64) / u32::try_from(bytes_per_second).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn shape(seed: u64, faults: &Faults, now: Instant) -> Shape {
        let mut shape = Shape::new(Direction::ToClient, seed, now);
        shape.obey(faults, now);
        shape
    }

    fn jittery() -> Faults {
        Faults { delay: Some(Delay { base: 10 * MS, jitter: 90 * MS }), ..Faults::default() }
    }

    fn stopping(point: StopPoint) -> Faults {
        let mut faults = Faults::default();
        faults.arm(Stop { direction: Direction::Both, point, closing: Closing::Reset });
        faults
    }

    /// Everything that may leave, with the time each piece is due.
    fn drain(shape: &mut Shape) -> Vec<(Instant, Vec<u8>)> {
        let mut left = Vec::new();
        while shape.stopped().is_none() {
            let Step::Write { due, bytes } = shape.next() else {
                break;
            };
            let piece = (due, bytes.to_vec());
            shape.gave(piece.1.len(), due);
            left.push(piece);
        }
        left
    }

    fn bytes(pieces: &[(Instant, Vec<u8>)]) -> Vec<u8> {
        pieces.iter().flat_map(|(_, bytes)| bytes.clone()).collect()
    }

    fn dues(seed: u64, start: Instant) -> Vec<Duration> {
        let mut shape = shape(seed, &jittery(), start);
        for byte in 0..20 {
            shape.take(&[byte], start + MS * u32::from(byte));
        }
        let pieces = drain(&mut shape);
        assert_eq!(bytes(&pieces), (0..20).collect::<Vec<_>>());
        pieces.iter().map(|(due, _)| *due - start).collect()
    }

    #[test]
    fn jitter_keeps_the_order_and_its_bounds() {
        for seed in 0..50 {
            let dues = dues(seed, Instant::now());
            assert!(dues.is_sorted(), "{dues:?}");
            for (sent, due) in (0..).zip(dues) {
                assert!(due >= MS * (sent + 10) && due <= MS * (sent.max(19) + 100));
            }
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_delays_and_another_seed_others() {
        let start = Instant::now();
        assert_eq!(dues(7, start), dues(7, start));
        assert_ne!(dues(7, start), dues(8, start));
    }

    #[test]
    fn the_end_of_a_stream_is_as_late_as_its_bytes_and_behind_them() {
        let start = Instant::now();
        let mut shape = shape(1, &jittery(), start);
        shape.take(b"x", start);
        shape.take_end(start);
        let last = drain(&mut shape)[0].0;
        assert!(matches!(shape.next(), Step::End { due } if due >= last));
    }

    #[test]
    fn healing_a_delay_makes_everything_due_at_once() {
        let start = Instant::now();
        let mut shape = shape(1, &jittery(), start);
        shape.take(b"x", start);
        shape.take_end(start);
        shape.obey(&Faults::default(), start + MS);
        assert_eq!(drain(&mut shape), [(start + MS, b"x".to_vec())]);
        assert_eq!(shape.next(), Step::End { due: start + MS });
    }

    #[test]
    fn a_black_hole_takes_nothing_and_gives_nothing_until_healed() {
        let start = Instant::now();
        let mut shape = shape(1, &Faults::default(), start);
        shape.take(b"x", start);
        let hole = Faults { black_hole: Some(Direction::ToClient), ..Faults::default() };
        shape.obey(&hole, start);
        assert_eq!((shape.room(), shape.next()), (0, Step::Idle));
        shape.obey(&Faults::default(), start);
        assert_eq!(bytes(&drain(&mut shape)), b"x");
    }

    #[test]
    fn a_black_hole_of_the_other_way_changes_nothing() {
        let start = Instant::now();
        let hole = Faults { black_hole: Some(Direction::ToServer), ..Faults::default() };
        let mut shape = shape(1, &hole, start);
        shape.take(b"x", start);
        assert_eq!(bytes(&drain(&mut shape)), b"x");
    }

    #[test]
    fn no_more_is_taken_than_can_be_held() {
        let start = Instant::now();
        let mut shape = shape(1, &Faults::default(), start);
        let mut taken = 0;
        while shape.room() > 0 {
            taken += shape.room();
            shape.take(&vec![0; shape.room()], start);
        }
        assert_eq!(taken, HELD_BYTES);
        shape.gave(1, start);
        assert_eq!(shape.room(), 1);
    }

    #[test]
    fn a_throttled_stream_takes_its_time_at_any_rate() {
        let start = Instant::now();
        for rate in [1, 49, 50, 1_000, 800_000, u64::from(u32::MAX)] {
            let faults = Faults { bytes_per_second: Some(rate), ..Faults::default() };
            let mut shape = shape(1, &faults, start);
            shape.take(&[0; 500], start);
            let took = drain(&mut shape).last().expect("bytes were taken").0 - start;
            let byte = Duration::from_secs(1) / u32::try_from(rate).expect("it fits");
            assert!(took <= 500 * byte, "{rate}: {took:?}");
            assert!(took + 2 * PORTION + byte >= 500 * byte, "{rate}: {took:?}");
        }
    }

    #[test]
    fn a_stop_after_so_many_bytes_is_exact_and_counts_from_when_it_was_armed() {
        let start = Instant::now();
        let mut shape = shape(1, &Faults::default(), start);
        shape.take(b"before", start);
        drain(&mut shape);
        shape.take(b"abc", start);
        shape.obey(&stopping(StopPoint::After(5)), start);
        shape.take(b"defg", start);
        assert_eq!(bytes(&drain(&mut shape)), b"abcde");
        assert_eq!(shape.stopped(), Some(Closing::Reset));
    }

    #[test]
    fn a_needle_is_found_in_bytes_that_are_held_when_it_is_armed() {
        let start = Instant::now();
        for (fate, rest) in [(Needle::Forwarded, "a needle"), (Needle::Withheld, "a ")] {
            let mut shape = shape(1, &Faults::default(), start);
            shape.take(b"a nee", start);
            shape.obey(&stopping(StopPoint::Seen((*b"needle").into(), fate)), start);
            assert_eq!(shape.stopped(), None);
            shape.take(b"dle and more", start);
            assert_eq!(String::from_utf8_lossy(&bytes(&drain(&mut shape))), rest);
            assert_eq!(shape.stopped(), Some(Closing::Reset));
        }
    }

    #[test]
    fn a_withheld_needle_never_arrives_complete_though_its_head_was_forwarded() {
        let start = Instant::now();
        let point = StopPoint::Seen((*b"needle").into(), Needle::Withheld);
        let mut shape = shape(1, &stopping(point), start);
        shape.take(b"a nee", start);
        assert_eq!(bytes(&drain(&mut shape)), b"a nee");
        shape.take(b"dle", start);
        assert_eq!(shape.stopped(), Some(Closing::Reset));
    }

    #[test]
    fn bytes_leave_one_by_one_when_asked_to() {
        let start = Instant::now();
        let faults = Faults { one_byte: true, ..Faults::default() };
        let mut shape = shape(1, &faults, start);
        shape.take(b"abc", start);
        let pieces = drain(&mut shape);
        assert!(pieces.iter().all(|(_, bytes)| bytes.len() == 1));
        assert_eq!(bytes(&pieces), b"abc");
    }
}
