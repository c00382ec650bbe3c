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
        let mut stopping = Self {
            number,
            closing: stop.closing,
            at: None,
            search: None,
        };
        match &stop.point {
            StopPoint::After(bytes) => stopping.at = Some(given.saturating_add(*bytes)),
            StopPoint::Seen(needle, fate) => {
                let length = needle.len() as u64;
                stopping.search = Some((Search::new(needle.clone()), *fate, length));
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
