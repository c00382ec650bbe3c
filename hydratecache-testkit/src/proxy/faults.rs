//! The faults in force, as plain values that every task watches.

use std::io::Read;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, Socket};

use super::{Direction, Needle};

/// Unread bytes that an orderly close throws away before it gives up being orderly.
const DISCARD_BYTES: usize = 16 << 20;

/// Every fault in force. `Default` is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    pub(super) black_hole: Option<Direction>,
    pub(super) delay: Option<Delay>,
    pub(super) bytes_per_second: Option<u64>,
    pub(super) one_byte: bool,
    /// Counts the calls that armed a stop, so that the same stop armed again counts anew.
    pub(super) armed: u64,
    pub(super) stop: Option<Arc<Stop>>,
    /// Counts the calls that closed all connections: one that has seen another number is to close.
    pub(super) closed: u64,
    pub(super) closing: Closing,
}

/// How late bytes are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Delay {
    pub(super) base: Duration,
    pub(super) jitter: Duration,
}

/// Where the stream of a connection ends, and how.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) direction: Direction,
    pub(super) point: StopPoint,
    pub(super) closing: Closing,
}

/// The place in a stream where it stops.
#[derive(Clone, Debug)]
pub(super) enum StopPoint {
    After(u64),
    Seen(Arc<[u8]>, Needle),
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Closing {
    #[default]
    Fin,
    Reset,
}

impl Faults {
    pub(super) fn arm(&mut self, stop: Stop) {
        self.armed += 1;
        self.stop = Some(Arc::new(stop));
    }

    pub(super) fn close_all(&mut self, closing: Closing) {
        self.closed += 1;
        self.closing = closing;
    }

    /// Back to none, without forgetting what has been counted.
    pub(super) fn heal(&mut self) {
        *self = Self {
            armed: self.armed,
            closed: self.closed,
            closing: self.closing,
            ..Self::default()
        };
    }

    /// The stop that concerns one way of a connection, and its number.
    pub(super) fn stop_on(&self, way: Direction) -> Option<(u64, &Stop)> {
        let stop = self.stop.as_deref()?;
        stop.direction.covers(way).then_some((self.armed, stop))
    }
}

impl Closing {
    /// Prepares a socket, which the caller drops next, to be closed this way.
    ///
    /// What fails here does so because the peer has closed already.
    pub(super) fn apply<'s, S>(self, stream: &'s S)
    where
        SockRef<'s>: From<&'s S>,
    {
        let socket = SockRef::from(stream);
        match self {
            Self::Reset => drop(socket.set_linger(Some(Duration::ZERO))),
            Self::Fin => {
                drop(socket.shutdown(Shutdown::Write));
                discard(&socket);
            }
        }
    }
}

/// Reads what has arrived: closing a socket with unread bytes would send a reset after the FIN.
fn discard(mut socket: &Socket) {
    let mut scratch = [0; 16 << 10];
    let mut rest = DISCARD_BYTES;
    drop(socket.set_nonblocking(true));
    while rest > 0 {
        match socket.read(&mut scratch) {
            Ok(bytes @ 1..) => rest = rest.saturating_sub(bytes),
            _ => return,
        }
    }
}
