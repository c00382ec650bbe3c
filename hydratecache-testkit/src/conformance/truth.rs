//! P5: publish tells the truth.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hydratecache::{Error, ErrorKind, Message, Origin, Signal, Topic, Transport};

use tokio::time::Instant;

use super::subject::{Faults, Step, Subject};
use super::trial::{
    ANSWER, Listener, PATIENCE, Promise, Trial, bare, finished, identity, says_unreachable,
};
use super::{Effort, unique_topic};

/// P5: `Ok` means that the broker has it, an unknown outcome says so, and every wait has a limit.
///
/// Publishes over a cut link, over a frozen one, and while the link is being cut; then counts what
/// arrived elsewhere. `Ok`: exactly once. `Unavailable`: never. Any other error: once at most. The
/// messages have no position, so that nothing drops a second copy.
pub async fn p05_publish_tells_the_truth(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P5 (publish tells the truth)", subject, effort);
    let alone = trial.connect().await;
    let message = bare(Origin::random(), 1, 16);
    trial.promise.publish(&alone, &unique_topic("p5.nobody"), vec![message]).await;
    trial.promise.publish(&alone, &unique_topic("p5.nothing"), Vec::new()).await;
    trial.promise.close(&alone).await;
    let Some(faults) = trial.able("publishing over a broken link", subject.faults()) else {
        return;
    };
    let mut truth = Truth::begin(&trial, faults).await;
    truth.over_a_cut_link(faults).await;
    truth.while_the_link_is_cut(faults).await;
    if let Some(freeze) = trial.able("publishing over a frozen link", faults.freeze()) {
        truth.over_a_frozen_link(faults, freeze).await;
    }
    truth.end().await;
}

/// What the publisher was told about each message.
type Answers = HashMap<u64, Result<(), ErrorKind>>;

struct Truth<'a> {
    trial: &'a Trial<'a>,
    victim: Arc<dyn Transport>,
    other: Arc<dyn Transport>,
    topic: Topic,
    listener: Listener,
    origin: Origin,
    next: u64,
    answers: Answers,
    arrived: HashSet<u64>,
    /// The fault hits the listener's link too, so that what was accepted may be lost.
    disrupted: bool,
}

impl<'a> Truth<'a> {
    async fn begin(trial: &'a Trial<'a>, faults: &dyn Faults) -> Self {
        let victim = trial.step("connecting", faults.connect()).await;
        let other = trial.connect().await;
        let topic = unique_topic("p5");
        let listener = trial.promise.subscribe(&other, &topic).await;
        Self {
            trial,
            victim,
            other,
            topic,
            listener,
            origin: Origin::random(),
            next: 1,
            answers: Answers::new(),
            arrived: HashSet::new(),
            disrupted: false,
        }
    }

    async fn over_a_cut_link(&mut self, faults: &dyn Faults) {
        self.trial.step("cutting the link", faults.cut()).await;
        let answers = self.publish_many(100).await;
        for (number, answer) in &answers {
            self.trial
                .promise
                .require(answer.is_err(), || format!("publish {number} over a cut link is Ok"));
        }
        self.trial.step("healing the link", faults.heal()).await;
        self.settle(answers).await;
    }

    async fn while_the_link_is_cut(&mut self, faults: &dyn Faults) {
        for round in 0..self.trial.effort.pick(20, 300) {
            let publishing = Publishing {
                promise: self.trial.promise,
                transport: self.victim.clone(),
                topic: self.topic.clone(),
                origin: self.origin,
            };
            let task = tokio::spawn(publishing.until_an_error(self.next));
            // The cut falls somewhere into the stream of publishes.
            for _ in 0..round * 7 % 40 {
                tokio::task::yield_now().await;
            }
            self.trial.step("cutting the link", faults.cut()).await;
            let ended = self.trial.promise.within(ANSWER, "publishes to notice the cut", task);
            let answers = finished(ended.await);
            self.next += answers.len() as u64;
            self.trial.step("healing the link", faults.heal()).await;
            self.settle(answers).await;
        }
    }

    async fn over_a_frozen_link(&mut self, faults: &dyn Faults, freeze: Step<'_>) {
        self.trial.step("freezing the link", freeze).await;
        let answers = self.publish_many(100).await;
        self.trial.step("thawing the link", faults.thaw()).await;
        self.settle(answers).await;
    }

    async fn publish_many(&mut self, count: u64) -> Answers {
        let numbers = self.next..self.next + count;
        self.next += count;
        let (promise, origin) = (self.trial.promise, self.origin);
        let (victim, topic) = (&self.victim, &self.topic);
        let publishing = |number| async move {
            let batch = vec![bare(origin, number, 100)];
            (number, told(promise, promise.try_publish(victim, topic, batch).await))
        };
        join_all(numbers.map(publishing)).await.into_iter().collect()
    }

    /// Publishes over the mended link until a message arrives, and checks what came before it.
    async fn settle(&mut self, answers: Answers) {
        self.answers.extend(answers);
        let end = Instant::now() + PATIENCE;
        loop {
            let number = self.next;
            let answer = self.publish_many(1).await;
            self.answers.extend(answer);
            if self.answers[&number].is_ok() && self.arrives(number).await {
                break;
            }
            self.trial.promise.require(Instant::now() < end, || {
                format!(
                    "no publish over a mended link arrives; the last: {:?}",
                    self.answers[&number]
                )
            });
        }
        let silent = |(number, answer): &(&u64, &Result<_, _>)| {
            answer.is_ok() && !self.arrived.contains(number)
        };
        let lost: Vec<_> = self.answers.iter().filter(silent).collect();
        self.trial.promise.require(self.disrupted || lost.is_empty(), || {
            format!("publishes said Ok and never arrived: {lost:?}")
        });
        self.disrupted = false;
        // What was refused may still turn up; what was accepted is settled.
        self.answers.retain(|_, answer| answer.is_err());
    }

    /// Reads until `number` arrives, or it is clear that a link was down when it was published.
    async fn arrives(&mut self, number: u64) -> bool {
        let reading = async {
            while !self.arrived.contains(&number) {
                let signal = self.listener.signal(PATIENCE, "a message that was accepted").await;
                match signal {
                    Signal::Message(message) => {
                        check(self.trial.promise, &self.answers, &mut self.arrived, &message);
                    }
                    Signal::Disrupted(_) | Signal::Gap(_) => self.disrupted = true,
                    _ => {}
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(1), reading).await.is_ok()
    }

    async fn end(self) {
        self.trial.promise.close(&self.victim).await;
        self.trial.promise.close(&self.other).await;
    }
}

/// A message arrives once, and not at all if its publish said that nothing was sent.
fn check(promise: Promise, answers: &Answers, arrived: &mut HashSet<u64>, message: &Message) {
    let Some((_, number)) = identity(message) else {
        promise.broken(format!("a message arrived damaged: {message:?}"));
    };
    promise.require(arrived.insert(number), || format!("publish {number} arrived twice"));
    promise.require(answers.get(&number) != Some(&Err(ErrorKind::Unavailable)), || {
        format!("publish {number} said Unavailable, which means not sent, and it arrived")
    });
}

/// What the publisher was told; an error must be one of those that an outage explains.
fn told(promise: Promise, answer: Result<(), Error>) -> Result<(), ErrorKind> {
    answer.map_err(|error| {
        promise.require(says_unreachable(error.kind()), || {
            format!("publishing over a broken link should say so, and says: {error}")
        });
        error.kind()
    })
}

struct Publishing {
    promise: Promise,
    transport: Arc<dyn Transport>,
    topic: Topic,
    origin: Origin,
}

impl Publishing {
    async fn until_an_error(self, first: u64) -> Answers {
        let mut answers = Answers::new();
        for number in first.. {
            let batch = vec![bare(self.origin, number, 100)];
            let answer = self.promise.try_publish(&self.transport, &self.topic, batch).await;
            let answer = told(self.promise, answer);
            answers.insert(number, answer);
            if answer.is_err() {
                break;
            }
        }
        answers
    }
}
