//! The figures on record: a table that a run adds to, and a page and plots of all that it holds.

#[path = "../machine.rs"]
mod machine;
mod page;
mod plot;
mod setup;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use self::setup::Setup;
use crate::figures;
use crate::options::Bench;
use crate::report::{Figure, Ratio};
use crate::rounds::Spread;

const TABLE: &str = "figures.csv";

/// What a run adds to the record.
#[derive(Debug)]
pub struct Recording {
    folder: PathBuf,
    /// Of earlier runs.
    earlier: Vec<Row>,
    /// Of this one.
    added: Vec<Row>,
}

/// One figure, as it stands in the table.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Row {
    name: String,
    unit: String,
    goal: String,
    outcome: Outcome,
    rounds: usize,
    ours_median: f64,
    ours_least: f64,
    ours_most: f64,
    raw_median: Option<f64>,
    raw_least: Option<f64>,
    raw_most: Option<f64>,
    ratio_median: Option<f64>,
    ratio_least: Option<f64>,
    ratio_most: Option<f64>,
    ratio_is: Ratio,
    /// Where the goal lies for our value, if there is one: a goal of the ratio is counted from the raw
    /// client's median.
    goal_for_ours: Option<f64>,
    note: String,
    /// When, UTC.
    measured: String,
    machine: String,
    versions: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Outcome {
    #[serde(rename = "OK")]
    Ok,
    #[serde(rename = "SHORT")]
    Short,
}

impl Recording {
    /// Adds to what is in `folder`, if anything is.
    ///
    /// # Errors
    /// If it has a table that cannot be read, or cannot be made.
    pub fn into_folder(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        let table = folder.join(TABLE);
        let earlier = if table.exists() { read(&table)? } else { Vec::new() };
        Ok(Self { folder: folder.to_owned(), earlier, added: Vec::new() })
    }

    /// Takes a figure that was measured now.
    pub fn add(&mut self, figure: &Figure) {
        self.added.push(Row::of(figure));
    }

    /// Writes the table, the page and the plots: of each figure what was measured last.
    ///
    /// # Errors
    /// If something cannot be written, or the machine cannot be described.
    pub fn write(&mut self, bench: &Bench) -> Result<()> {
        let Setup { machine, versions } = Setup::of(bench)?;
        for row in &mut self.added {
            row.machine.clone_from(&machine);
            row.versions.clone_from(&versions);
        }
        let rows = merged(&self.earlier, &self.added);
        save(&self.folder.join(TABLE), &rows)?;
        let plots = plot::write(&self.folder, &rows)?;
        let page = page::text(&rows, &plots);
        fs::write(self.folder.join("figures.md"), page).context("writing figures.md")
    }
}

/// The rows of all figures that there are, each the latest, in the order of the chapters.
fn merged(earlier: &[Row], added: &[Row]) -> Vec<Row> {
    let latest = |name: &str| added.iter().chain(earlier).find(|row| row.name == name);
    figures::names().filter_map(latest).cloned().collect()
}

fn read(table: &Path) -> Result<Vec<Row>> {
    let reading = || format!("reading {}, to which the figures are added", table.display());
    let mut reader = csv::Reader::from_path(table).with_context(reading)?;
    reader.deserialize().collect::<Result<_, _>>().with_context(reading)
}

fn save(table: &Path, rows: &[Row]) -> Result<()> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    rows.iter().try_for_each(|row| writer.serialize(row))?;
    let bytes = writer.into_inner().context("writing to memory")?;
    // Never half a table: the next run adds to it.
    let unfinished = table.with_extension("unfinished");
    fs::write(&unfinished, bytes)
        .and_then(|()| fs::rename(&unfinished, table))
        .with_context(|| format!("writing {}", table.display()))
}

impl Row {
    fn of(figure: &Figure) -> Self {
        let Figure { name, unit, ours, raw, ratio, ratio_is, rounds, goal, broken, note } = figure;
        let now = OffsetDateTime::now_utc();
        let broken = broken.iter().map(|what| format!("NOT: {what}; "));
        Self {
            name: name.clone(),
            unit: unit.clone(),
            goal: goal.words().unwrap_or_default(),
            outcome: if figure.is_ok() { Outcome::Ok } else { Outcome::Short },
            rounds: *rounds,
            ours_median: ours.median,
            ours_least: ours.least,
            ours_most: ours.most,
            raw_median: raw.map(|raw| raw.median),
            raw_least: raw.map(|raw| raw.least),
            raw_most: raw.map(|raw| raw.most),
            ratio_median: ratio.map(|ratio| ratio.median),
            ratio_least: ratio.map(|ratio| ratio.least),
            ratio_most: ratio.map(|ratio| ratio.most),
            ratio_is: *ratio_is,
            goal_for_ours: goal.for_ours(*raw, *ratio_is),
            note: broken.collect::<String>() + note,
            measured: format!("{} {:02}:{:02}", now.date(), now.hour(), now.minute()),
            machine: String::new(),
            versions: String::new(),
        }
    }

    fn ours(&self) -> Spread {
        Spread { median: self.ours_median, least: self.ours_least, most: self.ours_most }
    }

    fn raw(&self) -> Option<Spread> {
        Some(Spread { median: self.raw_median?, least: self.raw_least?, most: self.raw_most? })
    }

    fn ratio(&self) -> Option<Spread> {
        let (least, most) = (self.ratio_least?, self.ratio_most?);
        Some(Spread { median: self.ratio_median?, least, most })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::report::Goal;

    pub(super) fn row(name: &str, ours: f64) -> Row {
        let figure = Figure::of_values(name, "ns", ours, Some(2.0 * ours));
        let row = Row::of(&figure.with_goal(Goal::RatioAtMost(0.6)).with_note("a, \"b\" | c"));
        Row { machine: "A box".to_owned(), versions: "rustc 1.90.0".to_owned(), ..row }
    }

    #[test]
    fn rows_are_read_as_they_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let alone = Row::of(&Figure::of_ours("redis_tail_loss", "ms", &[1.0, 2.0, 4.0]));
        let rows = vec![row("replica_get", 30.25), alone];
        save(&folder.path().join(TABLE), &rows).expect("it is written");
        let recording = Recording::into_folder(folder.path()).expect("it is read");
        assert_eq!(recording.earlier, rows);
    }

    #[test]
    fn a_run_of_some_figures_leaves_the_others_and_drops_those_that_are_no_more() {
        let earlier =
            [row("replica_get", 30.0), row("was_renamed", 1.0), row("redis_publish_512", 5.0)];
        let added = [row("replica_get", 31.0), row("kafka_round_trip_p50", 9.0)];
        let merged = merged(&earlier, &added);
        let names: Vec<(&str, f64)> =
            merged.iter().map(|row| (row.name.as_str(), row.ours_median)).collect();
        let expected =
            [("redis_publish_512", 5.0), ("kafka_round_trip_p50", 9.0), ("replica_get", 31.0)];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_table_that_is_none_is_not_written_over() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(TABLE), "name\nx\n").expect("it is written");
        let error = Recording::into_folder(folder.path()).expect_err("no row");
        assert!(format!("{error:#}").contains("to which the figures are added"), "{error:#}");
    }
}
