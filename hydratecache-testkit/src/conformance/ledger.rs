//! What one subscription said, against what the broker accepted.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use hydratecache::{Origin, Signal};

use super::trial::{Promise, identity};

/// Keeps account of the messages of numbered publishers in one subscription.
pub(super) struct Ledger {
    promise: Promise,
    heard: HashMap<Origin, Heard>,
    /// Jumps that no gap stands for. A fault only if the broker accepted what was jumped over.
    unexplained: Vec<(Origin, RangeInclusive<u64>)>,
    gaps: u64,
    pub(super) received: u64,
    /// The sum of all gaps of known size.
    pub(super) lost: u64,
    /// How many gaps had no known size.
    pub(super) unknown: u64,
}

#[derive(Clone, Copy, Default)]
struct Heard {
    last: u64,
    /// How many gaps the subscription had yielded by then.
    gaps: u64,
}

impl Ledger {
    pub(super) fn new(promise: Promise) -> Self {
        Self {
            promise,
            heard: HashMap::new(),
            unexplained: Vec::new(),
            gaps: 0,
            received: 0,
            lost: 0,
            unknown: 0,
        }
    }

    pub(super) fn enter_all<'a>(&mut self, signals: impl IntoIterator<Item = &'a Signal>) {
        for signal in signals {
            self.enter(signal);
        }
    }

    pub(super) fn enter(&mut self, signal: &Signal) {
        match signal {
            Signal::Message(message) => match identity(message) {
                Some((origin, number)) => self.message(origin, number),
                None => self.promise.broken(format!("a message arrived damaged: {message:?}")),
            },
            Signal::Gap(gap) => {
                self.gaps += 1;
                match gap.exact() {
                    Some(count) => self.lost += count,
                    None => self.unknown += 1,
                }
            }
            Signal::Rejected(rejection) => {
                self.promise.broken(format!("a good message was rejected: {rejection}"));
            }
            _ => {}
        }
    }

    fn message(&mut self, origin: Origin, number: u64) {
        self.received += 1;
        let now = Heard { last: number, gaps: self.gaps };
        let before = self.heard.insert(origin, now).unwrap_or_default();
        self.promise.require(number > before.last, || {
            format!("{origin} sent {number} once, and it arrived after {}", before.last)
        });
        if number > before.last + 1 && before.gaps == self.gaps {
            self.unexplained.push((origin, before.last + 1..=number - 1));
        }
    }

    /// The last number heard of `origin`, 0 if none was.
    pub(super) fn heard(&self, origin: Origin) -> u64 {
        self.heard.get(&origin).map_or(0, |heard| heard.last)
    }

    /// The last number heard of `origin`, or `u64::MAX` if a gap behind it covers all that is
    /// missing.
    pub(super) fn proven(&self, origin: Origin) -> u64 {
        let heard = self.heard.get(&origin).copied().unwrap_or_default();
        if heard.gaps == self.gaps { heard.last } else { u64::MAX }
    }

    /// Every number in `accepted`, which `origin` published and the broker has, was received or
    /// lies in a gap.
    pub(super) fn check(&self, origin: Origin, accepted: impl IntoIterator<Item = u64>) {
        let proven = self.proven(origin);
        let silent = |number: &u64| {
            let jumped = |(who, jump): &(Origin, RangeInclusive<u64>)| {
                *who == origin && jump.contains(number)
            };
            *number > proven || self.unexplained.iter().any(jumped)
        };
        let lost: Vec<u64> = accepted.into_iter().filter(silent).collect();
        self.promise.require(lost.is_empty(), || {
            let some = &lost[..lost.len().min(20)];
            format!("the broker accepted {} messages of {origin} that neither arrived nor lie in a gap: {some:?}", lost.len())
        });
    }
}
