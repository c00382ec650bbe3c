//! The heartbeats of a lane: after a while without a publish it repeats its last sequence, so that
//! even a lost last message is noticed.
//!
//! The interval doubles each time. A fleet of 2,000 instances with 10 idle topics each would
//! otherwise send 4,000 heartbeats a second to everyone for ever.

use std::sync::{Arc, OnceLock, Weak};

use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::{Heartbeats, Inner, lock};
use crate::Message;

#[derive(Default)]
pub(super) struct Pulse(OnceLock<AbortOnDropHandle<()>>);

impl Pulse {
    /// Starts the heartbeats at the first publish. Without a Tokio runtime there are none: only
    /// the in-process transport works there, and it knows what it loses.
    pub(super) fn start(&self, lane: &Arc<Inner>) {
        if self.0.get().is_some() {
            return;
        }
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let beat = beat(Arc::downgrade(lane), lane.heartbeats);
            self.0.get_or_init(|| AbortOnDropHandle::new(runtime.spawn(beat)));
        }
    }
}

async fn beat(lane: Weak<Inner>, heartbeats: Heartbeats) {
    let mut interval = heartbeats.first;
    let mut due = Instant::now() + interval;
    let mut silent_since = None;
    loop {
        sleep_until(due).await;
        let Some(lane) = lane.upgrade() else { return };
        let published = lock(&lane.order).last_publish;
        if silent_since.replace(published) != Some(published) && published + heartbeats.first > due
        {
            interval = heartbeats.first;
            due = published + interval;
            continue;
        }
        let heartbeat = Message::heartbeat(lane.origin, None);
        let flight = lane.launch(&mut lock(&lane.order), vec![heartbeat]);
        if let Err(error) = flight.await {
            // The next one says the same.
            tracing::debug!(topic = %lane.topic, %error, "heartbeat not sent");
        }
        interval = heartbeats.longest.min(interval * 2);
        due = Instant::now() + interval;
    }
}
