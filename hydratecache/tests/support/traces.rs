//! What an exporter of OpenTelemetry gets, and every event as text.

// Each test program uses a part of it.
#![allow(dead_code)]

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::trace::{SpanContext, SpanKind, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, Sampler, SdkTracerProvider, SpanData};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, registry};

/// Records the spans and events of this thread, as long as it lives.
pub(crate) struct Traces {
    exporter: InMemorySpanExporter,
    text: Text,
    _provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traces {
    pub(crate) fn record(sampler: Sampler) -> Self {
        Self::with_activation(sampler, true)
    }

    /// With a layer that says, or does not say, to OpenTelemetry's own API which span is current.
    pub(crate) fn with_activation(sampler: Sampler, activation: bool) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(exporter.clone())
            .with_sampler(sampler)
            .build();
        let text = Text::default();
        let ours = Targets::new().with_target("hydratecache", LevelFilter::TRACE);
        let events = tracing_subscriber::fmt::layer().with_writer(text.clone()).with_filter(ours);
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_context_activation(activation)
            .with_filter(LevelFilter::INFO);
        let guard = tracing::subscriber::set_default(registry().with(layer).with(events));
        Self { exporter, text, _provider: provider, _guard: guard }
    }

    /// The spans that have ended.
    pub(crate) fn spans(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().expect("exported")
    }

    /// Those of this name.
    pub(crate) fn named(&self, name: &str) -> Vec<SpanData> {
        self.spans().into_iter().filter(|span| span.name == name).collect()
    }

    /// All that spans and events say.
    pub(crate) fn text(&self) -> String {
        let events = self.text.0.lock().unwrap_or_else(PoisonError::into_inner);
        format!("{:?}\n{}", self.spans(), String::from_utf8_lossy(&events))
    }
}

/// Whether `span` has a trace of its own and one link, which leads to `sent`.
pub(crate) fn links_to(span: &SpanData, sent: &SpanContext) -> bool {
    let ids = |context: &SpanContext| (context.trace_id(), context.span_id());
    let links: Vec<_> = span.links.iter().map(|link| ids(&link.span_context)).collect();
    links == [ids(sent)] && span.span_context.trace_id() != sent.trace_id()
}

/// Checks what every span of a message says.
pub(crate) fn check_attributes(span: &SpanData, system: &str, topic: &str, operation: [&str; 2]) {
    let of = |key: &str| {
        let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
        found.map(|attribute| attribute.value.to_string())
    };
    let [name, kind] = operation;
    for (key, value) in [
        ("messaging.system", system),
        ("messaging.destination.name", topic),
        ("messaging.operation.name", name),
        ("messaging.operation.type", kind),
    ] {
        assert_eq!(of(key).as_deref(), Some(value), "{span:#?}");
    }
    let expected = if kind == "send" { SpanKind::Producer } else { SpanKind::Consumer };
    assert_eq!(span.span_kind, expected);
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Text {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
