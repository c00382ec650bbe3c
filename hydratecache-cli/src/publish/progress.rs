//! A progress bar and a rate, on a terminal, once it takes long.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// What is over sooner needs no bar.
const LONG: Duration = Duration::from_secs(1);

/// How far publishing is.
pub(super) struct Progress {
    /// Of the input, in bytes; none where it is not known.
    size_bytes: Option<u64>,
    read_bytes: u64,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Progress {
    /// Nothing is shown before it takes long.
    pub(super) fn new(size_bytes: Option<u64>) -> Self {
        Self { size_bytes, read_bytes: 0, bar: None, began: Instant::now() }
    }

    /// The input was read so far.
    pub(super) fn has_read(&mut self, end_bytes: u64) {
        self.read_bytes = end_bytes;
    }

    /// Shows how far it is.
    pub(super) fn show(&mut self, published: u64, refused: u64) {
        let elapsed = self.began.elapsed();
        if elapsed < LONG || !std::io::stderr().is_terminal() {
            return;
        }
        let bar = self.bar.get_or_insert_with(|| bar(self.size_bytes));
        bar.set_position(self.read_bytes);
        #[expect(clippy::cast_precision_loss, reason = "fewer than 2^52 are ever published")]
        let rate = published as f64 / elapsed.as_secs_f64();
        let refused = if refused > 0 { format!(", {refused} refused") } else { String::new() };
        bar.set_message(format!("{published} published, {rate:.0}/s{refused}"));
        bar.tick();
    }

    /// Prints something above the bar.
    pub(super) fn aside(&self, print: impl FnOnce()) {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    /// Takes the bar away.
    pub(super) fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn bar(size_bytes: Option<u64>) -> ProgressBar {
    let (bar, template) = match size_bytes {
        Some(size) => (ProgressBar::new(size), "[{bar:30}] {percent:>3}%, {eta} left: {msg}"),
        None => (ProgressBar::new_spinner(), "{spinner} {elapsed}: {msg}"),
    };
    let style = ProgressStyle::with_template(template).expect("the template is legal");
    bar.with_style(style.progress_chars("=> "))
}

#[cfg(test)]
mod tests {
    #[test]
    fn both_bars_have_legal_templates() {
        for size_bytes in [None, Some(7)] {
            assert_eq!(super::bar(size_bytes).length(), size_bytes);
        }
    }
}
