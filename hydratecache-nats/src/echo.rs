//! Echoes: a round trip on one connection that comes back behind everything before it.
//!
//! An echo is a message of ours to a subject of our own. The server handles what a connection sends
//! in order, and queues for it in order: so the echo comes back behind every message that the
//! server had accepted from anyone before, and it shows that what we sent before has arrived. A
//! request that nobody answers would do too, but a listener to `>` would swallow it.
//!
//! What the server refuses it tells by an error, which async-nats passes on as an event. A mark is
//! an echo among those: a subscription to a subject that is none, which the server refuses by an
//! error behind all that it had refused before, and does not log.
//!
//! What waits here holds no connection: one that nobody polls any more keeps nothing alive.

use std::sync::{Arc, Weak};
use std::task::{Context, Poll};

use async_nats::{Subject, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use futures::future::poll_fn;
use hydratecache::{Error, ErrorKind, Result};
use tokio::task::coop::unconstrained;

use crate::error::{denied, lost};
use crate::events::{Log, NatsEvents};
use crate::life::{Inner, Life};

/// Subjects of our own, each for one echo at a time: a subscription for each echo would cost the
/// server more than the echo does.
#[derive(Default)]
pub(crate) struct Lines {
    lines: Vec<Line>,
    free: Vec<usize>,
}

struct Line {
    subject: Subject,
    subscriber: Subscriber,
    sent: u64,
}

/// An echo under way.
pub(crate) struct Echo {
    life: Weak<Inner>,
    events: NatsEvents,
    address: Arc<str>,
    /// Free again when this is dropped: echoes that come late are passed over by their number.
    line: usize,
    number: u64,
    /// How many events there were when it was sent.
    seen: u64,
}

/// A mark that is to come.
pub(crate) struct Mark {
    life: Weak<Inner>,
    events: NatsEvents,
    address: Arc<str>,
    number: u64,
    seen: u64,
}

impl Life {
    /// Sends an echo, behind everything that was handed to the client before.
    pub(crate) fn begin_echo(&self) -> Result<Echo> {
        let seen = self.events().log().seen;
        let mut lines = self.lines();
        let index = if let Some(index) = lines.free.pop() {
            index
        } else {
            let subject = self.new_subject();
            let subscriber = self.taken(self.client().subscribe(subject.clone()))?;
            lines.lines.push(Line { subject, subscriber, sent: 0 });
            lines.lines.len() - 1
        };
        let line = &mut lines.lines[index];
        line.sent += 1;
        let number = line.sent;
        let body = Bytes::copy_from_slice(&number.to_be_bytes());
        let sent = self.taken(self.client().publish(line.subject.clone(), body));
        if let Err(error) = sent {
            lines.free.push(index);
            return Err(error);
        }
        Ok(Echo {
            life: self.downgrade(),
            events: self.events().clone(),
            address: self.address(),
            line: index,
            number,
            seen,
        })
    }

    /// Asks for a mark behind everything that was handed to the client before. It vouches for the
    /// events since there were `seen`.
    ///
    /// Who comes while one is under way shares the next one: many marks at once would not fit into
    /// the client's queue of events.
    pub(crate) fn begin_mark(&self, seen: u64) -> Result<Mark> {
        let sent = self.events().log().marks_sent;
        let number = if self.events().log().marks < sent { sent + 1 } else { self.send_mark()? };
        let (life, events) = (self.downgrade(), self.events().clone());
        Ok(Mark { life, events, address: self.address(), number, seen })
    }
}

impl Echo {
    /// Waits until it is back.
    ///
    /// # Errors
    /// The connection has ended, or may not use the subjects of our own.
    pub(crate) async fn back(self) -> Result<()> {
        let Some((inbox, disconnects)) =
            self.life.upgrade().map(|life| (life.inbox.clone(), life.disconnects))
        else {
            return Err(lost(&self.address, "it was closed"));
        };
        let mut log = self.events.watch();
        let is_refused = |log: &Log| log.is_any_refused_since(self.seen, &inbox);
        tokio::select! {
            biased;
            back = poll_fn(|cx| self.poll_back(cx)) => back,
            log = log.wait_for(|log| log.disconnects != disconnects || is_refused(log)) => {
                if log.is_ok_and(|log| is_refused(&log)) {
                    return Err(inbox_denied(&self.address, &inbox));
                }
                Err(lost(&self.address, "it was closed"))
            }
        }
    }

    fn poll_back(&self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        let Some(life) = self.life.upgrade().map(Life::from) else {
            return Poll::Ready(Err(lost(&self.address, "it was closed")));
        };
        let mut lines = life.lines();
        let echoes = &mut lines.lines[self.line].subscriber;
        loop {
            // Older ones are of those who gave up.
            let next = std::pin::pin!(unconstrained(echoes.next())).poll(cx);
            match futures::ready!(next) {
                None => return Poll::Ready(Err(life.lost("its client has ended"))),
                Some(echo) if echo.payload[..] == self.number.to_be_bytes() => break,
                Some(_) => {}
            }
        }
        Poll::Ready(if life.is_over() { Err(life.lost("it was made anew")) } else { Ok(()) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        if let Some(life) = self.life.upgrade().map(Life::from) {
            life.lines().free.push(self.line);
        }
    }
}

impl Mark {
    /// Waits until it has come, and judges by what has happened up to then.
    ///
    /// # Errors
    /// The connection has ended, or so much has happened meanwhile that events can be missing.
    pub(crate) async fn come<T>(self, judge: impl FnOnce(&Log) -> T) -> Result<T> {
        let lost = || crate::error::lost(&self.address, "it was closed");
        let mut log = self.events.watch();
        // The one before it is under way: whoever sees it first sends this one.
        let before = self.number - 1;
        log.wait_for(|log| log.marks >= before).await.map_err(|_| lost())?;
        if self.events.log().marks_sent < self.number {
            self.life.upgrade().map(Life::from).ok_or_else(lost)?.send_mark()?;
        }
        let log = log.wait_for(|log| log.marks >= self.number).await.map_err(|_| lost())?;
        if self.life.upgrade().map(Life::from).is_none_or(|life| life.is_over()) {
            return Err(lost());
        }
        if log.is_whole_since(self.seen) {
            return Ok(judge(&log));
        }
        let address = &self.address;
        let why = "more errors came than can be told apart";
        Err(Error::new(
            ErrorKind::Timeout,
            format!("asking NATS at {address} what it permits: {why}"),
        ))
    }
}

fn inbox_denied(address: &str, inbox: &str) -> Error {
    let prefix = inbox.rsplit_once('.').map_or(inbox, |(prefix, _)| prefix);
    let advice = format!(
        "grant the user to publish to and to subscribe to {prefix}.>, or set another prefix with \
         with_inbox_prefix"
    );
    denied(address, "asking for an echo below", prefix, &advice)
}
