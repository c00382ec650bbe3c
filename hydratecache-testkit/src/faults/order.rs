//! Order: what was accepted before a fence comes before it, and messages come as they were sent.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Poll;

use crate::proxy::FaultProxy;
use futures::StreamExt;
use futures::future::{join, join_all};
use futures::stream::FuturesOrdered;
use hydratecache::{Fence, Key, Message, Origin, Signal, Subscription, Topic, Transport};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::task::coop::{consume_budget, has_budget_remaining};

use super::support::{
    LONG, Listener, Writer, connect, connect_via, connect_via_with, effort, fence, in_time, millis,
    number, proxy, secs, topic, tries, until,
};
use super::{Missed, Setup, Subject};

/// P13 amid publishers at full speed.
pub async fn everything_acknowledged_before_a_fence_arrives_before_it_under_load(
    subject: &dyn Subject,
) {
    let reader = connect(subject).await;
    fences_prove_the_past(subject, &reader, effort(1000, 20_000), Pressure::LIGHT).await;
}

/// What publishers at full speed send.
#[derive(Debug, Clone, Copy)]
pub struct Pressure {
    /// How many messages they may be ahead of the reader: a broker that holds any number for a slow reader makes
    /// every fence wait longer than the one before, until the reader's queue is full.
    pub ahead: u64,
    /// How large each is, in bytes.
    pub payload_bytes: usize,
}

impl Pressure {
    /// What fits into the queue of a reader, by default.
    pub const LIGHT: Self = Self { ahead: 2000, payload_bytes: 100 };
}

/// Asks for `fences` amid publishers at full speed, and closes `reader`.
pub async fn fences_prove_the_past(
    subject: &dyn Subject,
    reader: &Arc<dyn Transport>,
    fences: usize,
    pressure: Pressure,
) {
    let other = connect(subject).await;
    let topic = topic("users");
    let subscription = Listener::on(reader, &topic).await.into_inner();
    let over = Arc::new(AtomicBool::new(false));
    let window = Window::of(pressure);
    let load: Vec<Load> = [(reader, 1), (reader, 64), (&other, 1), (&other, 64)]
        .map(|(transport, batch)| Load::start(transport, &topic, batch, &window, &over))
        .into();
    let (sender, mut passed) = mpsc::unbounded_channel();
    let reading = tokio::spawn(read(subscription, window, sender));
    for _ in 0..fences {
        let acknowledged: Vec<_> = load.iter().map(Load::acknowledged).collect();
        let fence = fence(reader).await;
        let arrived = in_time("the fence in the subscription", LONG, async {
            loop {
                let (passing, arrived) = passed.recv().await.expect("the reader reads");
                if passing == fence {
                    return arrived;
                }
            }
        });
        let arrived: HashMap<Origin, u64> = arrived.await;
        for (origin, number) in acknowledged {
            let last = arrived.get(&origin).copied().unwrap_or(0);
            assert!(last >= number, "{last} arrived of {number} acknowledged before the fence");
        }
    }
    over.store(true, Ordering::Relaxed);
    for load in load {
        in_time("the last publishes", LONG, load.task).await.expect("every publish succeeds");
    }
    reader.close().await.expect("closes");
    reading.await.expect("no gap, no disruption");
}

/// How far publishers may be ahead of the reader.
struct Window {
    pressure: Pressure,
    sent: AtomicU64,
    read: AtomicU64,
}

impl Window {
    fn of(pressure: Pressure) -> Arc<Self> {
        Arc::new(Self { pressure, sent: AtomicU64::new(0), read: AtomicU64::new(0) })
    }

    /// Waits until there is room, or it is over.
    async fn room(&self, over: &AtomicBool) {
        while !self.is_open() && !over.load(Ordering::Relaxed) {
            tokio::time::sleep(millis(1)).await;
        }
    }

    /// What was sent and not read by now will not be.
    fn reset(&self) {
        self.sent.store(self.read.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    fn is_open(&self) -> bool {
        let read = self.read.load(Ordering::SeqCst);
        self.sent.load(Ordering::SeqCst).saturating_sub(read) <= self.pressure.ahead
    }
}

/// A publisher at full speed.
struct Load {
    origin: Origin,
    acknowledged: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Load {
    fn start(
        transport: &Arc<dyn Transport>,
        topic: &Topic,
        batch: u32,
        window: &Arc<Window>,
        over: &Arc<AtomicBool>,
    ) -> Self {
        let (mut writer, over) = (Writer::new(transport, topic), over.clone());
        let window = window.clone();
        let (origin, acknowledged) = (writer.origin(), Arc::new(AtomicU64::new(0)));
        let count = acknowledged.clone();
        let task = tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                window.room(&over).await;
                window.sent.fetch_add(batch.into(), Ordering::SeqCst);
                let sending = writer.send_batch(batch as usize, window.pressure.payload_bytes);
                let number = sending.await.expect("published");
                count.store(number, Ordering::SeqCst);
            }
        });
        Self { origin, acknowledged, task }
    }

    fn acknowledged(&self) -> (Origin, u64) {
        (self.origin, self.acknowledged.load(Ordering::SeqCst))
    }
}

/// Tells what had arrived of each origin when a fence passed.
async fn read(
    mut subscription: Subscription,
    window: Arc<Window>,
    passed: mpsc::UnboundedSender<(Fence, HashMap<Origin, u64>)>,
) {
    let mut arrived = HashMap::new();
    while let Some(signal) = subscription.next().await {
        match signal {
            Signal::Message(message) => {
                arrived.insert(message.origin().expect("numbered"), number(&message));
                window.read.fetch_add(1, Ordering::SeqCst);
            }
            // Nobody may be left to hear of the last ones.
            Signal::Fenced(fence) => drop(passed.send((fence, arrived.clone()))),
            other => panic!("messages and fences, not {other:?}"),
        }
    }
}

/// A fence that is asked for while topics are proven again is in their subscriptions all the same,
/// behind the gap that stands for what was accepted before it.
pub async fn a_fence_right_after_a_reconnect_passes_every_subscription_behind_its_gap(
    subject: &dyn Subject,
) {
    let proxy = proxy(subject);
    // Signs of life are fences too, and are not to help.
    let setup = Setup { liveness: Some((secs(600), secs(5))), ..Setup::default() };
    let transport = connect_via_with(subject, &proxy, setup).await;
    let topics = ["a", "b", "c"].map(topic);
    let mut listeners = join_all(topics.iter().map(|topic| Listener::on(&transport, topic))).await;
    proxy.delay(millis(30), millis(0));
    for _ in 0..effort(5, 100) {
        proxy.reset();
        for listener in &mut listeners {
            listener.disrupted(LONG).await;
        }
        let fence = tries(LONG, async || transport.fence().await).await;
        for listener in &mut listeners {
            let before = listener.before(fence).await;
            let is_told = match subject.missed() {
                Missed::Gone => matches!(before[..], [Signal::Live, Signal::Gap(_)]),
                Missed::Replayed => matches!(before[..], [Signal::Live]),
            };
            assert!(is_told, "{before:?}");
        }
    }
}

/// A task that has used up its turn of Tokio's scheduler begins a publish all the same.
pub async fn a_publish_that_waits_for_the_link_keeps_its_place_without_budget(
    subject: &dyn Subject,
) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let near = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    let mut writer = Writer::new(&far, &topic);
    for round in 0..effort(3, 100) {
        lose(&proxy).await;
        let mut first = far.publish(topic.clone(), vec![writer.message(8)]);
        while has_budget_remaining() {
            let _ = futures::poll!(pin!(consume_budget()));
        }
        assert!(futures::poll!(&mut first).is_pending(), "there is no link");
        let (other, there, message) = (far.clone(), topic.clone(), writer.message(8));
        let second = tokio::spawn(async move { other.publish(there, vec![message]).await });
        tokio::time::sleep(millis(20)).await;
        proxy.heal().expect("heals");
        let (first, second) = in_time("the link to be back", LONG, join(first, second)).await;
        first.expect("published");
        second.expect("no panic").expect("published");
        listener.numbers([2 * round + 1, 2 * round + 2]).await;
    }
}

/// A batch of more messages than a task may queue in one turn of Tokio's scheduler.
pub async fn a_large_batch_that_waits_for_the_link_is_not_overtaken(subject: &dyn Subject) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let near = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    let mut writer = Writer::new(&far, &topic);
    for round in 0..effort(5, 100) {
        lose(&proxy).await;
        let batch = (0..512).map(|_| writer.message(8)).collect();
        let mut first = far.publish(topic.clone(), batch);
        assert!(futures::poll!(&mut first).is_pending(), "there is no link");
        let second = far.publish(topic.clone(), vec![writer.message(8)]);
        proxy.heal().expect("heals");
        let (first, second) = in_time("the link to be back", LONG, join(first, second)).await;
        first.and(second).expect("published");
        listener.numbers(513 * round + 1..=513 * round + 513).await;
    }
}

/// Cuts the link, and waits for as long as a publish is of unknown outcome.
async fn lose(proxy: &FaultProxy) {
    proxy.cut();
    in_time("the cut", LONG, proxy.wait_for(|stats| stats.open == 0)).await;
    // The transport hears of it in its own time.
    tokio::time::sleep(millis(250)).await;
}

/// Order over an outage: five hundred publishes begin while there is no link.
pub async fn publishes_that_wait_for_the_link_arrive_in_the_order_in_which_they_began(
    subject: &dyn Subject,
) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let near = connect(subject).await;
    let topic = topic("users");
    let mut listener = Listener::on(&near, &topic).await;
    let mut writer = Writer::new(&far, &topic);
    for round in 0..effort(5_u64, 100) {
        lose(&proxy).await;
        let messages: Vec<_> = (0..500).map(|_| writer.message(8)).collect();
        let publishing =
            messages.into_iter().map(|message| far.publish(topic.clone(), vec![message]));
        let mut publishing: Vec<_> = publishing.collect();
        for publish in &mut publishing {
            assert!(futures::poll!(publish).is_pending(), "there is no link");
        }
        proxy.heal().expect("heals");
        for answer in in_time("the link to be back", LONG, join_all(publishing)).await {
            answer.expect("published");
        }
        listener.numbers(round * 500 + 1..=round * 500 + 500).await;
    }
}

/// Publishers that know nothing of each other keep their own order over every flap.
pub async fn nothing_overtakes_while_the_publishing_link_flaps(subject: &dyn Subject) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let near = connect(subject).await;
    let topic = topic("users");
    let subscription = Listener::on(&near, &topic).await.into_inner();
    let over = Arc::new(AtomicBool::new(false));
    let window = Window::of(Pressure::LIGHT);
    let publishers = (0..8).map(|number| {
        let key = Key::new(format!("key:{number}")).expect("legal");
        let (far, topic) = (far.clone(), topic.clone());
        tokio::spawn(flood(far, topic, key, window.clone(), over.clone()))
    });
    let publishers: Vec<_> = publishers.collect();
    let reading = tokio::spawn(in_order(subscription, window.clone()));
    for _ in 0..effort(15, 500) {
        proxy.reset();
        window.reset();
        // Some connections take longer to make than they last if that is cut short every time.
        let before = window.read.load(Ordering::SeqCst);
        let back = async || window.read.load(Ordering::SeqCst) > before + 100;
        until("the link to be back", LONG, back).await;
        tokio::time::sleep(millis(100)).await;
    }
    over.store(true, Ordering::Relaxed);
    for publisher in in_time("publishers to end", LONG, join_all(publishers)).await {
        publisher.expect("no publish hangs");
    }
    fence(&near).await;
    near.close().await.expect("closes");
    in_time("the end of the stream", LONG, reading).await.expect("in order");
}

/// Keeps ten publishes under way, begun in order; the outcome of some is not known. They carry no
/// sequence, by which a message that was overtaken would be dropped unseen.
async fn flood(
    transport: Arc<dyn Transport>,
    topic: Topic,
    key: Key,
    window: Arc<Window>,
    over: Arc<AtomicBool>,
) {
    let mut under_way = FuturesOrdered::new();
    let mut numbers = 1_u64..;
    while !over.load(Ordering::Relaxed) {
        window.room(&over).await;
        for number in numbers.by_ref().take(10 - under_way.len()) {
            let message = Message::put(key.clone(), number.to_be_bytes().to_vec().into());
            let mut publish = transport.publish(topic.clone(), vec![message]);
            let answer = futures::poll!(&mut publish);
            under_way.push_back(async move {
                match answer {
                    Poll::Ready(answer) => answer,
                    Poll::Pending => publish.await,
                }
            });
        }
        let answer = in_time("the answer to a publish", LONG, under_way.next()).await;
        match answer {
            Some(Err(error)) => assert!(error.is_retryable(), "{error}"),
            // Only what is accepted is sure to be read.
            Some(Ok(())) => drop(window.sent.fetch_add(1, Ordering::SeqCst)),
            None => {}
        }
    }
}

async fn in_order(mut subscription: Subscription, window: Arc<Window>) {
    let mut last = HashMap::new();
    while let Some(signal) = subscription.next().await {
        match signal {
            Signal::Message(message) => {
                let before = last.insert(message.key().cloned(), number(&message)).unwrap_or(0);
                assert!(number(&message) > before, "{} came behind {before}", number(&message));
                window.read.fetch_add(1, Ordering::SeqCst);
            }
            Signal::Fenced(_) | Signal::Heard(_) => {}
            other => panic!("the reader's link is whole, and yet {other:?}"),
        }
    }
}
