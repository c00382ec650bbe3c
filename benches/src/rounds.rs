//! Paired rounds: ours, raw, ours, raw, … and what they say together.

use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::report::Ratio;

/// How often and how long everything is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Pairs of rounds.
    pub rounds: usize,
    /// How long one round takes at least.
    pub round: Duration,
}

/// What the rounds gave, pair by pair.
#[derive(Debug)]
pub struct Rounds {
    pairs: Vec<(f64, f64)>,
}

/// Several values in three numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The one in the middle.
    pub median: f64,
    /// The smallest.
    pub least: f64,
    /// The largest.
    pub most: f64,
}

impl Plan {
    /// Measures ours and raw in turns, after a short round of each that does not count.
    ///
    /// # Errors
    /// Whatever a round fails with.
    pub fn interleave(
        self,
        mut ours: impl FnMut(Duration) -> Result<f64>,
        mut raw: impl FnMut(Duration) -> Result<f64>,
    ) -> Result<Rounds> {
        self.together(|round| Ok((ours(round)?, raw(round)?)))
    }

    /// Measures ours and raw where both work on the same thing, made anew in each round.
    ///
    /// # Errors
    /// Whatever a round fails with.
    pub fn together(self, mut both: impl FnMut(Duration) -> Result<(f64, f64)>) -> Result<Rounds> {
        both(self.round / 4)?;
        let pairs = (0..self.rounds).map(|_| both(self.round));
        Ok(Rounds { pairs: pairs.collect::<Result<_>>()? })
    }
}

impl Rounds {
    /// How many pairs there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Our values.
    #[must_use]
    pub fn ours(&self) -> Spread {
        Spread::of(self.pairs.iter().map(|(ours, _)| *ours))
    }

    /// The raw client's values.
    #[must_use]
    pub fn raw(&self) -> Spread {
        Spread::of(self.pairs.iter().map(|(_, raw)| *raw))
    }

    /// The ratios of the pairs.
    #[must_use]
    pub fn ratios(&self, ratio: Ratio) -> Spread {
        Spread::of(self.pairs.iter().map(|(ours, raw)| match ratio {
            Ratio::OursToRaw => ours / raw,
            Ratio::SpeedUp => raw / ours,
        }))
    }
}

impl Spread {
    /// Of `values`.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Self {
        Self {
            median: median(values.clone()),
            least: values.clone().fold(f64::INFINITY, f64::min),
            most: values.fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// Of one value.
    #[must_use]
    pub fn at(value: f64) -> Self {
        Self { median: value, least: value, most: value }
    }

    /// All of it, as a part of `whole`.
    #[must_use]
    pub fn over(self, whole: f64) -> Self {
        let Self { median, least, most } = self;
        Self { median: median / whole, least: least / whole, most: most / whole }
    }
}

/// The value in the middle; of two in the middle, their mean.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let half = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[half],
        _ => f64::midpoint(values[half - 1], values[half]),
    }
}

/// The CPU time of this thread: for what runs on one thread and never waits, where it is the time
/// that an idle machine would take, however busy this one is.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime(Duration);

impl CpuTime {
    /// The time so far.
    #[must_use]
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Self(time.try_into().unwrap_or_default())
    }

    /// The time since then, on the same thread.
    #[must_use]
    pub fn elapsed(self) -> Duration {
        Self::now().0.saturating_sub(self.0)
    }
}

/// The CPU time of all threads of this process so far.
#[must_use]
pub fn process_cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.try_into().unwrap_or_default()
}

/// Repeats `pass`, of that many operations, until `round` is over. Nanoseconds of CPU time per
/// operation.
pub fn nanoseconds(round: Duration, operations: usize, mut pass: impl FnMut()) -> f64 {
    let began = CpuTime::now();
    let mut passes = 0;
    while began.elapsed() < round {
        pass();
        passes += 1;
    }
    began.elapsed().as_secs_f64() * 1e9 / per(passes * operations)
}

/// `count` operations in `time`, a second.
#[must_use]
pub fn rate(count: u64, time: Duration) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "no bench counts to 2^53")]
    let count = count as f64;
    count / time.as_secs_f64()
}

/// `count` as a divisor.
#[must_use]
pub fn per(count: usize) -> f64 {
    #[allow(clippy::cast_precision_loss, reason = "no bench counts to 2^53")]
    let count = count as f64;
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_the_pairs_and_not_of_the_sides() {
        let rounds = Rounds { pairs: vec![(1.0, 1.0), (10.0, 5.0), (3.0, 9.0)] };
        let ratios = rounds.ratios(Ratio::OursToRaw);
        assert!((ratios.median - 1.0).abs() < 1e-9 && (ratios.most - 2.0).abs() < 1e-9);
        assert!((rounds.ratios(Ratio::SpeedUp).most - 3.0).abs() < 1e-9);
        assert!((median([1.0, 4.0].into_iter()) - 2.5).abs() < 1e-9);
    }
}
