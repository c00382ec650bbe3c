//! Plots: of each chapter, ours and raw with their spread, and where the goal lies.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::{Outcome, Row, page};
use crate::figures::CHAPTERS;
use crate::report::number;
use crate::rounds::Spread;

// Colours that those tell apart who see some badly. The ground is white, also on a dark page.
const OURS: RGBColor = RGBColor(0, 114, 178);
const RAW: RGBColor = RGBColor(213, 94, 0);
const REACHED: RGBColor = RGBColor(0, 120, 80);
const MISSED: RGBColor = RGBColor(190, 0, 60);

const WIDTH: u32 = 960;
const HEAD_HEIGHT: u32 = 34;
/// Of one row, and of what a panel has around its rows.
const ROW_HEIGHT: u32 = 44;
const PANEL_HEIGHT: u32 = 76;
/// Rows on the vertical axis are so far from one another.
const STEP: i32 = 4;

/// Writes the plots into `folder`, and returns for which chapter each is.
pub(super) fn write(folder: &Path, rows: &[Row]) -> Result<Vec<(&'static str, String)>> {
    let mut plots = Vec::new();
    for chapter in CHAPTERS {
        let of_chapter: Vec<&Row> = page::of(chapter, rows).collect();
        if of_chapter.is_empty() {
            continue;
        }
        let name = format!("figures-{}.svg", chapter.name);
        let svg = drawn(&of_chapter).map_err(|error| anyhow!("plotting {name}: {error}"))?;
        std::fs::write(folder.join(&name), svg).with_context(|| format!("writing {name}"))?;
        plots.push((chapter.name, name));
    }
    Ok(plots)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

fn drawn(rows: &[&Row]) -> Result<String, Box<dyn std::error::Error>> {
    let panels = panels(rows);
    let height =
        |panel: &Vec<&Row>| panel.iter().fold(PANEL_HEIGHT, |height, _| height + ROW_HEIGHT);
    let mut svg = String::new();
    {
        let size = (WIDTH, HEAD_HEIGHT + panels.iter().map(height).sum::<u32>());
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        let (head, mut rest) = root.split_vertically(HEAD_HEIGHT);
        legend(&head)?;
        for panel in &panels {
            let (area, below) = rest.split_vertically(height(panel));
            draw(&area, panel)?;
            rest = below;
        }
        root.present()?;
    }
    Ok(svg)
}

/// A panel for each unit, because an axis has one.
fn panels<'rows>(rows: &[&'rows Row]) -> Vec<Vec<&'rows Row>> {
    let mut panels: Vec<Vec<&Row>> = Vec::new();
    for row in rows {
        match panels.iter_mut().find(|panel| panel[0].unit == row.unit) {
            Some(panel) => panel.push(row),
            None => panels.push(vec![row]),
        }
    }
    panels
}

fn legend(head: &Area<'_>) -> Drawn {
    let entries = [
        ("ours", OURS),
        ("raw", RAW),
        ("goal for ours, reached", REACHED),
        ("goal for ours, missed", MISSED),
    ];
    let mut x = 250;
    for (text, colour) in entries {
        head.draw(&Rectangle::new([(x, 13), (x + 11, 24)], colour.filled()))?;
        head.draw(&Text::new(text, (x + 17, 12), ("sans-serif", 14)))?;
        x += 40 + 8 * i32::try_from(text.len())?;
    }
    Ok(())
}

fn draw(area: &Area<'_>, rows: &[&Row]) -> Drawn {
    let values = || rows.iter().flat_map(|row| shown(row));
    let most = values().fold(f64::MIN_POSITIVE, f64::max);
    let least = values().fold(f64::INFINITY, f64::min);
    // Room for the number beside the last point.
    if least > 0.0 {
        on_axis(area, rows, (least / 1.6..most * 2.5).log_scale())
    } else {
        on_axis(area, rows, 0.0..most.max(1.0) * 1.2)
    }
}

/// All that must be on the axis.
fn shown(row: &Row) -> impl Iterator<Item = f64> {
    let spreads = [Some(row.ours()), row.raw()].into_iter().flatten();
    let spreads = spreads.flat_map(|Spread { least, most, .. }| [least, most]);
    spreads.chain(row.goal_for_ours)
}

fn on_axis<X>(area: &Area<'_>, rows: &[&Row], axis: X) -> Drawn
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let end = STEP * i32::try_from(rows.len())?;
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(24)
        .x_label_area_size(48)
        .y_label_area_size(250)
        .build_cartesian_2d(axis, 0..end)?;
    // The first row is the upmost.
    let row_at = |y: i32| rows.get(usize::try_from((end - y) / STEP).ok()?).copied();
    let label = |y: &i32| {
        let is_middle = y % STEP == STEP / 2;
        row_at(*y).filter(|_| is_middle).map_or(String::new(), |row| row.name.clone())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(5)
        .y_labels(usize::try_from(end)? + 1)
        .y_label_formatter(&label)
        .x_label_formatter(&|value| number(*value))
        .x_desc(&rows[0].unit)
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .draw()?;
    for (row, number_of_row) in rows.iter().zip(1..) {
        let bottom = end - STEP * number_of_row;
        if let Some(goal) = row.goal_for_ours {
            let colour = if row.outcome == Outcome::Ok { REACHED } else { MISSED };
            let mark = [(goal, bottom + 2), (goal, bottom + STEP)];
            chart.draw_series([PathElement::new(mark, colour.stroke_width(3))])?;
            // Which side of it is the good one.
            let (arrow, x) = if row.goal.contains("at least") { (">", 3) } else { ("<", -9) };
            let style = ("sans-serif", 13).into_font().color(&colour);
            chart.draw_series([
                EmptyElement::at((goal, bottom + STEP)) + Text::new(arrow, (x, 1), style)
            ])?;
        }
        let sides = [(Some(row.ours()), 3, OURS), (row.raw(), 1, RAW)];
        for (spread, y, colour) in sides {
            let Some(Spread { median, least, most }) = spread else { continue };
            let y = bottom + y;
            let whisker = [(least, y), (most, y)];
            chart.draw_series([PathElement::new(whisker, colour.stroke_width(2))])?;
            chart.draw_series([Circle::new((median, y), 4, colour.filled())])?;
            let style = ("sans-serif", 12).into_font().color(&colour);
            chart.draw_series([
                EmptyElement::at((most, y)) + Text::new(number(median), (9, -7), style)
            ])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::row;
    use super::*;

    #[test]
    fn a_plot_names_every_figure_and_its_unit() {
        let alone =
            Row { unit: "keys".to_owned(), ours_median: 0.0, ..row("stale_after_cut", 0.0) };
        let rows = [row("replica_get", 30.0), row("replica_pinned_get", 20.0), alone];
        let svg = drawn(&rows.iter().collect::<Vec<_>>()).expect("it is drawn");
        for part in ["replica_get", "replica_pinned_get", "stale_after_cut", "keys", "60.0"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
