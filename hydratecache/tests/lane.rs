//! How publishes gather into batches, over a transport whose answers wait.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use futures::stream::{FuturesUnordered, StreamExt};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Channel, Fence, Key, Limits, Message, Publish, Result, Signal, Subscription, Topic, Transport,
};
use tokio::sync::Semaphore;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);

/// Takes every batch at once and answers when it is let to.
#[derive(Debug, Clone)]
struct Waits {
    inner: MemoryTransport,
    answers: Arc<Semaphore>,
}

impl Transport for Waits {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            let sent = self.inner.publish(topic, batch).await;
            self.answers.acquire().await.expect("open").forget();
            sent
        }
        .boxed()
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

fn channel() -> (Channel<String>, Arc<Semaphore>) {
    let answers = Arc::new(Semaphore::new(0));
    let transport = Waits { inner: MemoryBroker::new().connect(), answers: answers.clone() };
    (Channel::new(transport, "users").expect("legal"), answers)
}

fn publish(channel: &Channel<String>) -> Publish {
    channel.publish("user:1", &"Ada".to_owned())
}

fn is_pending(publish: &mut Publish) -> bool {
    publish.now_or_never().is_none()
}

#[tokio::test]
async fn publishes_that_come_while_a_batch_is_under_way_travel_together() {
    let (channel, answers) = channel();
    let mut lone = publish(&channel);
    assert!(is_pending(&mut lone), "under way");
    let mut others: FuturesUnordered<_> = (0..100).map(|_| publish(&channel)).collect();
    answers.add_permits(2);
    let mut sequences = Vec::new();
    while let Some(receipt) = timeout(LIMIT, others.next()).await.expect("answered") {
        sequences.push(receipt.expect("published").position.sequence.get());
    }
    sequences.sort_unstable();
    assert_eq!(sequences, (2..=101).collect::<Vec<_>>());
    assert_eq!(
        timeout(LIMIT, lone).await.expect("answered").expect("published").position.sequence.get(),
        1
    );
    assert_eq!(channel.stats().batches, 2);
}

#[tokio::test]
async fn publishes_of_many_tasks_travel_together() {
    let (channel, answers) = channel();
    let mut lone = publish(&channel);
    assert!(is_pending(&mut lone), "under way");
    let tasks = (0..100).map(|_| tokio::spawn(publish(&channel)));
    let tasks: Vec<_> = tasks.collect();
    answers.add_permits(100);
    for receipt in timeout(LIMIT, join_all(tasks)).await.expect("answered") {
        receipt.expect("no panic").expect("published");
    }
    assert_eq!(channel.stats().batches, 2, "they publish in one round of the scheduler");
}

#[tokio::test]
async fn a_publish_depends_on_none_that_nobody_polls() {
    let (channel, answers) = channel();
    let (mut under_way, mut opens) = (publish(&channel), publish(&channel));
    assert!(is_pending(&mut under_way) && is_pending(&mut opens));
    answers.add_permits(2);
    timeout(LIMIT, publish(&channel)).await.expect("answered").expect("published");
    assert_eq!(opens.await.expect("published").position.sequence.get(), 2);
    under_way.await.expect("published");
}

#[tokio::test]
async fn a_publish_that_is_dropped_before_its_batch_departs_is_not_sent_and_no_receipt_is_wrong() {
    let (channel, answers) = channel();
    let heard = channel.transport().subscribe(channel.topic().clone()).await.expect("proven");
    let mut under_way = publish(&channel);
    assert!(is_pending(&mut under_way));
    let mut gathering: Vec<_> = (0..6)
        .map(|number| Some(channel.publish(format!("user:{number}"), &"Ada".to_owned())))
        .collect();
    assert!(gathering.iter_mut().flatten().all(is_pending), "in one batch");
    for dropped in [4, 1] {
        gathering[dropped] = None;
    }
    answers.add_permits(2);
    under_way.await.expect("published");
    let heard = heard.skip(1).map(|signal| match signal {
        Signal::Message(message) => (message.key().map(Key::to_string), message.position()),
        other => panic!("{other:?}"),
    });
    let heard: Vec<_> = timeout(LIMIT, heard.take(4).collect()).await.expect("all of them");
    let mut answered = Vec::new();
    for (number, publish) in gathering.into_iter().enumerate() {
        if let Some(publish) = publish {
            let receipt = publish.await.expect("published");
            answered.push((Some(format!("user:{number}")), Some(receipt.position)));
        }
    }
    assert_eq!(heard, answered);
}

#[test]
fn a_batch_outlives_the_runtime_in_which_it_was_opened() {
    let (channel, answers) = channel();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    let first = runtime().expect("a runtime");
    let (mut under_way, mut opens) = (publish(&channel), publish(&channel));
    first.block_on(async { assert!(is_pending(&mut under_way) && is_pending(&mut opens)) });
    drop(first);
    answers.add_permits(2);
    runtime().expect("a runtime").block_on(async {
        timeout(LIMIT, publish(&channel)).await.expect("answered").expect("published");
    });
    assert_eq!(channel.stats().batches, 2);
}

#[test]
fn without_a_runtime_publishes_travel_together_too() {
    let (channel, answers) = channel();
    let mut under_way = publish(&channel);
    assert!(is_pending(&mut under_way));
    answers.add_permits(2);
    let mut all = join_all((0..10).map(|_| publish(&channel)));
    assert!((&mut all).now_or_never().is_none(), "every one has its turn first");
    for receipt in all.now_or_never().expect("answered") {
        receipt.expect("published");
    }
    assert_eq!(channel.stats().batches, 2);
}
