//! Lines of files and of standard input, each of bounded length.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

/// The longest line, in bytes: more than any transport carries by default, little enough that a file
/// without line breaks is an error and not a full memory.
const MAX_LINE_BYTES: u64 = 16 << 20;

/// Where lines come from.
pub(crate) struct Input {
    reader: Box<dyn Read + Send>,
    size_bytes: Option<u64>,
}

impl Input {
    /// Opens a file; `-` is standard input.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        if path.as_os_str() == "-" {
            return Ok(Self { reader: Box::new(std::io::stdin()), size_bytes: None });
        }
        let open = || {
            let file = File::open(path)?;
            let metadata = file.metadata()?;
            if metadata.is_dir() {
                return Err(std::io::Error::other("it is a folder"));
            }
            Ok((file, metadata.is_file().then_some(metadata.len())))
        };
        let (file, size_bytes) =
            open().map_err(|why| format!("the file {} cannot be read: {why}", path.display()))?;
        Ok(Self { reader: Box::new(file), size_bytes })
    }

    /// How much there is, if that is known.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        self.size_bytes
    }

    /// Its lines.
    pub(crate) fn lines(self) -> Lines<impl BufRead> {
        Lines::new(BufReader::with_capacity(64 << 10, self.reader))
    }
}

/// The lines of a reader.
pub(crate) struct Lines<R> {
    reader: R,
    line: u64,
    end_bytes: u64,
    is_over: bool,
}

/// A line that is not empty.
pub(crate) struct Line<'a> {
    /// Counted from 1, empty ones too.
    pub(crate) number: u64,
    /// How much was read with it.
    pub(crate) end_bytes: u64,
    /// Its text, or why it has none; after an error that is not of the line there are no more.
    pub(crate) text: Result<&'a str, String>,
}

impl<R: BufRead> Lines<R> {
    pub(crate) fn new(reader: R) -> Self {
        Self { reader, line: 0, end_bytes: 0, is_over: false }
    }

    /// The next line that is not empty, read into `buffer`.
    pub(crate) fn next<'a>(&mut self, buffer: &'a mut Vec<u8>) -> Option<Line<'a>> {
        let read = loop {
            match self.read(buffer)? {
                Ok(()) if buffer.trim_ascii().is_empty() => {}
                read => break read,
            }
        };
        let text = read.and_then(|()| {
            std::str::from_utf8(buffer).map_err(|_| "it is not UTF-8 text".to_owned())
        });
        Some(Line { number: self.line, end_bytes: self.end_bytes, text })
    }

    fn read(&mut self, text: &mut Vec<u8>) -> Option<Result<(), String>> {
        if self.is_over {
            return None;
        }
        text.clear();
        self.line += 1;
        match (&mut self.reader).take(MAX_LINE_BYTES).read_until(b'\n', text) {
            Ok(0) => None,
            Ok(length) => {
                self.end_bytes += length as u64;
                if length as u64 == MAX_LINE_BYTES && text.last() != Some(&b'\n') {
                    self.is_over = true;
                    return Some(Err(
                        "it has more than 16 MiB; nothing behind it was read".to_owned()
                    ));
                }
                Some(Ok(()))
            }
            Err(why) => {
                self.is_over = true;
                Some(Err(format!("reading failed: {why}; nothing from here on was read")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endless_line_is_an_error_and_fills_no_memory() {
        let mut lines = Lines::new(BufReader::new(std::io::repeat(b'x')));
        let mut buffer = Vec::new();
        let line = lines.next(&mut buffer).expect("an error");
        let error = line.text.expect_err("too long");
        assert!(error.contains("16 MiB"), "{error}");
        assert!(lines.next(&mut buffer).is_none());
    }
}
