//! What is counted.

use std::hint::black_box;

/// The name of [`counted`] among symbols, mangled or not, as callgrind takes it.
pub(crate) const SYMBOL: &str = "*instructions_are_counted_here*";

/// Calls `pass` twice; only the second time, when all that is made once is there, is counted.
pub(crate) fn counted(mut pass: impl FnMut()) {
    pass();
    instructions_are_counted_here(&mut pass);
}

/// Its symbol is the one that callgrind looks for: so nothing in it may have a symbol made of it, as a
/// closure or a generic function would.
#[inline(never)]
fn instructions_are_counted_here(pass: &mut dyn FnMut()) {
    black_box(pass)();
}
