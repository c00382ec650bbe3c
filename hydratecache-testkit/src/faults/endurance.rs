//! Long outages and many of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use hydratecache::{Channel, ErrorKind, Origin, Signal, Subscription, Topic, Transport};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::support::{
    LONG, Listener, Rounds, Writer, connect, connect_via, connect_with, effort, in_time, millis,
    number, proxy, resident_bytes, secs, topic, tries,
};
use super::{Missed, Patience, Subject};

/// How long a call may be tried until it succeeds.
const CALL_LIMIT: Duration = secs(30);

/// Fault 6: down for long while everybody publishes, subscribes and asks for fences.
pub async fn a_long_outage_costs_no_memory_and_every_publish_fails_in_time(subject: &dyn Subject) {
    let broker = subject.broker();
    let Patience { setup, answer } = subject.least_patience();
    let transport = connect_with(subject, setup).await;
    let topic = topic("users");
    // Its limits are so short that an error is an honest answer of a busy machine.
    let subscribing = tries(CALL_LIMIT, async || transport.subscribe(topic.clone()).await);
    let mut listener = Listener::over(subscribing.await);
    broker.kill9().await.expect("killed");
    listener.disrupted(LONG).await;
    let over = Arc::new(AtomicBool::new(false));
    let users: Vec<_> = publishers(&transport, &topic, answer, &over)
        .chain(askers(&transport, answer, &over))
        .map(tokio::spawn)
        .collect();
    // Every queue and timer has its size after some rounds.
    tokio::time::sleep(secs(2)).await;
    let before = resident_bytes();
    tokio::time::sleep(effort(secs(8), secs(120))).await;
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 20 << 20, "{grown} bytes more than after warming up");
    over.store(true, Ordering::Relaxed);
    broker.start_again().await.expect("restarted");
    // How soon is tried where nobody else knocks: see `a_killed_server_is_noticed_at_once_and_its_restart_too`.
    listener.back(subject, LONG).await;
    for user in join_all(users).await {
        user.expect("every call ends in time, and succeeds in the end");
    }
    let mut writer = Writer::new(&transport, &topic);
    tries(CALL_LIMIT, async || writer.send().await).await;
    loop {
        match listener.next("what was published last", LONG).await {
            Signal::Message(message) if message.origin() == Some(writer.origin()) => return,
            // Publishes that failed left holes in their count, and a limit this short may end a link again.
            Signal::Message(_) | Signal::Gap(_) | Signal::Disrupted(_) | Signal::Live => {}
            other => panic!("what was published last, not {other:?}"),
        }
    }
}

type User = futures::future::BoxFuture<'static, ()>;

/// Half of them share a channel, half publish by themselves.
fn publishers(
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    limit: Duration,
    over: &Arc<AtomicBool>,
) -> impl Iterator<Item = User> {
    let channel = Channel::<u64>::new(transport.clone(), topic).expect("legal");
    (0..64).map(move |number| -> User {
        let (channel, over) = (channel.clone(), over.clone());
        let mut writer = Writer::new(transport, topic);
        Box::pin(async move {
            loop {
                let is_over = over.load(Ordering::Relaxed);
                let publishing = async {
                    if number % 2 == 0 {
                        channel.publish("key", &number).await.map(drop)
                    } else {
                        writer.send().await.map(drop)
                    }
                };
                match in_time("the answer to a publish", limit, publishing).await {
                    Ok(()) if is_over => return,
                    Ok(()) => {}
                    Err(error) => assert!(is_over || is_honest(&error), "{error}"),
                }
            }
        })
    })
}

fn is_honest(error: &hydratecache::Error) -> bool {
    matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::UnknownOutcome)
}

/// Those who subscribe and ask for fences meanwhile leave nothing behind either.
fn askers(
    transport: &Arc<dyn Transport>,
    limit: Duration,
    over: &Arc<AtomicBool>,
) -> impl Iterator<Item = User> {
    (0..16).map(move |number| -> User {
        let (transport, over) = (transport.clone(), over.clone());
        Box::pin(async move {
            while !over.load(Ordering::Relaxed) {
                // Dropped long before its limit, as by a caller with less patience.
                let impatient = transport.subscribe(topic(&format!("topic.{number}")));
                let _ = tokio::time::timeout(millis(1), impatient).await;
                let fence = in_time("the answer to a fence", limit, transport.fence());
                let _ = fence.await;
                // The machine is not to be busy with those who ask only.
                tokio::time::sleep(millis(10)).await;
            }
        })
    })
}

/// What a writer was told, and what a reader saw of it.
#[derive(Default)]
struct Ledger {
    acknowledged: HashMap<Origin, Vec<u64>>,
    signals: Vec<Seen>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Message(Origin, u64),
    Disrupted,
    Live,
    Gap,
}

/// Fault 13: cuts a link a hundred times while writers write.
pub async fn whatever_a_hundred_flaps_lose_is_behind_a_gap(subject: &dyn Subject) {
    let proxy = proxy(subject);
    let far = connect_via(subject, &proxy).await;
    let near = connect(subject).await;
    let topic = topic("users");
    let subscription = Listener::on(&far, &topic).await.into_inner();
    let (disruptions, mut disrupted) = watch::channel(0_usize);
    let (lives, mut live_again) = watch::channel(0_usize);
    let reader = tokio::spawn(read(subscription, disruptions, lives));
    let over = Arc::new(AtomicBool::new(false));
    let writers = [&near, &near, &far].map(|transport| write(transport, &topic, &over));
    let (mut noticed, mut back) = (Rounds::of("a disruption"), Rounds::of("to be live again"));
    for flap in 1..=effort(100, 2000) {
        // One flap may disrupt it twice.
        let before = (*live_again.borrow()).max(*disrupted.borrow());
        if flap % 3 == 0 {
            proxy.reset();
        } else {
            proxy.cut();
        }
        let down = disrupted.wait_for(|count| *count > before);
        noticed.one(down).await.expect("the reader reads");
        proxy.heal().expect("heals");
        let up = live_again.wait_for(|count| *count > before);
        back.one(up).await.expect("the reader reads");
    }
    noticed.took_less_than(secs(1), 20);
    back.took_less_than(secs(2), 20);
    over.store(true, Ordering::Relaxed);
    let mut ledger = Ledger::default();
    for writer in join_all(writers).await {
        let (origin, acknowledged) = writer.expect("every publish ends in time");
        ledger.acknowledged.insert(origin, acknowledged);
    }
    // It may have been disrupted a second time.
    tries(CALL_LIMIT, async || far.fence().await).await;
    far.close().await.expect("closes, which ends the stream");
    ledger.signals = in_time("the end of the stream", LONG, reader).await.expect("reads");
    ledger.check(subject.missed());
}

fn write(
    transport: &Arc<dyn Transport>,
    topic: &Topic,
    over: &Arc<AtomicBool>,
) -> JoinHandle<(Origin, Vec<u64>)> {
    let (mut writer, over) = (Writer::new(transport, topic), over.clone());
    tokio::spawn(async move {
        let mut acknowledged = Vec::new();
        while !over.load(Ordering::Relaxed) {
            match in_time("the answer to a publish", secs(8), writer.send()).await {
                Ok(number) => acknowledged.push(number),
                Err(error) => assert!(is_honest(&error), "{error}"),
            }
            tokio::time::sleep(millis(1)).await;
        }
        (writer.origin(), acknowledged)
    })
}

async fn read(
    mut subscription: Subscription,
    disruptions: watch::Sender<usize>,
    lives: watch::Sender<usize>,
) -> Vec<Seen> {
    let mut signals = Vec::new();
    while let Some(signal) = subscription.next().await {
        match signal {
            Signal::Message(message) => {
                let origin = message.origin().expect("numbered");
                signals.push(Seen::Message(origin, number(&message)));
            }
            Signal::Disrupted(_) => {
                signals.push(Seen::Disrupted);
                disruptions.send_modify(|count| *count += 1);
            }
            Signal::Live => {
                signals.push(Seen::Live);
                lives.send_modify(|count| *count += 1);
            }
            Signal::Gap(_) => signals.push(Seen::Gap),
            Signal::Fenced(_) | Signal::Heard(_) => {}
            other => panic!("nothing was broken, and yet {other:?}"),
        }
    }
    signals
}

impl Ledger {
    fn check(&self, missed: Missed) {
        let links = self.signals.iter().filter(|seen| !matches!(seen, Seen::Message(..)));
        let links: Vec<_> = links.copied().collect();
        // A link that is back may be lost again at once, but says all three each time.
        for (position, seen) in links.iter().enumerate() {
            if *seen == Seen::Live && missed == Missed::Gone {
                assert_eq!(links.get(position + 1), Some(&Seen::Gap), "a gap behind each Live");
            }
        }
        let last = links.iter().rev().find(|seen| **seen != Seen::Gap);
        assert_eq!(last, Some(&Seen::Live), "it ends live");
        for (origin, acknowledged) in &self.acknowledged {
            self.check_origin(*origin, acknowledged);
        }
    }

    /// Between two messages that were received, what was acknowledged is missing only where a gap
    /// was reported; so it is behind the last one.
    fn check_origin(&self, origin: Origin, acknowledged: &[u64]) {
        // The link of one is hardly ever there.
        assert!(acknowledged.len() > 10, "the writer was at work: {}", acknowledged.len());
        let (mut last, mut is_gap) = (0, false);
        let missing = |from: u64, to: u64| {
            acknowledged.iter().copied().find(|number| from < *number && *number < to)
        };
        for seen in &self.signals {
            match *seen {
                Seen::Gap => is_gap = true,
                Seen::Message(from, number) if from == origin => {
                    assert!(number > last, "{number} behind {last}");
                    let unheard = missing(last, number);
                    assert!(is_gap || unheard.is_none(), "{unheard:?} is lost without a word");
                    (last, is_gap) = (number, false);
                }
                _ => {}
            }
        }
        let unheard = missing(last, u64::MAX);
        assert!(is_gap || unheard.is_none(), "{unheard:?} is lost at the end");
    }
}
