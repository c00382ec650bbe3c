//! Waits for one value at a time. What others publish meanwhile is dropped where it arrives, so that
//! nothing gathers, however much that is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Both ends, of one subscription.
pub(super) fn awaiting() -> (Arrived, Awaiting) {
    let state = Arc::<Mutex<State>>::default();
    (Arrived(state.clone()), Awaiting(state))
}

/// Where a subscriber tells what arrives, as long as it is subscribed.
pub(super) struct Arrived(Arc<Mutex<State>>);

/// Where a value is waited for.
pub(super) struct Awaiting(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    awaited: Option<(Bytes, oneshot::Sender<Instant>)>,
    is_over: bool,
}

impl Arrived {
    /// A value reached the subscriber just now.
    pub(super) fn now(&self, body: &[u8]) {
        let at = Instant::now();
        let mut state = lock(&self.0);
        if let Some((_, arrived)) = state.awaited.take_if(|(awaited, _)| *awaited == body) {
            // Fails if nobody waits any more.
            let _ = arrived.send(at);
        }
    }
}

impl Drop for Arrived {
    fn drop(&mut self) {
        let mut state = lock(&self.0);
        state.is_over = true;
        state.awaited = None;
    }
}

impl Awaiting {
    /// Waits for `body` from now on, not only from the first poll.
    pub(super) fn next(
        &self,
        body: Bytes,
    ) -> impl Future<Output = anyhow::Result<Instant>> + use<> {
        let (arrived, arrival) = oneshot::channel();
        let mut state = lock(&self.0);
        if !state.is_over {
            state.awaited = Some((body, arrived));
        }
        async { arrival.await.context("the subscription ended") }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_waited_for_is_kept_until_the_subscription_ends() {
        let (arrived, awaiting) = awaiting();
        arrived.now(b"a");
        let arrival = awaiting.next(Bytes::from_static(b"a"));
        assert!(lock(&awaiting.0).awaited.is_some(), "what came before is no answer");
        arrived.now(b"b");
        arrived.now(b"a");
        arrived.now(b"a");
        assert!(lock(&awaiting.0).awaited.is_none());
        arrival.await.expect("it arrived");
        let unheard = awaiting.next(Bytes::from_static(b"c"));
        drop(arrived);
        unheard.await.expect_err("it was waited for when the subscription ended");
        awaiting.next(Bytes::from_static(b"d")).await.expect_err("it is over");
    }
}
