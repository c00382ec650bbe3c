//! P13: a fence proves the past.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::StreamExt;
use futures::future::join_all;
use hydratecache::{Fence, Origin, Signal, Topic, Transport};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::ledger::Ledger;
use super::subject::Subject;
use super::trial::{Listener, Promise, Publisher, Trial, finished, topics};
use super::{Effort, unique_topic};

/// P13: `Fenced` appears in every subscription of the transport only after all messages that the
/// broker had accepted before the fence was asked for, or after the gap that stands for them.
///
/// Publishers at full speed, here and in other processes, on several topics; two tasks that ask for
/// thousands of fences and note first what had been accepted; then every subscription is compared
/// with every note.
pub async fn p13_a_fence_proves_the_past(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P13 (a fence proves the past)", subject, effort);
    a_fence_needs_no_subscription(&trial).await;
    fences_under_load_prove_what_was_accepted(&trial).await;
}

async fn a_fence_needs_no_subscription(trial: &Trial<'_>) {
    let transport = trial.connect().await;
    let first = trial.promise.fence(&transport).await;
    let second = trial.promise.fence(&transport).await;
    trial.promise.require(first <= second, || {
        format!("a later fence should prove what an earlier one does: {first:?}, then {second:?}")
    });
    let mut listener = trial.promise.subscribe(&transport, &unique_topic("p13")).await;
    let third = trial.promise.fence(&transport).await;
    listener.until_fenced(third).await;
    trial.promise.close(&transport).await;
}

/// How many messages of one publisher may be on their way, at most: enough for full speed.
const ON_THEIR_WAY: usize = 1_000;
const FENCERS: usize = 2;

/// What a publisher knows to be accepted, for all to see.
struct Accepted {
    topic: Topic,
    origin: Origin,
    last: AtomicU64,
    room: Semaphore,
    on_their_way: usize,
}

/// A fence, and what had been accepted of each publisher when it was asked for.
struct Note {
    fence: Fence,
    accepted: Vec<u64>,
}

/// What a subscription had proven of each publisher when it yielded a fence.
struct Proof {
    fence: Fence,
    proven: Vec<u64>,
}

async fn fences_under_load_prove_what_was_accepted(trial: &Trial<'_>) {
    let here = trial.connect().await;
    let others = [here.clone(), trial.connect().await, trial.connect().await];
    let topics = topics("p13", 2);
    let mut publishers = Vec::new();
    for (transport, topic) in others.iter().flat_map(|it| topics.iter().map(move |t| (it, t))) {
        publishers.push((Publisher::new(trial.promise, transport, topic), topic.clone()));
    }
    // Queues overflow rarely: a gap proves less than a message.
    let on_their_way = (trial.room(64) / others.len()).clamp(8, ON_THEIR_WAY);
    let none_of = |(publisher, topic): &(Publisher, Topic)| Accepted {
        topic: topic.clone(),
        origin: publisher.origin,
        last: AtomicU64::new(0),
        room: Semaphore::new(on_their_way),
        on_their_way,
    };
    let accepted: Arc<[Accepted]> = publishers.iter().map(none_of).collect();
    let mut readers = Vec::new();
    for (place, topic) in [&topics[0], &topics[0], &topics[1]].into_iter().enumerate() {
        let listener = trial.promise.subscribe(&here, topic).await;
        // One reader of each topic makes room for its publishers to go on.
        let reader = Reader::new(trial.promise, topic, &accepted, place != 1);
        readers.push(tokio::spawn(reader.run(listener)));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let sending: Vec<_> = publishers
        .into_iter()
        .enumerate()
        .map(|(index, (publisher, _))| {
            tokio::spawn(publish(publisher, accepted.clone(), index, stop.clone()))
        })
        .collect();
    let count = trial.effort.pick(2_000, 20_000) / FENCERS;
    let fencing = (0..FENCERS)
        .map(|_| tokio::spawn(ask(trial.promise, here.clone(), accepted.clone(), count)));
    let notes: Vec<Note> = join_all(fencing).await.into_iter().flat_map(finished).collect();
    stop.store(true, Ordering::SeqCst);
    // Closing ends the readers, behind all that waits for them.
    accepted.iter().for_each(|accepted| accepted.room.close());
    let last: Vec<u64> = join_all(sending).await.into_iter().map(finished).collect();
    trial.promise.fence(&here).await;
    trial.promise.close(&here).await;
    for reader in join_all(readers).await {
        finished(reader).compare(trial.promise, &accepted, &notes, &last);
    }
    for transport in &others[1..] {
        trial.promise.close(transport).await;
    }
}

/// Publishes batches of 1 to 8 until told to stop; returns the last number.
async fn publish(
    mut publisher: Publisher,
    accepted: Arc<[Accepted]>,
    index: usize,
    stop: Arc<AtomicBool>,
) -> u64 {
    let accepted = &accepted[index];
    while !stop.load(Ordering::SeqCst) {
        for size in [1_u16, 8, 3, 1, 5] {
            let Ok(room) = accepted.room.acquire_many(size.into()).await else { break };
            room.forget();
            publisher.send(&vec![64; size.into()]).await;
            accepted.last.store(publisher.last, Ordering::SeqCst);
        }
        // In-process nothing waits: those who ask for fences need their turn.
        tokio::task::yield_now().await;
    }
    publisher.last
}

/// Asks for fences, each with a note of what had been accepted before.
async fn ask(
    promise: Promise,
    transport: Arc<dyn Transport>,
    accepted: Arc<[Accepted]>,
    count: usize,
) -> Vec<Note> {
    let mut notes = Vec::with_capacity(count);
    for _ in 0..count {
        let known = |accepted: &Accepted| accepted.last.load(Ordering::SeqCst);
        let (known, before) = (accepted.iter().map(known).collect(), Instant::now());
        let fence = promise.fence(&transport).await;
        promise.require(fence.asked_at() >= before, || {
            format!(
                "a fence says that it was asked for {:?} before it was",
                before - fence.asked_at()
            )
        });
        notes.push(Note { fence, accepted: known });
        tokio::task::yield_now().await;
    }
    notes
}

struct Reader {
    accepted: Arc<[Accepted]>,
    /// Which publishers this reader hears.
    hears: Vec<usize>,
    makes_room: bool,
    ledger: Ledger,
    proofs: Vec<Proof>,
}

impl Reader {
    fn new(promise: Promise, topic: &Topic, accepted: &Arc<[Accepted]>, makes_room: bool) -> Self {
        let hears = (0..accepted.len()).filter(|it| accepted[*it].topic == *topic).collect();
        let (accepted, ledger) = (accepted.clone(), Ledger::new(promise));
        Self { accepted, hears, makes_room, ledger, proofs: Vec::new() }
    }

    /// Reads until the stream ends.
    async fn run(mut self, mut listener: Listener) -> Self {
        while let Some(signal) = listener.stream().next().await {
            self.ledger.enter(&signal);
            match &signal {
                Signal::Fenced(fence) => self.prove(*fence),
                Signal::Message(message) if self.makes_room => self.make_room(message.origin()),
                Signal::Gap(_) if self.makes_room => self.make_room_for_all(),
                _ => {}
            }
        }
        self
    }

    fn prove(&mut self, fence: Fence) {
        if self.proofs.last().is_some_and(|last| last.fence >= fence) {
            return;
        }
        let proven = |it: &usize| self.ledger.proven(self.accepted[*it].origin);
        let proven = self.hears.iter().map(proven).collect();
        self.proofs.push(Proof { fence, proven });
    }

    fn make_room(&self, origin: Option<Origin>) {
        let publisher = self.accepted.iter().find(|accepted| Some(accepted.origin) == origin);
        if let Some(publisher) = publisher {
            publisher.room.add_permits(1);
        }
    }

    /// Whose messages a gap stands for is not known.
    fn make_room_for_all(&self) {
        for it in &self.hears {
            let publisher = &self.accepted[*it];
            publisher.room.add_permits(publisher.on_their_way);
        }
    }

    fn compare(&self, promise: Promise, accepted: &[Accepted], notes: &[Note], last: &[u64]) {
        for note in notes {
            let first = self.proofs.partition_point(|proof| proof.fence < note.fence);
            let Some(proof) = self.proofs.get(first) else {
                promise.broken(format!("{:?} never appeared in a subscription", note.fence));
            };
            for (it, proven) in self.hears.iter().zip(&proof.proven) {
                promise.require(*proven >= note.accepted[*it], || {
                    format!(
                        "{:?} was asked for after {} of {} was accepted, and appeared after {proven}",
                        note.fence, note.accepted[*it], accepted[*it].origin
                    )
                });
            }
        }
        for it in &self.hears {
            self.ledger.check(accepted[*it].origin, 1..=last[*it]);
        }
    }
}
