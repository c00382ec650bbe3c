//! Counts allocations and bytes. Prints one figure a line, as JSON, for `bench`.
//!
//! Everything runs on one thread, because the allocator counts by thread. Bytes are those asked
//! for; the allocator's own rounding comes on top, for everyone.

mod entries;
mod messages;
mod topics;

use anyhow::Result;

fn main() -> Result<()> {
    let figures = [
        messages::per_message()?,
        messages::per_envelope()?,
        entries::overhead()?,
        topics::overhead()?,
    ];
    for figure in figures {
        println!("{}", serde_json::to_string(&figure)?);
    }
    Ok(())
}
