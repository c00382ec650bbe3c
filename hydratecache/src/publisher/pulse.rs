//! The heartbeats of a lane: after a while without a publish it repeats its last sequence, so that
//! even a lost last message is noticed.
//!
//! The interval doubles each time. After a publish that failed a heartbeat is tried at once, and until
//! one succeeds: the row was probably written, and what others hold is old until they hear the jump.
//! A fleet of 2,000 instances with 10 idle topics each would
//! otherwise send 4,000 heartbeats a second to everyone for ever.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{Heartbeats, Inner, lock};
use crate::{ErrorKind, Message, Result};

/// Between two heartbeats behind a failure: short beside a restart of a broker. Doubles up to the
/// first interval of the others, with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(super) struct Pulse {
    task: Mutex<Option<AbortOnDropHandle<()>>>,
    /// Wakes the task out of a long interval: the first heartbeat after a publish is never late.
    resumed: Arc<Resumed>,
}

#[derive(Default)]
struct Resumed {
    is_awaited: AtomicBool,
    publish: Notify,
    failure: Notify,
}

impl Pulse {
    /// Starts the heartbeats at the first publish, and anew at each one behind a heartbeat, or behind the
    /// end of the runtime that had them. Without a Tokio runtime there are none: only the in-process transport works there, and it
    /// knows what it loses.
    pub(super) fn published(&self, lane: &Arc<Inner>) {
        let mut task = lock(&self.task);
        if task.as_ref().is_some_and(|task| !task.is_finished()) {
            if self.resumed.is_awaited.swap(false, Ordering::Relaxed) {
                self.resumed.publish.notify_one();
            }
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let beat = beat(Arc::downgrade(lane), self.resumed.clone(), lane.heartbeats);
            *task = Some(AbortOnDropHandle::new(runtime.spawn(beat)));
        }
    }

    /// A publish failed, and its numbers will never be heard.
    pub(super) fn failed(&self) {
        self.resumed.failure.notify_one();
    }
}

async fn beat(lane: Weak<Inner>, resumed: Arc<Resumed>, heartbeats: Heartbeats) {
    while let Some(sign) = next_sign(&lane, &resumed, heartbeats.first).await {
        let repeated = match sign {
            Sign::Failure => insist(&lane, heartbeats.first).await,
            Sign::Silence(since) => repeat(&lane, &resumed, heartbeats, since).await,
        };
        if repeated.is_none() {
            return;
        }
    }
}

/// Why a heartbeat is due.
enum Sign {
    /// A publish failed.
    Failure,
    /// Nothing was published since.
    Silence(Instant),
}

/// Waits until a heartbeat is due; `None` if the lane is gone, as from all that follow.
async fn next_sign(lane: &Weak<Inner>, resumed: &Resumed, first: Duration) -> Option<Sign> {
    tokio::select! {
        () = resumed.failure.notified() => Some(Sign::Failure),
        since = silence(lane, first) => since.map(Sign::Silence),
    }
}

/// Sends a heartbeat until one succeeds. The transport itself waits for its link, for as long as a
/// publish may take; the pauses are for one that does not.
async fn insist(lane: &Weak<Inner>, longest: Duration) -> Option<()> {
    let mut pause = FIRST_PAUSE;
    loop {
        match send(&lane.upgrade()?).await {
            Err(error) if error.kind() != ErrorKind::Closed => {}
            _ => return Some(()),
        }
        sleep(pause.mul_f64(1.0 + fastrand::f64())).await;
        pause = longest.min(pause.saturating_mul(2));
    }
}

/// Sends heartbeats, each after twice the pause, for as long as nothing is published.
async fn repeat(
    lane: &Weak<Inner>,
    resumed: &Resumed,
    heartbeats: Heartbeats,
    silent_since: Instant,
) -> Option<()> {
    let mut interval = heartbeats.first;
    loop {
        resumed.is_awaited.store(true, Ordering::Relaxed);
        let lane = lane.upgrade()?;
        if lock(&lane.order).last_publish != silent_since {
            return Some(());
        }
        // The next one says the same.
        let _ = send(&lane).await;
        drop(lane);
        interval = heartbeats.longest.min(interval.saturating_mul(2));
        // Either way the next round sees whether there was a publish.
        let _ = timeout(interval, resumed.publish.notified()).await;
    }
}

/// Waits until nothing was published for `first`, and returns since when; `None` if the lane is
/// gone.
async fn silence(lane: &Weak<Inner>, first: Duration) -> Option<Instant> {
    loop {
        let published = lock(&lane.upgrade()?.order).last_publish;
        let quiet = published + first;
        if quiet <= Instant::now() {
            return Some(published);
        }
        sleep_until(quiet).await;
    }
}

async fn send(lane: &Arc<Inner>) -> Result<()> {
    let heartbeat = Message::heartbeat(lane.origin, None);
    let flight = lane.launch(&mut lock(&lane.order), vec![heartbeat], Arc::default());
    let sent = flight.await.map(drop);
    if let Err(error) = &sent {
        let (system, topic) = (lane.system, &lane.topic);
        tracing::debug!(messaging.system = system, messaging.destination.name = %topic, %error, "heartbeat not sent");
    }
    sent
}
