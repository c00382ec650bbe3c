//! The figures, in groups that share their preparation.

mod allocations;
mod by_hand;
mod digest;
mod envelope;
mod fence;
mod fresh_read;
mod hydrated;
mod memory;
mod publish;
mod reads;
mod replay;
mod round_trip;
mod rows;
mod stale;
mod subscribe;
mod warm_start;

use anyhow::Result;

use crate::options::Bench;
use crate::report::Figure;

/// Figures that are measured together.
#[derive(Debug)]
pub struct Group {
    /// What they are called.
    pub names: &'static [&'static str],
    /// Measures them.
    pub measure: fn(&Bench) -> Result<Vec<Figure>>,
}

/// Every figure.
pub const GROUPS: &[Group] = &[
    Group { names: publish::redis::IN_FLIGHT, measure: publish::redis::in_flight },
    Group { names: publish::redis::SEQUENTIAL, measure: publish::redis::sequential },
    Group { names: publish::nats::NAMES, measure: publish::nats::measure },
    Group { names: publish::postgres::NAMES, measure: publish::postgres::measure },
    Group { names: publish::kafka::NAMES, measure: publish::kafka::measure },
    Group { names: round_trip::redis::NAMES, measure: round_trip::redis::measure },
    Group { names: round_trip::nats::NAMES, measure: round_trip::nats::measure },
    Group { names: round_trip::postgres::NAMES, measure: round_trip::postgres::measure },
    Group { names: round_trip::kafka::NAMES, measure: round_trip::kafka::measure },
    Group { names: subscribe::NAMES, measure: subscribe::measure },
    Group { names: memory::PRODUCTS, measure: memory::products },
    Group { names: memory::SESSIONS, measure: memory::sessions },
    Group { names: reads::SHARED, measure: reads::shared },
    Group { names: reads::PINNED, measure: reads::pinned },
    Group { names: reads::WITH_TTL, measure: reads::with_ttl },
    Group { names: reads::MOKA, measure: reads::moka },
    Group { names: hydrated::REPLICA, measure: hydrated::replica },
    Group { names: hydrated::MOKA, measure: hydrated::moka },
    Group { names: fence::NAMES, measure: fence::measure },
    Group { names: fence::FLEET, measure: fence::fleet },
    Group { names: fresh_read::NAMES, measure: fresh_read::measure },
    Group { names: envelope::NAMES, measure: envelope::measure },
    Group { names: allocations::NAMES, measure: allocations::measure },
    Group { names: stale::NAMES, measure: stale::measure },
    Group { names: replay::NAMES, measure: replay::measure },
    Group { names: digest::NAMES, measure: digest::measure },
    Group { names: warm_start::NAMES, measure: warm_start::measure },
];

/// The names of all figures.
pub fn names() -> impl Iterator<Item = &'static str> {
    GROUPS.iter().flat_map(|group| group.names).copied()
}
