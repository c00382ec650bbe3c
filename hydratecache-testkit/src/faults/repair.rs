//! What a fleet does for itself over the broker: lost messages are replayed, a replica that starts
//! takes a copy of a live one, and a writer hears who has its write.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all};
use futures::stream::{self, BoxStream, StreamExt};
use hydratecache::cache::{
    Hydration, HydrationStats, Loaded, Replica, Source, SourceError, State, WarmStart,
};
use hydratecache::{Channel, Hydrated, Key, VersionDomain};
use tokio::time::{Instant, sleep};

use crate::chaos::ChaosTransport;

use super::Subject;
use super::support::{LONG, connect, in_time, secs, until};

const TOPIC: &str = "users";

/// One answer of the publisher serves all who miss the same, and nothing is flushed.
pub async fn lost_messages_are_replayed_once_for_all_who_miss_them(subject: &dyn Subject) {
    // Whoever is kept waiting asks again, and flushes in the end; a busy machine keeps them waiting now and then.
    for _ in 0..3 {
        let replay = a_replay(subject).await;
        println!("replay of {LOST} messages: {replay:?}");
        if replay.is_quick() {
            return replay.assert_once_for_all();
        }
    }
    panic!("three replays took a second and more");
}

const LOST: u64 = 1000;

/// What it took to repair a loss.
#[derive(Debug)]
struct Replay {
    /// How many messages the publisher sent again.
    answered: u64,
    /// How long after the gap each reader was repaired, how many entries it has, and what it counted.
    readers: Vec<(Duration, usize, HydrationStats)>,
}

impl Replay {
    fn is_quick(&self) -> bool {
        // A tenth of that where nothing else runs; here other tests do.
        self.readers.iter().all(|(took, ..)| *took < secs(1))
    }

    fn assert_once_for_all(&self) {
        for (_, entries, stats) in &self.readers {
            assert_eq!((stats.missed, stats.replayed, stats.cleared), (LOST, LOST, 0));
            assert_eq!(*entries as u64, LOST + 2);
        }
        assert_eq!(self.answered, LOST, "whoever missed them, they came once");
    }
}

async fn a_replay(subject: &dyn Subject) -> Replay {
    let writer = losing(subject, 2..LOST + 2).await;
    let writer = Channel::<u64>::new(writer, TOPIC).expect("legal");
    let _answering = writer.answer_requests().await.expect("subscribes");
    let readers = [reader(subject).await, reader(subject).await, reader(subject).await];
    for number in 0..LOST + 2 {
        writer.publish(format!("key:{number}"), &number).await.expect("accepted");
    }
    let took = join_all(readers.iter().map(|(_, hydration)| repaired(hydration))).await;
    // Counted when the broker has answered, which readers need not wait for.
    let answered = async || writer.stats().replayed >= LOST;
    until("the broker's answer to the replay", LONG, answered).await;
    let readers = readers.iter().zip(took);
    let readers = readers.map(|((replica, it), took)| (took, replica.len(), it.stats()));
    Replay { answered: writer.stats().replayed, readers: readers.collect() }
}

/// No message behind it shows that it is missing.
pub async fn a_lost_last_message_is_noticed_with_the_first_heartbeat(subject: &dyn Subject) {
    const HEARTBEAT: Duration = secs(2);
    let writer = Channel::<u64>::builder(losing(subject, [2]).await, TOPIC);
    let writer = writer.with_heartbeats(HEARTBEAT, secs(20)).build().expect("legal");
    let _answering = writer.answer_requests().await.expect("subscribes");
    let (replica, hydration) = reader(subject).await;
    for number in 1..=2 {
        writer.publish("key", &number).await.expect("accepted");
    }
    let began = Instant::now();
    let noticed = in_time("the gap", secs(20), noticed(&hydration)).await - began;
    let took = repaired(&hydration).await;
    println!("tail loss: noticed after {noticed:?}, repaired after {took:?} more");
    // The second one comes after twice as long again.
    assert!(noticed < HEARTBEAT.mul_f64(2.5), "{noticed:?}");
    assert_eq!(replica.get("key").as_deref(), Some(&2));
}

/// The source is read once, by the first; what is written while the second is filled is in it.
pub async fn a_replica_that_starts_beside_a_live_one_takes_its_copy(subject: &dyn Subject) {
    let table = Table::default();
    let first = warm(subject, &table, TOPIC).await;
    let writer = Channel::<u64>::builder(connect(subject).await, TOPIC);
    let writer = writer.with_versions(VersionDomain::Caller).build().expect("legal");
    let writing = async {
        for number in 0..50 {
            let key = format!("key:{number}");
            writer.put(key, &(ROWS + number)).version(2).await.expect("accepted");
        }
    };
    let (second, ()) = futures::future::join(warm(subject, &table, TOPIC), writing).await;
    for users in [&first, &second] {
        in_time("all that is written", LONG, users.caught_up()).await.expect("the link is whole");
        assert_eq!(users.cache().len() as u64, ROWS);
        for number in 0..ROWS {
            let written = if number < 50 { ROWS + number } else { number };
            let read = users.get(&format!("key:{number}"));
            assert_eq!(read.as_deref(), Some(&written), "key:{number}");
        }
    }
    assert_eq!((second.stats().copies, second.stats().entries_copied), (1, ROWS));
    assert_eq!(table.scans(), 1);
}

/// Those that are there are named, and the one that has ended is not.
pub async fn a_writer_hears_which_replicas_have_its_write(subject: &dyn Subject) {
    let mut fleet = Vec::new();
    for name in ["a", "b", "c"] {
        let channel = Channel::<u64>::new(connect(subject).await, TOPIC).expect("legal");
        let builder = Hydrated::builder(channel, Replica::new());
        let users = builder.with_hydration(|hydrate| hydrate.with_name(name)).start().await;
        fleet.push(users.expect("starts"));
    }
    let writer = Channel::<u64>::new(connect(subject).await, TOPIC).expect("legal");
    let token = writer.publish("key", &1).await.expect("accepted");
    let all = writer.applied_by(token, 3, secs(5)).await.expect("asked");
    assert_eq!(names(&all.applied), ["a", "b", "c"].map(str::to_owned).into());
    for users in &fleet {
        assert_eq!(users.get("key").as_deref(), Some(&1));
    }
    drop(fleet.pop());
    let token = writer.publish("key", &2).await.expect("accepted");
    let rest = writer.applied_by(token, 3, secs(2)).await.expect("asked");
    assert!(!rest.is_enough() && rest.lacking.is_empty(), "{rest:?}");
    assert_eq!(names(&rest.applied), ["a", "b"].map(str::to_owned).into());
}

fn names(replicas: &[hydratecache::ReplicaId]) -> BTreeSet<String> {
    replicas.iter().filter_map(|id| Some(id.name.as_deref()?.to_owned())).collect()
}

/// A transport that answers `Ok` and loses the writes of these sequences the first time.
async fn losing(subject: &dyn Subject, sequences: impl IntoIterator<Item = u64>) -> ChaosTransport {
    ChaosTransport::new(connect(subject).await, 1).with_losses(sequences)
}

async fn reader(subject: &dyn Subject) -> (Replica<u64>, Hydration<u64>) {
    let replica = Replica::new();
    let channel = Channel::<u64>::new(connect(subject).await, TOPIC).expect("legal");
    let hydration = channel.hydrate(replica.clone()).await.expect("starts");
    (replica, hydration)
}

async fn noticed(hydration: &Hydration<u64>) -> Instant {
    while hydration.stats().gaps == 0 {
        sleep(Duration::from_micros(200)).await;
    }
    Instant::now()
}

/// Waits for the gap and its repair, and returns how long after the gap that was.
async fn repaired(hydration: &Hydration<u64>) -> Duration {
    let repair = async {
        let noticed = noticed(hydration).await;
        // It is counted before the state says so.
        hydration.caught_up().await.expect("the link is whole");
        hydration.wait_until(|it| it.state() == State::Live).await.expect("goes on");
        noticed.elapsed()
    };
    in_time("the repair", secs(20), repair).await
}

/// A replica that may be filled by another one, once it is filled.
async fn warm(subject: &dyn Subject, table: &Table, topic: &str) -> Hydrated<u64, Replica<u64>> {
    let channel = Channel::<u64>::builder(connect(subject).await, topic);
    let channel = channel.with_versions(VersionDomain::Caller).build().expect("legal");
    let builder = Hydrated::builder(channel, Replica::new()).source(table.clone());
    let users = builder.with_warm_start(WarmStart::new()).start().await.expect("starts");
    in_time("its rows", secs(20), users.ready()).await.expect("filled");
    in_time("a proof", LONG, users.caught_up()).await.expect("the link is whole");
    users
}

const ROWS: u64 = 5000;

/// A table that counts its scans.
#[derive(Debug, Clone, Default)]
struct Table(Arc<AtomicUsize>);

impl Table {
    fn scans(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

fn row(number: u64) -> Loaded<u64> {
    Loaded::new(number).with_version(1)
}

impl Source<u64> for Table {
    fn load(&self, key: Key) -> BoxFuture<'_, Result<Option<Loaded<u64>>, SourceError>> {
        async move { Ok(key.as_str().strip_prefix("key:").and_then(|it| it.parse().ok()).map(row)) }
            .boxed()
    }

    fn scan(&self) -> BoxStream<'_, Result<(Key, Loaded<u64>), SourceError>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        stream::iter((0..ROWS).map(|number| Ok((Key::new(format!("key:{number}"))?, row(number)))))
            .boxed()
    }
}
