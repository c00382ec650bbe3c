//! Finds a byte string in a stream that arrives in pieces.

use std::sync::Arc;

/// The search of Knuth, Morris and Pratt ("Fast pattern matching in strings", 1977): it keeps how much of the
/// needle the stream ends with, so that nothing has to be held back between two pieces.
#[derive(Debug)]
pub(super) struct Search {
    needle: Arc<[u8]>,
    /// For each length of a matched part, the length of the longest shorter part it ends with.
    fallback: Vec<usize>,
    matched: usize,
}

impl Search {
    pub(super) fn new(needle: &Arc<[u8]>) -> Self {
        let mut search =
            Self { fallback: vec![0; needle.len() + 1], needle: Arc::clone(needle), matched: 0 };
        for (index, &byte) in needle.iter().enumerate().skip(1) {
            search.advance(byte);
            search.fallback[index + 1] = search.matched;
        }
        search.matched = 0;
        search
    }

    /// Looks at the next piece and returns where in it the needle's last byte ends, if it is complete there.
    ///
    /// It finds one occurrence: after that it must not be asked again.
    pub(super) fn find(&mut self, piece: &[u8]) -> Option<usize> {
        if self.needle.is_empty() {
            return Some(0);
        }
        piece.iter().enumerate().find_map(|(index, &byte)| {
            self.advance(byte);
            (self.matched == self.needle.len()).then_some(index + 1)
        })
    }

    fn advance(&mut self, byte: u8) {
        while self.matched > 0 && self.needle[self.matched] != byte {
            self.matched = self.fallback[self.matched];
        }
        if self.needle[self.matched] == byte {
            self.matched += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every stream of up to `length` letters `a` and `b`.
    fn words(length: u32) -> impl Iterator<Item = Vec<u8>> {
        (0..=length).flat_map(|length| {
            (0..1_u32 << length)
                .map(move |bits| (0..length).map(|i| b"ab"[(bits >> i & 1) as usize]).collect())
        })
    }

    fn first_end(stream: &[u8], needle: &[u8]) -> Option<usize> {
        (needle.len()..=stream.len()).find(|&end| stream[..end].ends_with(needle))
    }

    #[test]
    fn every_needle_is_found_where_it_first_ends_however_the_stream_is_split() {
        for needle in words(4) {
            for stream in words(7) {
                for split in 0..=stream.len() {
                    let mut search = Search::new(&needle.as_slice().into());
                    let (head, tail) = stream.split_at(split);
                    let found =
                        search.find(head).or_else(|| search.find(tail).map(|end| split + end));
                    assert_eq!(found, first_end(&stream, &needle), "{needle:?} in {stream:?}");
                }
            }
        }
    }
}
