//! The chaos transport harms what it says, and every loss that it makes is noticed.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use hydratecache::memory::MemoryBroker;
use hydratecache::{
    Change, Channel, ErrorKind, Event, Key, Message, Signal, Topic, Transport, Updates,
};
use hydratecache_testkit::chaos::ChaosTransport;
use tokio::time::{Instant, timeout};

const SEEDS: u32 = 200;
const PUBLISHED: u64 = 300;
const BEAT: Duration = Duration::from_millis(100);

/// What a subscription said.
#[derive(Debug, Default)]
struct Account {
    received: Vec<u64>,
    lost: u64,
}

impl Account {
    fn total(&self) -> u64 {
        self.received.len() as u64 + self.lost
    }
}

/// Reads until everything is accounted for, or until nothing comes any more. Time is paused, so
/// a wait that would last an hour lasts as long as there is nothing to do.
async fn account(updates: &mut Updates<u64>, expected: u64) -> Account {
    let mut account = Account::default();
    while account.total() < expected {
        match timeout(Duration::from_secs(3600), updates.next()).await {
            Ok(Some(Event::Update(update))) => match update.change {
                Change::Put(_, number) => account.received.push(number),
                other => panic!("only puts were published: {other:?}"),
            },
            Ok(Some(Event::Gap(gap))) if gap.exact().is_some() => {
                account.lost += gap.exact().unwrap_or(0);
            }
            Ok(other) => panic!("a tracker counts exactly, and the link was never down: {other:?}"),
            Err(_) => break,
        }
    }
    account
}

fn writer(chaos: &ChaosTransport) -> Channel<u64> {
    Channel::builder(chaos.clone(), "numbers")
        .with_heartbeats(BEAT, BEAT)
        .build()
        .expect("a legal topic")
}

#[tokio::test(start_paused = true)]
async fn every_loss_is_reported_and_no_duplicate_is_delivered() {
    let mut harmed = (0, 0, 0);
    for seed in 0..SEEDS {
        let broker = MemoryBroker::new();
        let chaos = ChaosTransport::new(broker.connect(), seed.into())
            .with_calm_start(1)
            .with_drops(0.5 * f64::from(seed) / f64::from(SEEDS))
            .with_duplicates(0.2)
            .with_delays(0.1, Duration::from_secs(1));
        let reader = Channel::<u64>::new(broker.connect(), "numbers").expect("a legal topic");
        let mut updates = reader.subscribe().await.expect("in-process");
        let channel = writer(&chaos);
        for chunk in (0..PUBLISHED).collect::<Vec<_>>().chunks(10) {
            // One by one, then all at once: batches of one and of several.
            let (alone, together) = chunk.split_at(3);
            for number in alone {
                channel.publish("k", number).await.expect("chaos says Ok");
            }
            let together = together.iter().map(|number| channel.publish("k", number));
            for answer in futures::future::join_all(together).await {
                answer.expect("chaos says Ok");
            }
        }
        let seen = account(&mut updates, PUBLISHED).await;
        let stats = chaos.stats();
        assert_eq!(seen.total(), PUBLISHED, "seed {seed}: {stats:?}, {seen:?}");
        assert_eq!(seen.lost, stats.dropped, "seed {seed}: {stats:?}");
        let distinct: HashSet<_> = seen.received.iter().collect();
        assert_eq!(distinct.len(), seen.received.len(), "seed {seed}: a duplicate came through");
        assert!(seen.received.is_sorted(), "seed {seed}: delays keep the order");
        let (drops, duplicates, delays) = harmed;
        harmed = (drops + stats.dropped, duplicates + stats.duplicated, delays + stats.delayed);
    }
    let (drops, duplicates, delays) = harmed;
    assert!(drops > 5_000 && duplicates > 5_000 && delays > 500, "too calm: {harmed:?}");
}

#[tokio::test(start_paused = true)]
async fn the_loss_of_everything_but_the_first_message_is_reported_by_a_heartbeat() {
    let broker = MemoryBroker::new();
    let reader = Channel::<u64>::new(broker.connect(), "numbers").expect("a legal topic");
    let mut updates = reader.subscribe().await.expect("in-process");
    // Of the heartbeats half are lost too.
    let chaos = ChaosTransport::new(broker.connect(), 1).with_calm_start(1).with_drops(0.5);
    let channel = writer(&chaos);
    channel.publish("k", &0).await.expect("chaos says Ok");
    while chaos.stats().dropped < 3 {
        channel.publish("k", &1).await.expect("chaos says Ok");
    }
    let seen = account(&mut updates, chaos.stats().published).await;
    assert_eq!(seen.total(), chaos.stats().published, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_harm() {
    async fn survivors(seed: u64) -> Vec<u64> {
        let broker = MemoryBroker::new();
        let chaos = ChaosTransport::new(broker.connect(), seed)
            .with_calm_start(1)
            .with_drops(0.5)
            .with_duplicates(0.5);
        let mut updates = Channel::<u64>::new(broker.connect(), "numbers")
            .expect("a legal topic")
            .subscribe()
            .await
            .expect("in-process");
        let channel = writer(&chaos);
        for number in 0..50 {
            channel.publish("k", &number).await.expect("chaos says Ok");
        }
        account(&mut updates, 50).await.received
    }
    assert_eq!(survivors(7).await, survivors(7).await);
    assert_ne!(survivors(7).await, survivors(8).await);
}

#[tokio::test]
async fn a_duplicate_reaches_the_broker_as_one() {
    let broker = MemoryBroker::new();
    let chaos = ChaosTransport::new(broker.connect(), 0).with_duplicates(1.0);
    let topic = Topic::new("twice").expect("legal");
    let mut subscription = chaos.subscribe(topic.clone()).await.expect("in-process");
    // Without a position nobody can tell a copy, so that it shows.
    let message = Message::put(Key::new("k").expect("legal"), Bytes::from_static(b"v"));
    chaos.publish(topic, vec![message.clone()]).await.expect("in-process");
    for _ in 0..2 {
        let next = subscription.next().await;
        assert!(matches!(&next, Some(Signal::Message(copy)) if *copy == message), "{next:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn delays_hold_later_batches_back_and_keep_the_order() {
    let broker = MemoryBroker::new();
    let longest = Duration::from_secs(60);
    let chaos = ChaosTransport::new(broker.connect(), 3).with_delays(0.5, longest);
    let reader = Channel::<u64>::new(broker.connect(), "numbers").expect("a legal topic");
    let mut updates = reader.subscribe().await.expect("in-process");
    let channel = writer(&chaos);
    let began = Instant::now();
    for number in 0..50 {
        channel.publish("k", &number).await.expect("chaos says Ok");
    }
    assert!(began.elapsed() > longest, "half of 50 batches waited half a minute each");
    assert_eq!(account(&mut updates, 50).await.received, (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_cut_fails_publishes_and_what_failed_is_a_gap_after_the_heal() {
    let broker = MemoryBroker::new();
    let chaos = ChaosTransport::new(broker.connect(), 0);
    let reader = Channel::<u64>::new(broker.connect(), "numbers").expect("a legal topic");
    let mut updates = reader.subscribe().await.expect("in-process");
    let channel = writer(&chaos);
    channel.publish("k", &0).await.expect("not cut");
    chaos.cut();
    for _ in 0..3 {
        let error = channel.publish("k", &1).await.expect_err("cut");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert_eq!(chaos.fence().await.expect_err("cut").kind(), ErrorKind::Unavailable);
    chaos.heal();
    channel.publish("k", &2).await.expect("healed");
    let seen = account(&mut updates, 5).await;
    assert_eq!((seen.received, seen.lost), (vec![0, 2], 3));
}

#[tokio::test(start_paused = true)]
async fn the_writes_that_are_to_be_lost_are_lost_once() {
    let broker = MemoryBroker::new();
    let chaos = ChaosTransport::new(broker.connect(), 1).with_losses([2, 3]);
    let topic = Topic::new("numbers").expect("legal");
    let near = broker.connect();
    let mut signals = near.subscribe(topic.clone()).await.expect("subscribes");
    let origin = hydratecache::Origin::random();
    for sequence in [1, 2, 3, 4, 3] {
        let sequence = std::num::NonZeroU64::new(sequence).expect("not zero");
        let message = Message::put(Key::new("key").expect("legal"), Bytes::from_static(b"value"))
            .with_position(hydratecache::Position { origin, sequence });
        chaos.publish(topic.clone(), vec![message]).await.expect("accepted");
    }
    let mut arrived = Vec::new();
    while arrived.len() < 3 {
        if let Signal::Message(message) | Signal::Late(message) = signals.next().await.expect("on")
        {
            arrived.push(message.sequence().map_or(0, std::num::NonZeroU64::get));
        }
    }
    assert_eq!(arrived, [1, 4, 3]);
    assert_eq!(chaos.stats().dropped, 2);
}
