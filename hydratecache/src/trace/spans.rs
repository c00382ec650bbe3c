//! Spans, for a subscriber with a layer of `tracing-opentelemetry`.

use opentelemetry::Context;
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::field::Empty;
use tracing::instrument::Instrumented;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::{Destination, Step};
use crate::{Error, Message, TraceParent};

/// Gives `message`, which somebody else sends, the caller's context if that is sampled and the message
/// has none.
pub(crate) fn carry(message: &mut Message) {
    if let Some(caller) = sampled_caller() {
        inject(message, &caller);
    }
}

/// A message that is being published. Dropping it ends the span.
pub(crate) struct Sending(Span);

impl Sending {
    /// A span if the caller is sampled, whose context goes into `message`, unless the caller gave it
    /// another one: then the span links to that.
    pub(crate) fn begin(message: &mut Message, destination: Destination<'_>) -> Self {
        match sampled_caller() {
            Some(caller) => Self::of(message, destination, &caller),
            None => Self(Span::none()),
        }
    }

    /// As [`begin`](Self::begin) for each message; none if the caller is not sampled.
    pub(crate) fn begin_all(messages: &mut [Message], destination: Destination<'_>) -> Vec<Self> {
        let Some(caller) = sampled_caller() else {
            return Vec::new();
        };
        messages.iter_mut().map(|message| Self::of(message, destination, &caller)).collect()
    }

    fn of(message: &mut Message, destination: Destination<'_>, caller: &SpanContext) -> Self {
        let Destination { system, topic } = destination;
        let span = tracing::info_span!(
            "send",
            otel.name = format_args!("send {topic}"),
            otel.kind = "producer",
            otel.status_code = Empty,
            error.type = Empty,
            messaging.system = system,
            messaging.destination.name = %topic,
            messaging.operation.name = "send",
            messaging.operation.type = "send",
        );
        if let Some(given) = message.trace_parent().and_then(context_of) {
            span.add_link(given);
            return Self(span);
        }
        let context = span.context().span().span_context().clone();
        // Where a filter of the subscriber takes no such spans, the caller's context goes on.
        inject(message, if context.is_valid() { &context } else { caller });
        Self(span)
    }

    pub(crate) fn end(self, outcome: Result<(), &Error>) {
        if let Err(error) = outcome
            && !self.0.is_none()
        {
            self.0.record("otel.status_code", "ERROR");
            self.0.record("error.type", tracing::field::debug(error.kind()));
        }
    }
}

/// A message that is being applied or delivered. Dropping the last clone ends the span.
#[derive(Clone)]
pub(crate) struct Processing(Span);

impl Processing {
    /// A span if the publish of `message` was sampled, which links to that.
    pub(crate) fn begin(message: &Message, step: Step, destination: Destination<'_>) -> Self {
        let sent = message.trace_parent().and_then(context_of);
        let Some(sent) = sent.filter(SpanContext::is_sampled) else {
            return Self::default();
        };
        let Destination { system, topic } = destination;
        let name = match step {
            Step::Apply => "apply",
            Step::Deliver => "deliver",
        };
        let span = tracing::info_span!(
            parent: None,
            "process",
            otel.name = format_args!("{name} {topic}"),
            otel.kind = "consumer",
            messaging.system = system,
            messaging.destination.name = %topic,
            messaging.operation.name = name,
            messaging.operation.type = "process",
        );
        span.add_link(sent);
        Self(span)
    }

    pub(crate) fn run<R>(&self, step: impl FnOnce() -> R) -> R {
        self.0.in_scope(step)
    }

    pub(crate) fn over<F: Future>(self, step: F) -> Instrumented<F> {
        step.instrument(self.0)
    }
}

impl Default for Processing {
    fn default() -> Self {
        Self(Span::none())
    }
}

/// The context of the caller's span, if it is sampled.
fn sampled_caller() -> Option<SpanContext> {
    let sampled = |context: &Context| {
        let span = context.span();
        Some(span.span_context()).filter(|span| span.is_sampled()).cloned()
    };
    if Context::map_current(Context::has_active_span) {
        return Context::map_current(sampled);
    }
    // The layer may have been told not to say which span is current.
    let current = Span::current();
    if current.is_none() { None } else { sampled(&current.context()) }
}

fn inject(message: &mut Message, context: &SpanContext) {
    if message.trace_parent().is_none() {
        message.rare.get_or_insert_default().trace_parent = trace_parent(context);
    }
}

fn trace_parent(context: &SpanContext) -> Option<TraceParent> {
    let flags = context.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id()).parse().ok()
}

/// What a message says of the span that sent it, if it is one.
fn context_of(parent: TraceParent) -> Option<SpanContext> {
    let mut parts = parent.as_str().split('-').skip(1);
    let trace = TraceId::from_hex(parts.next()?).ok()?;
    let span = SpanId::from_hex(parts.next()?).ok()?;
    let flags = TraceFlags::new(u8::from_str_radix(parts.next()?, 16).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::NONE);
    Some(context).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_survives_the_message() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent: TraceParent = text.parse().expect("legal");
        let context = context_of(parent).expect("valid");
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(trace_parent(&context), Some(parent));
    }

    #[test]
    fn ids_of_zeros_are_no_context() {
        for text in [
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        ] {
            assert_eq!(context_of(text.parse().expect("legal")), None);
        }
    }
}
