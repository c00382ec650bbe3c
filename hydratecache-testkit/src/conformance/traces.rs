//! Watches every trace of the process for texts that must not be in one.

use std::fmt::{Debug, Write as _};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::{Interest, Subscriber, set_global_default};
use tracing::{Event, Level, Metadata};

/// What is looked for and what was found. There is one subscriber for traces in a process.
static WATCH: Mutex<Option<Watch>> = Mutex::new(None);

struct Watch {
    needles: Vec<String>,
    found: String,
}

/// Watches until it ends.
pub(super) struct Traces(());

impl Traces {
    /// Watches from now on, unless the process has another subscriber for traces.
    pub(super) fn watch(needles: &[String]) -> Option<Self> {
        static OURS: OnceLock<bool> = OnceLock::new();
        if !OURS.get_or_init(|| set_global_default(Recorder).is_ok()) {
            return None;
        }
        *watch() = Some(Watch { needles: needles.to_vec(), found: String::new() });
        tracing::callsite::rebuild_interest_cache();
        Some(Self(()))
    }

    /// The traces in which something was found, a line each.
    pub(super) fn end(self) -> String {
        let Self(()) = self;
        watch().take().map(|watch| watch.found).unwrap_or_default()
    }
}

fn watch() -> MutexGuard<'static, Option<Watch>> {
    WATCH.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Recorder;

impl Recorder {
    fn look(text: &str) {
        if let Some(Watch { needles, found }) = &mut *watch()
            && needles.iter().any(|needle| text.contains(needle))
        {
            found.push_str(text);
            found.push('\n');
        }
    }
}

impl Subscriber for Recorder {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    /// What a broker's client says of itself at its finest level is for those who debug the client,
    /// and no transport can keep it quiet: async-nats shows every operation there, body included.
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let is_ours = metadata.target().starts_with("hydratecache");
        watch().is_some() && (is_ours || *metadata.level() <= Level::DEBUG)
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut text = Text(span.metadata().name().to_owned());
        span.record(&mut text);
        Self::look(&text.0);
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        let mut text = Text(String::new());
        values.record(&mut text);
        Self::look(&text.0);
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        Self::look(&text.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).expect("writing to a String cannot fail");
    }
}
