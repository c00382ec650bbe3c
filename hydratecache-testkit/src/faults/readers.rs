//! Readers that are slow, that panic, and a thousand of them.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use hydratecache::{Signal, Subscription, Topic, Transport};
use tokio::task::JoinHandle;

use super::support::{
    LONG, Listener, Writer, connect, connect_with, effort, fence, in_time, no_subscription_left,
    number, resident_bytes, secs, topic, until,
};
use super::{Setup, Subject};

/// Fault 14: a reader that is slow, with small and with large messages.
pub async fn a_reader_that_does_not_read_is_told_how_much_it_lost_and_holds_up_nobody(
    subject: &dyn Subject,
) {
    let largest = connect(subject).await.limits().max_payload_bytes.min(1 << 20);
    slow_reader(subject, 100, 500, effort(100, 2000)).await;
    slow_reader(subject, largest, 1, effort(100, 4000)).await;
}

async fn slow_reader(subject: &dyn Subject, payload_bytes: usize, batch: usize, batches: u64) {
    const QUEUE_BYTES: usize = 4 << 20;
    let setup = Setup { queue_bytes: Some(QUEUE_BYTES), ..Setup::default() };
    let transport = connect_with(subject, setup).await;
    let topic = topic("users");
    let mut slow = Listener::on(&transport, &topic).await;
    let quick = Listener::on(&transport, &topic).await.into_inner();
    let mut writer = Writer::new(&transport, &topic);
    let counting = Counting::start(quick);
    let mut before = 0;
    for sent in 1..=batches {
        let last = writer.send_batch(batch, payload_bytes).await.expect("published");
        // Its own queue is bounded too: give the quick reader its turn.
        until("the quick reader", LONG, async || counting.has(last)).await;
        if sent == batches / 10 {
            before = resident_bytes();
        }
    }
    let grown = resident_bytes().saturating_sub(before);
    let fence = fence(&transport).await;
    let signals = slow.before(fence).await;
    let sent = batches * batch as u64;
    let (mut received, mut lost) = (0, 0);
    for signal in &signals {
        match signal {
            Signal::Message(_) => received += 1,
            Signal::Gap(gap) if gap.exact().is_some() => lost += gap.exact().unwrap_or(0),
            other => panic!("messages and exact gaps, not {other:?}"),
        }
    }
    assert_eq!(received + lost, sent, "payloads of {payload_bytes} bytes");
    assert!(lost > sent / 2, "the queue is bounded");
    // What a message passes on its way, and what the allocator keeps, is not the queue's.
    assert!(grown < QUEUE_BYTES + (24 << 20), "{grown} bytes for a queue of {QUEUE_BYTES}");
    transport.close().await.expect("closes");
    assert_eq!(counting.end().await, sent, "the quick reader got everything");
}

/// Reads everything, which must be numbered without a gap.
struct Counting {
    last: tokio::sync::watch::Receiver<u64>,
    task: JoinHandle<()>,
}

impl Counting {
    fn start(mut subscription: Subscription) -> Self {
        let (sender, last) = tokio::sync::watch::channel(0);
        let task = tokio::spawn(async move {
            while let Some(signal) = subscription.next().await {
                match signal {
                    Signal::Message(message) => {
                        let expected = *sender.borrow() + 1;
                        assert_eq!(number(&message), expected);
                        sender.send_replace(expected);
                    }
                    Signal::Fenced(_) | Signal::Heard(_) => {}
                    other => panic!("messages, not {other:?}"),
                }
            }
        });
        Self { last, task }
    }

    fn has(&self, number: u64) -> bool {
        assert!(!self.task.is_finished(), "it reads");
        *self.last.borrow() >= number
    }

    async fn end(self) -> u64 {
        in_time("the quick reader's end", LONG, self.task).await.expect("no gap");
        *self.last.borrow()
    }
}

/// Fault 15: a reader that panics.
pub async fn a_reader_that_panics_takes_nobody_along(subject: &dyn Subject) {
    let transport = connect(subject).await;
    let topic = topic("users");
    let mut steady = Listener::on(&transport, &topic).await;
    let mut writer = Writer::new(&transport, &topic);
    for _ in 0..effort(20, 1000) {
        let mut nervous = Listener::on(&transport, &topic).await;
        let panicking = tokio::spawn(async move {
            nervous.message().await;
            std::panic::resume_unwind(Box::new("a reader's own fault"));
        });
        let sent = writer.send_batch(3, 8).await.expect("published");
        steady.numbers(sent - 2..=sent).await;
        let outcome: Result<(), _> = in_time("the panic", LONG, panicking).await;
        assert!(outcome.expect_err("it panics").is_panic());
        let sent = writer.send().await.expect("published");
        steady.numbers([sent]).await;
        fence(&transport).await;
    }
}

/// Fault 15: a thousand topics and a restart.
pub async fn a_thousand_topics_over_a_constant_number_of_connections_survive_a_restart(
    subject: &dyn Subject,
) {
    const TOPICS: usize = 1000;
    let broker = subject.broker();
    let transport = connect(subject).await;
    let topics: Vec<Topic> = (0..TOPICS).map(|number| topic(&format!("topic.{number}"))).collect();
    let mut listeners = join_all(topics.iter().map(|topic| Listener::on(&transport, topic))).await;
    assert_eq!(subject.connections().await, subject.connections_of_one());
    for _ in 0..effort(1, 10) {
        broker.kill9().await.expect("killed");
        broker.start_again().await.expect("restarted");
        let living = listeners.iter_mut().map(async |listener| {
            listener.disrupted(LONG).await;
            listener.back(subject, LONG).await;
        });
        in_time("every topic to be live", LONG, join_all(living)).await;
        let two = async || subject.connections().await == subject.connections_of_one();
        until("as many connections as before", LONG, two).await;
        let hearing = listeners.iter_mut().zip(&topics).map(async |(listener, topic)| {
            Writer::new(&transport, topic).send().await.expect("published");
            listener.numbers([1]).await;
        });
        in_time("every topic to hear", LONG, join_all(hearing)).await;
    }
}

/// Whoever goes while another comes leaves no subscription behind at the server, and takes none.
pub async fn readers_that_come_and_go_at_once_leave_no_subscription_and_miss_nothing(
    subject: &dyn Subject,
) {
    let transport = connect(subject).await;
    let users = (0..16).map(|user| tokio::spawn(come_and_go(transport.clone(), user)));
    let users = join_all(users.collect::<Vec<_>>());
    for user in in_time("readers to come and go", secs(effort(180, 900)), users).await {
        user.expect("none misses anything");
    }
    no_subscription_left(subject, "everybody has gone").await;
    let mut listener = Listener::on(&transport, &topic("topic.0")).await;
    Writer::new(&transport, &topic("topic.0")).send().await.expect("published");
    listener.numbers([1]).await;
}

async fn come_and_go(transport: Arc<dyn Transport>, user: u64) {
    let mut state = user + 1;
    for _ in 0..effort(300, 10_000) {
        // Knuth's MMIX generator: which topic, and what is done with it, differs from user to user.
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let topic = topic(&format!("topic.{}", (state >> 33) % 8));
        match (state >> 40) % 4 {
            0 => {
                let mut subscribing = transport.subscribe(topic);
                let _ = futures::poll!(&mut subscribing);
            }
            1 => {
                let subscribing = transport.subscribe(topic);
                let _ = tokio::time::timeout(Duration::from_micros(300), subscribing).await;
            }
            _ => {
                let mut listener = Listener::on(&transport, &topic).await;
                let mut writer = Writer::new(&transport, &topic);
                writer.send().await.expect("published");
                while listener.message().await.origin() != Some(writer.origin()) {}
            }
        }
    }
}
