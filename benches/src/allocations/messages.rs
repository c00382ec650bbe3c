//! Allocations on the way of one message.

use std::hint::black_box;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use anyhow::Result;
use hydratecache::wire;
use hydratecache_bench::envelope::{self, BySerde};
use hydratecache_bench::in_process::{Map, Pair, Rows, by_loop};
use hydratecache_bench::report::{Figure, Goal};
use hydratecache_bench::values::Product;

const ROUND: Duration = Duration::from_millis(200);

/// In-process, from `publish_all` to a hydrated replica that holds the key already.
pub(super) fn per_message() -> Result<Figure> {
    let rows = Rows::<Product>::new();
    let pair = Pair::connect()?;
    let map = Map::default();
    pair.publish_to_applied(&rows, ROUND)?;
    by_loop(&map, &rows, ROUND)?;
    let (ours, published) = counted(|| Ok(pair.publish_to_applied(&rows, ROUND)?.0))?;
    let (raw, applied) = counted(|| Ok(by_loop(&map, &rows, ROUND)?.0))?;
    let figure = Figure::of_values(
        "memory_allocations_per_message",
        "allocations",
        ratio(ours.count_total, published),
        Some(ratio(raw.count_total, applied)),
    );
    Ok(figure.with_note(format!(
        "ours asks for {:.0} bytes a message, raw for {:.0}; the value itself takes 7 (4 texts, 3 \
         tags in a list) once decoded; raw is a loop of encode, decode and papaya insert",
        ratio(ours.bytes_total, published),
        ratio(raw.bytes_total, applied),
    )))
}

/// Reading one envelope.
pub(super) fn per_envelope() -> Result<Figure> {
    let bytes = envelope::typical()?;
    let ours = measure(|| drop(black_box(wire::decode(&bytes))));
    let raw = measure(|| drop(black_box(BySerde::decode(&bytes))));
    let figure = Figure::of_values(
        "envelope_decode_allocations",
        "allocations",
        ratio(ours.count_total, 1),
        Some(ratio(raw.count_total, 1)),
    );
    Ok(figure.with_goal(Goal::OursAtMost(1.0)).with_note(format!(
        "ours: {} bytes, the key; raw: {} bytes",
        ours.bytes_total, raw.bytes_total
    )))
}

fn counted(work: impl FnOnce() -> Result<u64>) -> Result<(AllocationInfo, u64)> {
    let mut count = Ok(0);
    let info = measure(|| count = work());
    Ok((info, count?))
}

#[allow(clippy::cast_precision_loss, reason = "no bench counts to 2^53")]
fn ratio(total: u64, count: u64) -> f64 {
    total as f64 / count as f64
}
