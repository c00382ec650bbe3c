//! Counts that are kept, and the comparison with them.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, Error, Result, ensure};

use crate::counted::SYMBOL;
use crate::setup::Setup;

/// By how much a count may differ.
const TOLERANCE: f64 = 0.03;

/// What a run counted, and where.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Baseline {
    pub(crate) setup: Setup,
    /// Instructions of each path, each time that it is taken.
    pub(crate) counts: Vec<(String, f64)>,
}

/// What is different from a baseline.
#[derive(Debug)]
pub(crate) struct Comparison {
    lines: Vec<Line>,
    differences: Vec<String>,
}

#[derive(Debug)]
struct Line {
    name: String,
    /// None: the baseline does not have it, or it is not there any more.
    kept: Option<f64>,
    here: Option<f64>,
}

impl Baseline {
    /// Compares with what was counted `here`.
    pub(crate) fn compare(&self, here: &Self) -> Comparison {
        let find = |counts: &[(String, f64)], name: &str| {
            counts.iter().find(|(found, _)| found == name).map(|(_, count)| *count)
        };
        let of_here = here.counts.iter().map(|(name, count)| Line {
            name: name.clone(),
            kept: find(&self.counts, name),
            here: Some(*count),
        });
        let gone = self.counts.iter().filter(|(name, _)| find(&here.counts, name).is_none());
        let gone =
            gone.map(|(name, count)| Line { name: name.clone(), kept: Some(*count), here: None });
        Comparison {
            lines: of_here.chain(gone).collect(),
            differences: self.setup.differences(&here.setup),
        }
    }
}

impl fmt::Display for Baseline {
    /// As a file that [`FromStr`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "# Instructions of the hot paths. `make instructions-baseline` writes this.")?;
        for (name, version) in &self.setup.parts {
            writeln!(f, "{name}: {version}")?;
        }
        writeln!(f)?;
        for (name, count) in &self.counts {
            writeln!(f, "{name} {count:.1}")?;
        }
        Ok(())
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut baseline = Self { setup: Setup { parts: Vec::new() }, counts: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some((name, version)) = line.split_once(": ") {
                baseline.setup.parts.push((name.to_owned(), version.to_owned()));
                continue;
            }
            let (name, count) =
                line.split_once(' ').with_context(|| format!("{line:?} is no name and count"))?;
            let count: f64 = count.parse().with_context(|| format!("{line:?} has no count"))?;
            ensure!(count.is_finite() && count > 0.0, "{line:?} has an impossible count");
            baseline.counts.push((name.to_owned(), count));
        }
        ensure!(!baseline.counts.is_empty(), "there is no count");
        Ok(baseline)
    }
}

impl Line {
    /// By which part of the baseline it is more.
    fn change(&self) -> Option<f64> {
        Some(self.here? / self.kept? - 1.0)
    }

    fn is_ok(&self) -> bool {
        self.change().is_some_and(|change| change.abs() <= TOLERANCE)
    }

    fn verdict(&self) -> &'static str {
        match (self.kept, self.here) {
            (None, _) => "NOT IN THE BASELINE",
            (_, None) => "NOT COUNTED ANY MORE",
            _ if self.is_ok() => "ok",
            _ if self.change().is_some_and(|change| change > 0.0) => "MORE",
            _ => "LESS",
        }
    }
}

impl Comparison {
    /// Whether every path takes what the baseline says.
    pub(crate) fn is_ok(&self) -> bool {
        !self.lines.is_empty() && self.lines.iter().all(Line::is_ok)
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |count: Option<f64>| count.map_or("-".to_owned(), |it| format!("{it:.1}"));
        writeln!(f, "{:<24} {:>12} {:>12} {:>8}", "path", "baseline", "here", "change")?;
        for line in &self.lines {
            let change = line.change().map_or("-".to_owned(), |it| format!("{:+.2} %", it * 100.0));
            let (kept, here) = (number(line.kept), number(line.here));
            writeln!(f, "{:<24} {kept:>12} {here:>12} {change:>8} {}", line.name, line.verdict())?;
        }
        if self.is_ok() {
            return writeln!(f, "Each is within {} % of the baseline.", TOLERANCE * 100.0);
        }
        writeln!(
            f,
            "\nSome paths take other counts of instructions than the baseline says, by more than {} %.",
            TOLERANCE * 100.0
        )?;
        for difference in &self.differences {
            writeln!(f, "Not the same as there: {difference}.")?;
        }
        if !self.differences.is_empty() {
            writeln!(
                f,
                "That may be all: run this without your change. If it fails as well, renew the \
                 baseline in a commit of its own, before your change."
            )?;
        }
        writeln!(
            f,
            "callgrind_annotate tells where, after: valgrind --tool=callgrind \
             --toggle-collect='{SYMBOL}' target/instructions/instructions path NAME"
        )?;
        writeln!(
            f,
            "If it is worth it, or if it is less: `make instructions-baseline`, and say why in the commit."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(compiler: &str, counts: &[(&str, f64)]) -> Baseline {
        let parts = vec![("compiler".to_owned(), compiler.to_owned())];
        let own = |(name, count): &(&str, f64)| ((*name).to_owned(), *count);
        Baseline { setup: Setup { parts }, counts: counts.iter().map(own).collect() }
    }

    #[test]
    fn a_baseline_is_read_as_it_was_written() {
        let written = counted("rustc 1.90.0", &[("encode", 321.5), ("decode", 1000.0)]);
        let read: Baseline = written.to_string().parse().expect("it is legal");
        assert_eq!(read, written);
        for text in ["", "# nothing\n", "encode\n", "encode x\n", "encode 0\n", "encode NaN\n"] {
            assert!(text.parse::<Baseline>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_change_of_more_than_three_percent_in_either_direction_fails() {
        let kept = counted("a", &[("encode", 1000.0)]);
        for (count, is_ok) in
            [(1000.0, true), (1029.0, true), (971.0, true), (1031.0, false), (969.0, false)]
        {
            let comparison = kept.compare(&counted("a", &[("encode", count)]));
            assert_eq!(comparison.is_ok(), is_ok, "{count}: {comparison}");
        }
    }

    #[test]
    fn a_path_that_only_one_of_both_has_fails() {
        let kept = counted("a", &[("encode", 1000.0)]);
        let more = counted("a", &[("encode", 1000.0), ("decode", 1.0)]);
        assert!(kept.compare(&more).to_string().contains("NOT IN THE BASELINE"));
        assert!(more.compare(&kept).to_string().contains("NOT COUNTED ANY MORE"));
        assert!(!kept.compare(&more).is_ok() && !more.compare(&kept).is_ok());
    }

    #[test]
    fn another_compiler_is_told_where_counts_differ_and_excuses_nothing() {
        let kept = counted("rustc 1.90.0", &[("encode", 1000.0)]);
        let comparison = kept.compare(&counted("rustc 1.91.0", &[("encode", 1100.0)]));
        let said = comparison.to_string();
        assert!(!comparison.is_ok() && said.contains("the baseline's is rustc 1.90.0"), "{said}");
        assert!(kept.compare(&counted("rustc 1.91.0", &[("encode", 1000.0)])).is_ok());
    }
}
