//! The lines that a run prints.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rounds::{Rounds, Spread};

/// One measured figure.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Figure {
    /// What was measured.
    pub name: String,
    /// Our values in the rounds.
    pub ours: Spread,
    /// The raw client's, where there is one to compare with.
    pub raw: Option<Spread>,
    /// The unit of both.
    pub unit: String,
    /// The ratios of paired rounds.
    pub ratio: Option<Spread>,
    /// What the ratio says.
    pub ratio_is: Ratio,
    /// How many rounds there were.
    pub rounds: usize,
    /// What is to be reached.
    pub goal: Goal,
    /// What must hold besides the goal, and does not.
    pub broken: Vec<String>,
    /// What a reader should know.
    pub note: String,
}

/// What a figure is to reach.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Nothing: the figure informs.
    None,
    /// A ratio of at least this.
    RatioAtLeast(f64),
    /// A ratio of at most this.
    RatioAtMost(f64),
    /// A value of ours of at least this.
    OursAtLeast(f64),
    /// A value of ours of at most this.
    OursAtMost(f64),
}

/// What a ratio says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Ours as a part of raw.
    OursToRaw,
    /// How many times faster ours is, where both are times.
    SpeedUp,
}

impl Figure {
    /// A figure measured in paired rounds.
    #[must_use]
    pub fn of_rounds(name: &str, unit: &str, rounds: &Rounds, ratio: Ratio) -> Self {
        Self {
            raw: Some(rounds.raw()),
            ratio: Some(rounds.ratios(ratio)),
            ratio_is: ratio,
            rounds: rounds.len(),
            ..Self::alone(name, unit, rounds.ours())
        }
    }

    /// A figure that was measured in `values.len()` rounds, with nothing to compare it with.
    #[must_use]
    pub fn of_ours(name: &str, unit: &str, values: &[f64]) -> Self {
        let ours = Spread::of(values.iter().copied());
        Self { rounds: values.len(), ..Self::alone(name, unit, ours) }
    }

    /// A figure that is the same in every round.
    #[must_use]
    pub fn of_values(name: &str, unit: &str, ours: f64, raw: Option<f64>) -> Self {
        let ratio = raw.filter(|raw| *raw > 0.0).map(|raw| Spread::at(ours / raw));
        Self { raw: raw.map(Spread::at), ratio, ..Self::alone(name, unit, Spread::at(ours)) }
    }

    fn alone(name: &str, unit: &str, ours: Spread) -> Self {
        Self {
            name: name.to_owned(),
            ours,
            raw: None,
            unit: unit.to_owned(),
            ratio: None,
            ratio_is: Ratio::OursToRaw,
            rounds: 1,
            goal: Goal::None,
            broken: Vec::new(),
            note: String::new(),
        }
    }

    /// The same figure with a goal.
    #[must_use]
    pub fn with_goal(self, goal: Goal) -> Self {
        Self { goal, ..self }
    }

    /// The same figure with a note.
    #[must_use]
    pub fn with_note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// The same figure, which is short unless `holds`.
    #[must_use]
    pub fn requiring(mut self, holds: bool, what: impl Into<String>) -> Self {
        if !holds {
            self.broken.push(what.into());
        }
        self
    }

    /// Whether the goal is reached.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.broken.is_empty() && self.goal.is_reached(self)
    }
}

impl Goal {
    fn is_reached(self, figure: &Figure) -> bool {
        match self {
            Self::None => true,
            Self::RatioAtLeast(least) => figure.ratio.is_some_and(|ratio| ratio.median >= least),
            Self::RatioAtMost(most) => figure.ratio.is_some_and(|ratio| ratio.median <= most),
            Self::OursAtLeast(least) => figure.ours.median >= least,
            Self::OursAtMost(most) => figure.ours.median <= most,
        }
    }

    fn value(self) -> String {
        match self {
            Self::None => "-".to_owned(),
            Self::RatioAtLeast(value)
            | Self::RatioAtMost(value)
            | Self::OursAtLeast(value)
            | Self::OursAtMost(value) => value.to_string(),
        }
    }

    /// The value of ours that reaches it, beside a raw client that gave `raw`.
    pub(crate) fn for_ours(self, raw: Option<Spread>, ratio: Ratio) -> Option<f64> {
        match self {
            Self::None => None,
            Self::OursAtLeast(value) | Self::OursAtMost(value) => Some(value),
            Self::RatioAtLeast(part) | Self::RatioAtMost(part) => {
                let raw = raw?.median;
                Some(if ratio == Ratio::OursToRaw { raw * part } else { raw / part })
            }
        }
    }

    /// What it asks for, for people.
    pub(crate) fn words(self) -> Option<String> {
        let (of, bound) = match self {
            Self::None => return None,
            Self::RatioAtLeast(_) => ("ratio", "at least"),
            Self::RatioAtMost(_) => ("ratio", "at most"),
            Self::OursAtLeast(_) => ("ours", "at least"),
            Self::OursAtMost(_) => ("ours", "at most"),
        };
        Some(format!("{of} {bound} {}", self.value()))
    }
}

/// The two lines of a figure: `bench:` for the goal, `bench-spread:` for how sure it is.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, unit, .. } = self;
        let none = || "-".to_owned();
        let raw = self.raw.map_or_else(none, |raw| format!("{} {unit}", number(raw.median)));
        let ratio = self.ratio.map_or_else(none, |ratio| format!("{:.3}", ratio.median));
        let outcome = if self.is_ok() { "ok" } else { "short" };
        let (ours, goal) = (number(self.ours.median), self.goal.value());
        writeln!(
            f,
            "bench: {name} ours={ours} {unit} raw={raw} ratio={ratio} goal={goal} {outcome}"
        )?;
        write!(f, "bench-spread: {name} {}", self.details().join("; "))
    }
}

impl Figure {
    fn details(&self) -> Vec<String> {
        let (what, spread) = match self.ratio {
            Some(ratio) => ("ratios", ratio),
            None => ("values", self.ours),
        };
        let Spread { least, most, .. } = spread;
        let spread = (self.rounds > 1)
            .then(|| format!("{what} {least:.3}..{most:.3} in {} rounds", self.rounds));
        let note = Some(self.note.clone()).filter(|note| !note.is_empty());
        let broken = self.broken.iter().map(|what| format!("NOT: {what}"));
        spread
            .into_iter()
            .chain(self.goal.words().map(|words| format!("goal: {words}")))
            .chain(broken)
            .chain(note)
            .collect()
    }
}

/// As many digits as matter.
pub(crate) fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size < 10.0 => format!("{value:.2}"),
        size if size < 1000.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_line_that_scripts_can_read() {
        let figure =
            Figure::of_values("reads", "ns", 30.0, Some(40.0)).with_goal(Goal::RatioAtMost(0.7));
        let shown = figure.to_string();
        let line = shown.lines().next().expect("two lines");
        assert_eq!(line, "bench: reads ours=30.0 ns raw=40.0 ns ratio=0.750 goal=0.7 short");
    }

    #[test]
    fn a_broken_requirement_is_short_whatever_the_goal() {
        let figure =
            Figure::of_values("stale", "keys", 0.0, Some(9.0)).with_goal(Goal::OursAtMost(0.0));
        assert!(figure.is_ok());
        let broken = figure.requiring(false, "a gap was seen");
        assert!(!broken.is_ok() && broken.to_string().contains("NOT: a gap was seen"));
    }
}
