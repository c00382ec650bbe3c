//! Repair by replay: the publisher of what was lost is asked for it, and what comes late is applied.

use std::collections::HashSet;
use std::future::pending;

use tokio::time::{Instant, sleep_until};

use super::Hydrator;
use crate::cache::LocalCache;
use crate::cache::{GapAction, Mode};
use crate::transport::Gap;
use crate::{Key, Kind, Message, Position, Positions, Request, Version, VersionDomain};

/// Waits until `due`, or for ever.
pub(super) async fn due(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

impl<T: Send + Sync + 'static, C: LocalCache<T>> Hydrator<T, C> {
    /// Asks the publisher of what was lost for it, if that is known and may help. Until it is there,
    /// entries are suspect.
    pub(super) fn asks_for(&mut self, gap: Gap) -> bool {
        let Gap::Known(positions) = gap else {
            return false;
        };
        // What the broker keeps it brings itself; and the source, if it is to be read, brings all.
        let is_helped = self.channel.transport.limits().durable || self.reload_at.is_some();
        if is_helped {
            return false;
        }
        let action = self.settings.action(gap);
        let now = Instant::now();
        if action == GapAction::Ignore || !self.repair.missed(positions, now, fastrand::f64()) {
            return false;
        }
        self.news = self.clears(action).then(HashSet::default);
        self.change(|status| status.missing_since = status.missing_since.or(Some(now)));
        true
    }

    /// Asks, asks again, or gives up.
    pub(super) async fn go_on_repairing(&mut self) {
        let due = self.repair.due(Instant::now(), fastrand::f64());
        while self.asking.try_join_next().is_some() {}
        for positions in due.ask {
            self.counters.replays_asked.increment();
            // Whether it was sent shows in the answer.
            self.asking.spawn(self.channel.lane.ask(&Request::Replay(positions)));
        }
        if due.is_over {
            self.give_up_repairing().await;
        }
    }

    /// Another process asks or answers something.
    pub(super) async fn asked(&mut self, message: &Message) {
        let is_own = message.origin() == Some(self.channel.lane.origin());
        match self.channel.asked(message) {
            None => self.counters.requests_unknown.increment(),
            Some(Request::Replay(positions)) if !is_own => {
                self.repair.heard(positions, Instant::now(), fastrand::f64());
            }
            Some(Request::Gone(positions)) if message.origin() == Some(positions.origin) => {
                if self.repair.misses_any(positions) {
                    self.give_up_repairing().await;
                }
            }
            Some(Request::Unsent { position, key, version })
                if message.origin() == Some(position.origin) =>
            {
                if self.repair.misses(position) {
                    self.unsent(position, key, version).await;
                }
            }
            Some(Request::WhoHas { position, question, wanted, limit }) => {
                if let Some(asker) = message.origin().filter(|_| self.settings.is_replica) {
                    self.rollcall.asked(asker, question, position, wanted, limit);
                }
            }
            Some(Request::Has { asker, question, is_applied: true, name }) => {
                self.rollcall.heard(asker, question, (message.origin(), name));
            }
            // Its own question, an answer of one who does not know, or a word about copies.
            Some(request) => {
                if let Some(peers) = &self.peers {
                    peers.hear(request);
                }
            }
        }
    }

    /// Answers one who asked for a write.
    pub(super) fn answer(&mut self, answer: Option<Request>) {
        while self.asking.try_join_next().is_some() {}
        if let Some(answer) = answer {
            // If it is lost, it is asked for again.
            self.asking.spawn(self.channel.lane.ask(&answer));
        }
    }

    /// A message has come behind later ones: it was missing, or is missing no more because all was
    /// repaired in another way, or nobody had it before. It is applied if it is newer, as any other.
    pub(super) async fn late(&mut self, message: &Message) {
        let position = message.position();
        let is_missed = position.is_some_and(|position| self.repair.misses(position));
        let is_applied = match message.key() {
            _ if message.version().is_none() => false,
            Some(key) if self.must_refill(key, message) => match self.channel.accept(message) {
                Ok(version) => {
                    self.counters.received.increment();
                    self.leases.update(key);
                    self.ledger.updated(key, Some(version), message.transaction());
                    self.refill(key, version);
                    true
                }
                Err(_) => false,
            },
            Some(key) if self.must_drop(key, message).await => {
                self.counters.received.increment();
                self.reject(key, None).await;
                true
            }
            None if self.holds_unversioned => false,
            _ => {
                self.message(message).await;
                true
            }
        };
        if is_applied {
            self.counters.replayed.increment();
            self.arrived(position);
        } else if is_missed {
            self.give_up_repairing().await;
        } else {
            self.counters.stale.increment();
        }
    }

    /// Whether what the source has of `key` is to be loaded instead of applying a late message: what
    /// the cache has, or has not, may be newer without a version to say so.
    fn must_refill(&self, key: &Key, message: &Message) -> bool {
        let is_ordered = self.channel.domain() == VersionDomain::Caller
            && message.kind() != Kind::Touch
            && self.cache.contains(key)
            && !self.holds_unversioned
            && !self.is_scanning;
        self.can_refill(key) && !is_ordered
    }

    /// Whether the key of a late message is dropped, because nothing tells whether what the cache has is
    /// newer: what was loaded without a version, and the end that a later touch may have given it.
    async fn must_drop(&mut self, key: &Key, message: &Message) -> bool {
        if self.settings.mode == Mode::Invalidate || !self.cache.contains(key) {
            return false;
        }
        if message.kind() != Kind::Touch || self.holds_unversioned {
            return self.holds_unversioned;
        }
        let resident = self.cache.version(key).await;
        message.version().is_some_and(|version| version.is_newer_than(resident))
    }

    /// A message was never sent: what it was about is known to be old, whatever it is now.
    async fn unsent(&mut self, position: Position, key: Option<Key>, version: Option<u64>) {
        let Some(key) = key else {
            return self.give_up_repairing().await;
        };
        self.never_sent(position);
        // It may have been a removal, and an older put of the key be under way still.
        self.unsettle();
        self.leases.update(&key);
        if self.can_refill(&key) {
            self.ledger.updated(&key, None, None);
            if !self.refills.ask(&key) {
                self.reload_soon();
            }
        } else {
            let resident = self.cache.version(&key).await;
            let version = version.map(|number| match self.channel.domain() {
                VersionDomain::Clock => Version::clock(number, Some(position.origin)),
                VersionDomain::Caller => Version::caller(number),
            });
            if version.is_none_or(|version| version.is_newer_than(resident)) {
                self.reject(&key, None).await;
            }
        }
        self.counters.replayed.increment();
        self.progress.handled(Some(position));
        self.arrived(Some(position));
    }

    /// What stood at `position` is in the cache now, or is being loaded, or is known not to come.
    pub(super) fn arrived(&mut self, position: Option<Position>) {
        if let Some(position) = position {
            let before = self.repair.gaps();
            self.repair.arrived(position);
            let after = self.repair.gaps();
            self.counters.replays_completed.add(before.saturating_sub(after) as u64);
            self.end_repair();
        }
    }

    /// Nothing is missing any more, once all is loaded that the repair asked for.
    pub(super) fn end_repair(&mut self) {
        if !self.repair.is_idle() {
            self.repaired_at = None;
            return;
        }
        if self.status.borrow().missing_since.is_none() {
            return;
        }
        let mark = *self.repaired_at.get_or_insert(self.refills.mark());
        if self.refills.has_passed(mark) {
            self.forget_missing();
        }
    }

    /// What was lost is known not to come back, or was waited for long enough.
    async fn give_up_repairing(&mut self) {
        self.counters.replays_failed.increment();
        let since = self.status.borrow().missing_since;
        self.repair_otherwise(self.repair.gap().unwrap_or(Gap::Unknown)).await;
        // The entries are suspect since they were, not since it was found that nothing helps.
        self.change(|status| {
            status.unrepaired_since =
                status.unrepaired_since.map(|at| since.map_or(at, |since| at.min(since)));
        });
        self.forget_missing();
    }

    /// What is being waited for is to be repaired in another way: by whoever was told of it.
    pub(super) fn lost_what_is_missing(&mut self) {
        let missing: Vec<Positions> = self.repair.missing().collect();
        self.lost(missing);
    }

    /// What was being waited for is repaired in another way.
    pub(super) fn forget_missing(&mut self) {
        self.repair.forget();
        self.repaired_at = None;
        self.news = None;
        if self.status.borrow().missing_since.is_some() {
            self.change(|status| status.missing_since = None);
        }
    }
}
