//! The in-process transport keeps every promise.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use hydratecache::memory::{MemoryBroker, MemoryTransport};
use hydratecache::{Key, Message, Origin, Position, Signal, Topic, Transport, fanout::Fanout};
use hydratecache_testkit::conformance::{Capabilities, Capability, Faults, Step, Subject};

#[derive(Default)]
struct InProcess {
    broker: MemoryBroker,
    /// The links that the faults act on.
    links: Mutex<Vec<MemoryTransport>>,
}

impl InProcess {
    fn each_link(&self, change: fn(&MemoryTransport)) -> Step<'_> {
        async move {
            self.links.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(change);
            Ok(())
        }
        .boxed()
    }
}

impl Subject for InProcess {
    fn name(&self) -> &'static str {
        "the in-process transport"
    }

    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        async { Ok(Arc::new(self.broker.connect()) as Arc<dyn Transport>) }.boxed()
    }

    fn queue_bytes(&self) -> usize {
        Fanout::DEFAULT_QUEUE_BYTES
    }

    fn faults(&self) -> Capability<&dyn Faults> {
        Capability::Present(self)
    }

    fn inject(&self, _: &Topic, _: Bytes) -> Capability<Step<'_>> {
        Capability::Absent("no envelope is written in-process")
    }

    fn secret(&self) -> Capability<String> {
        Capability::Absent("there are no credentials in-process")
    }

    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>> {
        Capability::Absent("there are no permissions in-process")
    }

    fn connections(&self) -> Capability<Step<'_, usize>> {
        Capability::Absent("there are no connections in-process")
    }

    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>> {
        let topic = topic.clone();
        Capability::Present(async move { Ok(self.broker.subscriptions(&topic)) }.boxed())
    }
}

impl Faults for InProcess {
    fn connect(&self) -> Step<'_, Arc<dyn Transport>> {
        async {
            let link = self.broker.connect();
            self.links.lock().unwrap_or_else(PoisonError::into_inner).push(link.clone());
            Ok(Arc::new(link) as Arc<dyn Transport>)
        }
        .boxed()
    }

    fn cut(&self) -> Step<'_> {
        self.each_link(MemoryTransport::cut)
    }

    fn heal(&self) -> Step<'_> {
        self.each_link(MemoryTransport::heal)
    }

    fn freeze(&self) -> Capability<Step<'_>> {
        Capability::Absent("nothing lies between two ends in-process that could stall")
    }

    fn thaw(&self) -> Step<'_> {
        async { Ok(()) }.boxed()
    }
}

hydratecache_testkit::conformance_tests!(InProcess::default());

#[test]
fn what_cannot_be_tested_in_process_is_said() {
    let absent: Vec<_> = Capabilities::of(&InProcess::default()).absent().collect();
    assert_eq!(absent.len(), 5, "{absent:?}");
    assert!(absent.iter().all(|(_, reason)| !reason.is_empty()));
}

fn message(key: &str) -> Message {
    Message::put(Key::new(key).expect("legal"), Bytes::from_static(b"value"))
}

/// What the suite cannot ask of every transport: in-process, nothing is merely suspected, and
/// nothing is counted twice, by the link and by the tracker.
#[tokio::test]
async fn an_outage_that_missed_nothing_yields_no_gap_and_one_that_did_yields_its_number() {
    let broker = MemoryBroker::new();
    let (reader, writer) = (broker.connect(), broker.connect());
    let topic = Topic::new("exact").expect("legal");
    let mut subscription = reader.subscribe(topic.clone()).await.expect("in-process");
    let origin = Origin::random();
    let mut numbers = (1..).map(|number| NonZeroU64::new(number).expect("from 1"));
    let mut publish = async |count| {
        let numbers = numbers.by_ref().take(count);
        let numbered = |sequence| message("k").with_position(Position { origin, sequence });
        let published = writer.publish(topic.clone(), numbers.map(numbered).collect());
        published.await.expect("in-process");
    };
    publish(1).await;
    assert!(matches!(subscription.next().await, Some(Signal::Message(_))));
    for missed in [0, 1, 7] {
        reader.cut();
        publish(missed).await;
        reader.heal();
        publish(1).await;
        assert!(matches!(subscription.next().await, Some(Signal::Disrupted(_))));
        assert!(matches!(subscription.next().await, Some(Signal::Live)));
        if missed > 0 {
            let gap = subscription.next().await;
            let exact = matches!(&gap, Some(Signal::Gap(it)) if it.exact() == Some(missed as u64));
            assert!(exact, "{missed} were missed, and the gap is {gap:?}");
        }
        let next = subscription.next().await;
        assert!(matches!(next, Some(Signal::Message(_))), "{missed} were missed: {next:?}");
    }
}

/// A broker that held a transport while it delivered could become the last to hold it, and would
/// then wait for itself.
#[test]
fn dropping_a_transport_while_others_publish_never_hangs() {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let broker = MemoryBroker::new();
        let writer = broker.connect();
        let topic = Topic::new("drop").expect("legal");
        let stop = Arc::new(AtomicBool::new(false));
        let publishing = thread::spawn({
            let (topic, stop) = (topic.clone(), stop.clone());
            move || {
                while !stop.load(Ordering::Relaxed) {
                    let published =
                        writer.publish(topic.clone(), vec![message("k")]).now_or_never();
                    published.expect("ready at once").expect("in-process");
                }
            }
        });
        for _ in 0..20_000 {
            let reader = broker.connect();
            let subscribed = reader.subscribe(topic.clone()).now_or_never();
            let subscription = subscribed.expect("ready at once").expect("in-process");
            drop(reader);
            drop(subscription);
        }
        stop.store(true, Ordering::Relaxed);
        publishing.join().expect("no panic");
        done.send(()).expect("the test waits");
    });
    let ended = ended.recv_timeout(Duration::from_secs(60));
    assert!(ended.is_ok(), "dropping transports while others publish hangs");
}
