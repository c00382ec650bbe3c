//! A link to the in-process broker. Cutting is the transport's own; slowness is added here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use futures::{FutureExt, TryFutureExt};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Error, ErrorKind, Fence, Limits, Message, Result, Signal, Subscription, Topic, Transport,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// The link of one process to the broker in this one.
#[derive(Clone)]
pub(in crate::demo::page) struct MemoryRoad {
    transport: MemoryTransport,
    delay: Arc<watch::Sender<Duration>>,
}

impl MemoryRoad {
    pub(in crate::demo::page) fn to(broker: &MemoryBroker) -> Self {
        Self { transport: broker.connect(), delay: Arc::new(watch::Sender::new(Duration::ZERO)) }
    }

    pub(super) fn connect(&self) -> SlowTransport {
        let (hand_over, batches) = mpsc::unbounded_channel();
        let handing_over = hand_over_in_order(self.transport.clone(), batches);
        SlowTransport {
            transport: self.transport.clone(),
            delay: self.delay.clone(),
            hand_over,
            _handing_over: AbortOnDropHandle::new(tokio::spawn(handing_over)),
        }
    }

    pub(super) fn obey(&self, is_cut: bool, delay: Duration) {
        self.delay.send_replace(delay);
        if is_cut {
            self.transport.cut();
        } else {
            self.transport.heal();
        }
    }
}

/// A [`MemoryTransport`] over which everything takes longer, in order.
#[derive(Debug)]
pub(super) struct SlowTransport {
    transport: MemoryTransport,
    delay: Arc<watch::Sender<Duration>>,
    hand_over: mpsc::UnboundedSender<Batch>,
    _handing_over: AbortOnDropHandle<()>,
}

/// A batch on its way to the broker.
#[derive(Debug)]
struct Batch {
    due: Instant,
    topic: Topic,
    messages: Vec<Message>,
    answer: oneshot::Sender<Result<()>>,
}

/// One task for all batches: sleeps of their own would end in any order.
async fn hand_over_in_order(
    transport: MemoryTransport,
    mut batches: mpsc::UnboundedReceiver<Batch>,
) {
    while let Some(Batch { due, topic, messages, answer }) = batches.recv().await {
        if due > Instant::now() {
            sleep_until(due).await;
        }
        // Whoever asked may have given up.
        let _ = answer.send(transport.publish(topic, messages).await);
    }
}

impl SlowTransport {
    fn delay(&self) -> Duration {
        *self.delay.borrow()
    }
}

impl Transport for SlowTransport {
    fn limits(&self) -> Limits {
        self.transport.limits()
    }

    fn publish(&self, topic: Topic, messages: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            let (answer, answered) = oneshot::channel();
            let due = Instant::now() + self.delay();
            let closed = || Error::new(ErrorKind::Closed, "the link ended with its process");
            self.hand_over.send(Batch { due, topic, messages, answer }).map_err(|_| closed())?;
            answered.await.map_err(|_| closed())?
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        let delay = self.delay.subscribe();
        self.transport.subscribe(topic).map_ok(|inner| Slow::over(inner, delay)).boxed()
    }

    /// The question takes one way. Its answer is in the subscriptions, which take the other.
    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        async move {
            sleep(self.delay()).await;
            self.transport.fence().await
        }
        .boxed()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.transport.close()
    }
}

/// A subscription whose signals are under way for a while.
struct Slow {
    inner: Subscription,
    is_ended: bool,
    delay: watch::Receiver<Duration>,
    under_way: VecDeque<(Instant, Signal)>,
}

impl Slow {
    fn over(inner: Subscription, delay: watch::Receiver<Duration>) -> Subscription {
        let slow = Self { inner, is_ended: false, delay, under_way: VecDeque::new() };
        Subscription::new(stream::unfold(slow, Self::next))
    }

    async fn next(mut self) -> Option<(Signal, Self)> {
        loop {
            let due = self.under_way.front().map(|(due, _)| *due);
            if due.is_some_and(|due| due <= Instant::now()) {
                let (_, signal) = self.under_way.pop_front()?;
                return Some((signal, self));
            }
            if self.is_ended && due.is_none() {
                return None;
            }
            let arrival = tokio::select! {
                biased;
                arrival = self.inner.next(), if !self.is_ended => arrival,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => continue,
            };
            let delay = *self.delay.borrow();
            match arrival {
                None => self.is_ended = true,
                Some(signal) if delay.is_zero() && due.is_none() => return Some((signal, self)),
                Some(signal) => self.take(signal, delay),
            }
        }
    }

    /// In order, also while the delay changes. That the link is lost, its owner sees at once.
    fn take(&mut self, signal: Signal, delay: Duration) {
        let now = Instant::now();
        if matches!(signal, Signal::Disrupted(_)) {
            self.under_way.iter_mut().for_each(|(due, _)| *due = now);
            self.under_way.push_back((now, signal));
            return;
        }
        let last = self.under_way.back().map_or(now, |(due, _)| *due);
        self.under_way.push_back((last.max(now + delay), signal));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hydratecache::Channel;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(10);

    async fn next(subscription: &mut Subscription) -> Signal {
        timeout(LIMIT, subscription.next()).await.expect("in time").expect("open")
    }

    fn topic() -> Topic {
        Topic::new("rows").expect("legal")
    }

    fn sequence(signal: &Signal) -> u64 {
        match signal {
            Signal::Message(message) => message.sequence().expect("numbered").get(),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_link_delays_both_ways_and_keeps_the_order_while_it_gets_quick_again() {
        let broker = MemoryBroker::new();
        let (near, far) = (MemoryRoad::to(&broker), MemoryRoad::to(&broker));
        let mut arriving = far.connect().subscribe(topic()).await.expect("subscribed");
        let writer = Channel::<u64>::new(near.connect(), "rows").expect("legal");
        far.obey(false, Duration::from_secs(2));
        near.obey(false, Duration::from_secs(1));
        let began = Instant::now();
        writer.put("a", &1).await.expect("published");
        assert!(began.elapsed() >= Duration::from_secs(1), "the way to the broker");
        near.obey(false, Duration::ZERO);
        writer.put("a", &2).await.expect("published");
        // It takes what is under way before the link is quick again.
        let first = tokio::spawn(async move { (next(&mut arriving).await, arriving) });
        tokio::task::yield_now().await;
        far.obey(false, Duration::ZERO);
        writer.put("a", &3).await.expect("published");
        let (first, mut arriving) = first.await.expect("no panic");
        assert!(began.elapsed() >= Duration::from_secs(3), "and the way from it");
        let second = next(&mut arriving).await;
        let third = next(&mut arriving).await;
        assert_eq!([&first, &second, &third].map(sequence), [1, 2, 3]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cut_is_seen_at_once_also_on_a_slow_link_and_healing_tells_what_was_missed() {
        let broker = MemoryBroker::new();
        let road = MemoryRoad::to(&broker);
        let mut arriving = road.connect().subscribe(topic()).await.expect("subscribed");
        let writer = Channel::<u64>::new(broker.connect(), "rows").expect("legal");
        road.obey(false, Duration::from_secs(60));
        writer.put("a", &1).await.expect("published");
        road.obey(true, Duration::from_secs(60));
        writer.put("a", &2).await.expect("published");
        assert!(matches!(next(&mut arriving).await, Signal::Message(_)));
        assert!(matches!(next(&mut arriving).await, Signal::Disrupted(_)));
        road.obey(false, Duration::ZERO);
        assert!(matches!(next(&mut arriving).await, Signal::Live));
        let gap = next(&mut arriving).await;
        assert!(matches!(gap, Signal::Gap(gap) if gap.exact() == Some(1)), "{gap:?}");
    }
}
