//! Handles of the recorder that the program installed, made once.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::metrics::{Gauge, Histogram, Key, Label, Level, Metadata, Unit, with_recorder};

use super::Labels;
use crate::cache::State;
use crate::metrics::{HYDRATIONS, Metric, MetricKind, STATE, SYSTEM, TOPIC};

/// A counter's handle.
pub(crate) struct Total(::metrics::Counter);

impl Total {
    pub(crate) fn of(metric: Metric, labels: &Labels) -> Self {
        metric.describe();
        let key = labels.key(metric);
        Self(with_recorder(|recorder| recorder.register_counter(&key, &METADATA)))
    }

    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.increment(count);
    }
}

impl Default for Total {
    fn default() -> Self {
        Self(::metrics::Counter::noop())
    }
}

/// A histogram of times.
pub(crate) struct Seconds(Histogram);

/// The time at which something began.
#[derive(Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Seconds {
    pub(crate) fn of(metric: Metric, labels: &Labels) -> Self {
        metric.describe();
        let key = labels.key(metric);
        Self(with_recorder(|recorder| recorder.register_histogram(&key, &METADATA)))
    }

    pub(crate) fn stop(&self, begun: Stopwatch) {
        self.0.record(begun.0.elapsed());
    }

    #[inline]
    pub(crate) fn record(&self, duration: Duration) {
        self.0.record(duration);
    }
}

/// The state of one hydration, among those of its process: while this lives, it is one of them.
pub(crate) struct States {
    gauges: [Gauge; 4],
    current: AtomicUsize,
}

impl States {
    pub(crate) fn of(labels: &Labels) -> Self {
        HYDRATIONS.describe();
        let gauge = |state| gauge(HYDRATIONS, &labels.with(STATE, state));
        let gauges = ["warming", "live", "suspect", "stopped"].map(gauge);
        gauges[place(State::Warming)].increment(1);
        Self { gauges, current: AtomicUsize::new(place(State::Warming)) }
    }

    pub(crate) fn show(&self, state: State) {
        let after = place(state);
        let before = self.current.swap(after, Ordering::Relaxed);
        if before != after {
            self.gauges[after].increment(1);
            self.gauges[before].decrement(1);
        }
    }
}

impl Drop for States {
    fn drop(&mut self) {
        self.gauges[*self.current.get_mut()].decrement(1);
    }
}

/// The handle of a gauge.
pub(crate) fn gauge(metric: Metric, labels: &Labels) -> Gauge {
    metric.describe();
    let key = labels.key(metric);
    with_recorder(|recorder| recorder.register_gauge(&key, &METADATA))
}

const METADATA: Metadata<'static> =
    Metadata::new("hydratecache", Level::INFO, Some(module_path!()));

fn place(state: State) -> usize {
    match state {
        State::Warming => 0,
        State::Live => 1,
        State::Suspect(_) => 2,
        State::Stopped => 3,
    }
}

impl Labels {
    fn key(&self, metric: Metric) -> Key {
        let mut labels = vec![
            Label::new(TOPIC, self.topic.as_str().to_owned()),
            Label::from_static_parts(SYSTEM, self.system),
        ];
        labels.extend(self.extra.map(|(label, value)| Label::from_static_parts(label, value)));
        Key::from_parts(metric.name, labels)
    }
}

impl Metric {
    fn describe(self) {
        let is_time = self.name.ends_with("_seconds");
        let unit = Some(if is_time { Unit::Seconds } else { Unit::Count });
        let (name, help) = (self.name.into(), self.help.into());
        with_recorder(|recorder| match self.kind {
            MetricKind::Counter => recorder.describe_counter(name, unit, help),
            MetricKind::Gauge => recorder.describe_gauge(name, unit, help),
            MetricKind::Histogram => recorder.describe_histogram(name, unit, help),
        });
    }
}
