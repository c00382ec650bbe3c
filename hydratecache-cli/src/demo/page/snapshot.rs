//! What the page shows, as it is sent.

use std::time::Duration;

use hdrhistogram::Histogram;
use hydratecache::cache::HydrationStats;
use serde::Serialize;

use super::journal::Entry;
use super::link::Harm;
use super::seat::{Seen, Standing};
use super::table::Asked;
use super::tally::{Counts, Tally};
use super::writer::{Doing, Line};

/// Everything that the page shows at one moment. Counts are exact; only how often they are sent is
/// limited.
#[derive(Serialize)]
pub(super) struct Snapshot {
    pub(super) seconds: u64,
    pub(super) rows: usize,
    pub(super) writer: Writing,
    pub(super) broker: BrokerState,
    pub(super) fleet: Fleet,
    pub(super) replicas: Vec<Tile>,
    /// The latest messages, the newest last.
    pub(super) messages: Vec<Line>,
    /// What happened lately, the newest last.
    pub(super) events: Vec<Entry>,
}

#[derive(Serialize)]
pub(super) struct Writing {
    pub(super) rate: u32,
    /// Rows in the last second.
    pub(super) per_second: u64,
    pub(super) written: u64,
    pub(super) published: u64,
    pub(super) failed: u64,
    pub(super) waits: bool,
    pub(super) trouble: Option<String>,
    pub(super) link: Harm,
}

#[derive(Serialize)]
pub(super) struct BrokerState {
    pub(super) name: &'static str,
    pub(super) phase: Phase,
    pub(super) can_be_killed: bool,
    pub(super) links_can_fail: bool,
    /// Why the latest attempt to kill or to start it failed.
    pub(super) trouble: Option<String>,
}

/// Where a broker is between life and death.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Phase {
    Up,
    /// It is being killed.
    Dying,
    Dead,
    /// It is being started.
    Starting,
}

/// Sums over all replicas, the lives that ended included.
#[derive(Serialize)]
pub(super) struct Fleet {
    pub(super) propagation: Quantiles,
    #[serde(flatten)]
    pub(super) totals: Totals,
    /// How often the table was asked.
    pub(super) database: Asked,
}

/// From written to visible in a replica, in the last five to ten seconds, in microseconds. 0: nothing was
/// written.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Quantiles {
    p50: u64,
    p99: u64,
}

/// What adds up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Totals {
    applied: u64,
    reads: u64,
    reads_avoided: u64,
    disruptions: u64,
    gaps: u64,
    missed: u64,
    /// Gaps that publishers closed, by sending again what was lost.
    repairs_by_publisher: u64,
    /// Fills and repairs by another replica.
    repairs_by_replica: u64,
    /// Fills and repairs by reading the whole table.
    repairs_by_database: u64,
}

#[derive(Serialize)]
pub(super) struct Tile {
    number: usize,
    standing: Standing,
    proven_millis: Option<u64>,
    suspect_millis: Option<u64>,
    /// Rows that differ from the table right now, those under way included.
    behind: usize,
    applied: u64,
    gaps: u64,
    missed: u64,
    propagation: Quantiles,
    trouble: Option<String>,
    link: Harm,
}

impl Writing {
    pub(super) fn of(doing: &Doing, rate: u32, per_second: u64, link: Harm) -> Self {
        let Doing { written, published, failed, waits, ref trouble, .. } = *doing;
        Self { rate, per_second, written, published, failed, waits, trouble: trouble.clone(), link }
    }
}

impl Quantiles {
    pub(super) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self { p50: at(0.5), p99: at(0.99) }
    }
}

impl Totals {
    /// What one life of a replica adds.
    pub(super) fn add(&mut self, counts: Counts, stats: &HydrationStats) {
        let Counts { applied, reads, avoided } = counts;
        for (total, count) in [
            (&mut self.applied, applied),
            (&mut self.reads, reads),
            (&mut self.reads_avoided, avoided),
            (&mut self.disruptions, stats.disruptions),
            (&mut self.gaps, stats.gaps),
            (&mut self.missed, stats.missed),
            (&mut self.repairs_by_publisher, stats.replays_completed),
            (&mut self.repairs_by_replica, stats.copies),
            (&mut self.repairs_by_database, stats.reloads),
        ] {
            *total += count;
        }
    }
}

impl Tile {
    pub(super) fn of(number: usize, seen: &Seen<'_>, link: Harm, propagation: Quantiles) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            number,
            standing: seen.standing,
            proven_millis: seen.proven_within.map(millis),
            suspect_millis: seen.suspect_for.map(millis),
            behind: seen.tally.map_or(0, Tally::behind),
            applied: seen.tally.map_or(0, |tally| tally.counts().applied),
            gaps: seen.stats.gaps,
            missed: seen.stats.missed,
            propagation,
            trouble: seen.trouble.clone(),
            link,
        }
    }
}
