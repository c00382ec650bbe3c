//! The publishing client: hands batches to librdkafka in order, and hears what became of them.

mod delivery;
mod lane;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hydratecache::{Error, ErrorKind, Message, Result, Topic};
use tokio::sync::Notify;
use tokio::task::coop::{consume_budget, unconstrained};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::blocking::{Closable, blocking};
use crate::config::KafkaConfig;
use crate::opener::Opener;
use crate::surveyor::Surveyor;
use crate::topic_name::kafka_name;
use delivery::{Delivery, Outcome};
use lane::{Handed, Lane};

pub(crate) use delivery::{GaveUp, Producer};

/// How long a close waits for the answers to what was sent, and whose limit has passed for the answer to what waited to be
/// sent.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long the first publish to a topic waits for brokers that are to lead its partitions. A single broker
/// leads a new topic within some hundred milliseconds; after this the publish is tried in any case.
const LEADERS_LIMIT: Duration = Duration::from_secs(3);

/// Where publishes go.
pub(crate) struct Publisher {
    opener: Arc<Opener>,
    surveyor: Arc<Closable<Surveyor>>,
    address: Arc<str>,
    limit: Duration,
    lanes: Mutex<HashMap<Topic, Arc<Lane>>>,
    room: Arc<Room>,
    under_way: TaskTracker,
    /// From then on nobody waits.
    closing: CancellationToken,
    /// From then on every answer is overdue.
    closed: CancellationToken,
}

impl Publisher {
    pub(crate) fn new(
        config: &KafkaConfig,
        opener: Arc<Opener>,
        surveyor: Arc<Closable<Surveyor>>,
    ) -> Self {
        Self {
            opener,
            surveyor,
            address: config.address.clone(),
            limit: config.publish_limit,
            lanes: Mutex::default(),
            room: Arc::new(Room::of(config.publish_bytes)),
            under_way: TaskTracker::new(),
            closing: CancellationToken::new(),
            closed: CancellationToken::new(),
        }
    }

    /// Publishes `batch` in order. Where the topic is known and there is room, it is on its way after
    /// the first poll.
    pub(crate) async fn publish(
        self: &Arc<Self>,
        topic: &Topic,
        batch: Vec<Message>,
    ) -> Result<()> {
        let _under_way = self.under_way.token();
        // The first poll decides the order, so Tokio's budget must not turn it into a pause; a
        // loop of publishes that fail at once still has to let others run.
        let answer = unconstrained(self.publish_now(topic, batch)).await;
        consume_budget().await;
        answer
    }

    /// Waits for the answers to what was sent, for a second at most; whoever still waits then is
    /// told that the outcome is unknown.
    ///
    /// # Cancel safety
    /// Once polled, nothing waits longer even if the future is dropped.
    pub(crate) async fn close(&self) {
        let _ends = self.closed.clone().drop_guard();
        self.closing.cancel();
        self.under_way.close();
        let _ = timeout(ANSWER_LIMIT, self.under_way.wait()).await;
    }

    /// Whether this topic was taken to have fewer partitions.
    pub(crate) fn has_fewer_partitions(&self, topic: &Topic, partitions: usize) -> bool {
        let lane = self.lanes().get(topic).cloned();
        lane.is_some_and(|lane| lane.lock().has_fewer(partitions))
    }

    /// The topic has so many partitions now.
    pub(crate) fn grow(&self, topic: &Topic, partitions: usize) {
        let lane = self.lanes().get(topic).cloned();
        if let Some(lane) = lane {
            lane.lock().grow(partitions);
        }
    }

    /// The topics that were published to.
    pub(crate) fn topics(&self) -> Vec<Topic> {
        self.lanes().keys().cloned().collect()
    }

    /// One of them.
    pub(crate) fn any_topic(&self) -> Option<Topic> {
        self.lanes().keys().next().cloned()
    }

    async fn publish_now(self: &Arc<Self>, topic: &Topic, batch: Vec<Message>) -> Result<()> {
        let deadline = Instant::now() + self.limit;
        let lane = self.lane(topic);
        let handed = {
            let mut state = lane.lock();
            let bytes = bytes_of(&batch);
            let room = if state.is_open() { Room::take(&self.room, bytes) } else { None };
            match room {
                Some(room) => Ok(self.hand_over(&lane, &mut state, &batch, room)),
                None => Err(state.wait_in_turn(batch, deadline)),
            }
        };
        let (turn, is_first) = match handed {
            // The client's own limit begins now.
            Ok(handed) => return self.answer(&lane, handed?).await,
            Err(turn) => turn,
        };
        if is_first {
            self.under_way.spawn(unconstrained(serve(self.clone(), lane.clone())));
        }
        let handed = turn.await.unwrap_or_else(|_| Err(self.was_closed()))?;
        let answer = timeout_at(deadline + ANSWER_LIMIT, self.answer(&lane, handed)).await;
        answer.unwrap_or_else(|_| Err(self.unknown_outcome(&lane, "no answer came in time")))
    }

    /// Hands the records of `batch` to the client library, in order.
    fn hand_over(
        &self,
        lane: &Lane,
        state: &mut lane::State,
        batch: &[Message],
        room: Taken,
    ) -> Result<Handed> {
        let producer = self.opener.sound_producer()?;
        if let Some(gave_up) = producer.given_up() {
            return Err(delivery::refused_for_good(&self.place(lane), gave_up));
        }
        let records = state.address(batch);
        let count = records.len();
        let marks = records.iter().filter_map(|record| record.mark).collect();
        let (delivery, outcome) = Delivery::of(count, room);
        for (sent, record) in records.into_iter().enumerate() {
            let queued = producer.enqueue(&lane.name, record, &delivery);
            let Err(error) = queued else { continue };
            // The topic may be gone, or have fewer partitions.
            state.forget();
            if sent == 0 {
                let place = self.place(lane);
                return Err(match producer.given_up() {
                    Some(gave_up) => delivery::refused_for_good(&place, gave_up),
                    None => delivery::refused(&place, &error),
                });
            }
            // A batch has one answer, and a part of this one is on its way.
            delivery.failed_to_enqueue(&error, count - sent);
            break;
        }
        Ok(Handed { outcome, marks, client: producer })
    }

    async fn answer(&self, lane: &Lane, handed: Handed) -> Result<()> {
        let outcome = tokio::select! {
            biased;
            outcome = handed.outcome => outcome,
            () = self.closed.cancelled() => {
                return Err(self.unknown_outcome(lane, "the transport was closed before the answer"));
            }
        };
        match outcome {
            Ok(Outcome::Delivered) => {
                lane.lock().confirm(&handed.marks);
                Ok(())
            }
            Ok(Outcome::Unproven) => Err(self.unknown_outcome(lane, "no offset came for a record")),
            Ok(Outcome::Failed(code)) => {
                let error = delivery::failed(&self.place(lane), code, &handed.client);
                if error.kind() == ErrorKind::Broker {
                    // The topic may be gone, or have fewer partitions.
                    lane.lock().forget();
                }
                Err(error)
            }
            Err(_) => Err(self.unknown_outcome(lane, "the client ended before the answer")),
        }
    }

    fn lane(&self, topic: &Topic) -> Arc<Lane> {
        let mut lanes = self.lanes();
        if let Some(lane) = lanes.get(topic) {
            return lane.clone();
        }
        let lane = Arc::new(Lane::of(kafka_name(topic)));
        lanes.insert(topic.clone(), lane.clone());
        lane
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<Topic, Arc<Lane>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, lane: &Lane) -> String {
        format!("{}, topic {}", self.address, lane.name)
    }

    fn unknown_outcome(&self, lane: &Lane, what: &str) -> Error {
        Error::new(
            ErrorKind::UnknownOutcome,
            format!(
                "publishing to Kafka at {}: {what}; it may have been sent, and sending it again is \
                 harmless",
                self.place(lane)
            ),
        )
    }

    fn was_closed(&self) -> Error {
        Error::new(
            ErrorKind::Closed,
            format!(
                "publishing to Kafka at {}: the transport was closed while the publish waited; \
                 nothing was sent",
                self.address
            ),
        )
    }

    fn no_room(&self) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "publishing to Kafka at {}: more than with_publish_bytes allows has been on its way \
                 for {:?}; nothing was sent; is the broker up, and fast enough?",
                self.address, self.limit
            ),
        )
    }
}

/// Serves those who wait for a topic to be known, or for room, in order and until nobody waits.
async fn serve(publisher: Arc<Publisher>, lane: Arc<Lane>) {
    let serving = async {
        loop {
            let first = lane.lock().first_in_turn();
            let Some((deadline, bytes)) = first else { return };
            let ready = publisher.make_ready(&lane, deadline, bytes).await;
            publisher.hand_over_first(&lane, ready);
        }
    };
    tokio::select! {
        biased;
        () = publisher.closing.cancelled() => lane.lock().dismiss(),
        () = serving => {}
    }
}

impl Publisher {
    fn hand_over_first(&self, lane: &Lane, ready: Result<Taken>) {
        let mut state = lane.lock();
        if let Some(first) = state.take_first() {
            let handed =
                ready.and_then(|room| self.hand_over(lane, &mut state, &first.batch, room));
            // Whoever gave up meanwhile does not hear it.
            let _ = first.reply.send(handed);
        }
    }

    async fn make_ready(&self, lane: &Lane, deadline: Instant, bytes: usize) -> Result<Taken> {
        if !lane.lock().is_known() {
            let partitions = self.opener.open(&lane.name, deadline).await?;
            if !lane.lock().leaders_were_awaited() {
                self.await_leaders(&lane.name, partitions, deadline).await?;
            }
            lane.lock().grow(partitions);
        }
        loop {
            let freed = self.room.freed.notified();
            if let Some(room) = Room::take(&self.room, bytes) {
                return Ok(room);
            }
            if timeout_at(deadline, freed).await.is_err() {
                return Err(self.no_room());
            }
        }
    }

    /// Waits for those who are to lead the partitions of a topic that may be new. A broker that just began to
    /// lead one may refuse the first record for the moment and take the one behind it (KAFKA-15591): the outcome of the
    /// first is unknown then, which a publisher should see of a broken link only.
    async fn await_leaders(&self, name: &str, partitions: usize, deadline: Instant) -> Result<()> {
        let (surveyor, name) = (self.surveyor.get()?, name.to_owned());
        let limit = deadline.saturating_duration_since(Instant::now()).min(LEADERS_LIMIT);
        blocking(move || {
            surveyor.await_leaders(&name, partitions, limit);
            Ok(())
        })
        .await
    }
}

/// The room for what is on its way, in bytes.
pub(crate) struct Room {
    limit: usize,
    taken: Mutex<usize>,
    freed: Notify,
}

/// A part of the room, until it is dropped.
pub(crate) struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    fn of(limit: usize) -> Self {
        Self { limit, taken: Mutex::new(0), freed: Notify::new() }
    }

    /// Takes so much, if it is there; a larger piece than there ever is, only alone.
    fn take(room: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let mut taken = room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if *taken > 0 && *taken + bytes > room.limit {
            return None;
        }
        *taken += bytes;
        Some(Taken { room: room.clone(), bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut taken = self.room.taken.lock().unwrap_or_else(PoisonError::into_inner);
        *taken -= self.bytes;
        drop(taken);
        // Every topic has at most one task that waits.
        self.room.freed.notify_waiters();
    }
}

fn bytes_of(batch: &[Message]) -> usize {
    batch.iter().map(Message::held_bytes).sum()
}
