//! Repair by replay over a real Redis: how soon a loss is noticed, and how soon it is repaired.

mod support;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, join_all, ready};
use hydratecache::cache::{Hydration, Replica, State};
use hydratecache::{Channel, Fence, Limits, Message, Result, Subscription, Topic, Transport};
use hydratecache_redis::RedisTransport;
use hydratecache_testkit::broker::Broker;
use support::{redis, within};
use tokio::time::{Instant, sleep};

const LIMIT: Duration = Duration::from_secs(20);

/// Says that all is well, and loses the writes of these sequences the first time.
#[derive(Debug)]
struct Losing {
    inner: RedisTransport,
    lost: Mutex<Vec<u64>>,
}

impl Losing {
    async fn connect(broker: &Broker, lost: impl Iterator<Item = u64>) -> Arc<Self> {
        let inner = RedisTransport::connect(broker.url()).await.expect("connected");
        Arc::new(Self { inner, lost: Mutex::new(lost.collect()) })
    }

    fn passes(&self, message: &Message) -> bool {
        let mut lost = self.lost.lock().expect("nobody panics");
        let sequence = message.sequence().filter(|_| message.kind().is_write());
        let is_it = |number: &u64| sequence.is_some_and(|sequence| sequence.get() == *number);
        let at = lost.iter().position(is_it);
        at.map(|at| lost.swap_remove(at)).is_none()
    }
}

impl Transport for Losing {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn publish(&self, topic: Topic, mut batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        batch.retain(|message| self.passes(message));
        if batch.is_empty() { ready(Ok(())).boxed() } else { self.inner.publish(topic, batch) }
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        self.inner.subscribe(topic)
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.inner.fence()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.inner.close()
    }
}

async fn hydrated(broker: &Broker) -> (Replica<u64>, Hydration<u64>) {
    let transport = RedisTransport::connect(broker.url()).await.expect("connected");
    let replica = Replica::new();
    let channel = Channel::<u64>::new(transport, "users").expect("legal");
    let hydration = channel.hydrate(replica.clone()).await.expect("started");
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
    within(LIMIT, async {
        let noticed = noticed(hydration).await;
        hydration.wait_until(|it| it.state() == State::Live).await.expect("goes on");
        noticed.elapsed()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lost_messages_are_repaired_for_all_who_miss_them_by_one_answer() {
    const LOST: u64 = 1000;
    let broker = redis().await;
    let losing = Losing::connect(&broker, 2..LOST + 2).await;
    let writer = Channel::<u64>::new(losing, "users").expect("legal");
    let _answering = writer.answer_requests().await.expect("subscribed");
    let readers = [hydrated(&broker).await, hydrated(&broker).await, hydrated(&broker).await];
    for number in 0..LOST + 2 {
        writer.publish(format!("key:{number}"), &number).await.expect("published");
    }
    let took = join_all(readers.iter().map(|(_, hydration)| repaired(hydration))).await;
    println!("replay of {LOST} messages: repaired after {took:?}");
    for ((replica, hydration), took) in readers.iter().zip(took) {
        let stats = hydration.stats();
        assert_eq!((stats.missed, stats.replayed, stats.cleared), (LOST, LOST, 0));
        assert_eq!(replica.len() as u64, LOST + 2);
        // A tenth of that where nothing else runs; here other tests do.
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    assert_eq!(writer.stats().replayed, LOST, "whoever missed them, they came once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_last_message_is_noticed_with_the_first_heartbeat() {
    const HEARTBEAT: Duration = Duration::from_secs(2);
    let broker = redis().await;
    let losing = Losing::connect(&broker, 2..3).await;
    let builder = Channel::<u64>::builder(losing, "users");
    let writer = builder.with_heartbeats(HEARTBEAT, LIMIT).build().expect("legal");
    let _answering = writer.answer_requests().await.expect("subscribed");
    let (replica, hydration) = hydrated(&broker).await;
    for number in 1..=2 {
        writer.publish("key", &number).await.expect("published");
    }
    let began = Instant::now();
    let noticed = within(LIMIT, noticed(&hydration)).await - began;
    let took = repaired(&hydration).await;
    println!(
        "tail loss: noticed after {noticed:?} of heartbeats of {HEARTBEAT:?}, repaired after {took:?} more"
    );
    assert!(noticed < HEARTBEAT.mul_f64(1.2), "{noticed:?}");
    assert_eq!(replica.get("key").as_deref(), Some(&2));
}
