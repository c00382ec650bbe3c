//! The simulated network: roads that can be blocked, and connections that delay, keep the order,
//! and can be cut.

mod connection;
mod pipe;

use std::sync::Mutex;
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::watch;

pub(crate) use connection::{Connection, Requests, connect, lost};
pub(crate) use pipe::{Pipe, pipe};

/// The way between one node and the broker.
#[derive(Debug)]
pub(crate) struct Road {
    is_open: watch::Sender<bool>,
    longest_delay: Duration,
    rng: Mutex<Rng>,
}

impl Road {
    /// An open road on which everything takes up to `longest_delay`.
    pub(crate) fn new(longest_delay: Duration, rng: Rng) -> Self {
        Self { is_open: watch::Sender::new(true), longest_delay, rng: Mutex::new(rng) }
    }

    /// Holds up everything on the road, or lets it go on.
    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }

    /// Waits until nothing holds up the road.
    pub(crate) async fn open(&self) {
        // The sender is this road itself.
        let _ = self.is_open.subscribe().wait_for(|is_open| *is_open).await;
    }

    /// How long whoever receives is busy with something else: mostly not at all.
    pub(crate) fn distraction(&self) -> Option<Duration> {
        let mut rng = self.rng.lock().expect("nobody panics with the lock");
        (rng.u8(0..50) == 0).then(|| self.longest_delay.mul_f64(rng.f64()))
    }

    /// How long the next thing takes.
    pub(crate) fn delay(&self) -> Duration {
        let mut rng = self.rng.lock().expect("nobody panics with the lock");
        // Most are quick; the square makes a few slow.
        self.longest_delay.mul_f64(rng.f64() * rng.f64())
    }
}
