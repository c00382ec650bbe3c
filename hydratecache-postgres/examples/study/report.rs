//! The table and the plot.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use plotters::prelude::*;

use crate::Outcome;
use crate::caches::{Asked, Kept};
use crate::load::{Distribution, Load};

/// What one run found.
pub(crate) struct Run {
    pub(crate) distribution: Distribution,
    pub(crate) writes: u64,
    pub(crate) killed: i64,
    /// In the order of [`Kept::ALL`].
    pub(crate) asked: [Asked; 3],
}

/// One line of the table.
struct Line {
    distribution: &'static str,
    kept: &'static str,
    asked: Asked,
}

impl Line {
    fn all(runs: &[Run]) -> Vec<Self> {
        let lines = runs.iter().flat_map(|run| {
            let distribution = run.distribution.name();
            let line =
                move |(kept, asked): (Kept, Asked)| Self { distribution, kept: kept.name(), asked };
            Kept::ALL.into_iter().zip(run.asked).map(line)
        });
        lines.collect()
    }

    fn loads_percent(&self) -> f64 {
        percent(self.asked.loads, self.asked.reads)
    }

    fn stale_percent(&self) -> f64 {
        percent(self.asked.stale, self.asked.reads)
    }
}

#[allow(clippy::cast_precision_loss, reason = "counts of some minutes are exact as f64")]
fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

pub(crate) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| accounts | cache | reads | reads that reach the database | scans | stale reads | of them not known to be suspect |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for line in Line::all(runs) {
        let Line { distribution, kept, asked } = &line;
        let _ = writeln!(
            text,
            "| {distribution} | {kept} | {} | {:.2} % | {} | {} ({:.3} %) | {} |",
            asked.reads,
            line.loads_percent(),
            asked.scans,
            asked.stale,
            line.stale_percent(),
            asked.silent,
        );
    }
    text
}

pub(crate) fn write(folder: &Path, load: &Load, runs: &[Run]) -> Outcome<()> {
    fs::write(folder.join("study.md"), page(load, runs))?;
    fs::write(folder.join("study.csv"), csv(runs))?;
    plot(&folder.join("study.svg"), runs)
}

fn page(load: &Load, runs: &[Run]) -> String {
    let Load { time, replicas, reads, writes, .. } = load;
    let mut text = format!(
        "# Three ways to keep a cache\n\n\
         `make study` writes this page. {replicas} replicas, {reads} reads a second each, of {} accounts of pgbench; \
         pgbench writes at {writes} a second, for {} s with each distribution. Every read asks all three caches at \
         the same moment. It is stale if it gives a balance that was neither the committed one before the \
         read nor that after it. In the middle all connections that replicas listen on are killed once: invalidation \
         drops everything then, hydration reads the table again.\n\n",
        load.accounts(),
        time.as_secs(),
    );
    text.push_str(&table(runs));
    text.push_str("\n![Reads that reach the database, and stale reads](study.svg)\n\n");
    for Run { distribution, writes, killed, .. } in runs {
        let name = distribution.name();
        let _ = writeln!(text, "- {name}: {writes} writes, {killed} connections killed.");
    }
    text.push_str(
        "\nA scan reads the whole table once: hydration's price, which does not grow with the reads. A stale read that \
         is not known to be suspect was made while the write was on its way, or in the moment before the killed connection was noticed; `get_within` and `wait_for` are for those \
         whom that would hurt. All of it runs on one machine, with the server and pgbench.\n",
    );
    text
}

fn csv(runs: &[Run]) -> String {
    let mut text = String::from("accounts,cache,reads,loads,scans,stale,silent\n");
    for Line { distribution, kept, asked } in Line::all(runs) {
        let Asked { reads, loads, scans, stale, silent } = asked;
        let _ =
            writeln!(text, "{distribution},\"{kept}\",{reads},{loads},{scans},{stale},{silent}");
    }
    text
}

const COLOURS: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 114, 178), RGBColor(0, 158, 115)];

/// One half of the plot: what it is called, what is measured, and how that is written above a bar.
struct Half {
    title: &'static str,
    measure: fn(&Line) -> f64,
    decimals: usize,
}

const HALVES: [Half; 2] = [
    Half { title: "Reads that reach the database (%)", measure: Line::loads_percent, decimals: 1 },
    Half { title: "Stale reads (%)", measure: Line::stale_percent, decimals: 3 },
];

fn plot(path: &Path, runs: &[Run]) -> Outcome<()> {
    let root = SVGBackend::new(path, (900, 420)).into_drawing_area();
    root.fill(&WHITE)?;
    for (area, half) in root.split_evenly((1, HALVES.len())).iter().zip(&HALVES) {
        draw(area, half, &Line::all(runs))?;
    }
    root.present()?;
    Ok(())
}

fn draw(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    half: &Half,
    lines: &[Line],
) -> Outcome<()> {
    let highest = lines.iter().map(half.measure).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    // Bars of one distribution stand together, with a gap to the next.
    let groups = lines.chunks(Kept::ALL.len());
    let width = i32::try_from(Kept::ALL.len())? + 1;
    let end = width * i32::try_from(groups.len())?;
    let mut chart = ChartBuilder::on(area)
        .caption(half.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(34)
        .y_label_area_size(52)
        .build_cartesian_2d(0..end, 0.0..highest * 1.45)?;
    let label = |x: &i32| {
        let group = lines.get(usize::try_from(x / width).unwrap_or(0) * Kept::ALL.len());
        let is_middle = x % width == width / 2;
        group.filter(|_| is_middle).map_or(String::new(), |line| line.distribution.to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_labels(usize::try_from(end)? + 1)
        .x_label_formatter(&label)
        .y_label_formatter(&|share| format!("{share:.decimals$}", decimals = half.decimals.min(2)))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (place, colour) in COLOURS.iter().enumerate() {
        let bars = lines.iter().enumerate().filter(|(index, _)| index % COLOURS.len() == place);
        let bars = bars.map(|(index, line)| {
            let left = i32::try_from(index / COLOURS.len() * (COLOURS.len() + 1) + place);
            (left.unwrap_or(i32::MAX), (half.measure)(line))
        });
        let bars: Vec<(i32, f64)> = bars.collect();
        let corners = |(left, share): &(i32, f64)| {
            Rectangle::new([(*left, 0.0), (left + 1, *share)], colour.filled())
        };
        chart
            .draw_series(bars.iter().map(corners))?
            .label(Kept::ALL[place].name())
            .legend(|(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
        chart.draw_series(bars.iter().map(|(left, share)| {
            let text = format!("{share:.decimals$}", decimals = half.decimals);
            Text::new(text, (*left, share + highest * 0.06), ("sans-serif", 12))
        }))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 12))
        .draw()?;
    Ok(())
}
