//! What the client says of its connection.
//!
//! async-nats tells refusals, dropped messages and the end of a connection as events, through a
//! queue of 128 that loses what does not fit. So [`Log`] counts: whoever waits for a mark that the
//! server makes behind everything before it (see `echo`) knows by the count whether any event can
//! be missing in between.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_nats::{Event, ServerError};
use tokio::sync::watch;

/// How many refusals are remembered.
const MOST_REFUSALS: usize = 4096;

/// What a client of yours tells a [`NatsTransport`](crate::NatsTransport) about its connection.
///
/// NATS answers no publish, and says only by an event that one was not permitted: a transport over
/// a client whose events it does not hear would lose messages silently.
///
/// ```
/// use hydratecache_nats::{NatsEvents, NatsTransport};
///
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let broker = hydratecache_testkit::broker::Broker::start(hydratecache_testkit::broker::Kind::Nats).await?;
/// # let url = broker.url();
/// # let _ = r#"
/// let url = "nats://localhost:4222";
/// # "#;
/// let events = NatsEvents::new();
/// let heard = events.clone();
/// let client = async_nats::ConnectOptions::new()
///     .event_callback(move |event| {
///         heard.tell(&event);
///         std::future::ready(())
///     })
///     .connect(url)
///     .await?;
/// let transport = NatsTransport::from_client(client, events).await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct NatsEvents(Arc<watch::Sender<Log>>);

/// What has happened so far.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log {
    /// How many events there were.
    pub(crate) seen: u64,
    pub(crate) disconnects: u64,
    /// How many marks were sent (see `echo`).
    pub(crate) marks_sent: u64,
    /// How many have come, or never will: subscriptions refused because their subject is none.
    pub(crate) marks: u64,
    /// How many messages the client dropped for want of room.
    pub(crate) dropped: u64,
    /// How many refusals there were.
    pub(crate) refusals: u64,
    pub(crate) is_leaving: bool,
    /// When which use of which subject was refused last, by the count of events.
    refused: HashMap<(Use, Box<str>), u64>,
}

/// What a subject is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Use {
    Publish,
    Subscribe,
}

impl NatsEvents {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes note of `event`, of the client that the transport is made from.
    pub fn tell(&self, event: &Event) {
        self.0.send_modify(|log| log.enter(event));
    }

    /// Sends a mark with `send`, in the order of its number, which is returned.
    pub(crate) fn send_mark<E>(&self, send: impl FnOnce() -> Result<(), E>) -> Result<u64, E> {
        let mut number = Ok(0);
        self.0.send_if_modified(|log| {
            number = send().map(|()| {
                log.marks_sent += 1;
                log.marks_sent
            });
            // Nobody waits for one to be sent.
            false
        });
        number
    }

    pub(crate) fn log(&self) -> watch::Ref<'_, Log> {
        self.0.borrow()
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Log> {
        self.0.subscribe()
    }
}

impl Log {
    /// So many events may have come since a moment that none of them can have been lost.
    const TRUSTED: u64 = 100;

    fn enter(&mut self, event: &Event) {
        self.seen += 1;
        match event {
            Event::Disconnected | Event::Closed => {
                self.disconnects += 1;
                self.marks = self.marks_sent;
            }
            Event::LameDuckMode => self.is_leaving = true,
            Event::Connected => self.is_leaving = false,
            Event::SlowConsumer(_) => self.dropped += 1,
            Event::ServerError(ServerError::Other(text)) => self.enter_error(text),
            _ => {}
        }
    }

    fn enter_error(&mut self, text: &str) {
        if text.eq_ignore_ascii_case("Invalid Subject") {
            self.marks = self.marks_sent.min(self.marks + 1);
        } else if let Some(refused) = refused(text) {
            self.refusals += 1;
            if self.refused.len() >= MOST_REFUSALS {
                let seen = self.seen;
                self.refused.retain(|_, at| *at + (MOST_REFUSALS as u64) / 2 > seen);
            }
            self.refused.insert(refused, self.seen);
        }
    }

    /// Whether `subject` was refused since `seen` events.
    pub(crate) fn is_refused_since(&self, seen: u64, used: Use, subject: &str) -> bool {
        self.refused.get(&(used, subject.into())).is_some_and(|at| *at > seen)
    }

    /// Whether anything below `prefix` was refused since `seen` events.
    pub(crate) fn is_any_refused_since(&self, seen: u64, prefix: &str) -> bool {
        self.refused.iter().any(|((_, subject), at)| *at > seen && subject.starts_with(prefix))
    }

    /// The subjects to which a subscription was refused since `seen` events.
    pub(crate) fn subscriptions_refused_since(&self, seen: u64) -> impl Iterator<Item = &str> {
        self.refused
            .iter()
            .filter(move |((used, _), at)| *used == Use::Subscribe && **at > seen)
            .map(|((_, subject), _)| &**subject)
    }

    /// Whether no event since `seen` can have been lost.
    pub(crate) fn is_whole_since(&self, seen: u64) -> bool {
        self.seen - seen < Self::TRUSTED
    }
}

/// What an error of the server refuses: `Permissions Violation for Subscription to "users"`.
fn refused(text: &str) -> Option<(Use, Box<str>)> {
    const KINDS: [(&str, Use); 2] = [
        ("permissions violation for publish to ", Use::Publish),
        ("permissions violation for subscription to ", Use::Subscribe),
    ];
    KINDS.into_iter().find_map(|(prefix, used)| {
        let head = text.get(..prefix.len())?;
        let rest = head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])?;
        // In quotes; a queue group may follow.
        let subject = rest.trim_start_matches('"').split('"').next()?;
        Some((used, subject.into()))
    })
}

impl Default for NatsEvents {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Log::default())))
    }
}

impl fmt::Debug for NatsEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsEvents").field("seen", &self.log().seen).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Event {
        Event::ServerError(ServerError::Other(text.to_owned()))
    }

    #[test]
    fn refusals_are_remembered_by_use_and_subject() {
        let events = NatsEvents::new();
        events.tell(&error(r#"Permissions Violation for Subscription to "users""#));
        events.tell(&error(r#"Permissions Violation for Publish to "a.b""#));
        let log = events.log();
        assert!(log.is_refused_since(0, Use::Subscribe, "users"));
        assert!(!log.is_refused_since(0, Use::Publish, "users"));
        assert!(log.is_refused_since(1, Use::Publish, "a.b"));
        assert!(!log.is_refused_since(2, Use::Publish, "a.b"));
        assert!(log.is_any_refused_since(0, "a."));
        assert_eq!(log.subscriptions_refused_since(0).collect::<Vec<_>>(), ["users"]);
        assert_eq!((log.refusals, log.seen), (2, 2));
    }

    #[test]
    fn too_many_events_at_once_are_not_trusted_and_cost_no_memory() {
        let events = NatsEvents::new();
        for number in 0..Log::TRUSTED - 1 {
            events.tell(&error(&format!("Permissions Violation for Publish to \"{number}\"")));
        }
        assert!(events.log().is_whole_since(0));
        events.tell(&Event::SlowConsumer(1));
        assert!(!events.log().is_whole_since(0));
        for number in 0..20_000 {
            events.tell(&error(&format!("Permissions Violation for Publish to \"{number}\"")));
        }
        assert!(events.log().refused.len() <= MOST_REFUSALS);
        assert!(events.log().is_refused_since(0, Use::Publish, "19999"));
    }

    #[test]
    fn marks_drops_and_ends_are_counted() {
        let events = NatsEvents::new();
        events.tell(&error("Invalid Subject"));
        assert_eq!(events.log().marks, 0, "somebody else's");
        assert_eq!(events.send_mark(|| Ok::<_, ()>(())), Ok(1));
        for event in [
            error("Invalid Subject"),
            Event::SlowConsumer(3),
            Event::LameDuckMode,
            Event::Disconnected,
            error("Something else"),
        ] {
            events.tell(&event);
        }
        let log = events.log();
        assert_eq!((log.marks, log.dropped, log.disconnects, log.refusals), (1, 1, 1, 0));
        assert!(log.is_leaving);
        drop(log);
        assert_eq!(events.send_mark(|| Err("full")), Err("full"));
        assert_eq!(events.send_mark(|| Ok::<_, ()>(())), Ok(2));
        events.tell(&Event::Disconnected);
        assert_eq!(events.log().marks, 2, "one that will not come holds up nobody");
    }
}
