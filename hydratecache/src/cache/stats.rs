//! What a hydration has done so far.

use super::Agreement;
use crate::count::{Counter, Labels, Seconds};
use crate::metrics;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident $(=> $metric:ident $(/ $rung:literal)?)?),* $(,)?) => {
        /// What a hydration has done so far.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct HydrationStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
            pub(super) fence_seconds: Seconds,
        }

        impl Counters {
            pub(super) fn new(labels: &Labels) -> Self {
                Self {
                    $($name: counter!(labels $(, $metric $(, $rung)?)?),)*
                    fence_seconds: Seconds::of(metrics::FENCE_SECONDS, labels),
                }
            }

            fn counts(&self) -> HydrationStats {
                HydrationStats { $($name: self.$name.count(),)* }
            }
        }
    };
}

macro_rules! counter {
    ($labels:ident) => {
        Counter::unrecorded()
    };
    ($labels:ident, $metric:ident) => {
        Counter::of(metrics::$metric, $labels)
    };
    ($labels:ident, $metric:ident, $rung:literal) => {
        Counter::of(metrics::$metric, &$labels.with(metrics::RUNG, $rung))
    };
}

stats! {
    /// Messages that arrived.
    received,
    /// Messages and loaded values that changed the cache.
    applied => APPLIED,
    /// Messages and loaded values that were older than what the cache knew.
    stale => STALE,
    /// Messages for keys that the cache does not hold, in [`Mode::UpdateIfPresent`](super::Mode).
    absent => ABSENT,
    /// Messages whose TTL ended before they arrived: they removed their key.
    expired_in_flight => EXPIRED_IN_FLIGHT,
    /// Messages whose TTL began in this process's future: one of the two clocks is wrong.
    from_the_future => FROM_THE_FUTURE,
    /// Messages that could not be used. Their key was dropped where it was readable.
    rejected,
    /// Requests of other processes of a type that is not known here: they were ignored.
    requests_unknown => REQUESTS_UNKNOWN,
    /// Values that were loaded because their message did not carry them.
    refilled => REFILLED,
    /// Gaps that were reported.
    gaps => GAPS,
    /// Messages that were lost for certain, as far as gaps said how many.
    missed => MISSED,
    /// Requests to publishers for messages that were lost.
    replays_asked => REPLAYS_ASKED,
    /// Lost messages that their publishers sent again, or said what to do about.
    replayed => REPLAYED,
    /// Gaps that replays repaired.
    replays_completed => REPAIRS / "replay",
    /// Gaps that were to be repaired by a replay and were not.
    replays_failed => REPLAYS_FAILED,
    /// Times that all entries were dropped, because nobody knew which of them were still right.
    cleared => REPAIRS / "clear",
    /// Times that the link was lost.
    disruptions => DISRUPTIONS,
    /// Reloads from the source that were completed, the first one included.
    reloads => REPAIRS / "reload",
    /// Reloads that took a copy of another replica instead of reading the source, digests included.
    copies => REPAIRS / "copy",
    /// Those of them that compared hashes with another replica, and took only what differed.
    digests => REPAIRS / "digest",
    /// Entries that came with copies and digests, complete or not.
    entries_copied => ENTRIES_COPIED,
    /// Entries that were sent to other replicas.
    entries_offered => ENTRIES_OFFERED,
    /// Reloads from the source that failed and were, or will be, tried again.
    reload_failures => RELOAD_FAILURES,
    /// Values that were dropped because an update arrived while they were loaded.
    leases_broken => LEASES_BROKEN,
    /// Removals that were forgotten for want of room before their time.
    tombstones_dropped => TOMBSTONES_DROPPED,
    /// Loads of single keys from the source that readers asked for.
    loads => LOADS,
    /// Those of them that failed.
    load_failures => LOAD_FAILURES,
    /// Reads that waited for a load that another read had begun.
    loads_shared => LOADS_SHARED,
    /// Loads that were begun because an entry that was read ends soon.
    refreshes_ahead => REFRESHES_AHEAD,
    /// Reads of keys that the source was lately found not to have.
    absences_known => ABSENCES_KNOWN,
    /// Reads that were given the last value because the source failed or was slow.
    failed_safe => FAILED_SAFE,
    /// Loaded values that were published for the others.
    loads_published => LOADS_PUBLISHED,
    /// Loaded values that were not published, because that failed or too many waited.
    loads_unpublished => LOADS_UNPUBLISHED,
    /// Entries that a [`Verifier`](super::Verifier) compared with the source, to a result.
    verified => VERIFIED,
    /// Those of them that differed.
    divergences => DIVERGENCES,
    /// Keys of the source that a verifier looked for in the cache.
    source_keys_verified => SOURCE_KEYS_VERIFIED,
    /// Those of them that the cache should have had.
    source_keys_missing => SOURCE_KEYS_MISSING,
    /// Divergences, missing keys included, that were replaced by what the source had.
    divergences_repaired => DIVERGENCES_REPAIRED,
    /// Comparisons that updates came between, time and again.
    verifications_unclear => VERIFICATIONS_UNCLEAR,
    /// Questions of a verifier that the source did not answer.
    verification_failures => VERIFICATION_FAILURES,
    /// Fences that were asked for, by readers and on an interval.
    fences => FENCES,
    /// Those of them that did not come back, or were not caught up with.
    fence_failures => FENCE_FAILURES,
}

impl HydrationStats {
    /// What a [`Verifier`](super::Verifier) says of the cache's entries. Missing keys are no entries:
    /// they are in [`source_keys_missing`](Self::source_keys_missing).
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        Agreement::new(self.verified, self.divergences)
    }
}

impl Counters {
    pub(super) fn stats(&self) -> HydrationStats {
        let counts = self.counts();
        // As metrics each rung is counted by itself.
        HydrationStats { copies: counts.copies + counts.digests, ..counts }
    }
}
