//! One publish, as whoever awaits it sees it.

use std::fmt;
use std::future::Future;
use std::mem;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use super::flight::Flight;
use super::{Batch, Inner, Joined, Receipt, Sent};
use crate::message::Position;
use crate::trace::Sending;
use crate::{Error, ErrorKind, Message, Origin, Result, Version};

/// A publish under way.
///
/// # Cancel safety
/// Dropped before it was polled, nothing was sent. Dropped later, the message may have been sent:
/// it is taken back if its batch is still gathering; if every publish of its batch is dropped, so
/// is the transport's future, as [`Transport::publish`](crate::Transport::publish) describes.
#[must_use = "a publish does nothing until it is awaited"]
pub struct Publish {
    stage: Stage,
    /// From its first poll on.
    sending: Option<Sending>,
}

enum Stage {
    /// Not begun.
    New { lane: Arc<Inner>, message: Message },
    /// In a batch that gathers, or that departed since.
    Gathering { lane: Arc<Inner>, batch: Arc<Batch>, place: Place },
    /// On its way.
    Waiting { flight: Flight, place: Place },
    /// Answered.
    Done,
    /// Refused before any I/O.
    Refused(Option<Error>),
}

/// Which message of its batch this one is, for its receipt.
#[derive(Clone, Copy)]
struct Place {
    origin: Origin,
    index: usize,
    /// The caller's version; otherwise the lane gave it one.
    version: Option<Version>,
}

impl Place {
    fn receipt(self, sent: Sent) -> Receipt {
        let offset = self.index as u64;
        let sequence = NonZeroU64::new(sent.first_sequence + offset)
            .expect("sequences begin at 1, and 2^64 of them are never sent");
        let clock = || Version::clock(sent.first_clock + offset, Some(self.origin));
        Receipt {
            position: Position { origin: self.origin, sequence },
            version: self.version.unwrap_or_else(clock),
        }
    }
}

impl Publish {
    /// A publish of `message` by `lane`.
    pub(super) fn new(lane: Arc<Inner>, message: Message) -> Self {
        Self::of(Stage::New { lane, message })
    }

    /// A publish that was refused before any I/O.
    pub(crate) fn refused(error: Error) -> Self {
        Self::of(Stage::Refused(Some(error)))
    }

    fn of(stage: Stage) -> Self {
        Self { stage, sending: None }
    }
}

impl Future for Publish {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.advance(cx));
        self.stage = Stage::Done;
        if let Some(sending) = self.sending.take() {
            sending.end(answer.as_ref().map(drop));
        }
        Poll::Ready(answer)
    }
}

impl Publish {
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<Receipt>> {
        if let Stage::New { .. } = self.stage
            && !self.begin(cx.waker())
        {
            return Poll::Pending;
        }
        if let Stage::Gathering { .. } = self.stage
            && let Some(answer) = self.depart()
        {
            return Poll::Ready(answer);
        }
        if let Stage::Refused(error) = &mut self.stage {
            return Poll::Ready(Err(error.take().expect("polled after it was ready")));
        }
        let Stage::Waiting { flight, place } = &mut self.stage else {
            panic!("polled after it was ready");
        };
        let answer = ready!(Pin::new(flight).poll(cx));
        Poll::Ready(answer.map(|sent| place.receipt(sent)))
    }

    /// Joins a batch. Whether that is to depart now.
    fn begin(&mut self, waker: &Waker) -> bool {
        let Stage::New { lane, mut message } = mem::replace(&mut self.stage, Stage::Done) else {
            return false;
        };
        self.sending = Some(Sending::begin(&mut message, lane.destination()));
        let (origin, version) = (lane.origin, message.version);
        let Joined { batch, place: index, departs } = lane.join(message, waker);
        let place = Place { origin, index, version };
        self.stage = Stage::Gathering { lane, batch, place };
        departs
    }

    /// Sends the batch, unless that is done. The answer, if it is there; else it is waited for.
    fn depart(&mut self) -> Option<Result<Receipt>> {
        let Stage::Gathering { lane, batch, place } = &self.stage else {
            return None;
        };
        let Some(departed) = lane.depart(batch) else {
            let what = "the transport panicked while it took the batch; it may have been sent";
            return Some(Err(Error::new(ErrorKind::UnknownOutcome, what)));
        };
        let mut sent = *place;
        sent.index -= departed.dropped.partition_point(|dropped| *dropped < place.index);
        if let Some(answer) = departed.flight.answer() {
            return Some(answer.map(|answer| sent.receipt(answer)));
        }
        let flight = departed.flight.at(place.index);
        self.stage = Stage::Waiting { flight, place: sent };
        None
    }
}

impl Drop for Publish {
    fn drop(&mut self) {
        if let Stage::Gathering { lane, batch, place } = &self.stage {
            batch.waiters.leave(Some(place.index));
            lane.leave(batch, place.index);
        }
    }
}

impl fmt::Debug for Publish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Publish")
    }
}
