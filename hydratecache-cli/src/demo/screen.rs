//! What the demo prints: a table that redraws itself on a terminal, plain lines elsewhere.

use std::fmt;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Stdout, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::report::{Kind, State};
use crate::output::{self, Reader};

/// What is shown of one replica.
pub(super) struct Shown {
    pub(super) kind: Kind,
    pub(super) state: State,
    /// The proven bound, in microseconds.
    pub(super) proven: Option<u64>,
    pub(super) rows: usize,
    pub(super) stale: usize,
    pub(super) gaps: u64,
    pub(super) missed: u64,
    pub(super) reloads: u64,
    /// Microseconds from commit to visible.
    pub(super) p50: u64,
    pub(super) p99: u64,
}

/// Where the demo prints.
pub(super) struct Screen {
    stdout: Stdout,
    is_terminal: bool,
    began: Instant,
    /// How many lines of the table stand above the cursor.
    drawn: usize,
    table: String,
}

const HEADER: &str =
    "  time replica    state   proven rows stale gaps missed reloads     p50     p99";

impl Screen {
    pub(super) fn new() -> Self {
        let stdout = io::stdout();
        let is_terminal = stdout.is_terminal();
        Self { stdout, is_terminal, began: Instant::now(), drawn: 0, table: String::new() }
    }

    /// A line that stays.
    pub(super) fn say(&mut self, line: &str) -> anyhow::Result<()> {
        is_read(self.try_to_say(line))
    }

    fn try_to_say(&mut self, line: &str) -> io::Result<()> {
        self.erase()?;
        writeln!(self.stdout, "{line}")?;
        self.draw_table()
    }

    /// A line that stays, with the time.
    pub(super) fn event(&mut self, what: &str) -> anyhow::Result<()> {
        let line = format!("{} {what}", self.time());
        self.say(&line)
    }

    /// The state of the replicas. On a terminal it takes the place of the one before.
    pub(super) fn show(&mut self, replicas: &[Shown]) -> anyhow::Result<()> {
        is_read(self.try_to_show(replicas))
    }

    fn try_to_show(&mut self, replicas: &[Shown]) -> io::Result<()> {
        self.erase()?;
        let is_first = self.table.is_empty();
        self.table.clear();
        if self.is_terminal || is_first {
            self.table.push_str(HEADER);
            self.table.push('\n');
        }
        let time = self.time();
        for replica in replicas {
            // Writing to a string cannot fail.
            let _ = writeln!(self.table, "{time} {}", line(replica));
        }
        if self.is_terminal {
            return self.draw_table();
        }
        self.stdout.write_all(self.table.as_bytes())
    }

    /// How long ago the screen was made, as far as people care.
    fn time(&self) -> String {
        format!("{:4.1} s", self.began.elapsed().as_secs_f64())
    }

    fn erase(&mut self) -> io::Result<()> {
        if self.drawn > 0 {
            // Up to the table's first line, and erase from there on.
            write!(self.stdout, "\x1b[{}A\x1b[J", self.drawn)?;
            self.drawn = 0;
        }
        Ok(())
    }

    fn draw_table(&mut self) -> io::Result<()> {
        if self.is_terminal {
            self.stdout.write_all(self.table.as_bytes())?;
            self.drawn = self.table.lines().count();
        }
        self.stdout.flush()
    }
}

fn line(replica: &Shown) -> String {
    let Shown { kind, state, proven, rows, stale, gaps, missed, reloads, p50, p99 } = replica;
    format!(
        "{:<10} {:<7} {:>6} {rows:>4} {stale:>5} {gaps:>4} {missed:>6} {reloads:>7} {:>7} {:>7}",
        kind.name(),
        state.name(),
        proven.map_or("-".to_owned(), seconds),
        duration(*p50),
        duration(*p99)
    )
}

/// Microseconds, as far as they matter where a replica is behind. Rounded up, as they are a bound.
fn seconds(micros: u64) -> String {
    match micros.div_ceil(100_000) {
        tenths @ ..1000 => format!("{}.{} s", tenths / 10, tenths % 10),
        tenths => format!("{} s", tenths.div_ceil(10)),
    }
}

/// Nothing if it was written; that nobody reads it any more ends the demo.
fn is_read(written: io::Result<()>) -> anyhow::Result<()> {
    match output::written(written)? {
        Reader::Reads => Ok(()),
        Reader::Gone => Err(NobodyReads.into()),
    }
}

/// The output was closed.
#[derive(Debug)]
pub(super) struct NobodyReads;

impl fmt::Display for NobodyReads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nobody reads the output")
    }
}

impl std::error::Error for NobodyReads {}

/// Microseconds, as people read them.
fn duration(micros: u64) -> String {
    let duration = Duration::from_micros(micros);
    match micros {
        0 => "-".to_owned(),
        1..1000 => format!("{micros} µs"),
        1000..100_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        100_000..1_000_000 => format!("{:.0} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.2} s", duration.as_secs_f64()),
    }
}

/// Microseconds, to three digits, up to ten minutes.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, 600_000_000, 3)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_fits_below_the_header_and_into_a_terminal() {
        let shown = Shown {
            kind: Kind::Invalidate,
            state: State::Suspect,
            proven: Some(123_400_000),
            rows: 5000,
            stale: 12345,
            gaps: 1,
            missed: 123_456,
            reloads: 12,
            p50: 999_999,
            p99: 1_234_567,
        };
        let line = format!(" 0.0 s {}", line(&shown));
        assert_eq!(line.chars().count(), HEADER.chars().count());
        assert!(HEADER.len() < 80, "a line that wraps cannot be redrawn");
    }

    #[test]
    fn durations_are_short() {
        let bounds = [0, 249_999, 99_900_000, 123_400_000].map(seconds);
        assert_eq!(bounds, ["0.0 s", "0.3 s", "99.9 s", "124 s"]);
        let shown = [0, 7, 999, 1000, 12_345, 999_999, 1_500_000].map(duration);
        assert_eq!(shown, ["-", "7 µs", "999 µs", "1.0 ms", "12.3 ms", "1000 ms", "1.50 s"]);
    }
}
