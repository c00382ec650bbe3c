//! When entries end.

use std::time::Duration;

use tokio::time::Instant;

use super::Hydrator;
use super::settle::SETTLING;
use crate::cache::LocalCache;
use crate::{Key, Message, Remaining, Ttl, Version};

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// When the entry of `message` expires; the outer `None` if it has.
    #[allow(clippy::option_option)]
    pub(super) fn end_of(&self, message: &Message) -> Option<Option<Instant>> {
        let Some(ends_at) = message.ends_at() else {
            return self.expiry(message.ttl());
        };
        let starts_later = |ttl: Ttl| ttl.start() > self.channel.clock.now();
        self.counters.from_the_future.add(u64::from(message.ttl().is_some_and(starts_later)));
        let left = ends_at.saturating_duration_since(Instant::now());
        if left.is_zero() { None } else { Some(self.deadline(Some(left))) }
    }

    /// When an entry with `ttl` expires; the outer `None` if it has. The wall clock is asked once:
    /// from here on the deadline is on the monotonic clock.
    #[allow(clippy::option_option)]
    pub(super) fn expiry(&self, ttl: Option<Ttl>) -> Option<Option<Instant>> {
        let left = match ttl.map(|ttl| ttl.remaining(self.channel.clock.now())) {
            None => None,
            Some(Remaining::Expired) => return None,
            Some(Remaining::Alive { left, from_the_future }) => {
                self.counters.from_the_future.add(u64::from(from_the_future));
                Some(left)
            }
        };
        Some(self.deadline(left))
    }

    /// The end of a life of which so much is left.
    fn deadline(&self, left: Option<Duration>) -> Option<Instant> {
        let left = [left, self.settings.max_ttl].into_iter().flatten().min();
        let left = left.map(|left| self.settings.held_for(left));
        // A life that no clock can hold has no end.
        left.and_then(|left| Instant::now().checked_add(left))
    }

    /// Remembers a version whose entry may be gone before the last message has come that is older.
    pub(super) fn leave_behind(
        &mut self,
        key: &Key,
        version: Version,
        expires_at: Option<Instant>,
    ) {
        let now = Instant::now();
        if self.cache.evicts() || expires_at.is_some_and(|end| end < now + SETTLING) {
            self.ledger.put(key, version, now);
        }
    }
}
