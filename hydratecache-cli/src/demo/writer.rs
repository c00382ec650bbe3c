//! The one writer: it writes rows at random, and publishes each write once the database has it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use hydratecache::{Channel, Key};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::city::City;
use super::database::Database;
use super::journal::Journal;
use super::report::Moment;

/// How often the writer writes: some hundreds a second, like a busy service and not like a bench.
const WRITE_INTERVAL: Duration = Duration::from_millis(1);

/// One write in so many deletes its row; a deleted row that is drawn again is inserted again.
const ONE_REMOVAL_IN: u32 = 20;

/// How long the broker may take, behind the last write, to accept what it has not accepted yet.
const ACCEPT_LIMIT: Duration = Duration::from_secs(30);

/// What the writer did.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Written {
    pub(super) puts: u64,
    pub(super) removals: u64,
    /// Attempts to publish that failed, each of which was repeated.
    pub(super) repeated: u64,
}

/// The one writer.
pub(super) struct Writer {
    database: Database,
    channel: Channel<City>,
    journal: Arc<Journal>,
    random: StdRng,
    cities: Vec<City>,
    is_deleted: Vec<bool>,
}

impl Writer {
    pub(super) fn new(
        database: Database,
        channel: Channel<City>,
        journal: Arc<Journal>,
        seed: u64,
        cities: Vec<City>,
    ) -> Self {
        let is_deleted = vec![false; cities.len()];
        let random = StdRng::seed_from_u64(seed);
        Self { database, channel, journal, random, cities, is_deleted }
    }

    /// Writes until `deadline`, and returns when the broker has every message.
    pub(super) async fn write_until(mut self, deadline: Instant) -> anyhow::Result<Written> {
        let mut written = Written::default();
        let mut publishing = JoinSet::new();
        let mut pace = interval(WRITE_INTERVAL);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Instant::now() < deadline {
            pace.tick().await;
            let change = self.write().await?;
            match change.city {
                Some(_) => written.puts += 1,
                None => written.removals += 1,
            }
            publishing.spawn(change.publish(self.channel.clone(), self.journal.clone()));
            while let Some(repeated) = publishing.try_join_next() {
                written.repeated += repeated??;
            }
        }
        let accepted = timeout(ACCEPT_LIMIT, publishing.join_all()).await;
        for repeated in accepted.context("the broker did not accept the last messages in 30 s")? {
            written.repeated += repeated?;
        }
        Ok(written)
    }

    /// Draws a row and writes, deletes or inserts it.
    async fn write(&mut self) -> anyhow::Result<Change> {
        let index = self.random.random_range(0..self.cities.len());
        let deletes = !self.is_deleted[index] && self.random.random_ratio(1, ONE_REMOVAL_IN);
        self.is_deleted[index] = deletes;
        let city = &mut self.cities[index];
        let key = city.key()?;
        let change = if deletes {
            let version = self.database.remove(key.clone()).await?;
            Change { key, version, city: None }
        } else {
            city.population += self.random.random_range(1..1000);
            let city = city.clone();
            let version = self.database.put(city.clone()).await?;
            Change { key, version, city: Some(city) }
        };
        let is_removal = change.city.is_none();
        self.journal.committed(change.key.clone(), change.version, is_removal, Moment::now());
        Ok(change)
    }
}

/// A write that the database has.
struct Change {
    key: Key,
    version: u64,
    /// None: the row was deleted.
    city: Option<City>,
}

impl Change {
    /// Publishes until the broker has it, and returns how many attempts failed. A message that
    /// the broker has twice, or behind a newer one, is harmless: its version is old.
    async fn publish(self, channel: Channel<City>, journal: Arc<Journal>) -> anyhow::Result<u64> {
        let mut repeated = 0;
        loop {
            let write = match &self.city {
                Some(city) => channel.put(&self.key, city),
                None => channel.remove(&self.key),
            };
            match write.version(self.version).await {
                Ok(_) => break,
                Err(error) if error.is_retryable() => repeated += 1,
                Err(error) => return Err(error).context("publishing a write"),
            }
            sleep(Duration::from_millis(100)).await;
        }
        journal.accepted(&self.key, self.version, Moment::now());
        Ok(repeated)
    }
}
