//! In-process: from `publish_all` to a hydrated replica, on one core.

use anyhow::Result;

use crate::in_process::{Map, Pair, Rows, by_loop};
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::values::{Product, Sample, Session};

pub(super) const PRODUCTS: &[&str] = &["memory_publish_to_applied"];
pub(super) const SESSIONS: &[&str] = &["memory_publish_to_applied_80_bytes"];

pub(super) fn products(bench: &Bench) -> Result<Vec<Figure>> {
    Ok(vec![figure::<Product>(bench, PRODUCTS[0])?])
}

pub(super) fn sessions(bench: &Bench) -> Result<Vec<Figure>> {
    Ok(vec![figure::<Session>(bench, SESSIONS[0])?])
}

fn figure<T: Sample>(bench: &Bench, name: &str) -> Result<Figure> {
    let rows = Rows::<T>::new();
    let pair = Pair::<T>::connect()?;
    let map = Map::default();
    let ours = |round| Ok(pair.publish_to_applied(&rows, round)?.1);
    let raw = |round| Ok(by_loop(&map, &rows, round)?.1);
    let rounds = bench.plan.interleave(ours, raw)?;
    Ok(Figure::of_rounds(name, "msg/s", &rounds, Ratio::OursToRaw)
        .with_goal(Goal::OursAtLeast(1_000_000.0))
        .with_note(
            "a second of CPU time of the one thread of a current_thread runtime, not pinned; raw is a \
             loop of encode, decode and papaya insert",
        ))
}
