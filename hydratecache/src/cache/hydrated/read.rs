//! A value that was read, with how fresh it is.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use tokio::time::Instant;

use crate::Version;
use crate::cache::freshness::Sample;
use crate::cache::{Entry, Freshness};

/// A value that was read through [`Hydrated`](super::Hydrated), with how fresh it is. It
/// dereferences to the value.
pub struct Read<T> {
    entry: Entry<T>,
    sample: Sample,
    is_last_resort: bool,
}

impl<T> Read<T> {
    /// `sample` was taken before the cache was read.
    #[inline]
    pub(super) fn new(entry: Entry<T>, sample: Sample) -> Self {
        Self { entry, sample, is_last_resort: false }
    }

    pub(super) fn into_last_resort(self) -> Self {
        Self { is_last_resort: true, ..self }
    }

    /// Whether the source was to be asked for this value and failed or was slow, so that this is
    /// the last one that is known: see
    /// [`with_fail_safe`](super::HydratedBuilder::with_fail_safe).
    #[must_use]
    pub fn is_last_resort(&self) -> bool {
        self.is_last_resort
    }

    pub(super) fn epoch(&self) -> u32 {
        self.entry.epoch
    }

    pub(super) fn entry(&self) -> &Entry<T> {
        &self.entry
    }

    pub(super) fn sample(&self) -> Sample {
        self.sample
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> &Arc<T> {
        self.entry.value()
    }

    /// The value alone.
    #[must_use]
    pub fn into_value(self) -> Arc<T> {
        self.entry.value
    }

    /// What orders the value among the writes of its key; none if it was loaded from a source
    /// without versions.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.entry.version()
    }

    /// When the value expires; with a fail-safe, until when it is kept.
    #[must_use]
    pub fn expires_at(&self) -> Option<Instant> {
        self.entry.expires_at()
    }

    /// How fresh this value is: the state when it was read, and a bound that grows from then on.
    ///
    /// A value that was loaded from the source for this read is proven from the beginning of that
    /// load, whatever the state of the link is.
    #[must_use]
    pub fn freshness(&self) -> Freshness {
        self.sample.freshness()
    }
}

impl<T> Deref for Read<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.entry.value
    }
}

impl<T> Clone for Read<T> {
    fn clone(&self) -> Self {
        let Self { entry, sample, is_last_resort } = self;
        Self { entry: entry.clone(), sample: *sample, is_last_resort: *is_last_resort }
    }
}

impl<T> fmt::Debug for Read<T> {
    /// Shows everything but the value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Read")
            .field("version", &self.version())
            .field("expires_at", &self.expires_at())
            .field("freshness", &self.freshness())
            .finish_non_exhaustive()
    }
}
