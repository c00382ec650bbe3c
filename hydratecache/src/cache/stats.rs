//! What a hydration has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

use super::Agreement;

macro_rules! stats {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// What a hydration has done so far.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[non_exhaustive]
        pub struct HydrationStats {
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Default)]
        pub(super) struct Counters {
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn stats(&self) -> HydrationStats {
                HydrationStats { $($name: self.$name.0.load(Ordering::Relaxed),)* }
            }
        }
    };
}

stats! {
    /// Messages that arrived.
    received,
    /// Messages and loaded values that changed the cache.
    applied,
    /// Messages and loaded values that were older than what the cache knew.
    stale,
    /// Messages for keys that the cache does not hold, in [`Mode::UpdateIfPresent`](super::Mode).
    absent,
    /// Messages whose TTL ended before they arrived: they removed their key.
    expired_in_flight,
    /// Messages whose TTL began in this process's future: one of the two clocks is wrong.
    from_the_future,
    /// Messages that could not be used. Their key was dropped where it was readable.
    rejected,
    /// Requests of other processes of a type that is not known here: they were ignored.
    requests_unknown,
    /// Values that were loaded because their message did not carry them.
    refilled,
    /// Gaps that were reported.
    gaps,
    /// Messages that were lost for certain, as far as gaps said how many.
    missed,
    /// Requests to publishers for messages that were lost.
    replays_asked,
    /// Lost messages that their publishers sent again, or said what to do about.
    replayed,
    /// Gaps that replays repaired.
    replays_completed,
    /// Gaps that were to be repaired by a replay and were not.
    replays_failed,
    /// Times that all entries were dropped, because nobody knew which of them were still right.
    cleared,
    /// Times that the link was lost.
    disruptions,
    /// Reloads from the source that were completed, the first one included.
    reloads,
    /// Reloads that took a copy of another replica instead of reading the source, digests included.
    copies,
    /// Those of them that compared hashes with another replica, and took only what differed.
    digests,
    /// Entries that came with copies and digests, complete or not.
    entries_copied,
    /// Entries that were sent to other replicas.
    entries_offered,
    /// Reloads from the source that failed and were, or will be, tried again.
    reload_failures,
    /// Values that were dropped because an update arrived while they were loaded.
    leases_broken,
    /// Removals that were forgotten for want of room before their time.
    tombstones_dropped,
    /// Loads of single keys from the source that readers asked for.
    loads,
    /// Those of them that failed.
    load_failures,
    /// Reads that waited for a load that another read had begun.
    loads_shared,
    /// Loads that were begun because an entry that was read ends soon.
    refreshes_ahead,
    /// Reads of keys that the source was lately found not to have.
    absences_known,
    /// Reads that were given the last value because the source failed or was slow.
    failed_safe,
    /// Loaded values that were published for the others.
    loads_published,
    /// Loaded values that were not published, because that failed or too many waited.
    loads_unpublished,
    /// Entries that a [`Verifier`](super::Verifier) compared with the source, to a result.
    verified,
    /// Those of them that differed.
    divergences,
    /// Keys of the source that a verifier looked for in the cache.
    source_keys_verified,
    /// Those of them that the cache should have had.
    source_keys_missing,
    /// Divergences, missing keys included, that were replaced by what the source had.
    divergences_repaired,
    /// Comparisons that updates came between, time and again.
    verifications_unclear,
    /// Questions of a verifier that the source did not answer.
    verification_failures,
}

impl HydrationStats {
    /// What a [`Verifier`](super::Verifier) says of the cache's entries. Missing keys are no entries:
    /// they are in [`source_keys_missing`](Self::source_keys_missing).
    #[must_use]
    pub fn agreement(&self) -> Agreement {
        Agreement::new(self.verified, self.divergences)
    }
}

#[derive(Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn increment(&self) {
        self.add(1);
    }

    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}
