//! What is counted: once, in one place, for `stats()` and for [metrics](crate::metrics).
//!
//! Without the feature `metrics` a counter is one atomic, and everything else here is nothing.

#[cfg(feature = "metrics")]
mod recorded;
#[cfg(not(feature = "metrics"))]
mod unrecorded;

use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(feature = "metrics")]
pub(crate) use recorded::{Seconds, States, Stopwatch, Total, gauge};
#[cfg(not(feature = "metrics"))]
pub(crate) use unrecorded::{Seconds, States, Stopwatch, Total};

use crate::metrics::Metric;
use crate::{Topic, Transport};

/// What the metrics of a channel are labelled with. There is no way to add a key to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    topic: Topic,
    system: &'static str,
    /// One more, of a few fixed values.
    extra: Option<(&'static str, &'static str)>,
}

impl Labels {
    pub(crate) fn new(topic: &Topic, transport: &dyn Transport) -> Self {
        Self { topic: topic.clone(), system: transport.limits().system, extra: None }
    }

    pub(crate) fn with(&self, label: &'static str, value: &'static str) -> Self {
        Self { extra: Some((label, value)), ..self.clone() }
    }
}

/// A count that `stats()` shows, and that may be a metric.
pub(crate) struct Counter {
    count: AtomicU64,
    total: Total,
}

impl Counter {
    pub(crate) fn of(metric: Metric, labels: &Labels) -> Self {
        Self { count: AtomicU64::default(), total: Total::of(metric, labels) }
    }

    /// A count that is no metric, because another one counts the same.
    pub(crate) fn unrecorded() -> Self {
        Self { count: AtomicU64::default(), total: Total::default() }
    }

    pub(crate) fn increment(&self) {
        self.add(1);
    }

    pub(crate) fn add(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
        self.total.add(count);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}
