//! What the suite asks of a transport's author.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::BoxFuture;
use hydratecache::{Topic, Transport};

/// One step of a [`Subject`] or of its [`Faults`]: does nothing until it is awaited. An error ends
/// the test and is shown.
pub type Step<'a, T = ()> = BoxFuture<'a, Result<T, Box<dyn StdError + Send + Sync>>>;

/// Something that a subject can do, or the reason why it cannot.
///
/// There is no third answer: a part of the suite that does not run says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability<T> {
    /// The subject can.
    Present(T),
    /// The subject cannot, because of this.
    Absent(&'static str),
}

impl<T> Capability<T> {
    /// What the subject can do, as something else.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Capability<U> {
        match self {
            Self::Present(present) => Capability::Present(change(present)),
            Self::Absent(reason) => Capability::Absent(reason),
        }
    }

    fn and_then<U>(self, change: impl FnOnce(T) -> Capability<U>) -> Capability<U> {
        match self {
            Self::Present(present) => change(present),
            Self::Absent(reason) => Capability::Absent(reason),
        }
    }
}

/// A transport under test: how to get one, and what can be done to it.
///
/// Make a new subject for each promise, with a broker that no other test disturbs:
/// [`conformance_tests!`](crate::conformance_tests) evaluates its expression once a test.
pub trait Subject: Send + Sync {
    /// What is tested, for people.
    fn name(&self) -> &str;

    /// A transport as another process would have: to the same broker, sharing nothing else.
    fn connect(&self) -> Step<'_, Arc<dyn Transport>>;

    /// How many bytes may wait in one subscription of these transports
    /// ([`Fanout::DEFAULT_QUEUE_BYTES`](hydratecache::fanout::Fanout::DEFAULT_QUEUE_BYTES), unless
    /// they are set up with less). P6 sends a few times as much.
    fn queue_bytes(&self) -> usize;

    /// Control over the link of some transports (P1, P3, P4, P5, P8, P12).
    fn faults(&self) -> Capability<&dyn Faults>;

    /// Publishes `body` as somebody would who knows nothing of envelopes (P7): the broker's message
    /// is exactly `body`, or its text form where the broker carries text only.
    ///
    /// Absent where there is no envelope.
    fn inject(&self, topic: &Topic, body: Bytes) -> Capability<Step<'_>>;

    /// What must never be shown (P12): the password that the transports connect with.
    fn secret(&self) -> Capability<String>;

    /// A transport that connects and has no permission to subscribe to any topic (P1, P12).
    fn denied(&self) -> Capability<Step<'_, Arc<dyn Transport>>>;

    /// How many connections of the subject's transports the broker counts (P9).
    fn connections(&self) -> Capability<Step<'_, usize>>;

    /// How many subscriptions of `topic` the broker counts, over all transports (P8, P9, P10).
    fn subscriptions(&self, topic: &Topic) -> Capability<Step<'_, usize>>;

    /// Whether the broker itself refuses to hold both topics at once, though either is legal (P7): the
    /// second is then to be an error that says so, on subscribe and on publish alike. Few brokers do.
    fn collide(&self, _one: &Topic, _other: &Topic) -> bool {
        false
    }
}

/// Control over a link, by whatever means: the fault proxy, a switch, the broker's end.
///
/// Every method returns when it has taken effect. What happens meanwhile to transports that came
/// from [`Subject::connect`] is not prescribed: a proxy spares them, a broker that dies does not.
pub trait Faults: Send + Sync {
    /// A transport whose link these faults act on.
    fn connect(&self) -> Step<'_, Arc<dyn Transport>>;

    /// Ends the connections, and refuses new ones.
    fn cut(&self) -> Step<'_>;

    /// Lets new connections through again.
    fn heal(&self) -> Step<'_>;

    /// Lets nothing through while the connections stay open, as a stopped broker does. What is
    /// under way is held, not lost (P4, P5, P8).
    fn freeze(&self) -> Capability<Step<'_>>;

    /// Lets everything through again that [`freeze`](Self::freeze) held up.
    fn thaw(&self) -> Step<'_>;
}

/// Which parts of the suite a subject can run, and why not the others. Every test prints it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    subject: String,
    parts: Vec<(&'static str, Capability<()>)>,
}

impl Capabilities {
    /// What `subject` can do.
    #[must_use]
    pub fn of(subject: &dyn Subject) -> Self {
        let topic = super::unique_topic("capabilities");
        let freeze = subject.faults().and_then(|faults| faults.freeze().map(drop));
        let parts = vec![
            ("cut and heal a link", subject.faults().map(drop)),
            ("freeze and thaw a link", freeze),
            ("inject raw bytes", subject.inject(&topic, Bytes::new()).map(drop)),
            ("know a secret", subject.secret().map(drop)),
            ("connect without permission", subject.denied().map(drop)),
            ("count connections", subject.connections().map(drop)),
            ("count subscriptions", subject.subscriptions(&topic).map(drop)),
        ];
        Self { subject: subject.name().to_owned(), parts }
    }

    /// What the subject cannot do, each with the reason.
    pub fn absent(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        self.parts.iter().filter_map(|(part, capability)| match capability {
            Capability::Present(()) => None,
            Capability::Absent(reason) => Some((*part, *reason)),
        })
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} can:", self.subject)?;
        for (part, capability) in &self.parts {
            match capability {
                Capability::Present(()) => writeln!(f, "  {part}: yes")?,
                Capability::Absent(reason) => writeln!(f, "  {part}: no, {reason}")?,
            }
        }
        Ok(())
    }
}
