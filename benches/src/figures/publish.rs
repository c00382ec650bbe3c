//! How fast messages get to a broker, with nobody subscribed.

pub(super) mod kafka;
pub(super) mod nats;
pub(super) mod postgres;
pub(super) mod redis;

use std::future::ready;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use hydratecache::codec::FnCodec;
use hydratecache::{Channel, Transport};

use crate::options::Bench;
use crate::report::{Figure, Ratio};
use crate::rounds::{Plan, median, process_cpu_time, rate};
use crate::values;

const TOPIC: &str = "bench.publish";
const FLIGHTS: usize = 512;
const VALUE_BYTES: usize = 256;

/// A channel of bytes that are ready to go, so that both sides publish and neither encodes.
pub(super) fn bytes_channel(transport: impl Transport, topic: &str) -> Result<Channel<Bytes>> {
    let codec =
        FnCodec::new(|value: &Bytes| Ok(value.clone()), |payload: &Bytes| Ok(payload.clone()));
    Ok(Channel::builder_with_codec(transport, topic, codec).build()?)
}

/// Our side.
#[derive(Clone)]
struct Ours {
    channel: Channel<Bytes>,
    body: Bytes,
}

impl Ours {
    fn over(transport: impl Transport) -> Result<Self> {
        let body = Bytes::from(vec![b'x'; VALUE_BYTES]);
        Ok(Self { channel: bytes_channel(transport, TOPIC)?, body })
    }

    async fn in_flight(self, round: Duration) -> Result<f64> {
        let keys = values::keys(10_000);
        let began = Instant::now();
        let publishes = until(began, round)
            .map(|number| self.channel.publish(&keys[number % keys.len()], &self.body));
        count_answers(publishes.buffer_unordered(FLIGHTS), 1, began).await
    }

    async fn all(self, round: Duration) -> Result<f64> {
        let keys = values::keys(10_000);
        let began = Instant::now();
        let drafts = until(began, round)
            .map(|number| (keys[number % keys.len()].as_str(), self.body.clone()));
        let published = self.channel.publish_all(drafts).await?;
        Ok(rate(published, began.elapsed()))
    }

    async fn one_at_a_time(self, round: Duration) -> Result<f64> {
        let keys = values::keys(10_000);
        let began = Instant::now();
        let mut published = 0;
        while began.elapsed() < round {
            let key = &keys[usize::try_from(published)? % keys.len()];
            self.channel.publish(key, &self.body).await?;
            published += 1;
        }
        Ok(rate(published, began.elapsed()))
    }
}

/// Measures both, and says what a message costs each in CPU time of this process, which a busy
/// machine changes less than the rate.
fn compare<O, R>(
    bench: &Bench,
    name: &str,
    ours: impl Fn(Duration) -> O,
    raw: impl Fn(Duration) -> R,
    note: &str,
) -> Result<Figure>
where
    O: Future<Output = Result<f64>> + Send + 'static,
    R: Future<Output = Result<f64>> + Send + 'static,
{
    let (mut ours_costs, mut raw_costs) = (Vec::new(), Vec::new());
    let rounds = bench.plan.interleave(
        |round| costed(&mut ours_costs, || bench.run(ours(round))),
        |round| costed(&mut raw_costs, || bench.run(raw(round))),
    )?;
    let [ours, raw] = [ours_costs, raw_costs].map(|costs| median(costs.into_iter()));
    let note = format!("CPU time a message {ours:.2} us, raw {raw:.2} us; {note}");
    Ok(Figure::of_rounds(name, "msg/s", &rounds, Ratio::OursToRaw).with_note(note))
}

/// Notes the microseconds of CPU time that each message of `round` took.
fn costed(costs: &mut Vec<f64>, round: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let (began, cpu_before) = (Instant::now(), process_cpu_time());
    let rate = round()?;
    let cpu = process_cpu_time().saturating_sub(cpu_before);
    costs.push(cpu.as_secs_f64() * 1e6 / (rate * began.elapsed().as_secs_f64()));
    Ok(rate)
}

/// The fastest of several ways to publish with the raw client, found in short rounds of each.
fn best_way<W, F>(bench: &Bench, ways: &[W], publish: impl Fn(W, Duration) -> F) -> Result<W>
where
    W: Copy,
    F: Future<Output = Result<f64>> + Send + 'static,
{
    let Plan { rounds, round } = bench.plan;
    let mut rates = vec![Vec::new(); ways.len()];
    for _ in 0..rounds.min(3) {
        for (way, rates) in ways.iter().zip(&mut rates) {
            rates.push(bench.run(publish(*way, round / 2))?);
        }
    }
    let ways = ways.iter().zip(rates.into_iter().map(|rates| median(rates.into_iter())));
    let best = ways.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(way, _)| *way);
    best.context("there is no way to publish with the raw client")
}

/// 0, 1, 2, … until `round` is over.
fn until(began: Instant, round: Duration) -> impl Stream<Item = usize> + Send {
    stream::iter(0..).take_while(move |_| ready(began.elapsed() < round))
}

async fn count_answers<T, E>(
    answers: impl Stream<Item = Result<T, E>> + Send,
    messages: u64,
    began: Instant,
) -> Result<f64>
where
    anyhow::Error: From<E>,
{
    let mut answers = std::pin::pin!(answers);
    let mut published = 0;
    while let Some(answer) = answers.next().await {
        answer?;
        published += messages;
    }
    Ok(rate(published, began.elapsed()))
}
