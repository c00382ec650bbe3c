//! Plots: some figures side by side, a bar for each peer with the spread of its rounds.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use super::Record;
use crate::figure::{Figure, Spread, number};

/// Each file, what it shows, and its figures.
pub(super) const PLOTS: [(&str, &str, &[Figure]); 4] = [
    (
        "peers-propagation.svg",
        "From a write until another instance shows it",
        &[Figure::PropagationP50, Figure::PropagationP99],
    ),
    (
        "peers-cost.svg",
        "What a write and a read cost",
        &[Figure::WriteP50, Figure::WriteCpu, Figure::Hit],
    ),
    (
        "peers-wire.svg",
        "Bytes on the wire for a write",
        &[
            Figure::WireRowsElsewhere,
            Figure::WireRowsInRedis,
            Figure::WireRowsElsewhere16,
            Figure::WireRowsInRedis16,
        ],
    ),
    (
        "peers-kill.svg",
        "Wrong entries after the broker was killed amid writes",
        &[Figure::Stale, Figure::StaleAcknowledged],
    ),
];

// Colours that those tell apart who see some badly; ours is the first.
const COLOURS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

const WIDTH: u32 = 960;
const BAR_HEIGHT: u32 = 26;
/// What a panel has around its bars.
const PANEL_HEIGHT: u32 = 70;
const TITLE_HEIGHT: u32 = 24;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn<T> = Result<T, Box<dyn std::error::Error>>;

/// Writes all plots into `folder`.
pub(super) fn write(record: &Record, folder: &Path) -> Result<()> {
    for (file, _, figures) in PLOTS {
        let svg = drawn(record, figures).map_err(|error| anyhow!("plotting {file}: {error}"))?;
        fs::write(folder.join(file), svg).with_context(|| format!("writing {file}"))?;
    }
    Ok(())
}

fn drawn(record: &Record, figures: &[Figure]) -> Drawn<String> {
    let bars = u32::try_from(record.peers.len())?;
    let panel = PANEL_HEIGHT + bars * BAR_HEIGHT;
    let mut svg = String::new();
    {
        let size = (WIDTH, panel * u32::try_from(figures.len())?);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        for (area, figure) in root.split_evenly((figures.len(), 1)).iter().zip(figures) {
            draw(area, record, *figure)?;
        }
        root.present()?;
    }
    Ok(svg)
}

fn draw(area: &Area<'_>, record: &Record, figure: Figure) -> Drawn<()> {
    let (title, area) = area.split_vertically(TITLE_HEIGHT);
    title.draw(&Text::new(figure.title(), (200, 8), ("sans-serif", 15)))?;
    let spreads: Vec<Option<Spread>> =
        record.peers.iter().map(|peer| peer.spread(figure)).collect();
    let most = spreads.iter().flatten().fold(1.0_f64, |most, spread| most.max(spread.most));
    // Each peer has two steps, so that its label is in the middle of its bar. The first is the upmost.
    let end = 2 * i32::try_from(spreads.len())?;
    let mut chart = ChartBuilder::on(&area)
        .margin_right(24)
        .x_label_area_size(40)
        .y_label_area_size(200)
        // Room for the number beside the longest bar.
        .build_cartesian_2d(0.0..most * 1.15, 0..end)?;
    let label = |y: &i32| {
        let peer = usize::try_from((end - y) / 2).ok().filter(|_| y % 2 == 1);
        let peer = peer.and_then(|number| record.peers.get(number));
        peer.map_or(String::new(), |peer| peer.about.name.to_owned())
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(6)
        .y_labels(usize::try_from(end)? + 1)
        .y_label_formatter(&label)
        .x_label_formatter(&|value| number(*value))
        .x_desc(figure.unit())
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .draw()?;
    for ((spread, colour), bar) in spreads.iter().zip(COLOURS.iter().cycle()).zip(1..) {
        let Some(Spread { median, least, most }) = *spread else { continue };
        let bottom = end - 2 * bar;
        let mut shape = Rectangle::new([(0.0, bottom), (median, bottom + 2)], colour.filled());
        shape.set_margin(4, 4, 0, 0);
        chart.draw_series([shape])?;
        let whisker = [(least, bottom + 1), (most, bottom + 1)];
        chart.draw_series([PathElement::new(whisker, BLACK.stroke_width(1))])?;
        let beside = EmptyElement::at((most, bottom + 1));
        chart.draw_series([beside + Text::new(number(median), (6, -6), ("sans-serif", 13))])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::record;
    use super::*;

    #[test]
    fn a_plot_names_every_peer_and_its_value() {
        let svg = drawn(&record(), &[Figure::Hit, Figure::Stale]).expect("it is drawn");
        for part in ["ours", "theirs", "read of what is there", "120", "entries"] {
            assert!(svg.contains(part), "{part}: {svg}");
        }
    }
}
