//! What is known of publishers, for those who are filled and repaired by this replica: how far they have come, and
//! what was lost of theirs.

use std::num::NonZeroU64;

use super::Hydrator;
use crate::cache::LocalCache;
use crate::transport::Gap;
use crate::{Position, Positions};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// A publisher was heard, perhaps for the first time, by its message at `position`, so many of which
    /// are new.
    pub(super) async fn contact(&mut self, position: Option<Position>, new: u64) {
        let Some(Position { origin, sequence }) = position else {
            return;
        };
        let before = sequence.get() - new;
        if let Some(missing) = self.contacts.heard(origin, before) {
            self.gap(Gap::Known(missing)).await;
        }
        if self.peers.is_some() {
            let Self { coverage, progress, .. } = self;
            let first = NonZeroU64::MIN.saturating_add(before);
            coverage.heard(origin, first, || progress.has_before(origin, first));
        }
    }

    /// Messages of a publisher are missing that are known by number.
    pub(super) fn told(&mut self, lost: Positions) {
        if self.peers.is_some() {
            let Self { coverage, progress, .. } = &mut *self;
            coverage.told(lost, || progress.has_before(lost.origin, lost.first));
        }
        self.counted(Position { origin: lost.origin, sequence: lost.last });
    }

    /// A publisher has counted to `position`, and what is missing of that is known to be: so copies for
    /// others say.
    pub(super) fn counted(&mut self, position: Position) {
        if self.peers.is_some() {
            self.progress.handled(Some(position));
        }
    }

    /// Whoever repairs these, now or later, has to know of them, whatever is done about them now.
    pub(super) fn lost(&mut self, positions: impl IntoIterator<Item = Positions>) {
        if self.peers.is_some() {
            self.damage.lost(positions);
        }
    }

    /// The message at `position` was never sent: others may not know of what it was about.
    pub(super) fn never_sent(&mut self, position: Position) {
        let Position { origin, sequence } = position;
        if self.peers.is_some() {
            self.damage.was_lost(Positions { origin, first: sequence, last: sequence });
        }
    }
}
