//! Nobody looks at metrics: types without a size, and calls that do nothing.
#![allow(clippy::unused_self, reason = "the same calls as where somebody looks")]

use std::time::Duration;

use super::Labels;
use crate::cache::State;
use crate::metrics::Metric;

// With a field, because Clippy wants `default()` of a unit written as the unit, which the other one is not.
#[derive(Default)]
pub(crate) struct Total(());

impl Total {
    pub(crate) fn of(_: Metric, _: &Labels) -> Self {
        Self(())
    }

    pub(crate) fn add(&self, _: u64) {}
}

pub(crate) struct Seconds;

#[derive(Clone, Copy)]
pub(crate) struct Stopwatch;

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self
    }
}

impl Seconds {
    pub(crate) fn of(_: Metric, _: &Labels) -> Self {
        Self
    }

    pub(crate) fn stop(&self, _: Stopwatch) {}

    pub(crate) fn record(&self, _: Duration) {}
}

pub(crate) struct States;

impl States {
    pub(crate) fn of(_: &Labels) -> Self {
        Self
    }

    pub(crate) fn show(&self, _: State) {}
}
