//! What a channel has done so far.

use crate::count::{Counter, Labels, Seconds};
use crate::metrics;

/// What a channel has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ChannelStats {
    /// Messages that the broker has.
    pub published: u64,
    /// Messages whose publish failed or is of unknown outcome.
    pub failed: u64,
    /// Batches that the transport was given; `published / batches` is how well batching works.
    pub batches: u64,
    /// Messages that were published again for those who missed them.
    pub replayed: u64,
    /// Messages that all subscriptions of this channel received.
    pub received: u64,
    /// Messages that arrived and could not be used.
    pub rejected: u64,
}

pub(super) struct Counters {
    pub(super) received: Counter,
    pub(super) rejected: Counter,
    pub(super) propagation: Seconds,
}

impl Counters {
    pub(super) fn new(labels: &Labels) -> Self {
        Self {
            received: Counter::of(metrics::RECEIVED, labels),
            rejected: Counter::of(metrics::REJECTED, labels),
            propagation: Seconds::of(metrics::PROPAGATION_SECONDS, labels),
        }
    }
}
