//! How fast messages get to Redis.

use std::future::ready;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::Client;
use fred::interfaces::PubsubInterface;
use fred::types::Value;
use futures::{Stream, StreamExt, stream};
use hydratecache::codec::FnCodec;
use hydratecache::{Channel, Key, Message, wire};
use hydratecache_redis::RedisTransport;

use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal, Ratio};
use crate::rounds::{Plan, median, process_cpu_time, rate};
use crate::values;

pub(super) const IN_FLIGHT: &[&str] =
    &["redis_publish_512", "redis_publish_512_equal_bodies", "redis_publish_all"];
pub(super) const SEQUENTIAL: &[&str] = &["redis_publish_sequential"];

const TOPIC: &str = "bench.publish";
const FLIGHTS: usize = 512;
const VALUE_BYTES: usize = 256;

/// A channel of bytes that are ready to go, so that both sides publish and neither encodes.
pub(super) fn bytes_channel(transport: RedisTransport, topic: &str) -> Result<Channel<Bytes>> {
    let codec =
        FnCodec::new(|value: &Bytes| Ok(value.clone()), |payload: &Bytes| Ok(payload.clone()));
    Ok(Channel::builder_with_codec(transport, topic, codec).build()?)
}

/// Ours and raw, with nobody subscribed.
#[derive(Clone)]
struct Sides {
    channel: Channel<Bytes>,
    client: Client,
    body: Bytes,
    /// As large as our envelope of the body.
    large_body: Bytes,
}

impl Sides {
    fn connect(bench: &Bench) -> Result<Self> {
        let url = bench.server()?.url().to_owned();
        bench.run(async move {
            let body = Bytes::from(vec![b'x'; VALUE_BYTES]);
            let channel = bytes_channel(RedisTransport::connect(&url).await?, TOPIC)?;
            let large_body = vec![b'x'; envelope_bytes(&channel, body.clone()).await?].into();
            Ok(Self { channel, client: raw::client(&url).await?, body, large_body })
        })
    }
}

async fn envelope_bytes(channel: &Channel<Bytes>, body: Bytes) -> Result<usize> {
    let receipt = channel.publish("product:5000", &body).await?;
    let message = Message::put(Key::new("product:5000")?, body)
        .with_position(receipt.position)
        .with_version(receipt.version);
    Ok(wire::encode(&message, None).len())
}

pub(super) fn in_flight(bench: &Bench) -> Result<Vec<Figure>> {
    let sides = Sides::connect(bench)?;
    let best = best_way(bench, &sides)?;
    let best_note = format!("raw is {best}, the best of {} ways", Way::ALL.len());
    let ours = |round| ours_in_flight(sides.clone(), round);
    let raw = |round| best.publish(sides.client.clone(), sides.body.clone(), round);
    let large = &sides.large_body;
    let raw_large = |round| best.publish(sides.client.clone(), large.clone(), round);
    Ok(vec![
        compare(bench, IN_FLIGHT[0], ours, raw, &best_note)?.with_goal(Goal::RatioAtLeast(0.9)),
        compare(
            bench,
            IN_FLIGHT[1],
            ours,
            raw_large,
            &format!("raw publishes {} bytes, as our envelope has; {best_note}", large.len()),
        )?,
        compare(bench, IN_FLIGHT[2], |round| ours_all(sides.clone(), round), raw, &best_note)?,
    ])
}

pub(super) fn sequential(bench: &Bench) -> Result<Vec<Figure>> {
    let sides = Sides::connect(bench)?;
    let ours = |round| ours_sequential(sides.clone(), round);
    let raw = |round| raw_sequential(sides.clone(), round);
    let figure = compare(bench, SEQUENTIAL[0], ours, raw, "one at a time")?;
    Ok(vec![figure.with_goal(Goal::RatioAtLeast(0.95))])
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

async fn ours_in_flight(sides: Sides, round: Duration) -> Result<f64> {
    let keys = values::keys(10_000);
    let began = Instant::now();
    let publishes = until(began, round)
        .map(|number| sides.channel.publish(&keys[number % keys.len()], &sides.body));
    count_answers(publishes.buffer_unordered(FLIGHTS), 1, began).await
}

async fn ours_all(sides: Sides, round: Duration) -> Result<f64> {
    let keys = values::keys(10_000);
    let began = Instant::now();
    let drafts =
        until(began, round).map(|number| (keys[number % keys.len()].as_str(), sides.body.clone()));
    let published = sides.channel.publish_all(drafts).await?;
    Ok(rate(published, began.elapsed()))
}

async fn ours_sequential(sides: Sides, round: Duration) -> Result<f64> {
    let keys = values::keys(10_000);
    let began = Instant::now();
    let mut published = 0;
    while began.elapsed() < round {
        let key = &keys[usize::try_from(published)? % keys.len()];
        sides.channel.publish(key, &sides.body).await?;
        published += 1;
    }
    Ok(rate(published, began.elapsed()))
}

async fn raw_sequential(sides: Sides, round: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut published = 0;
    while began.elapsed() < round {
        let _heard: i64 = sides.client.publish(Str::from_static(TOPIC), sides.body.clone()).await?;
        published += 1;
    }
    Ok(rate(published, began.elapsed()))
}

/// A way to publish much with fred.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Messages in one pipeline; one goes without.
    messages: usize,
    /// Pipelines under way.
    flights: usize,
}

impl Way {
    const ALL: [Self; 7] = [
        Self { messages: 1, flights: 512 },
        Self { messages: 128, flights: 4 },
        Self { messages: 256, flights: 2 },
        Self { messages: 512, flights: 1 },
        Self { messages: 128, flights: 8 },
        Self { messages: 256, flights: 4 },
        Self { messages: 512, flights: 2 },
    ];

    async fn publish(self, client: Client, body: Bytes, round: Duration) -> Result<f64> {
        let began = Instant::now();
        if self.messages == 1 {
            let publishes = until(began, round)
                .map(|_| client.publish::<i64, _, _>(Str::from_static(TOPIC), body.clone()));
            return count_answers(publishes.buffer_unordered(self.flights), 1, began).await;
        }
        let publishes = until(began, round).map(|_| pipeline(&client, &body, self.messages));
        count_answers(publishes.buffer_unordered(self.flights), self.messages as u64, began).await
    }
}

impl std::fmt::Display for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.messages {
            1 => write!(f, "{} publishes in flight", self.flights),
            messages => write!(f, "{} pipelines of {messages} in flight", self.flights),
        }
    }
}

async fn pipeline(client: &Client, body: &Bytes, messages: usize) -> Result<()> {
    let pipeline = client.pipeline();
    for _ in 0..messages {
        pipeline.publish::<(), _, _>(Str::from_static(TOPIC), body.clone()).await?;
    }
    let _heard: Value = pipeline.all().await?;
    Ok(())
}

/// The fastest way, found in short rounds of each.
fn best_way(bench: &Bench, sides: &Sides) -> Result<Way> {
    let Plan { rounds, round } = bench.plan;
    let mut rates = vec![Vec::new(); Way::ALL.len()];
    for _ in 0..rounds.min(3) {
        for (way, rates) in Way::ALL.iter().zip(&mut rates) {
            let publish = way.publish(sides.client.clone(), sides.body.clone(), round / 2);
            rates.push(bench.run(publish)?);
        }
    }
    let ways = Way::ALL.iter().zip(rates.into_iter().map(|rates| median(rates.into_iter())));
    let best = ways.max_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(way, _)| *way);
    Ok(best.unwrap_or(Way::ALL[0]))
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
