//! What is counted and measured for dashboards and alerts, with its names.
//!
//! With the feature `metrics` everything here goes to the recorder that the program installed with the
//! crate [`metrics`](https://docs.rs/metrics), such as an exporter for Prometheus. Install it before
//! the first channel is built: handles are made once, with the channel and its hydration, so that a
//! message looks nothing up. Without the feature these are names, and cost nothing.
//!
//! Every metric has the labels [`TOPIC`] and [`SYSTEM`]; two have one more, of a few fixed values. Never
//! is a key, a payload, an origin or the name of a replica a label. What several channels and
//! hydrations of one topic do in one process is one sum.
//!
//! ```
//! use hydratecache::metrics;
//!
//! assert!(metrics::ALL.contains(&metrics::APPLIED));
//! assert_eq!(metrics::APPLIED.name, "hydratecache_applied_total");
//! ```

/// The label for the topic.
pub const TOPIC: &str = "topic";

/// The label for the broker: [`Limits::system`](crate::Limits::system), as traces name it.
pub const SYSTEM: &str = "system";

/// The label of [`REPAIRS`] for what repaired: `replay`, `digest`, `copy`, `reload` or `clear`, from the
/// cheapest to the dearest.
pub const RUNG: &str = "rung";

/// The label of [`HYDRATIONS`] for their state: `warming`, `live`, `suspect` or `stopped`, as
/// [`State`](crate::cache::State).
pub const STATE: &str = "state";

/// Limits of buckets for the histograms, in seconds: from 50 µs, a round trip in one machine, to 10 s,
/// when a dead link is noticed. For exporters that are told them.
pub const SECONDS_BUCKETS: &[f64] = &[
    0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5,
    1.0, 2.5, 5.0, 10.0,
];

/// One metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Metric {
    /// Its name, as Prometheus wants it. Those that end in `_seconds` are in seconds, all others are
    /// counts.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// What it says.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many of its values lie between which limits.
    Histogram,
}

macro_rules! metrics {
    ($($kind:ident $constant:ident = $name:literal: $help:literal;)*) => {
        $(
            #[doc = $help]
            pub const $constant: Metric =
                Metric { name: $name, kind: MetricKind::$kind, help: $help };
        )*

        /// All metrics.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    Counter PUBLISHED = "hydratecache_published_total": "Messages that the broker has.";
    Counter FAILED = "hydratecache_failed_total": "Messages whose publish failed or is of unknown outcome.";
    Counter BATCHES = "hydratecache_batches_total": "Batches that the transport was given.";
    Histogram PUBLISH_SECONDS = "hydratecache_publish_seconds": "How long a batch took until the broker had it, or the publish failed.";
    Counter REPUBLISHED = "hydratecache_republished_total": "Messages that were published again for those who missed them.";
    Counter RECEIVED = "hydratecache_received_total": "Messages that hydrations and subscriptions received.";
    Counter REJECTED = "hydratecache_rejected_total": "Messages that arrived and could not be used.";
    Histogram PROPAGATION_SECONDS = "hydratecache_propagation_seconds": "How long ago a received message was stamped by its publisher's wall clock, by the wall clock here. Where the channel's clock gives versions; what a broker had kept counts with its age.";
    Counter APPLIED = "hydratecache_applied_total": "Messages and loaded values that changed the cache.";
    Counter STALE = "hydratecache_stale_total": "Messages and loaded values that were older than what the cache knew.";
    Counter ABSENT = "hydratecache_absent_total": "Messages for keys that the cache does not hold, where only those are updated.";
    Counter EXPIRED_IN_FLIGHT = "hydratecache_expired_in_flight_total": "Messages whose TTL ended before they arrived.";
    Counter FROM_THE_FUTURE = "hydratecache_from_the_future_total": "Messages whose TTL began in this process's future: one of the two clocks is wrong.";
    Counter REQUESTS_UNKNOWN = "hydratecache_requests_unknown_total": "Requests of other processes of a type that is not known here.";
    Counter REFILLED = "hydratecache_refilled_total": "Values that were loaded because their message did not carry them.";
    Counter GAPS = "hydratecache_gaps_total": "Gaps that were reported.";
    Counter MISSED = "hydratecache_missed_total": "Messages that were lost for certain, as far as gaps said how many.";
    Counter DISRUPTIONS = "hydratecache_disruptions_total": "Times that the link was lost.";
    Counter REPAIRS = "hydratecache_repairs_total": "Repairs that were completed, by their rung. A reload or a copy may be the first fill.";
    Counter REPLAYS_ASKED = "hydratecache_replays_asked_total": "Requests to publishers for messages that were lost.";
    Counter REPLAYED = "hydratecache_replayed_total": "Lost messages that their publishers sent again, or said what to do about.";
    Counter REPLAYS_FAILED = "hydratecache_replays_failed_total": "Gaps that were to be repaired by a replay and were not.";
    Counter RELOAD_FAILURES = "hydratecache_reload_failures_total": "Reloads from the source that failed and are tried again.";
    Counter ENTRIES_COPIED = "hydratecache_entries_copied_total": "Entries that came with copies and digests of other replicas.";
    Counter ENTRIES_OFFERED = "hydratecache_entries_offered_total": "Entries that were sent to other replicas.";
    Counter LEASES_BROKEN = "hydratecache_leases_broken_total": "Values that were dropped because an update arrived while they were loaded.";
    Counter TOMBSTONES_DROPPED = "hydratecache_tombstones_dropped_total": "Removals that were forgotten for want of room before their time.";
    Counter LOADS = "hydratecache_loads_total": "Loads of single keys from the source that readers asked for.";
    Counter LOAD_FAILURES = "hydratecache_load_failures_total": "Loads of single keys that failed.";
    Counter LOADS_SHARED = "hydratecache_loads_shared_total": "Reads that waited for a load that another read had begun.";
    Counter REFRESHES_AHEAD = "hydratecache_refreshes_ahead_total": "Loads that were begun because an entry that was read ends soon.";
    Counter ABSENCES_KNOWN = "hydratecache_absences_known_total": "Reads of keys that the source was lately found not to have.";
    Counter FAILED_SAFE = "hydratecache_failed_safe_total": "Reads that were given the last value because the source failed or was slow.";
    Counter LOADS_PUBLISHED = "hydratecache_loads_published_total": "Loaded values that were published for the others.";
    Counter LOADS_UNPUBLISHED = "hydratecache_loads_unpublished_total": "Loaded values that were not published, because that failed or too many waited.";
    Counter VERIFIED = "hydratecache_verified_total": "Entries that a verifier compared with the source, to a result.";
    Counter DIVERGENCES = "hydratecache_divergences_total": "Verified entries that differed from the source.";
    Counter SOURCE_KEYS_VERIFIED = "hydratecache_source_keys_verified_total": "Keys of the source that a verifier looked for in the cache.";
    Counter SOURCE_KEYS_MISSING = "hydratecache_source_keys_missing_total": "Keys of the source that the cache should have had.";
    Counter DIVERGENCES_REPAIRED = "hydratecache_divergences_repaired_total": "Divergences, missing keys included, that were replaced by what the source had.";
    Counter VERIFICATIONS_UNCLEAR = "hydratecache_verifications_unclear_total": "Comparisons that updates came between, time and again.";
    Counter VERIFICATION_FAILURES = "hydratecache_verification_failures_total": "Questions of a verifier that the source did not answer.";
    Counter FENCES = "hydratecache_fences_total": "Fences that hydrations asked for. The transport's own signs of life are not among them.";
    Counter FENCE_FAILURES = "hydratecache_fence_failures_total": "Fences that hydrations asked for and that did not come back, or were not caught up with.";
    Histogram FENCE_SECONDS = "hydratecache_fence_seconds": "How long a fence that a hydration asked for took to come back through the broker.";
    Gauge HYDRATIONS = "hydratecache_hydrations": "Hydrations of this process, by their state.";
    Gauge PROVEN_WITHIN_SECONDS = "hydratecache_proven_within_seconds": "Every write that the broker had accepted longer ago than this is in the cache: of the process's hydrations of the topic, the worst bound. Set once a second; +Inf where nothing is proven, NaN without a hydration.";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_follow_the_practice_of_prometheus() {
        let legal = |c: char| c.is_ascii_lowercase() || c == '_';
        for Metric { name, kind, help } in ALL {
            assert!(name.starts_with("hydratecache_") && name.chars().all(legal), "{name}");
            assert!(help.ends_with('.'), "{name}: {help}");
            assert_eq!(name.ends_with("_total"), *kind == MetricKind::Counter, "{name}");
            let is_histogram = *kind == MetricKind::Histogram;
            assert!(!is_histogram || name.ends_with("_seconds"), "{name}");
        }
        let names: HashSet<_> = ALL.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), ALL.len());
    }

    #[test]
    fn buckets_grow() {
        assert!(SECONDS_BUCKETS.is_sorted_by(|a, b| a < b));
    }
}
