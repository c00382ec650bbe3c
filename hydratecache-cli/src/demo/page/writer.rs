//! The one writer: it writes rows at a stated rate, and publishes each once the table has it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hydratecache::{Channel, Publish};
use rand::rngs::Xoshiro256PlusPlus;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::table::{Population, Table, Written};

/// How many publishes may be under way. Behind that the writer waits for the broker.
const UNDER_WAY: usize = 8192;

/// How many messages are remembered to be shown.
const SHOWN: usize = 8;

/// How often the writer writes what is due by then, at high rates.
const PACE: Duration = Duration::from_millis(5);

/// How much of what was due is made up for.
const MOST_DUE: Duration = Duration::from_millis(100);

/// What the writer does, for all to see. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Output(Arc<Mutex<Doing>>);

/// What the writer has done so far, and is doing.
#[derive(Clone, Default)]
pub(super) struct Doing {
    /// Rows that were written.
    pub(super) written: u64,
    /// Messages that the broker has.
    pub(super) published: u64,
    /// Messages that it has not, or may not have.
    pub(super) failed: u64,
    /// Why the latest publish failed, until one succeeds.
    pub(super) trouble: Option<String>,
    /// Whether too many publishes are under way for more.
    pub(super) waits: bool,
    /// The latest writes, oldest first.
    pub(super) latest: VecDeque<Line>,
}

/// A write, as it is shown.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) key: String,
    pub(super) city: String,
    pub(super) country: String,
    pub(super) people: u64,
}

impl Output {
    pub(super) fn doing(&self) -> MutexGuard<'_, Doing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The one writer.
pub(super) struct Writer {
    pub(super) table: Table,
    pub(super) channel: Channel<Population>,
    pub(super) random: Xoshiro256PlusPlus,
    pub(super) output: Output,
    /// Rows a second.
    pub(super) rate: watch::Receiver<u32>,
}

impl Writer {
    /// Writes until this future is dropped.
    ///
    /// A publish that fails is not repeated: the channel tells those who miss its number which row it
    /// was, and they load it.
    pub(super) async fn write(mut self) {
        let mut pace = interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut publishing = FuturesUnordered::<Publish>::new();
        let mut budget = Budget::new(*self.rate.borrow());
        loop {
            tokio::select! {
                _ = pace.tick() => {
                    let due = budget.due(*self.rate.borrow(), Instant::now());
                    let room = UNDER_WAY - publishing.len();
                    self.output.doing().waits = due > room;
                    for _ in 0..due.min(room) {
                        publishing.push(self.write_one());
                    }
                }
                Some(published) = publishing.next() => self.note(published),
            }
        }
    }

    fn write_one(&mut self) -> Publish {
        let Written { key, version, row } = self.table.write(&mut self.random);
        let publish = self.channel.put(&key, &row).version(version).into_future();
        let mut doing = self.output.doing();
        doing.written += 1;
        if doing.latest.len() == SHOWN {
            doing.latest.pop_front();
        }
        let Population { city, country, people, .. } = row;
        let key = key.as_str().to_owned();
        let number = doing.written;
        doing.latest.push_back(Line { number, key, city, country, people });
        publish
    }

    fn note(&self, published: <Publish as Future>::Output) {
        let mut doing = self.output.doing();
        match published {
            Ok(_) => {
                doing.published += 1;
                doing.trouble = None;
            }
            Err(error) => {
                doing.failed += 1;
                doing.trouble = Some(error.kind().to_string());
            }
        }
    }
}

/// How many rows are due, in whole ones, so that rates below the pace are kept too.
struct Budget {
    counted_to: Instant,
    /// A part of a row, in billionths.
    rest: u128,
    rate: u32,
}

impl Budget {
    fn new(rate: u32) -> Self {
        Self { counted_to: Instant::now(), rest: 0, rate }
    }

    fn due(&mut self, rate: u32, now: Instant) -> usize {
        let passed = (now - self.counted_to).min(MOST_DUE);
        self.counted_to = now;
        if rate != self.rate {
            (self.rate, self.rest) = (rate, 0);
        }
        self.rest += passed.as_nanos() * u128::from(rate);
        let due = self.rest / 1_000_000_000;
        self.rest %= 1_000_000_000;
        usize::try_from(due).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn every_rate_is_kept_and_little_is_made_up_for() {
        let mut budget = Budget::new(0);
        for rate in [0, 1, 10, 999, 5000] {
            let mut due = budget.due(rate, Instant::now());
            for _ in 0..3000 {
                tokio::time::advance(Duration::from_millis(7)).await;
                due += budget.due(rate, Instant::now());
            }
            let expected = usize::try_from(rate * 21).expect("small");
            assert!(due.abs_diff(expected) <= 1, "{due} at {rate}");
        }
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(budget.due(5000, Instant::now()), 500);
    }
}
