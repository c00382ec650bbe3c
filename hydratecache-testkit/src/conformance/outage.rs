//! P3: disrupted, then live, then gap. P4: a dead peer is noticed.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hydratecache::{Signal, Transport};
use rand::RngExt;
use tokio::time::{Instant, sleep};

use super::ledger::Ledger;
use super::subject::{Faults, Subject};
use super::trial::{Listener, PATIENCE, Publisher, Trial, chance, identity, says_unreachable};
use super::{Effort, unique_topic};

/// P3: when the system tells of the end of a link. A peer that falls silent takes several times as long to notice.
const AT_ONCE: Duration = Duration::from_secs(1);

/// P4: when a peer that is silent is taken for dead, by default.
const DEAD: Duration = Duration::from_secs(10);

/// P3: on a lost link, `Disrupted` at once; then `Live` and, if anything was missed, `Gap`.
///
/// Cuts a link while others publish: `Disrupted` within a second in every subscription of the
/// transport, `Live` once the link is healed, a gap for what was missed behind it and before any
/// later message, and everything afterwards. Then flaps the link up to 100 times.
pub async fn p03_disrupted_then_live_then_gap(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P3 (disrupted, then live, then gap)", subject, effort);
    let Some(faults) = trial.able("cutting the link", subject.faults()) else {
        return;
    };
    let mut noticed = Vec::new();
    for missed in [0, 5] {
        noticed.push(an_outage_is_told_from_begin_to_end(&trial, faults, missed).await);
    }
    // A busy machine may be late, and is not twice.
    let is_at_once = noticed.iter().any(|took| *took <= AT_ONCE);
    trial.promise.require(is_at_once, || format!("cut links were Disrupted after {noticed:?}"));
    flaps_end_live_and_lose_nothing_silently(&trial, faults).await;
}

/// How long it took until the outage was noticed.
async fn an_outage_is_told_from_begin_to_end(
    trial: &Trial<'_>,
    faults: &dyn Faults,
    missed: u64,
) -> Duration {
    let mut outage = Outage::begin(trial, faults).await;
    outage.exchange().await;
    trial.step("cutting the link", faults.cut()).await;
    let cut_at = Instant::now();
    for (listener, ledger) in &mut outage.listeners {
        let disrupted = |signal: &Signal| matches!(signal, Signal::Disrupted(_));
        let awaited = "Disrupted, after the cut";
        ledger.enter_all(&listener.until(PATIENCE, awaited, disrupted).await);
    }
    let noticed = cut_at.elapsed();
    for _ in 0..missed {
        outage.attempt().await;
    }
    let fence = trial.promise.within(PATIENCE, "the answer to a fence", outage.victim.fence());
    let fence = fence.await;
    trial
        .promise
        .require(fence.as_ref().is_err_and(|error| says_unreachable(error.kind())), || {
            format!("a fence over a cut link should be Unavailable or Timeout, and is {fence:?}")
        });
    trial.step("healing the link", faults.heal()).await;
    outage.await_live("a healed link").await;
    outage.exchange().await;
    outage.end().await;
    noticed
}

/// A transport with three subscriptions behind a link that breaks, and two publishers elsewhere,
/// one of which gives its messages no positions.
struct Outage<'a> {
    trial: &'a Trial<'a>,
    victim: Arc<dyn Transport>,
    other: Arc<dyn Transport>,
    listeners: Vec<(Listener, Ledger)>,
    publishers: Vec<Publisher>,
    /// What the broker has of each publisher.
    accepted: Vec<Vec<u64>>,
}

impl<'a> Outage<'a> {
    async fn begin(trial: &'a Trial<'a>, faults: &dyn Faults) -> Self {
        let victim = trial.step("connecting", faults.connect()).await;
        let other = trial.connect().await;
        let topics = [unique_topic("outage"), unique_topic("outage")];
        let mut listeners = Vec::new();
        for topic in [&topics[0], &topics[0], &topics[1]] {
            let listener = trial.promise.subscribe(&victim, topic).await;
            listeners.push((listener, Ledger::new(trial.promise)));
        }
        let [one, two] = topics.each_ref().map(|it| Publisher::new(trial.promise, &other, it));
        let publishers = vec![one, two.foreign()];
        let accepted = vec![Vec::new(); publishers.len()];
        Self { trial, victim, other, listeners, publishers, accepted }
    }

    /// Which publisher a listener hears.
    const HEARS: [usize; 3] = [0, 0, 1];

    /// Publishes to both topics and reads until it has arrived everywhere.
    async fn exchange(&mut self) {
        for (publisher, accepted) in self.publishers.iter_mut().zip(&mut self.accepted) {
            accepted.push(publisher.insist().await);
        }
        for ((listener, ledger), hears) in self.listeners.iter_mut().zip(Self::HEARS) {
            let publisher = &self.publishers[hears];
            let arrived = |signal: &Signal| match signal {
                Signal::Message(message) => {
                    identity(message) == Some((publisher.origin, publisher.last))
                }
                _ => false,
            };
            let awaited = "a message that was published over a working link";
            ledger.enter_all(&listener.until(PATIENCE, awaited, arrived).await);
            ledger.check(publisher.origin, self.accepted[hears].iter().copied());
        }
    }

    /// Publishes to both topics; the broker may be out of reach.
    async fn attempt(&mut self) {
        for (publisher, accepted) in self.publishers.iter_mut().zip(&mut self.accepted) {
            if let (number, Ok(())) = publisher.attempt().await {
                accepted.push(number);
            }
        }
    }

    /// Every listener hears that the link is back, and no gap before that.
    async fn await_live(&mut self, what: &str) {
        for (listener, ledger) in &mut self.listeners {
            let awaited = format!("Live, behind {what}");
            let live = |signal: &Signal| matches!(signal, Signal::Live);
            let signals = listener.until(PATIENCE, &awaited, live).await;
            let early = signals.iter().find(|signal| matches!(signal, Signal::Gap(_)));
            self.trial.promise.require(early.is_none(), || {
                format!(
                    "a gap was reported before Live, where it is repaired too early: {signals:?}"
                )
            });
            ledger.enter_all(&signals);
        }
    }

    async fn end(self) {
        self.trial.promise.close(&self.victim).await;
        self.trial.promise.close(&self.other).await;
    }
}

async fn flaps_end_live_and_lose_nothing_silently(trial: &Trial<'_>, faults: &dyn Faults) {
    let mut outage = Outage::begin(trial, faults).await;
    outage.exchange().await;
    let mut chance = chance(3);
    for _ in 0..trial.effort.pick(10, 100) {
        trial.step("cutting the link", faults.cut()).await;
        for _ in 0..chance.random_range(0..3) {
            outage.attempt().await;
        }
        // Some outages are over before anybody notices, some last until all is quiet.
        sleep(Duration::from_millis(chance.random_range(0..4) * 20)).await;
        trial.step("healing the link", faults.heal()).await;
        for _ in 0..chance.random_range(0..3) {
            outage.attempt().await;
        }
    }
    let (mut settled, mut down) = (false, vec![false; outage.listeners.len()]);
    let settling = async {
        while !settled {
            settled = true;
            for publisher in 0..outage.publishers.len() {
                let number = outage.publishers[publisher].insist().await;
                outage.accepted[publisher].push(number);
            }
            for (index, (listener, ledger)) in outage.listeners.iter_mut().enumerate() {
                let wanted = &outage.publishers[Outage::HEARS[index]];
                settled &= catch_up(listener, ledger, wanted, &mut down[index]).await;
            }
        }
    };
    trial.promise.within(PATIENCE, "messages to arrive again after 100 flaps", settling).await;
    trial.promise.require(!down.contains(&true), || {
        "messages arrive after the flaps, and the last word on the link is Disrupted".to_owned()
    });
    for ((_, ledger), hears) in outage.listeners.iter().zip(Outage::HEARS) {
        ledger.check(outage.publishers[hears].origin, outage.accepted[hears].iter().copied());
    }
    outage.end().await;
}

/// Reads until the publisher's last message or a short silence; `true`: it arrived.
async fn catch_up(
    listener: &mut Listener,
    ledger: &mut Ledger,
    publisher: &Publisher,
    down: &mut bool,
) -> bool {
    let quiet = Duration::from_millis(100);
    while let Ok(Some(signal)) = tokio::time::timeout(quiet, listener.stream().next()).await {
        match &signal {
            Signal::Disrupted(_) => *down = true,
            Signal::Live => *down = false,
            _ => {}
        }
        ledger.enter(&signal);
        if ledger.heard(publisher.origin) == publisher.last {
            return true;
        }
    }
    false
}

/// P4: a dead peer is noticed within 10 seconds, idle or not, and a short stall is no outage.
///
/// Freezes the link for a second while messages are under way: no signal, nothing lost. Then
/// freezes an idle link until `Disrupted` comes, thaws it, and expects `Live` and messages.
pub async fn p04_a_dead_peer_is_noticed(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P4 (a dead peer is noticed)", subject, effort);
    let Some(faults) = trial.able("freezing the link", subject.faults()) else {
        return;
    };
    if trial.able("freezing the link", faults.freeze()).is_none() {
        return;
    }
    for _ in 0..effort.pick(1, 10) {
        a_stall_of_a_second_is_no_outage(&trial, faults).await;
        let noticing = async || a_frozen_link_is_disrupted(&trial, faults).await;
        trial.promise.at_most(DEAD, "Disrupted, after a link froze,", noticing).await;
    }
}

async fn freeze(trial: &Trial<'_>, faults: &dyn Faults) {
    if let Some(freeze) = trial.able("freezing the link", faults.freeze()) {
        trial.step("freezing the link", freeze).await;
    }
}

async fn a_stall_of_a_second_is_no_outage(trial: &Trial<'_>, faults: &dyn Faults) {
    let victim = trial.step("connecting", faults.connect()).await;
    let other = trial.connect().await;
    let topic = unique_topic("p4.stall");
    let mut listener = trial.promise.subscribe(&victim, &topic).await;
    let mut publishers = [&victim, &other].map(|it| Publisher::new(trial.promise, it, &topic));
    freeze(trial, faults).await;
    let [one, two] = &mut publishers;
    // How long the fault lasts, not how long something else may take.
    let stall = async {
        sleep(Duration::from_secs(1)).await;
        trial.step("thawing the link", faults.thaw()).await;
    };
    let publish = async |publisher: &mut Publisher| {
        for _ in 0..10 {
            publisher.send(&[100]).await;
        }
    };
    futures::join!(publish(one), publish(two), stall);
    let mut ledger = Ledger::new(trial.promise);
    for _ in 0..20 {
        let message = listener.message("messages published during a stall of a second").await;
        ledger.enter(&Signal::Message(message));
    }
    for publisher in &publishers {
        ledger.check(publisher.origin, 1..=publisher.last);
    }
    trial.promise.close(&victim).await;
    trial.promise.close(&other).await;
}

/// How long that took.
async fn a_frozen_link_is_disrupted(trial: &Trial<'_>, faults: &dyn Faults) -> Duration {
    let mut outage = Outage::begin(trial, faults).await;
    outage.exchange().await;
    freeze(trial, faults).await;
    let frozen_at = Instant::now();
    for (listener, ledger) in &mut outage.listeners {
        let disrupted = |signal: &Signal| matches!(signal, Signal::Disrupted(_));
        let awaited = "Disrupted, after the freeze";
        ledger.enter_all(&listener.until(PATIENCE, awaited, disrupted).await);
    }
    let noticed = frozen_at.elapsed();
    trial.step("thawing the link", faults.thaw()).await;
    outage.await_live("a thawed link").await;
    outage.exchange().await;
    outage.end().await;
    noticed
}
