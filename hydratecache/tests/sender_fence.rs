//! Who sends a copy or a digest first waits for a fence that it asked for after the question, because a
//! broker may bring it the question before older messages of others: it has to keep the order of each publisher
//! only. The one here does.

mod support;

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use hydratecache::cache::{Freshness, Replica};
use hydratecache::memory::MemoryTransport;
use hydratecache::{
    Fence, Hydrated, Kind, Limits, Message, Result, Signal, Subscription, Topic, Transport,
};
use support::fleet::{DOMAINS, Scene, Users, channel, is_proven, name, small, value};
use support::within;

/// A link that can be slow for all that is published on a topic: what replicas ask of one another overtakes it,
/// and a fence does not.
#[derive(Clone)]
struct Overtaken {
    link: MemoryTransport,
    is_slow: Arc<AtomicBool>,
}

impl Overtaken {
    fn new(link: MemoryTransport) -> Self {
        Self { link, is_slow: Arc::default() }
    }

    fn slow_down(&self) {
        self.is_slow.store(true, Ordering::SeqCst);
    }
}

/// What comes of `signals`: what is slow comes with the next fence.
fn in_new_order(signals: Subscription, is_slow: Arc<AtomicBool>) -> Subscription {
    let mut slow = Vec::new();
    let ordered = signals.flat_map(move |signal| {
        let is_published = match &signal {
            Signal::Message(message) => message.kind() != Kind::Request,
            Signal::Heard(_) => true,
            _ => false,
        };
        let mut come = Vec::new();
        if is_published && is_slow.load(Ordering::SeqCst) {
            slow.push(signal);
        } else {
            if matches!(signal, Signal::Fenced(_)) {
                come = mem::take(&mut slow);
            }
            come.push(signal);
        }
        stream::iter(come)
    });
    Subscription::new(ordered)
}

impl Transport for Overtaken {
    fn limits(&self) -> Limits {
        self.link.limits()
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        self.link.publish(topic, batch)
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        let is_slow = self.is_slow.clone();
        let subscribing = self.link.subscribe(topic);
        async { Ok(in_new_order(subscribing.await?, is_slow)) }.boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        self.link.fence()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.link.close()
    }
}

impl fmt::Debug for Overtaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Overtaken")
    }
}

/// The only replica, which fences only what it has to, and the link on which questions may reach it before
/// writes.
async fn sender(scene: &Scene) -> (Overtaken, Users) {
    const NEVER: Duration = Duration::from_secs(86_400);
    let link = Overtaken::new(scene.broker.connect());
    let builder = Hydrated::builder(channel(link.clone(), scene.versions), Replica::new());
    let builder = builder.source(scene.table.clone()).with_warm_start(small());
    let builder = builder.with_hydration(|hydrate| hydrate.with_fence_interval(NEVER));
    let users = within(builder.start()).await.expect("starts");
    within(users.ready()).await.expect("the table can be read");
    // From here on it can prove that it is live.
    within(users.caught_up()).await.expect("the link is whole");
    (link, users)
}

/// A write that the broker has, and `users` has not heard of.
async fn write_unheard(scene: &Scene, users: &Users) {
    scene.put(7, 2).await;
    assert_eq!(users.get(&name(7)).map(|read| read.to_string()), Some(value(7, 1)));
}

/// `users` calls itself proven, and is right.
async fn check(scene: &Scene, users: &Users) {
    scene.check(users).await;
    assert!(is_proven(users));
    assert_eq!(scene.table.scans(), 1, "{:?}", users.stats());
}

#[tokio::test(start_paused = true)]
async fn a_copy_has_what_was_accepted_before_the_question_and_reaches_its_sender_later() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 50);
        let (link, first) = sender(&scene).await;
        link.slow_down();
        write_unheard(&scene, &first).await;
        let second = scene.users().await;
        check(&scene, &second).await;
        assert_eq!(second.stats().copies, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_digest_has_what_was_accepted_before_the_question_and_reaches_its_sender_later() {
    for versions in DOMAINS {
        let scene = Scene::new(versions, 50);
        let (slow, first) = sender(&scene).await;
        let link = scene.broker.connect();
        let second = scene.begin(link.clone(), small()).await;
        within(second.ready()).await.expect("it is filled");
        within(second.caught_up()).await.expect("the link is whole");
        link.cut();
        let hydration = second.hydration();
        within(hydration.wait_until(Freshness::is_suspect)).await.expect("it is told");
        slow.slow_down();
        write_unheard(&scene, &first).await;
        link.heal();
        within(hydration.wait_until(|fresh| !fresh.is_suspect())).await.expect("it goes on");
        check(&scene, &second).await;
        assert_eq!(second.stats().digests, 1, "{:?}", second.stats());
    }
}
