//! A batch under way, which everyone who waits for it can drive.
//!
//! Like `futures::future::Shared`, except that whoever completes it is not woken by that once more:
//! a needless wake of the running task costs a publish two task switches.

use std::mem;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll, Wake, Waker};

use futures::future::BoxFuture;

use super::{Answer, lock};
use crate::{Error, ErrorKind};

/// One waiter's hold on a batch under way. The batch is dropped with the last of them.
pub(super) struct Flight {
    shared: Arc<Shared>,
    /// This waiter's place among the wakers, from its first poll on.
    place: Option<usize>,
}

/// A hold that does not keep the batch under way.
pub(super) struct WeakFlight(Weak<Shared>);

struct Shared {
    progress: Mutex<Progress>,
    waiters: Arc<Waiters>,
}

enum Progress {
    Flying(BoxFuture<'static, Answer>),
    /// Being polled; what is left behind if that panics.
    Polled,
    Landed(Answer),
}

/// Wakes everyone who waits: whoever is polled first drives the batch on.
struct Waiters(Mutex<Waiting>);

struct Waiting {
    wakers: Vec<Option<Waker>>,
    /// The batch asked to be polled, as a new one does. Until it does again, polls of those who
    /// wait need not reach it: there may be hundreds.
    is_woken: bool,
}

impl Flight {
    pub(super) fn new(batch: BoxFuture<'static, Answer>) -> Self {
        let progress = Mutex::new(Progress::Flying(batch));
        let waiting = Waiting { wakers: Vec::new(), is_woken: true };
        let waiters = Arc::new(Waiters(Mutex::new(waiting)));
        Self { shared: Arc::new(Shared { progress, waiters }), place: None }
    }

    pub(super) fn downgrade(&self) -> WeakFlight {
        WeakFlight(Arc::downgrade(&self.shared))
    }

    pub(super) fn has_landed(&self) -> bool {
        !matches!(*lock(&self.shared.progress), Progress::Flying(_))
    }

    fn poll_batch(&self, batch: &mut BoxFuture<'static, Answer>) -> Poll<Answer> {
        let waker = Waker::from(self.shared.waiters.clone());
        batch.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Clone for Flight {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), place: None }
    }
}

impl Future for Flight {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let shared = self.shared.clone();
        let mut progress = lock(&shared.progress);
        let mut batch = match mem::replace(&mut *progress, Progress::Polled) {
            // Before the batch is polled: it may be woken while it is.
            Progress::Flying(batch) if shared.waiters.wait(&mut self.place, cx.waker()) => batch,
            Progress::Flying(batch) => {
                *progress = Progress::Flying(batch);
                return Poll::Pending;
            }
            Progress::Landed(answer) => {
                *progress = Progress::Landed(answer.clone());
                return Poll::Ready(answer);
            }
            Progress::Polled => return Poll::Ready(Err(panicked())),
        };
        match self.poll_batch(&mut batch) {
            Poll::Pending => {
                *progress = Progress::Flying(batch);
                Poll::Pending
            }
            Poll::Ready(answer) => {
                *progress = Progress::Landed(answer.clone());
                drop(progress);
                shared.waiters.leave(self.place);
                shared.waiters.wake_all();
                Poll::Ready(answer)
            }
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.waiters.leave(self.place);
    }
}

impl WeakFlight {
    pub(super) fn upgrade(&self) -> Option<Flight> {
        self.0.upgrade().map(|shared| Flight { shared, place: None })
    }
}

impl Waiters {
    /// Takes a place among those who wait. `true`: the batch is to be polled now.
    fn wait(&self, place: &mut Option<usize>, waker: &Waker) -> bool {
        let mut waiting = lock(&self.0);
        if let Some(place) = *place {
            waiting.wakers[place] = Some(waker.clone());
        } else {
            *place = Some(waiting.wakers.len());
            waiting.wakers.push(Some(waker.clone()));
        }
        mem::take(&mut waiting.is_woken)
    }

    fn leave(&self, place: Option<usize>) {
        if let Some(place) = place {
            lock(&self.0).wakers[place] = None;
        }
    }

    fn wake_all(&self) {
        let mut waiting = lock(&self.0);
        waiting.is_woken = true;
        let woken: Vec<Waker> = waiting.wakers.iter_mut().filter_map(Option::take).collect();
        drop(waiting);
        for waker in woken {
            waker.wake();
        }
    }
}

impl Wake for Waiters {
    fn wake(self: Arc<Self>) {
        self.wake_all();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.wake_all();
    }
}

fn panicked() -> Error {
    let what = "the transport panicked while it sent the batch; it may have been sent";
    Error::new(ErrorKind::UnknownOutcome, what)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::publisher::Sent;
    use futures::FutureExt;
    use futures::task::noop_waker;

    const SENT: Sent = Sent { first_sequence: 1, first_clock: 1 };

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(flight: &mut Flight, waker: &Waker) -> Poll<Answer> {
        Pin::new(flight).poll(&mut Context::from_waker(waker))
    }

    #[test]
    fn any_waiter_drives_the_batch_and_all_hear_its_answer_once() {
        let (land, landed) = tokio::sync::oneshot::channel::<()>();
        let batch = async move { landed.await.map(|()| SENT).map_err(|_| panicked()) };
        let first = Flight::new(batch.boxed());
        let mut waiters = [(); 3].map(|()| first.clone());
        let counts = [(); 3].map(|()| Arc::new(Count::default()));
        let wakers = counts.clone().map(Waker::from);
        for (flight, waker) in waiters.iter_mut().zip(&wakers) {
            assert!(poll(flight, waker).is_pending());
        }
        land.send(()).expect("awaited");
        let woken =
            || counts.iter().map(|count| count.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        assert_eq!(woken(), [1, 1, 1], "any of them may drive it on");
        assert!(poll(&mut waiters[1], &wakers[1]).is_ready());
        assert_eq!(woken()[1], 1, "its own completion does not wake it");
        assert!(first.has_landed());
        assert!(poll(&mut waiters[2], &wakers[2]).is_ready());
    }

    #[test]
    fn a_batch_is_dropped_with_its_last_waiter() {
        let alive = Arc::new(());
        let held = alive.clone();
        let batch = async move {
            std::future::pending::<()>().await;
            drop(held);
            Ok(SENT)
        };
        let flight = Flight::new(batch.boxed());
        let weak = flight.downgrade();
        let mut other = flight.clone();
        assert!(poll(&mut other, &noop_waker()).is_pending());
        drop(flight);
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(other);
        assert_eq!((Arc::strong_count(&alive), weak.upgrade().is_none()), (1, true));
    }

    #[test]
    fn a_transport_that_panics_leaves_its_other_waiters_an_answer() {
        let batch: BoxFuture<'static, Answer> = async { panic!("a bug in a transport") }.boxed();
        let flight = Flight::new(batch);
        let mut first = flight.clone();
        let polled = std::panic::AssertUnwindSafe(|| poll(&mut first, &noop_waker()));
        assert!(std::panic::catch_unwind(polled).is_err());
        let answer = flight.now_or_never().expect("an answer");
        assert_eq!(answer.expect_err("unknown").kind(), ErrorKind::UnknownOutcome);
    }
}
