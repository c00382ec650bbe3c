//! Spans of what is published and applied, linked across processes, with OpenTelemetry's names for
//! messaging. Without the feature `opentelemetry` everything here is nothing.
//!
//! A publish whose caller is sampled is a span, and its context goes into the message. Whoever applies or
//! delivers a message with a sampled context does so in a span of its own trace, which links to it: a
//! message is applied by the whole fleet, and a trace with a child for each of 2,000 instances would help
//! nobody. Whatever is not sampled costs one look.
//!
//! Neither keys nor payloads are ever in a span.

#[cfg(feature = "opentelemetry")]
mod spans;
#[cfg(not(feature = "opentelemetry"))]
mod untraced;

#[cfg(feature = "opentelemetry")]
pub(crate) use spans::{Processing, Sending, carry};
#[cfg(not(feature = "opentelemetry"))]
pub(crate) use untraced::{Processing, Sending, carry};

use crate::{Error, Topic};

/// Where a span's message goes to, or came from.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "opentelemetry"), allow(dead_code, reason = "nobody looks at it"))]
pub(crate) struct Destination<'a> {
    pub(crate) system: &'static str,
    pub(crate) topic: &'a Topic,
}

/// What is done with a message that came.
#[derive(Clone, Copy)]
pub(crate) enum Step {
    /// A hydration applies it.
    Apply,
    /// A subscription yields it.
    Deliver,
}

/// How publishes of one batch went: the same for all of them.
pub(crate) fn end_all(sendings: Vec<Sending>, outcome: Result<(), &Error>) {
    for sending in sendings {
        sending.end(outcome);
    }
}
