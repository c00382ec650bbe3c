//! One direction of a connection: in order, each after a delay of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::Road;

/// Where things are put into.
#[derive(Debug)]
pub(crate) struct Pipe<T> {
    sender: mpsc::UnboundedSender<(Instant, T)>,
    road: Arc<Road>,
    under_way: Arc<AtomicUsize>,
}

impl<T> Pipe<T> {
    /// Puts `thing` on its way. What is put into a pipe that was cut is lost.
    pub(crate) fn send(&self, thing: T) {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        let _ = self.sender.send((Instant::now() + self.road.delay(), thing));
    }

    /// How much is under way.
    pub(crate) fn under_way(&self) -> usize {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// A pipe along `road` that gives everything to `take`, until it is cut or its sender is dropped;
/// then `end` is called, behind all that arrived.
pub(crate) fn pipe<T: Send + 'static>(
    road: Arc<Road>,
    cut: CancellationToken,
    mut take: impl FnMut(T) + Send + 'static,
    end: impl FnOnce() + Send + 'static,
) -> Pipe<T> {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let under_way = Arc::new(AtomicUsize::new(0));
    let pipe = Pipe { sender, road: road.clone(), under_way: under_way.clone() };
    tokio::spawn(async move {
        let carry = async {
            while let Some((due, thing)) = receiver.recv().await {
                sleep_until(due).await;
                road.open().await;
                under_way.fetch_sub(1, Ordering::Relaxed);
                take(thing);
            }
            // Those who hang up cannot say so on a blocked road either.
            road.open().await;
        };
        cut.run_until_cancelled(carry).await;
        end();
    });
    pipe
}
