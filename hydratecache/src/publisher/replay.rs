//! Answers those who missed messages: what the ring still has is published again, once for everybody.

use std::sync::{Arc, Mutex, Weak};

use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::ring::Answer;
use super::{Inner, MAX_BATCH_BYTES, lock};
use crate::{Error, ErrorKind, Message, Positions, Request, Result};

/// How many requests may wait for their answer. Those who sent more ask once more.
const WAITING: usize = 256;

/// The task that answers. It begins with the first request, and again if its runtime has ended.
#[derive(Default)]
pub(super) struct Replayer(Mutex<Option<(mpsc::Sender<Positions>, AbortOnDropHandle<()>)>>);

impl Replayer {
    pub(super) fn asked(&self, lane: &Arc<Inner>, positions: Positions) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut answering = lock(&self.0);
        if let Some((requests, _task)) = &*answering
            && !matches!(requests.try_send(positions), Err(TrySendError::Closed(_)))
        {
            // Where too many wait, whoever is not answered asks again, or repairs itself in another way.
            return;
        }
        let (sender, requests) = mpsc::channel(WAITING);
        let task = runtime.spawn(answer_all(Arc::downgrade(lane), requests));
        let _has_room = sender.try_send(positions);
        *answering = Some((sender, AbortOnDropHandle::new(task)));
    }
}

async fn answer_all(lane: Weak<Inner>, mut requests: mpsc::Receiver<Positions>) {
    while let Some(positions) = requests.recv().await {
        let Some(lane) = lane.upgrade() else { return };
        let last = lock(&lane.order).last_sequence;
        let answer = lock(&lane.ring).answer(positions, last, Instant::now());
        if let Err(error) = publish(&lane, answer).await {
            // Those who asked do not wait for long.
            let (system, topic) = (lane.system, &lane.topic);
            tracing::debug!(messaging.system = system, messaging.destination.name = %topic, %error, "replay not sent");
        }
    }
}

async fn publish(lane: &Arc<Inner>, Answer { messages, said }: Answer) -> Result<()> {
    let said: Result<Vec<Message>> =
        said.iter().map(|said| Message::request(lane.origin, Request::encode(said))).collect();
    let replayed = messages.len() as u64;
    let mut all = messages.into_iter().chain(said?).peekable();
    while all.peek().is_some() {
        let mut bytes = 0;
        // Whoever hears this origin for the first time learns first that these are old.
        let mut batch = vec![Message::heartbeat(lane.origin, None)];
        while batch.len() < lane.batch_messages.max(2)
            && bytes < MAX_BATCH_BYTES
            && let Some(message) = all.next()
        {
            bytes += message.held_bytes();
            batch.push(message);
        }
        let flight = lane.relaunch(&lock(&lane.order), batch);
        flight.await?;
    }
    lane.counters.replayed.add(replayed);
    Ok(())
}

/// What becomes of a batch whose messages are kept: known once it is answered, and unknown if nobody
/// waits for the answer.
pub(super) struct Outcome {
    lane: Arc<Inner>,
    first: u64,
    count: usize,
    is_known: bool,
}

impl Outcome {
    /// Keeps the writes of `batch`, numbered from `first`.
    pub(super) fn of(lane: Arc<Inner>, first: u64, batch: &[Message]) -> Self {
        let writes = batch.iter().filter(|message| message.kind.is_write());
        let count = lock(&lane.ring).sending(first, writes);
        Self { lane, first, count, is_known: false }
    }

    pub(super) fn known(mut self, error: Option<&Error>) {
        self.is_known = true;
        lock(&self.lane.ring).sent(self.first, self.count, error.map(Error::kind));
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        if !self.is_known {
            lock(&self.lane.ring).sent(self.first, self.count, Some(ErrorKind::UnknownOutcome));
        }
    }
}
