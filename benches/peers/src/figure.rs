//! The figures, and what several rounds of one say.

use crate::measure::{MANY_READERS, READERS, WRITES};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Figure {
    PropagationP50,
    PropagationP99,
    WriteP50,
    WriteCpu,
    Hit,
    WireRowsElsewhere,
    WireRowsInRedis,
    WireRowsElsewhere16,
    WireRowsInRedis16,
    WireAtRest,
    Stale,
    StaleAcknowledged,
    Refused,
}

impl Figure {
    /// All, in the order of the table.
    pub(crate) const ALL: [Self; 13] = [
        Self::PropagationP50,
        Self::PropagationP99,
        Self::WriteP50,
        Self::WriteCpu,
        Self::Hit,
        Self::WireRowsElsewhere,
        Self::WireRowsInRedis,
        Self::WireRowsElsewhere16,
        Self::WireRowsInRedis16,
        Self::WireAtRest,
        Self::Stale,
        Self::StaleAcknowledged,
        Self::Refused,
    ];

    /// As the CSV has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::PropagationP50 => "propagation_p50",
            Self::PropagationP99 => "propagation_p99",
            Self::WriteP50 => "write_p50",
            Self::WriteCpu => "write_cpu",
            Self::Hit => "hit",
            Self::WireRowsElsewhere => "wire_rows_elsewhere",
            Self::WireRowsInRedis => "wire_rows_in_redis",
            Self::WireRowsElsewhere16 => "wire_rows_elsewhere_16_readers",
            Self::WireRowsInRedis16 => "wire_rows_in_redis_16_readers",
            Self::WireAtRest => "wire_at_rest",
            Self::Stale => "stale_after_kill",
            Self::StaleAcknowledged => "stale_after_kill_acknowledged",
            Self::Refused => "writes_not_acknowledged",
        }
    }

    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::PropagationP50 | Self::PropagationP99 | Self::WriteP50 | Self::WriteCpu => "us",
            Self::Hit => "ns",
            Self::WireRowsElsewhere
            | Self::WireRowsInRedis
            | Self::WireRowsElsewhere16
            | Self::WireRowsInRedis16 => "bytes",
            Self::WireAtRest => "bytes/s",
            Self::Stale | Self::StaleAcknowledged => "entries",
            Self::Refused => "writes",
        }
    }

    /// Whether less is better. To refuse a write is better than to lose it.
    pub(crate) fn is_ranked(self) -> bool {
        self != Self::Refused
    }

    /// As the table has it.
    pub(crate) fn title(self) -> String {
        match self {
            Self::PropagationP50 => "propagation, p50".to_owned(),
            Self::PropagationP99 => "propagation, p99".to_owned(),
            Self::WriteP50 => "call of a write, p50".to_owned(),
            Self::WriteCpu => "CPU of the writer's thread, a write".to_owned(),
            Self::Hit => "read of what is there".to_owned(),
            Self::WireRowsElsewhere => {
                format!("wire, a write, {READERS} readers, rows in another database")
            }
            Self::WireRowsInRedis => format!("wire, a write, {READERS} readers, rows in Redis"),
            Self::WireRowsElsewhere16 => {
                format!("wire, a write, {MANY_READERS} readers, rows in another database")
            }
            Self::WireRowsInRedis16 => {
                format!("wire, a write, {MANY_READERS} readers, rows in Redis")
            }
            Self::WireAtRest => format!("wire at rest, {READERS} readers and a writer"),
            Self::Stale => {
                format!("stale after a kill, of {} entries", READERS * WRITES)
            }
            Self::StaleAcknowledged => "of them, write was acknowledged".to_owned(),
            Self::Refused => format!("writes not acknowledged, of {WRITES}"),
        }
    }
}

/// Several values in three numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Spread {
    /// Of `values`, if there are any.
    pub(crate) fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let half = values.len() / 2;
        let is_odd = values.len() % 2 == 1;
        let lower = if is_odd { values[half] } else { values[half - 1] };
        Some(Self { median: f64::midpoint(lower, values[half]), least, most })
    }
}

/// A value with as many digits as say something.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 || large.fract() == 0.0 => format!("{value:.0}"),
        small if small >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_value_in_the_middle() {
        let odd = Spread::of(vec![3.0, 1.0, 9.0]).expect("there are values");
        assert_eq!(odd, Spread { median: 3.0, least: 1.0, most: 9.0 });
        let even = Spread::of(vec![4.0, 1.0, 2.0, 9.0]).expect("there are values");
        assert_eq!(even, Spread { median: 3.0, least: 1.0, most: 9.0 });
        assert_eq!(Spread::of(Vec::new()), None);
    }
}
