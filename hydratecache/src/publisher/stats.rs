//! What a lane has done so far.

use crate::count::{Counter, Labels, Seconds};
use crate::metrics;

/// What a lane has done so far, in messages and batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneStats {
    pub(crate) published: u64,
    pub(crate) failed: u64,
    pub(crate) batches: u64,
    pub(crate) replayed: u64,
}

pub(super) struct Counters {
    pub(super) replayed: Counter,
    pub(super) published: Counter,
    pub(super) failed: Counter,
    pub(super) batches: Counter,
    pub(super) seconds: Seconds,
}

impl Counters {
    pub(super) fn new(labels: &Labels) -> Self {
        Self {
            replayed: Counter::of(metrics::REPUBLISHED, labels),
            published: Counter::of(metrics::PUBLISHED, labels),
            failed: Counter::of(metrics::FAILED, labels),
            batches: Counter::of(metrics::BATCHES, labels),
            seconds: Seconds::of(metrics::PUBLISH_SECONDS, labels),
        }
    }

    pub(super) fn stats(&self) -> LaneStats {
        LaneStats {
            published: self.published.count(),
            failed: self.failed.count(),
            batches: self.batches.count(),
            replayed: self.replayed.count(),
        }
    }
}
