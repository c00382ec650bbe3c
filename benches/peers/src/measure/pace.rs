//! Writes at a fixed rate, from a thread that does nothing else: what each costs there, and how soon
//! readers show it.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use futures::future::join_all;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{sleep, sleep_until};

use super::Values;
use super::hits::CpuTime;
use crate::database::{key, value};
use crate::figure::Figure;
use crate::fleet::{Fleet, LIMIT, shown};
use crate::peer::{Peer, Place};

/// 500 a second.
const TICK: Duration = Duration::from_millis(2);
/// What goes on in the background after the last write belongs to it.
const AFTERWARDS: Duration = Duration::from_millis(200);

/// So many writes, and whether their rows are in the database before.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    writes: usize,
    edition: usize,
    has_rows: bool,
}

impl Pace {
    pub(super) const PROPAGATION: Self = Self { writes: 1_000, edition: 100, has_rows: true };
    /// Without rows, which nobody reads then: what writing them takes is no cost of a cache.
    pub(super) const COST: Self = Self { writes: 1_000, edition: 101, has_rows: false };
}

/// A row that was written at that time.
type Written = (usize, Instant);

/// What the writes took: each call, and the thread's CPU time.
struct Taken {
    calls: Vec<Duration>,
    cpu: Duration,
}

/// From the call of a write until a reader shows the value.
pub(super) async fn propagation<P: Peer>(fleet: &Fleet<P>, pace: Pace) -> Result<Values> {
    fleet.warm().await?;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        fleet.readers.iter().map(|_| unbounded_channel()).unzip();
    let writing = tokio::task::spawn_blocking(writer::<P>(fleet, pace, senders));
    let readers = fleet.readers.clone();
    // One task, so that at most one processor is busy with looking.
    let looking = tokio::spawn(async move {
        let look = readers.iter().zip(receivers);
        join_all(look.map(|(reader, written)| look_for(reader, written, pace.edition))).await
    });
    writing.await??;
    let times = sorted(looking.await?.into_iter().flatten());
    let micros = |part| percentile(&times, part).as_secs_f64() * 1e6;
    Ok(vec![(Figure::PropagationP50, micros(0.5)), (Figure::PropagationP99, micros(0.99))])
}

/// What a write takes of the writer, while readers hear of it.
pub(super) async fn cost<P: Peer>(fleet: &Fleet<P>, pace: Pace) -> Result<Values> {
    let Taken { calls, cpu } =
        tokio::task::spawn_blocking(writer::<P>(fleet, pace, Vec::new())).await??;
    let writes = f64::from(u32::try_from(pace.writes)?);
    let call = percentile(&sorted(calls.into_iter()), 0.5);
    Ok(vec![
        (Figure::WriteP50, call.as_secs_f64() * 1e6),
        (Figure::WriteCpu, cpu.as_secs_f64() * 1e6 / writes),
    ])
}

/// An instance that writes, with all its tasks on one thread.
fn writer<P: Peer>(
    fleet: &Fleet<P>,
    pace: Pace,
    written: Vec<UnboundedSender<Written>>,
) -> impl FnOnce() -> Result<Taken> + Send + 'static {
    let instance = fleet.place();
    move || {
        let writing = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(write_all::<P>(&instance, pace, &written))
        });
        writing.join().map_err(|_| anyhow!("the writer panicked"))?
    }
}

async fn write_all<P: Peer>(
    instance: &Place,
    pace: Pace,
    written: &[UnboundedSender<Written>],
) -> Result<Taken> {
    let writer = P::writer(instance).await?;
    sleep(AFTERWARDS).await;
    let cpu = CpuTime::now();
    let mut calls = Vec::with_capacity(pace.writes);
    let mut tick = tokio::time::Instant::now();
    for number in 0..pace.writes {
        tick += TICK;
        sleep_until(tick).await;
        let (key, value) = (key(number), value(number, pace.edition));
        if pace.has_rows {
            instance.database.write(&key, &value).await?;
        }
        let called = Instant::now();
        written.iter().try_for_each(|written| written.send((number, called)))?;
        // One that fails has taken its time, too, and readers will not show it.
        let _ = writer.write(&key, &value).await;
        calls.push(called.elapsed());
    }
    sleep(AFTERWARDS).await;
    Ok(Taken { calls, cpu: cpu.elapsed() })
}

/// How long each write took to this reader; if it never came, as long as was waited.
async fn look_for<P: Peer>(
    reader: &P,
    mut written: UnboundedReceiver<Written>,
    edition: usize,
) -> Vec<Duration> {
    let mut times = Vec::new();
    while let Some((number, called)) = written.recv().await {
        let (key, value) = (key(number), value(number, edition));
        times.push(shown(reader, &key, &value, called).await.unwrap_or(LIMIT));
    }
    times
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times
}

/// The least of `times`, which are sorted, that so much of them does not exceed.
fn percentile(times: &[Duration], part: f64) -> Duration {
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a part of a length is one"
    )]
    let index = (times.len() as f64 * part).ceil() as usize;
    times.get(index.saturating_sub(1)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(100));
        assert_eq!(percentile(&times, 0.99), Duration::from_millis(198));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
