//! Standard output, which its reader may close.

use std::io::{self, Write};

/// Whether anybody reads what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    Reads,
    /// Who did has enough, as `head` has.
    Gone,
}

/// Writes all of it.
///
/// # Errors
/// Why it cannot be written, unless that is because nobody reads it.
pub(crate) fn write(bytes: &[u8]) -> anyhow::Result<Reader> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// What became of a write to standard output.
pub(crate) fn written(result: io::Result<()>) -> anyhow::Result<Reader> {
    match result {
        Ok(()) => Ok(Reader::Reads),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) => Err(anyhow::Error::from(error).context("writing to the output")),
    }
}
