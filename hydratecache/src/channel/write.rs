//! One write on its way to being published.

use std::borrow::Cow;
use std::fmt;
use std::future::IntoFuture;

use super::Inner;
use crate::publisher::Publish;
use crate::trace;
use crate::{Error, ErrorKind, Kind, Message, Result, Topic, TraceParent, Ttl, Version};

/// One write: await it to publish it.
///
/// ```
/// # use std::time::Duration;
/// # use hydratecache::{Channel, Ttl, VersionDomain, memory::MemoryTransport};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> hydratecache::Result<()> {
/// let users = Channel::<String>::builder(MemoryTransport::new(), "users")
///     .with_versions(VersionDomain::Caller)
///     .build()?;
/// let ttl = Ttl::starting_now(Duration::from_secs(1800))?;
/// users.put("user:1", &"Ada".to_owned()).ttl(ttl).version(7).await?;
/// # Ok(()) }
/// ```
#[must_use = "a write does nothing until it is awaited"]
pub struct Write<'a, T> {
    channel: &'a Inner<T>,
    message: Result<Message>,
}

impl<'a, T> Write<'a, T> {
    pub(super) fn new(channel: &'a Inner<T>, message: Result<Message>) -> Self {
        Self { channel, message }
    }

    /// How long the value may live (default: for ever). Only a put and a touch have one.
    pub fn ttl(self, ttl: Ttl) -> Self {
        self.change(|message| match message.kind() {
            Kind::Put | Kind::Touch => Ok(message.with_ttl(ttl)),
            _ => Err(Error::new(
                ErrorKind::InvalidTtl,
                "a removal has no TTL; give one to a put or a touch",
            )),
        })
    }

    /// The version of this write, in a channel built with
    /// [`VersionDomain::Caller`](crate::VersionDomain::Caller): a number that grows with every
    /// write of the key.
    pub fn version(self, number: u64) -> Self {
        self.change(|message| Ok(message.with_version(Version::caller(number))))
    }

    /// The trace that this write belongs to (default with the feature `opentelemetry`: the span of the
    /// publish, where its caller is sampled; otherwise none).
    pub fn trace_parent(self, trace_parent: TraceParent) -> Self {
        self.change(|message| Ok(message.with_trace_parent(trace_parent)))
    }

    /// The topic and the message that awaiting this would publish, to be published by other means,
    /// such as inside a database transaction.
    ///
    /// It has no origin and no sequence: its loss is seen by the transport's own link only. In a
    /// channel whose clock gives versions it has none either, and receivers order it by its arrival.
    ///
    /// # Errors
    /// As [`Channel::publish`](crate::Channel::publish), before any I/O.
    pub fn into_message(self) -> Result<(Topic, Message)>
    where
        T: 'static,
    {
        let mut message = self.message?;
        self.channel.check(&message)?;
        trace::carry(&mut message);
        Ok((self.channel.topic.clone(), message))
    }

    fn change(self, change: impl FnOnce(Message) -> Result<Message>) -> Self {
        Self { message: self.message.and_then(change), ..self }
    }
}

impl<T: 'static> IntoFuture for Write<'_, T> {
    type Output = <Publish as Future>::Output;
    type IntoFuture = Publish;

    fn into_future(self) -> Publish {
        let Self { channel, message } = self;
        match message {
            Ok(message) => match channel.check(&message) {
                Ok(()) => channel.lane.publish(message),
                Err(error) => Publish::refused(error),
            },
            Err(error) => Publish::refused(error),
        }
    }
}

impl<T> fmt::Debug for Write<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Write").field("message", &self.message).finish_non_exhaustive()
    }
}

pub(super) fn version_error(what: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidVersion, what)
}
