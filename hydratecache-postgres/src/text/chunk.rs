//! Texts that are longer than a notification, in pieces: `~id.index.count.piece`.
//!
//! All pieces of a text are published in one transaction, so they arrive together, in order, and
//! with nothing else of their channel between them; or not at all.

use hydratecache::wire::{Rejection, RejectionReason};

use super::LONGEST;

const MARK: char = '~';

/// What stands before a piece: the mark, 16 digits of the id, two numbers and three dots.
const LONGEST_HEADER: usize = 1 + 16 + 1 + 10 + 1 + 10 + 1;

/// What the server may add to the last piece: a dot and the number of the transaction.
const LONGEST_ENDING: usize = 1 + 20;

/// Whether `text` is a piece of another one.
pub(crate) fn is_piece(text: &str) -> bool {
    text.starts_with(MARK)
}

/// `text`, which is ASCII, in pieces that a notification carries. `id` tells it from the others of
/// its time.
pub(crate) fn pieces(text: &str, id: u64) -> Vec<String> {
    let pieces: Vec<&[u8]> =
        text.as_bytes().chunks(LONGEST - LONGEST_HEADER - LONGEST_ENDING).collect();
    let count = pieces.len();
    let piece = |(index, piece): (usize, &&[u8])| {
        let piece = std::str::from_utf8(piece).expect("pieces of ASCII are ASCII");
        format!("{MARK}{id:x}.{index}.{count}.{piece}")
    };
    pieces.iter().enumerate().map(piece).collect()
}

/// The text that is being put together on one channel.
#[derive(Debug, Default)]
pub(crate) struct Assembly {
    pieces: Option<Pieces>,
    /// The text that was rejected: what follows of it is no news.
    rejected: Option<u64>,
}

#[derive(Debug)]
struct Pieces {
    id: u64,
    count: usize,
    next: usize,
    text: String,
}

struct Piece<'a> {
    id: u64,
    index: usize,
    count: usize,
    text: &'a str,
}

impl Assembly {
    /// Takes a piece. `Some`: the whole text, which has at most `limit` bytes, or what is wrong.
    pub(crate) fn take(&mut self, text: &str, limit: usize) -> Option<Result<String, Rejection>> {
        let Some(piece) = parse(text) else {
            self.pieces = None;
            return Some(Err(Rejection::new(RejectionReason::InvalidField("chunk"))));
        };
        if piece.index > 0 && self.rejected == Some(piece.id) {
            return None;
        }
        if piece.index == 0 {
            let cut_off = self.interrupt();
            let Piece { id, count, .. } = piece;
            self.pieces = Some(Pieces { id, count, next: 0, text: String::new() });
            self.rejected = None;
            let taken = self.go_on(&piece, limit);
            return taken.or(cut_off.map(Err));
        }
        match &self.pieces {
            Some(pieces) if pieces.is_next(&piece) => self.go_on(&piece, limit),
            _ => Some(self.reject(piece.id, RejectionReason::Truncated)),
        }
    }

    /// Something else arrived on the channel. `Some`: the text it interrupted will not come.
    pub(crate) fn interrupt(&mut self) -> Option<Rejection> {
        let cut_off = self.pieces.take()?;
        self.reject(cut_off.id, RejectionReason::Truncated).err()
    }

    fn go_on(&mut self, piece: &Piece<'_>, limit: usize) -> Option<Result<String, Rejection>> {
        let pieces = self.pieces.as_mut()?;
        let bytes = pieces.text.len() + piece.text.len();
        if bytes > limit {
            return Some(self.reject(piece.id, RejectionReason::TooLarge { bytes, limit }));
        }
        pieces.text.push_str(piece.text);
        pieces.next += 1;
        if pieces.next < pieces.count {
            return None;
        }
        self.pieces.take().map(|pieces| Ok(pieces.text))
    }

    fn reject(&mut self, id: u64, reason: RejectionReason) -> Result<String, Rejection> {
        self.pieces = None;
        self.rejected = Some(id);
        Err(Rejection::new(reason))
    }
}

impl Pieces {
    fn is_next(&self, piece: &Piece<'_>) -> bool {
        (self.id, self.next, self.count) == (piece.id, piece.index, piece.count)
    }
}

fn parse(text: &str) -> Option<Piece<'_>> {
    let mut parts = text.strip_prefix(MARK)?.splitn(4, '.');
    let id = u64::from_str_radix(parts.next()?, 16).ok()?;
    let index = parts.next()?.parse().ok()?;
    let count = parts.next()?.parse().ok()?;
    let text = parts.next()?;
    (index < count && count > 1 && !text.is_empty()).then_some(Piece { id, index, count, text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 100_000;

    fn assemble(assembly: &mut Assembly, pieces: &[String]) -> Vec<Result<String, String>> {
        let outcome = pieces.iter().filter_map(|piece| assembly.take(piece, LIMIT));
        outcome.map(|outcome| outcome.map_err(|why| why.reason().to_string())).collect()
    }

    #[test]
    fn a_text_too_long_is_rejected_before_it_is_held() {
        let mut assembly = Assembly::default();
        let outcome = assemble(&mut assembly, &pieces(&"x".repeat(LIMIT + 1), 5));
        assert_eq!(outcome.len(), 1, "one text, one rejection");
        assert!(outcome[0].as_ref().is_err_and(|why| why.contains("accepts 100000")));
        assert!(assembly.pieces.is_none());
    }

    #[test]
    fn a_piece_without_its_beginning_and_a_text_without_its_end_are_rejected() {
        let mut assembly = Assembly::default();
        let text = "y".repeat(20_000);
        let all = pieces(&text, 5);
        assert_eq!(assemble(&mut assembly, &all[1..]).len(), 1, "one text, one rejection");
        assert_eq!(assemble(&mut assembly, &all[..2]).len(), 0);
        assert!(assembly.interrupt().is_some() && assembly.interrupt().is_none());
        assert_eq!(assemble(&mut assembly, &all[..2]).len(), 0);
        let mut outcome = assemble(&mut assembly, &all);
        assert!(outcome.pop() == Some(Ok(text)), "whole");
        assert!(outcome.pop().is_some_and(|cut_off| cut_off.is_err()));
        for broken in ["~", "~x.0.2.a", "~1.2.2.a", "~1.0.2.", "~1.0.1.a", "~1.0.a"] {
            assert!(assemble(&mut assembly, &[broken.to_owned()])[0].is_err(), "{broken}");
        }
    }

    proptest! {
        #[test]
        fn pieces_fit_into_notifications_and_come_together(bytes in LONGEST + 1..LIMIT, id: u64) {
            let text: String = (0..bytes).map(|index| char::from(b"envelope"[index % 8])).collect();
            let pieces = pieces(&text, id);
            prop_assert!(pieces.iter().all(|piece| piece.len() <= LONGEST));
            prop_assert!(assemble(&mut Assembly::default(), &pieces) == vec![Ok(text)]);
        }
    }
}
