//! The suite can fail: each promise, broken in several ways, is named; and a transport that keeps
//! them all, with an envelope, passes.
//!
//! The transport here is the in-process one behind an envelope, with one lie at a time. Time is
//! paused, so that a wait in vain takes no time.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{
    Error, ErrorKind, Fence, FenceScope, Gap, Key, Kind, Limits, Message, Result, Signal,
    Subscription, Topic, Transport, Ttl, fanout::Fanout, wire,
};
use hydratecache_testkit::conformance::{self, Capability, Effort, Faults, Step, Subject};
use tokio::time::{Instant, sleep};

const SECRET: &str = "correct-horse-battery-staple";
const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// What a transport does instead of what it should.
#[derive(Clone, Copy)]
struct Lie {
    /// What a publish hands over.
    send: fn(Vec<Message>) -> Vec<Message>,
    /// What a publish answers.
    answer: fn(Result<()>) -> Result<()>,
    /// What a subscription yields for a signal; what it keeps for later lies in the first.
    hear: fn(&mut Vec<Signal>, Signal) -> Vec<Signal>,
    subscribe: fn(&Enveloped, Topic) -> BoxFuture<'_, Result<Subscription>>,
    fence: fn(&Enveloped) -> BoxFuture<'_, Result<Fence>>,
    close: fn(&Enveloped) -> BoxFuture<'_, Result<()>>,
    topic: fn(Topic) -> Topic,
    max_payload_bytes: usize,
    shows: &'static str,
    opens: usize,
    freezes: bool,
    denies: bool,
}

const HONEST: Lie = Lie {
    send: |batch| batch,
    answer: |answer| answer,
    hear: |_, signal| vec![signal],
    subscribe: |transport, topic| transport.honest.subscribe(topic),
    fence: |transport| transport.honest.fence(),
    close: |transport| transport.honest.close(),
    topic: |topic| topic,
    max_payload_bytes: MAX_PAYLOAD_BYTES,
    shows: "",
    opens: 0,
    freezes: false,
    denies: false,
};

/// The in-process transport behind an envelope.
struct Enveloped {
    lie: Lie,
    honest: MemoryTransport,
    opened: Arc<AtomicUsize>,
}

impl fmt::Debug for Enveloped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Enveloped").field("shows", &self.lie.shows).finish_non_exhaustive()
    }
}

fn key(name: &str) -> Key {
    Key::new(name).expect("legal")
}

fn wrap(message: &Message) -> Message {
    if message.kind() == Kind::Heartbeat {
        return message.clone();
    }
    let outer = Message::put(key("envelope"), wire::encode(message, None));
    message.position().into_iter().fold(outer, Message::with_position)
}

fn unwrap(signal: Signal) -> Signal {
    match signal {
        Signal::Message(outer) => match wire::decode(outer.payload()) {
            Ok(envelope) => Signal::Message(envelope.message),
            Err(rejection) => Signal::Rejected(rejection),
        },
        other => other,
    }
}

impl Transport for Enveloped {
    fn limits(&self) -> Limits {
        Limits::new(MAX_PAYLOAD_BYTES, FenceScope::Process)
    }

    fn publish(&self, topic: Topic, batch: Vec<Message>) -> BoxFuture<'_, Result<()>> {
        async move {
            Limits::new(self.lie.max_payload_bytes, FenceScope::Process).check(&batch)?;
            let batch = (self.lie.send)(batch).iter().map(wrap).collect();
            (self.lie.answer)(self.honest.publish((self.lie.topic)(topic), batch).await)
        }
        .boxed()
    }

    fn subscribe(&self, topic: Topic) -> BoxFuture<'_, Result<Subscription>> {
        async move {
            self.opened.fetch_add(self.lie.opens, Ordering::Relaxed);
            let subscription = (self.lie.subscribe)(self, (self.lie.topic)(topic)).await?;
            let (hear, mut kept) = (self.lie.hear, Vec::new());
            let hear = move |signal| stream::iter(hear(&mut kept, unwrap(signal)));
            Ok(Subscription::new(subscription.flat_map(hear)))
        }
        .boxed()
    }

    fn fence(&self) -> BoxFuture<'_, Result<Fence>> {
        (self.lie.fence)(self)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        (self.lie.close)(self)
    }
}

struct Liar {
    lie: Lie,
    broker: MemoryBroker,
    /// The link that the faults act on: one at a time is enough.
    link: std::sync::Mutex<MemoryTransport>,
    opened: Arc<AtomicUsize>,
}

impl Liar {
    fn new(lie: Lie) -> Self {
        let broker = MemoryBroker::new();
        let link = std::sync::Mutex::new(broker.connect());
        Self { lie, broker, link, opened: Arc::default() }
    }

    fn transport(&self, honest: MemoryTransport) -> Arc<dyn Transport> {
        Arc::new(Enveloped { lie: self.lie, honest, opened: self.opened.clone() })
    }

    fn link(&self) -> MemoryTransport {
        self.link.lock().expect("nothing panics with it").clone()
    }
}

impl Subject for Liar {
    fn name(&self) -> &'static str {
        "the in-process transport behind an envelope"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        async { Ok(self.transport(self.broker.connect())) }.boxed()
    }

    fn queue_bytes(&self) -> usize {
        Fanout::DEFAULT_QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(self)
    }

    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>> {
        let (topic, outer) = ((self.lie.topic)(topic.clone()), Message::put(key("foreign"), body));
        Capability::Present(
            async move { Ok(self.broker.connect().publish(topic, vec![outer]).await?) }.boxed(),
        )
    }

    fn secret(&self) -> Capability<String> {
        Capability::Present(SECRET.to_owned())
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        if self.lie.denies {
            return Capability::Present(Subject::connect(self));
        }
        Capability::Absent("there are no permissions in-process")
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Present(async { Ok(self.opened.load(Ordering::Relaxed)) }.boxed())
    }

    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
        let topic = (self.lie.topic)(topic.clone());
        Capability::Present(async move { Ok(self.broker.subscriptions(&topic)) }.boxed())
    }
}

impl Faults for Liar {
    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        async {
            let link = self.broker.connect();
            *self.link.lock().expect("nothing panics with it") = link.clone();
            Ok(self.transport(link))
        }
        .boxed()
    }

    fn cut(&self) -> Step<'_> {
        async {
            self.link().cut();
            Ok(())
        }
        .boxed()
    }

    fn heal(&self) -> Step<'_> {
        async {
            self.link().heal();
            Ok(())
        }
        .boxed()
    }

    fn freeze(&self) -> Capability<Step<'_>> {
        if self.lie.freezes {
            return Capability::Present(async { Ok(()) }.boxed());
        }
        Capability::Absent("nothing could stall in-process")
    }

    fn thaw(&self) -> Step<'_> {
        async { Ok(()) }.boxed()
    }
}

/// The number of a sequenced message, 0 of any other.
fn number(signal: &Signal) -> u64 {
    match signal {
        Signal::Message(message) => message.sequence().map_or(0, std::num::NonZeroU64::get),
        _ => 0,
    }
}

/// A test for each `(name, promise, what its failure begins with, lie)`.
macro_rules! the_suite_notices {
    ($($name:ident: $promise:ident $number:literal { $($lie:tt)* })*) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                let liar = Liar::new(Lie { $($lie)*, ..HONEST });
                let trial = AssertUnwindSafe(conformance::$promise(&liar, Effort::Quick));
                let panic = trial.catch_unwind().await.expect_err("a broken promise");
                let said = panic.downcast::<String>().expect("a message");
                let named = said.starts_with(concat!($number, " (")) && said.contains(") is broken: ");
                assert!(named, "{said}");
            }
        )*
    };
}

mod honest {
    use super::{HONEST, Liar};
    hydratecache_testkit::conformance_tests!(Liar::new(HONEST));
}

the_suite_notices! {
    a_deaf_subscription: p01_ready_means_ready "P1" {
        subscribe: |_, _| async { Ok(Subscription::new(stream::pending())) }.boxed()
    }
    a_subscription_that_begins_late: p01_ready_means_ready "P1" {
        subscribe: |transport, topic| async move {
            let honest = transport.honest.clone();
            let late = async move {
                tokio::task::yield_now().await;
                honest.subscribe(topic).await.expect("in-process")
            };
            Ok(Subscription::new(late.flatten_stream()))
        }.boxed()
    }
    a_denied_subscription_that_is_ok: p01_ready_means_ready "P1" { denies: true }
    a_subscription_over_a_cut_link: p01_ready_means_ready "P1" {
        subscribe: |transport, topic| async move {
            let subscribed = transport.honest.subscribe(topic).await;
            Ok(subscribed.unwrap_or_else(|_| Subscription::new(stream::pending())))
        }.boxed()
    }

    a_lost_message: p02_no_silent_loss "P2" {
        hear: |_, signal| if number(&signal) == 17 { vec![] } else { vec![signal] }
    }
    a_message_without_a_position_that_is_lost_to_an_equal_one: p02_no_silent_loss "P2" {
        send: |mut batch| {
            batch.dedup();
            batch
        }
    }
    a_duplicate: p02_no_silent_loss "P2" {
        hear: |_, signal| match number(&signal) {
            17 => vec![signal.clone(), signal],
            _ => vec![signal],
        }
    }
    a_batch_in_disorder: p02_no_silent_loss "P2" {
        send: |mut batch| {
            batch.reverse();
            batch
        }
    }
    a_damaged_payload: p02_no_silent_loss "P2" {
        send: |batch| batch.into_iter().map(|message| match message.key() {
            Some(key) if message.payload().len() > 1_000 => {
                let cut = Message::put(key.clone(), message.payload().slice(..1_000));
                message.position().into_iter().fold(cut, Message::with_position)
            }
            _ => message,
        }).collect()
    }
    a_gap_that_is_kept_quiet: p02_no_silent_loss "P2" {
        hear: |_, signal| if let Signal::Gap(_) = signal { vec![] } else { vec![signal] }
    }
    a_heartbeat_that_is_not_sent: p02_no_silent_loss "P2" {
        send: |batch| batch.into_iter().filter(|it| it.kind() != Kind::Heartbeat).collect()
    }

    an_outage_without_disrupted: p03_disrupted_then_live_then_gap "P3" {
        hear: |_, signal| if let Signal::Disrupted(_) = signal { vec![] } else { vec![signal] }
    }
    an_outage_without_live: p03_disrupted_then_live_then_gap "P3" {
        hear: |_, signal| if let Signal::Live = signal { vec![] } else { vec![signal] }
    }
    an_outage_without_a_gap: p03_disrupted_then_live_then_gap "P3" {
        hear: |_, signal| if let Signal::Gap(_) = signal { vec![] } else { vec![signal] }
    }
    a_gap_before_live: p03_disrupted_then_live_then_gap "P3" {
        hear: |_, signal| match signal {
            Signal::Live => vec![Signal::Gap(Gap::Unknown), signal],
            _ => vec![signal],
        }
    }
    a_fence_over_a_cut_link: p03_disrupted_then_live_then_gap "P3" {
        fence: |transport| async {
            Ok(transport.honest.fence().await.unwrap_or_else(|_| Fence::new(0, Instant::now())))
        }.boxed()
    }

    a_dead_peer_that_goes_unnoticed: p04_a_dead_peer_is_noticed "P4" { freezes: true }
    a_short_stall_that_is_an_outage: p04_a_dead_peer_is_noticed "P4" {
        freezes: true,
        hear: |_, signal| match number(&signal) {
            3 => vec![Signal::Disrupted(Error::new(ErrorKind::Timeout, "a hasty ping")), Signal::Live, signal],
            _ => vec![signal],
        }
    }

    a_failed_publish_that_is_ok: p05_publish_tells_the_truth "P5" { answer: |_| Ok(()) }
    a_failed_publish_of_another_kind: p05_publish_tells_the_truth "P5" {
        answer: |answer| answer.map_err(|_| Error::new(ErrorKind::Broker, "something"))
    }
    a_publish_that_arrives_and_says_that_it_was_not_sent: p05_publish_tells_the_truth "P5" {
        answer: |_| Err(Error::new(ErrorKind::Unavailable, "not sent"))
    }
    a_publish_that_is_ok_and_lost: p05_publish_tells_the_truth "P5" {
        send: |batch| batch.into_iter().filter(|it| !it.payload()[8..16].ends_with(&[0])).collect()
    }
    a_publish_that_is_sent_again: p05_publish_tells_the_truth "P5" {
        send: |batch| [batch.clone(), batch].concat()
    }

    a_loss_of_unknown_size: p06_slow_readers_hurt_themselves_only "P6" {
        hear: |_, signal| match signal {
            Signal::Gap(_) => vec![Signal::Gap(Gap::Unknown)],
            _ => vec![signal],
        }
    }
    a_loss_that_is_counted_wrong: p06_slow_readers_hurt_themselves_only "P6" {
        hear: |_, signal| match signal {
            Signal::Gap(_) => vec![Signal::Gap(Gap::Exact(std::num::NonZeroU64::MIN))],
            _ => vec![signal],
        }
    }
    a_loss_in_every_subscription: p06_slow_readers_hurt_themselves_only "P6" {
        hear: |_, signal| match number(&signal) {
            5 => vec![Signal::Gap(Gap::Exact(std::num::NonZeroU64::MIN))],
            _ => vec![signal],
        }
    }
    a_queue_without_a_bound: p06_slow_readers_hurt_themselves_only "P6" {
        subscribe: |transport, topic| async move {
            // Somebody reads all the time into a queue of no size.
            let mut honest = transport.honest.subscribe(topic).await?;
            let (queue, signals) = tokio::sync::mpsc::unbounded_channel();
            tokio::spawn(async move { while let Some(it) = honest.next().await { queue.send(it).ok(); } });
            let next = |mut signals: tokio::sync::mpsc::UnboundedReceiver<Signal>| async move {
                signals.recv().await.map(|it| (it, signals))
            };
            Ok(Subscription::new(stream::unfold(signals, next)))
        }.boxed()
    }

    an_oversize_payload_that_is_sent: p07_bad_input_is_an_error_or_a_rejection "P7" {
        max_payload_bytes: MAX_PAYLOAD_BYTES + 1
    }
    a_legal_payload_that_is_refused: p07_bad_input_is_an_error_or_a_rejection "P7" {
        max_payload_bytes: MAX_PAYLOAD_BYTES - 1
    }
    garbage_that_is_passed_over: p07_bad_input_is_an_error_or_a_rejection "P7" {
        hear: |_, signal| if let Signal::Rejected(_) = signal { vec![] } else { vec![signal] }
    }
    garbage_that_deafens: p07_bad_input_is_an_error_or_a_rejection "P7" {
        hear: |kept, signal| {
            if let Signal::Rejected(_) = signal {
                kept.push(signal.clone());
            }
            match (kept.len(), &signal) {
                (3, Signal::Message(_)) => vec![],
                _ => vec![signal],
            }
        }
    }
    topics_without_case: p07_bad_input_is_an_error_or_a_rejection "P7" {
        topic: |topic| Topic::new(topic.as_str().to_lowercase()).expect("legal")
    }
    topics_cut_at_63_bytes: p07_bad_input_is_an_error_or_a_rejection "P7" {
        topic: |topic| {
            let cut = &topic.as_str()[..topic.as_str().len().min(63)];
            Topic::new(cut.trim_end_matches('.')).expect("legal")
        }
    }

    a_close_that_closes_nothing: p08_close_is_quick_and_final "P8" { close: |_| async { Ok(()) }.boxed() }
    a_slow_close: p08_close_is_quick_and_final "P8" {
        close: |transport| async {
            sleep(Duration::from_secs(3)).await;
            transport.honest.close().await
        }.boxed()
    }
    a_close_that_stops_when_it_is_dropped: p08_close_is_quick_and_final "P8" {
        close: |transport| async {
            tokio::task::yield_now().await;
            transport.honest.close().await
        }.boxed()
    }
    a_fence_after_close: p08_close_is_quick_and_final "P8" {
        fence: |_| async { Ok(Fence::new(1, Instant::now())) }.boxed()
    }
    a_subscription_that_stays_when_dropped: p08_close_is_quick_and_final "P8" {
        subscribe: |transport, topic| async move {
            let kept = transport.honest.subscribe(topic.clone()).await?;
            let honest = transport.honest.subscribe(topic).await?;
            std::mem::forget(kept);
            Ok(honest)
        }.boxed()
    }
    a_task_that_stays: p08_close_is_quick_and_final "P8" {
        fence: |transport| async {
            tokio::spawn(futures::future::pending::<()>());
            transport.honest.fence().await
        }.boxed()
    }

    a_connection_for_each_topic: p09_one_connection_many_topics "P9" { opens: 1 }
    a_broker_subscription_for_each_reader: p09_one_connection_many_topics "P9" {
        subscribe: |transport, topic| async move {
            let kept = transport.honest.subscribe(topic.clone()).await?;
            std::mem::forget(kept);
            transport.honest.subscribe(topic).await
        }.boxed()
    }

    a_dropped_subscribe_that_stays_subscribed: p10_every_future_can_be_dropped "P10" {
        subscribe: |transport, topic| async move {
            // Whoever drops this between the two lines leaves a subscription.
            let mut held = Some(std::mem::ManuallyDrop::new(transport.honest.subscribe(topic).await?));
            tokio::task::yield_now().await;
            let held = held.take().expect("put there above");
            Ok(std::mem::ManuallyDrop::into_inner(held))
        }.boxed()
    }
    a_dropped_fence_that_leaves_a_task: p10_every_future_can_be_dropped "P10" {
        fence: |transport| async {
            let task = tokio::spawn(futures::future::pending::<()>());
            tokio::task::yield_now().await;
            task.abort();
            transport.honest.fence().await
        }.boxed()
    }

    a_ttl_in_milliseconds: p11_ttl_travels_with_the_message "P11" {
        send: |batch| batch.into_iter().map(|message| match message.ttl() {
            None => message,
            Some(ttl) => {
                let millis = u64::try_from(ttl.duration().as_millis()).expect("a life of less than 2^64 ms");
                let rounded = Ttl::new(ttl.start(), Duration::from_millis(millis.max(1)));
                rounded.map_or(message.clone(), |ttl| message.with_ttl(ttl))
            }
        }).collect()
    }
    a_lost_position: p11_ttl_travels_with_the_message "P11" {
        send: |batch| batch.into_iter().map(|message| match (message.key(), message.kind()) {
            (Some(key), Kind::Remove) => Message::remove(key.clone()),
            _ => message,
        }).collect()
    }

    a_secret_in_debug: p12_no_secrets_are_shown "P12" { shows: SECRET }
    a_secret_in_an_error: p12_no_secrets_are_shown "P12" {
        answer: |answer| answer.map_err(|error| {
            Error::new(error.kind(), "the broker is away").with_source(format!("redis://:{SECRET}@host"))
        })
    }
    a_payload_in_a_trace: p12_no_secrets_are_shown "P12" {
        send: |batch| {
            tracing::debug!(payload = ?batch.first().map(Message::payload), "sending");
            batch
        }
    }

    a_fence_that_overtakes: p13_a_fence_proves_the_past "P13" {
        hear: |kept, signal| match signal {
            // The latest message is held back until the next one comes; fences pass it.
            Signal::Message(_) => {
                kept.push(signal);
                if kept.len() == 2 { vec![kept.remove(0)] } else { vec![] }
            }
            _ => vec![signal],
        }
    }
    a_fence_that_never_comes: p13_a_fence_proves_the_past "P13" {
        hear: |_, signal| if let Signal::Fenced(_) = signal { vec![] } else { vec![signal] }
    }
    a_fence_that_was_asked_for_before_it_was: p13_a_fence_proves_the_past "P13" {
        fence: |transport| async {
            let fence = transport.honest.fence().await?;
            Ok(Fence::new(0, fence.asked_at() - Duration::from_millis(1)))
        }.boxed()
    }
}
