//! A batch under way, which everyone who waits for it can drive.
//!
//! Like `futures::future::Shared`, except that whoever completes it is not woken by that once more:
//! a needless wake of the running task costs a publish two task switches. And those who wait may
//! have said so before the batch was on its way, so that they need not be polled when it departs.

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
    /// This waiter's place among the wakers, at the latest from its first poll on.
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
#[derive(Default)]
pub(super) struct Waiters(Mutex<Waiting>);

#[derive(Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    /// The batch asked to be polled. Until it does again, polls of those who wait need not reach
    /// it: there may be hundreds.
    is_woken: bool,
}

impl Flight {
    /// Polls `batch` for the first time, which hands it over: that must not wait for a waiter to be
    /// polled.
    pub(super) fn launch(batch: BoxFuture<'static, Answer>, waiters: Arc<Waiters>) -> Self {
        let progress = waiters.drive(batch);
        if let Progress::Landed(_) = progress {
            waiters.wake_all();
        }
        let progress = Mutex::new(progress);
        Self { shared: Arc::new(Shared { progress, waiters }), place: None }
    }

    /// The hold of the waiter who took that place before the batch was on its way.
    pub(super) fn at(&self, place: usize) -> Self {
        Self { shared: self.shared.clone(), place: Some(place) }
    }

    pub(super) fn downgrade(&self) -> WeakFlight {
        WeakFlight(Arc::downgrade(&self.shared))
    }

    /// The answer, if it is there. From then on nobody is woken, so whoever has it need not leave.
    pub(super) fn answer(&self) -> Option<Answer> {
        match &*lock(&self.shared.progress) {
            Progress::Landed(answer) => Some(answer.clone()),
            Progress::Flying(_) | Progress::Polled => None,
        }
    }

    pub(super) fn has_landed(&self) -> bool {
        !matches!(*lock(&self.shared.progress), Progress::Flying(_))
    }
}

impl Future for Flight {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        let Self { shared, place } = &mut *self;
        let mut progress = lock(&shared.progress);
        if let Progress::Flying(_) = *progress
            // Before the batch is polled: it may be woken while it is.
            && shared.waiters.wait(place, cx.waker())
            && let Progress::Flying(batch) = mem::replace(&mut *progress, Progress::Polled)
        {
            *progress = shared.waiters.drive(batch);
            if let Progress::Landed(answer) = &*progress {
                let answer = answer.clone();
                drop(progress);
                shared.waiters.leave(*place);
                shared.waiters.wake_all();
                return Poll::Ready(answer);
            }
        }
        match &*progress {
            Progress::Flying(_) => Poll::Pending,
            Progress::Landed(answer) => Poll::Ready(answer.clone()),
            Progress::Polled => Poll::Ready(Err(panicked())),
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
    pub(super) fn with_room(places: usize) -> Self {
        Self(Mutex::new(Waiting { wakers: Vec::with_capacity(places), is_woken: false }))
    }

    /// Takes the next place among those who wait.
    pub(super) fn join(&self, waker: Option<Waker>) {
        lock(&self.0).wakers.push(waker);
    }

    /// Keeps its place among those who wait, or takes one. `true`: the batch is to be polled now.
    fn wait(&self, place: &mut Option<usize>, waker: &Waker) -> bool {
        let mut waiting = lock(&self.0);
        let wakers = &mut waiting.wakers;
        let place = *place.get_or_insert_with(|| {
            wakers.push(None);
            wakers.len() - 1
        });
        if !wakers[place].as_ref().is_some_and(|known| known.will_wake(waker)) {
            wakers[place] = Some(waker.clone());
        }
        mem::take(&mut waiting.is_woken)
    }

    pub(super) fn leave(&self, place: Option<usize>) {
        if let Some(place) = place {
            lock(&self.0).wakers[place] = None;
        }
    }

    /// Polls `batch`, which wakes those who wait when it asks to be polled again.
    fn drive(self: &Arc<Self>, mut batch: BoxFuture<'static, Answer>) -> Progress {
        let waker = Waker::from(self.clone());
        match batch.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => Progress::Flying(batch),
            Poll::Ready(answer) => Progress::Landed(answer),
        }
    }

    /// Wakes everyone who waits.
    pub(super) fn wake_all(&self) {
        let mut waiting = lock(&self.0);
        waiting.is_woken = true;
        let mut woken = Vec::with_capacity(waiting.wakers.len());
        woken.extend(waiting.wakers.iter_mut().filter_map(Option::take));
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

    fn flight(batch: impl Future<Output = Answer> + Send + 'static) -> Flight {
        Flight::launch(batch.boxed(), Arc::default())
    }

    /// Another waiter's hold.
    fn another(flight: &Flight) -> Flight {
        flight.downgrade().upgrade().expect("under way")
    }

    fn poll(flight: &mut Flight, waker: &Waker) -> Poll<Answer> {
        Pin::new(flight).poll(&mut Context::from_waker(waker))
    }

    #[test]
    fn any_waiter_drives_the_batch_and_all_hear_its_answer_once() {
        let (land, landed) = tokio::sync::oneshot::channel::<()>();
        let batch = async move { landed.await.map(|()| SENT).map_err(|_| panicked()) };
        let first = flight(batch);
        let mut waiters = [(); 3].map(|()| another(&first));
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
        let flight = flight(batch);
        let weak = flight.downgrade();
        let mut other = another(&flight);
        assert!(poll(&mut other, &noop_waker()).is_pending());
        drop(flight);
        assert_eq!(Arc::strong_count(&alive), 2);
        drop(other);
        assert_eq!((Arc::strong_count(&alive), weak.upgrade().is_none()), (1, true));
    }

    #[test]
    fn a_transport_that_panics_leaves_its_other_waiters_an_answer() {
        let (land, landed) = tokio::sync::oneshot::channel::<()>();
        let flight = flight(async move {
            let _ = landed.await;
            panic!("a bug in a transport")
        });
        let mut first = another(&flight);
        drop(land);
        let polled = std::panic::AssertUnwindSafe(|| poll(&mut first, &noop_waker()));
        assert!(std::panic::catch_unwind(polled).is_err());
        let answer = flight.now_or_never().expect("an answer");
        assert_eq!(answer.expect_err("unknown").kind(), ErrorKind::UnknownOutcome);
    }
}
