//! How fast an envelope is read.

use std::hint::black_box;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use hydratecache::wire;

use crate::envelope::{self, BySerde};
use crate::options::Bench;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::nanoseconds;

pub(super) const NAMES: &[&str] = &["envelope_decode"];

const PASS: usize = 1000;

/// A way of reading, and what it is called.
type Rival = (fn(&Bytes, Duration) -> f64, &'static str);

const RIVALS: [Rival; 2] = [(by_serde, "a serde struct"), (as_tree, "ciborium::Value")];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let bytes = envelope::typical()?;
    let short = bench.plan.round / 4;
    let timed = RIVALS.map(|(rival, name)| (rival(&bytes, short), rival, name));
    let [one, other] = timed;
    let (_, rival, name) = if one.0 <= other.0 { one } else { other };
    let rounds =
        bench.plan.interleave(|round| Ok(ours(&bytes, round)), |round| Ok(rival(&bytes, round)))?;
    let payload = match wire::decode(&bytes) {
        Ok(envelope) => envelope.message.payload().clone(),
        Err(rejection) => bail!("our own envelope is refused: {}", rejection.reason()),
    };
    let figure = Figure::of_rounds(NAMES[0], "ns", &rounds, Ratio::SpeedUp)
        .with_goal(Goal::RatioAtLeast(5.0))
        .requiring(bytes.as_ptr_range().contains(&payload.as_ptr()), "the payload is shared")
        .with_note(format!("raw is ciborium into {name}, the faster of two ways"));
    Ok(vec![figure])
}

fn ours(bytes: &Bytes, round: Duration) -> f64 {
    time(round, || drop(black_box(wire::decode(black_box(bytes)))))
}

fn by_serde(bytes: &Bytes, round: Duration) -> f64 {
    time(round, || drop(black_box(BySerde::decode(black_box(bytes)))))
}

fn as_tree(bytes: &Bytes, round: Duration) -> f64 {
    time(round, || drop(black_box(envelope::decode_tree(black_box(bytes)))))
}

fn time(round: Duration, decode: impl Fn()) -> f64 {
    nanoseconds(round, PASS, || (0..PASS).for_each(|_| decode()))
}
