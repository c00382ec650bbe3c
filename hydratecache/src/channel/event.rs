//! What a typed subscription yields.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::{Stream, StreamExt};

use super::Inner;
use crate::publisher::Listening;
use crate::trace::{Processing, Step};
use crate::transport::{Fence, Gap, Signal, Subscription};
use crate::wire::Rejection;
use crate::{Error, Key, Kind, Message, Origin, TraceParent, Ttl, Version};

/// What a typed subscription yields: an update, or the truth about delivery.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Event<T> {
    /// Something was written.
    Update(Update<T>),
    /// Everything accepted before the fence was asked for has been yielded, or a gap for it.
    Fenced(Fence),
    /// The link is lost; attempts to restore it go on. Says why.
    Disrupted(Error),
    /// The link is back and the subscription is proven.
    Live,
    /// Messages were, or may have been, lost at this point of the stream. They do not come any more,
    /// even if their publisher sends them again for others.
    Gap(Gap),
    /// A message arrived that could not be used.
    Rejected(Rejection),
}

/// Something was written.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Update<T> {
    /// What was written.
    pub change: Change<T>,
    /// How long the value may live.
    pub ttl: Option<Ttl>,
    /// What orders this write among those of its key.
    pub version: Version,
    /// The publisher incarnation; a foreign publisher may have none.
    pub origin: Option<Origin>,
    /// The trace that the write belongs to, if the publisher said one.
    pub trace_parent: Option<TraceParent>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change<T> {
    /// A new value for the key.
    Put(Key, T),
    /// The key has no value any more.
    Remove(Key),
    /// The key has a new TTL and its old value.
    Touch(Key),
    /// The whole topic has no value any more.
    Clear,
}

impl<T> Update<T> {
    /// The key that was written; none for a clear.
    #[must_use]
    pub fn key(&self) -> Option<&Key> {
        match &self.change {
            Change::Put(key, _) | Change::Remove(key) | Change::Touch(key) => Some(key),
            Change::Clear => None,
        }
    }

    /// The new value, if this is a put.
    #[must_use]
    pub fn value(&self) -> Option<&T> {
        match &self.change {
            Change::Put(_, value) => Some(value),
            _ => None,
        }
    }
}

/// The stream of a typed subscription. Only `None` ends it; dropping it unsubscribes.
pub struct Updates<T> {
    channel: Arc<Inner<T>>,
    subscription: Subscription,
    /// What this channel published may be asked for, and is heard of here.
    _listening: Listening,
    /// The span of the latest update, which lasts until the next event is asked for.
    processing: Processing,
}

impl<T: 'static> Updates<T> {
    pub(super) fn new(channel: Arc<Inner<T>>, subscription: Subscription) -> Self {
        let listening = channel.lane.listen();
        Self { channel, subscription, _listening: listening, processing: Processing::default() }
    }

    /// The span of the latest update.
    pub(super) fn processing(&self) -> Processing {
        self.processing.clone()
    }

    fn update(&mut self, message: &Message) -> Option<Event<T>> {
        if message.trace_parent().is_some() {
            let destination = self.channel.destination();
            self.processing = Processing::begin(message, Step::Deliver, destination);
        }
        let update = self.processing.run(|| self.channel.update(message)).transpose()?;
        Some(update.map_or_else(Event::Rejected, Event::Update))
    }
}

impl<T: 'static> Stream for Updates<T> {
    type Item = Event<T>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event<T>>> {
        self.processing = Processing::default();
        loop {
            let Some(signal) = ready!(self.subscription.poll_next_unpin(cx)) else {
                return Poll::Ready(None);
            };
            let event = match signal {
                Signal::Fenced(fence) => Event::Fenced(fence),
                Signal::Disrupted(why) => Event::Disrupted(why),
                Signal::Live => Event::Live,
                Signal::Gap(gap) => Event::Gap(gap),
                Signal::Rejected(rejection) => Event::Rejected(self.channel.count(rejection)),
                // Its gap was told of, and order is worth more here than a write more.
                Signal::Late(_) | Signal::Heard(_) => continue,
                Signal::Message(message) if self.channel.asked(&message).is_some() => continue,
                Signal::Message(message) => match self.update(&message) {
                    Some(event) => event,
                    None => continue,
                },
            };
            return Poll::Ready(Some(event));
        }
    }
}

impl<T: 'static> Inner<T> {
    /// The update in a message; none in what writes nothing.
    fn update(&self, message: &Message) -> Result<Option<Update<T>>, Rejection> {
        if !message.kind().is_write() {
            return Ok(None);
        }
        let version = self.accept(message)?;
        let change = match (message.kind(), message.key().cloned()) {
            (Kind::Put, Some(key)) => Change::Put(key, self.decode(message)?),
            (Kind::Remove, Some(key)) => Change::Remove(key),
            (Kind::Touch, Some(key)) => Change::Touch(key),
            _ => Change::Clear,
        };
        Ok(Some(Update {
            change,
            ttl: message.ttl(),
            version,
            origin: message.origin(),
            trace_parent: message.trace_parent(),
        }))
    }
}

impl<T> fmt::Debug for Updates<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Updates").field("topic", &self.channel.topic).finish_non_exhaustive()
    }
}
