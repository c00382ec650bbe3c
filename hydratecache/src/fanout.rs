//! For authors of transports: one broker subscription for a topic, any number of readers of it in
//! the process.
//!
//! A [`Fanout`] tracks sequences once for its topic, or once for each of its partitions, and gives
//! every reader a queue of its own, so that a slow reader loses its own messages, is told exactly how
//! many, and holds up nobody.

mod clocks;
mod queue;

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::sequence::{Lost, Tracker, Verdict};
use crate::transport::{Fence, Gap, Signal, Subscription};
use crate::wire::{Rejection, RejectionReason};
use crate::{Error, Kind, Message, Position};
use clocks::OriginClocks;
use queue::{Queue, Reader, Waiting};

/// What arrived on a topic.
pub type Arrival = Result<Message, Rejection>;

/// Distributes what arrives on one topic to its readers in this process.
pub struct Fanout {
    queue_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// One for each partition; a topic without partitions is its own first.
    trackers: Vec<Tracker>,
    clocks: OriginClocks,
    readers: Vec<Arc<Queue>>,
    closed: bool,
}

impl Fanout {
    /// How much may wait for one reader, by default: 8 MiB, some 20,000 messages of 256 bytes.
    pub const DEFAULT_QUEUE_BYTES: usize = 8 << 20;

    /// A fan-out whose readers may each hold up to `queue_bytes` of undelivered messages.
    #[must_use]
    pub fn new(queue_bytes: usize) -> Self {
        Self { queue_bytes, state: Mutex::default() }
    }

    /// A reader of everything that arrives from now on. `on_drop` runs when it is dropped, with no
    /// lock held.
    pub fn subscribe(&self, on_drop: impl FnOnce() + Send + 'static) -> Subscription {
        let queue = Arc::new(Queue::new(self.queue_bytes));
        let mut state = self.lock();
        if state.closed {
            queue.end();
        } else {
            state.readers.push(queue.clone());
        }
        Subscription::new(Reader::new(queue, on_drop))
    }

    /// How many readers there are.
    #[must_use]
    pub fn readers(&self) -> usize {
        let mut state = self.lock();
        state.readers.retain(|queue| !queue.is_abandoned());
        state.readers.len()
    }

    /// Whether a reader has more than half of its room taken. A transport whose broker keeps what is
    /// not fetched may wait while it catches up.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.lock().readers.iter().any(|queue| queue.is_half_full())
    }

    /// Tracks and distributes what arrived, in order.
    pub fn arrived(&self, arrivals: impl IntoIterator<Item = Arrival>) {
        self.arrived_in(0, arrivals);
    }

    /// Tracks and distributes what arrived in one partition of the topic, in order. Each origin
    /// counts its messages in each partition by itself.
    pub fn arrived_in(&self, partition: usize, arrivals: impl IntoIterator<Item = Arrival>) {
        let mut state = self.lock();
        let State { trackers, clocks, readers, .. } = &mut *state;
        let tracker = tracker_of(trackers, partition);
        readers.retain(|queue| !queue.is_abandoned());
        let mut now = None;
        let arrivals = arrivals.into_iter().map(|mut arrival| {
            if let Ok(message) = &mut arrival
                && message.sent().is_some()
            {
                clocks.arrived(message, *now.get_or_insert_with(Instant::now));
            }
            arrival
        });
        if let [only] = readers.as_slice() {
            // The common case moves every message, and takes the queue's lock once.
            let mut queue = only.lock();
            for arrival in arrivals {
                track(tracker, arrival, |signal| queue.push(signal));
            }
            return;
        }
        for arrival in arrivals {
            track(tracker, arrival, |signal| tell_all(readers, &signal));
        }
    }

    /// What arrived in this partition is a copy of what readers have from another one: it uses its
    /// number, and nobody hears it again.
    pub fn copied_in(&self, partition: usize, position: Option<Position>) {
        // A rejection without readers: tracked like everything, and told to nobody.
        let mut state = self.lock();
        let State { trackers, readers, .. } = &mut *state;
        let copy = Rejection::new(RejectionReason::NotAnEnvelope).with_position(position);
        track(tracker_of(trackers, partition), Err(copy), |signal| {
            if !matches!(signal, Signal::Rejected(_)) {
                tell_all(readers, &signal);
            }
        });
    }

    /// The broker no longer has so many messages that stood here in the partition, because something newer
    /// replaced them: no more than that are missing before the next messages of origins, or it is a loss.
    pub fn compacted_in(&self, partition: usize, messages: u64) {
        if let Some(tracker) = self.lock().trackers.get_mut(partition) {
            tracker.replaced(messages);
        }
    }

    /// The link lost these messages, and its next gap is to count them: they are not missed again by their
    /// numbers. Returns how many writes there are that readers do not have. What is missing before
    /// them they are told at once, by its numbers, for it is another loss.
    pub fn lost(&self, messages: &[Message]) -> u64 {
        let mut state = self.lock();
        let State { trackers, readers, .. } = &mut *state;
        let tracker = tracker_of(trackers, 0);
        let mut count = 0;
        for write in messages.iter().filter(|message| message.kind().is_write()) {
            let lost = write.position().map_or(Lost::Next, |position| tracker.lost(position));
            count += u64::from(lost != Lost::Duplicate);
            if let Lost::After(gap) = lost {
                tell_all(readers, &Signal::Gap(gap));
            }
        }
        count
    }

    /// The link is lost.
    pub fn disrupted(&self, why: &Error) {
        self.tell(|queue| queue.push(Signal::Disrupted(why.clone())));
    }

    /// The link is back and the subscription is proven. `missed` says what may have been lost, as in
    /// [`gap`](Self::gap); no reader sees `Live` without the gap behind it.
    pub fn live(&self, missed: Option<Gap>) {
        if missed.is_some() {
            self.reported_by_the_link();
        }
        self.tell(|queue| {
            queue.push(Signal::Live);
            if let Some(gap) = missed {
                queue.push(Signal::Gap(gap));
            }
        });
    }

    /// The link lost messages. Those with a number are counted by it when their publisher is heard
    /// next, so a link that cannot say which it lost reports [`Gap::Unknown`]; one that has them at hand says
    /// so by [`lost`](Self::lost) first.
    pub fn gap(&self, gap: Gap) {
        self.reported_by_the_link();
        self.tell(|queue| queue.push(Signal::Gap(gap)));
    }

    /// Everything accepted before `fence` was asked for has arrived here.
    pub fn fenced(&self, fence: Fence) {
        self.accepted_since(fence.asked_at());
        self.tell(|queue| queue.push(Signal::Fenced(fence)));
    }

    /// What arrives from now on was accepted by the broker after `instant`, as it is behind a fence,
    /// and behind the beginning of a subscription to a broker that keeps nothing: so nothing in it is
    /// older than that, and its time of arrival says something of its publisher's clock.
    pub fn accepted_since(&self, instant: Instant) {
        self.lock().clocks.accepted_since(instant);
    }

    /// Ends every reader's stream behind what it has not read yet, and every later one's at once.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        for queue in state.readers.drain(..) {
            queue.end();
        }
    }

    fn reported_by_the_link(&self) {
        self.lock().trackers.iter_mut().for_each(Tracker::reported_by_the_link);
    }

    fn tell(&self, push: impl Fn(&mut Waiting)) {
        for queue in &self.lock().readers {
            push(&mut queue.lock());
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing here can panic half-way; a poisoned lock would only spread somebody's panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A transport that is gone ends its subscriptions.
impl Drop for Fanout {
    fn drop(&mut self) {
        self.close();
    }
}

impl fmt::Debug for Fanout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fanout").field("readers", &self.readers()).finish_non_exhaustive()
    }
}

fn tell_all(readers: &[Arc<Queue>], signal: &Signal) {
    for queue in readers {
        queue.lock().push(signal.clone());
    }
}

fn tracker_of(trackers: &mut Vec<Tracker>, partition: usize) -> &mut Tracker {
    if trackers.len() <= partition {
        trackers.resize_with(partition + 1, Tracker::default);
    }
    &mut trackers[partition]
}

/// What readers hear of one arrival: a gap before it, the message or the rejection, or nothing.
fn track(tracker: &mut Tracker, arrival: Arrival, mut hear: impl FnMut(Signal)) {
    let (position, heartbeat) = match &arrival {
        Ok(message) => (message.position(), message.kind() == Kind::Heartbeat),
        Err(rejection) => (rejection.position(), false),
    };
    let (mut gap, mut is_late, mut is_duplicate) = (None, false, false);
    match position {
        None => {}
        Some(position) if heartbeat => {
            if !tracker.knows(position.origin) {
                hear(Signal::Heard(position));
            }
            gap = tracker.heartbeat(position);
        }
        Some(position) => match tracker.message(position) {
            Verdict::Next => {}
            Verdict::After(missing) => gap = Some(missing),
            Verdict::Late => is_late = true,
            Verdict::Duplicate => is_duplicate = true,
        },
    }
    if tracker.take_forgotten() {
        hear(Signal::Gap(Gap::Unknown));
    }
    if let Some(gap) = gap {
        hear(Signal::Gap(gap));
    }
    match arrival {
        _ if heartbeat || is_duplicate => {}
        Ok(message) if is_late => hear(Signal::Late(message)),
        Ok(message) => hear(Signal::Message(message)),
        Err(rejection) => hear(Signal::Rejected(rejection)),
    }
}
