//! Echoes: a round trip on one connection that comes back behind everything before it.
//!
//! An echo is a message of ours to a subject of our own. The server handles what a connection sends
//! in order, and queues for it in order: so the echo comes back behind every message that the
//! server had accepted from anyone before, and it shows that what we sent before has arrived. A
//! request that nobody answers would do too, but a listener to `>` would swallow it.
//!
//! What the server refuses it tells by an error, which async-nats passes on as an event. A mark is
//! an echo among those (see [`Life::send_mark`]).

use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use hydratecache::{Error, ErrorKind, Result};
use tokio::task::coop::unconstrained;

use crate::error::denied;
use crate::events::Log;
use crate::life::Life;

/// A subject of our own, and what comes back on it. Kept for the next echo, because a subscription
/// for each would cost the server more than the echo does.
pub(crate) struct Line {
    subject: Subject,
    subscriber: Subscriber,
    sent: u64,
}

/// An echo under way.
pub(crate) struct Echo {
    life: Life,
    /// Given back when the echo is.
    line: Line,
    /// How many events there were when it was sent.
    seen: u64,
}

/// A mark under way.
pub(crate) struct Mark {
    life: Life,
    number: u64,
    _subscriber: Subscriber,
    seen: u64,
}

impl Life {
    /// Sends an echo, behind everything that was handed to the client before.
    pub(crate) fn begin_echo(&self) -> Result<Echo> {
        let seen = self.events().log().seen;
        let line = self.lines().pop();
        let mut line = line.map_or_else(|| self.new_line(), Ok)?;
        line.sent += 1;
        let number = Bytes::copy_from_slice(&line.sent.to_be_bytes());
        self.taken(self.client().publish(line.subject.clone(), number))?;
        Ok(Echo { life: self.clone(), line, seen })
    }

    fn new_line(&self) -> Result<Line> {
        let subject = self.new_subject();
        let subscriber = self.taken(self.client().subscribe(subject.clone()))?;
        Ok(Line { subject, subscriber, sent: 0 })
    }

    /// Sends a mark, behind everything that was handed to the client before. It vouches for the
    /// events since there were `seen`.
    pub(crate) fn begin_mark(&self, seen: u64) -> Result<Mark> {
        let (number, subscriber) = self.send_mark()?;
        Ok(Mark { life: self.clone(), number, _subscriber: subscriber, seen })
    }
}

impl Echo {
    /// Waits until it is back.
    ///
    /// # Errors
    /// The connection has ended, or may not use the subjects of our own.
    pub(crate) async fn back(self) -> Result<()> {
        let Self { life, mut line, seen } = self;
        let mut log = life.events().watch();
        let inbox = life.inbox();
        tokio::select! {
            biased;
            back = line.wait() => back.ok_or_else(|| life.lost("its client has ended"))?,
            _ = log.wait_for(|log| log.is_any_refused_since(seen, inbox)) => {
                return Err(inbox_denied(&life));
            }
        }
        if life.is_over() {
            return Err(life.lost("it was made anew"));
        }
        life.lines().push(line);
        Ok(())
    }
}

impl Line {
    /// Waits for the latest echo; `None`: the client has ended.
    async fn wait(&mut self) -> Option<()> {
        let number = self.sent.to_be_bytes();
        // Older ones are of those who gave up.
        while unconstrained(self.subscriber.next()).await?.payload[..] != number {}
        Some(())
    }
}

impl Mark {
    /// Waits until it has come, and judges by what has happened up to then.
    ///
    /// # Errors
    /// So much has happened meanwhile that events can be missing.
    pub(crate) async fn come<T>(self, judge: impl FnOnce(&Log) -> T) -> Result<T> {
        let mut log = self.life.events().watch();
        let number = self.number;
        let Ok(log) = log.wait_for(|log| log.marks >= number).await else {
            return Err(self.life.lost("its client has ended"));
        };
        if log.is_whole_since(self.seen) {
            return Ok(judge(&log));
        }
        Err(Error::new(
            ErrorKind::Timeout,
            format!(
                "asking NATS at {} what it permits: more errors came than can be told apart",
                self.life.address()
            ),
        ))
    }
}

fn inbox_denied(life: &Life) -> Error {
    let prefix = life.inbox().rsplit_once('.').map_or(life.inbox(), |(prefix, _)| prefix);
    let advice = format!(
        "grant the user to publish to and to subscribe to {prefix}.>, or set another prefix with \
         with_inbox_prefix"
    );
    denied(life.address(), "asking for an echo below", prefix, &advice)
}
