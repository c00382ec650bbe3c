//! P6: slow readers hurt themselves only.

use std::sync::Arc;

use hydratecache::{Signal, Transport};

use super::ledger::Ledger;
use super::subject::Subject;
use super::trial::{Listener, Publisher, Trial};
use super::{Effort, unique_topic};

/// P6: queues are bounded in bytes; overflow is `Gap::Exact`; other subscriptions are untouched.
///
/// Two subscriptions stall, one of them after reading a little, while three times what a queue
/// holds is published, in messages of 256 bytes and of 1 MiB: two others, here and in another
/// process, receive all of it, every publish succeeds, and what the stalled ones receive and what
/// their gaps count is what was sent, and no more than a queue holds.
pub async fn p06_slow_readers_hurt_themselves_only(subject: &dyn Subject, effort: Effort) {
    let trial = Trial::new("P6 (slow readers hurt themselves only)", subject, effort);
    let (here, there) = (trial.connect().await, trial.connect().await);
    let largest = here.limits().max_payload_bytes.min(1 << 20);
    for _ in 0..effort.pick(1, 5) {
        for payload_bytes in [256.min(largest), largest] {
            Stall::begin(&trial, &here, &there, payload_bytes).await.run().await;
        }
    }
    trial.promise.close(&here).await;
    trial.promise.close(&there).await;
}

struct Stall<'a> {
    trial: &'a Trial<'a>,
    here: Arc<dyn Transport>,
    publisher: Publisher,
    stalled: Listener,
    sleepy: Listener,
    awake: [(Listener, Ledger); 2],
    payload_bytes: usize,
    message_bytes: usize,
}

impl<'a> Stall<'a> {
    async fn begin(
        trial: &'a Trial<'a>,
        here: &Arc<dyn Transport>,
        there: &Arc<dyn Transport>,
        payload_bytes: usize,
    ) -> Self {
        let (promise, topic) = (trial.promise, unique_topic("p6"));
        let mut publisher = Publisher::new(promise, there, &topic);
        let message_bytes = publisher.message(payload_bytes).held_bytes();
        publisher.last = 0;
        let ledger = || Ledger::new(promise);
        Self {
            trial,
            here: here.clone(),
            publisher,
            stalled: promise.subscribe(here, &topic).await,
            sleepy: promise.subscribe(here, &topic).await,
            awake: [
                (promise.subscribe(here, &topic).await, ledger()),
                (promise.subscribe(there, &topic).await, ledger()),
            ],
            payload_bytes,
            message_bytes,
        }
    }

    async fn run(mut self) {
        let queue_bytes = self.trial.subject.queue_bytes();
        let mut sleepy = Ledger::new(self.trial.promise);
        self.publish_some(1 + queue_bytes / 8).await;
        // What a reader has taken out but not looked at counts for its bound too.
        sleepy.enter(&Signal::Message(self.sleepy.message("the first message").await));
        while self.bytes(self.publisher.last) < 3 * queue_bytes {
            self.publish_some(1 + queue_bytes / 8).await;
        }
        let fence = self.trial.promise.fence(&self.here).await;
        let seen = self.stalled.until_fenced(fence).await;
        self.account(Ledger::new(self.trial.promise), &seen);
        let seen = self.sleepy.until_fenced(fence).await;
        self.account(sleepy, &seen);
        self.everything_goes_on().await;
    }

    fn bytes(&self, messages: u64) -> usize {
        usize::try_from(messages).expect("a count of messages in memory") * self.message_bytes
    }

    /// Publishes about so many bytes, which those that are awake receive in full.
    async fn publish_some(&mut self, bytes: usize) {
        let count = bytes.div_ceil(self.message_bytes);
        self.publisher.send(&vec![self.payload_bytes; count]).await;
        for (listener, ledger) in &mut self.awake {
            while ledger.heard(self.publisher.origin) < self.publisher.last {
                let message = listener.message("a message, next to a stalled reader").await;
                ledger.enter(&Signal::Message(message));
            }
            ledger.check(self.publisher.origin, 1..=self.publisher.last);
        }
    }

    fn account(&self, mut ledger: Ledger, seen: &[Signal]) {
        let promise = self.trial.promise;
        ledger.enter_all(seen);
        let sent = self.publisher.last;
        promise.require(ledger.unknown == 0, || {
            "a slow reader's own losses are known exactly, and a gap was unknown".to_owned()
        });
        promise.require(ledger.received + ledger.lost == sent, || {
            format!(
                "{sent} were sent to a stalled reader: it received {} and its gaps count {}",
                ledger.received, ledger.lost
            )
        });
        let bound = self.trial.subject.queue_bytes() + 2 * self.message_bytes;
        promise.require(self.bytes(ledger.received) <= bound, || {
            format!(
                "{} messages of {} bytes waited for a stalled reader; its bound is {bound} bytes",
                ledger.received, self.message_bytes
            )
        });
        ledger.check(self.publisher.origin, 1..=sent);
    }

    /// A reader that wakes up is a reader like any other.
    async fn everything_goes_on(&mut self) {
        let sent = self.publisher.send(&[self.payload_bytes]).await;
        for listener in [&mut self.stalled, &mut self.sleepy] {
            let message = listener.message("a message after a stall").await;
            let number = message.sequence().map(std::num::NonZeroU64::get);
            self.trial.promise.require(number == Some(*sent.end()), || {
                format!("awaited message {} after a stall, and {message:?} arrived", sent.end())
            });
        }
    }
}
