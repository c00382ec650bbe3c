//! Publishing over Redis.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use fred::bytes_utils::Str;
use fred::clients::Client;
use fred::interfaces::PubsubInterface;
use fred::types::Value;
use futures::StreamExt;
use hydratecache::{Key, Message, wire};
use hydratecache_redis::RedisTransport;

use super::{Ours, TOPIC, best_way, compare, count_answers, until};
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal};
use crate::rounds::rate;

pub(in crate::figures) const IN_FLIGHT: &[&str] =
    &["redis_publish_512", "redis_publish_512_equal_bodies", "redis_publish_all"];
pub(in crate::figures) const SEQUENTIAL: &[&str] = &["redis_publish_sequential"];

fn connect(bench: &Bench) -> Result<(Ours, Client)> {
    let url = bench.redis()?.url().to_owned();
    bench.run(async move {
        let ours = Ours::over(RedisTransport::connect(&url).await?)?;
        Ok((ours, raw::redis::client(&url).await?))
    })
}

pub(in crate::figures) fn in_flight(bench: &Bench) -> Result<Vec<Figure>> {
    let (sides, client) = connect(bench)?;
    let body = &sides.body;
    let best =
        best_way(bench, &Way::ALL, |way, round| way.publish(client.clone(), body.clone(), round))?;
    let best_note = format!("raw is {best}, the best of {} ways", Way::ALL.len());
    let large = &bench.run(as_large_as_ours(sides.clone()))?;
    let ours = |round| sides.clone().in_flight(round);
    let raw = |round| best.publish(client.clone(), body.clone(), round);
    let raw_large = |round| best.publish(client.clone(), large.clone(), round);
    Ok(vec![
        compare(bench, IN_FLIGHT[0], ours, raw, &best_note)?.with_goal(Goal::RatioAtLeast(0.9)),
        compare(
            bench,
            IN_FLIGHT[1],
            ours,
            raw_large,
            &format!("raw publishes {} bytes, as our envelope has; {best_note}", large.len()),
        )?,
        compare(bench, IN_FLIGHT[2], |round| sides.clone().all(round), raw, &best_note)?,
    ])
}

pub(in crate::figures) fn sequential(bench: &Bench) -> Result<Vec<Figure>> {
    let (sides, client) = connect(bench)?;
    let ours = |round| sides.clone().one_at_a_time(round);
    let raw = |round| raw_one_at_a_time(client.clone(), sides.body.clone(), round);
    let figure = compare(bench, SEQUENTIAL[0], ours, raw, "one at a time")?;
    Ok(vec![figure.with_goal(Goal::RatioAtLeast(0.95))])
}

/// A body of the size of our envelope.
async fn as_large_as_ours(Ours { channel, body }: Ours) -> Result<Bytes> {
    let receipt = channel.publish("product:5000", &body).await?;
    let message = Message::put(Key::new("product:5000")?, body)
        .with_position(receipt.position)
        .with_version(receipt.version);
    Ok(vec![b'x'; wire::encode(&message, None).len()].into())
}

async fn raw_one_at_a_time(client: Client, body: Bytes, round: Duration) -> Result<f64> {
    let began = Instant::now();
    let mut published = 0;
    while began.elapsed() < round {
        let _heard: i64 = client.publish(Str::from_static(TOPIC), body.clone()).await?;
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

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
