//! Whether an entry is what the source has, and how two looks at it rule out a race. Decisions without
//! I/O.

use std::sync::Arc;

use super::version_of;
use crate::Version;
use crate::cache::{Entry, Loaded};

/// How an entry differs from the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DivergenceKind {
    /// The source has a newer version, with another value.
    Stale,
    /// The source has another value, of the same version or without versions to compare.
    Different,
    /// The cache has a newer version, with another value: it was published and never written, or the
    /// source lags.
    Ahead,
    /// The cache has an entry, and the source has none.
    Gone,
    /// The source has a value, and the cache has none.
    Missing,
}

/// What the first look saw.
pub(super) struct Observed<T> {
    pub(super) entry: Option<Entry<T>>,
    /// The version that the source had, if it had any.
    pub(super) version: Option<u64>,
}

/// What two looks say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was under way, or has ended.
    Right,
    Divergent(DivergenceKind),
    /// Something came between: look twice again.
    Unclear,
}

/// How `entry` differs from what the source has; none if no reader could tell them apart.
pub(super) fn compare<T>(
    entry: Option<&Entry<T>>,
    loaded: Option<&Loaded<T>>,
    is_equal: &dyn Fn(&T, &T) -> bool,
) -> Option<DivergenceKind> {
    let (entry, loaded) = match (entry, loaded) {
        (None, None) => return None,
        (None, Some(_)) => return Some(DivergenceKind::Missing),
        (Some(_), None) => return Some(DivergenceKind::Gone),
        (Some(entry), Some(loaded)) => (entry, loaded),
    };
    if is_equal(entry.value(), loaded.value()) {
        return None;
    }
    let (cached, in_source) = (entry.version(), version_of(loaded));
    Some(match (cached, in_source) {
        (Some(cached), Some(_)) if cached.is_newer_than(in_source) => DivergenceKind::Ahead,
        (Some(_), Some(in_source)) if in_source.is_newer_than(cached) => DivergenceKind::Stale,
        _ => DivergenceKind::Different,
    })
}

impl<T> Observed<T> {
    /// What a second look says, after the patience: at `entry`, which was read last, and at the source,
    /// from which it differs as `kind`. Nothing was lost in between if `is_calm`, and no update of the
    /// key arrived if the lease `is_intact`.
    pub(super) fn verdict(
        &self,
        entry: Option<&Entry<T>>,
        kind: Option<DivergenceKind>,
        is_calm: bool,
        is_intact: bool,
    ) -> Verdict {
        let Some(kind) = kind else {
            return Verdict::Right;
        };
        let has_ended = entry.is_none() && self.entry.as_ref().is_some_and(Entry::is_expired);
        if has_ended {
            return Verdict::Right;
        }
        if !is_calm {
            return Verdict::Unclear;
        }
        // However often it was replaced: it is older than what the source had at the first look.
        let is_behind =
            entry.and_then(Entry::version).zip(self.version).is_some_and(|(cached, in_source)| {
                cached.is_older_than(Some(Version::caller(in_source)))
            });
        if is_behind && kind == DivergenceKind::Stale {
            return Verdict::Divergent(kind);
        }
        // It was wrong at the first look and is at the second, and nobody touched it.
        if is_intact && self.is_the_same(entry) {
            return Verdict::Divergent(kind);
        }
        Verdict::Unclear
    }

    fn is_the_same(&self, entry: Option<&Entry<T>>) -> bool {
        match (&self.entry, entry) {
            (None, None) => true,
            (Some(first), Some(second)) => Arc::ptr_eq(first.value(), second.value()),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DivergenceKind::{Ahead, Different, Gone, Missing, Stale};
    use std::time::Duration;
    use tokio::time::Instant;

    fn entry(value: u8, version: Option<u64>) -> Entry<u8> {
        Entry::new(value).with_version(version.map(Version::caller))
    }

    fn loaded(value: u8, version: Option<u64>) -> Loaded<u8> {
        let loaded = Loaded::new(value);
        match version {
            Some(version) => loaded.with_version(version),
            None => loaded,
        }
    }

    fn kind(
        entry: impl Into<Option<Entry<u8>>>,
        loaded: impl Into<Option<Loaded<u8>>>,
    ) -> Option<DivergenceKind> {
        compare(entry.into().as_ref(), loaded.into().as_ref(), &u8::eq)
    }

    #[test]
    fn every_difference_has_its_kind_and_equal_values_have_none() {
        let (one, two) = (Some(1), Some(2));
        assert_eq!(kind(None, None), None);
        assert_eq!(kind(None, loaded(7, one)), Some(Missing));
        assert_eq!(kind(entry(7, one), None), Some(Gone));
        for (cached, in_source, expected) in
            [(one, two, Stale), (two, one, Ahead), (one, one, Different), (None, None, Different)]
        {
            assert_eq!(kind(entry(7, cached), loaded(8, in_source)), Some(expected));
            assert_eq!(kind(entry(7, cached), loaded(7, in_source)), None);
        }
        let by_clock = Entry::new(7).with_version(Some(Version::clock(9, None)));
        assert_eq!(kind(by_clock, loaded(8, None)), Some(Different));
    }

    fn observed(entry: Option<&Entry<u8>>, version: Option<u64>) -> Observed<u8> {
        Observed { entry: entry.cloned(), version }
    }

    #[test]
    fn what_stays_wrong_and_untouched_diverges() {
        let wrong = entry(7, None);
        for kind in [Different, Gone, Ahead] {
            let first = observed(Some(&wrong), None);
            assert_eq!(
                first.verdict(Some(&wrong), Some(kind), true, true),
                Verdict::Divergent(kind)
            );
            assert_eq!(first.verdict(Some(&wrong), None, true, true), Verdict::Right);
        }
        let missing = observed(None, None);
        assert_eq!(missing.verdict(None, Some(Missing), true, true), Verdict::Divergent(Missing));
    }

    #[test]
    fn what_was_touched_or_may_have_been_is_compared_again() {
        let wrong = entry(7, None);
        let first = observed(Some(&wrong), None);
        let verdicts = [
            first.verdict(Some(&wrong), Some(Different), true, false),
            first.verdict(Some(&wrong), Some(Different), false, true),
            // Equal, and yet another one: it was replaced.
            first.verdict(Some(&entry(7, None)), Some(Different), true, true),
            first.verdict(None, Some(Missing), true, true),
            observed(None, None).verdict(Some(&wrong), Some(Gone), true, true),
        ];
        assert!(verdicts.iter().all(|verdict| *verdict == Verdict::Unclear), "{verdicts:?}");
    }

    #[test]
    fn a_hot_key_is_judged_by_versions() {
        let first = observed(Some(&entry(1, Some(1))), Some(5));
        let verdict =
            |version, kind| first.verdict(Some(&entry(2, Some(version))), Some(kind), true, false);
        assert_eq!(verdict(4, Stale), Verdict::Divergent(Stale), "4 is no 5");
        assert_eq!(verdict(5, Stale), Verdict::Unclear, "what came since is under way");
        let lost = first.verdict(Some(&entry(2, Some(4))), Some(Stale), false, false);
        assert_eq!(lost, Verdict::Unclear, "it was lost, and is known to be");
    }

    #[test]
    fn what_has_ended_meanwhile_is_not_missing() {
        let ended = entry(7, None).with_expiry(Instant::now().checked_sub(Duration::from_secs(1)));
        let first = observed(Some(&ended), None);
        assert_eq!(first.verdict(None, Some(Missing), true, true), Verdict::Right);
    }
}
