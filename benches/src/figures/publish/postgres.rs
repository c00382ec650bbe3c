//! Publishing over PostgreSQL.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use futures::StreamExt;
use hydratecache_postgres::PostgresTransport;
use tokio_postgres::{Client, Statement};

use super::{FLIGHTS, Ours, TOPIC, VALUE_BYTES, best_way, compare, count_answers, until};
use crate::options::Bench;
use crate::raw;
use crate::report::{Figure, Goal};

pub(in crate::figures) const NAMES: &[&str] =
    &["postgres_publish_512", "postgres_publish_512_unnest"];

/// Texts in one statement that is batched by hand.
const BATCH: usize = 256;

pub(in crate::figures) fn measure(bench: &Bench) -> Result<Vec<Figure>> {
    let url = bench.postgres()?.url().to_owned();
    let (sides, raw) = bench.run(async move {
        let ours = Ours::over(PostgresTransport::connect(&url).await?)?;
        Ok((ours, Arc::new(Raw::connect(&url).await?)))
    })?;
    let ours = |round| sides.clone().in_flight(round);
    let single = |round| raw.clone().single(round);
    let batched = |way: Batched, round| raw.clone().batched(way, round);
    let best = best_way(bench, &Batched::ALL, batched)?;
    let single_note = "raw is one prepared pg_notify a message, 512 in flight";
    let best_note = format!("raw is {best}, the best of {} ways", Batched::ALL.len());
    Ok(vec![
        compare(bench, NAMES[0], ours, single, single_note)?.with_goal(Goal::RatioAtLeast(5.0)),
        compare(bench, NAMES[1], ours, |round| batched(best, round), &best_note)?
            .with_goal(Goal::RatioAtLeast(0.85)),
    ])
}

/// How a statement that is batched by hand is sent.
#[derive(Clone, Copy)]
struct Batched {
    /// Statements under way.
    flights: usize,
}

impl Batched {
    const ALL: [Self; 3] = [Self { flights: 1 }, Self { flights: 2 }, Self { flights: 4 }];
}

impl fmt::Display for Batched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} statements of {BATCH} texts each (unnest) in flight", self.flights)
    }
}

/// tokio-postgres with what it needs prepared.
struct Raw {
    client: Client,
    one: Statement,
    many: Statement,
    /// All different: PostgreSQL delivers equal texts of a transaction once.
    texts: Vec<String>,
}

impl Raw {
    async fn connect(url: &str) -> Result<Self> {
        let client = raw::postgres::client(url, || ()).await?;
        let one = client.prepare("SELECT pg_notify($1, $2)").await?;
        let many = "SELECT count(pg_notify($1, text)) FROM unnest($2::text[]) AS text";
        let many = client.prepare(many).await?;
        let texts = (0..BATCH).map(|number| format!("{number:x>VALUE_BYTES$}")).collect();
        Ok(Self { client, one, many, texts })
    }

    async fn single(self: Arc<Self>, round: Duration) -> Result<f64> {
        let Self { client, one, texts, .. } = &*self;
        let began = Instant::now();
        let publishes = until(began, round).map(|number| {
            let text = &texts[number % texts.len()];
            async move { client.execute(one, &[&TOPIC, text]).await }
        });
        count_answers(publishes.buffer_unordered(FLIGHTS), 1, began).await
    }

    async fn batched(
        self: Arc<Self>,
        Batched { flights }: Batched,
        round: Duration,
    ) -> Result<f64> {
        let Self { client, many, texts, .. } = &*self;
        let began = Instant::now();
        let publishes = until(began, round)
            .map(|_| async move { client.execute(many, &[&TOPIC, texts]).await });
        count_answers(publishes.buffer_unordered(flights), BATCH as u64, began).await
    }
}
