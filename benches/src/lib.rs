//! Every figure that hydratecache promises, measured beside the raw client in the same run.
//!
//! A figure is measured in rounds: ours, raw, ours, raw, … Its ratio is the median of the ratios of
//! the paired rounds, so that whatever slows the machine down for a while slows both down alike.
//! Figures of time are measured by the `bench` program; allocations and bytes by
//! `bench-allocations`, whose allocator counts and is slower for it. `bench` runs both.

pub mod envelope;
pub mod figures;
pub mod in_process;
pub mod options;
pub mod raw;
pub mod record;
pub mod report;
pub mod rounds;
pub mod server;
pub mod values;
