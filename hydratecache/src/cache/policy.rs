//! What a hydration does with values and with gaps.

/// What an arriving value does to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Mode {
    /// Every value is stored. For key spaces that fit into memory.
    #[default]
    Hydrate,
    /// Only keys that are already there get the new value; others are not even decoded. For large
    /// key spaces of which each instance reads a part.
    UpdateIfPresent,
    /// The key is dropped and the next read loads it. For values that are larger or rarer read
    /// than written.
    Invalidate,
}

/// What is done when messages were, or may have been, lost, and their publisher cannot send them again.
///
/// Where it is known [which](crate::Gap::Known) they are, their publisher is asked first, and entries stay readable and
/// suspect until they came, 1.3 s at most if nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapAction {
    /// Read the source again; entries stay readable and suspect meanwhile. The default where there
    /// is a source. Keys that are put within 10 s after the gap, and that the source did not have, may
    /// be gone: for them it is read once more when the 10 s are over, and until then no freshness is
    /// proven. The same holds for the 10 s after the start.
    Reload,
    /// Drop every entry. The default without a source.
    Clear,
    /// Keep every entry, and stay suspect until [`Hydration::reload`](super::Hydration::reload) or
    /// [`Hydration::trust`](super::Hydration::trust).
    Suspect,
    /// Keep every entry and go on. Nothing is suspect, and nothing proves freshness any more.
    Ignore,
}
