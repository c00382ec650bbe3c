//! Which copies of one message were delivered: a clear goes to every partition, and subscribers hear
//! the first copy.

use std::collections::VecDeque;

/// How many are remembered: copies come within a moment of each other, and one that is delivered
/// twice clears nothing more.
const REMEMBERED: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Copies(VecDeque<u64>);

impl Copies {
    /// Whether this is the first copy of a message.
    pub(super) fn is_first(&mut self, copy: u64) -> bool {
        if self.0.contains(&copy) {
            return false;
        }
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(copy);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_copy_counts_and_memory_is_bounded() {
        let mut copies = Copies::default();
        let seen: Vec<bool> = [1, 2, 1, 1, 2, 3].map(|copy| copies.is_first(copy)).into();
        assert_eq!(seen, [true, true, false, false, false, true]);
        (10..10_000).for_each(|copy| assert!(copies.is_first(copy)));
        assert_eq!(copies.0.len(), REMEMBERED);
    }
}
