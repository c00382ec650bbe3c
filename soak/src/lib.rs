//! Kills and flaps at random for a stated time, and an oracle that no loss gets past in silence.
//!
//! Writers publish to one topic, each over a connection of its own, and note what was acknowledged.
//! Readers note every signal in the order in which it came. Meanwhile links are cut, reset and
//! frozen, and the broker is killed, all at times that a seed decides. At the end everything is
//! healed, every reader waits for a fence, and the [oracle](hydratecache_sim::silence) compares.

pub mod arena;
pub mod door;
pub mod faults;
pub mod herd;
pub mod options;
mod reader;
pub mod run;
mod writer;
