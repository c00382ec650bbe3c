//! The page with all figures.

use std::fmt::Write as _;

use super::{Outcome, Row};
use crate::figures::{CHAPTERS, Chapter};
use crate::report::{Ratio, number};
use crate::rounds::Spread;

const HEAD: &str = "# Figures

`make benchmarks` writes this page, [the table](figures.csv) and the plots; with \
`BENCH=\"--only NAME\"` it measures some of the figures again and keeps the others.

A figure is measured in rounds, ours and raw in turns: raw is the broker's own client, or the \
library underneath, in the same process, set up as well as we know. Each cell has the median of the \
rounds, and in brackets the least and the most. The ratio is that of a pair of rounds, so that what \
slows the machine down for a while slows both down alike; ours / raw, unless it says *times faster*. \
A goal of the ratio is reached if the median is. Brokers run on the same machine as the bench.
";

/// All of it.
pub(super) fn text(rows: &[Row], plots: &[(&'static str, String)]) -> String {
    let mut text = HEAD.to_owned();
    let short = rows.iter().filter(|row| row.outcome == Outcome::Short).count();
    let _ = writeln!(text, "\n{} figures, of which {short} are short of their goal.", rows.len());
    let setups = setups(rows);
    for chapter in CHAPTERS {
        let of_chapter: Vec<&Row> = of(chapter, rows).collect();
        if of_chapter.is_empty() {
            continue;
        }
        let plot = plots.iter().find(|(name, _)| *name == chapter.name);
        section(&mut text, chapter, &of_chapter, plot.map(|(_, file)| file.as_str()), &setups);
    }
    let _ = writeln!(text, "\n## Machines and versions\n\n| | machine | versions |\n|---|---|---|");
    for ((machine, versions), letter) in setups.iter().zip('A'..) {
        let _ = writeln!(text, "| {letter} | {} | {} |", cell(machine), cell(versions));
    }
    text
}

/// The rows of a chapter.
pub(super) fn of<'rows>(
    chapter: &'static Chapter,
    rows: &'rows [Row],
) -> impl Iterator<Item = &'rows Row> {
    let has = |row: &Row| chapter.groups.iter().any(|it| it.names.contains(&row.name.as_str()));
    rows.iter().filter(move |row| has(row))
}

type Setups<'rows> = Vec<(&'rows str, &'rows str)>;

/// Each machine with its versions once.
fn setups(rows: &[Row]) -> Setups<'_> {
    let mut setups = Setups::new();
    for row in rows {
        let setup = (row.machine.as_str(), row.versions.as_str());
        if !setups.contains(&setup) {
            setups.push(setup);
        }
    }
    setups
}

fn section(
    text: &mut String,
    chapter: &Chapter,
    rows: &[&Row],
    plot: Option<&str>,
    setups: &Setups<'_>,
) {
    let Chapter { title, about, .. } = chapter;
    let _ = writeln!(text, "\n## {title}\n\n{about}\n");
    if let Some(plot) = plot {
        let _ = writeln!(text, "![{title}: ours and raw](./{plot})\n");
    }
    text.push_str("| figure | ours | raw | ratio | goal | | rounds | measured |\n");
    text.push_str("|---|---|---|---|---|---|---|---|\n");
    for row in rows {
        let setup = (row.machine.as_str(), row.versions.as_str());
        let letter = ('A'..).zip(setups).find(|(_, it)| **it == setup).map_or('?', |(it, _)| it);
        line(text, row, letter);
    }
    text.push('\n');
    for row in rows.iter().filter(|row| !row.note.is_empty()) {
        let _ = writeln!(text, "- `{}`: {}.", row.name, row.note);
    }
}

fn line(text: &mut String, row: &Row, letter: char) {
    let none = || "-".to_owned();
    let with_unit = |spread: Spread| cell(&format!("{} {}", spread_text(spread), row.unit));
    let times = if row.ratio_is == Ratio::SpeedUp { " times faster" } else { "" };
    let ratio = row.ratio().map_or_else(none, |ratio| {
        let Spread { median, least, most } = ratio;
        let range = if is_one(ratio) { String::new() } else { format!(" ({least:.3}-{most:.3})") };
        format!("{median:.3}{range}{times}")
    });
    let outcome = match row.outcome {
        _ if row.goal.is_empty() && row.outcome == Outcome::Ok => "-",
        Outcome::Ok => "OK",
        Outcome::Short => "**SHORT**",
    };
    let goal = if row.goal.is_empty() { "-" } else { &row.goal };
    let (ours, raw) = (with_unit(row.ours()), row.raw().map_or_else(none, with_unit));
    let Row { name, rounds, measured, .. } = row;
    let _ = writeln!(
        text,
        "| `{name}` | {ours} | {raw} | {ratio} | {goal} | {outcome} | {rounds} | {measured} {letter} |"
    );
}

fn spread_text(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    let range = || format!(" ({}-{})", number(least), number(most));
    number(median) + &if is_one(spread) { String::new() } else { range() }
}

fn is_one(Spread { least, most, .. }: Spread) -> bool {
    most <= least
}

/// What may stand in a cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn a_page_has_every_row_its_goal_and_the_machine_once() {
        let other = Row { machine: "Another box".to_owned(), ..row("redis_publish_512", 5.0) };
        let rows = [other, row("replica_get", 30.0), row("replica_pinned_get", 20.0)];
        let page = text(&rows, &[("read", "figures-read.svg".to_owned())]);
        for part in [
            "3 figures, of which 0 are short",
            "## Publishing",
            "| `replica_get` | 30.0 ns | 60.0 ns | 0.500 | ratio at most 0.6 | OK | 1 | 2",
            "![Reading: ours and raw](./figures-read.svg)",
            "- `replica_get`: a, \"b\" | c.",
            "| A | Another box |",
            "| B | A box | rustc 1.90.0 |",
        ] {
            assert!(page.contains(part), "{part} is missing in\n{page}");
        }
        assert!(!page.contains("| C |") && !page.contains("## After losses"), "{page}");
    }

    #[test]
    fn a_spread_is_shown_where_there_is_one() {
        let spread = Spread { median: 2.5, least: 2.0, most: 1234.4 };
        assert_eq!(spread_text(spread), "2.50 (2.00-1234)");
        assert_eq!(spread_text(Spread::at(2.5)), "2.50");
    }
}
